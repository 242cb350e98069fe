//! Saga compensation: gives back the place that `expire-queue-token` spent.

use crate::ports::RestorePlace;
use contracts::saga::{Done, PaymentSaga};
use kit::Fault;

/// Undoes this payment's spending of the place. Nothing spent, or restored already, is success; a tombstone keeps a
/// spending that arrives later from taking effect.
pub async fn restore_queue_token(line: &impl RestorePlace, saga: &PaymentSaga) -> Result<Done, Fault> {
    let already = line.restore(&saga.concert_id, saga.queue_position, &saga.payment_id).await?;
    Ok(Done { already })
}
