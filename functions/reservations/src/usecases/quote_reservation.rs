//! Step: what a reservation costs, before it is paid.

use crate::domain::quote;
use crate::ports::FindReservation;
use contracts::steps::Quote;
use contracts::{ReservationId, Timestamp, UserId};
use kit::Fault;

/// Quotes a user's reservation.
pub async fn quote_reservation(
    store: &impl FindReservation,
    user: &UserId,
    reservation: &ReservationId,
    now: Timestamp,
) -> Result<Quote, Fault> {
    let found = store.find(user, reservation).await?;
    Ok(quote(found.as_ref(), now))
}
