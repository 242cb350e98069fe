//! Refund saga's compensation: reservations refused, so nothing was given back and the sale stands.

use crate::domain::Status;
use crate::ports::SettleRefund;
use contracts::Timestamp;
use contracts::saga::{CaughtError, Done, RefundSaga};
use kit::Fault;

/// Records once that the refund was refused, for a reason that its owner can read.
pub async fn cancel_refund(
    payments: &impl SettleRefund,
    saga: &RefundSaga,
    failure: &CaughtError,
    now: Timestamp,
) -> Result<Done, Fault> {
    let reason = failure.refusal().unwrap_or_else(|| failure.failure().as_str().to_owned());
    match payments.cancel_refund(saga, &reason, now).await? {
        None => Ok(Done { already: false }),
        // Refunding: another refund, requested after this one was cancelled.
        Some(Status::Completed | Status::Refunding) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("cancelling a refund", "it is recorded as carried out")),
    }
}
