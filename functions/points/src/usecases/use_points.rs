//! Saga step: take the price of a payment from its user's balance. Undone by `return-points`.

use crate::domain::{EntryKey, Kind, Movement, Posted, Refusal};
use crate::ports::PostEntry;
use contracts::Timestamp;
use contracts::saga::{Done, PaymentFailure, PaymentSaga};
use kit::StepError;

/// Uses the points exactly once under the payment's id.
///
/// Refused with `insufficient_points`, or, where its return came first, as a payment that is over.
pub async fn use_points(accounts: &impl PostEntry, saga: &PaymentSaga, now: Timestamp) -> Result<Done, StepError> {
    let movement = Movement {
        key: EntryKey::use_for(saga.payment_id.as_str()),
        entry_id: format!("{}.use", saga.payment_id),
        kind: Kind::Use,
        amount: saga.amount,
        reference: saga.payment_id.to_string(),
        at: now,
    };
    match accounts.post(&saga.user_id, &movement).await? {
        Ok(Posted::Now(_)) => Ok(Done { already: false }),
        Ok(Posted::Before(_)) => Ok(Done { already: true }),
        Ok(Posted::Undone) => Err(StepError::Refused(PaymentFailure::ReservationNotPayable.as_str())),
        Err(Refusal::InsufficientPoints | Refusal::BalanceLimit) => {
            Err(StepError::Refused(PaymentFailure::InsufficientPoints.as_str()))
        }
    }
}
