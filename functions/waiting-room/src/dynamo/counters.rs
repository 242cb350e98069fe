//! The counters that give out places: one for a line, and as many as the stage allows once that one is busy.
//!
//! The first counter says which set of counters the line has (`stripe`). The second set continues the positions and turns
//! of the first counter; the change is one write of that counter, so that no place is given out twice. There is no third:
//! several counters cannot be ended by one write.

use super::{Lines, locked};
use crate::domain::{BUSY_PER_SECOND, Counted, CounterSet, Issued, ShardCount};
use crate::ports::{Count, CountEach, FillGap, IssuePlace};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValue;
use contracts::{ConcertId, Timestamp};
use futures_util::future::try_join_all;
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, n, s};
use kit::fault::classify;
use std::time::Duration;

/// Tries of a write that meets other writers, or that finds the counters changed.
const ATTEMPTS: u32 = 8;
/// The shortest time over which a counter's speed is measured, in milliseconds.
const MEASURED_MILLIS: i64 = 100;
/// Within how many milliseconds those who are throttled try again.
const THROTTLED_MILLIS: u64 = 200;

/// What a process knows of a line's counters.
#[derive(Debug, Clone)]
pub(super) struct Known {
    set: CounterSet,
    /// What its counters had counted when this process saw them last.
    counts: Vec<u64>,
    /// When this process measured the first counter last, and how many places it had given out.
    measured: (Timestamp, u64),
}

/// The key of a counter.
pub(super) fn counter_key(concert: &ConcertId, stripe: u64, shard: u32) -> (String, String) {
    let pk = match (stripe, shard) {
        (0, 0) => format!("CONCERT#{concert}"),
        // Lines that an earlier release opened over several counters.
        (0, shard) => format!("CONCERT#{concert}#{shard}"),
        (stripe, shard) => format!("CONCERT#{concert}#{stripe}#{shard}"),
    };
    (pk, format!("COUNTER#{shard}"))
}

fn shards_of(first: &Item) -> Result<ShardCount, Fault> {
    ShardCount::new(first.uint("shards")?).map_err(|wrong| Fault::broken("reading a number of shards", wrong))
}

fn set_of(first: &Item) -> Result<CounterSet, Fault> {
    Ok(CounterSet {
        number: first.uint("stripe")?,
        shards: shards_of(first)?,
        after_position: first.uint("after_position")?,
        after_turn: first.uint("after_turn")?,
    })
}

/// The counter that a write found where its condition failed; `None` if there is none.
fn found(error: SdkError<UpdateItemError>) -> Result<Option<Item>, Fault> {
    match error.as_service_error() {
        Some(UpdateItemError::ConditionalCheckFailedException(failed)) => Ok(failed.item().cloned()),
        _ => Err(classify("giving out a place", error)),
    }
}

impl Lines {
    fn counter(&self, concert: &ConcertId, set: &CounterSet, shard: u32) -> UpdateItemFluentBuilder {
        let (pk, sk) = counter_key(concert, set.number, shard);
        self.update(pk, sk).return_values(ReturnValue::AllNew).expression_attribute_values(":stripe", n(set.number))
    }

