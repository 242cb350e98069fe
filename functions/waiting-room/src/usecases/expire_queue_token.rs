//! Saga step, in strict mode: spend the place that a payment was made from. Undone by `restore-queue-token`.

use crate::domain::Spent;
use crate::ports::SpendPlace;
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::StepError;

/// Spends the place exactly once under the payment's id. Refused if the place was restored first: the payment has been
/// undone.
pub async fn expire_queue_token(line: &impl SpendPlace, saga: &PaymentSaga) -> Result<Done, StepError> {
    match line.spend(&saga.concert_id, saga.queue_position, &saga.payment_id).await? {
        Spent::Now => Ok(Done { already: false }),
        Spent::Before => Ok(Done { already: true }),
        Spent::Undone => Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str())),
    }
}
