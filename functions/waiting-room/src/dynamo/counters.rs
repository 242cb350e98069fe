//! The counters that give out places: one for a line, and as many as the stage allows once that one is busy.
//!
//! The first counter says in which *stripe* the line is. Each stripe continues the positions and turns of the one before
//! it, over more counters; the change is one write of the first counter, so that no place is given out twice.

use super::{Lines, locked};
use crate::domain::{BUSY_PER_SECOND, Counted, Issued, ShardCount, Stripe};
use crate::ports::{Count, IssuePlace};
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValue;
use contracts::{ConcertId, Timestamp};
use futures_util::future::try_join_all;
use kit::Fault;
use kit::dynamo::{Item, PK, Read, SK, jitter, n, s};
use kit::fault::classify;
use std::sync::atomic::Ordering;

/// Tries of a write that meets other writers, or that finds the counters changed.
const ATTEMPTS: u32 = 8;
/// The shortest time over which a counter's speed is measured, in milliseconds.
const MEASURED_MILLIS: i64 = 100;

/// What a process knows of a line's counters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    stripe: Stripe,
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

fn stripe_of(first: &Item) -> Result<Stripe, Fault> {
    Ok(Stripe {
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
    fn counter(&self, concert: &ConcertId, stripe: &Stripe, shard: u32) -> UpdateItemFluentBuilder {
        let (pk, sk) = counter_key(concert, stripe.number, shard);
        self.update(pk, sk).return_values(ReturnValue::AllNew).expression_attribute_values(":stripe", n(stripe.number))
    }

    /// The next place of a counter, as long as its last turn has not lapsed.
    fn count_one(&self, concert: &ConcertId, stripe: &Stripe, shard: u32, lapsed: u64) -> UpdateItemFluentBuilder {
        self.counter(concert, stripe, shard)
            .update_expression("ADD issued :one, turn :one")
            .condition_expression("stripe = :stripe AND turn >= :lapsed")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":lapsed", n(lapsed))
    }

    /// The next place of a counter whose turns have lapsed, at the first turn that has not.
    fn skip_lapsed(&self, concert: &ConcertId, stripe: &Stripe, shard: u32, lapsed: u64) -> UpdateItemFluentBuilder {
        self.counter(concert, stripe, shard)
            .update_expression("SET turn = :next ADD issued :one")
            .condition_expression("stripe = :stripe AND turn < :lapsed")
            .expression_attribute_values(":one", n(1))
            .expression_attribute_values(":lapsed", n(lapsed))
            .expression_attribute_values(":next", n(lapsed + 1))
    }

    /// Makes a counter of an earlier release, whose positions were its turns, one of this release.
    async fn adopt(&self, concert: &ConcertId, stripe: &Stripe, shard: u32) -> Result<(), Fault> {
        let (pk, sk) = counter_key(concert, stripe.number, shard);
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
        locked(&self.counters).get(concert).copied()
    }

    fn know(&self, concert: &ConcertId, known: Known) {
        let mut counters = locked(&self.counters);
        if counters.len() >= super::KEPT_ENTRIES && !counters.contains_key(concert) {
            counters.clear();
        }
        counters.insert(concert.clone(), known);
    }

    /// Takes note of how fast the first counter counts. Answers whether it is too fast for one item.
    fn is_busy(&self, concert: &ConcertId, stripe: Stripe, issued: u64, now: Timestamp) -> bool {
        let measured = self.known(concert).map_or((now, issued), |known| known.measured);
        let elapsed = now.millis_since(measured.0);
        if (0..MEASURED_MILLIS).contains(&elapsed) {
            self.know(concert, Known { stripe, measured });
            return false;
        }
        self.know(concert, Known { stripe, measured: (now, issued) });
        let counted = i64::try_from(issued.saturating_sub(measured.1)).unwrap_or(i64::MAX);
        elapsed > 0 && counted.saturating_mul(1_000) / elapsed > BUSY_PER_SECOND
    }

    /// Continues a line over all counters that it may have. Others may do it at the same time.
    async fn spread(&self, concert: &ConcertId, stripe: &Stripe) -> Result<(), Fault> {
        let next = stripe.number + 1;
        let counters = (0..self.shards.get()).map(|shard| self.put_counter(concert, next, shard));
        try_join_all(counters).await?;
        let (pk, sk) = counter_key(concert, 0, 0);
        let spread = self
            .update(pk, sk)
            .update_expression("SET stripe = :next, shards = :shards, after_position = issued, after_turn = turn")
            .condition_expression("stripe = :stripe")
            .expression_attribute_values(":stripe", n(stripe.number))
            .expression_attribute_values(":next", n(next))
            .expression_attribute_values(":shards", n(self.shards.get()))
            .send()
            .await;
        match spread {
            Ok(_) => {
                tracing::info!(concert = concert.as_str(), shards = self.shards.get(), "a line got more counters");
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

    /// Spreads a busy line. A failure is the next one's to make good: places are given out either way.
    async fn spread_if(&self, busy: bool, concert: &ConcertId, stripe: &Stripe) {
        let may = self.shards > stripe.shards && stripe.shards == ShardCount::ONE;
        if busy
            && may
            && let Err(fault) = self.spread(concert, stripe).await
        {
            tracing::warn!(error = fault.chain(), "a busy line stays on one counter for now");
        }
    }
}

impl IssuePlace for Lines {
    async fn issue(&self, concert: &ConcertId, lapsed: u64, now: Timestamp) -> Result<Option<Issued>, Fault> {
        let mut stripe = self.known(concert).map_or(Stripe::FIRST, |known| known.stripe);
        let mut shard = self.next_shard(stripe);
        let mut skips = false;
        for attempt in 1..=ATTEMPTS {
            let lapsed_here = stripe.lapsed_of(shard, lapsed);
            let write = match skips {
                true => self.skip_lapsed(concert, &stripe, shard, lapsed_here),
                false => self.count_one(concert, &stripe, shard, lapsed_here),
            };
            let error = match write.send().await {
                Ok(written) => {
                    let counter = written.attributes.unwrap_or_default();
                    let (issued, turn) = (counter.uint("issued")?, counter.uint("turn")?);
                    if stripe.number == 0 && shard == 0 {
                        stripe = stripe_of(&counter)?;
                        let busy = self.is_busy(concert, stripe, issued, now);
                        self.spread_if(busy, concert, &stripe).await;
                    }
                    return Ok(Some(stripe.issued(shard, issued, turn, now)));
                }
                Err(error) => error,
            };
            match found(error) {
                Ok(None) => return Ok(None),
                Ok(Some(counter)) if !counter.contains_key("turn") => self.adopt(concert, &stripe, shard).await?,
                Ok(Some(counter)) if counter.uint("stripe")? != stripe.number => {
                    stripe = stripe_of(&counter)?;
                    self.know(concert, Known { stripe, measured: (now, 0) });
                    shard = self.next_shard(stripe);
                }
                Ok(Some(counter)) => skips = counter.uint("turn")? < lapsed_here,
                Err(Fault::Contended(_)) if attempt < ATTEMPTS => {
                    self.spread_if(true, concert, &stripe).await;
                    tokio::time::sleep(jitter(attempt)).await;
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(Fault::contended("giving out a place"))
    }
}

impl Lines {
    /// The counters in turns, from a random start: processes spread, and no counter falls far behind.
    fn next_shard(&self, stripe: Stripe) -> u32 {
        self.next_shard.fetch_add(1, Ordering::Relaxed) % stripe.shards.get()
    }
}

impl Count for Lines {
    async fn count(&self, concert: &ConcertId) -> Result<Option<Counted>, Fault> {
        const DOING: &str = "counting a line";
        let Some(first) = self.get(DOING, vec![counter_key(concert, 0, 0)], true).await?.pop() else { return Ok(None) };
        let mut counted = counted(&first)?;
        let stripe =
            if first.contains_key("turn") { stripe_of(&first)? } else { Stripe::of_before(shards_of(&first)?) };
        if stripe.shards > ShardCount::ONE {
            counted = Counted { issued: stripe.after_position, turn: stripe.after_turn };
            let keys = (0..stripe.shards.get()).map(|shard| counter_key(concert, stripe.number, shard));
            for counter in self.get(DOING, keys.collect(), true).await? {
                let shard = counter.text(SK)?.strip_prefix("COUNTER#").and_then(|shard| shard.parse().ok());
                let shard = shard.ok_or_else(|| Fault::broken(DOING, "a counter has no number"))?;
                let of = self::counted(&counter)?;
                counted.issued += of.issued;
                counted.turn = counted.turn.max(if of.turn == 0 { 0 } else { stripe.turn(shard, of.turn) });
            }
        }
        Ok(Some(counted))
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
