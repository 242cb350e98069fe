//! The transactional outbox: an event is a row in the transaction of what happened, and is published from there.
//!
//! Row (`pk = OUTBOX#<event id>`, `sk = OUTBOX`): `event` (JSON), `transaction_key`, `publish_state` (`pending` |
//! `published`), `attempts`, `last_error`, `created_at` (since when it is pending). While pending it is in the sparse
//! index [`INDEX`] under `unpublished_shard`. The table's stream delivers a new row to the relay at once; the scheduled
//! sweep publishes what the relay could not. Publishing twice is harmless: consumers are idempotent by the event's id.

use crate::dynamo::{self, Item, PK, Read, SK, TTL, Table, at, n, s};
use crate::fault::{classify, is_condition_failed};
use crate::service::Service;
use crate::stream::{Change, Record};
use crate::sweep::{Cursor, Oldest, Pace, Part, page, sweep};
use crate::{Fault, Tick, ids, metrics};
use aws_sdk_dynamodb::types::{AttributeValue, Put, TransactWriteItem};
use contracts::events::{Event, EventBody, FaultDetected};
use contracts::{EventId, Timestamp};
use futures_util::future::try_join_all;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The sparse index of unpublished rows: partition `unpublished_shard`, sort `created_at`.
pub const INDEX: &str = "unpublished";
/// Value of `kind` on an outbox row.
pub const KIND: &str = "outbox";
/// The number of partitions of the index over which unpublished rows spread.
const SHARDS: u64 = 16;
/// How long a published row is kept, in seconds, for republishing and for operators.
const KEPT_SECONDS: i64 = 7 * 24 * 3600;
/// How old an unpublished row must be before the sweep takes it over from the relay, in milliseconds.
const OVERDUE_MILLIS: i64 = 60_000;
/// How old an unpublished row must be before the on-call is paged, in milliseconds.
const STUCK_MILLIS: i64 = 600_000;
/// PutEvents takes ten entries.
const PUT_EVENTS_LIMIT: usize = 10;
/// And 256 KB, of which this is left to events.
/// <https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-putevents.html>
const PUT_EVENTS_BYTES: usize = 240 * 1024;
/// A generous allowance for source, type and time of an entry.
const ENVELOPE_BYTES: usize = 256;
/// How often an entry is tried before the relay leaves it to the sweep.
const ATTEMPTS: u32 = 3;

/// Requests to the bus at once, and each second. By default it takes 600 events a second in Seoul, and the relays need it.
const PACE: Pace = Pace::at_once(4).at_most(30);
/// How long the events of one request may take with all tries and marks.
const PUBLISH_LIMIT: Duration = Duration::from_secs(15);
/// How long paging the on-call may take.
const STUCK_LIMIT: Duration = Duration::from_secs(5);

/// An event about `subject`. Its id follows from the subject and the event type, so that a repeated step cannot make a
/// second one.
pub fn event(
    source: &str,
    subject: &str,
    correlation_id: &str,
    body: EventBody,
    now: Timestamp,
) -> Result<Event, Fault> {
    let id = format!("{subject}.{}", body.event_type());
    event_with_id(id, source, subject, correlation_id, body, now)
}

/// [`event`] with an id of its own, where the same can happen to a subject more than once.
pub fn event_with_id(
    id: String,
    source: &str,
    subject: &str,
    correlation_id: &str,
    body: EventBody,
    now: Timestamp,
) -> Result<Event, Fault> {
    let id = EventId::parse(id).map_err(|error| Fault::broken("naming an event", error))?;
    Ok(Event {
        specversion: "1.0".to_owned(),
        id,
        source: source.to_owned(),
        time: now,
        subject: subject.to_owned(),
        correlationid: correlation_id.to_owned(),
        dataschema: body.schema().to_owned(),
        body,
    })
}

/// The write that puts an event into the outbox, for the transaction of what happened.
pub fn row(table: &Table, event: &Event, transaction_key: &str) -> Result<TransactWriteItem, Fault> {
    row_with(table, event, transaction_key, [])
}

