//! What notifications need from outside, one narrow trait per capability.

use crate::domain::{Alert, Claim, Delivery, Lease, Outcome, Phone, Push, Receipt, Sale};
use contracts::events::Event;
use contracts::{EventId, PaymentId, Timestamp, UserId};
use kit::Fault;

/// Sees to it that a delivery has one effect.
pub trait GuardDelivery: Send + Sync {
    /// Asks to carry a delivery out. Of many who ask at once, one may; after [`crate::domain::LEASE_MILLIS`] without an
    /// end, somebody else may.
    fn claim(&self, delivery: &Delivery, now: Timestamp) -> impl Future<Output = Result<Claim, Fault>> + Send;

    /// Writes down that it is done, for 30 days, and says what its outcome has to report, both or neither.
    fn finish(
        &self,
        delivery: &Delivery,
        outcome: &Outcome,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Gives a claim back, so that the next try need not wait. Does nothing once the claim is not the owner's any more.
    fn release(&self, delivery: &Delivery, lease: &Lease) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Tells the data platform.
pub trait DeliverEvents: Send + Sync {
    /// Delivers events in one request. Refused, none of them was taken.
    fn deliver(&self, events: &[&Event], now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Tells the partner.
pub trait NotifyPartner: Send + Sync {
    /// Delivers one event; its id is the idempotency key.
    fn notify(&self, event: &Event, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Asks the users' directory.
pub trait FindPhone: Send + Sync {
    /// A user's mobile number; nothing for a user who has none, or whom the directory does not know.
    fn find_phone(&self, user: &UserId, correlation: &str)
    -> impl Future<Output = Result<Option<Phone>, Fault>> + Send;
}

/// Tells users.
pub trait SendPush: Send + Sync {
    /// Sends a message once under its key. Answers with the provider's name for it, if it gave one.
    fn push(
        &self,
        push: &Push,
        to: &Phone,
        key: &EventId,
        correlation: &str,
    ) -> impl Future<Output = Result<Option<String>, Fault>> + Send;
}

/// Has cash receipts issued.
pub trait IssueReceipt: Send + Sync {
    /// Issues a receipt once under its key. Answers with the provider's key of it.
    fn issue(
        &self,
        sale: &Sale,
        to: &Phone,
        key: &EventId,
        correlation: &str,
    ) -> impl Future<Output = Result<String, Fault>> + Send;
}

/// Has cash receipts cancelled.
pub trait CancelReceipt: Send + Sync {
    /// Cancels a receipt once under its key.
    fn cancel(&self, receipt: &str, key: &EventId, correlation: &str)
    -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Remembers cash receipts.
pub trait KeepReceipts: Send + Sync {
    /// Writes down that a receipt is about to be issued; nothing if the payment was refunded before that ever was.
    fn begin_receipt(&self, payment: &PaymentId) -> impl Future<Output = Result<Option<Receipt>, Fault>> + Send;

    /// Writes down a receipt's key.
    fn keep_key(&self, payment: &PaymentId, key: &str) -> impl Future<Output = Result<Receipt, Fault>> + Send;

    /// Writes down that the payment was refunded. From then on no receipt is begun.
    fn keep_refund(&self, payment: &PaymentId, by: &EventId) -> impl Future<Output = Result<Receipt, Fault>> + Send;

    /// Writes down that the receipt is cancelled.
    fn keep_cancelled(&self, payment: &PaymentId) -> impl Future<Output = Result<Receipt, Fault>> + Send;
}

/// Remembers alerts.
pub trait KeepAlerts: Send + Sync {
    /// A fault's alert, as it is now.
    fn find_alert(&self, fault: &str) -> impl Future<Output = Result<Option<Alert>, Fault>> + Send;

    /// Replaces the alert it was made from. Answers whether it did: not if that has changed meanwhile.
    fn replace_alert(&self, alert: &Alert) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// The pages administrators read.
pub trait KeepPages: Send + Sync {
    /// Makes an open page. Answers with its id.
    fn create_page(&self, alert: &Alert) -> impl Future<Output = Result<String, Fault>> + Send;

    /// An open page of a fault, if there is one.
    fn find_page(&self, fault: &str) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Closes a page, with how many signs there were in the end. One that is not there any more is closed.
    fn close_page(&self, page: &str, count: Option<u64>) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Looks at queues.
pub trait LookAtQueue: Send + Sync {
    /// How many messages a queue holds, by its URL. One that is not there holds none.
    fn waiting(&self, queue: &str) -> impl Future<Output = Result<u64, Fault>> + Send;
}
