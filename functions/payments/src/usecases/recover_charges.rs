//! Finds charges that have not ended and completes them (R07).

use crate::domain::charges::{CHARGE_SHARDS, Charge};
use crate::ports::charges::{CreditPoints, FindStuckCharges, MoveCharge, PaymentProvider};
use crate::usecases::pay_charge::{PayCharges, TIME_LIMIT, resume};
use contracts::{Timestamp, UserId};
use kit::sweep::{Oldest, Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// How many charges are completed at once: so many may hang before the others wait.
const AT_ONCE: usize = 20;
/// How many charges of one user a run takes, so that no account can fill it.
const OF_ONE_USER: u32 = 3;

/// Recovers what is due until nothing is left or the time is over. One charge that cannot be completed or hangs does not
/// keep the others from being recovered: each has its own time, its recovery is counted before it is resumed, and its
/// checks come less and less often.
pub async fn recover_charges<C, P, A>(deps: &PayCharges<C, P, A>, tick: impl Into<Tick>) -> Result<(), Fault>
where
    C: FindStuckCharges + MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    let tick = &tick.into();
    let now = tick.now;
    let (open_since, taken) = (&Oldest::default(), &Taken::default());
    let read = |shard, after| async move {
        let mut stuck = deps.charges.stuck_charges(shard, now, after).await?;
        stuck.rows.iter().for_each(|charge| open_since.note(charge.requested_at));
        stuck.rows.retain(|charge| taken.take(&charge.user));
        Ok(stuck)
    };
    let work = |charge: Charge| async move {
        let id = charge.id.clone();
        match tick.within(TIME_LIMIT, "recovering a charge", recover(deps, charge, now)).await {
            Ok(None) => {}
            Ok(Some(state)) => tracing::warn!(charge = %id, state, "a stuck charge was brought to its end"),
            Err(fault) => {
                tracing::error!(charge = %id, error = fault.chain(), "a stuck charge could not be recovered");
                return Err(fault);
            }
        }
        Ok(())
    };
    let swept = sweep(tick, CHARGE_SHARDS, Pace::at_once(AT_ONCE), read, work).await;
    metrics::gauge("ChargeAge", "Seconds", "payments", metrics::oldest([open_since.or(now)].into_iter(), now));
    let put_off = taken.put_off();
    if put_off > 0 {
        tracing::warn!(put_off, "users have more stuck charges than one run takes of each");
    }
    swept.say("charges", "payments")
}

/// The state in which it ended; `None` when another run has it.
async fn recover<C, P, A>(
    deps: &PayCharges<C, P, A>,
    mut charge: Charge,
    now: Timestamp,
) -> Result<Option<&'static str>, Fault>
where
    C: FindStuckCharges + MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    if !deps.charges.count_charge_recovery(&charge, now).await? {
        return Ok(None);
    }
    charge.recoveries += 1;
    resume(deps, charge, now).await.map(|state| Some(state.as_str()))
}

/// How many rows of each user a run has taken: charges, or withdrawals.
#[derive(Debug, Default)]
pub(super) struct Taken(Mutex<(HashMap<UserId, u32>, u64)>);

impl Taken {
    pub(super) fn take(&self, user: &UserId) -> bool {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, put_off) = &mut *taken;
        let of_user = of.entry(user.clone()).or_default();
        let is_taken = *of_user < OF_ONE_USER;
        *of_user += u32::from(is_taken);
        *put_off += u64::from(!is_taken);
        is_taken
    }

    pub(super) fn put_off(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }
}
