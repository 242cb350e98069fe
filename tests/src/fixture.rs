//! A sale to test with: one concert, one date, and the users who want its seats.

use contracts::admission::{AdmissionPlan, QUEUE_TOKEN_ISSUER, QUEUE_TOKEN_LIFE_SECONDS, QueueTokenClaims};
use contracts::saga::{CaughtError, FailedPayment, PaymentSaga, ReturnPoints, TokenExpiry, error_name};
use contracts::seats::Section;
use contracts::steps::OpenSchedule;
use contracts::{ConcertId, PaymentId, ReservationId, ScheduleId, SeatId, SectionName, Timestamp, UserId, Won};
use kit::StepCall;
use reservations::domain::{Reservation, SeatList, SeatRequest};

/// The time of the tests. Nothing in them reads a clock.
pub const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// How long a hold lasts, in seconds.
pub const HOLD_SECONDS: i64 = 300;
/// How long an admitted place is active, in seconds.
pub const ACTIVE_SECONDS: i64 = 600;
/// The price of every seat, in won.
pub const PRICE: i64 = 100_000;

/// The concert.
pub fn concert() -> ConcertId {
    ConcertId::parse("concert").expect("an id")
}

/// Its date.
pub fn schedule() -> ScheduleId {
    ScheduleId::parse("date").expect("an id")
}

/// A user.
pub fn user(name: &str) -> UserId {
    UserId::parse(name).expect("an id")
}

/// A seat.
pub fn seat(id: &str) -> SeatId {
    SeatId::parse(id).expect("a seat")
}

/// A payment.
pub fn payment(id: &str) -> PaymentId {
    PaymentId::parse(id).expect("an id")
}

/// An amount.
pub fn won(amount: i64) -> Won {
    Won::new(amount).expect("an amount")
}

/// Terms of the date: sections A and B of 10 rows with 20 seats each.
pub fn terms(max_per_user: u32) -> OpenSchedule {
    let block = |name| Section::new(SectionName::parse(name).expect("a section"), "VIP".to_owned(), won(PRICE), 10, 20);
    let limits = (max_per_user, HOLD_SECONDS as u32);
    OpenSchedule::new(schedule(), concert(), NOW.plus_seconds(30 * 86_400), limits, vec![block("A"), block("B")])
}

/// A plan that admits everybody as soon as they join.
pub fn plan() -> AdmissionPlan {
    AdmissionPlan::opening(NOW.plus_seconds(-86_400), 1_000_000, ACTIVE_SECONDS as u32)
}

/// A place in line.
pub fn place(of: &str, position: u64, issued_at: Timestamp) -> QueueTokenClaims {
    QueueTokenClaims {
        iss: QUEUE_TOKEN_ISSUER.to_owned(),
        sub: user(of),
        concert_id: concert(),
        position,
        turn: None,
        issued_at,
        active_at: None,
        expires_at: None,
        iat: issued_at.millis() / 1000,
        exp: issued_at.millis() / 1000 + QUEUE_TOKEN_LIFE_SECONDS,
    }
}

/// A request for seats.
pub fn seat_request(place: QueueTokenClaims, seats: &[&str], reservation: &str) -> SeatRequest {
    SeatRequest {
        user: place.sub.clone(),
        token: place,
        schedule: schedule(),
        seats: SeatList::new(seats.iter().map(|id| seat(id)).collect()).expect("seats"),
        reservation: ReservationId::parse(reservation).expect("an id"),
        correlation_id: format!("request-of-{reservation}"),
        asked_at: NOW,
    }
}

/// A payment's saga as the step that returns points gets it, when a payment is compensated.
pub fn undoing(saga: PaymentSaga) -> ReturnPoints {
    ReturnPoints { saga, refund_requested_at: None }
}

/// The saga that pays a reservation.
pub fn saga(reservation: &Reservation, id: &str) -> PaymentSaga {
    PaymentSaga {
        payment_id: payment(id),
        user_id: reservation.user.clone(),
        reservation_id: reservation.id.clone(),
        schedule_id: reservation.schedule.clone(),
        concert_id: reservation.concert.clone(),
        seats: reservation.seats.clone(),
        amount: reservation.total_price,
        hold_expires_at: reservation.hold_expires_at,
        queue_position: reservation.queue_position,
        token_expiry: TokenExpiry::Event,
        requested_at: reservation.created_at,
        correlation_id: format!("request-of-{id}"),
    }
}

/// A payment that was refused for want of points.
pub fn refused(saga: PaymentSaga) -> FailedPayment {
    let cause = r#"{"errorMessage": "insufficient_points", "errorType": "Refused"}"#.to_owned();
    FailedPayment { saga, failure: CaughtError { error: error_name::REFUSED.to_owned(), cause } }
}

/// A payment that failed because a part of the system did.
pub fn broken_off(saga: PaymentSaga) -> FailedPayment {
    FailedPayment { saga, failure: CaughtError { error: "Unavailable".to_owned(), cause: String::new() } }
}

/// A saga without a reservation: what the points and the payments table need of one.
pub fn saga_of(user_name: &str, id: &str, amount: i64) -> PaymentSaga {
    PaymentSaga {
        payment_id: payment(id),
        user_id: user(user_name),
        reservation_id: ReservationId::parse(format!("reservation-of-{id}")).expect("an id"),
        schedule_id: schedule(),
        concert_id: concert(),
        seats: vec![seat("A-1-1")],
        amount: won(amount),
        hold_expires_at: NOW.plus_seconds(HOLD_SECONDS),
        queue_position: 1,
        token_expiry: TokenExpiry::Event,
        requested_at: NOW,
        correlation_id: format!("request-of-{id}"),
    }
}

/// A step's call at a moment.
pub fn step<T>(input: T, now: Timestamp) -> StepCall<T> {
    StepCall { input, now }
}
