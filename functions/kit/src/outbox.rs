//! The transactional outbox: an event is a row in the transaction of what happened, and is published from there.
//!
//! Row (`pk = OUTBOX#<event id>`, `sk = OUTBOX`): `event` (JSON), `transaction_key`, `publish_state`
//! (`pending` | `published`), `attempts`, `last_error`, `created_at`. While pending it is in the sparse index
//! [`INDEX`] under `unpublished_shard`. The table's stream brings a new row to the relay at once; what the relay could
//! not publish, the scheduled sweep sends again. Publishing twice is harmless: consumers go by the event's id.

use crate::dynamo::{self, Item, PK, Read, SK, TTL, Table, at, n, s};
use crate::stream::{Change, Record};
use crate::{Fault, ids};
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use aws_sdk_eventbridge::Client as EventBridge;
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use contracts::events::{Event, EventBody};
use contracts::{EventId, Timestamp};

/// The sparse index of unpublished rows: partition `unpublished_shard`, sort `created_at`.
pub const INDEX: &str = "unpublished";
/// Value of `kind` on an outbox row.
pub const KIND: &str = "outbox";
/// Over how many partitions of the index unpublished rows spread.
const SHARDS: u64 = 16;
/// How long a published row is kept, in seconds, for whoever looks for it.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;
/// How old an unpublished row must be before the sweep takes it from the relay, in milliseconds.
const OVERDUE_MILLIS: i64 = 60_000;
/// PutEvents takes ten entries.
const PUT_EVENTS_LIMIT: usize = 10;
/// How often the relay tries an entry before it leaves it to the sweep.
const ATTEMPTS: u32 = 3;

/// An event about `subject`. Its id follows from what happened to what, so that a repeated step cannot mint a second.
pub fn event(
    source: &str,
    subject: &str,
    correlation_id: &str,
    body: EventBody,
    now: Timestamp,
) -> Result<Event, Fault> {
    let id = EventId::parse(format!("{subject}.{}", body.event_type()))
        .map_err(|error| Fault::broken("naming an event", error))?;
    Ok(Event {
        specversion: "1.0".to_owned(),
        id,
        source: source.to_owned(),
        time: now,
        subject: subject.to_owned(),
        correlationid: correlation_id.to_owned(),
        body,
    })
}

/// The write that puts an event into the outbox, for the transaction of what happened.
pub fn row(table: &Table, event: &Event, transaction_key: &str) -> Result<TransactWriteItem, Fault> {
    let put = Put::builder()
        .table_name(&table.name)
        .item(PK, s(format!("OUTBOX#{}", event.id)))
        .item(SK, s("OUTBOX"))
        .item("kind", s(KIND))
        .item("event", dynamo::json("writing an event", event)?)
        .item("transaction_key", s(transaction_key))
        .item("publish_state", s("pending"))
        .item("attempts", n(0))
        .item("created_at", at(event.time))
        .item("unpublished_shard", s(fastrand::u64(..SHARDS)))
        .build()
        .map_err(|error| Fault::broken("writing an event", error))?;
    Ok(TransactWriteItem::builder().put(put).build())
}

/// Publishes outbox rows of one table to the bus.
#[derive(Debug)]
pub struct Relay {
    table: Table,
    bus: EventBridge,
    bus_name: String,
}

impl Relay {
    /// A relay from a table to a bus.
    pub fn new(table: Table, bus: EventBridge, bus_name: String) -> Self {
        Self { table, bus, bus_name }
    }

    /// [`Relay::relay`], as a stream's consumer.
    pub async fn relay_now(&self, records: Vec<Record>) -> Result<(), Fault> {
        self.relay(records, crate::now()).await
    }

    /// [`Relay::sweep`], as a schedule's handler.
    pub async fn sweep_all(&self, now: Timestamp) -> Result<(), Fault> {
        self.sweep(now).await.map(drop)
    }

    /// Publishes the new rows among a stream's records. A row that cannot be published stays pending for the sweep,
    /// so that one bad row never holds up the stream.
    pub async fn relay(&self, records: Vec<Record>, now: Timestamp) -> Result<(), Fault> {
        let rows = records
            .into_iter()
            .filter(|record| record.change == Change::Insert)
            .filter_map(|record| record.new)
            .filter(|item| item.get("kind").and_then(|kind| kind.as_s().ok()).is_some_and(|kind| kind == KIND));
        self.publish(rows.collect(), now).await
    }

