//! The tables of a stack, read into memory. No judgement yet.
//!
//! The shapes are parsed here independently of the code that writes them: an auditor that shared the readers of the
//! audited would share their mistakes.

use contracts::admission::AdmissionPlan;
use contracts::choreography::ParticipantState;
use contracts::orders::{OrderLine, Pieces};
use contracts::saga::PaymentSaga;
use contracts::steps::OpenSchedule;
use contracts::{
    ConcertId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, SeatId, SectionName, Timestamp, UserId,
};
use std::collections::{BTreeMap, BTreeSet};

/// All tables and the queues that matter, as of [`Snapshot::now`].
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// When the reading ended. Whatever expired until then counts as over.
    pub now: Timestamp,
    /// Seats that are held or sold, by date and seat.
    pub seats: BTreeMap<(ScheduleId, SeatId), Seat>,
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// What users have of a concert.
    pub entitlements: BTreeMap<(UserId, ConcertId), Entitlement>,
    /// The terms that reservations sells under.
    pub terms: BTreeMap<ScheduleId, OpenSchedule>,
    /// The version of the admission plan that reservations enforces.
    pub enforced_plans: BTreeMap<ConcertId, u64>,
    pub accounts: BTreeMap<UserId, Account>,
    pub payments: BTreeMap<PaymentId, Payment>,
    /// Points that were, or are being, taken out.
    pub withdrawals: BTreeMap<PaymentId, Withdrawal>,
    /// Charges that are paid for at the payment provider.
    pub charges: BTreeMap<PaymentId, Charge>,
    /// Waiting rooms.
    pub lines: BTreeMap<ConcertId, Line>,
    /// Dates as the catalogue has them.
    pub dates: BTreeMap<ScheduleId, OpenSchedule>,
    /// Counts in the lists of dates.
    pub date_rows: BTreeMap<ScheduleId, DateRow>,
    /// Seat maps as users see them.
    pub maps: BTreeMap<(ScheduleId, SectionName), SectionMap>,
    /// Merchandise.
    pub items: BTreeMap<ItemId, Item>,
    pub orders: BTreeMap<OrderId, Order>,
    /// What participants did for orders, as each recorded it.
    pub jobs: BTreeMap<(OrderId, Participant), Job>,
    /// How many units of a limited item a user has, as the limit counts them.
    pub bought: BTreeMap<(UserId, ItemId), i64>,
    /// The state of each participant's work as orders recorded it from their events, by the participant's name.
    pub work_states: BTreeMap<OrderId, BTreeMap<String, ParticipantState>>,
    /// Events, by id.
    pub outbox: BTreeMap<String, OutboxRow>,
    /// What consumers did with events: consumer and event, and when it was done; `None` while it is in progress.
    pub deliveries: BTreeMap<(String, String), Option<Timestamp>>,
    /// Cash receipts for seats.
    pub receipts: BTreeMap<PaymentId, Receipt>,
    /// Cash receipts for merchandise.
    pub order_receipts: BTreeMap<OrderId, Receipt>,
    /// Payments that were parked for the on-call to finish.
    pub parked: BTreeSet<PaymentId>,
    /// Messages that a consumer could not handle: the queue and how many.
    pub dead_letters: BTreeMap<String, u64>,
    /// Items that do not match their table's documentation: table, key and what is wrong.
    pub unreadable: Vec<String>,
}

/// A seat that is held or sold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seat {
    /// The block of its section that its key names; none where sections are not cut into blocks.
    pub block: Option<u32>,
    pub state: SeatState,
    /// Which reservation has it.
    pub reservation: ReservationId,
    pub user: UserId,
    /// Until when nobody else can have it; absent once sold.
    pub hold_expires_at: Option<Timestamp>,
    /// The payment that has it.
    pub payment: Option<PaymentId>,
}

/// The state of a seat that is not free.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeatState {
    /// Held.
    Held,
    /// Being paid.
    Paying,
    /// Sold.
    Sold,
}

/// Where a reservation is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of infra/openapi.yaml")]
pub enum ReservationStatus {
    Pending,
    Held,
    Paying,
    Paid,
    Cancelled,
    Expired,
    Rejected,
    Refunded,
}

impl ReservationStatus {
    /// Whether its tickets count.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Held | Self::Paying | Self::Paid)
    }

    /// Whether its seats may be nobody's yet although it has ended.
    pub const fn may_keep_seats(self) -> bool {
        matches!(self, Self::Cancelled | Self::Expired | Self::Refunded)
    }
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub user: UserId,
    pub schedule: ScheduleId,
    pub concert: ConcertId,
    pub seats: Vec<SeatId>,
    /// Their price, in won.
    pub total_price: i64,
    /// The place in line it was made with.
    pub queue_position: u64,
    /// Where it is in its life.
    pub status: ReservationStatus,
    /// When its hold ends or ended.
    pub hold_expires_at: Timestamp,
    /// When it was made.
    pub created_at: Timestamp,
    /// The payment that has it.
    pub payment: Option<PaymentId>,
    /// When the sweep finds it, if it does.
    pub due_at: Option<Timestamp>,
    /// Until when its seats are kept back after its end, if they are.
    pub seats_free_at: Option<Timestamp>,
    /// When its hold would have ended, if that was extended.
    pub extended_from: Option<Timestamp>,
    /// Whether the sweep of pending requests finds it.
    pub in_waiting_index: bool,
    /// Whether it ended before it was decided.
    pub withdrawn: bool,
}

