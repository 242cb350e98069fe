//! Handles reservations that stay pending: resends the message, which may be lost, and after ten minutes rejects the
//! request (R07, R18).

use crate::domain::{DUE_SHARDS, PENDING_SECONDS, PendingDecision, TIMED_OUT, decide_pending};
use crate::ports::{FindWaiting, SendRequest, Waiting, WritePending};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Dependencies of the sweep.
#[derive(Debug)]
pub struct SweepReservations<S, Q> {
    /// The store of reservations.
    pub store: S,
    /// The queue of requests.
    pub requests: Q,
}

/// Handles the reservations that are due. Neither a request that keeps failing nor a shard that cannot be read blocks
/// the others.
pub async fn sweep_reservations<S: FindWaiting + WritePending, Q: SendRequest>(
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
            if let Err(fault) = process(deps, &waiting, now).await {
                tracing::warn!(reservation = %waiting.reservation.id, error = fault.chain(), "a request still waits");
                last_fault = Some(fault);
            }
        }
    }
    last_fault.map_or(Ok(()), Err)
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
