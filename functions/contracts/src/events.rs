//! Domain events: named after what happened, never after their consumers. CloudEvents-shaped JSON
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md>).
//!
//! The catalogue is `functions/contracts/events/`: for each type and version one JSON schema with an example. A change
//! that old consumers cannot read is a new version (`.v2`), published beside the old one until that has no consumers.

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
    /// The context that publishes it, for example `encore/payments`.
    pub source: String,
    /// When it happened.
    #[serde(with = "crate::time::rfc3339")]
    pub time: Timestamp,
    /// What it is about: the id of the reservation, payment, order.
    pub subject: String,
    /// The HTTP request that caused it.
    pub correlationid: String,
    /// The schema of the whole event: [`EventBody::schema`].
    #[serde(default)]
    pub dataschema: String,
    /// `type` and `data`.
    #[serde(flatten)]
    pub body: EventBody,
}

/// Declares the events: each variant with its data and the name of its type.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident($data:ty) = $name:literal,)*) => {
        /// What happened. The serialized tag is the event's `type` and the bus's `detail-type`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "type", content = "data")]
        pub enum EventBody {
            $($(#[$doc])* #[serde(rename = $name)] $variant($data),)*
        }

        impl EventBody {
            /// All types, in the order of the catalogue.
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

        /// The JSON schema (draft 2020-12) of an event type, including an example.
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
    /// A user checked the status of a queue token.
    QueueChecked(QueueChecked) = "queue.checked",
    /// An operator changed a concert's admission plan.
    AdmissionChanged(AdmissionChanged) = "admission.changed",
    /// A date is on sale.
    ScheduleOpened(ScheduleOpened) = "schedule.opened",
    /// The seat map could not apply a change of a reservation's seats, and never will.
    AvailabilityUpdateFailed(AvailabilityUpdateFailed) = "availability.update_failed",
    /// Seats are held.
    ReservationHeld(ReservationEvent) = "reservation.held",
    /// A hold ends later than it was to.
    ReservationExtended(ReservationEvent) = "reservation.extended",
    /// An asynchronous request for seats was refused.
    ReservationRejected(ReservationRejected) = "reservation.rejected",
    /// The seats are sold.
    ReservationPaid(ReservationEvent) = "reservation.paid",
    /// The hold or the request was cancelled: by its user, or because the system could not honour it.
    ReservationCancelled(ReservationCancelled) = "reservation.cancelled",
    /// The hold expired.
    ReservationExpired(ReservationEvent) = "reservation.expired",
    /// A paid reservation was refunded; its seats are free.
    ReservationRefunded(ReservationEvent) = "reservation.refunded",
    /// A payment is complete.
    PaymentCompleted(PaymentCompleted) = "payment.completed",
    /// A payment failed and everything it did is undone.
    PaymentFailed(PaymentFailed) = "payment.failed",
    /// A completed payment was paid back.
    PaymentRefunded(PaymentRefunded) = "payment.refunded",
    /// A refund could not be made; the sale stands.
    PaymentRefundFailed(PaymentRefundFailed) = "payment.refund_failed",
    /// Points were bought through the payment provider and are in the balance.
    ChargeCompleted(ChargeEvent) = "charge.completed",
    /// Points could not be credited; the provider's payment was cancelled.
    ChargeCancelled(ChargeEvent) = "charge.cancelled",
    /// Points were taken out: the money is back with its payer, by the provider or by an operator.
    WithdrawalCompleted(WithdrawalCompleted) = "withdrawal.completed",
    /// Points could not be taken out and are back in the balance.
    WithdrawalReturned(WithdrawalReturned) = "withdrawal.returned",
    /// An order was placed; stock, points and cart have yet to answer.
    OrderPlaced(OrderEvent) = "order.placed",
    /// All participants did their part: the order stands.
    OrderCompleted(OrderEvent) = "order.completed",
    /// An order failed; participants that did their part undo it.
    OrderFailed(OrderFailed) = "order.failed",
    /// An order was reported outside. Nothing depends on it.
    OrderReported(OrderReported) = "order.reported",
    /// All units of an order are taken from the stock.
    StockDeducted(StockEvent) = "stock.deducted",
    /// The stock cannot supply an order; nothing was taken.
    StockRefused(StockRefused) = "stock.refused",
    /// The stock no longer holds anything for an order, and never will.
    StockRestored(StockEvent) = "stock.restored",
    /// An order's price is taken from its user's balance.
    PointsUsed(PointsEvent) = "points.used",
    /// The balance is below an order's price; nothing was taken.
    PointsRefused(PointsRefused) = "points.refused",
    /// None of a user's points are used for an order any more, and never will be.
    PointsReturned(PointsEvent) = "points.returned",
    /// The ordered lines are out of the cart.
    CartCleared(CartEvent) = "cart.cleared",
    /// The lines that an order took out of the cart are back, and it will never take any again.
    CartRestored(CartEvent) = "cart.restored",
    /// Something needs an operator: it is stuck, or likely to be.
    FaultDetected(FaultDetected) = "fault.detected",
}

/// Data of `queue.joined`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueJoined {
    pub user_id: UserId,
    pub concert_id: ConcertId,
    pub position: u64,
    /// `waiting` or `active`.
    pub status: String,
}

/// Data of `queue.checked`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueChecked {
    pub user_id: UserId,
    pub concert_id: ConcertId,
    pub position: u64,
    /// The answer: `waiting`, `active`, `expired` or `used`.
    pub status: String,
}

