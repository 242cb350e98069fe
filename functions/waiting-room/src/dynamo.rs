//! The waiting room's table. A user joins in three writes: claim the one place they can have ([`places`]), count
//! ([`counters`]), keep what was counted.
//!
//! | item | pk | sk | attributes |
//! | --- | --- | --- | --- |
//! | admission plan | `CONCERT#<concert>#PLAN` | `PLAN` | `plan` (JSON of [`AdmissionPlan`]), `plan_version`, `last_turn` (one given out not long ago) |
//! | first counter | `CONCERT#<concert>` | `COUNTER#0` | `issued` (places given out), `turn` (turns given out or skipped), `stripe` (which set of counters the line has now), `shards` (how many), `after_position` and `after_turn` (the last of the counters before) |
//! | counter k of set e > 0 | `CONCERT#<concert>#<e>#<k>` | `COUNTER#<k>` | `issued`, `turn`, `stripe` |
//! | a user's place | `USER#<user>` | `LINE#<concert>` | `claim` (the request that has it), `claimed_at`, `position`, `turn`, `issued_at` once it was given out, `given_up` (places given up), `left_at` (when the last was), `lost` (requests that died between being given a place and keeping it, at most), `ttl` |
//! | page of used places | `CONCERT#<concert>#USED#<position / 128>` | `USED#<position / 128>` | `used` (set of `<position>:<payment>`, or `<position>:left`), `undone` (set of payments) |
//! | line with a gate | `GATES` | `LINE#<concert>` | |
//! | outbox row | `OUTBOX#<event>` | `OUTBOX` | see [`kit::outbox`] |
//!
//! Lines that an earlier release opened have their plan in the first counter until it is changed, and counter k > 0 under
//! `CONCERT#<concert>#<k>`.
//!
//! Each counter has its own partition key: under one key they would share the 1,000 writes a second of its partition
//! until DynamoDB splits it, after minutes of heat, when the on-sale rush is over. The plan has one as well, so that a
//! throttled counter cannot keep a pause from being set.

mod counters;
mod gates;
mod places;

use crate::domain::{Planned, ShardCount, Spent, forgettable, page_of};
use crate::ports::{
    Backoff, Changed, GiveUpPlace, NoteTurn, OpenLine, ReadPlan, ReadPlanNow, ReadUse, ReplacePlan, RestorePlace,
    SpendPlace,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::builders::PutBuilder;
use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure, Update,
};
use contracts::admission::AdmissionPlan;
use contracts::events::{AdmissionChanged, EventBody};
use contracts::{ConcertId, PaymentId, Timestamp, UserId};
use counters::{Known, counter_key};
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, Table, jitter, n, s};
use kit::fault::classify;
use kit::outbox;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The source of our events.
pub const SOURCE: &str = "encore/waiting-room";
/// How long a process caches what it read, in milliseconds. A status check may lag behind a change by that much.
pub const FRESH_MILLIS: i64 = 1_000;
/// After how long every process knows of a plan, in milliseconds: once what it cached is stale, and an eventually
/// consistent read no longer finds the one before.
pub const PLAN_LEAD_MILLIS: i64 = FRESH_MILLIS + 1_000;
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
    /// Over how many counters a busy line may give out places.
    shards: ShardCount,
    counters: Mutex<HashMap<ConcertId, Known>>,
    /// Users who joined through this process.
    joined: Seen<(UserId, ConcertId)>,
    plans: Recent<ConcertId, Option<Planned>>,
    pages: Recent<(ConcertId, u64), UsedPlaces>,
}

