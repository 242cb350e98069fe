//! Refund saga's last step: the payment is paid back; whatever follows from that is triggered by the event.

use crate::domain::Status;
use crate::ports::SettleRefund;
use contracts::Timestamp;
use contracts::saga::{Done, RefundSaga};
use kit::Fault;

/// Records the refund once.
pub async fn complete_refund(payments: &impl SettleRefund, saga: &RefundSaga, now: Timestamp) -> Result<Done, Fault> {
    match payments.complete_refund(saga, now).await? {
        None => Ok(Done { already: false }),
        Some(Status::Refunded) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("completing a refund", "its seats are free and it is not being refunded")),
    }
}
