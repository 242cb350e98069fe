//! Opaque identifiers. Those we mint are ULIDs, sortable by the time they were minted.

use crate::Invalid;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $max:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Parses an id: 1 to the type's limit of visible ASCII characters other than `#` (our key separator).
            pub fn parse(text: impl Into<String>) -> Result<Self, Invalid> {
                let text = text.into();
                if text.is_empty() || text.len() > $max {
                    return Err(Invalid::new($what, concat!("must have 1 to ", $max, " characters")));
                }
                if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
                    return Err(Invalid::new($what, "must be visible ASCII without '#'"));
                }
                Ok(Self(text))
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// A user, as the token issuer names them (`sub`). At most 128 characters.
    UserId, "user_id", 128
);
id!(
    /// A concert. Minted by concerts.
    ConcertId, "concert_id", 64
);
id!(
    /// One date of a concert. Minted by concerts.
    ScheduleId, "schedule_id", 64
);
id!(
    /// A reservation of one or more seats. Minted by reservations.
    ReservationId, "reservation_id", 64
);
id!(
    /// A payment, which is also the name of its saga execution and the idempotency key of every step of it.
    PaymentId, "payment_id", 64
);
id!(
    /// A piece of merchandise that can be ordered. Minted by items.
    ItemId, "item_id", 64
);
id!(
    /// An order, which is also the idempotency key of whatever a participant does for it. Minted by orders.
    OrderId, "order_id", 64
);
id!(
    /// A domain event. Consumers are idempotent by it.
    EventId, "event_id", 128
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_contains_the_key_separator_or_white_space() {
        for bad in ["", "a#b", "a b", "é", "a\n"] {
            assert!(UserId::parse(bad).is_err(), "{bad:?}");
        }
        assert!(UserId::parse("x".repeat(129)).is_err());
        assert_eq!(UserId::parse("alice@example.com").unwrap().as_str(), "alice@example.com");
    }

    #[test]
    fn a_wrong_id_is_refused_while_deserializing() {
        assert!(serde_json::from_str::<ConcertId>("\"a#b\"").is_err());
    }
}
