//! DynamoDB: one way to write a transaction, and readers that report corrupt data as such.

use crate::fault::{classify, is_throttling};
use crate::http::Page;
use crate::{Fault, metrics};
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{BuildError, SdkError};
use aws_sdk_dynamodb::operation::transact_get_items::TransactGetItemsError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::{DeleteBuilder, PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason, Get, TransactGetItem, TransactWriteItem};
use contracts::Timestamp;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

/// An item as the SDK represents it.
pub type Item = HashMap<String, AttributeValue>;

/// The name of the partition key of every table.
pub const PK: &str = "pk";
/// The name of the sort key of every table.
pub const SK: &str = "sk";
/// The name of the TTL attribute of every table, epoch seconds.
pub const TTL: &str = "ttl";

/// Tries of a transaction that conflicts with others.
const TRANSACTION_ATTEMPTS: u32 = 8;

/// A table and its client.
#[derive(Debug, Clone)]
pub struct Table {
    pub client: Client,
    pub name: String,
}

impl Table {
    /// A table, accessed through a client.
    pub fn new(client: Client, name: impl Into<String>) -> Self {
        Self { client, name: name.into() }
    }

    /// Reads one item, strongly consistent.
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

    /// Reads items as they are at one moment: never some as before a transaction and others as after it.
    pub async fn read_at_once<const N: usize>(
        &self,
        doing: &'static str,
        keys: [(AttributeValue, AttributeValue); N],
    ) -> Result<[Option<Item>; N], Fault> {
        let gets = keys.map(|(pk, sk)| Get::builder().table_name(&self.name).key(PK, pk).key(SK, sk).build());
        let gets: Vec<TransactGetItem> = gets
            .into_iter()
            .map(|get| Ok(TransactGetItem::builder().get(built(get)?).build()))
            .collect::<Result<_, Fault>>()?;
        for attempt in 0..TRANSACTION_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(jitter(attempt - 1)).await;
            }
            let sent = self.client.transact_get_items().set_transact_items(Some(gets.clone())).send().await;
            match sent {
                Ok(got) => {
                    let mut rows = got.responses.unwrap_or_default().into_iter();
                    return Ok(std::array::from_fn(|_| {
                        rows.next().and_then(|row| row.item).filter(|row| !row.is_empty())
                    }));
                }
                // It met a transaction that is being made.
                Err(error)
                    if error
                        .as_service_error()
                        .is_some_and(TransactGetItemsError::is_transaction_canceled_exception) => {}
                Err(error) => return Err(classify(doing, error)),
            }
        }
        Err(Fault::contended(doing))
    }

    /// A page of a partition's items whose sort keys begin with `prefix`, backwards from the last, strongly consistent; and
    /// the sort key of the page's last item, if there are more behind it. The page's own cursor must begin with it, too.
    pub async fn page_backwards(
        &self,
        doing: &'static str,
        pk: AttributeValue,
        prefix: &str,
        page: &Page,
    ) -> Result<(Vec<Item>, Option<String>), Fault> {
        let limit = page.limit as usize;
        // The ids that we generate have digits and capital letters.
        let upper = page.after.clone().unwrap_or_else(|| format!("{prefix}~"));
        let got = self
            .client
            .query()
            .table_name(&self.name)
            .key_condition_expression("pk = :pk AND sk BETWEEN :first AND :upper")
            .expression_attribute_values(":pk", pk)
            .expression_attribute_values(":first", s(prefix))
            .expression_attribute_values(":upper", s(&upper))
            .scan_index_forward(false)
            .consistent_read(true)
            // One more for the item that the cursor stands on, and one that shows whether there is a next page.
            .limit(i32::try_from(limit + 2).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| classify(doing, error))?;
        // An answer ends at 1 MB, too.
        let cut_off = got.last_evaluated_key.is_some();
        let mut items: Vec<Item> = got.items.unwrap_or_default();
        items.retain(|item| item.get(SK) != Some(&s(&upper)));
        let more = items.len() > limit || cut_off;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.text(SK).map(str::to_owned)).transpose()?;
        Ok((items, next))
    }

    /// Makes all writes; or none, and returns `false`, if a condition fails.
    pub async fn write_all(
        &self,
        doing: &'static str,
        writes: impl IntoIterator<Item = TransactWriteItem>,
    ) -> Result<bool, Fault> {
        let mut transaction = self.transaction(doing);
        for write in writes {
            transaction.add(write)?;
        }
        Ok(transaction.commit().await?.is_ok())
    }

    /// A transaction without writes.
    pub fn transaction(&self, doing: &'static str) -> Transaction<'_> {
        Transaction { table: self, doing, writes: Vec::new(), identities: Vec::new() }
    }
}

