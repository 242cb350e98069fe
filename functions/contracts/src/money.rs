//! Whole Korean won. Points are counted in won too: one point is worth one won.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A non-negative whole amount of won, at most [`Won::MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Won(i64);

impl Won {
    /// The largest amount: 2^53 - 1, the largest whole number that every JSON parser keeps exact.
    pub const MAX: Won = Won(9_007_199_254_740_991);
    /// Nothing.
    pub const ZERO: Won = Won(0);

    /// Parses an amount.
    pub const fn new(won: i64) -> Result<Self, Invalid> {
        if won < 0 || won > Self::MAX.0 {
            return Err(Invalid::new("amount", "must be a whole number of won from 0 to 2^53-1"));
        }
        Ok(Self(won))
    }

    /// The amount as a number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The sum, or `None` past [`Won::MAX`].
    pub fn checked_add(self, other: Won) -> Option<Won> {
        self.0.checked_add(other.0).and_then(|n| Won::new(n).ok())
    }

    /// The difference, or `None` below zero.
    pub fn checked_sub(self, other: Won) -> Option<Won> {
        self.0.checked_sub(other.0).and_then(|n| Won::new(n).ok())
    }

    /// The sum of many, or `None` past [`Won::MAX`].
    pub fn checked_sum(amounts: impl IntoIterator<Item = Won>) -> Option<Won> {
        amounts.into_iter().try_fold(Won::ZERO, Won::checked_add)
    }
}

impl fmt::Display for Won {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<i64> for Won {
    type Error = Invalid;
    fn try_from(won: i64) -> Result<Self, Invalid> {
        Self::new(won)
    }
}

impl From<Won> for i64 {
    fn from(won: Won) -> i64 {
        won.0
    }
}

/// The most one charge may add, in won.
pub const MAX_CHARGE: i64 = 1_000_000_000;

/// The amount of a charge: 1 to [`MAX_CHARGE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeAmount(Won);

impl ChargeAmount {
    /// Parses the amount of a charge.
    pub fn new(won: i64) -> Result<Self, Invalid> {
        if (1..=MAX_CHARGE).contains(&won) {
            Won::new(won).map(Self)
        } else {
            Err(Invalid::new("amount", "must be 1 to 1000000000"))
        }
    }

    /// The amount.
    pub fn won(self) -> Won {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_never_negative_and_never_inexact() {
        assert!(Won::new(-1).is_err());
        assert!(Won::new(Won::MAX.get() + 1).is_err());
        assert_eq!(Won::MAX.checked_add(Won(1)), None);
        assert_eq!(Won(1).checked_sub(Won(2)), None);
        assert_eq!(Won::checked_sum([Won(1), Won(2)]), Some(Won(3)));
    }

    #[test]
    fn a_fraction_or_a_string_is_no_amount() {
        assert!(serde_json::from_str::<Won>("1.5").is_err());
        assert!(serde_json::from_str::<Won>("\"1\"").is_err());
    }

    #[test]
    fn a_charge_is_1_to_a_billion() {
        for bad in [0, -1, MAX_CHARGE + 1, i64::MIN, i64::MAX] {
            assert!(ChargeAmount::new(bad).is_err(), "{bad}");
        }
        assert_eq!(ChargeAmount::new(MAX_CHARGE).unwrap().won().get(), MAX_CHARGE);
    }
}
