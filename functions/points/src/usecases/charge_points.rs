//! A user adds points to their balance: by paying for them, or, where a stage allows it, for nothing.

use crate::domain::{Entry, EntryKey, Kind, Movement, PaymentKey, Posted, Refusal};
use crate::ports::{PayClient, PostEntry};
use contracts::steps::{ChargePaid, CreditedCharge, PayCharge};
use contracts::{ChargeAmount, Timestamp, UserId};
use kit::{Fault, metrics};

/// A request to charge points.
#[derive(Debug)]
pub struct ChargePoints {
    pub user: UserId,
    pub amount: ChargeAmount,
    /// The caller's idempotency key.
    pub idempotency_key: String,
    /// The id the entry gets, if it is made now.
    pub entry_id: String,
    /// When it was requested.
    pub now: Timestamp,
}

/// Why points were not charged.
#[derive(Debug)]
pub enum ChargeError {
    /// The key was used for another amount, or another payment.
    KeyReused,
    /// The balance would pass its limit.
    BalanceLimit,
    /// The key is no open charge intent of the caller's with this amount.
    NoIntent,
    /// The payment is not confirmed, for a reason with a stable name.
    NotConfirmed(String),
    /// The payment is still in progress: try again.
    Pending,
    /// The system failed.
    Fault(Fault),
}

/// Charges for nothing, exactly once under the key; a repetition gets the first entry again.
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
        Ok(Posted::Now(entry)) => {
            metrics::count("Charged", 1);
            Ok(entry)
        }
        Ok(Posted::Before(entry)) if entry.movement.amount == movement.amount => Ok(entry),
        Ok(Posted::Before(_) | Posted::Undone) => Err(ChargeError::KeyReused),
        Err(Refusal::BalanceLimit) => Err(ChargeError::BalanceLimit),
        Err(Refusal::InsufficientPoints) => {
            Err(ChargeError::Fault(Fault::broken("charging points", "a charge was refused for a low balance")))
        }
    }
}

/// Charges against a payment at the provider: payments confirms it and has the points credited. The caller's key is the
/// order id of their charge intent, which was given to the provider's own pages.
pub async fn charge_paid_points(
    payments: &impl PayClient,
    ask: ChargePoints,
    payment_key: PaymentKey,
    correlation_id: String,
) -> Result<CreditedCharge, ChargeError> {
    let charge = PayCharge {
        user_id: ask.user,
        key: ask.idempotency_key,
        amount: ask.amount.won(),
        payment_key: payment_key.into_text(),
        requested_at: ask.now,
        correlation_id,
    };
    match payments.pay_charge(&charge).await.map_err(ChargeError::Fault)? {
        ChargePaid::Credited(credited) => Ok(credited),
        ChargePaid::NoIntent => Err(ChargeError::NoIntent),
        ChargePaid::NotConfirmed { reason } => Err(ChargeError::NotConfirmed(reason)),
        ChargePaid::BalanceLimit => Err(ChargeError::BalanceLimit),
        ChargePaid::KeyReused => Err(ChargeError::KeyReused),
        ChargePaid::Pending => Err(ChargeError::Pending),
    }
}
