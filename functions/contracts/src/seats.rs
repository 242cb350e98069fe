//! The address of a seat and the layout of a hall: which seats exist, and in what order.

use crate::{Invalid, Won};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most seats of a date.
pub const MAX_SEATS_PER_SCHEDULE: u32 = 100_000;

/// A section of the hall: 1 to 8 of `A-Z` and `0-9`, for example `A` or `R2`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SectionName(String);

impl SectionName {
    /// Parses a section name.
    pub fn parse(text: impl Into<String>) -> Result<Self, Invalid> {
        let text = text.into();
        if (1..=8).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit()) {
            Ok(Self(text))
        } else {
            Err(Invalid::new("section", "must be 1 to 8 of A-Z and 0-9"))
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SectionName {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(text)
    }
}

impl From<SectionName> for String {
    fn from(name: SectionName) -> String {
        name.0
    }
}

/// One seat: `SECTION-ROW-NUMBER`, for example `A-12-7`. Rows and numbers count from 1, without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SeatId {
    pub section: SectionName,
    /// The row within the section, from 1.
    pub row: u32,
    /// The number within the row, from 1.
    pub number: u32,
}

impl SeatId {
    /// Parses a seat id. A seat has exactly one spelling, so that ids can be compared as text.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = Invalid::new("seat_id", "must be SECTION-ROW-NUMBER, for example A-12-7");
        let mut parts = text.split('-');
        let (Some(section), Some(row), Some(number), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong);
        };
        let count = |digits: &str| -> Result<u32, Invalid> {
            let canonical = !digits.starts_with('0') && digits.len() <= 6 && digits.bytes().all(|b| b.is_ascii_digit());
            if canonical { digits.parse().map_err(|_| wrong.clone()) } else { Err(wrong.clone()) }
        };
        Ok(Self {
            section: SectionName::parse(section).map_err(|_| wrong.clone())?,
            row: count(row)?,
            number: count(number)?,
        })
    }
}

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.section, self.row, self.number)
    }
}

impl TryFrom<String> for SeatId {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Self, Invalid> {
        Self::parse(&text)
    }
}

impl From<SeatId> for String {
    fn from(seat: SeatId) -> String {
        seat.to_string()
    }
}

/// One section of a date: `rows` of `seats_per_row` seats each, at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Its name, unique within the date.
    pub section: SectionName,
    /// The grade shown to people, for example `VIP`.
    pub grade: String,
    /// The price of every seat in it.
    pub price: Won,
    /// How many rows, from 1.
    pub rows: u32,
    /// How many seats each row has, from 1.
    pub seats_per_row: u32,
}

impl Section {
    /// A section from its parts.
    pub const fn new(section: SectionName, grade: String, price: Won, rows: u32, seats_per_row: u32) -> Self {
        Self { section, grade, price, rows, seats_per_row }
    }

    /// How many seats the section has.
    pub fn seats(&self) -> u32 {
        self.rows.saturating_mul(self.seats_per_row)
    }

    /// The index of a seat in the section, from 0 row by row, if the seat exists.
    pub fn index_of(&self, seat: &SeatId) -> Option<u32> {
        let exists = seat.section == self.section
            && (1..=self.rows).contains(&seat.row)
            && (1..=self.seats_per_row).contains(&seat.number);
        exists.then(|| (seat.row - 1) * self.seats_per_row + (seat.number - 1))
    }

    /// The seat at an index: the inverse of [`Section::index_of`].
    pub fn seat_at(&self, index: u32) -> Option<SeatId> {
        (index < self.seats()).then(|| SeatId {
            section: self.section.clone(),
            row: index / self.seats_per_row + 1,
            number: index % self.seats_per_row + 1,
        })
    }
}

/// The public state of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SeatStatus {
    /// Free.
    Available,
    /// Held, or being paid.
    Held,
    /// Sold.
    Sold,
}

/// The attributes of a seat in the reservations table, which its stream delivers to the seat map.
///
/// A free seat has no item: the removal of the item means that it is free again.
pub mod stream {
    /// Attribute `kind` of every item; seats have [`KIND_SEAT`].
    pub const KIND: &str = "kind";
    /// Value of [`KIND`] on a seat.
    pub const KIND_SEAT: &str = "seat";
    /// Attribute with the schedule id (string).
    pub const SCHEDULE_ID: &str = "schedule_id";
    /// Attribute with the seat id (string).
    pub const SEAT_ID: &str = "seat_id";
    /// Attribute with the id of the reservation that has the seat (string).
    pub const RESERVATION_ID: &str = "reservation_id";
    /// Attribute with the id of that reservation's owner (string).
    pub const USER_ID: &str = "user_id";
    /// Attribute with the state: one of the three below.
    pub const STATUS: &str = "status";
    /// Held until `hold_expires_at`.
    pub const HELD: &str = "held";
    /// Being paid: no longer free at that time.
    pub const PAYING: &str = "paying";
    /// Sold.
    pub const SOLD: &str = "sold";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn section() -> Section {
        Section::new(SectionName::parse("A").unwrap(), "VIP".into(), Won::new(100).unwrap(), 3, 7)
    }

    #[test]
    fn a_seat_has_exactly_one_spelling() {
        for bad in ["A-1", "A-01-1", "A-1-0", "a-1-1", "A-1-1-1", "A--1", "A-1-+1", "A-1-1 ", "A-9999999-1", ""] {
            assert!(SeatId::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(SeatId::parse("A-12-7").unwrap().to_string(), "A-12-7");
    }

    #[test]
    fn index_and_seat_are_each_others_inverse() {
        let section = section();
        for index in 0..section.seats() {
            assert_eq!(section.index_of(&section.seat_at(index).unwrap()), Some(index));
        }
        assert_eq!(section.seat_at(21), None);
        assert_eq!(section.index_of(&SeatId::parse("A-4-1").unwrap()), None);
        assert_eq!(section.index_of(&SeatId::parse("A-1-8").unwrap()), None);
        assert_eq!(section.index_of(&SeatId::parse("B-1-1").unwrap()), None);
    }
}
