//! The waiting room's table. A counter shard carries the plan in force, so that joining is a single `UpdateItem`: it
//! gives out the position and returns the plan, in one round trip and without a read.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | first counter shard | `CONCERT#<concert>` | `COUNTER#0` | `issued` (places given out), `shards` (how many there are, fixed when the line is opened), `plan` (JSON of [`AdmissionPlan`]), `plan_version`, `opens_at` |
//! | counter shard k > 0 | `CONCERT#<concert>#<k>` | `COUNTER#<k>` | the same |
//! | page of used places | `CONCERT#<concert>#USED#<position / 128>` | `USED#<position / 128>` | `used` (set of `<position>:<payment>`), `undone` (set of payments) |
//! | remembered answer | `USER#<user>` | `IDEM#<key>` | see [`kit::idempotency`] |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! Each shard has its own partition key: shards under one key would share the 1,000 writes a second of its partition
//! until DynamoDB splits it, after minutes of heat, when the on-sale rush is over.

use crate::domain::{Issued, Line, NotIssued, ShardCount, Spent, forgettable, page_of};
use crate::ports::{
    Changed, IssuePosition, OpenLine, ReadLine, ReadPlan, ReadUse, RememberAnswer, ReplacePlan, RestorePlace,
    SpendPlace,
};
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, Update,
};
use contracts::admission::AdmissionPlan;
use contracts::events::{AdmissionChanged, EventBody};
use contracts::{ConcertId, PaymentId, Timestamp};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, Table, at, built, jitter, n, s};
use kit::fault::classify;
use kit::idempotency::{self, Memo, Outcome, StoredAnswer};
use kit::outbox;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The source of our events.
pub const SOURCE: &str = "encore/waiting-room";
/// How long a process caches what it read, in milliseconds. A status check may lag behind a change by that much.
pub const FRESH_MILLIS: i64 = 1_000;
/// How many concerts, and how many pages of used places, a process caches.
const KEPT_ENTRIES: usize = 1_000;
/// Tries of a contended or throttled write or read.
const ATTEMPTS: u32 = 4;
/// How many tombstones a page may have before the oldest are dropped.
const MAX_TOMBSTONES: usize = 1_024;

/// The lines in the waiting room's table.
#[derive(Debug)]
pub struct Lines {
    table: Table,
    /// The shard count of lines opened from now on.
    shards: ShardCount,
    /// The shard counts of existing lines, as far as this process knows them. They never change.
    opened: Mutex<HashMap<ConcertId, ShardCount>>,
    /// The next shard, round robin from a random start: processes spread out, and no shard falls far behind.
    turn: AtomicU32,
    plans: Recent<ConcertId, Option<AdmissionPlan>>,
    pages: Recent<(ConcertId, u64), HashSet<u64>>,
}

impl Lines {
    /// Lines in a table; new ones are opened over `shards` counters.
    pub fn new(table: Table, shards: ShardCount) -> Self {
        Self {
            table,
            shards,
            opened: Mutex::default(),
            turn: AtomicU32::new(fastrand::u32(..)),
            plans: Recent::default(),
            pages: Recent::default(),
        }
    }

