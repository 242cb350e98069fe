//! Saga step: the payment is complete; what follows from that learns it by event. Behind the point of no return.

use crate::domain::Status;
use crate::ports::SettlePayment;
use contracts::saga::{Done, PaymentSaga};
use kit::{Fault, StepCall, StepError};

/// Records the completion once.
pub async fn complete_payment(payments: &impl SettlePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    match payments.complete(&call.input, call.now).await? {
        None => Ok(Done { already: false }),
        Some(Status::Completed | Status::Refunding | Status::Refunded) => Ok(Done { already: true }),
        Some(_) => {
            Err(Fault::broken("completing a payment", "it is recorded as failed while its seats are sold").into())
        }
    }
}
