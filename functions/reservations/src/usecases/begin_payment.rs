//! Saga step: held -> paying. From here on the hold's end cannot take the seats away. Undone by
//! `release-reservation`.

use crate::ports::{Obstacle, Transition, WritePayment};
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::{StepCall, StepError};

/// Takes the reservation for this payment, or refuses with `hold_expired` or `reservation_not_payable`.
///
/// The payment was asked for in time, or there would be no saga; so what counts here is that nobody took a seat since,
/// not how long the saga took to get here.
pub async fn begin_payment(store: &impl WritePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    match store.begin(&call.input, call.now).await? {
        Transition::Made => Ok(Done { already: false }),
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(Obstacle::HoldOver) => Err(StepError::Refused(PaymentFailure::HoldExpired.as_str())),
        Transition::Impossible(Obstacle::NotThisPayment) => {
            Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str()))
        }
    }
}
