//! Delivers a batch of events to the data platform, in one request.

use super::conclude;
use crate::domain::{Claim, Delivery, Lease, Outcome, Report};
use crate::ports::{DeliverEvents, GuardDelivery};
use contracts::events::{Event, EventBody};
use contracts::{EventId, Timestamp};
use futures_util::future::join_all;
use kit::Fault;
use std::collections::BTreeMap;

/// How each event ended.
pub type Ends = BTreeMap<EventId, Result<(), Fault>>;

/// Delivers events that differ by id. If the platform refuses many, each is delivered alone, so that only those are
/// given up that it refuses.
pub async fn deliver_to_data_platform(
    deliveries: &impl GuardDelivery,
    platform: &impl DeliverEvents,
    events: Vec<Event>,
    now: Timestamp,
) -> Ends {
    let mut ends = Ends::new();
    let claims = join_all(events.iter().map(|event| claim(deliveries, event, now))).await;
    let mut open: Vec<(Event, Option<Lease>)> = Vec::with_capacity(events.len());
    for (event, claim) in events.into_iter().zip(claims) {
        match claim {
            Ok(None) => open.push((event, None)),
            Ok(Some(Claim::Mine(lease))) => open.push((event, Some(lease))),
            Ok(Some(Claim::Done)) => drop(ends.insert(event.id, Ok(()))),
            Ok(Some(Claim::Elsewhere)) => {
                let contended = Fault::contended("delivering what somebody else is delivering");
                ends.insert(event.id, Err(contended));
            }
            Err(fault) => drop(ends.insert(event.id, Err(fault))),
        }
    }
    if open.is_empty() {
        return ends;
    }
    let batch: Vec<&Event> = open.iter().map(|(event, _)| event).collect();
    let outcome = platform.deliver(&batch, now).await;
    let outcomes = match outcome {
        Err(Fault::Broken(_)) if batch.len() > 1 => {
            join_all(batch.iter().map(|event| async { platform.deliver(&[*event], now).await })).await
        }
        outcome => batch.iter().map(|_| same(&outcome)).collect(),
    };
    let settled = open.iter().zip(outcomes).map(|((event, lease), outcome)| async move {
        let Some(lease) = lease else { return outcome };
        let outcome = outcome.map(|()| Outcome { report: Report::of(event), ..Outcome::sent(None) });
        conclude(deliveries, &delivery(event), lease, outcome, now).await
    });
    let settled = join_all(settled).await;
    ends.extend(open.into_iter().map(|(event, _)| event.id).zip(settled));
    ends
}

fn delivery(event: &Event) -> Delivery {
    Delivery::new("deliver-to-data-platform", &event.id)
}

async fn claim(deliveries: &impl GuardDelivery, event: &Event, now: Timestamp) -> Result<Option<Claim>, Fault> {
    if is_counted_by_its_id(event) {
        return Ok(None);
    }
    deliveries.claim(&delivery(event), now).await.map(Some)
}

/// Whether an event may arrive twice, because the platform deduplicates it by its id. Users request their place in line
/// thousands of times a second: a row for each would cost more than all sales, and throttle the writes that guard them.
fn is_counted_by_its_id(event: &Event) -> bool {
    matches!(event.body, EventBody::QueueJoined(_) | EventBody::QueueChecked(_))
}

/// The result of a request, for each event in it.
pub fn same(outcome: &Result<(), Fault>) -> Result<(), Fault> {
    const DOING: &str = "delivering a batch";
    outcome.as_ref().copied().map_err(|fault| {
        let reason = fault.chain();
        match fault {
            Fault::Contended(_) => Fault::contended(DOING),
            Fault::Unavailable(_) => Fault::unavailable(DOING, reason),
            Fault::Broken(_) => Fault::broken(DOING, reason),
        }
        .retry_after(fault.wait())
    })
}
