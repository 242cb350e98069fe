//! Idempotency keys: the same key with the same body returns the first answer again, for 24 hours, per user.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | `fingerprint` (of route and body), `about` (the id of what was made), `answer` (JSON: status, body, location), `forgotten_at` (ms), `ttl` (s) |
//!
//! The row is written in the transaction of the effect it remembers, so there is never one without the other. A refused
//! request wrote nothing and may be retried under its key.

use crate::dynamo::{self, Cancelled, Item, PK, Read, SK, Slot, TTL, Table, Transaction, s};
use crate::{Call, Fault, Problem, Reply};
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{Put, ReturnValuesOnConditionCheckFailure};
use base64::Engine as _;
use contracts::{Timestamp, UserId};
use lambda_http::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// How long a key is remembered, unless its request says otherwise.
pub const REMEMBERED_SECONDS: i64 = 24 * 3600;

/// A key given by the caller, and the fingerprint of its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 64 of `A-Za-z0-9_-`.
    pub key: String,
    /// SHA-256 of route and body, so that a key is not used for another request.
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

/// A request's fingerprint. A JSON body counts by its value: white space and the order of members make no difference.
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

/// What was remembered under a key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Outcome<T> {
    /// Nothing: this request is the first. For a write: it was made.
    #[default]
    First,
    /// The same request came before, with this result. Nothing was written.
    Replay(T),
    /// The key was used for another request. Nothing was written.
    Mismatch,
}

impl<T> Outcome<T> {
    /// Maps the result of a replay.
    pub fn map<U>(self, of: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::First => Outcome::First,
            Self::Replay(before) => Outcome::Replay(of(before)),
            Self::Mismatch => Outcome::Mismatch,
        }
    }
}

/// An answer as it is remembered: made and returned by handlers, opaque to everything between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredAnswer {
    status: u16,
    body: Value,
    location: Option<String>,
}

impl StoredAnswer {
    /// The part of a reply that is remembered.
    pub fn of(reply: &Reply) -> Self {
        Self {
            status: reply.status.as_u16(),
            body: reply.body.clone().unwrap_or(Value::Null),
            location: reply.location.clone(),
        }
    }

    /// 201 with a body.
    pub fn created(body: &impl Serialize) -> Self {
        Self { status: StatusCode::CREATED.as_u16(), body: value(body), location: None }
    }

    /// 202 with a body and the `Location` to poll.
    pub fn accepted(body: &impl Serialize, location: String) -> Self {
        Self { status: StatusCode::ACCEPTED.as_u16(), body: value(body), location: Some(location) }
    }

    /// The remembered reply.
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

fn value(body: &impl Serialize) -> Value {
    serde_json::to_value(body).unwrap_or_default()
}

/// What is remembered of a request, written in the transaction of its effect.
#[derive(Debug, Clone, PartialEq)]
pub struct Memo {
    /// Keys are remembered per user.
    pub user: UserId,
    /// The key, with the fingerprint of its request.
    pub key: IdempotencyKey,
    /// The id of what was made.
    pub about: String,
    pub answer: StoredAnswer,
}

/// What a row remembers of the first request.
#[derive(Debug, Clone, PartialEq)]
pub struct Recalled {
    /// The id of what was made; not all rows of previous releases have it.
    pub about: Option<String>,
    pub answer: StoredAnswer,
}

/// The sort key of a key's row; its partition is `USER#<user>`.
pub fn sort_key(key: &IdempotencyKey) -> String {
    format!("IDEM#{}", key.key)
}

/// The write of a memo, for the transaction of the effect. Its condition fails when the key is taken, and returns the
/// row for [`recall`].
pub fn remember(table: &Table, memo: &Memo, now: Timestamp) -> PutBuilder {
    remember_until(table, memo, now, now.plus_seconds(REMEMBERED_SECONDS))
}

/// [`remember`] until another moment.
pub fn remember_until(table: &Table, memo: &Memo, now: Timestamp, forgotten_at: Timestamp) -> PutBuilder {
    Put::builder()
        .table_name(&table.name)
        .item(PK, s(format!("USER#{}", memo.user)))
        .item(SK, s(sort_key(&memo.key)))
        .item("fingerprint", s(&memo.key.fingerprint))
        .item("about", s(&memo.about))
        .item("answer", s(value(&memo.answer)))
        .item("forgotten_at", dynamo::at(forgotten_at))
        .item(TTL, dynamo::n(forgotten_at.ttl_seconds()))
        // DynamoDB deletes expired rows late; a row past its time counts as deleted.
        .condition_expression("attribute_not_exists(pk) OR forgotten_at <= :now")
        .expression_attribute_values(":now", dynamo::at(now))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
}

/// A memo among a transaction's writes.
#[derive(Debug)]
pub struct Remembering<'a> {
    slot: Slot,
    key: &'a IdempotencyKey,
}