/// [`row`], with additional attributes.
pub fn row_with<const N: usize>(
    table: &Table,
    event: &Event,
    transaction_key: &str,
    more: [(&str, AttributeValue); N],
) -> Result<TransactWriteItem, Fault> {
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
        .item("unpublished_shard", s(fastrand::u64(..SHARDS)));
    let put = more.into_iter().fold(put, |put, (name, value)| put.item(name, value));
    Ok(TransactWriteItem::builder().put(dynamo::built(put.build())?).build())
}

/// The key of an event's row: partition key and sort key.
pub fn key(event_id: &str) -> (AttributeValue, AttributeValue) {
    (s(format!("OUTBOX#{event_id}")), s("OUTBOX"))
}

/// Has the next sweep republish an event, for a consumer that may not have received it: within a minute, and once,
/// however often this is called meanwhile. An event that is no longer in the outbox is not republished.
pub async fn publish_again(table: &Table, event_id: &str, now: Timestamp) -> Result<(), Fault> {
    let (pk, sk) = key(event_id);
    let marked = table
        .client
        .update_item()
        .table_name(&table.name)
        .key(PK, pk)
        .key(SK, sk)
        .update_expression(
            "SET publish_state = :pending, created_at = :since, unpublished_shard = :shard REMOVE published_at, #ttl",
        )
        .condition_expression("publish_state = :published")
        .expression_attribute_names("#ttl", TTL)
        .expression_attribute_values(":pending", s("pending"))
        .expression_attribute_values(":published", s("published"))
        // The relay does not republish it, so the sweep takes it without waiting.
        .expression_attribute_values(":since", at(now.plus_millis(-OVERDUE_MILLIS)))
        .expression_attribute_values(":shard", s(fastrand::u64(..SHARDS)))
        .send()
        .await;
    match marked {
        Ok(_) => Ok(()),
        Err(error) if is_condition_failed(&error) => Ok(()),
        Err(error) => Err(classify("having an event published again", error)),
    }
}

/// The event bus.
#[derive(Debug, Clone)]
pub struct Bus {
    events: Service,
    name: String,
}

impl Bus {
    /// A bus by its name.
    pub fn new(events: Service, name: String) -> Self {
        Self { events, name }
    }

    /// Publishes at most ten events in one call. Returns for each, in order, the bus's error if it was rejected:
    /// PutEvents may fail for some and not for others.
    pub async fn put(&self, events: &[&Event]) -> Result<Vec<Option<String>>, Fault> {
        let mut entries = Vec::with_capacity(events.len());
        for event in events {
            let detail = serde_json::to_string(event).map_err(|error| Fault::broken("publishing events", error))?;
            entries.push(json!({
                "EventBusName": self.name,
                "Source": event.source,
                "DetailType": event.body.event_type(),
                "Detail": detail,
            }));
        }
        let answer = self.events.call("PutEvents", &json!({ "Entries": entries })).await;
        let answer = answer.map_err(|error| classify("publishing events", error))?;
        let error_of = |index: usize| {
            let entry = &answer["Entries"][index];
            // An accepted entry has an id. An entry that is missing from the answer was not accepted.
            let unanswered = entry["EventId"].is_null().then_some("NoAnswer");
            entry["ErrorCode"].as_str().or(unanswered).map(str::to_owned)
        };
        Ok((0..events.len()).map(error_of).collect())
    }

    /// Publishes all events, ten at a time, with a few retries for those that the bus rejects. For events that come
    /// from elsewhere than an outbox and whose caller is retried when this fails.
    pub async fn put_all(&self, events: &[Event]) -> Result<(), Fault> {
        for chunk in events.chunks(PUT_EVENTS_LIMIT) {
            let mut open: Vec<&Event> = chunk.iter().collect();
            for attempt in 0..ATTEMPTS {
                if attempt > 0 {
                    tokio::time::sleep(dynamo::jitter(attempt + 2)).await;
                }
                let results = self.put(&open).await?;
                open = open.into_iter().zip(results).filter(|(_, error)| error.is_some()).map(|(e, _)| e).collect();
                if open.is_empty() {
                    break;
                }
            }
            if !open.is_empty() {
                return Err(Fault::contended("publishing events"));
            }
        }
        Ok(())
    }
}

