//! Saga compensation: undo `begin-payment`, and settle whether a confirmation whose answer was lost had happened.

use crate::ports::{Transition, WritePayment};
use contracts::saga::{PaymentSaga, Release, ReleaseOutcome};
use kit::{StepCall, StepError};

/// Gives the reservation back to the hold it had, or to `expired` when that is over. A reservation this payment does
/// not have is success, and a begin that is still on its way will find it has been released.
pub async fn release_reservation(store: &impl WritePayment, call: StepCall<PaymentSaga>) -> Result<Release, StepError> {
    let outcome = match store.release(&call.input, call.now).await? {
        Transition::Made | Transition::Already => ReleaseOutcome::Released,
        Transition::Impossible(_) => ReleaseOutcome::AlreadyPaid,
    };
    Ok(Release { outcome })
}
