//! Brings withdrawals to their end: has the provider cancel a part of the charge's payment, or points return (R07).

use crate::domain::charges::Declined;
use crate::domain::withdrawals::{WITHDRAWAL_SHARDS, Withdrawal, WithdrawalState, WithdrawalStep, is_cancelled_for};
use crate::ports::withdrawals::{CancelParts, DebitPoints, FindOpenWithdrawals, MoveWithdrawal, ReturnPoints};
use crate::usecases::recover_charges::Taken;
use crate::usecases::withdraw_points::{debit, moved};
use contracts::Timestamp;
use kit::sweep::{Oldest, Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::time::Duration;

/// How many withdrawals are gone on with at once: so many may hang before the others wait.
const AT_ONCE: usize = 20;
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(20);

/// The dependencies of the schedule.
#[derive(Debug)]
pub struct SettleWithdrawals<W, P, D, R> {
    /// Where the withdrawals are.
    pub withdrawals: W,
    /// The payment provider.
    pub provider: P,
    /// The client of points that takes.
    pub debits: D,
    /// The client of points that gives back.
    pub returns: R,
}

/// Goes on with what is due until nothing is left or the time is over. One that cannot be brought to its end or hangs
/// keeps no other from it: each has its own time, its attempt is counted before it is made, and attempts come less and
/// less often.
pub async fn settle_withdrawals<W, P, D, R>(
    deps: &SettleWithdrawals<W, P, D, R>,
    tick: impl Into<Tick>,
) -> Result<(), Fault>
where
    W: FindOpenWithdrawals + MoveWithdrawal,
    P: CancelParts,
    D: DebitPoints,
    R: ReturnPoints,
{
    let tick = &tick.into();
    let now = tick.now;
    let (open_since, taken) = (&Oldest::default(), &Taken::default());
    let read = |shard, after| async move {
        let mut open = deps.withdrawals.open_withdrawals(shard, now, after).await?;
        open.rows.iter().for_each(|withdrawal| open_since.note(withdrawal.requested_at));
        open.rows.retain(|withdrawal| taken.take(&withdrawal.user));
        Ok(open)
    };
    let work = |withdrawal: Withdrawal| async move {
        let id = withdrawal.id.clone();
        let settling = tick.within(LIMIT, "settling a withdrawal", settle(deps, withdrawal, now)).await;
        settling.inspect_err(
            |fault| tracing::error!(withdrawal = %id, error = fault.chain(), "a withdrawal could not be settled"),
        )
    };
    let swept = sweep(tick, WITHDRAWAL_SHARDS, Pace::at_once(AT_ONCE), read, work).await;
    metrics::gauge("WithdrawalAge", "Seconds", "payments", metrics::oldest([open_since.or(now)].into_iter(), now));
    let put_off = taken.put_off();
    if put_off > 0 {
        tracing::warn!(put_off, "users have more open withdrawals than one run takes of each");
    }
    swept.say("withdrawals", "payments")
}

async fn settle<W, P, D, R>(
    deps: &SettleWithdrawals<W, P, D, R>,
    mut withdrawal: Withdrawal,
    now: Timestamp,
) -> Result<(), Fault>
where
    W: FindOpenWithdrawals + MoveWithdrawal,
    P: CancelParts,
    D: DebitPoints,
    R: ReturnPoints,
{
    if !deps.withdrawals.count_attempt(&withdrawal, now).await? {
        return Ok(());
    }
    withdrawal.attempts = withdrawal.attempts.saturating_add(1);
    while let Some(step) = withdrawal.next_step() {
        withdrawal = match step {
            WithdrawalStep::Debit => debit(&deps.withdrawals, &deps.debits, withdrawal, now).await?,
            WithdrawalStep::Cancel => {
                let to = cancel(&deps.provider, &withdrawal, now).await?;
                moved(&deps.withdrawals, withdrawal, to, now).await?
            }
            WithdrawalStep::Return => {
                let WithdrawalState::Returning(reason) = withdrawal.state.clone() else {
                    return Err(Fault::broken("returning points", "its withdrawal does not return"));
                };
                deps.returns.return_points(&withdrawal.debit()).await?;
                moved(&deps.withdrawals, withdrawal, WithdrawalState::Returned(reason), now).await?
            }
        };
    }
    Ok(())
}

/// What the provider did. A rejection is trusted only once the payment shows that nothing was cancelled for this
/// withdrawal: its key is one, so that a rejection is the answer to all its attempts. No answer tells nothing.
async fn cancel(
    provider: &impl CancelParts,
    withdrawal: &Withdrawal,
    now: Timestamp,
) -> Result<WithdrawalState, Fault> {
    const DOING: &str = "cancelling a payment in part";
    if !withdrawal.may_be_cancelled(now) {
        let parts = provider.cancelled_parts(withdrawal).await?;
        return match is_cancelled_for(withdrawal, &parts) {
            true => Ok(WithdrawalState::Paid),
            false => Err(Fault::broken(DOING, format!("withdrawal {} is too old to be asked for", withdrawal.id))),
        };
    }
    let no = match provider.cancel_part(withdrawal).await {
        Ok(Ok(parts)) if is_cancelled_for(withdrawal, &parts) => return Ok(WithdrawalState::Paid),
        Ok(Ok(_)) => Err(Fault::unavailable(DOING, "the provider does not show it")),
        Ok(Err(declined)) => Ok(declined),
        // A provider that asks to wait is not called again before.
        Err(fault) if fault.wait().is_some() => return Err(fault),
        Err(fault) => Err(fault),
    };
    let parts = provider.cancelled_parts(withdrawal).await?;
    match (is_cancelled_for(withdrawal, &parts), no) {
        (true, _) => Ok(WithdrawalState::Paid),
        (false, Ok(Declined(reason))) => Ok(WithdrawalState::Returning(reason)),
        (false, Err(fault)) => Err(fault),
    }
}
