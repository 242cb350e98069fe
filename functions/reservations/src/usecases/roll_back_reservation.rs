//! Undoes a hold that could permanently not be added to the date's counts (R25). Its scheduled end then finds nothing.

use crate::domain::{EndHold, Reservation, Status};
use crate::ports::{FindReservation, RaiseAlert, WriteEnd, WritePending};
use contracts::Timestamp;
use contracts::events::{AvailabilityUpdateFailed, CancelReason, FaultDetected};
use kit::{Fault, metrics};

/// Undoes a hold; retries later while a payment has it; pages the on-call about seats that are sold already.
pub async fn roll_back_reservation(
    store: &(impl FindReservation + WriteEnd + WritePending + RaiseAlert),
    failed: AvailabilityUpdateFailed,
    now: Timestamp,
) -> Result<(), Fault> {
    let Some(reservation) = store.find(&failed.user_id, &failed.reservation_id).await? else { return Ok(()) };
    let reason = CancelReason::AvailabilityNotUpdated;
    let undone = match reservation.status {
        Status::Held => store.end_hold(&reservation.booking(), EndHold::Undo(reason), now).await?,
        Status::Pending => store.cancel_request(&reservation.booking(), reason, now).await?,
        Status::Paying => {
            return Err(Fault::unavailable("rolling a reservation back", "a payment has it; it settles first"));
        }
        Status::Paid => return alert_sold(store, &reservation, &failed.reason, now).await,
        Status::Cancelled | Status::Expired | Status::Rejected | Status::Refunded => return Ok(()),
    };
    if !undone {
        // Another write came between the read and the write: retry.
        return Err(Fault::contended("rolling a reservation back"));
    }
    metrics::count("Cancelled", 1);
    Ok(())
}

async fn alert_sold(
    store: &impl RaiseAlert,
    reservation: &Reservation,
    reason: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    let fault = FaultDetected {
        fault: format!("availability:{}", reservation.schedule),
        summary: "Sold seats cannot be shown in the seat map".to_owned(),
        detail: format!("reservation {} of date {}: {reason}", reservation.id, reservation.schedule),
    };
    store.raise_alert(reservation, fault, now).await
}
