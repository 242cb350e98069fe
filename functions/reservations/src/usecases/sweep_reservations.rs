//! Handles reservations that stay pending: resends the message, which may be lost, and after ten minutes rejects the
//! request (R07, R18).

use crate::domain::{DUE_SHARDS, PENDING_SECONDS, PendingDecision, TIMED_OUT, decide_pending};
use crate::ports::{FindWaiting, SendRequest, Waiting, WritePending};
use contracts::Timestamp;
use kit::sweep::{Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::time::Duration;

/// How many requests are handled at once.
const AT_ONCE: usize = 10;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Dependencies of the sweep.
#[derive(Debug)]
pub struct SweepReservations<S, Q> {
    /// The store of reservations.
    pub store: S,
    /// The queue of requests.
    pub requests: Q,
}

/// Handles the reservations that are due until none is left or the time is over. Neither a request that keeps failing or
/// hangs nor a shard that cannot be read blocks the others.
pub async fn sweep_reservations<S: FindWaiting + WritePending, Q: SendRequest>(
    deps: &SweepReservations<S, Q>,
    tick: impl Into<Tick>,
) -> Result<(), Fault> {
    let tick = &tick.into();
    let now = tick.now;
    let work = |waiting: Waiting| async move {
        let outcome = tick.within(LIMIT, "looking after a request", process(deps, &waiting, now)).await;
        let id = &waiting.reservation.id;
        outcome.inspect_err(|fault| tracing::warn!(reservation = %id, error = fault.chain(), "a request still waits"))
    };
    let read = |shard, after| async move { deps.store.waiting(shard, now, after).await };
    let swept = sweep(tick, DUE_SHARDS, Pace::at_once(AT_ONCE), read, work).await;
    swept.say("requests", "reservations")
}

async fn process<S: FindWaiting + WritePending, Q: SendRequest>(
    deps: &SweepReservations<S, Q>,
    waiting: &Waiting,
    now: Timestamp,
) -> Result<(), Fault> {
    let reservation = &waiting.reservation;
    // Postponed first: if this run is cut short, the next one begins with the others.
    deps.store.look_later(reservation, now.plus_seconds(PENDING_SECONDS)).await?;
    match decide_pending(reservation.created_at, now) {
        PendingDecision::AskAgain => deps.requests.ask(&waiting.request).await?,
        PendingDecision::GiveUp => {
            if deps.store.reject_request(&waiting.request, TIMED_OUT, now).await? {
                metrics::count("Rejected", 1);
                tracing::warn!(reservation = %reservation.id, "nobody decided a request in time");
            }
        }
    }
    Ok(())
}