    /// The next place of a counter, as long as its last turn has not lapsed.
    fn count_one(&self, concert: &ConcertId, set: &CounterSet, shard: u32, lapsed: u64) -> UpdateItemFluentBuilder {
        self.counter(concert, set, shard)
            .update_expression("ADD issued :one, turn :one")
            .condition_expression("stripe = :stripe AND turn >= :lapsed")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":lapsed", n(lapsed))
    }

    /// The next place of a counter whose turns have lapsed, at the first turn that has not.
    fn skip_lapsed(&self, concert: &ConcertId, set: &CounterSet, shard: u32, lapsed: u64) -> UpdateItemFluentBuilder {
        self.counter(concert, set, shard)
            .update_expression("SET turn = :next ADD issued :one")
            .condition_expression("stripe = :stripe AND turn < :lapsed")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":lapsed", n(lapsed))
            .expression_attribute_values(":next", n(lapsed + 1))
    }

    /// Makes a counter of an earlier release, whose positions were its turns, one of this release.
    async fn adopt(&self, concert: &ConcertId, set: &CounterSet, shard: u32) -> Result<(), Fault> {
        let (pk, sk) = counter_key(concert, set.number, shard);
        let adopted = self
            .update(pk, sk)
            .update_expression("SET turn = issued, stripe = :zero, after_position = :zero, after_turn = :zero")
            .condition_expression("attribute_exists(issued) AND attribute_not_exists(turn)")
            .expression_attribute_values(":zero", n(0))
            .send()
            .await;
        adopted.map(drop).or_else(|error| found(error).map(drop))
    }

    fn known(&self, concert: &ConcertId) -> Option<Known> {
        locked(&self.counters).get(concert).cloned()
    }

    fn know(&self, concert: &ConcertId, known: Known) {
        let mut counters = locked(&self.counters);
        if counters.len() >= super::KEPT_ENTRIES && !counters.contains_key(concert) {
            counters.clear();
        }
        counters.insert(concert.clone(), known);
    }

    /// Goes by these counters from now on.
    fn learn(&self, concert: &ConcertId, set: CounterSet, now: Timestamp) {
        self.know(concert, Known { set, counts: vec![0; set.shards.get() as usize], measured: (now, 0) });
    }

    /// Takes note of what a counter has counted. Answers how many a second it counts, if that was measured.
    fn note(&self, concert: &ConcertId, set: CounterSet, shard: u32, counted: Counted, now: Timestamp) -> Option<i64> {
        let fresh = || Known { set, counts: vec![0; set.shards.get() as usize], measured: (now, counted.issued) };
        let mut known = self.known(concert).filter(|known| known.set == set).unwrap_or_else(fresh);
        if let Some(count) = known.counts.get_mut(shard as usize) {
            *count = counted.turn;
        }
        let (since, before) = known.measured;
        let elapsed = now.millis_since(since);
        let mut speed = None;
        if shard == 0 && !(0..MEASURED_MILLIS).contains(&elapsed) {
            known.measured = (now, counted.issued);
            let more = i64::try_from(counted.issued.saturating_sub(before)).unwrap_or(i64::MAX);
            speed = (elapsed > 0).then(|| more.saturating_mul(1_000) / elapsed);
        }
        self.know(concert, known);
        speed
    }

    /// The one of two counters, picked at random, that has counted less as far as this process knows: so they stay close
    /// to each other although many processes choose at once.
    fn next_shard(&self, concert: &ConcertId, set: CounterSet) -> u32 {
        let shards = set.shards.get();
        let (one, other) = (fastrand::u32(..shards), fastrand::u32(..shards));
        let mut counters = locked(&self.counters);
        let Some(known) = counters.get_mut(concert).filter(|known| known.set == set) else { return one };
        let count = |shard: u32| known.counts.get(shard as usize).copied().unwrap_or(0);
        let chosen = if count(other) < count(one) { other } else { one };
        if let Some(count) = known.counts.get_mut(chosen as usize) {
            *count += 1;
        }
        chosen
    }

    /// Continues a line over more counters. Others may do it at the same time.
    async fn spread(&self, concert: &ConcertId, set: &CounterSet) -> Result<(), Fault> {
        let (next, shards) = (set.number + 1, self.shards);
        let counters = (0..shards.get()).map(|shard| self.put_counter(concert, next, shard));
        try_join_all(counters).await?;
        let (pk, sk) = counter_key(concert, 0, 0);
        let spread = self
            .update(pk, sk)
            .update_expression("SET stripe = :next, shards = :shards, after_position = issued, after_turn = turn")
            .condition_expression("stripe = :stripe")
            .expression_attribute_values(":stripe", n(set.number))
            .expression_attribute_values(":next", n(next))
            .expression_attribute_values(":shards", n(shards.get()))
            .send()
            .await;
        match spread {
            Ok(_) => {
                tracing::info!(concert = concert.as_str(), shards = shards.get(), "a line got more counters");
                Ok(())
            }
            Err(error) => found(error).map(drop),
        }
    }

    async fn put_counter(&self, concert: &ConcertId, stripe: u64, shard: u32) -> Result<(), Fault> {
        let (pk, sk) = counter_key(concert, stripe, shard);
        let put = self
            .update(pk, sk)
            .update_expression("SET issued = :zero, turn = :zero, stripe = :stripe")
            .condition_expression("attribute_not_exists(pk)")
            .expression_attribute_values(":zero", n(0))
            .expression_attribute_values(":stripe", n(stripe))
            .send()
            .await;
        put.map(drop).or_else(|error| found(error).map(drop))
    }

    /// Spreads a line that has one counter over as many as the stage allows. A failure is the next one's to make good:
    /// places are given out either way.
    async fn spread_for_good(&self, concert: &ConcertId, counters: &CounterSet) {
        if self.shards > ShardCount::ONE
            && counters.shards == ShardCount::ONE
            && let Err(fault) = self.spread(concert, counters).await
        {
            tracing::warn!(error = fault.chain(), "a busy line stays on one counter for now");
        }
    }

    /// After a throttled write: what the line's counters are by now. Of the many processes that are throttled at once, one
    /// spreads the line, and the others read that; a counter bears three times more reads than writes.
    async fn after_throttle(&self, concert: &ConcertId, set: CounterSet, now: Timestamp) -> Result<CounterSet, Fault> {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..THROTTLED_MILLIS))).await;
        let first = self.get("reading a counter", vec![counter_key(concert, 0, 0)], false).await?.pop();
        match first.filter(|first| first.contains_key("turn")).as_ref().map(set_of).transpose()? {
            Some(found) if found != set => {
                self.learn(concert, found, now);
                Ok(found)
            }
            _ => {
                self.spread_for_good(concert, &set).await;
                Ok(set)
            }
        }
    }
}