/// A write built by the SDK; fails only when a required part is missing.
pub fn built<T>(write: Result<T, BuildError>) -> Result<T, Fault> {
    write.map_err(|error| Fault::broken("building a write", error))
}

/// Which of `shards` partitions of an index an item stands in, from its id, so that a rewrite keeps it.
pub fn shard_of(id: &str, shards: u64) -> u64 {
    id.bytes().map(u64::from).sum::<u64>() % shards
}

/// A random wait before try `attempt + 1`: up to 20 ms, doubling, at most 320 ms.
pub fn jitter(attempt: u32) -> Duration {
    Duration::from_millis(fastrand::u64(1..=20_u64 << attempt.min(4)))
}

/// Identifies a write of a transaction, to look up its outcome after the transaction was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

/// A write that can be part of a transaction.
pub trait Write {
    /// The write as the SDK represents it.
    fn write(self) -> Result<TransactWriteItem, BuildError>;
}

impl Write for TransactWriteItem {
    fn write(self) -> Result<TransactWriteItem, BuildError> {
        Ok(self)
    }
}

impl Write for PutBuilder {
    fn write(self) -> Result<TransactWriteItem, BuildError> {
        Ok(TransactWriteItem::builder().put(self.build()?).build())
    }
}

impl Write for UpdateBuilder {
    fn write(self) -> Result<TransactWriteItem, BuildError> {
        Ok(TransactWriteItem::builder().update(self.build()?).build())
    }
}

impl Write for DeleteBuilder {
    fn write(self) -> Result<TransactWriteItem, BuildError> {
        Ok(TransactWriteItem::builder().delete(self.build()?).build())
    }
}

/// Writes that are made all or none.
#[derive(Debug)]
pub struct Transaction<'a> {
    table: &'a Table,
    doing: &'static str,
    writes: Vec<TransactWriteItem>,
    identities: Vec<Slot>,
}

impl Transaction<'_> {
    /// Adds a write.
    pub fn add(&mut self, write: impl Write) -> Result<Slot, Fault> {
        self.writes.push(built(write.write())?);
        Ok(Slot(self.writes.len() - 1))
    }

    /// Adds the write of the row that decides whether this operation may proceed. While its own condition was not
    /// evaluated, because it met another transaction, failures of other conditions mean nothing.
    pub fn add_identity(&mut self, write: impl Write) -> Result<Slot, Fault> {
        let slot = self.add(write)?;
        self.identities.push(slot);
        Ok(slot)
    }

    /// Makes all writes or none. Retries, jittered and bounded, while another transaction holds a row that matters. The
    /// inner error tells which conditions failed.
    pub async fn commit(self) -> Result<Result<(), Cancelled>, Fault> {
        for attempt in 0..TRANSACTION_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(jitter(attempt - 1)).await;
            }
            let writes = Some(self.writes.clone());
            let sent = self.table.client.transact_write_items().set_transact_items(writes).send().await;
            let Err(error) = sent else { return Ok(Ok(())) };
            match self.meaning(error) {
                Err(Fault::Contended(_)) => {}
                Err(fault) => return Err(fault),
                Ok(cancelled) => return Ok(Err(cancelled)),
            }
        }
        Err(Fault::contended(self.doing))
    }

    /// [`Transaction::commit`] for writes without conditions.
    pub async fn commit_unconditional(self) -> Result<(), Fault> {
        let doing = self.doing;
        self.commit().await?.map_err(|_| Fault::broken(doing, "a condition failed where there is none"))
    }

    /// What a cancellation means, decided in one place. Its reasons may be mixed: some conditions failed, and some
    /// writes met another transaction or a throttle, so that their conditions were not evaluated.
    fn meaning(&self, error: SdkError<TransactWriteItemsError>) -> Result<Cancelled, Fault> {
        let reasons = match error.as_service_error() {
            Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled.cancellation_reasons(),
            _ => return Err(classify(self.doing, error)),
        };
        let throttled = |reason: &CancellationReason| reason.code().is_some_and(is_throttling);
        if reasons.iter().any(throttled) {
            metrics::count("Throttled", 1);
        }
        let unseen = |reason: &CancellationReason| reason.code() == Some("TransactionConflict") || throttled(reason);
        if self.identities.iter().any(|slot| reasons.get(slot.0).is_some_and(unseen)) {
            return Err(Fault::contended(self.doing));
        }
        let failed: BTreeMap<usize, Option<Item>> = reasons
            .iter()
            .enumerate()
            .filter(|(_, reason)| reason.code() == Some("ConditionalCheckFailed"))
            .map(|(index, reason)| (index, reason.item().cloned().filter(|item| !item.is_empty())))
            .collect();
        match failed.is_empty() {
            false => Ok(Cancelled { failed }),
            true if reasons.iter().any(unseen) => Err(Fault::contended(self.doing)),
            true => Err(Fault::broken(self.doing, error)),
        }
    }
}

