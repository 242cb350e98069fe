//! What points needs from other components, one narrow trait per capability.

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

/// Keeps a refused charge from being credited, and what cannot be taken out from being taken out.
pub trait CloseCharge: Send + Sync {
    /// Ensures that a refused movement will never be made, however late it is retried. Returns the entry if it had been
    /// made after all.
    fn close_charge(
        &self,
        user: &UserId,
        movement: &Movement,
    ) -> impl Future<Output = Result<Option<Entry>, Fault>> + Send;
}

/// The client of payments.
pub trait PayClient: Send + Sync {
    /// Has a charge paid for. The same charge again gets the same answer.
    fn pay_charge(&self, ask: &PayCharge) -> impl Future<Output = Result<ChargePaid, Fault>> + Send;
}

/// Takes a use back.
pub trait ReturnUse: Send + Sync {
    /// Gives back what was used under `movement.reference`, exactly once. Where nothing was used, ensures that nothing
    /// will be, however late the use arrives. Returns whether there was nothing (more) to return.
    fn return_use(&self, user: &UserId, movement: &Movement) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives back what is known to have been used, however long ago, exactly once. Returns whether it was given back
    /// before.
    fn return_completed(&self, user: &UserId, movement: &Movement) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// The result of using an order's price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Used {
    /// It was taken from the balance.
    Now,
    /// The balance is below it. Nothing was written.
    TooLow,
    /// Another event of the order was handled meanwhile. Nothing was written.
    Crossed,
}

/// Does and undoes what orders require of an account. Each write is one transaction with its answer in the outbox, on
/// the condition that the order's work is still as it was read: otherwise `false` (or [`Used::Crossed`]), and nothing
/// is written.
pub trait SettleOrder: Send + Sync {
    /// What was done for an order so far.
    fn job(&self, order: &OrderId) -> impl Future<Output = Result<Job, Fault>> + Send;

    /// Uses the price of an order for which nothing was done yet.
    fn use_price(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<Used, Fault>> + Send;

    /// Records the refusal of an order for which nothing was done yet.
    fn refuse(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Gives back what `job` used for an order, and ensures that nothing will be used for it, however late
    /// `order.placed` arrives.
    fn give_back(&self, order: &Order, job: Job, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Has the answer to an order, by the state of its work, published again.
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
