//! One module per use case, and what they have in common: an effect that happens once.

pub mod alert_administrator;
pub mod deliver_to_data_platform;
pub mod issue_cash_receipt;
pub mod notify_partner;
pub mod push_alimtalk;
pub mod watch_dead_letters;

use crate::domain::{Claim, Delivery, Lease, Outcome};
use crate::ports::GuardDelivery;
use contracts::Timestamp;
use kit::Fault;

/// Carries a delivery out unless it is done, or in progress. A crash between effect and record causes a repetition
/// under the same idempotency key.
async fn once(
    deliveries: &impl GuardDelivery,
    delivery: &Delivery,
    now: Timestamp,
    effect: impl Future<Output = Result<Outcome, Fault>> + Send,
) -> Result<(), Fault> {
    match deliveries.claim(delivery, now).await? {
        Claim::Done => {
            tracing::info!(consumer = delivery.consumer, event = delivery.event, outcome = "done_before");
            Ok(())
        }
        Claim::Elsewhere => Err(Fault::contended("delivering what somebody else is delivering")),
        Claim::Mine(lease) => conclude(deliveries, delivery, &lease, effect.await, now).await,
    }
}

/// Records how a claimed delivery ended, or releases the claim.
async fn conclude(
    deliveries: &impl GuardDelivery,
    delivery: &Delivery,
    lease: &Lease,
    end: Result<Outcome, Fault>,
    now: Timestamp,
) -> Result<(), Fault> {
    match end {
        Ok(outcome) => {
            deliveries.finish(delivery, &outcome, now).await?;
            let reference = outcome.reference.as_deref().unwrap_or_default();
            tracing::info!(consumer = delivery.consumer, event = delivery.event, outcome = outcome.what, reference);
            Ok(())
        }
        Err(fault) => {
            if let Err(failed) = deliveries.release(delivery, lease).await {
                // The claim expires by itself.
                tracing::warn!(consumer = delivery.consumer, error = failed.chain(), "a claim was not given back");
            }
            Err(fault)
        }
    }
}
