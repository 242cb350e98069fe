//! Generates ids: ULIDs, sortable by the time they were generated.

use contracts::{ConcertId, EventId, Invalid, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, Timestamp};

/// A fresh ULID at `now`, as text: 26 characters of Crockford's base 32.
pub fn ulid(now: Timestamp) -> String {
    let millis = u64::try_from(now.millis()).unwrap_or(0);
    ulid::Ulid::from_parts(millis, fastrand::u128(..)).to_string()
}

/// Ids that can be generated.
pub trait Mint: Sized {
    /// A fresh id.
    fn mint(now: Timestamp) -> Self;
}

macro_rules! mint {
    ($($name:ty),*) => {$(
        impl Mint for $name {
            fn mint(now: Timestamp) -> Self {
                // A ULID is 26 characters of base 32, which every id type accepts; the loop avoids a panic path.
                loop {
                    let parsed: Result<Self, Invalid> = Self::parse(ulid(now));
                    if let Ok(id) = parsed {
                        return id;
                    }
                }
            }
        }
    )*};
}

mint!(ConcertId, EventId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId);
