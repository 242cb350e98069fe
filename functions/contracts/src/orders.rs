//! Orders: the types that several contexts share about order lines and why an order failed.

use crate::{Invalid, ItemId, Won};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How many different items one order, or one cart, may have.
pub const MAX_LINES: usize = 50;

/// How many units of an item: 1 to [`Quantity::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Quantity(u32);

impl Quantity {
    /// The most units of one item in one order.
    pub const MAX: u32 = 10_000;

    /// Parses a quantity.
    pub fn new(units: i64) -> Result<Self, Invalid> {
        let wrong = Invalid::new("quantity", "must be a whole number from 1 to 10000");
        u32::try_from(units).ok().filter(|n| (1..=Self::MAX).contains(n)).map(Self).ok_or(wrong)
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Quantity {
    type Error = Invalid;
    fn try_from(units: i64) -> Result<Self, Invalid> {
        Self::new(units)
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
    pub item_id: ItemId,
    /// Its name when the order was placed.
    pub name: String,
    /// The price of one unit.
    pub price: Won,
    pub quantity: Quantity,
}

impl OrderLine {
    /// The price of all units, or `None` past [`Won::MAX`].
    pub fn total(&self) -> Option<Won> {
        self.price.get().checked_mul(i64::from(self.quantity)).and_then(|won| Won::new(won).ok())
    }
}

/// A quantity of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pieces {
    pub item_id: ItemId,
    pub quantity: Quantity,
}

/// Why an order failed: the `failure` of `GET /orders/{id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderFailure {
    /// The stock of an item was below the ordered quantity.
    OutOfStock,
    /// An item was withdrawn after the order was placed.
    ItemWithdrawn,
    /// Its user would have more units of an item than anybody may have.
    ItemLimitExceeded,
    /// The balance is below the price.
    InsufficientPoints,
    /// A participant did not answer in time.
    TimedOut,
    /// Its user, or an operator, cancelled it.
    Cancelled,
}

impl OrderFailure {
    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OutOfStock => "out_of_stock",
            Self::ItemWithdrawn => "item_withdrawn",
            Self::ItemLimitExceeded => "item_limit_exceeded",
            Self::InsufficientPoints => "insufficient_points",
            Self::TimedOut => "timed_out",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it is for certain items.
    pub const fn names_items(self) -> bool {
        matches!(self, Self::OutOfStock | Self::ItemWithdrawn | Self::ItemLimitExceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_at_least_one_unit_and_bounded() {
        for wrong in [-1, 0, 10_001, i64::from(u32::MAX) + 2, i64::MAX] {
            assert!(Quantity::new(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Quantity::new(10_000).map(Quantity::get), Ok(10_000));
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
