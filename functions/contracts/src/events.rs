//! Domain events: named after what happened, never after who listens. CloudEvents-shaped JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>).
//!
//! The catalogue is `functions/contracts/events/`: for each type and version one JSON schema with an example. A change
//! that old consumers cannot read is a new version (`.v2`), published beside the old one until nobody listens to it.

use crate::admission::AdmissionPlan;
use crate::orders::{OrderFailure, OrderLine, Pieces};
use crate::saga::PaymentFailure;
use crate::{
    ConcertId, EventId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won,
};
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
    /// The schema of the whole event: [`EventBody::schema`].
    #[serde(default)]
    pub dataschema: String,
    /// `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Declares what can happen: each variant with its type's name, its data, and whether it is in the catalogue.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident($data:ty) = $name:literal,)*) => {
        /// What happened. The serialized tag is the event's `type` and the bus's `detail-type`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum EventBody {
            $($(#[$doc])* #[serde(rename = $name)] $variant($data),)*
        }

        impl EventBody {
            /// Every type there is, in the order of the catalogue.
            pub const TYPES: &[&str] = &[$($name),*];

            /// The event's type, for example `payment.completed`.
            pub fn event_type(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => $name,)*
                }
            }

            /// The name of the event's schema: type and version.
            pub fn schema(&self) -> &'static str {
                match self {
                    $(Self::$variant(_) => concat!("urn:encore:event:", $name, ":v1"),)*
                }
            }
        }

        /// The JSON schema (draft 2020-12) of an event of a type, with an example in it.
        pub fn schema_of(event_type: &str) -> Option<&'static str> {
            match event_type {
                $($name => Some(include_str!(concat!("../events/", $name, ".v1.json"))),)*
                _ => None,
            }
        }
    };
}

events! {
    /// A user took a place in a concert's line.
    QueueJoined(QueueJoined) = "queue.joined",
    /// The holder of a queue token asked what it is worth.
    QueueChecked(QueueChecked) = "queue.checked",
    /// An operator changed a concert's admission plan.
    AdmissionChanged(AdmissionChanged) = "admission.changed",
    /// A date is on sale.
    ScheduleOpened(ScheduleOpened) = "schedule.opened",
    /// The seat map could not take in what happened to a reservation's seats, and never will.
    AvailabilityUpdateFailed(AvailabilityUpdateFailed) = "availability.update_failed",
    /// Seats are held.
    ReservationHeld(ReservationEvent) = "reservation.held",
    /// Seats asked for asynchronously were refused.
    ReservationRejected(ReservationRejected) = "reservation.rejected",
    /// The seats are sold.
    ReservationPaid(ReservationEvent) = "reservation.paid",
    /// The hold was given up: by its user, or because the system could not keep its promise.
    ReservationCancelled(ReservationCancelled) = "reservation.cancelled",
    /// The hold ran out.
    ReservationExpired(ReservationEvent) = "reservation.expired",
    /// A paid reservation was given back; its seats are free.
    ReservationRefunded(ReservationEvent) = "reservation.refunded",
    /// A payment is complete.
    PaymentCompleted(PaymentCompleted) = "payment.completed",
    /// A payment failed and everything it did is undone.
    PaymentFailed(PaymentFailed) = "payment.failed",
    /// A completed payment was paid back.
    PaymentRefunded(PaymentRefunded) = "payment.refunded",
    /// A refund could not be carried out; the sale stands as it was.
    PaymentRefundFailed(PaymentRefundFailed) = "payment.refund_failed",
    /// Points were bought through the payment provider and are in the balance.
    ChargeCompleted(ChargeEvent) = "charge.completed",
    /// Points could not be credited; the provider's payment was cancelled.
    ChargeCancelled(ChargeEvent) = "charge.cancelled",
    /// An order was placed; stock, points and cart have yet to answer.
    OrderPlaced(OrderEvent) = "order.placed",
    /// Everybody an order depends on did their part: it stands.
    OrderCompleted(OrderEvent) = "order.completed",
    /// An order failed; whoever did their part for it undoes it.
    OrderFailed(OrderFailed) = "order.failed",
    /// An order is known to whoever collects them. Nothing depends on it.
    OrderReported(OrderReported) = "order.reported",
    /// The pieces of an order are taken from the stock, all of them.
    StockDeducted(StockEvent) = "stock.deducted",
    /// An order's pieces cannot be had; none was taken.
    StockRefused(StockRefused) = "stock.refused",
    /// The stock holds nothing for an order any more, and never will.
    StockRestored(StockEvent) = "stock.restored",
    /// An order's price is taken from its user's balance.
    PointsUsed(PointsEvent) = "points.used",
    /// The balance is below an order's price; nothing was taken.
    PointsRefused(PointsRefused) = "points.refused",
    /// Nothing of a user's points is used for an order any more, and never will be.
    PointsReturned(PointsEvent) = "points.returned",
    /// The ordered lines are out of the cart.
    CartCleared(CartEvent) = "cart.cleared",
    /// The lines that an order took out of the cart are back, and it will never take any again.
    CartRestored(CartEvent) = "cart.restored",
    /// Something needs a person: it is stuck, or promises to be.
    FaultDetected(FaultDetected) = "fault.detected",
}

/// Data of `queue.joined`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueJoined {
    /// Who joined.
    pub user_id: UserId,
    /// Which line.
    pub concert_id: ConcertId,
    /// Their place.
    pub position: u64,
    /// `waiting` or `active`.
    pub status: String,
}

