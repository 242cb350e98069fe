//! Reports a fault to administrators: one page for each, from its first occurrence until it is over.

use super::once;
use crate::domain::{Alert, Delivery, Done, FaultUpdate, Outcome, PageTask};
use crate::ports::{GuardDelivery, KeepAlerts, KeepPages};
use contracts::Timestamp;
use kit::Fault;

/// Attempts of a write that conflicts with another one.
const ATTEMPTS: u32 = 8;

/// Applies an update once, by the id of the event that brought it, and brings the fault's page up to date.
pub async fn alert_administrator(
    store: &(impl GuardDelivery + KeepAlerts),
    pages: &impl KeepPages,
    update: FaultUpdate,
    event: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    let delivery = Delivery::new("alert-administrator", event);
    // What is counted stays counted, however often the page has to be tried.
    once(store, &delivery, now, async {
        take_in(store, &update).await?;
        Ok(Outcome::done("counted", Some(update.fault().to_owned())))
    })
    .await?;
    bring_up_to_date(store, pages, update.fault(), now).await
}

/// Applies an update to the alert of its fault.
pub async fn take_in(alerts: &impl KeepAlerts, update: &FaultUpdate) -> Result<(), Fault> {
    change(alerts, update.fault(), |alert| Alert::after(alert, update)).await
}

/// Does what is due for a fault's page, if anything. Notion has no idempotency keys, so only the holder of the claim
/// does it, and a page that may have been created is searched for first.
pub async fn bring_up_to_date(
    alerts: &impl KeepAlerts,
    pages: &impl KeepPages,
    fault: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let Some(alert) = alerts.find_alert(fault).await? else { return Ok(()) };
        let Some(work) = alert.due() else { return Ok(()) };
        let Some(claimed) = alert.claimed(&work, now) else { break };
        if !alerts.replace_alert(&claimed).await? {
            continue;
        }
        let done = carry_out(pages, &claimed, &work).await;
        let what = done.as_ref().unwrap_or(&Done::Nothing);
        change(alerts, fault, |alert| alert.map(|alert| alert.worked(what))).await?;
        tracing::info!(fault, page = ?done.as_ref().ok(), "an administrator's page");
        done?;
    }
    let settled = alerts.find_alert(fault).await?.is_none_or(|alert| alert.due().is_none());
    if settled { Ok(()) } else { Err(Fault::contended("telling what somebody else is telling")) }
}

async fn carry_out(pages: &impl KeepPages, alert: &Alert, work: &PageTask) -> Result<Done, Fault> {
    let found = match work {
        PageTask::Create { look_before: true } | PageTask::Find => pages.find_page(&alert.fault).await?,
        _ => None,
    };
    match (work, found) {
        (_, Some(page)) => Ok(Done::There(page)),
        (PageTask::Create { .. }, None) => pages.create_page(alert).await.map(Done::There),
        (PageTask::Find, None) => Ok(Done::Nowhere),
        (PageTask::Close(page), None) => pages.close_page(page, Some(alert.count)).await.map(|()| Done::Closed),
        (PageTask::Retire(page), None) => pages.close_page(page, None).await.map(|()| Done::Retired),
    }
}

/// Replaces a fault's alert by what `next` makes of it, if anything, whatever other writers do meanwhile.
async fn change(
    alerts: &impl KeepAlerts,
    fault: &str,
    next: impl Fn(Option<&Alert>) -> Option<Alert> + Send,
) -> Result<(), Fault> {
    for _ in 0..ATTEMPTS {
        let alert = alerts.find_alert(fault).await?;
        let Some(next) = next(alert.as_ref()) else { return Ok(()) };
        if alerts.replace_alert(&next).await? {
            return Ok(());
        }
    }
    Err(Fault::contended("keeping an alert"))
}
