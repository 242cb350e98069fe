//! Refund saga's way back: reservations refused, so nothing was given back and the sale stands.

use crate::domain::Status;
use crate::ports::SettleRefund;
use contracts::saga::{CancelRefund, Done};
use kit::{Fault, StepCall, StepError};

/// Records once that the refund did not come about, for a reason its owner can read.
pub async fn cancel_refund(payments: &impl SettleRefund, call: StepCall<CancelRefund>) -> Result<Done, StepError> {
    let CancelRefund { saga, failure } = call.input;
    let reason = failure.refusal().unwrap_or_else(|| failure.failure().as_str().to_owned());
    match payments.cancel_refund(&saga, &reason, call.now).await? {
        None => Ok(Done { already: false }),
        // Refunding: another one, asked for after this one was cancelled.
        Some(Status::Completed | Status::Refunding) => Ok(Done { already: true }),
        Some(_) => Err(Fault::broken("cancelling a refund", "it is recorded as carried out").into()),
    }
}
