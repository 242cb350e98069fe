//! Orders: what several contexts say about a line and about why an order failed.

use crate::events::{EventBody, OrderEvent};
use crate::{Invalid, ItemId, Timestamp, Won};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many different items one order, or one cart, may have.
pub const MAX_LINES: usize = 50;

/// How many pieces of an item: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(u32);

impl Quantity {
    /// The most pieces of one item in one order.
    pub const MAX: u32 = 10_000;

    /// Parses a number of pieces.
    pub fn new(pieces: i64) -> Result<Self, Invalid> {
        let wrong = Invalid::new("quantity", "must be a whole number from 1 to 10000");
        u32::try_from(pieces).ok().filter(|n| (1..=Self::MAX).contains(n)).map(Self).ok_or(wrong)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = Invalid;
    fn try_from(pieces: i64) -> Result<Self, Invalid> {
        Self::new(pieces)
    }
}

impl From<Quantity> for i64 {
    fn from(quantity: Quantity) -> i64 {
        quantity.0.into()
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A line of an order, its price fixed when the order was placed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    /// The item.
    pub item_id: ItemId,
    /// What it was called when the order was placed.
    pub name: String,
    /// The price of one piece.
    pub price: Won,
    /// How many pieces.
    pub quantity: Quantity,
}

impl OrderLine {
    /// The price of all pieces, or `None` past [`Won::MAX`].
    pub fn total(&self) -> Option<Won> {
        self.price.get().checked_mul(i64::from(self.quantity)).and_then(|won| Won::new(won).ok())
    }
}

/// Some pieces of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    /// The item.
    pub item_id: ItemId,
    /// How many.
    pub quantity: Quantity,
}

/// Where a participant stands with an order: in its own table, so that what comes late or again finds it, and in the
/// order's outbox row as `work_state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Nothing was heard of it.
    Pending,
    /// It did its part.
    Done,
    /// It refused, and did nothing.
    Refused,
    /// It heard that the order failed: its part is undone, or never will be done.
    Undone,
}

impl Work {
    /// Its name in tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Done => "done",
            Self::Refused => "refused",
            Self::Undone => "undone",
        }
    }
}

impl std::str::FromStr for Work {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Pending, Self::Done, Self::Refused, Self::Undone]
            .into_iter()
            .find(|work| work.as_str() == text)
            .ok_or(Invalid::new("work_state", "must be pending, done, refused or undone"))
    }
}

/// What a participant hears of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// It was placed: everybody does their part.
    Placed,
    /// It failed: everybody undoes it.
    Failed,
}

impl News {
    /// The news in an event, with the order they are of.
    pub fn of(body: EventBody) -> Option<(Self, OrderEvent)> {
        match body {
            EventBody::OrderPlaced(order) => Some((Self::Placed, order)),
            EventBody::OrderFailed(failed) => Some((Self::Failed, failed.order)),
            _ => None,
        }
    }
}

/// What a participant does about news of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Its part, or refuse.
    Do,
    /// Undo what it did, if anything, and see to it that it never will.
    Undo,
    /// Nothing but answer again: whoever asks may not have heard the answer.
    SayAgain,
    /// Nothing. The order was placed, but had failed before that was heard here (R12).
    Nothing,
}

/// The choreography, in one place: what news of an order come to for a participant whose work stands at `work`. Its writes
/// repeat this as their conditions.
pub const fn part_in(news: News, work: Work) -> Part {
    match (news, work) {
        (News::Placed, Work::Pending) => Part::Do,
        (News::Placed, Work::Done | Work::Refused) | (News::Failed, Work::Undone) => Part::SayAgain,
        (News::Placed, Work::Undone) => Part::Nothing,
        (News::Failed, Work::Pending | Work::Done | Work::Refused) => Part::Undo,
    }
}

/// For how long after it was placed an order is acted on, in milliseconds: 29 days. Participants know what they did for
/// one for 30 days; what comes later than that, out of dead letters that were sent again and again, could be done twice.
pub const ACTED_ON_MILLIS: i64 = 29 * 24 * 3600 * 1000;

/// Whether an order that was placed at a moment is too old to be acted on.
pub fn is_forgotten(placed_at: Timestamp, now: Timestamp) -> bool {
    now.millis_since(placed_at) > ACTED_ON_MILLIS
}

/// Why an order failed: the `failure` of `GET /orders/{id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderFailure {
    /// There were not as many pieces as one of its lines wants.
    OutOfStock,
    /// An item was taken off the shop after the order was placed.
    ItemWithdrawn,
    /// The balance is below the price.
    InsufficientPoints,
    /// Some participant did not answer in time.
    TimedOut,
}

impl OrderFailure {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::ItemWithdrawn => "item_withdrawn",
            Self::InsufficientPoints => "insufficient_points",
            Self::TimedOut => "timed_out",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_at_least_one_piece_and_bounded() {
        for wrong in [-1, 0, 10_001, i64::from(u32::MAX) + 2, i64::MAX] {
            assert!(Quantity::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Quantity::new(10_000).map(Quantity::get), Ok(10_000));
    }

    #[test]
    fn an_order_that_failed_is_never_done_and_whoever_asks_again_is_answered() {
        let parts = |news| [Work::Pending, Work::Done, Work::Refused, Work::Undone].map(|work| part_in(news, work));
        assert_eq!(parts(News::Placed), [Part::Do, Part::SayAgain, Part::SayAgain, Part::Nothing]);
        assert_eq!(parts(News::Failed), [Part::Undo, Part::Undo, Part::Undo, Part::SayAgain]);
    }

    #[test]
    fn the_total_of_a_line_never_overflows() {
        let line = |price| OrderLine {
            item_id: ItemId::parse("i").unwrap(),
            name: "poster".into(),
            price,
            quantity: Quantity(10_000),
        };
        assert_eq!(line(Won::MAX).total(), None);
        assert_eq!(line(Won::new(3).unwrap()).total(), Won::new(30_000).ok());
    }
}