/// Publishes outbox rows of one context's table to the bus.
#[derive(Debug)]
pub struct Relay {
    context: &'static str,
    table: Table,
    bus: Bus,
}

impl Relay {
    /// A relay of `context` from its table to a bus.
    pub fn new(context: &'static str, table: Table, bus: Bus) -> Self {
        Self { context, table, bus }
    }

    /// [`Relay::relay`], as the handler of a stream.
    pub async fn relay_now(&self, records: Vec<Record>) -> Result<(), Fault> {
        self.relay(records, crate::now()).await
    }

    /// [`Relay::sweep`], as the handler of a schedule.
    pub async fn sweep_all(&self, tick: impl Into<Tick>) -> Result<(), Fault> {
        self.sweep(tick).await.map(drop)
    }

    /// Publishes the new rows among a stream's records. A row that cannot be published stays pending for the sweep, so
    /// that one bad row never blocks the stream.
    pub async fn relay(&self, records: Vec<Record>, now: Timestamp) -> Result<(), Fault> {
        let rows = records
            .into_iter()
            .filter(|record| record.change == Change::Insert)
            .filter_map(|record| record.new)
            .filter(|item| item.get("kind").and_then(|kind| kind.as_s().ok()).is_some_and(|kind| kind == KIND));
        self.publish(rows.collect(), now).await
    }

    /// Publishes rows that have been pending for more than a minute. Returns how many there were.
    pub async fn sweep(&self, tick: impl Into<Tick>) -> Result<usize, Fault> {
        let tick = &tick.into();
        let now = tick.now;
        let (found, oldest) = (&AtomicUsize::new(0), &Oldest::default());
        let read = |shard, after| async move {
            let Part { rows, next } = self.overdue(shard, now, after).await?;
            found.fetch_add(rows.len(), Ordering::Relaxed);
            rows.iter().filter_map(|row| row.moment("created_at").ok()).for_each(|since| oldest.note(since));
            Ok(Part { rows: requests(rows), next })
        };
        let work = |chunk: Vec<(Event, Item)>| async move {
            let publishing = self.publish_chunk(&chunk, now);
            let outcome = tick.within(PUBLISH_LIMIT, "publishing overdue events", publishing).await;
            let events = chunk.len();
            outcome.inspect_err(|fault| tracing::warn!(events, error = fault.chain(), "overdue events still wait"))
        };
        let swept = sweep(tick, SHARDS, PACE, read, work).await;
        let (found, oldest) = (found.load(Ordering::Relaxed), oldest.or(now));
        let age_millis = now.millis_since(oldest);
        metrics::gauge("OutboxAge", "Seconds", self.context, u64::try_from(age_millis / 1000).unwrap_or(0));
        let outcome = swept.say("outbox", self.context);
        if age_millis > STUCK_MILLIS {
            tick.within(STUCK_LIMIT, "saying that events are stuck", self.say_stuck(found, oldest, now)).await?;
        }
        outcome?;
        if found > 0 {
            tracing::warn!(overdue = found, "published events that were overdue");
        }
        Ok(found)
    }

    /// A page of the rows of a shard that have been pending for more than a minute, oldest first.
    async fn overdue(&self, shard: u64, now: Timestamp, after: Option<Cursor>) -> Result<Part<Item>, Fault> {
        let pending = self
            .table
            .client
            .query()
            .table_name(&self.table.name)
            .index_name(INDEX)
            .key_condition_expression("unpublished_shard = :shard AND created_at < :before")
            .expression_attribute_values(":shard", s(shard))
            .expression_attribute_values(":before", at(now.plus_millis(-OVERDUE_MILLIS)))
            .limit(100);
        page("finding unpublished events", pending, after, |row| Ok(row.clone())).await
    }

