//! Queues that should be empty, looked at: what lies in them is a fault until it is gone.
//!
//! This goes around the queue of alerts, so that administrators hear of it when that queue is what is broken.

use super::alert_administrator::{bring_up_to_date, take_in};
use crate::domain::{Count, FaultUpdate, Sign};
use crate::ports::{KeepAlerts, KeepPages, LookAtQueue};
use contracts::Timestamp;
use futures_util::future::join_all;
use kit::Fault;

/// What was found in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The queue's name.
    pub queue: String,
    /// How many messages it holds.
    pub messages: u64,
}

/// Looks at queues, by their URLs, and tells of those that hold something, and of those that do no longer. Without
/// pages, nobody is told. One that fails holds no other up; the first failure is the outcome.
pub async fn watch_dead_letters(
    look: &impl LookAtQueue,
    alerts: &impl KeepAlerts,
    pages: Option<&impl KeepPages>,
    queues: &[String],
    now: Timestamp,
) -> (Vec<Found>, Result<(), Fault>) {
    let looks = queues.iter().map(|url| async move {
        // A queue's alarm has its name, without the ending that FIFO queues must have.
        let queue = url.rsplit('/').next().unwrap_or(url).trim_end_matches(".fifo").to_owned();
        let messages = match look.waiting(url).await {
            Ok(messages) => messages,
            Err(fault) => return (None, Err(fault)),
        };
        let told = match pages {
            Some(pages) => tell(alerts, pages, &queue, messages, now).await,
            None => Ok(()),
        };
        (Some(Found { queue, messages }), told)
    });
    let mut all = Vec::with_capacity(queues.len());
    let mut outcome = Ok(());
    for (found, told) in join_all(looks).await {
        all.extend(found);
        match told {
            Ok(()) => {}
            // Somebody else is telling; the next look is in a minute.
            Err(Fault::Contended(_)) => {}
            Err(fault) if outcome.is_ok() => outcome = Err(fault),
            // The alarm on this function needs one; the log has each.
            Err(fault) => tracing::error!(error = fault.chain(), "a queue could not be watched"),
        }
    }
    (all, outcome)
}

async fn tell(
    alerts: &impl KeepAlerts,
    pages: &impl KeepPages,
    queue: &str,
    messages: u64,
    now: Timestamp,
) -> Result<(), Fault> {
    if messages > 0 {
        let sign = Sign {
            fault: queue.to_owned(),
            summary: format!("{queue} is not empty"),
            detail: format!("{messages} messages at {}. Each says why in its attributes.", now.rfc3339()),
            count: Count::Exactly(messages),
            at: now,
        };
        take_in(alerts, &FaultUpdate::Sign(sign)).await?;
    } else {
        // Most queues were never anything but empty.
        let Some(alert) = alerts.find_alert(queue).await? else { return Ok(()) };
        if alert.open {
            take_in(alerts, &FaultUpdate::Over { fault: queue.to_owned(), at: now }).await?;
        } else if alert.due().is_none() {
            return Ok(());
        }
    }
    bring_up_to_date(alerts, pages, queue, now).await
}
