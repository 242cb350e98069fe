//! Ends the holds that are over and that no message ended: the second net under hold expiry (R07, R19).

use crate::domain::EndHold;
use crate::ports::{FindOverdue, WriteEnd};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Rounds of one sweep; what is left then waits for the next minute.
const ROUNDS: usize = 10;

/// Ends what is over. One hold that cannot be ended does not keep the others from it.
pub async fn sweep_holds(store: &(impl FindOverdue + WriteEnd), now: Timestamp) -> Result<(), Fault> {
    let mut last_fault = None;
    for _ in 0..ROUNDS {
        let overdue = store.overdue(now).await?;
        let mut ended = 0_usize;
        for reservation in &overdue {
            match store.end_hold(reservation, EndHold::Expire, now).await {
                Ok(done) => ended += usize::from(done),
                Err(fault) => {
                    tracing::warn!(reservation = %reservation.id, error = fault.chain(), "a hold could not be ended");
                    last_fault = Some(fault);
                }
            }
        }
        if ended > 0 {
            metrics::count("Expired", ended as u64);
            tracing::info!(ended, "ended holds that were over");
        }
        if ended == 0 {
            break;
        }
    }
    last_fault.map_or(Ok(()), Err)
}
