//! Ends expired holds that no message ended: the fallback of hold expiry (R07, R19).

use crate::domain::{DUE_SHARDS, EndHold, Reservation};
use crate::ports::{FindOverdue, WriteEnd};
use kit::sweep::{Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How many holds are ended at once.
const AT_ONCE: usize = 10;
/// How long ending one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// Ends the expired holds until none is left or the time is over. Neither a hold that cannot be ended or hangs nor a shard
/// that cannot be read blocks the others.
pub async fn sweep_holds(store: &(impl FindOverdue + WriteEnd), tick: impl Into<Tick>) -> Result<(), Fault> {
    let tick = &tick.into();
    let now = tick.now;
    let ended = &AtomicU64::new(0);
    let work = |hold: Reservation| async move {
        let booking = hold.booking();
        let ending = async { store.end_hold(&booking, EndHold::Expire, now).await };
        let outcome = tick.within(LIMIT, "ending a hold that is over", ending).await;
        let done = outcome.inspect_err(
            |fault| tracing::warn!(reservation = %hold.id, error = fault.chain(), "a hold could not be ended"),
        )?;
        ended.fetch_add(u64::from(done), Ordering::Relaxed);
        Ok(())
    };
    let read = |shard, after| async move { store.overdue(shard, now, after).await };
    let swept = sweep(tick, DUE_SHARDS, Pace::at_once(AT_ONCE), read, work).await;
    let ended = ended.load(Ordering::Relaxed);
    if ended > 0 {
        metrics::count("Expired", ended);
        tracing::info!(ended, "ended holds that were over");
    }
    swept.say("holds", "reservations")
}
