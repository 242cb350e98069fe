//! Steps that one context asks of another while an HTTP request waits, by a synchronous Lambda invocation.
//!
//! Each is idempotent: repeating it with the same input leaves the same state and gives the same answer. A refusal is
//! an answer here, not an error, because the caller turns it into an HTTP status.

use crate::admission::AdmissionPlan;
use crate::seats::Section;
use crate::{ConcertId, ItemId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, Won};
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
    /// Until when a paid ticket is refunded; until it takes place when nothing else is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refundable_until: Option<Timestamp>,
}

impl OpenSchedule {
    /// Until when a paid ticket is refunded.
    pub fn refund_deadline(&self) -> Timestamp {
        self.refundable_until.unwrap_or(self.starts_at)
    }
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

/// `quote-refund` (reservations), asked by `start-refund`. Answers [`RefundQuote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRefund {
    /// Who asks.
    pub user_id: UserId,
    /// Which reservation.
    pub reservation_id: ReservationId,
    /// Which payment paid it.
    pub payment_id: PaymentId,
}

/// Whether a reservation can be refunded now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "quote", rename_all = "snake_case")]
pub enum RefundQuote {
    /// It can.
    Refundable,
    /// Its date's deadline has passed.
    TooLate {
        /// When that was.
        until: Timestamp,
    },
    /// It is not paid by this payment.
    NotRefundable,
}

/// `quote-items` (items), asked by orders whenever a price is written down. Answers [`ItemsQuote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteItems {
    /// Which items; at most [`crate::orders::MAX_LINES`].
    pub items: Vec<ItemId>,
}

/// What items are called and cost now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemsQuote {
    /// Those of the asked-for items that can be ordered, in any order. What is missing is unknown or withdrawn.
    pub items: Vec<QuotedItem>,
}

/// An item that can be ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotedItem {
    /// The item.
    pub item_id: ItemId,
    /// What it is called.
    pub name: String,
    /// The price of one piece.
    pub price: Won,
}

/// `pay-charge` (payments), asked by `charge-points` where a payment provider is configured: confirms the provider's
/// payment and has the points credited. Answers [`ChargePaid`]. The same charge again gives the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayCharge {
    /// Whose points.
    pub user_id: UserId,
    /// The caller's idempotency key: also the order id that was given to the provider.
    pub key: String,
    /// How much.
    pub amount: Won,
    /// The provider's name of the payment.
    pub payment_key: String,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// The request.
    pub correlation_id: String,
}

/// What became of a charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "charge", rename_all = "snake_case")]
pub enum ChargePaid {
    /// The points are there.
    Credited(CreditedCharge),
    /// The provider does not confirm this payment for this order and amount, or it was used for another charge.
    NotConfirmed {
        /// Why, a stable snake_case name.
        reason: String,
    },
    /// The balance cannot take it; the provider's payment is cancelled.
    BalanceLimit,
    /// The key was used with another amount or payment.
    KeyReused,
    /// It is on its way: ask again.
    Pending,
}

/// `credit-charge` (points), asked by payments once the provider has confirmed. Answers [`ChargeCredit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditCharge {
    /// Whose points.
    pub user_id: UserId,
    /// The caller's idempotency key: the ledger entry's key.
    pub key: String,
    /// The ledger entry's id.
    pub entry_id: String,
    /// How much.
    pub amount: Won,
    /// When it was asked for.
    pub requested_at: Timestamp,
}

/// What crediting came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "credit", rename_all = "snake_case")]
pub enum ChargeCredit {
    /// The entry is in the ledger, now or before.
    Credited(CreditedCharge),
    /// The balance would pass its limit, or the key is another entry's. It never will be.
    Refused {
        /// Why, a stable snake_case name.
        reason: String,
    },
}

/// A credited charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditedCharge {
    /// The ledger entry.
    pub entry_id: String,
    /// The balance after it.
    pub balance: Won,
}
