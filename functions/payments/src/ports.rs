//! What payments needs from other components, one narrow trait per capability.

pub mod charges;
pub mod withdrawals;

use crate::domain::{Execution, Payment, Status};
use contracts::saga::{PaymentFailure, PaymentSaga, RefundSaga};
use contracts::steps::{ExtendHold, HoldExtension, Quote, QuoteRefund, QuoteReservation, RefundQuote};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, Recalled};
use kit::sweep::{Cursor, Part};

/// Quotes the price of a reservation.
pub trait QuoteClient: Send + Sync {
    /// The quote.
    fn quote(&self, ask: &QuoteReservation) -> impl Future<Output = Result<Quote, Fault>> + Send;
}

/// Extends holds.
pub trait HoldClient: Send + Sync {
    /// Has a user's hold extended, once.
    fn extend(&self, ask: &ExtendHold) -> impl Future<Output = Result<HoldExtension, Fault>> + Send;
}

/// Quotes whether a reservation can be refunded.
pub trait RefundQuoteClient: Send + Sync {
    /// The quote.
    fn quote_refund(&self, ask: &QuoteRefund) -> impl Future<Output = Result<RefundQuote, Fault>> + Send;
}

/// Reads the remembered answers of requests.
pub trait RecallAnswer: Send + Sync {
    /// The remembered answer to the key.
    fn recall(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<Recalled>, Fault>> + Send;
}

/// Another payment of the same reservation is undecided. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnderWay(pub PaymentId);

/// Records new payments.
pub trait OpenPayment: Send + Sync {
    /// Payment, its claim on the reservation and remembered answer, all or nothing.
    fn open(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Result<Outcome<Recalled>, UnderWay>, Fault>> + Send;
}

/// Records requests for refunds.
pub trait OpenRefund: Send + Sync {
    /// completed -> refunding, and the remembered answer, both or neither. `None` when the payment is not completed any
    /// more and no answer to the key is remembered.
    fn open_refund(
        &self,
        payment: &Payment,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Outcome<Recalled>>, Fault>> + Send;
}

/// Lists payments.
pub trait ListPayments: Send + Sync {
    /// A page of the user's payments, newest first, and the cursor behind the last if there are more.
    fn list(
        &self,
        user: &UserId,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<Payment>, Option<String>), Fault>> + Send;
}

/// Reads one payment of a user.
pub trait FindPayment: Send + Sync {
    /// The payment, if this user has it.
    fn find(&self, user: &UserId, id: &PaymentId) -> impl Future<Output = Result<Option<Payment>, Fault>> + Send;
}

/// Starts sagas with an input.
pub trait StartSaga<I>: Send + Sync {
    /// Starts an execution under a name. If it was started before, that is success.
    fn start(&self, name: &str, saga: &I) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Starts sagas that may have been started before.
pub trait EnsureSaga<I>: Send + Sync {
    /// Starts an execution under a name unless there was one, and says how it is now.
    fn ensure(&self, name: &str, saga: &I) -> impl Future<Output = Result<Execution, Fault>> + Send;
}

/// Completes or fails payments.
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
    /// refunding -> completed, with its event. The status found when this refund was not in progress.
    fn cancel_refund(
        &self,
        saga: &RefundSaga,
        reason: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Status>, Fault>> + Send;
}

/// Finds payments whose saga does not end.
pub trait FindStuck: Send + Sync {
    /// A page of those of one of [`PENDING_SHARDS`](crate::domain::PENDING_SHARDS) due for a check at `now`, those that
    /// waited longest first.
    fn stuck(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<Payment>, Fault>> + Send;
    /// Sets the time of the next check, so that those after it are checked too, and pages the on-call where that is
    /// due. `before` is the payment as it was found, `after` has the recovery counted, if there is one. `false` when
    /// another run counted one, or the saga has ended.
    fn looked_at(
        &self,
        before: &Payment,
        after: &Payment,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}
