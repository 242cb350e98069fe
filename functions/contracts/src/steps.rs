//! Steps that one context calls in another, most of them within an HTTP request, by a synchronous Lambda invocation.
//!
//! Each is idempotent: a repeat with the same input leaves the same state and returns the same answer. A refusal is an
//! answer here, not an error, because the caller turns it into an HTTP status.

use crate::admission::AdmissionPlan;
use crate::seats::Section;
use crate::{ConcertId, ItemId, PaymentId, ReservationId, ScheduleId, SeatId, SectionName, Timestamp, UserId, Won};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;

/// `open-waiting-room` (waiting-room), called by `create-concert`. Answers [`Applied`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenWaitingRoom {
    /// The concert whose line to open.
    pub concert_id: ConcertId,
    /// When the concert was created: from then on the default plan applies.
    pub created_at: Timestamp,
}

/// `apply-admission` (reservations), called by waiting-room whenever a plan changes. Answers [`Applied`]. An older
/// version than the one in force changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyAdmission {
    pub concert_id: ConcertId,
    pub plan: AdmissionPlan,
}

/// `end-visit` (reservations), called by `leave-queue`: the user gave up their place. Answers [`Applied`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndVisit {
    pub user_id: UserId,
    pub concert_id: ConcertId,
    /// From when on none of the user's tokens issued before is accepted.
    pub at: Timestamp,
}

/// `open-schedule` (reservations), called by `create-schedule`: the terms a date is sold under. Answers [`Applied`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSchedule {
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    /// When it takes place.
    pub starts_at: Timestamp,
    /// The most tickets of a user for it: held, being paid and paid.
    pub max_per_user: u32,
    /// How long a hold lasts, in seconds.
    pub hold_seconds: u32,
    pub sections: Vec<Section>,
    /// Until when a paid ticket can be refunded; until `starts_at` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refundable_until: Option<Timestamp>,
    /// How many seats of a section are kept under one key of the database. All of them, if not given: so are those of dates
    /// of the releases before this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_per_block: Option<NonZeroU32>,
}

/// The seats of a block, of dates that are made from now on. A seat is written three times until it is sold, with two write
/// units each; so a hundred can all be sold within a second of the 1,000 units that a key has.
pub const SEATS_PER_BLOCK: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

impl OpenSchedule {
    /// The terms of a date, refundable until it starts.
    pub const fn new(
        schedule_id: ScheduleId,
        concert_id: ConcertId,
        starts_at: Timestamp,
        (max_per_user, hold_seconds): (u32, u32),
        sections: Vec<Section>,
    ) -> Self {
        Self {
            schedule_id,
            concert_id,
            starts_at,
            max_per_user,
            hold_seconds,
            sections,
            refundable_until: None,
            seats_per_block: Some(SEATS_PER_BLOCK),
        }
    }

    /// Which block of its section a seat is in, from 0, row by row; `None` if sections are not cut into blocks, or if there
    /// is no such seat.
    pub fn block_of(&self, seat: &SeatId) -> Option<u32> {
        let section = self.section(&seat.section)?;
        section.index_of(seat).zip(self.seats_per_block).map(|(index, seats)| index / seats)
    }

    /// How many blocks a section has; `None` if sections are not cut into blocks, or if there is no such section.
    pub fn blocks_of(&self, section: &SectionName) -> Option<u32> {
        let section = self.section(section)?;
        self.seats_per_block.map(|seats| section.seats().div_ceil(seats.get()))
    }

    fn section(&self, name: &SectionName) -> Option<&Section> {
        self.sections.iter().find(|section| section.section == *name)
    }

    /// Until when a paid ticket can be refunded.
    pub fn refund_deadline(&self) -> Timestamp {
        self.refundable_until.unwrap_or(self.starts_at)
    }
}

/// `list-taken-seats` (reservations), called by `rebuild-seat-map`. Answers [`TakenSeats`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListTakenSeats {
    pub schedule_id: ScheduleId,
    pub section: SectionName,
}

/// The seats of a section that are not free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenSeats {
    /// Those that are held or being paid.
    pub held: Vec<SeatId>,
    pub sold: Vec<SeatId>,
}

/// The answer of a step that puts something in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {}

/// `quote-reservation` (reservations), called by `start-payment`. Answers [`Quote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteReservation {
    /// The calling user; other users' reservations are not found.
    pub user_id: UserId,
    pub reservation_id: ReservationId,
}

/// What a reservation costs, if it can be paid.
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
    pub schedule_id: ScheduleId,
    pub concert_id: ConcertId,
    pub seats: Vec<SeatId>,
    /// The price of all of them.
    pub total_price: Won,
    /// When the hold ends.
    pub hold_expires_at: Timestamp,
    /// The position in line it was made with.
    pub queue_position: u64,
}

