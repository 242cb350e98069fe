//! Timestamps: epoch milliseconds internally, RFC 3339 on the wire.

use crate::Invalid;
use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
///
/// Serializes as a number, as in tables, saga inputs and queue tokens. HTTP bodies and events use
/// [`Timestamp::rfc3339`] (`#[serde(with = "contracts::time::rfc3339")]`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The latest time we accept: 9999-12-31T23:59:59.999Z, the end of RFC 3339.
    pub const MAX: Timestamp = Timestamp(253_402_300_799_999);

    /// From epoch milliseconds.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Epoch milliseconds.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Epoch seconds for a DynamoDB TTL attribute, rounded up so that nothing is deleted early.
    pub const fn ttl_seconds(self) -> i64 {
        self.0.div_euclid(1000) + (self.0.rem_euclid(1000) != 0) as i64
    }

    /// This moment moved by `millis`, clamped to the representable range.
    pub const fn plus_millis(self, millis: i64) -> Self {
        let moved = self.0.saturating_add(millis);
        if moved > Self::MAX.0 { Self::MAX } else { Self(moved) }
    }

    /// This moment moved by `seconds`.
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        self.plus_millis(seconds.saturating_mul(1000))
    }

    /// Milliseconds from `earlier` to this moment; negative if this is before.
    pub const fn millis_since(self, earlier: Timestamp) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// RFC 3339 in UTC with milliseconds, for example `2026-11-20T11:00:00.000Z`.
    pub fn rfc3339(self) -> String {
        let format =
            ::time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000_000)
            .ok()
            .and_then(|moment| moment.format(&format).ok())
            .unwrap_or_else(|| self.0.to_string())
    }

    /// Parses RFC 3339 with any offset, between 1970 and 9999.
    pub fn parse_rfc3339(text: &str) -> Result<Self, Invalid> {
        let wrong = Invalid::new("time", "must be RFC 3339, for example 2026-11-20T20:00:00+09:00");
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| wrong.clone())?;
        let millis = i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000_000)).map_err(|_| wrong.clone())?;
        if (0..=Self::MAX.0).contains(&millis) { Ok(Self(millis)) } else { Err(wrong) }
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rfc3339())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        i64::deserialize(deserializer).map(Self)
    }
}

/// `#[serde(with = "contracts::time::rfc3339")]`: a [`Timestamp`] as RFC 3339 text.
pub mod rfc3339 {
    use super::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes RFC 3339.
    pub fn serialize<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&at.rfc3339())
    }

    /// Reads RFC 3339.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        let text = String::deserialize(deserializer)?;
        Timestamp::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }

    /// The same for a time that may be unknown (`null`).
    pub mod option {
        use super::Timestamp;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        /// Writes RFC 3339 or `null`.
        pub fn serialize<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
            at.map(Timestamp::rfc3339).serialize(serializer)
        }

        /// Reads RFC 3339 or `null`.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
            Option::<String>::deserialize(deserializer)?
                .map(|text| Timestamp::parse_rfc3339(&text))
                .transpose()
                .map_err(serde::de::Error::custom)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_wire_to_the_millisecond() {
        let at = Timestamp::from_millis(1_795_000_000_123);
        assert_eq!(Timestamp::parse_rfc3339(&at.rfc3339()), Ok(at));
        assert_eq!(
            Timestamp::parse_rfc3339("2026-11-20T20:00:00+09:00").unwrap().rfc3339(),
            "2026-11-20T11:00:00.000Z"
        );
    }

    #[test]
    fn years_outside_1970_to_9999_are_refused() {
        assert!(Timestamp::parse_rfc3339("1969-12-31T23:59:59Z").is_err());
        assert!(Timestamp::parse_rfc3339("tomorrow").is_err());
    }

    #[test]
    fn a_ttl_is_never_early() {
        assert_eq!(Timestamp::from_millis(1_001).ttl_seconds(), 2);
        assert_eq!(Timestamp::from_millis(1_000).ttl_seconds(), 1);
    }
}
