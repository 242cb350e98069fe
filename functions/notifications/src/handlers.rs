//! Messages in: which event, in which envelope.

use crate::domain::{Count, FaultUpdate, Sign};
use crate::ports::{
    CancelReceipt, DeliverEvents, FindPhone, GuardDelivery, IssueReceipt, KeepAlerts, KeepPages, KeepReceipts,
    LookAtQueue, NotifyPartner, SendPush,
};
use crate::usecases::{
    alert_administrator, deliver_to_data_platform, issue_cash_receipt, notify_partner, push_alimtalk,
    watch_dead_letters,
};
use contracts::events::{Event, EventBody};
use contracts::{EventId, Timestamp};
use kit::queue::Message;
use kit::{Fault, Tick, metrics};
use serde_json::Value;
use std::collections::BTreeMap;

/// The dependencies of a consumer with one provider.
#[derive(Debug)]
pub struct Deps<S, P> {
    /// The store of finished deliveries.
    pub store: S,
    pub provider: P,
}

/// The dependencies of a consumer that needs users' phone numbers.
#[derive(Debug)]
pub struct PersonalDeps<S, P, D> {
    /// The store of finished deliveries.
    pub store: S,
    pub provider: P,
    /// The directory with their numbers.
    pub directory: D,
}

/// The dependencies of the watch over queues.
#[derive(Debug)]
pub struct WatchDeps<S, P, Q> {
    /// The store of faults.
    pub store: S,
    /// The administrators' pages, if there are any.
    pub pages: Option<P>,
    /// The client of the queues.
    pub look: Q,
    pub queues: Vec<String>,
}

/// Consumes a batch of events for the data platform.
pub async fn deliver_to_data_platform(
    deps: &Deps<impl GuardDelivery, impl DeliverEvents>,
    messages: Vec<Message>,
) -> Vec<Result<(), Fault>> {
    let Some(now) = messages.first().map(|message| message.now) else { return Vec::new() };
    let read: Vec<Result<Event, Fault>> = messages.iter().map(Message::event).collect();
    let events: BTreeMap<&EventId, &Event> = read.iter().flatten().map(|event| (&event.id, event)).collect();
    let events = events.into_values().cloned().collect();
    let ends = deliver_to_data_platform::deliver_to_data_platform(&deps.store, &deps.provider, events, now).await;
    let end_of = |event: Event| match ends.get(&event.id) {
        Some(end) => deliver_to_data_platform::same(end),
        None => Err(Fault::unavailable("delivering a batch", "an event was left out")),
    };
    read.into_iter().map(|event| event.and_then(end_of)).collect()
}

/// Consumes an event of which its user is notified.
pub async fn push_alimtalk(
    deps: &PersonalDeps<impl GuardDelivery, impl SendPush, impl FindPhone>,
    message: Message,
) -> Result<(), Fault> {
    let event = message.event()?;
    push_alimtalk::push_alimtalk(&deps.store, &deps.directory, &deps.provider, event, message.now).await
}

/// Consumes an event of which the partner is notified.
pub async fn notify_partner(
    deps: &Deps<impl GuardDelivery, impl NotifyPartner>,
    message: Message,
) -> Result<(), Fault> {
    notify_partner::notify_partner(&deps.store, &deps.provider, message.event()?, message.now).await
}

/// Consumes a payment that was completed or refunded.
pub async fn issue_cash_receipt(
    deps: &PersonalDeps<impl GuardDelivery + KeepReceipts, impl IssueReceipt + CancelReceipt, impl FindPhone>,
    message: Message,
) -> Result<(), Fault> {
    let event = ("issue-cash-receipt", message.event()?);
    issue_cash_receipt::issue_cash_receipt(&deps.store, &deps.directory, &deps.provider, event, message.now).await
}

/// Consumes an order that was completed, or failed: also one that was cancelled. It has a queue of its own, because the
/// release before takes note of what is no payment as if it had been dealt with.
pub async fn issue_order_receipt(
    deps: &PersonalDeps<impl GuardDelivery + KeepReceipts, impl IssueReceipt + CancelReceipt, impl FindPhone>,
    message: Message,
) -> Result<(), Fault> {
    let event = ("issue-order-receipt", message.event()?);
    issue_cash_receipt::issue_cash_receipt(&deps.store, &deps.directory, &deps.provider, event, message.now).await
}