impl IssuePlace for Lines {
    async fn issue(&self, concert: &ConcertId, lapsed: u64, now: Timestamp) -> Result<Option<Issued>, Fault> {
        let mut set = self.known(concert).map_or(CounterSet::FIRST, |known| known.set);
        let mut shard = self.next_shard(concert, set);
        let mut skips = false;
        for attempt in 1..=ATTEMPTS {
            let lapsed_here = set.lapsed_of(shard, lapsed);
            let write = match skips {
                true => self.skip_lapsed(concert, &set, shard, lapsed_here),
                false => self.count_one(concert, &set, shard, lapsed_here),
            };
            let error = match write.send().await {
                Ok(written) => {
                    let counter = written.attributes.unwrap_or_default();
                    let Counted { issued, turn } = counted(&counter)?;
                    if set.number == 0 && shard == 0 {
                        set = set_of(&counter)?;
                    }
                    let speed = self.note(concert, set, shard, Counted { issued, turn }, now);
                    if speed.is_some_and(|speed| speed > BUSY_PER_SECOND) {
                        self.spread_for_good(concert, &set).await;
                    }
                    return Ok(Some(set.issued(shard, issued, turn, now)));
                }
                Err(error) => error,
            };
            match found(error) {
                Ok(None) => return Ok(None),
                Ok(Some(counter)) if !counter.contains_key("turn") => self.adopt(concert, &set, shard).await?,
                Ok(Some(counter)) if counter.uint("stripe")? != set.number => {
                    set = set_of(&counter)?;
                    self.learn(concert, set, now);
                    shard = self.next_shard(concert, set);
                }
                Ok(Some(counter)) => skips = counter.uint("turn")? < lapsed_here,
                Err(Fault::Contended(_)) if attempt < ATTEMPTS => {
                    set = self.after_throttle(concert, set, now).await?;
                    shard = self.next_shard(concert, set);
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::contended("giving out a place"))
    }
}

impl Count for Lines {
    async fn count(&self, concert: &ConcertId) -> Result<Option<Counted>, Fault> {
        let Some((set, counters)) = self.count_each(concert).await? else { return Ok(None) };
        if set.shards == ShardCount::ONE && set.number == 0 {
            return Ok(counters.into_iter().next());
        }
        let mut counted = Counted { issued: set.after_position, turn: set.after_turn };
        for (shard, of) in (0_u32..).zip(counters) {
            counted.issued += of.issued;
            counted.turn = counted.turn.max(if of.turn == 0 { 0 } else { set.turn(shard, of.turn) });
        }
        Ok(Some(counted))
    }
}

impl CountEach for Lines {
    async fn count_each(&self, concert: &ConcertId) -> Result<Option<(CounterSet, Vec<Counted>)>, Fault> {
        const DOING: &str = "counting a line";
        let Some(first) = self.get(DOING, vec![counter_key(concert, 0, 0)], true).await?.pop() else { return Ok(None) };
        let set = if first.contains_key("turn") { set_of(&first)? } else { CounterSet::of_before(shards_of(&first)?) };
        if set.shards == ShardCount::ONE && set.number == 0 {
            return Ok(Some((set, vec![counted(&first)?])));
        }
        let keys = (0..set.shards.get()).map(|shard| counter_key(concert, set.number, shard));
        let mut counters = vec![Counted::default(); set.shards.get() as usize];
        for counter in self.get(DOING, keys.collect(), true).await? {
            let shard = counter.text(SK)?.strip_prefix("COUNTER#").and_then(|shard| shard.parse::<usize>().ok());
            let counter = counted(&counter)?;
            let known = shard.and_then(|shard| counters.get_mut(shard));
            *known.ok_or_else(|| Fault::broken(DOING, "a counter has no number"))? = counter;
        }
        Ok(Some((set, counters)))
    }
}

impl FillGap for Lines {
    async fn fill_gap(
        &self,
        concert: &ConcertId,
        set: &CounterSet,
        shard: u32,
        counted: Counted,
        turn: u64,
    ) -> Result<bool, Fault> {
        let filled = self
            .counter(concert, set, shard)
            .update_expression("SET turn = :turn ADD issued :one")
            .condition_expression("stripe = :stripe AND issued = :counted")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":turn", n(turn))
            .expression_attribute_values(":counted", n(counted.issued))
            .send()
            .await;
        match filled.map_err(found) {
            Ok(_) => Ok(true),
            Err(Ok(Some(counter))) if !counter.contains_key("turn") => {
                self.adopt(concert, set, shard).await.map(|()| false)
            }
            Err(counter) => counter.map(|_| false),
        }
    }
}

/// What one counter has counted. In the previous release positions were turns.
fn counted(counter: &Item) -> Result<Counted, Fault> {
    let issued = counter.uint("issued")?;
    let turn = if counter.contains_key("turn") { counter.uint("turn")? } else { issued };
    Ok(Counted { issued, turn })
}

/// A line's first counter, as it is opened.
pub(super) fn first_counter(concert: &ConcertId) -> Item {
    let (pk, sk) = counter_key(concert, 0, 0);
    let none = ["issued", "turn", "stripe", "after_position", "after_turn"].map(|name| (name, n(0)));
    let item = none.into_iter().chain([(PK, s(pk)), (SK, s(sk)), ("shards", n(1))]);
    item.map(|(name, value)| (name.to_owned(), value)).collect()
}
