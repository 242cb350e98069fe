//! Step that payments calls: points that are taken out leave the account. Undone by `return-withdrawal`.

use crate::domain::{EntryKey, Kind, Movement, Posted, Refusal};
use crate::ports::{CloseCharge, PostEntry};
use contracts::Timestamp;
use contracts::steps::{DebitWithdrawal, WithdrawalDebit};
use kit::Fault;

/// Takes the points exactly once under the withdrawal's id.
///
/// A refusal is final, because nothing is paid out on it: a void is written before the answer, so that no attempt still
/// in flight can take the points later.
pub async fn debit_withdrawal(
    accounts: &(impl PostEntry + CloseCharge),
    asked: &DebitWithdrawal,
    now: Timestamp,
) -> Result<WithdrawalDebit, Fault> {
    let id = &asked.withdrawal_id;
    let movement = Movement {
        key: EntryKey::use_for(id.as_str()),
        entry_id: format!("{id}.use"),
        kind: Kind::Use,
        amount: asked.amount,
        reference: id.to_string(),
        at: now,
    };
    match accounts.post(&asked.user_id, &movement).await? {
        Ok(Posted::Now(_) | Posted::Before(_)) => Ok(WithdrawalDebit::Debited),
        Ok(Posted::Undone) => Ok(WithdrawalDebit::Insufficient),
        Err(Refusal::InsufficientPoints | Refusal::BalanceLimit) => {
            Ok(match accounts.close_charge(&asked.user_id, &movement).await? {
                // A repetition that crossed this one found more points.
                Some(_) => WithdrawalDebit::Debited,
                None => WithdrawalDebit::Insufficient,
            })
        }
    }
}
