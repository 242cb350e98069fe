//! Step: what a reservation costs, for whoever wants to pay it.

use crate::domain::quote;
use crate::ports::FindReservation;
use contracts::steps::{Quote, QuoteReservation};
use kit::{StepCall, StepError};

/// Quotes a user's reservation.
pub async fn quote_reservation(
    store: &impl FindReservation,
    call: StepCall<QuoteReservation>,
) -> Result<Quote, StepError> {
    let found = store.find(&call.input.user_id, &call.input.reservation_id).await?;
    Ok(quote(found.as_ref(), call.now))
}
