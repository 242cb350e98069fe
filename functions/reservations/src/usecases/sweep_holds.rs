//! Ends expired holds that no message ended: the fallback of hold expiry (R07, R19).

use crate::domain::{DUE_SHARDS, EndHold};
use crate::ports::{FindOverdue, WriteEnd};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Ends the expired holds. Neither a hold that cannot be ended nor a shard that cannot be read blocks the others.
pub async fn sweep_holds(store: &(impl FindOverdue + WriteEnd), now: Timestamp) -> Result<(), Fault> {
    let mut last_fault = None;
    for shard in 0..DUE_SHARDS {
        let mut ended = 0;
        let overdue = store.overdue(shard, now).await.unwrap_or_else(|fault| {
            tracing::warn!(shard, error = fault.chain(), "the holds of a shard cannot be found");
            last_fault = Some(fault);
            Vec::new()
        });
        for reservation in &overdue {
            match store.end_hold(&reservation.booking(), EndHold::Expire, now).await {
                Ok(done) => ended += u64::from(done),
                Err(fault) => {
                    tracing::warn!(reservation = %reservation.id, error = fault.chain(), "a hold could not be ended");
                    last_fault = Some(fault);
                }
            }
        }
        if ended > 0 {
            metrics::count("Expired", ended);
            tracing::info!(shard, ended, "ended holds that were over");
        }
    }
    last_fault.map_or(Ok(()), Err)
}