    fn update(&self, pk: String, sk: String) -> UpdateItemFluentBuilder {
        self.table
            .client
            .update_item()
            .table_name(&self.table.name)
            .key(PK, s(pk))
            .key(SK, s(sk))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Takes the next place of a shard.
    async fn increment(
        &self,
        concert: &ConcertId,
        shard: u32,
        opened_by: Option<Timestamp>,
    ) -> Result<Result<Issued, NotIssued>, Fault> {
        let (pk, sk) = counter_key(concert, shard);
        let mut write = self.update(pk, sk).update_expression("ADD issued :one").return_values(ReturnValue::AllNew);
        write = match opened_by {
            None => write.condition_expression("attribute_exists(pk)"),
            Some(now) => write
                .condition_expression("attribute_exists(pk) AND opens_at <= :now")
                .expression_attribute_values(":now", at(now)),
        };
        write = write.expression_attribute_values(":one", n(1));
        let mut attempt = 0;
        loop {
            let error = match write.clone().send().await {
                Ok(written) => {
                    let counter = written.attributes.unwrap_or_default();
                    let shards = shards_of(&counter)?;
                    remember_shards(&mut locked(&self.opened), concert, shards);
                    let position = shards.position(shard, counter.uint("issued")?);
                    return Ok(Ok(Issued { position, plan: counter.document("plan")? }));
                }
                Err(error) => error,
            };
            if let Some(UpdateItemError::ConditionalCheckFailedException(failed)) = error.as_service_error() {
                return Ok(Err(match failed.item() {
                    Some(counter) => NotIssued::NotOpen { opens_at: counter.moment("opens_at")? },
                    None => NotIssued::UnknownConcert,
                }));
            }
            attempt += 1;
            match classify("giving out a position", error) {
                // The transaction of a plan change holds all counters of the line for some milliseconds.
                Fault::Contended(_) if attempt < ATTEMPTS => tokio::time::sleep(jitter(attempt)).await,
                fault => return Err(fault),
            }
        }
    }

    /// Reads up to 100 items by their keys.
    async fn get(
        &self,
        doing: &'static str,
        keys: Vec<(String, String)>,
        consistent: bool,
    ) -> Result<Vec<Item>, Fault> {
        let key = |(pk, sk)| HashMap::from([(PK.to_owned(), s(pk)), (SK.to_owned(), s(sk))]);
        let wanted = KeysAndAttributes::builder()
            .set_keys(Some(keys.into_iter().map(key).collect()))
            .consistent_read(consistent)
            .build()
            .map_err(|error| Fault::broken(doing, error))?;
        let mut open = HashMap::from([(self.table.name.clone(), wanted)]);
        let mut items = Vec::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(jitter(attempt)).await;
            }
            let read = self.table.client.batch_get_item().set_request_items(Some(open)).send().await;
            let read = read.map_err(|error| classify(doing, error))?;
            items.extend(read.responses.unwrap_or_default().into_values().flatten());
            // A throttled batch returns what it read and lists the rest.
            open = read.unprocessed_keys.unwrap_or_default();
            if open.is_empty() {
                return Ok(items);
            }
        }
        Err(Fault::contended(doing))
    }

    /// Reads the page of `position`, and the plan with it if requested, and caches them for a second.
    async fn refresh(
        &self,
        concert: &ConcertId,
        position: u64,
        with_plan: bool,
        now: Timestamp,
    ) -> Result<Refreshed, Fault> {
        let mut keys = vec![page_key(concert, position)];
        if with_plan {
            keys.push(counter_key(concert, 0));
        }
        // Eventually consistent: half the price, and less stale than the cache.
        let items = self.get("reading a place in line", keys, false).await?;
        let mut refreshed = Refreshed::default();
        for item in items {
            if item.text(SK)?.starts_with("USED#") {
                refreshed.used = used_positions(&item)?;
            } else {
                refreshed.plan = Some(item.document("plan")?);
            }
        }
        self.pages.keep((concert.clone(), page_of(position)), refreshed.used.clone(), now);
        if with_plan {
            self.plans.keep(concert.clone(), refreshed.plan.clone(), now);
        }
        Ok(refreshed)
    }

    /// Drops the oldest tombstones of a page that has too many. The place is restored whether or not this succeeds.
    async fn prune(&self, concert: &ConcertId, position: u64, tombstones: &[String]) -> Result<(), Fault> {
        let forgotten = forgettable(tombstones.to_vec());
        let (pk, sk) = page_key(concert, position);
        self.update(pk, sk)
            .update_expression("DELETE #undone :forgotten")
            .expression_attribute_names("#undone", UNDONE)
            .expression_attribute_values(":forgotten", AttributeValue::Ss(forgotten))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("forgetting tombstones", error))
    }
}

#[derive(Debug, Default)]
struct Refreshed {
    plan: Option<AdmissionPlan>,
    used: HashSet<u64>,
}

const USED: &str = "used";
const UNDONE: &str = "undone";

fn counter_key(concert: &ConcertId, shard: u32) -> (String, String) {
    let pk = if shard == 0 { format!("CONCERT#{concert}") } else { format!("CONCERT#{concert}#{shard}") };
    (pk, format!("COUNTER#{shard}"))
}

fn page_key(concert: &ConcertId, position: u64) -> (String, String) {
    (format!("CONCERT#{concert}#USED#{0}", page_of(position)), format!("USED#{0}", page_of(position)))
}

fn use_entry(position: u64, payment: &PaymentId) -> String {
    format!("{position}:{payment}")
}

fn shards_of(counter: &Item) -> Result<ShardCount, Fault> {
    ShardCount::new(counter.uint("shards")?).map_err(|wrong| Fault::broken("reading a number of shards", wrong))
}

