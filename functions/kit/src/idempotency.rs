//! Idempotency keys: the same key with the same body gives the first answer again, for 24 hours, per user.
//!
//! The row is written in the transaction of the effect it remembers, so there is never one without the other. A
//! refused request wrote nothing and may be tried again under its key.

use crate::dynamo::{self, Item, PK, Read, SK, TTL, Table, s};
use crate::{Call, Fault, Problem, Reply};
use aws_sdk_dynamodb::types::{Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem};
use base64::Engine as _;
use contracts::{Timestamp, UserId};
use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long a key is remembered.
pub const REMEMBERED_SECONDS: i64 = 24 * 3600;

/// A key given by the caller and the request it was given with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 64 of `A-Za-z0-9_-`.
    pub key: String,
    /// SHA-256 of route and body, so that a key is not taken for another request.
    pub fingerprint: String,
}

impl IdempotencyKey {
    /// The `Idempotency-Key` of a call to `route`, if it has one.
    pub fn of(call: &Call, route: &str) -> Result<Option<Self>, Problem> {
        let Some(value) = call.headers.get("idempotency-key") else { return Ok(None) };
        let key = value.to_str().unwrap_or_default();
        let fits =
            (1..=64).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if !fits {
            return Err(Problem::invalid("Idempotency-Key: must be 1 to 64 of A-Z a-z 0-9 _ -"));
        }
        call.check_size()?;
        Ok(Some(Self { key: key.to_owned(), fingerprint: fingerprint(route, &call.body) }))
    }

    /// The same where a key is required: 400 `idempotency_key_required` without one.
    pub fn required(call: &Call, route: &str) -> Result<Self, Problem> {
        Self::of(call, route)?.ok_or_else(|| {
            Problem::new(StatusCode::BAD_REQUEST, "idempotency_key_required", "Idempotency-Key is needed here")
        })
    }
}

/// A request's fingerprint. A JSON body counts by its value, so that white space and the order of members do not.
fn fingerprint(route: &str, body: &[u8]) -> String {
    let canonical =
        serde_json::from_slice::<Value>(body).map_or_else(|_| body.to_vec(), |json| json.to_string().into());
    let mut hash = Sha256::new();
    hash.update(route.as_bytes());
    hash.update([0]);
    hash.update(&canonical);
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(hash.finalize())
}

/// 422 `idempotency_key_reused`.
pub fn reused() -> Problem {
    Problem::new(
        StatusCode::UNPROCESSABLE_ENTITY,
        "idempotency_key_reused",
        "The Idempotency-Key was used for another request",
    )
}

/// The answer a row remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAnswer {
    /// Its status code.
    pub status: u16,
    /// Its body.
    pub body: Value,
    /// Its `Location`.
    pub location: Option<String>,
}

impl StoredAnswer {
    /// What of a reply is remembered.
    pub fn of(reply: &Reply) -> Self {
        Self {
            status: reply.status.as_u16(),
            body: reply.body.clone().unwrap_or(Value::Null),
            location: reply.location.clone(),
        }
    }

    /// The reply again.
    pub fn into_reply(self) -> Reply {
        Reply {
            status: StatusCode::from_u16(self.status).unwrap_or(StatusCode::OK),
            body: Some(self.body),
            text: None,
            location: self.location,
            preference_applied: None,
        }
    }
}

/// The sort key of a key's row; its partition is `USER#<user>`.
pub fn sort_key(key: &IdempotencyKey) -> String {
    format!("IDEM#{}", key.key)
}

/// The write that remembers an answer: goes into the transaction of the effect. Its condition fails when the key is
/// taken, and finds the row ([`recall`]).
pub fn remember(
    table: &Table,
    user: &UserId,
    key: &IdempotencyKey,
    answer: &StoredAnswer,
    now: Timestamp,
) -> Result<TransactWriteItem, Fault> {
    let forgotten_at = now.plus_seconds(REMEMBERED_SECONDS);
    let put = Put::builder()
        .table_name(&table.name)
        .item(PK, s(format!("USER#{user}")))
        .item(SK, s(sort_key(key)))
        .item("fingerprint", s(&key.fingerprint))
        .item("answer", dynamo::json("remembering an answer", answer)?)
        .item("forgotten_at", dynamo::at(forgotten_at))
        .item(TTL, dynamo::n(forgotten_at.ttl_seconds()))
        // DynamoDB deletes by TTL late; a row past its time counts as gone.
        .condition_expression("attribute_not_exists(pk) OR forgotten_at <= :now")
        .expression_attribute_values(":now", dynamo::at(now))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()
        .map_err(|error| Fault::broken("remembering an answer", error))?;
    Ok(TransactWriteItem::builder().put(put).build())
}

/// The answer in a found row, if it was given to the same request; `None` when the key was used for another.
pub fn recall(row: &Item, key: &IdempotencyKey) -> Result<Option<StoredAnswer>, Fault> {
    if row.text("fingerprint")? != key.fingerprint {
        return Ok(None);
    }
    row.document("answer").map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::call;

    #[test]
    fn a_key_has_1_to_64_plain_characters() {
        let key = |text: &str| IdempotencyKey::of(&call(&[("idempotency-key", text)]), "POST /x");
        assert!(key("a_B-9").unwrap().is_some());
        assert!(key(&"k".repeat(64)).unwrap().is_some());
        for bad in ["", " ", "a b", "ü", &"k".repeat(65)] {
            assert!(key(bad).is_err(), "{bad:?}");
        }
        assert_eq!(IdempotencyKey::of(&call(&[]), "POST /x").unwrap(), None);
        assert_eq!(IdempotencyKey::required(&call(&[]), "POST /x").unwrap_err().code, "idempotency_key_required");
    }

    #[test]
    fn a_request_is_the_same_by_value_not_by_spelling() {
        assert_eq!(fingerprint("r", br#"{"a":1,"b":2}"#), fingerprint("r", br#"{ "b":2, "a":1 }"#));
        assert_ne!(fingerprint("r", br#"{"a":1}"#), fingerprint("r", br#"{"a":2}"#));
        assert_ne!(fingerprint("r", b"{}"), fingerprint("other", b"{}"));
    }
}
