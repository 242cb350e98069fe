//! Step asked by payments: put a charge that was paid for into the ledger, or say that it never will be.

use crate::domain::{CREDITED_WITHIN_MILLIS, Entry, EntryKey, Kind, Movement, Posted, Refusal};
use crate::ports::{CloseCharge, PostEntry};
use contracts::steps::{ChargeCredit, CreditCharge, CreditedCharge};
use kit::{Fault, StepCall, StepError};

/// The balance, or the account's list of recent entries, has no room for it.
const BALANCE_LIMIT: &str = "balance_limit";
/// The key is another charge's.
const KEY_TAKEN: &str = "key_taken";

/// Credits exactly once under the key, and answers a repetition alike.
///
/// A refusal is for good, because payments gives the money back on it: the door is closed before it is answered, so that
/// no try still on its way can credit what is paid back. What was asked for too long ago is neither credited nor
/// refused (`Broken`): its key may have left the account, and crediting it could be the second time.
pub async fn credit_charge<A: PostEntry + CloseCharge>(
    accounts: &A,
    call: StepCall<CreditCharge>,
) -> Result<ChargeCredit, StepError> {
    let ask = call.input;
    if call.now.millis_since(ask.requested_at) > CREDITED_WITHIN_MILLIS {
        let told = format!("charge {} is too old to tell whether it was credited", ask.entry_id);
        return Err(Fault::broken("crediting a charge", told).into());
    }
    let movement = Movement {
        key: EntryKey::charge(&ask.key),
        entry_id: ask.entry_id.clone(),
        kind: Kind::Charge,
        amount: ask.amount,
        reference: ask.entry_id,
        at: call.now,
    };
    let made = match accounts.post(&ask.user_id, &movement).await? {
        Ok(Posted::Now(entry) | Posted::Before(entry)) => Some(entry),
        Ok(Posted::Undone) => None,
        Err(Refusal::BalanceLimit | Refusal::InsufficientPoints) => {
            accounts.close_charge(&ask.user_id, &movement).await?
        }
    };
    Ok(match made {
        Some(entry) if is_made_by(&entry, &movement) => {
            ChargeCredit::Credited(CreditedCharge { entry_id: entry.movement.entry_id, balance: entry.balance_after })
        }
        Some(_) => ChargeCredit::Refused { reason: KEY_TAKEN.to_owned() },
        None => ChargeCredit::Refused { reason: BALANCE_LIMIT.to_owned() },
    })
}

fn is_made_by(entry: &Entry, movement: &Movement) -> bool {
    entry.movement.entry_id == movement.entry_id && entry.movement.amount == movement.amount
}
