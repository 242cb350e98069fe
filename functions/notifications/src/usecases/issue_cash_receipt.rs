//! Issues a cash receipt for a payment, and cancels it when the payment is refunded. In whatever order the two events
//! arrive, in the end there is no receipt for a refunded payment.

use super::once;
use crate::domain::{Delivery, Outcome, Receipt, Sale};
use crate::ports::{CancelReceipt, FindPhone, GuardDelivery, IssueReceipt, KeepReceipts};
use contracts::events::{Event, EventBody, PaymentCompleted};
use contracts::{PaymentId, Timestamp};
use kit::Fault;

/// Issues the receipt of a completed payment, or cancels that of a refunded one.
pub async fn issue_cash_receipt(
    store: &(impl GuardDelivery + KeepReceipts),
    directory: &impl FindPhone,
    provider: &(impl IssueReceipt + CancelReceipt),
    event: Event,
    now: Timestamp,
) -> Result<(), Fault> {
    let delivery = Delivery::new("issue-cash-receipt", &event.id);
    once(store, &delivery, now, async {
        match &event.body {
            EventBody::PaymentCompleted(paid) => issue(store, directory, provider, &event, paid).await,
            EventBody::PaymentRefunded(refunded) => {
                let receipt = store.keep_refund(&refunded.payment_id, &event.id).await?;
                let cancelled = cancel(store, provider, &refunded.payment_id, receipt, &event).await?;
                // One that is being issued right now is cancelled by the handler that issues it.
                Ok(cancelled.unwrap_or(Outcome::skipped("nothing_to_cancel")))
            }
            _ => Ok(Outcome::skipped("no_payment")),
        }
    })
    .await
}

async fn issue(
    store: &impl KeepReceipts,
    directory: &impl FindPhone,
    provider: &(impl IssueReceipt + CancelReceipt),
    event: &Event,
    paid: &PaymentCompleted,
) -> Result<Outcome, Fault> {
    let PaymentCompleted { payment_id, user_id, seats, amount, .. } = paid;
    if amount.get() == 0 {
        return Ok(Outcome::skipped("nothing_paid"));
    }
    let phone = directory.find_phone(user_id, &event.correlationid).await?;
    let Some(phone) = phone else { return Ok(Outcome::skipped("no_phone")) };
    let Some(begun) = store.begin_receipt(payment_id).await? else { return Ok(Outcome::skipped("refunded_before")) };
    let receipt = match begun.key {
        Some(_) => begun,
        None => {
            let sale = Sale::of_seats(payment_id.clone(), seats.len(), *amount);
            let key = provider.issue(&sale, &phone, &event.id, &event.correlationid).await?;
            store.keep_key(payment_id, &key).await?
        }
    };
    let issued = Outcome::sent(receipt.key.clone());
    Ok(cancel(store, provider, payment_id, receipt, event).await?.unwrap_or(issued))
}

/// Cancels the receipt of a refunded payment, once both are known.
async fn cancel(
    store: &impl KeepReceipts,
    provider: &impl CancelReceipt,
    payment: &PaymentId,
    receipt: Receipt,
    event: &Event,
) -> Result<Option<Outcome>, Fault> {
    let Some((key, by)) = receipt.to_cancel() else { return Ok(None) };
    provider.cancel(key, by, &event.correlationid).await?;
    store.keep_cancelled(payment).await?;
    Ok(Some(Outcome::done("cancelled", Some(key.to_owned()))))
}
