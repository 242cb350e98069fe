//! Saga step: paying -> paid, seats sold. The point of no return: undone by a refund only.

use crate::ports::{Transition, WritePayment};
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::{StepCall, StepError, metrics};

/// Sells the seats to this payment.
pub async fn confirm_reservation(store: &impl WritePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    match store.confirm(&call.input, call.now).await? {
        Transition::Made => {
            metrics::count("Sold", call.input.seats.len() as u64);
            Ok(Done { already: false })
        }
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(_) => Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str())),
    }
}
