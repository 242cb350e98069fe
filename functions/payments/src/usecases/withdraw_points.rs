//! A user takes points out again: the withdrawal is recorded and the points leave the account. What follows, the schedule
//! does ([`super::settle_withdrawals`]), or an operator.

use crate::domain::withdrawals::{Withdrawal, WithdrawalState, choose_source};
use crate::ports::withdrawals::{DebitPoints, FindWithdrawal, MoveWithdrawal, RecordWithdrawal, RecordedWithdrawal};
use contracts::steps::WithdrawalDebit;
use contracts::{ChargeAmount, PaymentId, Timestamp, UserId};
use kit::idempotency::{IdempotencyKey, Memo, StoredAnswer};
use kit::{Fault, metrics};

/// How often a charge is chosen while others take from the same.
const ROUNDS: usize = 4;

/// A request to take points out.
#[derive(Debug)]
pub struct WithdrawPoints {
    pub user: UserId,
    pub amount: ChargeAmount,
    /// The caller's idempotency key.
    pub key: IdempotencyKey,
    /// The id of the withdrawal, if one is recorded.
    pub id: PaymentId,
    pub correlation_id: String,
    /// When it was requested.
    pub now: Timestamp,
}

/// Why no points are taken out.
#[derive(Debug)]
pub enum WithdrawError {
    /// The balance is below the amount.
    Insufficient,
    /// The user has asked for too many today.
    TooMany,
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for WithdrawError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The withdrawal as it is: recorded now, or by the same request before.
pub async fn withdraw_points<W, A>(
    withdrawals: &W,
    points: &A,
    ask: WithdrawPoints,
    answer: impl Fn(&Withdrawal) -> StoredAnswer + Send,
) -> Result<Withdrawal, WithdrawError>
where
    W: RecordWithdrawal + FindWithdrawal + MoveWithdrawal,
    A: DebitPoints,
{
    let now = ask.now;
    let withdrawal = record(withdrawals, ask, answer).await?;
    let withdrawal = match withdrawal.state {
        WithdrawalState::Requested => debit(withdrawals, points, withdrawal, now).await?,
        _ => withdrawal,
    };
    match withdrawal.state {
        WithdrawalState::Refused => Err(WithdrawError::Insufficient),
        _ => Ok(withdrawal),
    }
}

async fn record<W: RecordWithdrawal + FindWithdrawal>(
    withdrawals: &W,
    ask: WithdrawPoints,
    answer: impl Fn(&Withdrawal) -> StoredAnswer + Send,
) -> Result<Withdrawal, WithdrawError> {
    const DOING: &str = "recording a withdrawal";
    for _ in 0..ROUNDS {
        let charges = withdrawals.last_charges(&ask.user).await?;
        let withdrawal = Withdrawal {
            id: ask.id.clone(),
            user: ask.user.clone(),
            amount: ask.amount.won(),
            source: choose_source(&charges, ask.amount.won(), ask.now),
            requested_at: ask.now,
            correlation_id: ask.correlation_id.clone(),
            state: WithdrawalState::Requested,
            attempts: 0,
        };
        let memo = Memo {
            user: ask.user.clone(),
            key: ask.key.clone(),
            about: ask.id.to_string(),
            answer: answer(&withdrawal),
        };
        match withdrawals.record_withdrawal(&withdrawal, &memo, ask.now).await? {
            RecordedWithdrawal::Now => return Ok(withdrawal),
            RecordedWithdrawal::Before(id) => {
                let found = withdrawals.find_withdrawal(&ask.user, &id).await?;
                return found.ok_or_else(|| Fault::broken(DOING, "the remembered withdrawal is missing").into());
            }
            RecordedWithdrawal::KeyReused => return Err(WithdrawError::KeyReused),
            RecordedWithdrawal::TooMany => return Err(WithdrawError::TooMany),
            RecordedWithdrawal::NoRoom => {}
        }
    }
    Err(Fault::contended(DOING).into())
}

/// Has points take the amount, and records what came of it.
pub(super) async fn debit(
    withdrawals: &impl MoveWithdrawal,
    points: &impl DebitPoints,
    withdrawal: Withdrawal,
    now: Timestamp,
) -> Result<Withdrawal, Fault> {
    let to = match points.debit_points(&withdrawal.debit()).await? {
        WithdrawalDebit::Debited => WithdrawalState::Debited,
        WithdrawalDebit::Insufficient => WithdrawalState::Refused,
    };
    moved(withdrawals, withdrawal, to, now).await
}

/// The withdrawal after a move: as this call moved it, or whoever came first.
pub(super) async fn moved(
    withdrawals: &impl MoveWithdrawal,
    withdrawal: Withdrawal,
    to: WithdrawalState,
    now: Timestamp,
) -> Result<Withdrawal, Fault> {
    if let Some(found) = withdrawals.move_withdrawal(&withdrawal, &to, now).await? {
        return Ok(*found);
    }
    if matches!(to, WithdrawalState::Paid | WithdrawalState::PaidOut(_)) {
        metrics::count("Withdrawn", 1);
    }
    tracing::info!(withdrawal = %withdrawal.id, from = withdrawal.state.as_str(), to = to.as_str(), "a withdrawal moved on");
    Ok(Withdrawal { state: to, ..withdrawal })
}
