//! Decides asynchronous requests (R18): pending -> held or rejected. The hold's scheduled end and the push to its user
//! follow from its event, as for a synchronous one.

use crate::domain::{PendingDecision, SeatRequest, TIMED_OUT, decide_pending};
use crate::ports::{ListReservations, LoadSale, Origin, WriteEnd, WriteHold, WritePending};
use crate::usecases::reserve_seats::{ReserveError, reserve_seats};
use contracts::Timestamp;
use kit::{Fault, metrics};

/// Decides one request. Idempotent: a redelivery, at once or a day late, finds it decided and changes nothing.
pub async fn write_reservations<P>(store: &P, request: &SeatRequest, now: Timestamp) -> Result<(), Fault>
where
    P: LoadSale + WriteHold + ListReservations + WriteEnd + WritePending,
{
    if decide_pending(request.asked_at, now) == PendingDecision::GiveUp {
        return reject(store, request, TIMED_OUT, now).await;
    }
    // No client waits for this answer, so there is no key; the answer to the client was remembered with the request.
    match reserve_seats(store, request, Origin::Pending, None, now).await {
        Ok(_) => Ok(()),
        Err(ReserveError::Refused(refusal)) => reject(store, request, refusal.code(), now).await,
        Err(ReserveError::KeyReused | ReserveError::TooManyPending) => {
            Err(Fault::broken("deciding a request", "it has no key and was counted before"))
        }
        Err(ReserveError::Fault(fault)) => Err(fault),
    }
}

async fn reject(
    store: &impl WritePending,
    request: &SeatRequest,
    reason: &'static str,
    now: Timestamp,
) -> Result<(), Fault> {
    if store.reject_request(request, reason, now).await? {
        metrics::count("Rejected", 1);
        tracing::info!(reservation = %request.reservation, reason, "a request is rejected");
    }
    Ok(())
}
