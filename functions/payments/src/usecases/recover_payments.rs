//! Finds payments that are pending for too long and drives the same saga to an end (R07).

use crate::domain::{Recovery, decide_recovery};
use crate::ports::{FindStuck, StartSaga, WatchSaga};
use contracts::Timestamp;
use kit::Fault;

/// What the recovery is wired with.
#[derive(Debug)]
pub struct RecoverPayments<P, S> {
    /// Where the payments are.
    pub payments: P,
    /// Where their sagas run.
    pub sagas: S,
}

/// Recovers what is due. One payment that cannot be recovered does not keep the others from it.
pub async fn recover_payments<P: FindStuck, S: StartSaga + WatchSaga>(
    deps: &RecoverPayments<P, S>,
    now: Timestamp,
) -> Result<(), Fault> {
    let mut last_fault = None;
    for payment in deps.payments.stuck(now).await? {
        let id = payment.saga.payment_id.clone();
        match recover(deps, payment, now).await {
            Ok(Recovery::Leave) => tracing::warn!(payment = %id, "a payment takes long; its saga still runs"),
            Ok(recovery) => tracing::warn!(payment = %id, ?recovery, "a stuck payment's saga was started"),
            Err(fault) => {
                tracing::error!(payment = %id, error = fault.chain(), "a stuck payment could not be recovered");
                last_fault = Some(fault);
            }
        }
    }
    last_fault.map_or(Ok(()), Err)
}

async fn recover<P: FindStuck, S: StartSaga + WatchSaga>(
    deps: &RecoverPayments<P, S>,
    mut payment: crate::domain::Payment,
    now: Timestamp,
) -> Result<Recovery, Fault> {
    let recovery = decide_recovery(deps.sagas.execution(&payment.execution_name()).await?);
    match recovery {
        Recovery::Leave => {}
        Recovery::Start => deps.sagas.start(&payment.execution_name(), &payment.saga).await?,
        Recovery::StartAnother => {
            // Counted before it is started: when this run dies in between, the next one starts that very execution.
            if deps.payments.count_recovery(&payment, now).await? {
                payment.recoveries += 1;
                deps.sagas.start(&payment.execution_name(), &payment.saga).await?;
            }
        }
    }
    Ok(recovery)
}
