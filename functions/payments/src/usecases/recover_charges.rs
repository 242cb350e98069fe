//! Finds charges that have not ended and completes them (R07).

use crate::ports::charges::{CreditPoints, FindStuckCharges, MoveCharge, PaymentProvider};
use crate::usecases::pay_charge::{PayCharges, TIME_LIMIT, resume};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Recovers what is due. One charge that cannot be completed does not keep the others from being recovered: its
/// recovery is counted before it is resumed, and its checks come less and less often.
pub async fn recover_charges<C, P, A>(deps: &PayCharges<C, P, A>, now: Timestamp) -> Result<(), Fault>
where
    C: FindStuckCharges + MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    let mut last_fault = None;
    let stuck = deps.charges.stuck_charges(now).await?;
    let since = stuck.iter().map(|charge| charge.requested_at);
    metrics::gauge("ChargeAge", "Seconds", "payments", metrics::oldest(since, now));
    for mut charge in stuck {
        let id = charge.id.clone();
        match deps.charges.count_charge_recovery(&charge, now).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(fault) => {
                tracing::error!(charge = %id, error = fault.chain(), "a stuck charge could not be counted");
                last_fault = Some(fault);
                continue;
            }
        }
        charge.recoveries += 1;
        let resumed = tokio::time::timeout(TIME_LIMIT, resume(deps, charge, now)).await;
        match resumed.unwrap_or_else(|late| Err(Fault::unavailable("recovering a charge", late))) {
            Ok(state) => tracing::warn!(charge = %id, state = state.as_str(), "a stuck charge was brought to its end"),
            Err(fault) => {
                tracing::error!(charge = %id, error = fault.chain(), "a stuck charge could not be recovered");
                last_fault = Some(fault);
            }
        }
    }
    last_fault.map_or(Ok(()), Err)
}
