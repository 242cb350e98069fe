//! Refund saga's last step: the payment is paid back; what follows from that learns it by event.

use crate::domain::Status;
use crate::ports::SettleRefund;
use contracts::saga::{Done, RefundSaga};
use kit::{Fault, StepCall, StepError};

/// Records the refund once.
pub async fn complete_refund(payments: &impl SettleRefund, call: StepCall<RefundSaga>) -> Result<Done, StepError> {
    match payments.complete_refund(&call.input, call.now).await? {
        None => Ok(Done { already: false }),
        Some(Status::Refunded) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("completing a refund", "its seats are free and it is not being refunded").into()),
    }
}