impl Lines {
    /// Lines in a table; busy ones may have `shards` counters.
    pub fn new(table: Table, shards: ShardCount) -> Self {
        Self {
            table,
            shards,
            counters: Mutex::default(),
            joined: Seen::default(),
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

    /// Reads the page of `position`, if one is given, and the plan with it if requested, and caches them for a second.
    async fn refresh(
        &self,
        concert: &ConcertId,
        position: Option<u64>,
        with_plan: bool,
        now: Timestamp,
    ) -> Result<Refreshed, Fault> {
        const DOING: &str = "reading a place in line";
        let mut keys: Vec<_> = position.map(|position| page_key(concert, position)).into_iter().collect();
        if with_plan {
            keys.push(plan_key(concert));
        }
        // Eventually consistent: half the price, and a change of the plan waits for as long as that can take.
        let items = self.get(DOING, keys, false).await?;
        let mut refreshed = Refreshed::default();
        for item in items {
            if item.text(SK)?.starts_with("USED#") {
                refreshed.used = used_places(&item)?;
            } else {
                refreshed.plan = Some(planned(&item)?);
            }
        }
        if let Some(position) = position {
            self.pages.keep((concert.clone(), page_of(position)), refreshed.used.clone(), now);
        }
        if with_plan {
            if refreshed.plan.is_none() {
                let plan = self.plan_of_before(concert).await?;
                refreshed.plan = plan.map(|plan| Planned { plan, last_turn: 0 });
            }
            self.plans.keep(concert.clone(), refreshed.plan.clone(), now);
        }
        Ok(refreshed)
    }

    /// The plan of a line that an earlier release opened and nobody changed since.
    async fn plan_of_before(&self, concert: &ConcertId) -> Result<Option<AdmissionPlan>, Fault> {
        let first = self.get("reading a plan", vec![counter_key(concert, 0, 0)], true).await?.pop();
        first.map(|first| first.document("plan")).transpose()
    }

    /// What `take` says of the page of `position`, read within the last second.
    async fn of_page(
        &self,
        concert: &ConcertId,
        position: u64,
        now: Timestamp,
        take: impl Fn(&UsedPlaces) -> bool + Send,
    ) -> Result<bool, Fault> {
        // A used place is cached no longer than others: in strict mode a payment that fails later gives it back.
        if let Some(taken) = self.pages.recall(&(concert.clone(), page_of(position)), now, &take) {
            return Ok(taken);
        }
        self.refresh(concert, Some(position), false, now).await.map(|refreshed| take(&refreshed.used))
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
    plan: Option<Planned>,
    used: UsedPlaces,
}

/// The positions of a page that are used.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct UsedPlaces {
    /// Those that are spent on a payment.
    spent: HashSet<u64>,
    /// Those that were given up.
    left: HashSet<u64>,
}

impl UsedPlaces {
    fn contains(&self, position: u64) -> bool {
        self.spent.contains(&position) || self.left.contains(&position)
    }
}

const USED: &str = "used";
const UNDONE: &str = "undone";
/// In place of a payment, for a place that was given up.
const LEFT: &str = "left";

fn plan_key(concert: &ConcertId) -> (String, String) {
    (format!("CONCERT#{concert}#PLAN"), "PLAN".to_owned())
}

fn page_key(concert: &ConcertId, position: u64) -> (String, String) {
    (format!("CONCERT#{concert}#USED#{0}", page_of(position)), format!("USED#{0}", page_of(position)))
}

fn use_entry(position: u64, payment: &PaymentId) -> String {
    format!("{position}:{payment}")
}

/// A set of strings; empty when there is none, because DynamoDB keeps no empty sets.
fn set<'a>(item: &'a Item, name: &'static str) -> Result<&'a [String], Fault> {
    match item.get(name) {
        None => Ok(&[]),
        Some(AttributeValue::Ss(entries)) => Ok(entries),
        Some(_) => Err(Fault::broken("reading a stored set", name)),
    }
}

fn used_places(page: &Item) -> Result<UsedPlaces, Fault> {
    let wrong = || Fault::broken("reading used places", "an entry is no <position>:<payment>");
    let mut used = UsedPlaces::default();
    for entry in set(page, USED)? {
        let (position, by) = entry.split_once(':').ok_or_else(wrong)?;
        let position = position.parse().map_err(|_| wrong())?;
        if by == LEFT {
            used.left.insert(position)
        } else {
            used.spent.insert(position)
        };
    }
    Ok(used)
}

impl ReadPlan for Lines {
    fn knows(&self, concert: &ConcertId) -> bool {
        locked(&self.plans.entries).get(concert).is_some_and(|(_, plan)| plan.is_some())
    }

    async fn plan(&self, concert: &ConcertId, position: Option<u64>, now: Timestamp) -> Result<Option<Planned>, Fault> {
        if let Some(plan) = self.plans.recall(concert, now, Option::clone) {
            return Ok(plan);
        }
        self.refresh(concert, position, true, now).await.map(|refreshed| refreshed.plan)
    }
}

fn planned(item: &Item) -> Result<Planned, Fault> {
    let last_turn = u64::try_from(item.maybe_int("last_turn")?.unwrap_or(0)).unwrap_or(0);
    Ok(Planned { plan: item.document("plan")?, last_turn })
}

impl NoteTurn for Lines {
    async fn note_turn(&self, concert: &ConcertId, turn: u64) {
        let (pk, sk) = plan_key(concert);
        let noted = self
            .update(pk, sk)
            .update_expression("SET last_turn = :turn")
            .condition_expression("attribute_exists(pk) AND (attribute_not_exists(last_turn) OR last_turn < :turn)")
            .expression_attribute_values(":turn", n(turn))
            .send()
            .await;
        if let Err(error) = noted
            && !is_refused(&error)
        {
            tracing::warn!(error = classify("noting a turn", error).chain(), "how far a line is stays unknown for now");
        }
    }
}

impl ReadPlanNow for Lines {
    async fn plan_now(&self, concert: &ConcertId) -> Result<Option<AdmissionPlan>, Fault> {
        let (pk, sk) = plan_key(concert);
        match self.table.read("reading a plan", s(pk), s(sk)).await? {
            Some(item) => item.document("plan").map(Some),
            None => self.plan_of_before(concert).await,
        }
    }
}

impl Backoff for Lines {
    async fn back_off(&self, attempt: u32) {
        tokio::time::sleep(jitter(attempt)).await;
    }
}

impl ReadUse for Lines {
    async fn is_used(&self, concert: &ConcertId, position: u64, now: Timestamp) -> Result<bool, Fault> {
        self.of_page(concert, position, now, |used| used.contains(position)).await
    }

    async fn is_spent(&self, concert: &ConcertId, position: u64, now: Timestamp) -> Result<bool, Fault> {
        self.of_page(concert, position, now, |used| used.spent.contains(&position)).await
    }
}

impl ReplacePlan for Lines {
    async fn replace_plan(
        &self,
        concert: &ConcertId,
        read: u64,
        plan: &AdmissionPlan,
        change: &Changed<'_>,
    ) -> Result<bool, Fault> {
        const DOING: &str = "replacing an admission plan";
        let (pk, sk) = plan_key(concert);
        let mut transaction = self.table.transaction(DOING);
        let replaced = Update::builder()
            .table_name(&self.table.name)
            .key(PK, s(pk))
            .key(SK, s(sk))
            .update_expression("SET #plan = :plan, plan_version = :version")
            // The first change of a line that an earlier release opened makes the item.
            .condition_expression("attribute_not_exists(pk) OR plan_version <= :read")
            .expression_attribute_names("#plan", "plan")
            .expression_attribute_values(":plan", kit::dynamo::json(DOING, plan)?)
            .expression_attribute_values(":version", n(plan.version))
            .expression_attribute_values(":read", n(read));
        transaction.add_identity(replaced)?;
        let body = EventBody::AdmissionChanged(AdmissionChanged {
            concert_id: concert.clone(),
            plan: plan.clone(),
            actor: change.actor.to_owned(),
        });
        let id = format!("{concert}.{}.{}", plan.version, body.event_type());
        let (subject, correlation) = (concert.as_str(), change.correlation_id);
        let event = outbox::event_with_id(id, SOURCE, subject, correlation, body, change.now)?;
        transaction.add(outbox::row(&self.table, &event, subject)?)?;
        if plan.gate.is_some() {
            transaction.add(self.gated_line(concert))?;
        }
        Ok(transaction.commit().await?.is_ok())
    }
}

fn is_refused<R>(error: &aws_sdk_dynamodb::error::SdkError<UpdateItemError, R>) -> bool {
    error.as_service_error().is_some_and(UpdateItemError::is_conditional_check_failed_exception)
}

impl OpenLine for Lines {
    async fn open(&self, concert: &ConcertId, plan: AdmissionPlan) -> Result<AdmissionPlan, Fault> {
        const DOING: &str = "opening a line";
        let new = |item: PutBuilder| {
            item.table_name(&self.table.name)
                .condition_expression("attribute_not_exists(pk)")
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        };
        let (pk, sk) = plan_key(concert);
        let document = Put::builder().item(PK, s(pk)).item(SK, s(sk)).item("plan", kit::dynamo::json(DOING, &plan)?);
        let mut transaction = self.table.transaction(DOING);
        let counter = transaction.add_identity(new(Put::builder().set_item(Some(counters::first_counter(concert)))))?;
        let planned = transaction.add_identity(new(document.item("plan_version", n(plan.version))))?;
        let Err(cancelled) = transaction.commit().await? else { return Ok(plan) };
        // A line that an earlier release opened has its plan in the counter.
        match cancelled.found(planned).or_else(|| cancelled.found(counter)) {
            Some(item) => item.document("plan"),
            None => Err(Fault::broken(DOING, "a line is there and not there")),
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

impl GiveUpPlace for Lines {
    async fn give_up(&self, concert: &ConcertId, position: u64) -> Result<(), Fault> {
        let (pk, sk) = page_key(concert, position);
        self.update(pk, sk)
            .update_expression("ADD #used :entries")
            .expression_attribute_names("#used", USED)
            .expression_attribute_values(":entries", AttributeValue::Ss(vec![format!("{position}:{LEFT}")]))
            .send()
            .await
            .map(drop)
            .map_err(|error| classify("giving up a place", error))
    }
}

/// A bounded set of what a process has seen: when full it is cleared.
#[derive(Debug)]
struct Seen<K>(Mutex<HashSet<K>>);

impl<K> Default for Seen<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Seen<K> {
    fn has(&self, key: &K) -> bool {
        locked(&self.0).contains(key)
    }

    fn keep(&self, key: K) {
        let mut seen = locked(&self.0);
        if seen.len() >= KEPT_ENTRIES {
            seen.clear();
        }
        seen.insert(key);
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
        let page =
            Item::from([(USED.to_owned(), AttributeValue::Ss(vec!["7:p:1".into(), "8:p2".into(), "9:left".into()]))]);
        let used = UsedPlaces { spent: HashSet::from([7, 8]), left: HashSet::from([9]) };
        assert_eq!(used_places(&page).unwrap(), used);
        assert_eq!(used_places(&Item::new()).unwrap(), UsedPlaces::default());
        for corrupt in [AttributeValue::Ss(vec!["seven:p1".into()]), s("7:p1")] {
            let page = Item::from([(USED.to_owned(), corrupt)]);
            assert!(matches!(used_places(&page), Err(Fault::Broken(_))));
        }
    }

    #[test]
    fn every_shard_has_its_own_partition_and_no_two_lines_share_one() {
        let (one, two) = (ConcertId::parse("1").unwrap(), ConcertId::parse("11").unwrap());
        let partitions: HashSet<String> =
            [&one, &two].into_iter().flat_map(|concert| (0..64).map(|k| counter_key(concert, 1, k).0)).collect();
        assert_eq!(partitions.len(), 128);
    }
}
