//! How many turns in a row are nobody's when so many have joined a line that is spread over 64 counters, and for how long
//! nobody enters because of it.
//!
//! `cargo bench -p tests --bench line_gaps`. Against the embedded engine; 1,000 join a second by the clock that the functions
//! are given, so the numbers do not depend on the machine but for how the joins cross.

#![allow(missing_docs, clippy::unwrap_used)]

use contracts::Timestamp;
use contracts::admission::AdmissionPlan;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::dynamo::Engine;
use tests::fixture::{NOW, concert};
use tokio::task::JoinSet;
use waiting_room::domain::ShardCount;
use waiting_room::dynamo::Lines;
use waiting_room::ports::{IssuePlace, OpenLine};

/// Counters of the line, the most there can be.
const COUNTERS: u64 = 64;
/// Processes that joins are spread over.
const PROCESSES: u64 = 16;
/// Joins under way at once.
const AT_ONCE: u64 = 64;
/// How many enter a minute, for the time that a gap takes.
const RATE: u32 = 600;

/// The turns that are given out to so many who join.
async fn turns(joiners: u64) -> BTreeSet<u64> {
    let engine = Engine::start().await;
    let process = || Arc::new(Lines::new(engine.table("waiting-room"), ShardCount::new(COUNTERS).unwrap()));
    let plan = AdmissionPlan::opening(NOW.plus_seconds(3_600), RATE, 600);
    process().open(&concert(), plan).await.unwrap();
    let processes: Vec<Arc<Lines>> = (0..PROCESSES).map(|_| process()).collect();
    let mut turns = BTreeSet::new();
    let mut begun = 0;
    while begun < joiners {
        let mut joins = JoinSet::new();
        for n in begun..joiners.min(begun + AT_ONCE) {
            let process = Arc::clone(&processes[(n % PROCESSES) as usize]);
            let now: Timestamp = NOW.plus_millis(n.cast_signed());
            joins.spawn(async move { process.issue(&concert(), 0, now).await.unwrap().unwrap().turn });
        }
        begun += AT_ONCE;
        turns.extend(joins.join_all().await);
    }
    turns
}

#[tokio::main]
async fn main() {
    for joiners in [10, 1_000, 100_000] {
        let turns = turns(joiners).await;
        let last = turns.last().copied().unwrap();
        let longest = turns.iter().scan(0, |before, turn| Some(turn - std::mem::replace(before, *turn) - 1)).max();
        let gap = longest.unwrap();
        println!(
            "{joiners} joined, {} turns are nobody's up to the last, {gap} in a row at the most: at {RATE} a minute nobody \
             enters for {:.1} s",
            last - joiners,
            gap as f64 * 60.0 / f64::from(RATE)
        );
    }
}
