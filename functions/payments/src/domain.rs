//! Payments and the pure decisions about them.

pub mod charges;
pub mod withdrawals;

use contracts::saga::{PaymentFailure, PaymentSaga, RefundSaga, TokenExpiry};
use contracts::steps::PayableReservation;
use contracts::{PaymentId, ReservationId, Timestamp, UserId};

/// How long a payment may be pending before the recovery checks it, in milliseconds. Longer than a healthy saga with
/// all its retries takes, shorter than a hold.
pub const PENDING_TOO_LONG_MILLIS: i64 = 90_000;
/// The number of partitions of the index of open payments.
pub const PENDING_SHARDS: u64 = 4;
/// The longest wait between two recoveries of one payment, in milliseconds.
pub const LONGEST_RECOVERY_WAIT_MILLIS: i64 = 3_600_000;
/// How long a saga may be open before the on-call is paged, in milliseconds.
pub const STUCK_MILLIS: i64 = 3_600_000;
/// After how many recoveries the on-call is paged.
pub const STUCK_RECOVERIES: u32 = 5;

/// The status of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its saga runs, or will.
    Pending,
    /// Paid, and the seats are sold.
    Completed,
    /// Not paid; everything was given back.
    Failed(PaymentFailure),
    /// Paid, and being paid back: the refund saga runs, or will.
    Refunding,
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
            Self::Refunding => "refunding",
            Self::Refunded => "refunded",
        }
    }

    /// Whether only a new request can change it.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Pending | Self::Refunding)
    }
}

/// A payment. Its saga's input was fixed when it was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// Everything its saga needs.
    pub saga: PaymentSaga,
    pub status: Status,
    /// The last requested refund, if there is one.
    pub refund: Option<Refund>,
    /// How often the recovery has started its open saga again.
    pub recoveries: u32,
    /// Whether the on-call was paged because its open saga does not end.
    pub alerted: bool,
}

/// A refund as it was requested.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refund {
    pub requested_at: Timestamp,
    /// The id of the originating HTTP request.
    pub correlation_id: String,
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
        Self { saga, status: Status::Pending, refund: None, recoveries: 0, alerted: false }
    }

    /// This payment with a requested refund.
    ///
    /// A cancelled refund may be requested again. The count then goes on, because execution names are unique.
    pub fn refunding(self, refund: Refund) -> Self {
        let recoveries = if self.refund.is_some() { self.recoveries + 1 } else { 0 };
        Self { status: Status::Refunding, refund: Some(refund), recoveries, alerted: false, ..self }
    }

    /// The input of the refund saga, while that is the open one.
    pub fn refund_saga(&self) -> Option<RefundSaga> {
        let refund = self.refund.as_ref().filter(|_| self.status == Status::Refunding)?;
        Some(RefundSaga {
            payment: self.saga.clone(),
            refund_requested_at: refund.requested_at,
            refund_correlation_id: refund.correlation_id.clone(),
        })
    }

    /// The name of its open saga: the payment's id, `<id>-refund` for a refund.
    pub fn saga_name(&self) -> String {
        let id = &self.saga.payment_id;
        if self.refund.is_some() { format!("{id}-refund") } else { id.to_string() }
    }

    /// The name of its current execution: its saga's, and, once recovered, the count (`-r1`, `-r2`, ...).
    pub fn execution_name(&self) -> String {
        match self.recoveries {
            0 => self.saga_name(),
            count => format!("{}-r{count}", self.saga_name()),
        }
    }

    /// When its open saga was requested, and by which HTTP request.
    pub fn asked(&self) -> (Timestamp, &str) {
        match &self.refund {
            None => (self.saga.requested_at, &self.saga.correlation_id),
            Some(refund) => (refund.requested_at, &refund.correlation_id),
        }
    }

    /// Since when its saga is open.
    pub fn open_since(&self) -> Timestamp {
        self.asked().0
    }

    /// Whether its open saga needs the on-call, who has not been paged for it yet.
    pub fn needs_alert(&self, now: Timestamp) -> bool {
        let late = now.millis_since(self.open_since()) > STUCK_MILLIS;
        !self.alerted && (late || self.recoveries >= STUCK_RECOVERIES)
    }
}

/// What is decided about a saga beside the quote.
#[derive(Debug, Clone)]
pub struct Choices {
    /// How the queue token is expired.
    pub token_expiry: TokenExpiry,
    pub correlation_id: String,
}

/// The state of a payment's execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Execution {
    /// It runs.
    Running,
    /// It is over.
    Over,
}

/// How long after recovery `count` the next one may come: a minute, doubling, at most an hour.
pub fn wait_after_recovery(count: u32) -> i64 {
    60_000_i64.saturating_mul(1 << count.min(10)).min(LONGEST_RECOVERY_WAIT_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed() -> Payment {
        let saga = PaymentSaga {
            payment_id: PaymentId::parse("p1").unwrap(),
            user_id: UserId::parse("alice").unwrap(),
            reservation_id: ReservationId::parse("r1").unwrap(),
            schedule_id: contracts::ScheduleId::parse("date").unwrap(),
            concert_id: contracts::ConcertId::parse("concert").unwrap(),
            seats: Vec::new(),
            amount: contracts::Won::ZERO,
            hold_expires_at: Timestamp::from_millis(0),
            queue_position: 1,
            token_expiry: TokenExpiry::Event,
            requested_at: Timestamp::from_millis(0),
            correlation_id: "request-1".to_owned(),
        };
        Payment { saga, status: Status::Completed, refund: None, recoveries: 3, alerted: true }
    }

    fn asked_at(millis: i64) -> Refund {
        Refund { requested_at: Timestamp::from_millis(millis), correlation_id: "request-2".to_owned() }
    }

    #[test]
    fn a_refund_requested_again_runs_under_another_name() {
        assert_eq!(completed().refund_saga(), None);
        let first = completed().refunding(asked_at(1));
        assert_eq!(first.execution_name(), "p1-refund");
        assert_eq!(first.refund_saga().unwrap().refund_correlation_id, "request-2");
        let cancelled = Payment { status: Status::Completed, ..first };
        assert_eq!(cancelled.refund_saga(), None);
        assert_eq!(cancelled.refunding(asked_at(2)).execution_name(), "p1-refund-r1");
    }

    #[test]
    fn the_on_call_is_paged_once_about_what_was_recovered_often_or_takes_long() {
        let asked = Timestamp::from_millis(1);
        let refunding = completed().refunding(asked_at(1));
        assert!(!refunding.needs_alert(asked.plus_millis(STUCK_MILLIS)));
        assert!(refunding.needs_alert(asked.plus_millis(STUCK_MILLIS + 1)));
        let recovered = Payment { recoveries: STUCK_RECOVERIES, ..refunding };
        assert!(recovered.needs_alert(asked));
        assert!(!Payment { alerted: true, ..recovered }.needs_alert(asked));
    }

    #[test]
    fn only_a_payment_with_a_saga_is_open() {
        assert!(!Status::Pending.is_final() && !Status::Refunding.is_final());
        for status in [Status::Completed, Status::Refunded, Status::Failed(PaymentFailure::HoldExpired)] {
            assert!(status.is_final());
        }
    }

    #[test]
    fn recoveries_come_less_and_less_often_but_never_stop() {
        assert_eq!(wait_after_recovery(0), 60_000);
        assert_eq!(wait_after_recovery(1), 120_000);
        assert_eq!(wait_after_recovery(u32::MAX), LONGEST_RECOVERY_WAIT_MILLIS);
    }
}
