//! DynamoDB streams: the changes of a table, in order per item, delivered at least once.

use crate::dynamo::Item;
use crate::{Fault, metrics};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::HashMap;

/// What happened to an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Change {
    /// It is new.
    Insert,
    /// It was replaced or changed.
    Modify,
    /// It is gone.
    Remove,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    pub change: Change,
    /// The item after it.
    pub new: Option<Item>,
    /// The item before it.
    pub old: Option<Item>,
    /// Its place in the stream, increasing over the changes of one item. Items, even of one partition key, may be in
    /// different shards.
    pub sequence: Sequence,
}

/// A stream's sequence number: up to 40 decimal digits, compared as a number.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sequence(String);

impl Sequence {
    /// From the stream's text; leading zeros are ignored.
    pub fn new(digits: &str) -> Self {
        Self(digits.trim_start_matches('0').to_owned())
    }

    /// A text of fixed width that sorts in numeric order.
    pub fn sortable(&self) -> String {
        format!("{:0>48}", self.0)
    }
}

/// The event of a DynamoDB stream, as Lambda delivers it
/// (<https://docs.aws.amazon.com/lambda/latest/dg/with-ddb.html>).
#[derive(Debug, Deserialize)]
pub struct StreamEvent {
    #[serde(rename = "Records", default)]
    records: Vec<Value>,
}

/// The response to Lambda: the first record to redeliver, if any.
#[derive(Debug, Default, Serialize)]
pub struct StreamResponse {
    #[serde(rename = "batchItemFailures")]
    failures: Vec<StreamFailure>,
}

#[derive(Debug, Serialize)]
struct StreamFailure {
    #[serde(rename = "itemIdentifier")]
    sequence: String,
}

#[derive(Debug, Deserialize)]
struct WireRecord {
    #[serde(rename = "eventName")]
    change: Change,
    dynamodb: WireChange,
}

#[derive(Debug, Deserialize)]
struct WireChange {
    #[serde(rename = "NewImage", default)]
    new: Option<HashMap<String, WireValue>>,
    #[serde(rename = "OldImage", default)]
    old: Option<HashMap<String, WireValue>>,
    #[serde(rename = "SequenceNumber")]
    sequence: String,
}

/// An attribute in DynamoDB's JSON. Binary attributes are read as null: no consumer of a stream needs one.
#[derive(Debug, Deserialize)]
enum WireValue {
    S(String),
    N(String),
    #[serde(rename = "BOOL")]
    Bool(bool),
    #[serde(rename = "NULL")]
    Null(#[allow(dead_code)] bool),
    #[serde(rename = "SS")]
    Strings(Vec<String>),
    #[serde(rename = "NS")]
    Numbers(Vec<String>),
    M(HashMap<String, WireValue>),
    L(Vec<WireValue>),
    #[serde(rename = "B")]
    Binary(#[allow(dead_code)] String),
}

impl From<WireValue> for AttributeValue {
    fn from(value: WireValue) -> Self {
        match value {
            WireValue::S(text) => Self::S(text),
            WireValue::N(digits) => Self::N(digits),
            WireValue::Bool(yes) => Self::Bool(yes),
            WireValue::Null(_) | WireValue::Binary(_) => Self::Null(true),
            WireValue::Strings(texts) => Self::Ss(texts),
            WireValue::Numbers(digits) => Self::Ns(digits),
            WireValue::M(map) => Self::M(map.into_iter().map(|(name, value)| (name, value.into())).collect()),
            WireValue::L(list) => Self::L(list.into_iter().map(Into::into).collect()),
        }
    }
}

impl From<WireRecord> for Record {
    fn from(record: WireRecord) -> Self {
        let item = |image: HashMap<String, WireValue>| image.into_iter().map(|(name, v)| (name, v.into())).collect();
        Self {
            change: record.change,
            new: record.dynamodb.new.map(item),
            old: record.dynamodb.old.map(item),
            sequence: Sequence::new(&record.dynamodb.sequence),
        }
    }
}

/// The records that can be parsed. One that cannot be parsed never will be: it must not block the stream.
fn readable(name: &str, records: Vec<Value>) -> Vec<Record> {
    let read = |(keys, record): (Value, Value)| match serde_json::from_value::<WireRecord>(record) {
        Ok(record) => Some(Record::from(record)),
        Err(error) => {
            // Nobody will bring it again, and whoever follows the stream misses it.
            metrics::count("Broken", 1);
            tracing::error!(consumer = name, %error, %keys, "a stream record cannot be read");
            None
        }
    };
    let with_keys = |record: Value| (record["dynamodb"]["Keys"].clone(), record);
    records.into_iter().map(with_keys).filter_map(read).collect()
}

/// Runs a batch through a consumer. A batch that fails is redelivered as a whole, so a consumer must be idempotent.
pub(crate) async fn run<Fut>(name: &str, event: StreamEvent, handle: impl Fn(Vec<Record>) -> Fut) -> StreamResponse
where
    Fut: Future<Output = Result<(), Fault>>,
{
    let started = crate::now();
    let first =
        event.records.first().and_then(|record| record["dynamodb"]["SequenceNumber"].as_str()).map(str::to_owned);
    let records = readable(name, event.records);
    let count = records.len();
    let outcome = handle(records).await;
    let millis = crate::now().millis_since(started);
    match outcome {
        Ok(()) => {
            tracing::info!(consumer = name, outcome = "done", records = count, millis);
            StreamResponse::default()
        }
        Err(fault) => {
            tracing::error!(consumer = name, outcome = fault.name(), error = fault.chain(), records = count, millis);
            StreamResponse { failures: first.map(|sequence| StreamFailure { sequence }).into_iter().collect() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_compare_as_numbers() {
        assert!(Sequence::new("9").sortable() < Sequence::new("10").sortable());
        assert_eq!(Sequence::new("000042"), Sequence::new("42"));
    }

    #[test]
    fn a_record_that_cannot_be_read_blocks_nothing() {
        let good = r#"{"eventName":"REMOVE","dynamodb":{"SequenceNumber":"2"}}"#;
        let event: StreamEvent =
            serde_json::from_str(&format!(r#"{{"Records":[{{"eventName":"X"}},{good}]}}"#)).unwrap();
        assert_eq!(readable("test", event.records).len(), 1);
    }

    #[test]
    fn a_delivered_change_is_read_with_both_images() {
        let event: StreamEvent = serde_json::from_str(
            r#"{"Records":[{"eventID":"1","eventName":"MODIFY","dynamodb":{"Keys":{"pk":{"S":"a"}},
            "NewImage":{"pk":{"S":"a"},"n":{"N":"2"}},"OldImage":{"pk":{"S":"a"},"n":{"N":"1"}},
            "SequenceNumber":"0017","SizeBytes":3}}]}"#,
        )
        .unwrap();
        let record = readable("test", event.records).pop().unwrap();
        assert_eq!(record.change, Change::Modify);
        assert_eq!(record.new.unwrap()["n"], AttributeValue::N("2".into()));
        assert_eq!(record.old.unwrap()["n"], AttributeValue::N("1".into()));
        assert_eq!(record.sequence, Sequence::new("17"));
    }
}
