//! Saga step: the payment is complete; whatever follows from that is triggered by the event. After the point of no
//! return.

use crate::domain::Status;
use crate::ports::SettlePayment;
use contracts::Timestamp;
use contracts::saga::{Done, PaymentSaga};
use kit::Fault;

/// Records the completion once.
pub async fn complete_payment(
    payments: &impl SettlePayment,
    saga: &PaymentSaga,
    now: Timestamp,
) -> Result<Done, Fault> {
    match payments.complete(saga, now).await? {
        None => Ok(Done { already: false }),
        Some(Status::Completed | Status::Refunding | Status::Refunded) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("completing a payment", "it is recorded as failed while its seats are sold")),
    }
}
