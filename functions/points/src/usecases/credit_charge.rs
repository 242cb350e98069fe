//! Step called by payments: credit a charge that was paid for, or refuse it for good.

use crate::domain::{CREDITED_WITHIN_MILLIS, Entry, EntryKey, Kind, Movement, Posted, Refusal};
use crate::ports::{CloseCharge, PostEntry};
use contracts::Timestamp;
use contracts::steps::{ChargeCredit, CreditCharge, CreditedCharge};
use kit::Fault;

/// The balance would pass its limit.
const BALANCE_LIMIT: &str = "balance_limit";
/// The key is another charge's.
const KEY_TAKEN: &str = "key_taken";

/// Credits exactly once under the key; a repetition gets the same answer.
///
/// A refusal is final, because payments gives the money back on it: the void is written before the answer, so that no
/// attempt still in flight can credit what is paid back. What was requested too long ago is neither credited nor
/// refused (`Broken`): the release before may have forgotten its key, and crediting it could be the second time.
pub async fn credit_charge<A: PostEntry + CloseCharge>(
    accounts: &A,
    asked: CreditCharge,
    now: Timestamp,
) -> Result<ChargeCredit, Fault> {
    if now.millis_since(asked.requested_at) > CREDITED_WITHIN_MILLIS {
        let too_old = format!("charge {} is too old to tell whether it was credited", asked.entry_id);
        return Err(Fault::broken("crediting a charge", too_old));
    }
    let movement = Movement {
        key: EntryKey::charge(&asked.key),
        entry_id: asked.entry_id.clone(),
        kind: Kind::Charge,
        amount: asked.amount,
        reference: asked.entry_id,
        at: now,
    };
    let made = match accounts.post(&asked.user_id, &movement).await? {
        Ok(Posted::Now(entry) | Posted::Before(entry)) => Some(entry),
        Ok(Posted::Undone) => None,
        Err(Refusal::BalanceLimit | Refusal::InsufficientPoints) => {
            accounts.close_charge(&asked.user_id, &movement).await?
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
