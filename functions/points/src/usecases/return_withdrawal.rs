//! Step that payments calls: points that could not be taken out are back in the account. Undoes `debit-withdrawal`.

use crate::domain::{EntryKey, Kind, Movement};
use crate::ports::ReturnUse;
use contracts::Timestamp;
use contracts::steps::{Applied, DebitWithdrawal};
use kit::Fault;

/// Gives back what is known to have been debited, exactly once.
pub async fn return_withdrawal(
    accounts: &impl ReturnUse,
    asked: &DebitWithdrawal,
    now: Timestamp,
) -> Result<Applied, Fault> {
    let id = &asked.withdrawal_id;
    let movement = Movement {
        key: EntryKey::return_of(id.as_str()),
        entry_id: format!("{id}.return"),
        kind: Kind::Refund,
        amount: asked.amount,
        reference: id.to_string(),
        at: now,
    };
    accounts.return_completed(&asked.user_id, &movement).await?;
    Ok(Applied {})
}
