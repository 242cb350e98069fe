//! Issues a cash receipt for what was sold, and cancels it when that is paid back. In whatever order the two events
//! arrive, in the end there is no receipt for a refunded payment or a cancelled order.

use super::once;
use crate::domain::{Delivery, Outcome, Receipt, ReceiptTask, Sale, SaleId};
use crate::ports::{CancelReceipt, FindPhone, GuardDelivery, IssueReceipt, KeepReceipts};
use contracts::Timestamp;
use contracts::events::Event;
use kit::Fault;

/// Issues the receipt of a completed payment or order, or cancels that of a refunded or cancelled one, for the consumer of
/// this name.
pub async fn issue_cash_receipt(
    store: &(impl GuardDelivery + KeepReceipts),
    directory: &impl FindPhone,
    provider: &(impl IssueReceipt + CancelReceipt),
    (consumer, event): (&'static str, Event),
    now: Timestamp,
) -> Result<(), Fault> {
    let delivery = Delivery::new(consumer, &event.id);
    once(store, &delivery, now, async {
        match ReceiptTask::of(&event.body) {
            Some(ReceiptTask::Issue(sale)) => issue(store, directory, provider, &event, &sale).await,
            Some(ReceiptTask::Cancel(sale)) => {
                let receipt = store.keep_refund(&sale, &event.id).await?;
                let cancelled = cancel(store, provider, &sale, receipt, &event).await?;
                // One that is being issued right now is cancelled by the handler that issues it.
                Ok(cancelled.unwrap_or(Outcome::skipped("nothing_to_cancel")))
            }
            None => Ok(Outcome::skipped("nothing_sold")),
        }
    })
    .await
}

async fn issue(
    store: &impl KeepReceipts,
    directory: &impl FindPhone,
    provider: &(impl IssueReceipt + CancelReceipt),
    event: &Event,
    sale: &Sale,
) -> Result<Outcome, Fault> {
    if sale.amount.get() == 0 {
        return Ok(Outcome::skipped("nothing_paid"));
    }
    let phone = directory.find_phone(&sale.user, &event.correlationid).await?;
    let Some(phone) = phone else { return Ok(Outcome::skipped("no_phone")) };
    let Some(begun) = store.begin_receipt(&sale.id).await? else { return Ok(Outcome::skipped("refunded_before")) };
    let receipt = match begun.key {
        Some(_) => begun,
        None => {
            let key = provider.issue(sale, &phone, &event.id, &event.correlationid).await?;
            store.keep_key(&sale.id, &key).await?
        }
    };
    let issued = Outcome::sent(receipt.key.clone());
    Ok(cancel(store, provider, &sale.id, receipt, event).await?.unwrap_or(issued))
}

/// Cancels the receipt of a sale that was taken back, once both are known.
async fn cancel(
    store: &impl KeepReceipts,
    provider: &impl CancelReceipt,
    sale: &SaleId,
    receipt: Receipt,
    event: &Event,
) -> Result<Option<Outcome>, Fault> {
    let Some((key, by)) = receipt.to_cancel() else { return Ok(None) };
    provider.cancel(key, by, &event.correlationid).await?;
    store.keep_cancelled(sale).await?;
    Ok(Some(Outcome::done("cancelled", Some(key.to_owned()))))
}
