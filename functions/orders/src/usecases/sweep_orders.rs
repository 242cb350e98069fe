//! Checks orders that still lack answers (R07): an event that may have been lost is published again, an order that is
//! not answered in time fails, and the failure of a failed one is published again until all participants have undone
//! their part.

use crate::domain::{DUE_SHARDS, DueOrder, Look, look_after};
use crate::ports::{EndOrder, FindDue, PutOff, Republish};
use contracts::Timestamp;
use contracts::orders::OrderFailure;
use kit::sweep::{Oldest, Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::time::Duration;

/// How many orders are processed concurrently.
const AT_ONCE: usize = 10;
/// How long one of them may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The dependencies of the sweep.
#[derive(Debug)]
pub struct SweepDeps<S> {
    /// Where the orders are.
    pub store: S,
    /// How long after it was placed a pending order fails, in seconds.
    pub deadline_seconds: i64,
}

/// Processes the due orders until none is left or the time is over. Neither an order that cannot be processed or hangs nor
/// a shard that cannot be read keeps the others from being processed.
pub async fn sweep_orders<S: FindDue + EndOrder + Republish>(
    deps: &SweepDeps<S>,
    tick: impl Into<Tick>,
) -> Result<(), Fault> {
    let tick = &tick.into();
    let now = tick.now;
    // Since when the one of the due orders that is latest should be at its end.
    let over_since = &Oldest::default();
    let read = |shard, after| async move {
        let due = deps.store.due_orders(shard, now, after).await?;
        due.rows.iter().for_each(|due| over_since.note(due.over_since(deps.deadline_seconds)));
        Ok(due)
    };
    let work = |due: DueOrder| async move {
        let outcome = tick.within(LIMIT, "looking after an order", process(deps, &due, now)).await;
        outcome
            .inspect_err(|fault| tracing::warn!(order = %due.order.id, error = fault.chain(), "an order still waits"))
    };
    let swept = sweep(tick, DUE_SHARDS, Pace::at_once(AT_ONCE), read, work).await;
    metrics::gauge("OrderAge", "Seconds", "orders", metrics::oldest([over_since.or(now)].into_iter(), now));
    swept.say("orders", "orders")
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
            if store.fail(&due.order, &OrderFailure::TimedOut.into(), now).await? {
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
