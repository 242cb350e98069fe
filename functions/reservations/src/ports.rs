//! The ports of reservations, one narrow trait per capability.

use crate::domain::extensions::Extension;
use crate::domain::{Booking, EndHold, Hold, Refusal, Reservation, SeatRequest, Terms, Visits};
use contracts::admission::AdmissionPlan;
use contracts::events::{CancelReason, FaultDetected};
use contracts::saga::{FailedPayment, PaymentSaga, RefundSaga};
use contracts::steps::TakenSeats;
use contracts::{ConcertId, ReservationId, ScheduleId, SectionName, Timestamp, UserId};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::sweep::{Cursor, Part};

/// The data a sale is decided on, read in one round trip.
#[derive(Debug, Default)]
pub struct Sale {
    /// The date's terms, if the date exists.
    pub terms: Option<Terms>,
    /// The concert's admission plan, if it has one.
    pub plan: Option<AdmissionPlan>,
    /// The user's visits to the concert so far, and what they let go of the date.
    pub visits: Visits,
    /// The answer remembered under the idempotency key.
    pub remembered: Outcome<StoredAnswer>,
}

/// Reads the data a sale is decided on.
pub trait LoadSale: Send + Sync {
    /// Terms, plan, the user's visits and the answer remembered under the key, in one round trip.
    fn load_sale(
        &self,
        schedule: &ScheduleId,
        concert: &ConcertId,
        user: &UserId,
        key: Option<&IdempotencyKey>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Sale, Fault>> + Send;
}

/// The outcome of writing a hold.
#[derive(Debug)]
pub enum HoldWritten {
    /// The seats are held.
    Held,
    /// The same request was answered before: nothing was written.
    Replay(StoredAnswer),
    /// The key was used for another request: nothing was written.
    KeyReused,
    /// A condition of the write failed: nothing was written.
    Refused(Refusal),
    /// The user's visit, or what they let go, is not what the hold was decided on: nothing was written, decide again.
    VisitChanged,
    /// The pending reservation is decided already, or cancelled: nothing was written.
    NotPending,
}

/// The reservation that a hold is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A new reservation.
    New,
    /// One that was requested asynchronously and is pending.
    Pending,
}

