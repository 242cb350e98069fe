//! Finds payments and refunds whose saga does not end, and starts the same saga again where needed (R07).

use crate::domain::{Execution, PENDING_SHARDS, Payment};
use crate::ports::{EnsureSaga, FindStuck, StartSaga};
use contracts::Timestamp;
use contracts::saga::{PaymentSaga, RefundSaga};
use kit::sweep::{Oldest, Pace, sweep};
use kit::{Fault, Tick, metrics};
use std::time::Duration;

/// How many payments are recovered at once, and each second: half of the 150 starts a second that Step Functions allows by
/// default in Seoul, because sales need them, too.
const PACE: Pace = Pace::at_once(20).at_most(75);
/// How long one may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The dependencies of the recovery.
#[derive(Debug)]
pub struct RecoverPayments<P, S, R> {
    /// Where the payments are.
    pub payments: P,
    /// The state machine of payments.
    pub sagas: S,
    /// The state machine of refunds.
    pub refunds: R,
}

/// Recovers what is due until nothing is left or the time is over. One payment that cannot be recovered or hangs does not
/// keep the others from it, and neither do those that take long: the next check of whatever was checked comes after
/// theirs.
pub async fn recover_payments<P, S, R>(deps: &RecoverPayments<P, S, R>, tick: impl Into<Tick>) -> Result<(), Fault>
where
    P: FindStuck,
    S: StartSaga<PaymentSaga> + EnsureSaga<PaymentSaga>,
    R: StartSaga<RefundSaga> + EnsureSaga<RefundSaga>,
{
    let tick = &tick.into();
    let now = tick.now;
    let open_since = &Oldest::default();
    let read = |shard, after| async move {
        let stuck = deps.payments.stuck(shard, now, after).await?;
        stuck.rows.iter().for_each(|payment| open_since.note(payment.open_since()));
        Ok(stuck)
    };
    let work = |payment: Payment| async move {
        let recovering = async {
            match payment.refund_saga() {
                None => recover(&deps.payments, &deps.sagas, &payment.saga, &payment, now).await,
                Some(refund) => recover(&deps.payments, &deps.refunds, &refund, &payment, now).await,
            }
        };
        let saga = payment.saga_name();
        match tick.within(LIMIT, "recovering a payment", recovering).await {
            Ok(true) => tracing::warn!(saga, "a stuck saga was started again"),
            Ok(false) => tracing::warn!(saga, "a stuck saga runs, or its payment has moved on"),
            Err(fault) => {
                tracing::error!(saga, error = fault.chain(), "a stuck saga could not be recovered");
                return Err(fault);
            }
        }
        Ok(())
    };
    let swept = sweep(tick, PENDING_SHARDS, PACE, read, work).await;
    metrics::gauge("SagaAge", "Seconds", "payments", metrics::oldest([open_since.or(now)].into_iter(), now));
    swept.say("payments", "payments")
}

/// Whether another execution was started, because the last one ended without an end of its saga.
async fn recover<I, S: StartSaga<I> + EnsureSaga<I>>(
    payments: &impl FindStuck,
    sagas: &S,
    input: &I,
    found: &Payment,
    now: Timestamp,
) -> Result<bool, Fault> {
    // Put off first: one whose saga cannot be started is not the first in every run.
    if !payments.looked_at(found, found, now).await? {
        return Ok(false);
    }
    if sagas.ensure(&found.execution_name(), input).await? == Execution::Running {
        return Ok(false);
    }
    let seen = Payment { alerted: found.alerted || found.needs_alert(now), ..found.clone() };
    let counted = Payment { recoveries: seen.recoveries + 1, ..seen.clone() };
    // Counted before it is started: if this run dies in between, the next one starts that very execution.
    if !payments.looked_at(&seen, &counted, now).await? {
        return Ok(false);
    }
    sagas.start(&counted.execution_name(), input).await?;
    Ok(true)
}
