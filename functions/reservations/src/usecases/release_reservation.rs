//! Saga compensation: undoes `begin-payment`, and finds out whether a confirmation whose answer was lost took effect.

use crate::ports::{Transition, WritePayment};
use contracts::Timestamp;
use contracts::saga::{FailedPayment, Release, ReleaseOutcome};
use kit::Fault;

/// Returns the reservation to `held`, or to `expired` when the hold is over. Success if this payment does not have the
/// reservation; a begin that arrives later then changes nothing.
pub async fn release_reservation(
    store: &impl WritePayment,
    failed: &FailedPayment,
    now: Timestamp,
) -> Result<Release, Fault> {
    let outcome = match store.release(failed, now).await? {
        Transition::Made | Transition::Already => ReleaseOutcome::Released,
        Transition::Impossible(_) => ReleaseOutcome::AlreadyPaid,
    };
    Ok(Release { outcome })
}
