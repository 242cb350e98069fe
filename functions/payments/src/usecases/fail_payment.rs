//! Saga's last compensation: the payment failed, for a reason its owner can read. Everything before it is undone.

use crate::domain::Status;
use crate::ports::SettlePayment;
use contracts::saga::{Done, FailPayment};
use kit::{Fault, StepCall, StepError, metrics};

/// Records the failure once.
pub async fn fail_payment(payments: &impl SettlePayment, call: StepCall<FailPayment>) -> Result<Done, StepError> {
    let failure = call.input.failure.failure();
    match payments.fail(&call.input.saga, failure, call.now).await? {
        None => {
            metrics::count("Compensated", 1);
            Ok(Done { already: false })
        }
        Some(Status::Failed(_)) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("failing a payment", "it is recorded as completed").into()),
    }
}
