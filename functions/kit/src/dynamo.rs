//! DynamoDB: one way to write a transaction, one classification of failures, readers that treat corrupt data as such.

use crate::{Fault, metrics};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use contracts::Timestamp;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;

/// An item as the SDK has it.
pub type Item = HashMap<String, AttributeValue>;

/// The name of the partition key of every table.
pub const PK: &str = "pk";
/// The name of the sort key of every table.
pub const SK: &str = "sk";
/// The name of the TTL attribute of every table, epoch seconds.
pub const TTL: &str = "ttl";

/// How often a transaction that met another one is tried.
const TRANSACTION_ATTEMPTS: u32 = 8;

/// A table and the client that reaches it.
#[derive(Debug, Clone)]
pub struct Table {
    /// The client.
    pub client: Client,
    /// The table's name.
    pub name: String,
}

impl Table {
    /// A table reached by a client.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// Reads one item as it is now.
    pub async fn read(
        &self,
        doing: &'static str,
        pk: AttributeValue,
        sk: AttributeValue,
    ) -> Result<Option<Item>, Fault> {
        let got = self
            .client
            .get_item()
            .table_name(&self.name)
            .key(PK, pk)
            .key(SK, sk)
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| classify(doing, error))?;
        Ok(got.item)
    }

    /// Writes all items or none, and retries, jittered and bounded, while another transaction holds one of them.
    pub async fn transact(&self, doing: &'static str, items: Vec<TransactWriteItem>) -> Result<(), TransactError> {
        for attempt in 0..TRANSACTION_ATTEMPTS {
            let sent = self.client.transact_write_items().set_transact_items(Some(items.clone())).send().await;
            match sent.map_err(|error| transact_error(doing, error)) {
                Ok(_) => return Ok(()),
                Err(TransactError::Fault(Fault::Contended(_))) if attempt + 1 < TRANSACTION_ATTEMPTS => {
                    tokio::time::sleep(jitter(attempt)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Err(TransactError::Fault(Fault::contended(doing)))
    }
}

/// A write the SDK has put together; it fails only when a required part was forgotten.
pub fn built<T>(write: Result<T, BuildError>) -> Result<T, Fault> {
    write.map_err(|error| Fault::broken("building a write", error))
}

/// A random wait before try `attempt + 1`: up to 20 ms, doubling, at most 320 ms.
pub fn jitter(attempt: u32) -> Duration {
    Duration::from_millis(fastrand::u64(1..=20_u64 << attempt.min(4)))
}

/// Why a transaction wrote nothing.
#[derive(Debug)]
pub enum TransactError {
    /// At least one condition did not hold.
    Conditions(FailedConditions),
    /// The system failed.
    Fault(Fault),
}

/// The writes of a transaction whose conditions did not hold, by their place in it.
#[derive(Debug, Clone, Default)]
pub struct FailedConditions {
    failed: HashMap<usize, Option<Item>>,
    conflicted: HashSet<usize>,
}

impl FailedConditions {
    /// Whether the condition of write `index` failed.
    pub fn failed(&self, index: usize) -> bool {
        self.failed.contains_key(&index)
    }

    /// Whether write `index` met another transaction, so that its condition was not looked at.
    pub fn conflicted(&self, index: usize) -> bool {
        self.conflicted.contains(&index)
    }

    /// The places of the failed writes, rising.
    pub fn indexes(&self) -> Vec<usize> {
        let mut indexes: Vec<usize> = self.failed.keys().copied().collect();
        indexes.sort_unstable();
        indexes
    }

    /// The item that write `index` found, if it failed and asked for `ALL_OLD` and there was one.
    pub fn found(&self, index: usize) -> Option<&Item> {
        self.failed.get(&index).and_then(Option::as_ref)
    }
}

fn transact_error(doing: &'static str, error: SdkError<TransactWriteItemsError>) -> TransactError {
    let reasons = match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
        _ => return TransactError::Fault(classify(doing, error)),
    };
    let failed: HashMap<usize, Option<Item>> = reasons
        .iter()
        .enumerate()
        .filter(|(_, reason)| reason.code() == Some("ConditionalCheckFailed"))
        .map(|(index, reason)| (index, reason.item().cloned().filter(|item| !item.is_empty())))
        .collect();
    if reasons.iter().any(|reason| reason.code().is_some_and(is_throttling)) {
        metrics::count("Throttled", 1);
    }
    let contended = |code: Option<&str>| code.is_some_and(|code| code == "TransactionConflict" || is_throttling(code));
    let conflicted: HashSet<usize> =
        reasons.iter().enumerate().filter(|(_, reason)| contended(reason.code())).map(|(index, _)| index).collect();
    if !failed.is_empty() {
        return TransactError::Conditions(FailedConditions { failed, conflicted });
    }
    if !conflicted.is_empty() {
        return TransactError::Fault(Fault::contended(doing));
    }
    TransactError::Fault(Fault::broken(doing, error))
}

/// Whether AWS refused a call for a limit: of a table, a partition, a function or the account.
fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            // As a transaction's reasons have them.
            | "ProvisionedThroughputExceeded"
            | "ThrottlingError"
    )
}

