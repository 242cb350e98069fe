//! Saga step: held -> paying. From here on the seats no longer expire with the hold. Undone by `release-reservation`.

use crate::ports::{Obstacle, Transition, WritePayment};
use contracts::Timestamp;
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::StepError;

/// Takes the reservation for this payment, or refuses with `hold_expired` or `reservation_not_payable`.
///
/// The payment was requested in time, or there would be no saga; so the only question here is whether another user has
/// taken a seat since, not how long the saga took to get here.
pub async fn begin_payment(store: &impl WritePayment, saga: &PaymentSaga, now: Timestamp) -> Result<Done, StepError> {
    match store.begin(saga, now).await? {
        Transition::Made => Ok(Done { already: false }),
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(Obstacle::HoldOver) => Err(StepError::Refused(PaymentFailure::HoldExpired.as_str())),
        Transition::Impossible(Obstacle::NotThisPayment) => {
            Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str()))
        }
    }
}
