//! Steps that one context asks of another while an HTTP request waits, by a synchronous Lambda invocation.
//!
//! Each is idempotent: repeating it with the same input leaves the same state and gives the same answer. A refusal is
//! an answer here, not an error, because the caller turns it into an HTTP status.

use crate::admission::AdmissionPlan;
use crate::seats::Section;
use crate::{ConcertId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use serde::{Deserialize, Serialize};

/// `open-waiting-room` (waiting-room), asked by `create-concert`. Answers [`Opened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWaitingRoom {
    /// The concert to keep a line for.
    pub concert_id: ConcertId,
    /// When the concert was created: from then on the default plan counts.
    pub created_at: Timestamp,
}

/// `apply-admission` (reservations), asked by waiting-room whenever a plan changes. Answers [`Opened`].
/// An older version than the one in force changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAdmission {
    /// The concert.
    pub concert_id: ConcertId,
    /// Its plan.
    pub plan: AdmissionPlan,
}

/// `open-schedule` (reservations), asked by `create-schedule`: the terms a date is sold under. Answers [`Opened`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSchedule {
    /// The date.
    pub schedule_id: ScheduleId,
    /// Its concert.
    pub concert_id: ConcertId,
    /// When it takes place.
    pub starts_at: Timestamp,
    /// How many tickets one user may hold, pay and have paid for it.
    pub max_per_user: u32,
    /// How long a hold lasts, in seconds.
    pub hold_seconds: u32,
    /// Its sections.
    pub sections: Vec<Section>,
}

/// The answer of a step that puts something in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {}

/// `quote-reservation` (reservations), asked by `start-payment`. Answers [`Quote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteReservation {
    /// Who asks; a reservation of somebody else does not exist for them.
    pub user_id: UserId,
    /// Which reservation.
    pub reservation_id: ReservationId,
}

/// What a reservation would cost, if it can be paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "quote", rename_all = "snake_case")]
pub enum Quote {
    /// It can be paid now.
    Payable(PayableReservation),
    /// It exists and cannot be paid: not held, or its hold is over.
    NotPayable,
    /// This user has no such reservation.
    NotFound,
}

/// A held reservation, as payments needs it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayableReservation {
    /// The date.
    pub schedule_id: ScheduleId,
    /// The concert.
    pub concert_id: ConcertId,
    /// The seats.
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub total_price: Won,
    /// When the hold ends.
    pub hold_expires_at: Timestamp,
    /// The place in line it was made with.
    pub queue_position: u64,
}
