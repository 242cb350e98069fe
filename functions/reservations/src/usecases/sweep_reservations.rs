//! Looks after reservations that stay pending: a message that was lost is sent again, and after ten minutes nobody waits
//! any longer (R07, R18).

use crate::domain::{DUE_SHARDS, PENDING_SECONDS, PendingDecision, TIMED_OUT, decide_pending};
use crate::ports::{AskForSeats, FindWaiting, Waiting, WritePending};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// What the sweep is wired with.
#[derive(Debug)]
pub struct SweepReservations<S, Q> {
    /// Where the reservations are.
    pub store: S,
    /// Where requests go.
    pub requests: Q,
}

/// Sees to what is due. Neither a request that keeps failing nor a shard that cannot be read keeps the others from their turn.
pub async fn sweep_reservations<S: FindWaiting + WritePending, Q: AskForSeats>(
    deps: &SweepReservations<S, Q>,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut last_fault = None;
    for shard in 0..DUE_SHARDS {
        let due = deps.store.waiting(shard, now).await.unwrap_or_else(|fault| {
            tracing::warn!(shard, error = fault.chain(), "the requests of a shard cannot be found");
            last_fault = Some(fault);
            Vec::new()
        });
        for waiting in due {
            if let Err(fault) = see_to(deps, &waiting, now).await {
                tracing::warn!(reservation = %waiting.reservation.id, error = fault.chain(), "a request still waits");
                last_fault = Some(fault);
            }
        }
    }
    last_fault.map_or(Ok(()), Err)
}

async fn see_to<S: FindWaiting + WritePending, Q: AskForSeats>(
    deps: &SweepReservations<S, Q>,
    waiting: &Waiting,
    now: Timestamp,
) -> Result<(), Fault> {
    let reservation = &waiting.reservation;
    // Put off first: when this run ends before its time, the next one begins with the others.
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