/// Says who must act on a failed call. A failed condition is not a fault: handle it before.
pub fn classify<E>(doing: &'static str, error: SdkError<E>) -> Fault
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match &error {
        SdkError::ConstructionFailure(_) => return Fault::broken(doing, error),
        SdkError::ServiceError(_) => {}
        // No usable answer: it may or may not have been carried out.
        _ => return Fault::unavailable(doing, error),
    }
    match error.code().unwrap_or_default() {
        code if is_throttling(code) => {
            // Tried again, here and by whoever asked: nothing is lost, but somebody should know.
            metrics::count("Throttled", 1);
            Fault::contended(doing)
        }
        "TransactionConflictException" | "TransactionInProgressException" => Fault::contended(doing),
        "ValidationException" | "SerializationException" | "IdempotentParameterMismatchException" => {
            Fault::broken(doing, error)
        }
        code => {
            // Everything else an operator or time can mend. What only an operator can is no passing trouble.
            if matches!(code, "AccessDeniedException" | "ResourceNotFoundException") {
                metrics::count("Broken", 1);
            }
            Fault::unavailable(doing, error)
        }
    }
}

/// A string attribute.
pub fn s(text: impl fmt::Display) -> AttributeValue {
    AttributeValue::S(text.to_string())
}

/// A number attribute.
pub fn n(number: impl Into<i128>) -> AttributeValue {
    AttributeValue::N(number.into().to_string())
}

/// A moment as a number attribute, epoch milliseconds.
pub fn at(moment: Timestamp) -> AttributeValue {
    n(moment.millis())
}

/// A value as JSON in a string attribute.
pub fn json<T: serde::Serialize>(doing: &'static str, value: &T) -> Result<AttributeValue, Fault> {
    serde_json::to_string(value).map(AttributeValue::S).map_err(|error| Fault::broken(doing, error))
}

/// Those of the rows of an index that can be read. One that cannot must not keep the others from their turn; as nobody ever
/// takes it out of the index, it calls somebody every time it is found.
pub fn readable<T>(
    rows: Option<Vec<Item>>,
    doing: &'static str,
    read: impl Fn(&Item) -> Result<T, Fault>,
) -> impl Iterator<Item = T> {
    rows.unwrap_or_default().into_iter().filter_map(move |row| {
        let told = |fault: &Fault| {
            fault.count();
            let row = row.text(SK).unwrap_or_default();
            tracing::error!(doing, row, error = fault.chain(), "a row cannot be read");
        };
        read(&row).inspect_err(told).ok()
    })
}

/// Readers of an item. A missing or mistyped attribute is corrupt data: [`Fault::Broken`].
pub trait Read {
    /// A string.
    fn text(&self, name: &'static str) -> Result<&str, Fault>;
    /// A number, if there is one.
    fn maybe_int(&self, name: &'static str) -> Result<Option<i64>, Fault>;
    /// A number.
    fn int(&self, name: &'static str) -> Result<i64, Fault>;
    /// A non-negative number.
    fn uint(&self, name: &'static str) -> Result<u64, Fault>;
    /// A moment.
    fn moment(&self, name: &'static str) -> Result<Timestamp, Fault>;
    /// A string that parses into `T`.
    fn parsed<T: TryFrom<String>>(&self, name: &'static str) -> Result<T, Fault>;
    /// A JSON document kept as a string.
    fn document<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<T, Fault>;
}

impl Read for Item {
    fn text(&self, name: &'static str) -> Result<&str, Fault> {
        match self.get(name) {
            Some(AttributeValue::S(text)) => Ok(text),
            _ => Err(Fault::broken("reading a stored string", name)),
        }
    }

    fn maybe_int(&self, name: &'static str) -> Result<Option<i64>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(AttributeValue::N(digits)) => {
                digits.parse().map(Some).map_err(|_| Fault::broken("reading a stored number", name))
            }
            Some(_) => Err(Fault::broken("reading a stored number", name)),
        }
    }

    fn int(&self, name: &'static str) -> Result<i64, Fault> {
        self.maybe_int(name)?.ok_or_else(|| Fault::broken("reading a stored number", name))
    }

    fn uint(&self, name: &'static str) -> Result<u64, Fault> {
        u64::try_from(self.int(name)?).map_err(|_| Fault::broken("reading a stored count", name))
    }

    fn moment(&self, name: &'static str) -> Result<Timestamp, Fault> {
        self.int(name).map(Timestamp::from_millis)
    }

    fn parsed<T: TryFrom<String>>(&self, name: &'static str) -> Result<T, Fault> {
        T::try_from(self.text(name)?.to_owned()).map_err(|_| Fault::broken("reading a stored value", name))
    }

    fn document<T: serde::de::DeserializeOwned>(&self, name: &'static str) -> Result<T, Fault> {
        serde_json::from_str(self.text(name)?).map_err(|error| Fault::broken("reading a stored document", error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_mistyped_attribute_is_corrupt_data() {
        let item = Item::from([("text".to_owned(), s("x")), ("number".to_owned(), n(-1))]);
        assert_eq!(item.text("text").unwrap(), "x");
        assert_eq!(item.int("number").unwrap(), -1);
        assert!(matches!(item.uint("number"), Err(Fault::Broken(_))));
        assert!(matches!(item.text("number"), Err(Fault::Broken(_))));
        assert!(matches!(item.int("nothing"), Err(Fault::Broken(_))));
    }
}
