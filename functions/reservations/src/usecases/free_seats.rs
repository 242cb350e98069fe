//! Frees the seats that a reservation keeps back after its end, once their moment has come. Triggered by the event of
//! that end, delayed until then; what gets lost on the way the sweep of holds finds.

use crate::ports::{EndReturn, FindReservation, ScheduleExpiry};
use crate::usecases::expire_hold::delay_of;
use contracts::{ReservationId, Timestamp, UserId};
use kit::Fault;

/// Dependencies of the consumer.
#[derive(Debug)]
pub struct FreeSeats<S, Q> {
    /// The store of reservations.
    pub store: S,
    /// Delays messages until seats are free.
    pub queue: Q,
}

/// A reservation that has ended, as its message states it.
#[derive(Debug)]
pub struct EndedReservation {
    /// Its owner.
    pub user: UserId,
    pub id: ReservationId,
    /// The body of the message, to be sent again.
    pub message: String,
}

/// Frees what is due, schedules another check of what is not, and ignores what keeps no seats back. The moment is in
/// the reservation's own row and nowhere else: no event tells it.
pub async fn free_seats<S: FindReservation + EndReturn, Q: ScheduleExpiry>(
    deps: &FreeSeats<S, Q>,
    ended: EndedReservation,
    now: Timestamp,
) -> Result<(), Fault> {
    let Some(reservation) = deps.store.find(&ended.user, &ended.id).await? else { return Ok(()) };
    let Some(free_at) = reservation.keeps_seats_until() else { return Ok(()) };
    let remaining = free_at.millis_since(now);
    if remaining > 0 {
        return deps.queue.look_again(&ended.message, delay_of(remaining)).await;
    }
    deps.store.end_return(&reservation, now).await?;
    tracing::info!(reservation = %reservation.id, seats = reservation.seats.len(), "seats that were given back are free");
    Ok(())
}
