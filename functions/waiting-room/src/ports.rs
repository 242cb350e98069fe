//! The ports of the waiting room, one narrow trait per capability.

use crate::domain::{Issued, Line, NotIssued, Spent};
use contracts::admission::AdmissionPlan;
use contracts::events::Event;
use contracts::{ConcertId, PaymentId, Timestamp};
use kit::Fault;
use kit::idempotency::{Memo, Outcome, StoredAnswer};

/// Gives out positions.
pub trait IssuePosition: Send + Sync {
    /// The next position, never given out before, and the plan in force. With `opened_by`, only if the sale has opened
    /// by that time.
    fn issue(
        &self,
        concert: &ConcertId,
        opened_by: Option<Timestamp>,
    ) -> impl Future<Output = Result<Result<Issued, NotIssued>, Fault>> + Send;
}

/// Remembers answers.
pub trait RememberAnswer: Send + Sync {
    /// Keeps the first answer under the key for a day.
    fn remember(
        &self,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<StoredAnswer>, Fault>> + Send;
}

/// Reads the plan of a line.
pub trait ReadPlan: Send + Sync {
    /// The plan, at most a second old; `None` without a line. A fetch also reads whether `position` is spent, so that
    /// [`ReadUse`] right after costs nothing.
    fn plan(
        &self,
        concert: &ConcertId,
        position: u64,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<AdmissionPlan>, Fault>> + Send;
}

/// Reads whether a place is spent.
pub trait ReadUse: Send + Sync {
    /// Whether a payment has spent the place; the answer is at most a second old.
    fn is_used(
        &self,
        concert: &ConcertId,
        position: u64,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads a whole line.
pub trait ReadLine: Send + Sync {
    /// The current plan and counters; `None` without a line.
    fn line(&self, concert: &ConcertId) -> impl Future<Output = Result<Option<Line>, Fault>> + Send;
}

/// Which request changed a plan, and when, for the event.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'a> {
    pub correlation_id: &'a str,
    /// When the request arrived.
    pub now: Timestamp,
}

/// Replaces the plan of a line.
pub trait ReplacePlan: Send + Sync {
    /// Replaces the plan and records its event, unless the plan changed since the line was read or a shard has given
    /// out more than `allowance` places since. Returns whether it did.
    fn replace_plan(
        &self,
        concert: &ConcertId,
        read: &Line,
        allowance: u64,
        plan: &AdmissionPlan,
        change: &Changed<'_>,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Opens a line.
pub trait OpenLine: Send + Sync {
    /// Opens the line with the plan unless it exists. Returns the plan in force.
    fn open(
        &self,
        concert: &ConcertId,
        plan: AdmissionPlan,
    ) -> impl Future<Output = Result<AdmissionPlan, Fault>> + Send;
}

/// Sends the plan to the context that enforces it.
pub trait ApplyPlan: Send + Sync {
    /// Returns once the plan, or a later one, is enforced.
    fn apply(&self, concert: &ConcertId, plan: &AdmissionPlan) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Spends places.
pub trait SpendPlace: Send + Sync {
    /// Spends the place on the payment, unless the payment was undone.
    fn spend(
        &self,
        concert: &ConcertId,
        position: u64,
        payment: &PaymentId,
    ) -> impl Future<Output = Result<Spent, Fault>> + Send;
}

/// Undoes spending.
pub trait RestorePlace: Send + Sync {
    /// Undoes the payment's spending of the place and ensures that the payment never spends it, however late it tries.
    /// Returns whether that had been done before.
    fn restore(
        &self,
        concert: &ConcertId,
        position: u64,
        payment: &PaymentId,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Publishes what happened in the line.
pub trait Publish: Send + Sync {
    /// Publishes all events, or fails and is retried.
    fn publish(&self, events: &[Event]) -> impl Future<Output = Result<(), Fault>> + Send;
}
