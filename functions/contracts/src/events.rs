//! Domain events: named after what happened, never after who listens. CloudEvents-shaped JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>).

use crate::saga::PaymentFailure;
use crate::{ConcertId, EventId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
use serde::{Deserialize, Serialize};

/// An event with its envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// CloudEvents version, `1.0`.
    pub specversion: String,
    /// Unique; consumers are idempotent by it.
    pub id: EventId,
    /// The context that speaks, for example `encore/payments`.
    pub source: String,
    /// When it happened.
    #[serde(with = "crate::time::rfc3339")]
    pub time: Timestamp,
    /// What it is about: the id of the reservation, payment, order.
    pub subject: String,
    /// The HTTP request at the beginning of it all.
    pub correlationid: String,
    /// `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// What happened. The serialized tag is the event's `type` and the bus's `detail-type`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventBody {
    /// Seats are held.
    #[serde(rename = "reservation.held")]
    ReservationHeld(ReservationEvent),
    /// The seats are sold.
    #[serde(rename = "reservation.paid")]
    ReservationPaid(ReservationEvent),
    /// The user gave the hold up.
    #[serde(rename = "reservation.cancelled")]
    ReservationCancelled(ReservationEvent),
    /// The hold ran out.
    #[serde(rename = "reservation.expired")]
    ReservationExpired(ReservationEvent),
    /// A payment is complete.
    #[serde(rename = "payment.completed")]
    PaymentCompleted(PaymentCompleted),
    /// A payment failed and everything it did is undone.
    #[serde(rename = "payment.failed")]
    PaymentFailed(PaymentFailed),
}

impl EventBody {
    /// The event's type, for example `payment.completed`.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::ReservationHeld(_) => "reservation.held",
            Self::ReservationPaid(_) => "reservation.paid",
            Self::ReservationCancelled(_) => "reservation.cancelled",
            Self::ReservationExpired(_) => "reservation.expired",
            Self::PaymentCompleted(_) => "payment.completed",
            Self::PaymentFailed(_) => "payment.failed",
        }
    }
}

/// Data of the `reservation.*` events: the reservation as it is after what happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationEvent {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Its owner.
    pub user_id: UserId,
    /// The date.
    pub schedule_id: ScheduleId,
    /// The concert.
    pub concert_id: ConcertId,
    /// Its seats.
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub total_price: Won,
    /// When its hold ends or ended.
    #[serde(with = "crate::time::rfc3339")]
    pub hold_expires_at: Timestamp,
}

/// Data of `payment.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCompleted {
    /// The payment.
    pub payment_id: PaymentId,
    /// Who paid.
    pub user_id: UserId,
    /// What was paid.
    pub reservation_id: ReservationId,
    /// The date.
    pub schedule_id: ScheduleId,
    /// The concert.
    pub concert_id: ConcertId,
    /// The seats.
    pub seats: Vec<SeatId>,
    /// The price.
    pub amount: Won,
    /// The place in line that is spent by it.
    pub queue_position: u64,
}

/// Data of `payment.failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentFailed {
    /// The payment.
    pub payment_id: PaymentId,
    /// Whose it is.
    pub user_id: UserId,
    /// What was to be paid.
    pub reservation_id: ReservationId,
    /// Why not.
    pub failure: PaymentFailure,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_cloudevent_with_type_and_data() {
        let event = Event {
            specversion: "1.0".into(),
            id: EventId::parse("e1").unwrap(),
            source: "encore/payments".into(),
            time: Timestamp::from_millis(0),
            subject: "p1".into(),
            correlationid: "r1".into(),
            body: EventBody::PaymentFailed(PaymentFailed {
                payment_id: PaymentId::parse("p1").unwrap(),
                user_id: UserId::parse("alice").unwrap(),
                reservation_id: ReservationId::parse("r1").unwrap(),
                failure: PaymentFailure::HoldExpired,
            }),
        };
        let json = serde_json::to_value(&event).unwrap();
        assert_eq!(json["type"], event.body.event_type());
        assert_eq!(json["data"]["failure"], "hold_expired");
        assert_eq!(json["time"], "1970-01-01T00:00:00.000Z");
        assert_eq!(serde_json::from_value::<Event>(json).unwrap(), event);
    }
}
