//! Whether a paid reservation can be refunded now, for `start-refund`.

use crate::domain;
use crate::ports::{FindReservation, FindTerms};
use contracts::steps::{QuoteRefund, RefundQuote};
use kit::{StepCall, StepError};

/// Answers by the reservation as it is and the deadline of its date.
pub async fn quote_refund(
    store: &(impl FindReservation + FindTerms),
    call: StepCall<QuoteRefund>,
) -> Result<RefundQuote, StepError> {
    let ask = call.input;
    let Some(reservation) = store.find(&ask.user_id, &ask.reservation_id).await? else {
        return Ok(RefundQuote::NotRefundable);
    };
    let Some(terms) = store.terms(&reservation.schedule).await? else { return Ok(RefundQuote::NotRefundable) };
    Ok(domain::quote_refund(Some(&reservation), &ask.payment_id, terms.refund_deadline(), call.now))
}
