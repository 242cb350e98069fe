//! Looks after reservations that stay pending: a message that was lost is sent again, and after ten minutes nobody waits
//! any longer (R07, R18).

use crate::domain::{PENDING_SECONDS, PendingDecision, Withdrawal, decide_pending};
use crate::ports::{AskForSeats, FindWaiting, WritePending};
use contracts::Timestamp;
use kit::Fault;

/// Why a wish that nobody decided in time is rejected.
const TIMED_OUT: &str = "timed_out";

/// What the sweep is wired with.
#[derive(Debug)]
pub struct SweepReservations<S, Q> {
    /// Where the reservations are.
    pub store: S,
    /// Where wishes go.
    pub requests: Q,
}

/// Sees to what is due. Each is first put off, so that one that keeps failing does not keep the others from their turn.
pub async fn sweep_reservations<S: FindWaiting + WritePending, Q: AskForSeats>(
    deps: &SweepReservations<S, Q>,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut last_fault = None;
    for waiting in deps.store.waiting(now).await? {
        let see_to = async {
            deps.store.look_later(&waiting.reservation, now.plus_seconds(PENDING_SECONDS)).await?;
            match decide_pending(waiting.reservation.created_at, now) {
                PendingDecision::AskAgain => deps.requests.ask(&waiting.wish).await,
                PendingDecision::GiveUp => {
                    deps.store.withdraw(&waiting.reservation, Withdrawal::Reject(TIMED_OUT), now).await.map(drop)
                }
            }
        };
        if let Err(fault) = see_to.await {
            tracing::warn!(reservation = %waiting.reservation.id, error = fault.chain(), "a wish still waits");
            last_fault = Some(fault);
        }
    }
    last_fault.map_or(Ok(()), Err)
}
