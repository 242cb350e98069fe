//! What points needs from outside, one narrow trait per capability.

use crate::domain::{Entry, Job, Movement, Order, Posted, Refusal};
use contracts::choreography::ParticipantState;
use contracts::steps::{ChargePaid, PayCharge};
use contracts::{OrderId, Timestamp, UserId, Won};
use kit::Fault;
use kit::http::Page;

/// Moves points.
pub trait PostEntry: Send + Sync {
    /// Makes a movement exactly once under its key: entry and balance together, in one write.
    fn post(
        &self,
        user: &UserId,
        movement: &Movement,
    ) -> impl Future<Output = Result<Result<Posted, Refusal>, Fault>> + Send;
}

/// Closes the door to a charge.
pub trait CloseCharge: Send + Sync {
    /// Sees to it that a charge that was refused will never be made, however late it is asked for again. The entry where
    /// it had been made after all.
    fn close_charge(
        &self,
        user: &UserId,
        movement: &Movement,
    ) -> impl Future<Output = Result<Option<Entry>, Fault>> + Send;
}

/// Asks to have a charge paid for.
pub trait AskPayment: Send + Sync {
    /// What became of it. The same charge again gives the same answer.
    fn pay_charge(&self, ask: &PayCharge) -> impl Future<Output = Result<ChargePaid, Fault>> + Send;
}

/// Takes a use back.
pub trait ReturnUse: Send + Sync {
    /// Gives back what was used under `movement.reference`, exactly once. Where nothing was used, sees to it that
    /// nothing will be, however late the use arrives. Answers whether there was nothing (more) to return.
    fn return_use(&self, user: &UserId, movement: &Movement) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives back what was used for sure, however long ago, exactly once. Answers whether it had been given back.
    fn return_completed(&self, user: &UserId, movement: &Movement) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// What came of using an order's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// It was taken from the balance.
    Now,
    /// The balance is below it. Nothing was written.
    TooLow,
    /// Something else was done for the order meanwhile. Nothing was written.
    Crossed,
}

/// Does and undoes what orders want of an account. Each write is one transaction with its answer in the outbox, guarded
/// by the order's work: `false` (or [`Used::Crossed`]) and nothing written, if that is not as it was read any more.
pub trait SettleOrder: Send + Sync {
    /// What was done for an order so far.
    fn job(&self, order: &OrderId) -> impl Future<Output = Result<Job, Fault>> + Send;

    /// Uses the price of an order that nothing was done for.
    fn use_price(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<Used, Fault>> + Send;

    /// Writes down that an order is refused that nothing was done for.
    fn refuse(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives back what `job` used for an order, and sees to it that nothing will be used for it, however late it is asked
    /// for.
    fn give_back(&self, order: &Order, job: Job, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Has the answer that belongs to an order's work published again.
    fn republish(
        &self,
        order: &OrderId,
        work: ParticipantState,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads balances.
pub trait ReadBalance: Send + Sync {
    /// The balance; zero for a user who never had points.
    fn balance(&self, user: &UserId) -> impl Future<Output = Result<Won, Fault>> + Send;
}

/// Reads the ledger.
pub trait ListEntries: Send + Sync {
    /// Entries, newest first, and the cursor behind the last if there are more.
    fn entries(
        &self,
        user: &UserId,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<Entry>, Option<String>), Fault>> + Send;
}
