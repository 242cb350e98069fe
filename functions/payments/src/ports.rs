//! What payments needs from outside, one narrow trait per capability.

use crate::domain::{Execution, Payment, Status};
use contracts::saga::{PaymentFailure, PaymentSaga};
use contracts::steps::{Quote, QuoteReservation};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, StoredAnswer};

/// Asks what a reservation costs.
pub trait AskQuote: Send + Sync {
    /// The quote.
    fn quote(&self, ask: &QuoteReservation) -> impl Future<Output = Result<Quote, Fault>> + Send;
}

/// What writing a new payment came to.
#[derive(Debug)]
pub enum Opened {
    /// It is recorded.
    Now,
    /// The key had been used for the same request, which was answered so.
    Before(StoredAnswer),
    /// The key had been used for another request.
    KeyReused,
}

/// Records new payments.
pub trait OpenPayment: Send + Sync {
    /// Payment and remembered answer, both or neither.
    fn open(
        &self,
        payment: &Payment,
        key: &IdempotencyKey,
        answer: &StoredAnswer,
        now: Timestamp,
    ) -> impl Future<Output = Result<Opened, Fault>> + Send;

    /// What the key remembers: `None` when nothing.
    fn recall(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Opened>, Fault>> + Send;
}

/// Reads one payment of a user.
pub trait FindPayment: Send + Sync {
    /// The payment, if this user has it.
    fn find(&self, user: &UserId, id: &PaymentId) -> impl Future<Output = Result<Option<Payment>, Fault>> + Send;
}

/// Starts sagas.
pub trait StartSaga: Send + Sync {
    /// Starts an execution under a name. One that was started before is success.
    fn start(&self, name: &str, saga: &PaymentSaga) -> impl Future<Output = Result<(), Fault>> + Send;
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

/// Finds payments that do not come to an end.
pub trait FindStuck: Send + Sync {
    /// Some of those due for a look at `now`, oldest first.
    fn stuck(&self, now: Timestamp) -> impl Future<Output = Result<Vec<Payment>, Fault>> + Send;
    /// Counts a recovery and sets when the next may come. `false` when somebody else did, or it has ended.
    fn count_recovery(&self, payment: &Payment, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;
}