/// A set of strings; empty when there is none, because DynamoDB keeps no empty sets.
fn set<'a>(item: &'a Item, name: &'static str) -> Result<&'a [String], Fault> {
    match item.get(name) {
        None => Ok(&[]),
        Some(AttributeValue::Ss(entries)) => Ok(entries),
        Some(_) => Err(Fault::broken("reading a stored set", name)),
    }
}

fn used_positions(page: &Item) -> Result<HashSet<u64>, Fault> {
    let position = |entry: &String| entry.split_once(':').and_then(|(position, _)| position.parse().ok());
    let wrong = || Fault::broken("reading used places", "an entry is no <position>:<payment>");
    set(page, USED)?.iter().map(|entry| position(entry).ok_or_else(wrong)).collect()
}

impl IssuePosition for Lines {
    async fn issue(
        &self,
        concert: &ConcertId,
        opened_by: Option<Timestamp>,
    ) -> Result<Result<Issued, NotIssued>, Fault> {
        let known = locked(&self.opened).get(concert).copied();
        let shard = self.turn.fetch_add(1, Ordering::Relaxed) % known.unwrap_or(self.shards).get();
        match self.increment(concert, shard, opened_by).await? {
            // The line was opened over fewer shards than are set now. The first shard always exists, and its item has
            // the number of shards, which later joins use.
            Err(NotIssued::UnknownConcert) if shard != 0 => self.increment(concert, 0, opened_by).await,
            outcome => Ok(outcome),
        }
    }
}

fn remember_shards(opened: &mut HashMap<ConcertId, ShardCount>, concert: &ConcertId, shards: ShardCount) {
    if opened.get(concert) == Some(&shards) {
        return;
    }
    if opened.len() >= KEPT_ENTRIES {
        opened.clear();
    }
    opened.insert(concert.clone(), shards);
}

impl RememberAnswer for Lines {
    async fn remember(&self, memo: &Memo, now: Timestamp) -> Result<Outcome<StoredAnswer>, Fault> {
        let put = built(idempotency::remember(&self.table, memo, now).build())?;
        // The effect is a counter whose value only its own update returns, so the row is written after it, not in the
        // same transaction; a plain put costs half of a transactional one.
        let sent = self
            .table
            .client
            .put_item()
            .table_name(put.table_name)
            .set_item(Some(put.item))
            .set_condition_expression(put.condition_expression)
            .set_expression_attribute_names(put.expression_attribute_names)
            .set_expression_attribute_values(put.expression_attribute_values)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        let Err(error) = sent else { return Ok(Outcome::First) };
        match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(failed)) => {
                let row = failed.item().cloned().unwrap_or_default();
                Ok(idempotency::recall(&row, &memo.key)?.map(|first| first.answer))
            }
            _ => Err(classify("remembering an answer", error)),
        }
    }
}

impl ReadPlan for Lines {
    async fn plan(&self, concert: &ConcertId, position: u64, now: Timestamp) -> Result<Option<AdmissionPlan>, Fault> {
        if let Some(plan) = self.plans.recall(concert, now, Option::clone) {
            return Ok(plan);
        }
        self.refresh(concert, position, true, now).await.map(|refreshed| refreshed.plan)
    }
}

impl ReadUse for Lines {
    async fn is_used(&self, concert: &ConcertId, position: u64, now: Timestamp) -> Result<bool, Fault> {
        // A used place is cached no longer than others: in strict mode a payment that fails later gives it back.
        let page = (concert.clone(), page_of(position));
        if let Some(used) = self.pages.recall(&page, now, |used| used.contains(&position)) {
            return Ok(used);
        }
        self.refresh(concert, position, false, now).await.map(|refreshed| refreshed.used.contains(&position))
    }
}

impl ReadLine for Lines {
    async fn line(&self, concert: &ConcertId) -> Result<Option<Line>, Fault> {
        let doing = "reading a line";
        let first = self.get(doing, vec![counter_key(concert, 0)], true).await?.pop();
        let Some(first) = first else { return Ok(None) };
        let shards = shards_of(&first)?.get();
        let mut issued = HashMap::from([(counter_key(concert, 0).1, first.uint("issued")?)]);
        if shards > 1 {
            for counter in self.get(doing, (1..shards).map(|k| counter_key(concert, k)).collect(), true).await? {
                issued.insert(counter.text(SK)?.to_owned(), counter.uint("issued")?);
            }
        }
        let count_of = |shard| {
            let found = issued.get(&counter_key(concert, shard).1).copied();
            found.ok_or_else(|| Fault::broken(doing, "a counter shard is missing"))
        };
        let issued = (0..shards).map(count_of).collect::<Result<Vec<u64>, Fault>>()?;
        Ok(Some(Line { plan: first.document("plan")?, issued }))
    }
}

