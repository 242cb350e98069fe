//! Checks orders that still lack answers (R07): an event that may have been lost is published again, an order that is
//! not answered in time fails, and the failure of a failed one is published again until all participants have undone
//! their part.

use crate::domain::{DUE_SHARDS, DueOrder, Look, look_after};
use crate::ports::{EndOrder, FindDue, PutOff, Republish};
use contracts::Timestamp;
use contracts::orders::OrderFailure;
use futures_util::future::join_all;
use kit::{Fault, metrics};

/// How many orders are processed concurrently.
const AT_ONCE: usize = 10;

/// The dependencies of the sweep.
#[derive(Debug)]
pub struct SweepDeps<S> {
    /// Where the orders are.
    pub store: S,
    /// How long after it was placed a pending order fails, in seconds.
    pub deadline_seconds: i64,
}

/// Processes the due orders. Neither an order that cannot be processed nor a shard that cannot be read keeps the others
/// from being processed.
pub async fn sweep_orders<S: FindDue + EndOrder + Republish>(deps: &SweepDeps<S>, now: Timestamp) -> Result<(), Fault> {
    let mut last_fault = None;
    // The earliest deadline among the due orders that has passed; now, if there is none.
    let mut over_since = now;
    // Another shard comes first in each run: if there is too much for one run, no shard is always the last.
    let first = u64::try_from(now.millis() / 60_000).unwrap_or_default();
    for shard in (0..DUE_SHARDS).map(|shard| (first + shard) % DUE_SHARDS) {
        let due = deps.store.due_orders(shard, now).await.unwrap_or_else(|fault| {
            tracing::warn!(shard, error = fault.chain(), "the orders of a shard cannot be found");
            last_fault = Some(fault);
            Vec::new()
        });
        let ends = due.iter().map(|due| due.order.placed_at.plus_seconds(deps.deadline_seconds));
        over_since = ends.fold(over_since, Timestamp::min);
        for some in due.chunks(AT_ONCE) {
            let outcomes = join_all(some.iter().map(|due| process(deps, due, now))).await;
            for (due, outcome) in some.iter().zip(outcomes) {
                if let Err(fault) = outcome {
                    tracing::warn!(order = %due.order.id, error = fault.chain(), "an order still waits");
                    last_fault = Some(fault);
                }
            }
        }
    }
    metrics::gauge("OrderAge", "Seconds", "orders", metrics::oldest([over_since].into_iter(), now));
    last_fault.map_or(Ok(()), Err)
}

/// Publishes before it postpones the next check: a crash in between publishes twice, which is harmless.
async fn process<S: FindDue + EndOrder + Republish>(
    deps: &SweepDeps<S>,
    due: &DueOrder,
    now: Timestamp,
) -> Result<(), Fault> {
    let (store, id) = (&deps.store, &due.order.id);
    match look_after(due, deps.deadline_seconds, now) {
        Look::RepublishPlaced { again_at } => {
            store.republish(id, "order.placed", now).await?;
            store.put_off(due, PutOff { until: again_at, nudges: due.nudges, alert: false }, now).await
        }
        Look::TimeOut => {
            if store.fail(&due.order, OrderFailure::TimedOut, now).await? {
                metrics::count("OrdersFailed", 1);
                tracing::warn!(order = %id, "an order was not answered in time");
            }
            Ok(())
        }
        Look::RepublishFailed { again_at, alert } => {
            store.republish(id, "order.failed", now).await?;
            store.put_off(due, PutOff { until: again_at, nudges: due.nudges + 1, alert }, now).await
        }
        Look::Leave => Ok(()),
    }
}
