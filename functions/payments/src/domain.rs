//! Payments and the pure decisions about them.

use contracts::saga::{PaymentFailure, PaymentSaga, TokenExpiry};
use contracts::steps::PayableReservation;
use contracts::{PaymentId, ReservationId, Timestamp, UserId};

/// How long a payment may be pending before the recovery looks at it, in milliseconds. Longer than a healthy saga
/// with all its retries takes, shorter than a hold.
pub const PENDING_TOO_LONG_MILLIS: i64 = 90_000;
/// The longest wait between two recoveries of one payment, in milliseconds.
pub const LONGEST_RECOVERY_WAIT_MILLIS: i64 = 3_600_000;

/// Where a payment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its saga runs, or will.
    Pending,
    /// Paid, and the seats are sold.
    Completed,
    /// Not paid; everything was given back.
    Failed(PaymentFailure),
    /// Paid back.
    Refunded,
}

impl Status {
    /// Its name in tables and answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Refunded => "refunded",
        }
    }

    /// Whether nothing will change it any more without a new request.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending)
    }
}

/// A payment. Its saga's input was fixed when it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Everything its saga needs.
    pub saga: PaymentSaga,
    /// Where it is in its life.
    pub status: Status,
    /// How often the recovery has started its saga again.
    pub recoveries: u32,
}

impl Payment {
    /// A new payment of a quoted reservation: all ids, times and choices are fixed here.
    pub fn of(
        id: PaymentId,
        user: UserId,
        reservation: ReservationId,
        quote: PayableReservation,
        choices: Choices,
        now: Timestamp,
    ) -> Self {
        let saga = PaymentSaga {
            payment_id: id,
            user_id: user,
            reservation_id: reservation,
            schedule_id: quote.schedule_id,
            concert_id: quote.concert_id,
            seats: quote.seats,
            amount: quote.total_price,
            hold_expires_at: quote.hold_expires_at,
            queue_position: quote.queue_position,
            token_expiry: choices.token_expiry,
            requested_at: now,
            correlation_id: choices.correlation_id,
        };
        Self { saga, status: Status::Pending, recoveries: 0 }
    }

    /// The name of its current execution: its id, or, once recovered, its id and the count.
    pub fn execution_name(&self) -> String {
        match self.recoveries {
            0 => self.saga.payment_id.to_string(),
            count => format!("{}-r{count}", self.saga.payment_id),
        }
    }
}

/// What is decided about a saga beside the quote.
#[derive(Debug, Clone)]
pub struct Choices {
    /// How the queue token is expired.
    pub token_expiry: TokenExpiry,
    /// The request.
    pub correlation_id: String,
}

/// What is known of a payment's execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// It was never started.
    Missing,
    /// It runs.
    Running,
    /// It is over.
    Over,
}

/// What there is to do about a payment that is pending for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Start the execution it should have had.
    Start,
    /// It is on its way.
    Leave,
    /// Start another one: every step bears being repeated.
    StartAnother,
}

/// Decides how to recover.
pub const fn decide_recovery(execution: Execution) -> Recovery {
    match execution {
        Execution::Missing => Recovery::Start,
        Execution::Running => Recovery::Leave,
        Execution::Over => Recovery::StartAnother,
    }
}

/// How long after recovery `count` the next one may come: a minute, doubling, at most an hour.
pub fn wait_after_recovery(count: u32) -> i64 {
    60_000_i64.saturating_mul(1 << count.min(10)).min(LONGEST_RECOVERY_WAIT_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pending_payment_is_open() {
        assert!(!Status::Pending.is_final());
        for status in [Status::Completed, Status::Refunded, Status::Failed(PaymentFailure::HoldExpired)] {
            assert!(status.is_final());
        }
    }

    #[test]
    fn a_running_saga_is_never_doubled() {
        assert_eq!(decide_recovery(Execution::Running), Recovery::Leave);
        assert_eq!(decide_recovery(Execution::Missing), Recovery::Start);
        assert_eq!(decide_recovery(Execution::Over), Recovery::StartAnother);
    }

    #[test]
    fn recoveries_come_less_and_less_often_but_never_stop() {
        assert_eq!(wait_after_recovery(0), 60_000);
        assert_eq!(wait_after_recovery(1), 120_000);
        assert_eq!(wait_after_recovery(u32::MAX), LONGEST_RECOVERY_WAIT_MILLIS);
    }
}
