//! What notifications needs from other components, one narrow trait per capability.

use crate::domain::{Alert, Claim, Delivery, Lease, Outcome, Phone, Push, Receipt, Sale, SaleId};
use contracts::events::Event;
use contracts::{EventId, Timestamp, UserId};
use kit::Fault;

/// Ensures that a delivery has one effect.
pub trait GuardDelivery: Send + Sync {
    /// Requests the claim on a delivery. Of many concurrent callers one gets it; after [`crate::domain::LEASE_MILLIS`]
    /// without an end, another may.
    fn claim(&self, delivery: &Delivery, now: Timestamp) -> impl Future<Output = Result<Claim, Fault>> + Send;

    /// Records that it is done, for 30 days, and publishes the report of its outcome, both or neither.
    fn finish(
        &self,
        delivery: &Delivery,
        outcome: &Outcome,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Releases a claim, so that the next attempt need not wait. Does nothing if another lease has replaced it.
    fn release(&self, delivery: &Delivery, lease: &Lease) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Delivers events to the data platform.
pub trait DeliverEvents: Send + Sync {
    /// Delivers events in one request. If it is refused, none of them was accepted.
    fn deliver(&self, events: &[&Event], now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Notifies the partner.
pub trait NotifyPartner: Send + Sync {
    /// Delivers one event; its id is the idempotency key.
    fn notify(&self, event: &Event, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Looks users up in the directory.
pub trait FindPhone: Send + Sync {
    /// A user's mobile number; `None` for a user who has none, or who is unknown to the directory.
    fn find_phone(&self, user: &UserId, correlation: &str)
    -> impl Future<Output = Result<Option<Phone>, Fault>> + Send;
}

/// Sends messages to users.
pub trait SendPush: Send + Sync {
    /// Sends a message once under its key. Returns the provider's name for it, if there is one.
    fn push(
        &self,
        push: &Push,
        to: &Phone,
        key: &EventId,
        correlation: &str,
    ) -> impl Future<Output = Result<Option<String>, Fault>> + Send;
}

/// Issues cash receipts.
pub trait IssueReceipt: Send + Sync {
    /// Issues a receipt once under its key. Returns the provider's key of it.
    fn issue(
        &self,
        sale: &Sale,
        to: &Phone,
        key: &EventId,
        correlation: &str,
    ) -> impl Future<Output = Result<String, Fault>> + Send;
}

/// Cancels cash receipts.
pub trait CancelReceipt: Send + Sync {
    /// Cancels a receipt once under its key.
    fn cancel(&self, receipt: &str, key: &EventId, correlation: &str)
    -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Stores the state of cash receipts.
pub trait KeepReceipts: Send + Sync {
    /// Records that a receipt is about to be issued; `None` if its sale was taken back before any was.
    fn begin_receipt(&self, sale: &SaleId) -> impl Future<Output = Result<Option<Receipt>, Fault>> + Send;

    /// Records a receipt's key.
    fn keep_key(&self, sale: &SaleId, key: &str) -> impl Future<Output = Result<Receipt, Fault>> + Send;

    /// Records that the sale was taken back. From then on no new receipt is begun.
    fn keep_refund(&self, sale: &SaleId, by: &EventId) -> impl Future<Output = Result<Receipt, Fault>> + Send;

    /// Records that the receipt is cancelled.
    fn keep_cancelled(&self, sale: &SaleId) -> impl Future<Output = Result<Receipt, Fault>> + Send;
}

/// Stores alerts.
pub trait KeepAlerts: Send + Sync {
    /// A fault's alert, as it is now.
    fn find_alert(&self, fault: &str) -> impl Future<Output = Result<Option<Alert>, Fault>> + Send;

    /// Replaces the alert from which this one was made. Returns whether it did: not if that has changed meanwhile.
    fn replace_alert(&self, alert: &Alert) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// The pages that administrators read.
pub trait KeepPages: Send + Sync {
    /// Creates an open page. Returns its id.
    fn create_page(&self, alert: &Alert) -> impl Future<Output = Result<String, Fault>> + Send;

    /// An open page of a fault, if there is one.
    fn find_page(&self, fault: &str) -> impl Future<Output = Result<Option<String>, Fault>> + Send;

    /// Closes a page, with the final count of its fault. One that does not exist any more counts as closed.
    fn close_page(&self, page: &str, count: Option<u64>) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads the depth of queues.
pub trait LookAtQueue: Send + Sync {
    /// How many messages a queue holds, by its URL. One that does not exist holds none.
    fn waiting(&self, queue: &str) -> impl Future<Output = Result<u64, Fault>> + Send;
}
