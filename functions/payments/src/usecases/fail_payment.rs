//! Saga's last compensation: the payment failed, for a reason that its owner can read. Everything before it is undone.

use crate::domain::Status;
use crate::ports::SettlePayment;
use contracts::Timestamp;
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::{Fault, metrics};

/// Records the failure once.
pub async fn fail_payment(
    payments: &impl SettlePayment,
    saga: &PaymentSaga,
    failure: PaymentFailure,
    now: Timestamp,
) -> Result<Done, Fault> {
    match payments.fail(saga, failure, now).await? {
        None => {
            metrics::count("Compensated", 1);
            Ok(Done { already: false })
        }
        Some(Status::Failed(_)) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("failing a payment", "it is recorded as completed")),
    }
}