/// What a user has of a concert.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entitlement {
    /// Tickets by date.
    pub tickets: BTreeMap<ScheduleId, i64>,
    /// Places in line that were spent, and when.
    pub spent: BTreeMap<u64, Timestamp>,
}

/// A user's points.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Account {
    /// The balance, in won.
    pub balance: i64,
    /// How many entries were ever made.
    pub sequence: u64,
    /// How many entries it holds itself according to the account.
    pub hot: u64,
    /// All entries, archived ones too, in no order.
    pub entries: Vec<Entry>,
    /// The keys that guard although their entries are archived.
    pub archived_keys: BTreeSet<String>,
    /// Tombstones, of what must never be entered any more: charges by their entry's key, uses by their payment.
    pub closed: BTreeSet<String>,
}

/// An entry of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub id: String,
    /// What it adds, in won; below zero for a use.
    pub adds: i64,
    /// The balance after it.
    pub balance_after: i64,
    /// Its place, from 1.
    pub sequence: u64,
    /// Whether it stands in an archive.
    pub archived: bool,
}

/// Where a payment is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of infra/openapi.yaml")]
pub enum PaymentStatus {
    Pending,
    Completed,
    Failed,
    Refunding,
    Refunded,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The input of its saga.
    pub saga: PaymentSaga,
    /// Where it is in its life.
    pub status: PaymentStatus,
    /// Its amount, in won, as the payment's own item has it.
    pub amount: i64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When its refund was asked for.
    pub refund_requested_at: Option<Timestamp>,
    /// When it was refunded.
    pub refunded_at: Option<Timestamp>,
    /// Whether the recovery can find it.
    pub in_recovery_index: bool,
}

/// Where a charge is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of functions/payments/src/domain/charges.rs")]
pub enum ChargeStatus {
    Pending,
    Confirmed,
    Credited,
    Refused,
    Cancelling,
    Cancelled,
}

impl ChargeStatus {
    /// Whether it still has to come to an end.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Confirmed | Self::Cancelling)
    }
}

/// A charge that is paid for at the payment provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub user: UserId,
    /// The key it was asked for with.
    pub key: String,
    /// How much, in won.
    pub amount: i64,
    /// The provider's key of the payment.
    pub payment_key: String,
    /// Where it is in its life.
    pub status: ChargeStatus,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Whether the recovery can find it.
    pub in_recovery_index: bool,
    /// How much of it was taken out, or is being, in won.
    pub withdrawn: i64,
}

/// Where a withdrawal is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of functions/payments/src/domain/withdrawals.rs")]
pub enum WithdrawalStatus {
    Requested,
    Debited,
    Paid,
    PaidOut,
    Returning,
    Returned,
    Refused,
}

/// Points that a user takes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawal {
    pub user: UserId,
    /// How much, in won.
    pub amount: i64,
    /// The charge whose payment is cancelled in part; `None` where an operator pays.
    pub charge: Option<PaymentId>,
    /// Where it is in its life.
    pub status: WithdrawalStatus,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// Whether the schedule can find it.
    pub in_schedule_index: bool,
    /// Whether operators can find it.
    pub in_payout_index: bool,
}

/// A cash receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Whether the provider issued it.
    pub issued: bool,
    /// Whether it was cancelled.
    pub cancelled: bool,
}

/// A waiting room.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Line {
    pub plan: Option<AdmissionPlan>,
    /// Which counters it has now.
    pub stripe: Option<Stripe>,
    /// Whether it is listed among those with a gate.
    pub is_gated: bool,
    /// The counters, by stripe and shard.
    pub counters: BTreeMap<(u64, u32), Counter>,
    /// The places, by user.
    pub places: BTreeMap<UserId, UserPlace>,
    /// Places that were spent, and on which payment; on none when they were given up.
    pub used: BTreeSet<(u64, Option<PaymentId>)>,
}

/// The counters of a waiting room, after those that it had before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripe {
    pub number: u64,
    /// How many counters.
    pub shards: u32,
    /// The last position of those before.
    pub after_position: u64,
    /// Their last turn.
    pub after_turn: u64,
}

/// A counter of a waiting room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counter {
    /// How many places it gave out.
    pub issued: u64,
    /// How many turns it gave out or skipped.
    pub turn: u64,
}

