//! The payment saga and the refund saga: the input that every step reads, what a step answers, and the names of its
//! failures.
//!
//! `start-payment` fixes the input before the saga starts; no step generates an id or computes a deadline from the
//! clock. The state machine (`infra/statemachines/payment-saga.asl.json`) passes the input to every step unchanged.

use crate::{ConcertId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use serde::{Deserialize, Serialize};

/// Everything a step of the payment saga needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentSaga {
    /// The payment, and the idempotency key of every step.
    pub payment_id: PaymentId,
    /// The payer and owner of the reservation.
    pub user_id: UserId,
    pub reservation_id: ReservationId,
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    /// The seats, in the reservation's order.
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub amount: Won,
    /// When the hold ends, before which the payment must be requested.
    pub hold_expires_at: Timestamp,
    /// The position in line whose token the sale spends.
    pub queue_position: u64,
    /// Whether the token is expired by event or as a step of the saga.
    pub token_expiry: TokenExpiry,
    /// When the payment was requested.
    pub requested_at: Timestamp,
    /// The HTTP request behind it, for logs and events.
    pub correlation_id: String,
}

/// How a queue token is expired once its holder has paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenExpiry {
    /// By the event `payment.completed`; its failure never fails a payment (R04).
    #[default]
    Event,
    /// As a step before the point of no return; its failure compensates (R28).
    Strict,
}

impl std::str::FromStr for TokenExpiry {
    type Err = crate::Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "event" => Ok(Self::Event),
            "strict" => Ok(Self::Strict),
            _ => Err(crate::Invalid::new("TOKEN_EXPIRY", "must be event or strict")),
        }
    }
}

/// The names of a step's failures (Lambda's `errorType`), on which the state machine routes.
pub mod error_name {
    /// A business rule refuses it; never retried.
    pub const REFUSED: &str = "Refused";
    /// Another writer is in the way; retried soon.
    pub const CONTENDED: &str = "Contended";
    /// A dependency of the step does not answer; retried with backoff.
    pub const UNAVAILABLE: &str = "Unavailable";
    /// A bug or corrupt data. A step before the point of no return is compensated, not retried; compensations and steps
    /// after that point are retried, too. It pages the on-call.
    pub const BROKEN: &str = "Broken";
    /// All of them.
    pub const ALL: [&str; 4] = [REFUSED, CONTENDED, UNAVAILABLE, BROKEN];
}

/// Why a payment did not complete: the `failure` of `GET /payments/{id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentFailure {
    /// The balance is below the price.
    InsufficientPoints,
    /// The hold ended before the payment began.
    HoldExpired,
    /// The reservation was cancelled, paid or being paid by another payment.
    ReservationNotPayable,
    /// A part of the system failed permanently; everything was undone.
    TemporarilyUnavailable,
}

impl PaymentFailure {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InsufficientPoints => "insufficient_points",
            Self::HoldExpired => "hold_expired",
            Self::ReservationNotPayable => "reservation_not_payable",
            Self::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }

    /// Parses the reason that a refused step gave as its message; anything else is a fault.
    pub fn from_reason(reason: &str) -> Self {
        match reason {
            "insufficient_points" => Self::InsufficientPoints,
            "hold_expired" => Self::HoldExpired,
            "reservation_not_payable" => Self::ReservationNotPayable,
            _ => Self::TemporarilyUnavailable,
        }
    }
}

/// The error that Step Functions passes on when a state catches it: `{"Error": "...", "Cause": "..."}`.
///
/// A Lambda's cause is JSON with `errorMessage` and `errorType`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CaughtError {
    /// The error's name.
    #[serde(rename = "Error", default)]
    pub error: String,
    /// Its cause.
    #[serde(rename = "Cause", default)]
    pub cause: String,
}

impl CaughtError {
    /// The reason a refused step gave; `None` for a fault.
    pub fn refusal(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Cause {
            #[serde(rename = "errorMessage")]
            message: String,
        }
        let refused = self.error == error_name::REFUSED;
        refused.then(|| serde_json::from_str::<Cause>(&self.cause).ok().map(|cause| cause.message)).flatten()
    }

    /// Why the payment failed, as the API names it.
    pub fn failure(&self) -> PaymentFailure {
        self.refusal().map_or(PaymentFailure::TemporarilyUnavailable, |reason| PaymentFailure::from_reason(&reason))
    }
}

/// The input of `release-reservation` and of `fail-payment`: the saga and its first failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedPayment {
    /// The saga's input.
    #[serde(flatten)]
    pub saga: PaymentSaga,
    /// What the failing state caught.
    #[serde(default)]
    pub failure: CaughtError,
}

/// Everything a step of the refund saga (`infra/statemachines/refund-saga.asl.json`) needs: the input of the payment's
/// saga, and the refund's own. `return-points` reads it as [`ReturnPoints`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundSaga {
    /// The input of the saga of the payment that is paid back.
    #[serde(flatten)]
    pub payment: PaymentSaga,
    /// When the refund was requested.
    pub refund_requested_at: Timestamp,
    /// The HTTP request behind it, for logs and events.
    pub refund_correlation_id: String,
}

/// The input of `return-points`: the payment whose points are returned, and whether that is a refund. A refunded
/// payment was completed, so its points were used; for a failed one that must be found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnPoints {
    /// The payment.
    #[serde(flatten)]
    pub saga: PaymentSaga,
    /// When its refund was requested, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_requested_at: Option<Timestamp>,
}

/// The input of `cancel-refund`: the saga and its first failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelRefund {
    /// The saga's input.
    #[serde(flatten)]
    pub saga: RefundSaga,
    /// What the failing state caught.
    #[serde(default)]
    pub failure: CaughtError,
}

/// The answer of a forward step: its effect is in place, now or already before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// Whether an earlier try had made it.
    pub already: bool,
}

/// What `release-reservation` found; the state machine branches on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseOutcome {
    /// The reservation is not (or no longer) being paid by this payment.
    Released,
    /// The confirmation took effect although its answer was lost: the sale stands, or was paid back since, and the saga
    /// goes forward.
    AlreadyPaid,
}

/// The answer of `release-reservation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    pub outcome: ReleaseOutcome,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_its_reason_through_the_state_machine() {
        let caught = CaughtError {
            error: "Refused".into(),
            cause: r#"{"errorType":"Refused","errorMessage":"insufficient_points"}"#.into(),
        };
        assert_eq!(caught.failure(), PaymentFailure::InsufficientPoints);
    }

    #[test]
    fn every_fault_reads_as_temporarily_unavailable() {
        for error in ["Unavailable", "Contended", "Broken", "States.Timeout", ""] {
            let caught = CaughtError { error: error.into(), cause: "insufficient_points".into() };
            assert_eq!(caught.failure(), PaymentFailure::TemporarilyUnavailable, "{error}");
        }
    }

    #[test]
    fn every_failure_is_read_back_from_its_own_name() {
        use PaymentFailure::*;
        for failure in [InsufficientPoints, HoldExpired, ReservationNotPayable, TemporarilyUnavailable] {
            assert_eq!(PaymentFailure::from_reason(failure.as_str()), failure);
            assert_eq!(serde_json::to_value(failure).unwrap(), failure.as_str());
        }
    }
}