impl ReplacePlan for Lines {
    async fn replace_plan(
        &self,
        concert: &ConcertId,
        read: &Line,
        allowance: u64,
        plan: &AdmissionPlan,
        change: &Changed<'_>,
    ) -> Result<bool, Fault> {
        let doing = "replacing an admission plan";
        let document = kit::dynamo::json(doing, plan)?;
        // Shards that lag are advanced: a place before the new segment that one of them had yet to give out would fall
        // under the old segment. The gaps are harmless.
        let issued_by_all = read.issued.iter().max().copied().unwrap_or(0).saturating_add(allowance);
        let mut transaction = self.table.transaction(doing);
        for (shard, issued) in (0..).zip(&read.issued) {
            let (pk, sk) = counter_key(concert, shard);
            let update = Update::builder()
                .table_name(&self.table.name)
                .key(PK, s(pk))
                .key(SK, s(sk))
                .update_expression("SET #plan = :plan, plan_version = :version, opens_at = :opens_at, issued = :issued")
                .condition_expression("plan_version = :read AND issued <= :ceiling")
                .expression_attribute_names("#plan", "plan")
                .expression_attribute_values(":plan", document.clone())
                .expression_attribute_values(":version", n(plan.version))
                .expression_attribute_values(":opens_at", at(plan.opens_at))
                .expression_attribute_values(":read", n(read.plan.version))
                .expression_attribute_values(":issued", n(issued_by_all))
                .expression_attribute_values(":ceiling", n(issued.saturating_add(allowance)));
            transaction.add(update)?;
        }
        let body = EventBody::AdmissionChanged(AdmissionChanged { concert_id: concert.clone(), plan: plan.clone() });
        let id = format!("{concert}.{}.{}", plan.version, body.event_type());
        let (subject, correlation) = (concert.as_str(), change.correlation_id);
        let event = outbox::event_with_id(id, SOURCE, subject, correlation, body, change.now)?;
        transaction.add(outbox::row(&self.table, &event, subject)?)?;
        Ok(transaction.commit().await?.is_ok())
    }
}

impl OpenLine for Lines {
    async fn open(&self, concert: &ConcertId, plan: AdmissionPlan) -> Result<AdmissionPlan, Fault> {
        let doing = "opening a line";
        let document = kit::dynamo::json(doing, &plan)?;
        let mut transaction = self.table.transaction(doing);
        let mut counters = Vec::new();
        for shard in 0..self.shards.get() {
            let (pk, sk) = counter_key(concert, shard);
            let put = Put::builder()
                .table_name(&self.table.name)
                .item(PK, s(pk))
                .item(SK, s(sk))
                .item("issued", n(0))
                .item("shards", n(self.shards.get()))
                .item("plan", document.clone())
                .item("plan_version", n(plan.version))
                .item("opens_at", at(plan.opens_at))
                .condition_expression("attribute_not_exists(pk)")
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
            counters.push(if shard == 0 { transaction.add_identity(put)? } else { transaction.add(put)? });
        }
        let Err(cancelled) = transaction.commit().await? else { return Ok(plan) };
        // The first shard always exists, whatever the shard count when the line was opened.
        match counters.first().and_then(|first| cancelled.found(*first)) {
            Some(first) => first.document("plan"),
            None => Err(Fault::broken(doing, "a line has counter shards but not the first")),
        }
    }
}

impl SpendPlace for Lines {
    async fn spend(&self, concert: &ConcertId, position: u64, payment: &PaymentId) -> Result<Spent, Fault> {
        let entry = use_entry(position, payment);
        let (pk, sk) = page_key(concert, position);
        let written = self
            .update(pk, sk)
            .update_expression("ADD #used :entries")
            .condition_expression("attribute_not_exists(#undone) OR NOT contains(#undone, :payment)")
            .expression_attribute_names("#used", USED)
            .expression_attribute_names("#undone", UNDONE)
            .expression_attribute_values(":entries", AttributeValue::Ss(vec![entry.clone()]))
            .expression_attribute_values(":payment", s(payment))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await;
        match written {
            Ok(written) => {
                let before = written.attributes.unwrap_or_default();
                Ok(if set(&before, USED)?.contains(&entry) { Spent::Before } else { Spent::Now })
            }
            Err(error)
                if error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(Spent::Undone)
            }
            Err(error) => Err(classify("spending a place", error)),
        }
    }
}

