//! Finds payments and refunds whose saga does not end, and starts the same saga again where needed (R07).

use crate::domain::{Payment, Recovery, decide_recovery};
use crate::ports::{FindStuck, StartSaga, WatchSaga};
use contracts::Timestamp;
use contracts::saga::{PaymentSaga, RefundSaga};
use kit::{Fault, metrics};

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

/// Recovers what is due. One payment that cannot be recovered does not keep the others from it, and neither do those
/// that take long: the next check of whatever was checked comes after theirs.
pub async fn recover_payments<P, S, R>(deps: &RecoverPayments<P, S, R>, now: Timestamp) -> Result<(), Fault>
where
    P: FindStuck,
    S: StartSaga<PaymentSaga> + WatchSaga,
    R: StartSaga<RefundSaga> + WatchSaga,
{
    let mut last_fault = None;
    let stuck = deps.payments.stuck(now).await?;
    metrics::gauge("SagaAge", "Seconds", "payments", metrics::oldest(stuck.iter().map(Payment::open_since), now));
    for payment in stuck {
        let saga = payment.saga_name();
        let recovered = match payment.refund_saga() {
            None => recover(&deps.payments, &deps.sagas, &payment.saga, &payment, now).await,
            Some(refund) => recover(&deps.payments, &deps.refunds, &refund, &payment, now).await,
        };
        match recovered {
            Ok(Recovery::Leave) => tracing::warn!(saga, "a saga takes long; it is left alone"),
            Ok(recovery) => tracing::warn!(saga, ?recovery, "a stuck saga was started"),
            Err(fault) => {
                tracing::error!(saga, error = fault.chain(), "a stuck saga could not be recovered");
                last_fault = Some(fault);
            }
        }
    }
    last_fault.map_or(Ok(()), Err)
}

async fn recover<I, S: StartSaga<I> + WatchSaga>(
    payments: &impl FindStuck,
    sagas: &S,
    input: &I,
    found: &Payment,
    now: Timestamp,
) -> Result<Recovery, Fault> {
    let recovery = decide_recovery(sagas.execution(&found.execution_name()).await?);
    let mut payment = found.clone();
    if recovery == Recovery::StartAnother {
        payment.recoveries += 1;
    }
    // Counted before it is started: if this run dies in between, the next one starts that very execution.
    let is_ours = payments.looked_at(found, &payment, now).await?;
    if recovery == Recovery::Leave || !is_ours {
        return Ok(Recovery::Leave);
    }
    sagas.start(&payment.execution_name(), input).await?;
    Ok(recovery)
}