    /// Pages the on-call about overdue events. If the bus itself is the reason, the alarm on `OutboxAge` does.
    async fn say_stuck(&self, found: usize, oldest: Timestamp, now: Timestamp) -> Result<(), Fault> {
        let fault = format!("outbox-overdue:{}", self.context);
        let body = EventBody::FaultDetected(FaultDetected {
            fault: fault.clone(),
            summary: format!("Events of {} wait for more than ten minutes", self.context),
            detail: format!("{found} events, the oldest since {}", oldest.rfc3339()),
        });
        let hour = now.millis() / 3_600_000;
        let id = format!("{fault}.{hour}.{}", body.event_type());
        let source = format!("encore/{}", self.context);
        let event = event_with_id(id, &source, &fault, &own_correlation(now), body, now)?;
        self.bus.put_all(&[event]).await
    }

    async fn publish(&self, rows: Vec<Item>, now: Timestamp) -> Result<(), Fault> {
        for chunk in requests(rows) {
            self.publish_chunk(&chunk, now).await?;
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
            let events: Vec<&Event> = open.iter().map(|(event, _)| event).collect();
            match self.bus.put(&events).await {
                Err(fault) => last_error = fault.chain(),
                Ok(results) => {
                    let (mut taken, mut failed) = (Vec::new(), Vec::new());
                    for (entry, error) in open.iter().zip(results) {
                        match error {
                            None => taken.push(self.mark_published(&entry.1, now)),
                            Some(code) => {
                                last_error = code;
                                failed.push(*entry);
                            }
                        }
                    }
                    // Concurrently, because the next chunk is published only after these marks.
                    try_join_all(taken).await?;
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
            .map_err(|error| classify("marking an event published", error))
    }

    async fn mark_failed(&self, row: &Item, error: &str) -> Result<(), Fault> {
        self.mark(row)
            .update_expression("SET last_error = :error ADD attempts :one")
            .expression_attribute_values(":error", s(error.chars().take(500).collect::<String>()))
            .expression_attribute_values(":one", n(1))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("marking an event unpublished", error))
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

/// The events of rows, cut into requests. A row that cannot be read stays pending and visible; the alarm on `OutboxAge`
/// reports it.
fn requests(rows: Vec<Item>) -> Vec<Vec<(Event, Item)>> {
    let mut pending = Vec::with_capacity(rows.len());
    for row in rows {
        match row.document::<Event>("event") {
            Ok(event) => pending.push((event, row)),
            Err(fault) => tracing::error!(error = fault.chain(), "an outbox row cannot be read"),
        }
    }
    let mut chunks = Vec::new();
    while !pending.is_empty() {
        let rest = pending.split_off(one_request(pending.iter().map(|(_, row)| size_of(row))));
        chunks.push(std::mem::replace(&mut pending, rest));
    }
    chunks
}

fn size_of(row: &Item) -> usize {
    row.text("event").map_or(0, str::len)
}

/// How many of the next events go into one request: at most ten, and within its size limit. A larger request would be
/// rejected as a whole, and again in every sweep.
fn one_request(sizes: impl Iterator<Item = usize>) -> usize {
    let mut total = 0;
    let fits = sizes.take(PUT_EVENTS_LIMIT).enumerate().take_while(|(index, size)| {
        total += size + ENVELOPE_BYTES;
        *index == 0 || total <= PUT_EVENTS_BYTES
    });
    fits.count()
}

/// A correlation id for work that no request started.
pub fn own_correlation(now: Timestamp) -> String {
    ids::ulid(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_ten_events_or_as_many_as_fit_and_at_least_one() {
        assert_eq!(one_request([].into_iter()), 0);
        assert_eq!(one_request([1_000; 25].into_iter()), 10);
        assert_eq!(one_request([60_000; 10].into_iter()), 4);
        assert_eq!(one_request([500_000, 1].into_iter()), 1);
    }
}
