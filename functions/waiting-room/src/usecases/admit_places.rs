//! Lets places in where an operator has set a cap: every few seconds somebody counts who is inside.

use crate::domain::{Counted, CounterSet};
use crate::ports::{ApplyPlan, Clock, CountEach, FillGap, FindGated, GiveUpPlace, ReadPlanNow, ReadUsed, WriteWave};
use contracts::admission::{AdmissionPlan, Given};
use contracts::{ConcertId, Timestamp};
use futures_util::future::join_all;
use kit::Fault;
use kit::sweep::Tick;
use std::collections::HashMap;
use std::time::Duration;

/// How often gates are looked at, in milliseconds.
const EVERY_MILLIS: i64 = 5_000;
/// How long a look at a line may take, and finding them: what hangs delays the looks at all others by no more.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
/// For how long one run does that, in milliseconds. The next begins a minute after it began.
pub const RUN_MILLIS: i64 = 54_000;

/// How it is with a line, as this run saw it last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// The version of the plan that reservations has.
    applied: u64,
    /// The position behind which one was not given out yet, if others behind it were.
    gap_after: Option<u64>,
    /// Whether nothing has happened for so long that a look with every run will do.
    is_quiet: bool,
}

/// How it goes on.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How much later than it is counted a wave enters, so that every process knows of it by then, in milliseconds.
    pub lead_millis: i64,
    /// For how long it looks every few seconds, in milliseconds; once with 0.
    pub run_millis: i64,
}

/// Lets in who may enter, line by line, every [`EVERY_MILLIS`], also while no line has a cap: one may be set meanwhile. A
/// line that cannot be served keeps no other from its turn. What the last looks could not do is told at the end.
pub async fn admit_places<L>(
    tick: &Tick,
    line: &L,
    reservations: &impl ApplyPlan,
    clock: &impl Clock,
    pace: Pace,
) -> Result<(), Fault>
where
    L: FindGated + ReadPlanNow + CountEach + ReadUsed + WriteWave + FillGap + GiveUpPlace,
{
    let ends_at = clock.now().plus_millis(pace.run_millis);
    let mut seen: HashMap<ConcertId, Seen> = HashMap::new();
    loop {
        let next = clock.now().plus_millis(EVERY_MILLIS);
        let mut failed = None;
        let finding = async { line.gated().await };
        let gated = tick.within(LOOK_LIMIT, "finding capped lines", finding).await.unwrap_or_else(|fault| {
            tracing::warn!(error = fault.chain(), "capped lines cannot be found");
            failed = Some(fault);
            Vec::new()
        });
        let looks = gated.into_iter().map(|concert| {
            let before = seen.get(&concert).copied().unwrap_or_default();
            async move {
                let look = admit(line, reservations, clock, pace.lead_millis, &concert, before);
                let after = tick.within(LOOK_LIMIT, "looking at a capped line", look).await;
                (concert, after)
            }
        });
        for (concert, after) in join_all(looks).await {
            match after {
                Ok(after) => drop(seen.insert(concert, after)),
                Err(fault) => {
                    tracing::warn!(concert = concert.as_str(), error = fault.chain(), "a capped line stands still");
                    failed = Some(fault);
                }
            }
        }
        // What took long leaves no time for another.
        if next.max(clock.now()) >= ends_at || tick.budget.is_over() {
            return failed.map_or(Ok(()), Err);
        }
        clock.wait_until(next).await;
    }
}

/// The next wave of one line, if anybody can be let in.
async fn admit<L>(
    line: &L,
    reservations: &impl ApplyPlan,
    clock: &impl Clock,
    lead_millis: i64,
    concert: &ConcertId,
    before: Seen,
) -> Result<Seen, Fault>
where
    L: ReadPlanNow + CountEach + ReadUsed + WriteWave + FillGap + GiveUpPlace,
{
    if before.is_quiet {
        return Ok(before);
    }
    let Some(mut plan) = line.plan_now(concert).await? else { return Ok(before) };
    let Some(gate) = &plan.gate else { return Ok(before) };
    let Some((set, counters)) = line.count_each(concert).await? else { return Ok(before) };
    let now = clock.now();
    let come = plan.admitted_by(gate.since);
    let given = set.given(&counters, come);
    let mut after = Seen { gap_after: None, is_quiet: gate.is_quiet(&given, now), ..before };
    if !set.gaps(&counters).is_empty() {
        // Whoever joins next takes it, as a rule. Where nobody joins any more, those behind it must not wait for ever.
        after.gap_after = Some(given.position);
        if before.gap_after == after.gap_after {
            fill(line, concert, &set, &counters, come).await?;
        }
    }
    let at = now.plus_millis(lead_millis);
    if let Some(next) = next_wave(line, concert, &plan, &given, now, at).await? {
        // Where another run or an operator was first, the next look sees what they wrote.
        if !line.write_wave(concert, plan.version, &next).await? {
            return Ok(after);
        }
        plan = next;
    }
    // Also what an earlier run wrote and did not get there.
    if before.applied != plan.version {
        reservations.apply(concert, &plan).await?;
    }
    Ok(Seen { applied: plan.version, ..after })
}

/// The plan with the next wave. What is used is only asked where one is due.
async fn next_wave(
    line: &impl ReadUsed,
    concert: &ConcertId,
    plan: &AdmissionPlan,
    given: &Given,
    now: Timestamp,
    at: Timestamp,
) -> Result<Option<AdmissionPlan>, Fault> {
    let Some(asked) = plan.asked_about(given, now, at) else { return Ok(None) };
    let used = line.used_of(concert, &asked).await?;
    Ok(plan.next_wave(given, &used, now, at))
}

/// Gives out the places that counters lack, and marks them as given up. Their turns come behind those that had `come` when
/// the gate began. Where others give out places of a counter meanwhile, the next look sees what is lacking then.
async fn fill(
    line: &(impl FillGap + GiveUpPlace),
    concert: &ConcertId,
    set: &CounterSet,
    counters: &[Counted],
    come: u64,
) -> Result<(), Fault> {
    for (shard, gap) in set.gaps(counters) {
        let Some(mut counted) = counters.get(shard as usize).copied() else { continue };
        for _ in 0..gap {
            let turn = counted.turn.max(set.lapsed_of(shard, come)) + 1;
            if !line.fill_gap(concert, set, shard, counted, turn).await? {
                return Ok(());
            }
            counted = Counted { issued: counted.issued + 1, turn };
            line.give_up(concert, set.last_position(shard, counted.issued)).await?;
        }
    }
    Ok(())
}
