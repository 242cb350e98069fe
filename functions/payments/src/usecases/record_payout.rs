//! An operator has paid a withdrawal out, and records it.

use crate::domain::withdrawals::{Payout, Withdrawal, WithdrawalState};
use crate::ports::withdrawals::{FindPayouts, FindWithdrawal, MoveWithdrawal};
use crate::usecases::withdraw_points::moved;
use contracts::{PaymentId, Timestamp};
use kit::Fault;

/// Why nothing was recorded.
#[derive(Debug)]
pub enum PayoutError {
    /// No operator has to pay such a withdrawal.
    NotFound,
    /// It does not wait for it: its points are not out, or it was recorded otherwise.
    NotPayable,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for PayoutError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Records a payout once. The same again is success.
pub async fn record_payout(
    withdrawals: &(impl FindPayouts + FindWithdrawal + MoveWithdrawal),
    id: &PaymentId,
    payout: Payout,
    now: Timestamp,
) -> Result<Withdrawal, PayoutError> {
    let user = withdrawals.owner(id).await?.ok_or(PayoutError::NotFound)?;
    let found = withdrawals.find_withdrawal(&user, id).await?.ok_or(PayoutError::NotFound)?;
    let reference = payout.reference.clone();
    let found = match found.awaits_payout() {
        true => moved(withdrawals, found, WithdrawalState::PaidOut(payout), now).await?,
        false => found,
    };
    match &found.state {
        WithdrawalState::PaidOut(made) if made.reference == reference => Ok(found),
        _ => Err(PayoutError::NotPayable),
    }
}
