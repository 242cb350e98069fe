//! Saga step: paying -> paid, seats sold. The point of no return: only a refund undoes it.

use crate::ports::{Transition, WritePayment};
use contracts::Timestamp;
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::{StepError, metrics};

/// Sells the seats to this payment.
pub async fn confirm_reservation(
    store: &impl WritePayment,
    saga: &PaymentSaga,
    now: Timestamp,
) -> Result<Done, StepError> {
    match store.confirm(saga, now).await? {
        Transition::Made => {
            metrics::count("Sold", saga.seats.len() as u64);
            Ok(Done { already: false })
        }
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(_) => Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str())),
    }
}
