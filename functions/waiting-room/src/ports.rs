//! The ports of the waiting room, one narrow trait per capability.

use crate::domain::{Counted, CounterSet, Issued, PlaceRow, Planned, Spent};
use contracts::admission::AdmissionPlan;
use contracts::events::Event;
use contracts::{ConcertId, PaymentId, Timestamp, UserId};
use kit::Fault;
use std::collections::BTreeSet;

/// Gives out places.
pub trait IssuePlace: Send + Sync {
    /// The next place, never given out before, at the next turn behind `lapsed`. `None` without a line.
    fn issue(
        &self,
        concert: &ConcertId,
        lapsed: u64,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Issued>, Fault>> + Send;
}

/// Whose a user's place is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// This request's.
    Mine,
    /// That of the request in the row.
    Taken(PlaceRow),
}

/// Keeps one place for each user and line.
pub trait ClaimPlace: Send + Sync {
    /// Whether this process has seen the user join the line.
    fn has_joined(&self, user: &UserId, concert: &ConcertId) -> bool;

    /// The user's row.
    fn find_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
    ) -> impl Future<Output = Result<Option<PlaceRow>, Fault>> + Send;

    /// Claims the user's place for a request: where there is no row, or `over` the claim that the row has.
    fn claim_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        over: Option<&PlaceRow>,
        claim: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<Claimed, Fault>> + Send;

    /// Keeps the place that was given out to the claim, as long as it has not been claimed over, for as long as its token
    /// is of use: some time after `until`, when its time inside is planned to end.
    fn keep_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        claim: &str,
        place: &Issued,
        until: Timestamp,
    ) -> impl Future<Output = Result<Claimed, Fault>> + Send;

    /// Lets the next request claim: this one was certainly given no place.
    fn release_claim(
        &self,
        user: &UserId,
        concert: &ConcertId,
        claim: &str,
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Empties the row of a place that was given up, so that the next request can claim it. Returns whether the row still
    /// had it.
    fn leave_place(
        &self,
        user: &UserId,
        concert: &ConcertId,
        row: &PlaceRow,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Marks places as given up.
pub trait GiveUpPlace: Send + Sync {
    /// Makes the status of a place `used`.
    fn give_up(&self, concert: &ConcertId, position: u64) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Ends the visit that a given-up place allowed.
pub trait EndVisit: Send + Sync {
    /// Returns once reservations accepts no token of the user that was issued before `at`.
    fn end_visit(
        &self,
        user: &UserId,
        concert: &ConcertId,
        at: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Waits for other writers.
pub trait Backoff: Send + Sync {
    /// Waits a short, random time, longer with each attempt.
    fn back_off(&self, attempt: u32) -> impl Future<Output = ()> + Send;
}

/// Tells the time and waits.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;

    /// Returns at `at`, or at once if that has passed.
    fn wait_until(&self, at: Timestamp) -> impl Future<Output = ()> + Send;
}

/// Reads the plan of a line.
pub trait ReadPlan: Send + Sync {
    /// Whether this process has read a plan of the line before.
    fn knows(&self, concert: &ConcertId) -> bool;

    /// The plan, at most a second old; `None` without a line. A fetch also reads whether `position` is used, if one is
    /// given, so that [`ReadUse`] right after costs nothing.
    fn plan(
        &self,
        concert: &ConcertId,
        position: Option<u64>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Planned>, Fault>> + Send;
}

/// Notes how far a line is.
pub trait NoteTurn: Send + Sync {
    /// Notes a turn that was given out. It only serves to tell how often to check; losing it harms nothing.
    fn note_turn(&self, concert: &ConcertId, turn: u64) -> impl Future<Output = ()> + Send;
}

/// Reads the plan of a line for a change.
pub trait ReadPlanNow: Send + Sync {
    /// The plan as it is; `None` without a line.
    fn plan_now(&self, concert: &ConcertId) -> impl Future<Output = Result<Option<AdmissionPlan>, Fault>> + Send;
}

/// Counts a line.
pub trait Count: Send + Sync {
    /// What the line has given out; `None` without a line.
    fn count(&self, concert: &ConcertId) -> impl Future<Output = Result<Option<Counted>, Fault>> + Send;
}

/// Counts a line counter by counter.
pub trait CountEach: Send + Sync {
    /// The counters that the line has, and what each has given out; `None` without a line.
    fn count_each(
        &self,
        concert: &ConcertId,
    ) -> impl Future<Output = Result<Option<(CounterSet, Vec<Counted>)>, Fault>> + Send;
}

/// Gives out places that are nobody's, where one counter is behind the others.
pub trait FillGap: Send + Sync {
    /// Gives out the next place of a counter at `turn`, as long as it has given out no more than was `counted`. Returns
    /// whether it did.
    fn fill_gap(
        &self,
        concert: &ConcertId,
        set: &CounterSet,
        shard: u32,
        counted: Counted,
        turn: u64,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Finds the lines that have a gate.
pub trait FindGated: Send + Sync {
    /// Their concerts.
    fn gated(&self) -> impl Future<Output = Result<Vec<ConcertId>, Fault>> + Send;
}

/// Reads which places are used.
pub trait ReadUsed: Send + Sync {
    /// The used places of pages that have some of these ranges: each a first position and the last.
    fn used_of(
        &self,
        concert: &ConcertId,
        ranges: &[(u64, u64)],
    ) -> impl Future<Output = Result<BTreeSet<u64>, Fault>> + Send;
}

/// Writes a wave of a gate.
pub trait WriteWave: Send + Sync {
    /// Replaces the plan of a version by one with a wave more. Returns whether the plan still was of that version.
    fn write_wave(
        &self,
        concert: &ConcertId,
        read: u64,
        plan: &AdmissionPlan,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads whether a place is used.
pub trait ReadUse: Send + Sync {
    /// Whether the place is spent on a payment or given up; the answer is at most a second old.
    fn is_used(
        &self,
        concert: &ConcertId,
        position: u64,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Whether it is spent on a payment; likewise.
    fn is_spent(
        &self,
        concert: &ConcertId,
        position: u64,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Who changed a plan, by which request, and when, for the event.
#[derive(Debug, Clone, Copy)]
pub struct Changed<'a> {
    pub correlation_id: &'a str,
    /// The operator.
    pub actor: &'a str,
    pub now: Timestamp,
}

/// Replaces the plan of a line.
pub trait ReplacePlan: Send + Sync {
    /// Replaces the plan of a version and records the event of it. Returns whether the plan still was of that version.
    fn replace_plan(
        &self,
        concert: &ConcertId,
        read: u64,
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