/// `extend-hold` (reservations), called by `request-extension`: a hold whose user buys points for it ends later, once.
/// Answers [`HoldExtension`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendHold {
    /// The calling user; other users' reservations are not found.
    pub user_id: UserId,
    pub reservation_id: ReservationId,
    /// Whether the user has an open charge intent. Without one no hold is extended; what was extended before is told.
    pub is_topping_up: bool,
}

/// What became of a hold that was to be extended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "extension", rename_all = "snake_case")]
pub enum HoldExtension {
    /// It is extended, now or before, and runs.
    Extended {
        /// When it ends.
        hold_expires_at: Timestamp,
    },
    /// It could be, but its user is not buying points.
    NotToppingUp,
    /// It is no running hold, or holds are not extended here.
    NotExtendable,
    /// This user has no such reservation.
    NotFound,
}

/// `quote-refund` (reservations), called by `start-refund`. Answers [`RefundQuote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteRefund {
    pub user_id: UserId,
    pub reservation_id: ReservationId,
    /// The payment that paid it.
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

/// `quote-items` (items), called by orders whenever a price is recorded. Answers [`ItemsQuote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteItems {
    /// The items; at most [`crate::orders::MAX_LINES`].
    pub items: Vec<ItemId>,
}

/// The current names and prices of items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemsQuote {
    /// Those of the requested items that are sold, in any order: also what is paused or sold out. A missing one is unknown or
    /// withdrawn.
    pub items: Vec<QuotedItem>,
}

/// An item that is sold. Whether it can be ordered now, it says itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotedItem {
    pub item_id: ItemId,
    pub name: String,
    /// The price of one unit.
    pub price: Won,
    /// Whether it cannot be ordered for now.
    #[serde(default)]
    pub paused: bool,
    /// How many units are left at the moment; the release before does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stock: Option<u64>,
    /// The most units that a user may have of it, over all of their orders; any number if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_per_user: Option<u32>,
}

/// `quote-balance` (points), called by `place-order`. Answers [`BalanceQuote`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuoteBalance {
    pub user_id: UserId,
}

/// What a user could pay at the moment. Whether they can is decided when it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceQuote {
    pub balance: Won,
}

/// `pay-charge` (payments), called by `charge-points` where a payment provider is configured: confirms the provider's
/// payment and has the points credited. Answers [`ChargePaid`]. The same charge again returns the same answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PayCharge {
    pub user_id: UserId,
    /// The caller's idempotency key: also the order id of a charge intent, which was given to the provider.
    pub key: String,
    pub amount: Won,
    /// The provider's id of the payment.
    pub payment_key: String,
    /// When it was requested.
    pub requested_at: Timestamp,
    pub correlation_id: String,
}

/// The outcome of a charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "charge", rename_all = "snake_case")]
pub enum ChargePaid {
    /// The points are credited.
    Credited(CreditedCharge),
    /// The user has no open charge intent of this order id and amount. The provider was not called.
    NoIntent,
    /// The provider does not confirm this payment for this order and amount.
    NotConfirmed {
        /// Why, a stable snake_case name.
        reason: String,
    },
    /// The balance would exceed its limit; the provider's payment is cancelled.
    BalanceLimit,
    /// The key was used with another amount or payment.
    KeyReused,
    /// It is in progress: retry.
    Pending,
}

/// `credit-charge` (points), called by payments once the provider has confirmed. Answers [`ChargeCredit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditCharge {
    pub user_id: UserId,
    /// The caller's idempotency key: the ledger entry's key.
    pub key: String,
    /// The ledger entry's id.
    pub entry_id: String,
    pub amount: Won,
    /// When it was requested.
    pub requested_at: Timestamp,
}

/// The outcome of crediting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "credit", rename_all = "snake_case")]
pub enum ChargeCredit {
    /// The entry is in the ledger, now or before.
    Credited(CreditedCharge),
    /// The balance would exceed its limit, or the key is another entry's. It is never credited.
    Refused {
        /// Why, a stable snake_case name.
        reason: String,
    },
}

/// `debit-withdrawal` (points), called by payments before money goes back: the points leave the account. Answers
/// [`WithdrawalDebit`]. `return-withdrawal` (points) takes the same, gives them back, and answers [`Applied`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DebitWithdrawal {
    pub user_id: UserId,
    /// The withdrawal: the ledger entries are keyed by it.
    pub withdrawal_id: PaymentId,
    pub amount: Won,
}

/// The outcome of debiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "debit", rename_all = "snake_case")]
pub enum WithdrawalDebit {
    /// The points are out, now or before.
    Debited,
    /// The balance was below the amount. They never go out, however late a repetition arrives.
    Insufficient,
}

/// A credited charge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreditedCharge {
    pub entry_id: String,
    /// The balance after it.
    pub balance: Won,
}
