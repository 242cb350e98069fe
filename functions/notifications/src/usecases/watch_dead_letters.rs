//! Watches queues that should be empty: messages in them are a fault until they are gone.
//!
//! This does not use the queue of alerts, so that administrators are notified when that queue is what is broken.

use super::alert_administrator::{bring_up_to_date, take_in};
use crate::domain::{Count, FaultUpdate, Sign};
use crate::ports::{KeepAlerts, KeepPages, LookAtQueue};
use contracts::Timestamp;
use futures_util::future::join_all;
use kit::Fault;

/// The state of a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub queue: String,
    /// How many messages it holds.
    pub messages: u64,
}

/// Checks queues, by their URLs, and reports those that hold messages, and those that no longer do. Without pages,
/// nothing is reported. One that fails does not hold up the others; the first failure is the outcome.
pub async fn watch_dead_letters(
    look: &impl LookAtQueue,
    alerts: &impl KeepAlerts,
    pages: Option<&impl KeepPages>,
    queues: &[String],
    now: Timestamp,
) -> (Vec<Found>, Result<(), Fault>) {
    let looks = queues.iter().map(|url| async move {
        // A queue's alarm has the queue's name, without the suffix that FIFO queues must have.
        let queue = url.rsplit('/').next().unwrap_or(url).trim_end_matches(".fifo").to_owned();
        let messages = match look.waiting(url).await {
            Ok(messages) => messages,
            Err(fault) => return (None, Err(fault)),
        };
        let reported = match pages {
            Some(pages) => tell(alerts, pages, &queue, messages, now).await,
            None => Ok(()),
        };
        (Some(Found { queue, messages }), reported)
    });
    let mut all = Vec::with_capacity(queues.len());
    let mut outcome = Ok(());
    for (found, reported) in join_all(looks).await {
        all.extend(found);
        match reported {
            Ok(()) => {}
            // Another run is reporting; the next check is in a minute.
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
        // Most queues never held a message.
        let Some(alert) = alerts.find_alert(queue).await? else { return Ok(()) };
        if alert.open {
            take_in(alerts, &FaultUpdate::Over { fault: queue.to_owned(), at: now }).await?;
        } else if alert.due().is_none() {
            return Ok(());
        }
    }
    bring_up_to_date(alerts, pages, queue, now).await
}