/// Consumes a fault that a context detected, or an alarm that changed its state.
pub async fn alert_administrator(
    deps: &Deps<impl GuardDelivery + KeepAlerts, impl KeepPages>,
    message: Message,
) -> Result<(), Fault> {
    let Some((id, update)) = update_of(&message)? else { return Ok(()) };
    alert_administrator::alert_administrator(&deps.store, &deps.provider, update, &id, message.now).await
}

/// The update in a message, and the id of the event that brings it; `None` if the message states neither an occurrence
/// nor the end of a fault.
fn update_of(message: &Message) -> Result<Option<(String, FaultUpdate)>, Fault> {
    const DOING: &str = "reading an alarm";
    let envelope: Value = serde_json::from_str(&message.body).map_err(|error| Fault::broken(DOING, error))?;
    if envelope["source"] != "aws.cloudwatch" {
        let event = message.event()?;
        let EventBody::FaultDetected(fault) = event.body else { return Ok(None) };
        let (summary, detail) = (fault.summary, fault.detail);
        let sign = Sign { fault: fault.fault, summary, detail, count: Count::OneMore, at: event.time };
        return Ok(Some((event.id.to_string(), FaultUpdate::Sign(sign))));
    }
    // https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch-and-eventbridge.html
    let text = |pointer: &str| envelope.pointer(pointer).and_then(Value::as_str);
    let needed = |pointer: &str| text(pointer).ok_or_else(|| Fault::broken(DOING, pointer.to_owned()));
    let (id, fault) = (needed("/id")?.to_owned(), needed("/detail/alarmName")?.to_owned());
    let at = Timestamp::parse_rfc3339(needed("/time")?).map_err(|error| Fault::broken(DOING, error))?;
    let update = match needed("/detail/state/value")? {
        "ALARM" => FaultUpdate::Sign(Sign {
            summary: text("/detail/configuration/description").unwrap_or(&fault).to_owned(),
            detail: text("/detail/state/reason").unwrap_or_default().to_owned(),
            count: Count::OneMore,
            fault,
            at,
        }),
        "OK" => FaultUpdate::Over { fault, at },
        // Insufficient data is no update.
        _ => return Ok(None),
    };
    Ok(Some((id, update)))
}

/// Checks the queues that should be empty.
pub async fn watch_dead_letters(
    deps: &WatchDeps<impl KeepAlerts, impl KeepPages, impl LookAtQueue>,
    tick: impl Into<Tick>,
) -> Result<(), Fault> {
    let WatchDeps { store, pages, look, queues } = deps;
    let now = tick.into().now;
    let (found, outcome) = watch_dead_letters::watch_dead_letters(look, store, pages.as_ref(), queues, now).await;
    for queue in found {
        // Parked work is not a failed message of a consumer: it is work that only an operator can finish.
        if let Some((_, what)) = queue.queue.split_once("-parked-") {
            metrics::gauge("Parked", "Count", what, queue.messages);
        }
        if queue.messages > 0 {
            tracing::error!(queue = queue.queue, messages = queue.messages, "a queue is not empty");
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn alarm(state: &str) -> Message {
        let body = json!({
            "id": "e1",
            "source": "aws.cloudwatch",
            "detail-type": "CloudWatch Alarm State Change",
            "time": "2026-11-20T11:00:00Z",
            "detail": {
                "alarmName": "encore-token-expiry-dead-letters",
                "state": {"value": state, "reason": "Threshold Crossed"},
                "configuration": {"description": "Look at them."},
            },
        });
        Message::new("m", body.to_string(), Timestamp::default())
    }

    #[test]
    fn an_alarm_opens_and_closes_the_fault_of_its_name() {
        let (id, update) = update_of(&alarm("ALARM")).unwrap().unwrap();
        let FaultUpdate::Sign(sign) = &update else { panic!("{update:?}") };
        assert_eq!(
            (id.as_str(), sign.summary.as_str(), sign.detail.as_str()),
            ("e1", "Look at them.", "Threshold Crossed")
        );
        let (_, over) = update_of(&alarm("OK")).unwrap().unwrap();
        assert_eq!(over, FaultUpdate::Over { fault: update.fault().to_owned(), at: sign.at });
        assert_eq!(update_of(&alarm("INSUFFICIENT_DATA")).unwrap(), None);
    }

    #[test]
    fn what_is_neither_event_nor_alarm_is_poison() {
        for body in ["", "{}", r#"{"source": "aws.cloudwatch", "id": "e"}"#] {
            assert!(
                matches!(update_of(&Message::new("m", body, Timestamp::default())), Err(Fault::Broken(_))),
                "{body}"
            );
        }
    }
}