/// Data of `admission.changed`: the plan after the change. The highest version counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdmissionChanged {
    pub concert_id: ConcertId,
    pub plan: AdmissionPlan,
    /// The operator's user id. Events of earlier releases have none.
    #[serde(default)]
    pub actor: String,
}

/// Data of `schedule.opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleOpened {
    pub schedule_id: ScheduleId,
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
    /// The reservation that has the seats.
    pub reservation_id: ReservationId,
    /// Its owner.
    pub user_id: UserId,
    pub schedule_id: ScheduleId,
    /// The seats that cannot be shown.
    pub seats: Vec<SeatId>,
    /// Why, for people.
    pub reason: String,
}

/// Data of the `reservation.*` events: the reservation after the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservationEvent {
    pub reservation_id: ReservationId,
    /// Its owner.
    pub user_id: UserId,
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
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

/// Why a reservation was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// Its owner cancelled it.
    #[default]
    User,
    /// The hold's end could not be scheduled, so it was undone (R20).
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
    /// The rejected reservation.
    pub reservation_id: ReservationId,
    /// Its owner.
    pub user_id: UserId,
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    /// The requested seats.
    pub seats: Vec<SeatId>,
    /// Why: a code of `POST /reservations`, for example `seat_taken`, or `timed_out`.
    pub reason: String,
}

/// Data of `payment.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCompleted {
    pub payment_id: PaymentId,
    pub user_id: UserId,
    pub reservation_id: ReservationId,
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    pub seats: Vec<SeatId>,
    pub amount: Won,
    /// The position in line that it spends.
    pub queue_position: u64,
}

/// Data of `payment.failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentFailed {
    pub payment_id: PaymentId,
    pub user_id: UserId,
    /// The reservation to be paid.
    pub reservation_id: ReservationId,
    /// Why it failed.
    pub failure: PaymentFailure,
}

/// Data of `payment.refunded`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefunded {
    pub payment_id: PaymentId,
    /// The user whose points were returned.
    pub user_id: UserId,
    /// The reservation that had been paid.
    pub reservation_id: ReservationId,
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    /// The seats, free again.
    pub seats: Vec<SeatId>,
    /// How much was returned.
    pub amount: Won,
}

/// Data of `payment.refund_failed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentRefundFailed {
    /// The payment, still completed.
    pub payment_id: PaymentId,
    pub user_id: UserId,
    pub reservation_id: ReservationId,
    /// Why it failed, in snake_case.
    pub reason: String,
}

/// Data of the `charge.*` events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChargeEvent {
    pub charge_id: PaymentId,
    pub user_id: UserId,
    /// How many, one won each.
    pub amount: Won,
}

/// Data of `withdrawal.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalCompleted {
    pub withdrawal_id: PaymentId,
    pub user_id: UserId,
    /// How many, one won each.
    pub amount: Won,
    /// The operator who paid it out; nobody, where the provider did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<UserId>,
}

/// Data of `withdrawal.returned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalReturned {
    pub withdrawal_id: PaymentId,
    pub user_id: UserId,
    /// How many, one won each.
    pub amount: Won,
    /// The provider's reason, a stable snake_case name.
    pub reason: String,
}

/// Data of `order.placed` and `order.completed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderEvent {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// The ordered lines, each item once.
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
    /// Who cancelled it, if that is why: its user, or an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<UserId>,
}

/// Data of `order.reported`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderReported {
    pub order_id: OrderId,
    pub user_id: UserId,
}

/// Data of `stock.deducted` and `stock.restored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockEvent {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// The units taken, or put back: none, if none had been taken.
    pub pieces: Vec<Pieces>,
}

/// Data of `stock.refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StockRefused {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// Why: `out_of_stock`, `item_withdrawn` or `item_limit_exceeded`.
    pub reason: OrderFailure,
    /// The items that are the reason.
    pub items: Vec<ItemId>,
}

/// Data of `points.used` and `points.returned`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsEvent {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// The points used, or returned: zero, if none had been used.
    pub amount: Won,
}

/// Data of `points.refused`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointsRefused {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// The price that the balance could not cover.
    pub amount: Won,
    /// Why: `insufficient_points`.
    pub reason: OrderFailure,
}

/// Data of `cart.cleared` and `cart.restored`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CartEvent {
    pub order_id: OrderId,
    pub user_id: UserId,
    /// The units taken out, or put back: those of the order that were in the cart.
    pub pieces: Vec<Pieces>,
}

/// Data of `fault.detected`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultDetected {
    /// The fault's name: the same for every occurrence of the same fault, so that it alerts once. For example
    /// `payment-stuck:<payment_id>`.
    pub fault: String,
    /// What is wrong, in one line, for the operator who has to act.
    pub summary: String,
    /// What the operator needs to act: ids, counts, the last error. Never a secret.
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
