//! What payments needs from outside, one narrow trait per capability.

pub mod charges;

use crate::domain::{Execution, Payment, Status};
use contracts::saga::{PaymentFailure, PaymentSaga, RefundSaga};
use contracts::steps::{Quote, QuoteRefund, QuoteReservation, RefundQuote};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, Recalled};

/// Asks what a reservation costs.
pub trait AskQuote: Send + Sync {
    /// The quote.
    fn quote(&self, ask: &QuoteReservation) -> impl Future<Output = Result<Quote, Fault>> + Send;
}

/// Asks whether a reservation can be refunded.
pub trait AskRefundQuote: Send + Sync {
    /// The answer.
    fn quote_refund(&self, ask: &QuoteRefund) -> impl Future<Output = Result<RefundQuote, Fault>> + Send;
}

/// What the keys of requests remember.
pub trait RecallAnswer: Send + Sync {
    /// What the key remembers.
    fn recall(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Recalled>, Fault>> + Send;
}

/// Records new payments.
pub trait OpenPayment: Send + Sync {
    /// Payment and remembered answer, both or neither.
    fn open(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Recalled>, Fault>> + Send;
}

/// Records that refunds were asked for.
pub trait OpenRefund: Send + Sync {
    /// completed -> refunding, and the remembered answer, both or neither. `None` when the payment is not completed
    /// any more and the key remembers nothing.
    fn open_refund(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Outcome<Recalled>>, Fault>> + Send;
}

/// Reads one payment of a user.
pub trait FindPayment: Send + Sync {
    /// The payment, if this user has it.
    fn find(&self, user: &UserId, id: &PaymentId) -> impl Future<Output = Result<Option<Payment>, Fault>> + Send;
}

/// Starts sagas with an input.
pub trait StartSaga<I>: Send + Sync {
    /// Starts an execution under a name. One that was started before is success.
    fn start(&self, name: &str, saga: &I) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Looks at sagas.
pub trait WatchSaga: Send + Sync {
    /// What became of an execution.
    fn execution(&self, name: &str) -> impl Future<Output = Result<Execution, Fault>> + Send;
}

/// Ends payments.
pub trait SettlePayment: Send + Sync {
    /// pending -> completed, with its event. The status found when it was not pending.
    fn complete(
        &self,
        saga: &PaymentSaga,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Status>, Fault>> + Send;
    /// pending -> failed, with its event. The status found when it was not pending.
    fn fail(
        &self,
        saga: &PaymentSaga,
        failure: PaymentFailure,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Status>, Fault>> + Send;
}

/// Ends refunds.
pub trait SettleRefund: Send + Sync {
    /// refunding -> refunded, with its event. The status found when it was not refunding.
    fn complete_refund(
        &self,
        saga: &RefundSaga,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Status>, Fault>> + Send;
    /// refunding -> completed, with its event. The status found when this refund was not on its way.
    fn cancel_refund(
        &self,
        saga: &RefundSaga,
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Status>, Fault>> + Send;
}

/// Finds payments whose saga does not come to an end.
pub trait FindStuck: Send + Sync {
    /// Some of those due for a look at `now`, those that waited longest first.
    fn stuck(&self, now: Timestamp) -> impl Future<Output = Result<Vec<Payment>, Fault>> + Send;
    /// Sets when the next look may come, so that those behind it are looked at too, and pages the on-call where that is due.
    /// `before` is the payment as it was found, `after` with the recovery counted, if it is to be. `false` when somebody
    /// else counted one, or the saga has ended.
    fn looked_at(
        &self,
        before: &Payment,
        after: &Payment,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}
