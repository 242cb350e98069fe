//! A user adds points to their balance.

use crate::domain::{ChargeAmount, Entry, EntryKey, Kind, Movement, Posted, Refusal};
use crate::ports::PostEntry;
use contracts::{Timestamp, UserId};
use kit::Fault;

/// What is asked.
#[derive(Debug)]
pub struct ChargePoints {
    /// Whose balance.
    pub user: UserId,
    /// How much.
    pub amount: ChargeAmount,
    /// The caller's idempotency key.
    pub idempotency_key: String,
    /// The id the entry gets, if it is made now.
    pub entry_id: String,
    /// When it was asked.
    pub now: Timestamp,
}

/// Why not.
#[derive(Debug)]
pub enum ChargeError {
    /// The key was used for another amount.
    KeyReused,
    /// The balance would pass its limit.
    BalanceLimit,
    /// The system failed.
    Fault(Fault),
}

/// Charges exactly once under the key; the first entry again when repeated.
pub async fn charge_points(accounts: &impl PostEntry, ask: ChargePoints) -> Result<Entry, ChargeError> {
    let movement = Movement {
        key: EntryKey::charge(&ask.idempotency_key),
        reference: ask.entry_id.clone(),
        entry_id: ask.entry_id,
        kind: Kind::Charge,
        amount: ask.amount.won(),
        at: ask.now,
    };
    match accounts.post(&ask.user, &movement).await.map_err(ChargeError::Fault)? {
        Ok(Posted::Now(entry)) => Ok(entry),
        Ok(Posted::Before(entry)) if entry.movement.amount == movement.amount => Ok(entry),
        Ok(Posted::Before(_) | Posted::Undone) => Err(ChargeError::KeyReused),
        Err(Refusal::BalanceLimit) => Err(ChargeError::BalanceLimit),
        Err(Refusal::InsufficientPoints) => {
            Err(ChargeError::Fault(Fault::broken("charging points", "a charge was refused for a low balance")))
        }
    }
}
