//! Step: whether a paid reservation can be refunded now, for `start-refund`.

use crate::domain;
use crate::ports::{FindReservation, FindTerms};
use contracts::Timestamp;
use contracts::steps::{QuoteRefund, RefundQuote};
use kit::Fault;

/// Decides from the current reservation and the refund deadline of its date.
pub async fn quote_refund(
    store: &(impl FindReservation + FindTerms),
    asked: &QuoteRefund,
    now: Timestamp,
) -> Result<RefundQuote, Fault> {
    let Some(reservation) = store.find(&asked.user_id, &asked.reservation_id).await? else {
        return Ok(RefundQuote::NotRefundable);
    };
    let Some(terms) = store.terms(&reservation.schedule).await? else { return Ok(RefundQuote::NotRefundable) };
    Ok(domain::quote_refund(Some(&reservation), &asked.payment_id, terms.refund_deadline(), now))
}
