//! Saga step, in both sagas: give back what `use-points` took.

use crate::domain::{EntryKey, Kind, Movement};
use crate::ports::ReturnUse;
use contracts::Timestamp;
use contracts::saga::{Done, PaymentSaga};
use kit::Fault;

/// Returns the points exactly once. Nothing used, or returned already, is success; a use that arrives after its return
/// is refused.
pub async fn return_points(
    accounts: &impl ReturnUse,
    saga: &PaymentSaga,
    refund_requested_at: Option<Timestamp>,
    now: Timestamp,
) -> Result<Done, Fault> {
    let movement = Movement {
        key: EntryKey::return_of(saga.payment_id.as_str()),
        entry_id: format!("{}.return", saga.payment_id),
        kind: Kind::Refund,
        amount: saga.amount,
        reference: saga.payment_id.to_string(),
        at: now,
    };
    let already = match refund_requested_at {
        None => accounts.return_use(&saga.user_id, &movement).await?,
        // The use may be in the archive by now.
        Some(_) => accounts.return_completed(&saga.user_id, &movement).await?,
    };
    Ok(Done { already })
}