/// Data of `queue.checked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueChecked {
    /// Who asked.
    pub user_id: UserId,
    /// Which line.
    pub concert_id: ConcertId,
    /// Their place.
    pub position: u64,
    /// What they were told: `waiting`, `active`, `expired` or `used`.
    pub status: String,
}

/// Data of `admission.changed`: the plan as it is now. The highest version counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionChanged {
    /// The concert.
    pub concert_id: ConcertId,
    /// Its plan.
    pub plan: AdmissionPlan,
}

/// Data of `schedule.opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleOpened {
    /// The date.
    pub schedule_id: ScheduleId,
    /// Its concert.
    pub concert_id: ConcertId,
    /// When it takes place.
    #[serde(with = "crate::time::rfc3339")]
    pub starts_at: Timestamp,
    /// How many seats it has.
    pub seats_total: u64,
}

/// Data of `availability.update_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailabilityUpdateFailed {
    /// The reservation whose seats they are.
    pub reservation_id: ReservationId,
    /// Its owner.
    pub user_id: UserId,
    /// The date.
    pub schedule_id: ScheduleId,
    /// The seats that cannot be shown.
    pub seats: Vec<SeatId>,
    /// Why, for people.
    pub reason: String,
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

/// Data of `reservation.cancelled`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationCancelled {
    /// The reservation.
    #[serde(flatten)]
    pub reservation: ReservationEvent,
    /// Why.
    #[serde(default)]
    pub reason: CancelReason,
}

/// Why a hold was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// Its owner wanted so.
    #[default]
    User,
    /// Its end could not be scheduled, so it was undone (R20).
    ExpiryNotScheduled,
    /// The date's counts could not be updated, so it was undone (R25).
    AvailabilityNotUpdated,
}

impl CancelReason {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::ExpiryNotScheduled => "expiry_not_scheduled",
            Self::AvailabilityNotUpdated => "availability_not_updated",
        }
    }
}

/// Data of `reservation.rejected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationRejected {
    /// The reservation that did not come about.
    pub reservation_id: ReservationId,
    /// Whose it would have been.
    pub user_id: UserId,
    /// The date.
    pub schedule_id: ScheduleId,
    /// The concert.
    pub concert_id: ConcertId,
    /// The seats asked for.
    pub seats: Vec<SeatId>,
    /// Why not: a code of `POST /reservations`, for example `seat_taken`.
    pub reason: String,
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

/// Data of `payment.refunded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    /// The payment.
    pub payment_id: PaymentId,
    /// Who has the points back.
    pub user_id: UserId,
    /// What had been paid.
    pub reservation_id: ReservationId,
    /// The date.
    pub schedule_id: ScheduleId,
    /// The concert.
    pub concert_id: ConcertId,
    /// The seats, free again.
    pub seats: Vec<SeatId>,
    /// How much went back.
    pub amount: Won,
}

/// Data of `payment.refund_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefundFailed {
    /// The payment, still completed.
    pub payment_id: PaymentId,
    /// Whose it is.
    pub user_id: UserId,
    /// What it paid.
    pub reservation_id: ReservationId,
    /// Why not, in snake_case.
    pub reason: String,
}

/// Data of the `charge.*` events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeEvent {
    /// The charge.
    pub charge_id: PaymentId,
    /// Whose points.
    pub user_id: UserId,
    /// How many, one won each.
    pub amount: Won,
}

/// Data of `order.placed` and `order.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What is ordered, each item once.
    pub lines: Vec<OrderLine>,
    /// The price of all lines.
    pub total_price: Won,
}

/// Data of `order.failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFailed {
    /// The order.
    #[serde(flatten)]
    pub order: OrderEvent,
    /// Why.
    pub reason: OrderFailure,
}

/// Data of `order.reported`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReported {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
}

/// Data of `stock.deducted` and `stock.restored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockEvent {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// What was taken, or put back: nothing, if nothing had been taken.
    pub pieces: Vec<Pieces>,
}

/// Data of `stock.refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRefused {
    /// The order.
    pub order_id: OrderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Why: `out_of_stock` or `item_withdrawn`.
    pub reason: OrderFailure,
    /// Which items are the reason.
    pub items: Vec<ItemId>,
}

/// Data of `points.used` and `points.returned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsEvent {
    /// The order.
    pub order_id: OrderId,
    /// Whose points.
    pub user_id: UserId,
    /// What was used, or given back: nothing, if nothing had been used.
    pub amount: Won,
}

/// Data of `points.refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsRefused {
    /// The order.
    pub order_id: OrderId,
    /// Whose points.
    pub user_id: UserId,
    /// What it would have cost.
    pub amount: Won,
    /// Why: `insufficient_points`.
    pub reason: OrderFailure,
}

/// Data of `cart.cleared` and `cart.restored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartEvent {
    /// The order.
    pub order_id: OrderId,
    /// Whose cart.
    pub user_id: UserId,
    /// What was taken out, or put back: what of the order was in the cart.
    pub pieces: Vec<Pieces>,
}

/// Data of `fault.detected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDetected {
    /// Which fault: the same for every sign of the same one, so that it alerts once. For example
    /// `payment-stuck:<payment_id>`.
    pub fault: String,
    /// What is wrong, in one line, for a person who has to act.
    pub summary: String,
    /// What they need to act: ids, counts, the last error. Never a secret.
    pub detail: String,
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
            dataschema: "urn:encore:event:payment.failed:v1".into(),
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