impl RestorePlace for Lines {
    async fn restore(&self, concert: &ConcertId, position: u64, payment: &PaymentId) -> Result<bool, Fault> {
        let (pk, sk) = page_key(concert, position);
        let written = self
            .update(pk, sk)
            .update_expression("DELETE #used :entries ADD #undone :payments")
            .expression_attribute_names("#used", USED)
            .expression_attribute_names("#undone", UNDONE)
            .expression_attribute_values(":entries", AttributeValue::Ss(vec![use_entry(position, payment)]))
            .expression_attribute_values(":payments", AttributeValue::Ss(vec![payment.to_string()]))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await
            .map_err(|error| classify("restoring a place", error))?;
        let before = written.attributes.unwrap_or_default();
        let tombstones = set(&before, UNDONE)?;
        if tombstones.len() > MAX_TOMBSTONES
            && let Err(fault) = self.prune(concert, position, tombstones).await
        {
            tracing::warn!(error = fault.chain(), "old tombstones stay for now");
        }
        Ok(tombstones.iter().any(|undone| undone == payment.as_str()))
    }
}

/// A bounded cache of recent reads: when full it is cleared, which costs a few reads and needs no bookkeeping.
#[derive(Debug)]
struct Recent<K, V> {
    entries: Mutex<HashMap<K, (Timestamp, V)>>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// Applies `take` to the value under `key`, if that was read within [`FRESH_MILLIS`].
    fn recall<T>(&self, key: &K, now: Timestamp, take: impl FnOnce(&V) -> T) -> Option<T> {
        let entries = locked(&self.entries);
        let (read_at, value) = entries.get(key)?;
        (0..FRESH_MILLIS).contains(&now.millis_since(*read_at)).then(|| take(value))
    }

    fn keep(&self, key: K, value: V, now: Timestamp) {
        let mut entries = locked(&self.entries);
        if entries.len() >= KEPT_ENTRIES && !entries.contains_key(&key) {
            entries.clear();
        }
        entries.insert(key, (now, value));
    }
}

/// Locks for a map access only, which cannot leave the map half changed: poisoning is harmless here.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    #[test]
    fn a_read_is_cached_for_a_second_and_never_from_the_future() {
        let recent = Recent::default();
        recent.keep("c1", 7, NOW);
        let recall = |millis| recent.recall(&"c1", NOW.plus_millis(millis), |value| *value);
        assert_eq!((recall(0), recall(999)), (Some(7), Some(7)));
        assert_eq!((recall(1_000), recall(-1)), (None, None));
        assert_eq!(recent.recall(&"c2", NOW, |value| *value), None);
    }

    #[test]
    fn the_cache_is_bounded() {
        let recent = Recent::default();
        for key in 0..10 * KEPT_ENTRIES {
            recent.keep(key, (), NOW);
            assert!(locked(&recent.entries).len() <= KEPT_ENTRIES);
        }
    }

    #[test]
    fn used_places_are_read_by_position_whatever_the_payment_id() {
        let page = Item::from([(USED.to_owned(), AttributeValue::Ss(vec!["7:p:1".into(), "8:p2".into()]))]);
        assert_eq!(used_positions(&page).unwrap(), HashSet::from([7, 8]));
        assert!(used_positions(&Item::new()).unwrap().is_empty());
        for corrupt in [AttributeValue::Ss(vec!["seven:p1".into()]), s("7:p1")] {
            let page = Item::from([(USED.to_owned(), corrupt)]);
            assert!(matches!(used_positions(&page), Err(Fault::Broken(_))));
        }
    }

    #[test]
    fn every_shard_has_its_own_partition_and_no_two_lines_share_one() {
        let (one, two) = (ConcertId::parse("1").unwrap(), ConcertId::parse("11").unwrap());
        let partitions: HashSet<String> =
            [&one, &two].into_iter().flat_map(|concert| (0..64).map(|k| counter_key(concert, k).0)).collect();
        assert_eq!(partitions.len(), 128);
    }
}
