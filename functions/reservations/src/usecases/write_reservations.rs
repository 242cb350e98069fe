//! Decides what was asked for asynchronously (R18): pending -> held or rejected. What follows from a hold, its scheduled
//! end and the push to its user, follows from its event, as it does from a synchronous one.

use crate::domain::{PendingDecision, TIMED_OUT, Wish, decide_pending};
use crate::ports::{ListReservations, LoadSale, Origin, WriteEnd, WriteHold, WritePending};
use crate::usecases::reserve_seats::{ReserveError, reserve_seats};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Decides one wish. The same one again, at once or a day late, finds it decided and changes nothing.
pub async fn write_reservations<P>(store: &P, wish: &Wish, now: Timestamp) -> Result<(), Fault>
where
    P: LoadSale + WriteHold + ListReservations + WriteEnd + WritePending,
{
    if decide_pending(wish.asked_at, now) == PendingDecision::GiveUp {
        return reject(store, wish, TIMED_OUT, now).await;
    }
    // Nobody waits for the answer of this one; the asker's was remembered when they asked.
    match reserve_seats(store, wish, Origin::Pending, None, now).await {
        Ok(_) => Ok(()),
        Err(ReserveError::Refused(refusal)) => reject(store, wish, refusal.code(), now).await,
        Err(ReserveError::KeyReused | ReserveError::TooManyPending) => {
            Err(Fault::broken("deciding a wish", "it has no key and was counted before"))
        }
        Err(ReserveError::Fault(fault)) => Err(fault),
    }
}

async fn reject(store: &impl WritePending, wish: &Wish, reason: &'static str, now: Timestamp) -> Result<(), Fault> {
    if store.reject_request(wish, reason, now).await? {
        metrics::count("Rejected", 1);
        tracing::info!(reservation = %wish.reservation, reason, "a wish is rejected");
    }
    Ok(())
}