/// Writes holds.
pub trait WriteHold: Send + Sync {
    /// Writes seats, reservation, the user's ticket count, event and remembered answer: all or nothing.
    fn write_hold(
        &self,
        hold: &Hold,
        origin: Origin,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<HoldWritten, Fault>> + Send;
}

/// Writes asynchronous requests.
pub trait WritePending: Send + Sync {
    /// Writes the pending reservation, the user's count of undecided requests and the remembered answer: all or
    /// nothing. Returns what the key remembers if it was used before; `None` when the user has
    /// [`crate::domain::MAX_PENDING`] undecided requests already.
    fn write_pending(
        &self,
        request: &SeatRequest,
        reservation: &Reservation,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Outcome<StoredAnswer>>, Fault>> + Send;
    /// pending -> cancelled, with the event. `false` when it is no longer pending.
    fn cancel_request(
        &self,
        booking: &Booking,
        reason: CancelReason,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
    /// pending -> rejected, with the event. `false` when it is no longer pending.
    fn reject_request(
        &self,
        request: &SeatRequest,
        reason: &'static str,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// A reservation that has been pending for a while.
#[derive(Debug, Clone)]
pub struct Waiting {
    pub reservation: Reservation,
    /// The request it was made for.
    pub request: SeatRequest,
}

/// Finds and postpones pending reservations.
pub trait FindWaiting: Send + Sync {
    /// A page of those of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) due for a check at `now`, oldest first.
    fn waiting(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<Waiting>, Fault>> + Send;
    /// Sets when to check again, if it is still pending.
    fn look_later(&self, reservation: &Reservation, at: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Sends a request to `write-reservations`, in order within its section.
pub trait SendRequest: Send + Sync {
    /// Sends the request. The queue deduplicates a repeat within minutes.
    fn ask(&self, request: &SeatRequest) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Pages the on-call.
pub trait RaiseAlert: Send + Sync {
    /// Puts the event into the outbox, once per `reservation`.
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
    /// A page, newest first, and the cursor after its last if there are more.
    fn list(
        &self,
        user: &UserId,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<Reservation>, Option<String>), Fault>> + Send;

    /// The user's holds for a date that have expired and have not been ended yet.
    fn overdue_of(
        &self,
        user: &UserId,
        schedule: &ScheduleId,
        now: Timestamp,
    ) -> impl Future<Output = Result<Vec<Reservation>, Fault>> + Send;
}

/// Ends holds.
pub trait WriteEnd: Send + Sync {
    /// Ends a hold: reservation, its seats, the user's ticket count and the event, all or nothing. `false` when it is
    /// no longer a hold (or, for [`EndHold::Expire`], not over yet).
    ///
    /// [`EndHold::Expire`] also frees the seats that a reservation keeps back that ended before, once their moment has
    /// come.
    fn end_hold(
        &self,
        booking: &Booking,
        end: EndHold,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// The outcome of extending a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtensionWritten {
    /// It is extended.
    Extended,
    /// It is no running hold, or it was extended before: nothing was written, decide again.
    Changed,
    /// Another user took one of its seats, because by their clock it was over: nothing was written.
    SeatsLost,
}

/// Extends holds.
pub trait WriteExtension: Send + Sync {
    /// Moves the end of a running hold, once: reservation, its seats and the event, all or nothing.
    fn write_extension(
        &self,
        reservation: &Reservation,
        extension: &Extension,
        now: Timestamp,
    ) -> impl Future<Output = Result<ExtensionWritten, Fault>> + Send;
}

/// Frees seats that were kept back.
pub trait EndReturn: Send + Sync {
    /// The seats that an ended reservation keeps back are free, once their moment has come; those that somebody else
    /// has taken since stay theirs. Idempotent.
    fn end_return(&self, reservation: &Reservation, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Ends visits.
pub trait EndVisit: Send + Sync {
    /// From now on none of the user's tokens for the concert that were issued before `at` begins or continues a visit.
    fn end_visit(
        &self,
        user: &UserId,
        concert: &ConcertId,
        at: Timestamp,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Reads the terms of a date.
pub trait FindTerms: Send + Sync {
    /// The terms, if the date exists.
    fn terms(&self, schedule: &ScheduleId) -> impl Future<Output = Result<Option<Terms>, Fault>> + Send;
}

/// Lists the seats that are not free.
pub trait ListTaken: Send + Sync {
    /// Those of a section of a date, each as it is at some moment of the call.
    fn taken_seats(
        &self,
        schedule: &ScheduleId,
        section: &SectionName,
    ) -> impl Future<Output = Result<TakenSeats, Fault>> + Send;
}

/// Finds expired holds, and seats that are kept back no longer.
pub trait FindOverdue: Send + Sync {
    /// A page of the holds of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) that were over by `now`, and of what ended
    /// before and keeps seats back that were to be free by `now`, oldest first.
    fn overdue(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<Reservation>, Fault>> + Send;
}

/// Schedules another check of a hold, or of seats that are kept back.
pub trait ScheduleExpiry: Send + Sync {
    /// Sends the same message again, to be delivered after `delay_seconds`, at most 900.
    fn look_again(&self, message: &str, delay_seconds: i32) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Keeps what other contexts decide: terms and plans.
pub trait KeepTerms: Send + Sync {
    /// Puts a date on sale. Idempotent.
    fn keep_terms(&self, terms: &Terms) -> impl Future<Output = Result<(), Fault>> + Send;
    /// Puts an admission plan in force, unless a newer one is.
    fn keep_plan(&self, concert: &ConcertId, plan: &AdmissionPlan) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// The outcome of a transition in a saga step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transition {
    /// It was made now.
    Made,
    /// This payment had already made it.
    Already,
    /// It cannot be made.
    Impossible(Obstacle),
}

/// Why a transition is impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// The hold is over, or another user took one of its seats after it was over.
    HoldOver,
    /// The reservation is not available to this payment: cancelled, paid, another payment's, or released before.
    NotThisPayment,
}

/// Writes the transitions of the payment saga, each one transaction over the reservation and all its seats.
pub trait WritePayment: Send + Sync {
    /// held -> paying.
    fn begin(&self, saga: &PaymentSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
    /// paying -> paid, seats sold, token spent, event.
    fn confirm(&self, saga: &PaymentSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
    /// paying -> held or expired. `Already` when this payment does not have it, and then never will; `Impossible` when
    /// it is paid by this payment, or was and is paid back.
    fn release(&self, failed: &FailedPayment, now: Timestamp)
    -> impl Future<Output = Result<Transition, Fault>> + Send;
}

/// Writes the refund of a paid reservation.
pub trait WriteRefund: Send + Sync {
    /// paid -> refunded: reservation, its seats, the user's count and the event, all or nothing.
    fn refund(&self, saga: &RefundSaga, now: Timestamp) -> impl Future<Output = Result<Transition, Fault>> + Send;
}
