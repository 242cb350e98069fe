//! Saga compensation: give back the place that `expire-queue-token` spent.

use crate::ports::RestorePlace;
use contracts::saga::{Done, PaymentSaga};
use kit::{StepCall, StepError};

/// Restores the place as far as this payment goes. Nothing spent, or restored already, is success; and a spending
/// that arrives after its restoration finds the door closed.
pub async fn restore_queue_token(line: &impl RestorePlace, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    let saga = call.input;
    let already = line.restore(&saga.concert_id, saga.queue_position, &saga.payment_id).await?;
    Ok(Done { already })
}