/// A user's place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserPlace {
    /// Position and turn; none while a request is being given them, or once they were given up.
    pub place: Option<(u64, u64)>,
    /// How many places of the user are nobody's any more, at most: given up, or lost by requests that died.
    pub vacant: u64,
}

impl Line {
    /// Whether a position was given out.
    pub fn has_given_out(&self, position: u64) -> bool {
        let Some(stripe) = self.stripe else { return false };
        let Some(behind) = position.checked_sub(stripe.after_position + 1) else { return position > 0 };
        let shards = u64::from(stripe.shards.max(1));
        let shard = u32::try_from(behind % shards).unwrap_or(u32::MAX);
        self.counters.get(&(stripe.number, shard)).is_some_and(|counter| counter.issued > behind / shards)
    }

    /// The last turn that was given out.
    pub fn last_turn(&self) -> u64 {
        let Some(stripe) = self.stripe else { return 0 };
        let of = |(shard, counter): (u32, &Counter)| match counter.turn {
            0 => stripe.after_turn,
            turn => stripe.after_turn + (turn - 1) * u64::from(stripe.shards.max(1)) + u64::from(shard) + 1,
        };
        let counters = self.counters.iter().filter(|((number, _), _)| *number == stripe.number);
        counters.map(|((_, shard), counter)| of((*shard, counter))).max().unwrap_or(0)
    }
}

/// A date's counts in the list of dates.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DateRow {
    /// Its seats, if it is shown.
    pub seats_total: Option<i64>,
    /// Held and sold seats by section.
    pub taken: BTreeMap<SectionName, i64>,
}

/// A section's map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionMap {
    /// Two bits a seat, row by row: 0 available, 1 held, 2 sold.
    pub seats: Vec<u8>,
    /// How many are held, as the map counts them.
    pub held: i64,
    /// How many are sold, as the map counts them.
    pub sold: i64,
}

impl SectionMap {
    /// The two bits of a seat; 0 beyond the end.
    pub fn code(&self, index: u32) -> u8 {
        let byte = self.seats.get(index as usize / 4).copied().unwrap_or(0);
        (byte >> (2 * (index % 4))) & 0b11
    }
}

/// An item of merchandise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// How many are left to sell.
    pub stock: i64,
    /// How many belong to orders.
    pub sold: i64,
    /// How many there ever were.
    pub received: i64,
    /// Since when it is sold.
    pub created_at: Timestamp,
}

/// Where an order is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names of infra/openapi.yaml")]
pub enum OrderStatus {
    Pending,
    Completed,
    Failed,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    pub user: UserId,
    /// Where it is in its life.
    pub status: OrderStatus,
    pub lines: Vec<OrderLine>,
    /// The price, in won, as the order's own item has it.
    pub total_price: i64,
    /// When it was placed.
    pub placed_at: Timestamp,
    /// When the sweep finds it, if it does.
    pub due_at: Option<Timestamp>,
}

impl Order {
    /// Whether it has come to rest: completed, or failed and undone.
    pub const fn is_quiet(&self) -> bool {
        matches!(self.status, OrderStatus::Completed)
            || matches!(self.status, OrderStatus::Failed) && self.due_at.is_none()
    }
}

/// What an order depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Participant {
    /// Takes the units.
    Stock,
    /// Takes the price.
    Points,
    /// Takes the lines out of the cart.
    Cart,
}

impl Participant {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Stock, Self::Points, Self::Cart];

    /// Its name in an order's work state and in its events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stock => "stock",
            Self::Points => "points",
            Self::Cart => "cart",
        }
    }

    /// The event that publishes this state of its work.
    pub const fn says(self, work: ParticipantState) -> Option<&'static str> {
        match (self, work) {
            (_, ParticipantState::Pending) => None,
            (Self::Stock, ParticipantState::Done) => Some("stock.deducted"),
            (Self::Stock, ParticipantState::Refused) => Some("stock.refused"),
            (Self::Stock, ParticipantState::Undone) => Some("stock.restored"),
            (Self::Points, ParticipantState::Done) => Some("points.used"),
            (Self::Points, ParticipantState::Refused) => Some("points.refused"),
            (Self::Points, ParticipantState::Undone) => Some("points.returned"),
            (Self::Cart, ParticipantState::Done) => Some("cart.cleared"),
            // The cart has no reason to refuse.
            (Self::Cart, ParticipantState::Refused) => None,
            (Self::Cart, ParticipantState::Undone) => Some("cart.restored"),
        }
    }
}

/// What a participant did for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    pub work: ParticipantState,
    /// The units that were taken: of the stock only.
    pub pieces: Vec<Pieces>,
    /// Which of their items count towards a user's limit.
    pub counted: Vec<ItemId>,
}

/// An event in an outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    pub event_type: String,
    /// The violations of its schema.
    pub wrong: Vec<String>,
    /// Whether it was published.
    pub published: bool,
    /// When it happened.
    pub happened_at: Timestamp,
    /// Since when it is pending, or was.
    pub created_at: Timestamp,
}
