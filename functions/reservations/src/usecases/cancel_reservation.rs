//! A user gives a hold up: it ends at once; its seats may be kept back for a while.

use crate::domain::{EndHold, Status};
use crate::ports::{FindReservation, WriteEnd, WritePending};
use contracts::events::CancelReason;
use contracts::{ReservationId, Timestamp, UserId};
use kit::{Fault, metrics};

/// Tries when another write comes between the read and the write.
const ROUNDS: usize = 3;

/// Why the reservation was not cancelled.
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

/// Cancels a hold or a pending reservation. Cancelling again is success: the first answer may have been lost.
pub async fn cancel_reservation(
    store: &(impl FindReservation + WriteEnd + WritePending),
    user: &UserId,
    id: &ReservationId,
    now: Timestamp,
) -> Result<(), CancelError> {
    for _ in 0..ROUNDS {
        let reservation = store.find(user, id).await?.ok_or(CancelError::NotFound)?;
        let cancelled = match reservation.visible_status(now) {
            Status::Cancelled => return Ok(()),
            Status::Held => store.end_hold(&reservation.booking(), EndHold::Cancel, now).await?,
            Status::Pending => store.cancel_request(&reservation.booking(), CancelReason::User, now).await?,
            _ => return Err(CancelError::NotCancellable),
        };
        if cancelled {
            metrics::count("Cancelled", 1);
            return Ok(());
        }
        // Another write came first: the decision, a payment, the end of the hold, or the same cancellation.
    }
    Err(Fault::contended("cancelling a reservation").into())
}