    /// Publishes rows that have been pending for more than a minute. Returns how many there were.
    pub async fn sweep(&self, now: Timestamp) -> Result<usize, Fault> {
        let mut found = 0;
        for shard in 0..SHARDS {
            let overdue = self
                .table
                .client
                .query()
                .table_name(&self.table.name)
                .index_name(INDEX)
                .key_condition_expression("unpublished_shard = :shard AND created_at < :before")
                .expression_attribute_values(":shard", s(shard))
                .expression_attribute_values(":before", at(now.plus_millis(-OVERDUE_MILLIS)))
                .limit(100)
                .send()
                .await
                .map_err(|error| dynamo::classify("finding unpublished events", error))?;
            let rows = overdue.items.unwrap_or_default();
            found += rows.len();
            self.publish(rows, now).await?;
        }
        if found > 0 {
            tracing::warn!(overdue = found, "published events that were overdue");
        }
        Ok(found)
    }

    async fn publish(&self, rows: Vec<Item>, now: Timestamp) -> Result<(), Fault> {
        let mut pending = Vec::with_capacity(rows.len());
        for row in rows {
            match row.document::<Event>("event") {
                Ok(event) => pending.push((event, row)),
                // It stays pending and visible; the outbox-age alarm tells.
                Err(fault) => tracing::error!(error = fault.chain(), "an outbox row cannot be read"),
            }
        }
        for chunk in pending.chunks(PUT_EVENTS_LIMIT) {
            self.publish_chunk(chunk, now).await?;
        }
        Ok(())
    }

    async fn publish_chunk(&self, chunk: &[(Event, Item)], now: Timestamp) -> Result<(), Fault> {
        let mut open: Vec<&(Event, Item)> = chunk.iter().collect();
        let mut last_error = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(dynamo::jitter(attempt + 2)).await;
            }
            let mut entries = Vec::with_capacity(open.len());
            for (event, _) in &open {
                entries.push(self.entry(event)?);
            }
            match self.bus.put_events().set_entries(Some(entries)).send().await {
                Err(error) => last_error = dynamo::classify("publishing events", error).chain(),
                Ok(answer) => {
                    let mut failed = Vec::new();
                    // PutEvents answers entry by entry, in order; some may have failed.
                    for (index, entry) in open.iter().enumerate() {
                        match answer.entries().get(index).and_then(|result| result.error_code()) {
                            None => self.mark_published(&entry.1, now).await?,
                            Some(code) => {
                                last_error = code.to_owned();
                                failed.push(*entry);
                            }
                        }
                    }
                    open = failed;
                }
            }
            if open.is_empty() {
                return Ok(());
            }
        }
        for (event, row) in open {
            tracing::warn!(event = %event.id, error = last_error, "an event waits for the sweep");
            self.mark_failed(row, &last_error).await?;
        }
        Ok(())
    }

    fn entry(&self, event: &Event) -> Result<PutEventsRequestEntry, Fault> {
        let detail = serde_json::to_string(event).map_err(|error| Fault::broken("publishing events", error))?;
        Ok(PutEventsRequestEntry::builder()
            .event_bus_name(&self.bus_name)
            .source(&event.source)
            .detail_type(event.body.event_type())
            .detail(detail)
            .build())
    }

    async fn mark_published(&self, row: &Item, now: Timestamp) -> Result<(), Fault> {
        self.mark(row)
            .update_expression(
                "SET publish_state = :published, published_at = :now, #ttl = :ttl ADD attempts :one \
                 REMOVE unpublished_shard, last_error",
            )
            .expression_attribute_names("#ttl", TTL)
            .expression_attribute_values(":published", s("published"))
            .expression_attribute_values(":now", at(now))
            .expression_attribute_values(":ttl", n(now.plus_seconds(KEPT_SECONDS).ttl_seconds()))
            .expression_attribute_values(":one", n(1))
            .send()
            .await
            .map(drop)
            .map_err(|error| dynamo::classify("marking an event published", error))
    }

    async fn mark_failed(&self, row: &Item, error: &str) -> Result<(), Fault> {
        self.mark(row)
            .update_expression("SET last_error = :error ADD attempts :one")
            .expression_attribute_values(":error", s(error.chars().take(500).collect::<String>()))
            .expression_attribute_values(":one", n(1))
            .send()
            .await
            .map(drop)
            .map_err(|error| dynamo::classify("marking an event unpublished", error))
    }

    fn mark(&self, row: &Item) -> aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder {
        let key = |name: &str| row.get(name).cloned().unwrap_or(AttributeValue::Null(true));
        self.table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, key(PK))
            .key(SK, key(SK))
            .condition_expression("attribute_exists(pk)")
    }
}

/// A correlation id for work that no request began.
pub fn own_correlation(now: Timestamp) -> String {
    ids::ulid(now)
}