impl<'a> Remembering<'a> {
    /// Adds the write of a memo, if there is one.
    pub fn add(
        transaction: &mut Transaction<'_>,
        table: &Table,
        memo: Option<&'a Memo>,
        now: Timestamp,
    ) -> Result<Option<Self>, Fault> {
        memo.map(|memo| Self::of(transaction, memo, remember(table, memo, now))).transpose()
    }

    /// Adds the write of a memo that is remembered until a moment.
    pub fn add_until(
        transaction: &mut Transaction<'_>,
        table: &Table,
        memo: &'a Memo,
        now: Timestamp,
        forgotten_at: Timestamp,
    ) -> Result<Self, Fault> {
        Self::of(transaction, memo, remember_until(table, memo, now, forgotten_at))
    }

    fn of(transaction: &mut Transaction<'_>, memo: &'a Memo, write: PutBuilder) -> Result<Self, Fault> {
        Ok(Self { slot: transaction.add_identity(write)?, key: &memo.key })
    }

    /// What was remembered under the key, after the transaction was cancelled.
    pub fn outcome(&self, cancelled: &Cancelled) -> Result<Outcome<Recalled>, Fault> {
        match cancelled.found(self.slot) {
            Some(row) => recall(row, self.key),
            None if cancelled.failed(self.slot) => {
                Err(Fault::broken("recalling an answer", "the key's row is missing"))
            }
            None => Ok(Outcome::First),
        }
    }
}

/// What a found row means for a request with this key.
pub fn recall(row: &Item, key: &IdempotencyKey) -> Result<Outcome<Recalled>, Fault> {
    if row.text("fingerprint")? != key.fingerprint {
        return Ok(Outcome::Mismatch);
    }
    let answer: StoredAnswer = row.document("answer")?;
    // Rows of previous releases have the id in place of the body, or at the end of the location.
    let named = || answer.body.as_str().or_else(|| answer.location.as_deref()?.rsplit('/').next());
    let about = row.text("about").ok().or_else(named).map(str::to_owned);
    Ok(Outcome::Replay(Recalled { about, answer }))
}

/// [`recall`] for a row that was read, which may be past its time.
pub fn recall_at(row: &Item, key: &IdempotencyKey, now: Timestamp) -> Result<Outcome<Recalled>, Fault> {
    if row.moment("forgotten_at")? > now { recall(row, key) } else { Ok(Outcome::First) }
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
    fn a_row_shows_whether_the_request_is_the_same_and_what_it_was_about() {
        let key = |fingerprint: &str| IdempotencyKey { key: "k".into(), fingerprint: fingerprint.into() };
        let row = |answer: &str, about: Option<&str>| {
            let mut row = Item::from([("fingerprint".into(), s("f")), ("answer".into(), s(answer))]);
            row.extend(about.map(|id| ("about".to_owned(), s(id))));
            row
        };
        let about = |row: &Item| match recall(row, &key("f")).unwrap() {
            Outcome::Replay(first) => first.about,
            other => panic!("{other:?}"),
        };
        let body = r#"{"status":201,"body":{"a":1},"location":null}"#;
        assert_eq!(about(&row(body, Some("id"))).as_deref(), Some("id"));
        assert_eq!(recall(&row(body, None), &key("other")).unwrap(), Outcome::Mismatch);
        // As previous releases wrote them.
        assert_eq!(about(&row(body, None)), None);
        let accepted = r#"{"status":202,"body":{"a":1},"location":"/payments/id"}"#;
        assert_eq!(about(&row(accepted, None)).as_deref(), Some("id"));
        assert_eq!(about(&row(r#"{"status":201,"body":"id","location":null}"#, None)).as_deref(), Some("id"));
    }

    #[test]
    fn a_request_is_the_same_by_value_not_by_spelling() {
        assert_eq!(fingerprint("r", br#"{"a":1,"b":2}"#), fingerprint("r", br#"{ "b":2, "a":1 }"#));
        assert_ne!(fingerprint("r", br#"{"a":1}"#), fingerprint("r", br#"{"a":2}"#));
        assert_ne!(fingerprint("r", b"{}"), fingerprint("other", b"{}"));
    }
}