/// A transaction that wrote nothing, because at least one condition failed.
#[derive(Debug, Clone)]
pub struct Cancelled {
    failed: BTreeMap<usize, Option<Item>>,
}

impl Cancelled {
    /// Whether the condition of a write failed.
    pub fn failed(&self, slot: Slot) -> bool {
        self.failed.contains_key(&slot.0)
    }

    /// The item that a write found, if its condition failed, it requested `ALL_OLD` and the item existed.
    pub fn found(&self, slot: Slot) -> Option<&Item> {
        self.failed.get(&slot.0).and_then(Option::as_ref)
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

/// A time as a number attribute, epoch milliseconds.
pub fn at(moment: Timestamp) -> AttributeValue {
    n(moment.millis())
}

/// A value as JSON in a string attribute.
pub fn json<T: serde::Serialize>(doing: &'static str, value: &T) -> Result<AttributeValue, Fault> {
    serde_json::to_string(value).map(AttributeValue::S).map_err(|error| Fault::broken(doing, error))
}

/// The rows of an index that can be parsed. One that cannot must not block the others; since nothing removes it from
/// the index, it pages the on-call every time it is found.
pub fn readable<T>(
    rows: Option<Vec<Item>>,
    doing: &'static str,
    read: impl Fn(&Item) -> Result<T, Fault>,
) -> impl Iterator<Item = T> {
    rows.unwrap_or_default().into_iter().filter_map(move |row| {
        let report = |fault: &Fault| {
            fault.count();
            let row = row.text(SK).unwrap_or_default();
            tracing::error!(doing, row, error = fault.chain(), "a row cannot be read");
        };
        read(&row).inspect_err(report).ok()
    })
}

/// Readers of an item. A missing or mistyped attribute is corrupt data: [`Fault::Broken`].
pub trait Read {
    /// A string.
    fn text(&self, name: &'static str) -> Result<&str, Fault>;
    /// A number, if present.
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
    use aws_sdk_dynamodb::types::Delete;
    use aws_sdk_dynamodb::types::error::TransactionCanceledException;
    use aws_smithy_types::body::SdkBody;

    fn cancelled(reasons: &[&str]) -> SdkError<TransactWriteItemsError> {
        let reason = |code: &&str| CancellationReason::builder().code(*code).build();
        let cancelled = TransactionCanceledException::builder()
            .set_cancellation_reasons(Some(reasons.iter().map(reason).collect()))
            .build();
        let raw = http::Response::new(SdkBody::empty()).try_into().unwrap();
        SdkError::service_error(TransactWriteItemsError::TransactionCanceledException(cancelled), raw)
    }

    #[test]
    fn a_cancellation_of_mixed_reasons_means_nothing_while_an_identity_was_not_evaluated() {
        let config = crate::aws::local_config("http://127.0.0.1:9", "us-east-1");
        let table = Table::new(Client::new(&config), "things");
        let mut transaction = table.transaction("testing");
        let delete = || Delete::builder().table_name("things").key(PK, s("x")).key(SK, s("y"));
        let identity = transaction.add_identity(delete()).unwrap();
        let other = transaction.add(delete()).unwrap();
        let (failed, met, throttled) = ("ConditionalCheckFailed", "TransactionConflict", "ThrottlingError");
        for unseen in [met, throttled] {
            let mixed = transaction.meaning(cancelled(&[unseen, failed]));
            assert!(matches!(mixed, Err(Fault::Contended(_))), "{mixed:?}");
            let seen = transaction.meaning(cancelled(&[failed, unseen])).unwrap();
            assert_eq!((seen.failed(identity), seen.failed(other)), (true, false));
        }
        let other_failed = transaction.meaning(cancelled(&["None", failed])).unwrap();
        assert_eq!((other_failed.failed(identity), other_failed.failed(other)), (false, true));
        assert!(matches!(transaction.meaning(cancelled(&["None", met])), Err(Fault::Contended(_))));
        assert!(matches!(transaction.meaning(cancelled(&["None", "ValidationError"])), Err(Fault::Broken(_))));
    }

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
