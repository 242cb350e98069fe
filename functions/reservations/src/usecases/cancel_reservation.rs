//! A user gives a hold up; its seats are free at once.

use crate::domain::{EndHold, Status};
use crate::ports::{FindReservation, WriteEnd};
use contracts::{ReservationId, Timestamp, UserId};
use kit::Fault;

/// Why not.
#[derive(Debug)]
pub enum CancelError {
    /// This user has no such reservation.
    NotFound,
    /// It is no longer (or not only) a hold.
    NotCancellable,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for CancelError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Cancels a hold. Cancelling it again is success: the first answer may have been lost.
pub async fn cancel_reservation(
    store: &(impl FindReservation + WriteEnd),
    user: &UserId,
    id: &ReservationId,
    now: Timestamp,
) -> Result<(), CancelError> {
    let reservation = store.find(user, id).await?.ok_or(CancelError::NotFound)?;
    match reservation.visible_status(now) {
        Status::Cancelled => return Ok(()),
        Status::Held => {}
        _ => return Err(CancelError::NotCancellable),
    }
    if store.end_hold(&reservation, EndHold::Cancel, now).await? {
        return Ok(());
    }
    // Something came between reading and writing: a payment, the end of the hold, or the same cancellation.
    match store.find(user, id).await? {
        Some(now_found) if now_found.status == Status::Cancelled => Ok(()),
        _ => Err(CancelError::NotCancellable),
    }
}
