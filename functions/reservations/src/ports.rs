//! What reservations needs from outside, one narrow trait per capability.

use crate::domain::{Booking, EndHold, Hold, Refusal, Reservation, SeatRequest, Terms, Visits};
use contracts::admission::AdmissionPlan;
use contracts::events::{CancelReason, FaultDetected};
use contracts::saga::{PaymentSaga, RefundSaga};
use contracts::{ConcertId, ReservationId, ScheduleId, Timestamp, UserId};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};

/// What a sale is decided on, read in one round trip.
#[derive(Debug, Default)]
pub struct Sale {
    /// The date's terms, if there is such a date.
    pub terms: Option<Terms>,
    /// The concert's admission plan, if it has one.
    pub plan: Option<AdmissionPlan>,
    /// The user's visits to the concert so far.
    pub visits: Visits,
    /// What the idempotency key remembers.
    pub remembered: Outcome<StoredAnswer>,
}

/// Reads what a sale is decided on.
pub trait LoadSale: Send + Sync {
    /// Terms, plan, the user's visits and what the key remembers, in one round trip.
    fn load_sale(
        &self,
        schedule: &ScheduleId,
        concert: &ConcertId,
        user: &UserId,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Sale, Fault>> + Send;
}

/// What writing a hold came to.
#[derive(Debug)]
pub enum HoldWritten {
    /// The seats are held.
    Held,
    /// The same request was answered before: nothing was written.
    Replay(StoredAnswer),
    /// The key was used for another request: nothing was written.
    KeyReused,
    /// A guard said no: nothing was written.
    Refused(Refusal),
    /// The user's visit is not the one the hold was decided on: nothing was written, decide again.
    VisitChanged,
    /// The pending reservation it was to become is decided already, or given up: nothing was written.
    NotPending,
}

/// What becomes of a hold that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A new reservation.
    New,
    /// One that was asked for asynchronously and is pending.
    Pending,
}

/// Writes holds.
pub trait WriteHold: Send + Sync {
    /// Seats, reservation, the user's ticket count, event and remembered answer: all or nothing.
    fn write_hold(
        &self,
        hold: &Hold,
        origin: Origin,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<HoldWritten, Fault>> + Send;
}

/// Writes what was asked for asynchronously.
pub trait WritePending: Send + Sync {
    /// The pending reservation, counted among its user's, and the remembered answer: all or nothing. What the key
    /// remembers, when it was used; `None`, when the user has [`crate::domain::MAX_PENDING`] undecided ones already.
    fn write_pending(
        &self,
        request: &SeatRequest,
        reservation: &Reservation,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Outcome<StoredAnswer>>, Fault>> + Send;
    /// pending -> cancelled, with the event. `false` when it is not pending any more.
    fn cancel_request(
        &self,
        booking: &Booking,
        reason: CancelReason,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
    /// pending -> rejected, with the event. `false` when it is not pending any more.
    fn reject_request(
        &self,
        request: &SeatRequest,
        reason: &'static str,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// A pending reservation that nobody has decided for a while.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The reservation.
    pub reservation: Reservation,
    /// What was asked for.
    pub request: SeatRequest,
}

/// Looks after pending reservations.
pub trait FindWaiting: Send + Sync {
    /// Those of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) due for a look at `now`, oldest first.
    fn waiting(&self, shard: u64, now: Timestamp) -> impl Future<Output = Result<Vec<Waiting>, Fault>> + Send;
    /// Sets when to look again, if it is still pending.
    fn look_later(&self, reservation: &Reservation, at: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Hands a request to whoever writes reservations, in the order of its section.
pub trait AskForSeats: Send + Sync {
    /// Sends the request. Sending it again within minutes is noticed and changes nothing.
    fn ask(&self, request: &SeatRequest) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Pages the on-call.
pub trait RaiseAlert: Send + Sync {
    /// Puts the event into the outbox, once for each `reservation`.
    fn raise_alert(
        &self,
        reservation: &Reservation,
        fault: FaultDetected,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads one reservation of a user.
pub trait FindReservation: Send + Sync {
    /// The reservation, if this user has it.
    fn find(
        &self,
        user: &UserId,
        id: &ReservationId,
    ) -> impl Future<Output = Result<Option<Reservation>, Fault>> + Send;
}

/// Reads a user's reservations.
pub trait ListReservations: Send + Sync {
    /// Newest first, and the cursor behind the last if there are more.
    fn list(
        &self,
        user: &UserId,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<Reservation>, Option<String>), Fault>> + Send;

    /// The user's holds for a date whose time is over but which nobody has ended yet.
    fn overdue_of(
        &self,
        user: &UserId,
        schedule: &ScheduleId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Reservation>, Fault>> + Send;
}

/// Ends holds.
pub trait WriteEnd: Send + Sync {
    /// Ends a hold: reservation, its seats, the user's ticket count and the event, all or nothing. `false` when there
    /// was no such hold any more (or, expiring, not yet).
    fn end_hold(
        &self,
        booking: &Booking,
        end: EndHold,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads the terms of a date.
pub trait FindTerms: Send + Sync {
    /// The terms, if there is such a date.
    fn terms(&self, schedule: &ScheduleId) -> impl Future<Output = Result<Option<Terms>, Fault>> + Send;
}

/// Finds holds whose time is over.
pub trait FindOverdue: Send + Sync {
    /// The holds of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) that were over by `now`, oldest first.
    fn overdue(&self, shard: u64, now: Timestamp) -> impl Future<Output = Result<Vec<Reservation>, Fault>> + Send;
}

/// Has a hold looked at again later.
pub trait ScheduleExpiry: Send + Sync {
    /// Delivers the same message again after `delay_seconds`, at most 900.
    fn look_again(&self, message: &str, delay_seconds: i32) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Keeps what other contexts decide.
pub trait KeepTerms: Send + Sync {
    /// Puts a date on sale. The same again changes nothing.
    fn keep_terms(&self, terms: &Terms) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Puts an admission plan in force, unless a newer one is.
    fn keep_plan(&self, concert: &ConcertId, plan: &AdmissionPlan) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// What a step of the payment saga found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// It was made now.
    Made,
    /// This payment had made it before.
    Already,
    /// It cannot be made.
    Impossible(Obstacle),
}

/// What stands in a payment's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The hold is over, or a seat of it went to somebody else after it was over.
    HoldOver,
    /// The reservation is not there for this payment: cancelled, paid, another payment's, or given back before.
    NotThisPayment,
}

/// Writes the transitions of the payment saga, each one transaction over the reservation and all its seats.
pub trait WritePayment: Send + Sync {
    /// held -> paying.
    fn begin(&self, saga: &PaymentSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
    /// paying -> paid, seats sold, token spent, event.
    fn confirm(&self, saga: &PaymentSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
    /// paying -> held or expired. `Already` when this payment does not have it, and then never will;
    /// `Impossible` when it is paid by this payment.
    fn release(&self, saga: &PaymentSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
}

/// Writes the refund of what was paid.
pub trait WriteRefund: Send + Sync {
    /// paid -> refunded: reservation, its seats, the user's count and the event, all or nothing.
    fn refund(&self, saga: &RefundSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
}
