//! I6: what happened has its event, and each event was published and consumed.
//!
//! What other contexts do on an event is checked where it shows: orders, stock, points and carts in `orders`, places and
//! plans in `lines`, holds and rolled back seats with the reservations.

use super::Audit;
use super::{ChargeStatus, Invariant, PaymentStatus, Reservation, ReservationStatus, WithdrawalStatus};
use crate::audit::snapshot::OrderStatus;
use contracts::Timestamp;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

/// How long a published event can be looked up before its row may be gone, in milliseconds: a day less than rows are
/// kept (`kit::outbox`).
const EVENTS_KEPT_MILLIS: i64 = 6 * 24 * 3600 * 1000;
/// How long an event that was published before may wait to be published again: the sweep takes rows that are a minute
/// old.
const REPUBLISHED_WITHIN: Duration = Duration::from_secs(150);

/// The consumer that reports to the data platform.
pub(super) const DATA_PLATFORM: &str = "deliver-to-data-platform";

/// The part of notifications' stack that says which consumer consumes what.
#[derive(Deserialize)]
struct Stack {
    functions: BTreeMap<String, Consumer>,
}

#[derive(Deserialize)]
struct Consumer {
    /// Types of events, or `reservation.*`.
    #[serde(default)]
    of: Vec<String>,
}

/// The consumers of an event type that keep a row for each delivery: those of notifications.
pub(super) fn consumers_of(event_type: &str) -> impl Iterator<Item = &'static str> {
    static STACK: LazyLock<Stack> = LazyLock::new(|| {
        let text = include_str!("../../../../functions/notifications/stack.yaml");
        serde_norway::from_str(text).unwrap_or_else(|error| panic!("functions/notifications/stack.yaml: {error}"))
    });
    let consumes = move |of: &String| match of.strip_suffix('*') {
        Some(start) => event_type.starts_with(start),
        None => of == event_type,
    };
    let functions = STACK.functions.iter();
    let consumers: Vec<&'static str> =
        functions.filter(|(_, consumer)| consumer.of.iter().any(consumes)).map(|(name, _)| name.as_str()).collect();
    consumers.into_iter()
}

impl Audit<'_> {
    /// I6: the consumers that are enabled consumed each event, and a receipt stands as long as its sale does.
    pub(super) fn deliveries(&mut self) {
        let on: BTreeSet<&str> = self.snapshot.deliveries.keys().map(|(consumer, _)| consumer.as_str()).collect();
        for (id, row) in &self.snapshot.outbox {
            let is_due = row.published && self.late(row.created_at, self.tolerances.pending);
            for consumer in consumers_of(&row.event_type).filter(|consumer| is_due && on.contains(consumer)) {
                let consumed = self.snapshot.deliveries.get(&(consumer.to_owned(), id.clone()));
                if consumed.copied().flatten().is_none() {
                    self.found(Invariant::I6, format!("{consumer} never heard of {id}"));
                }
            }
        }
        self.receipts();
        self.order_receipts();
    }

    /// I6: the receipt of a payment stands until it is refunded.
    fn receipts(&mut self) {
        for (id, receipt) in &self.snapshot.receipts {
            let payment = self.snapshot.payments.get(id);
            let refunded_at = payment.and_then(|payment| payment.refunded_at);
            let is_due = refunded_at.is_some_and(|at| self.late(at, self.tolerances.pending));
            if receipt.issued && !receipt.cancelled && is_due {
                self.found(Invariant::I6, format!("payment {id} is refunded, its cash receipt stands"));
            }
            let refund = ("issue-cash-receipt", format!("{id}.payment.refunded"));
            if receipt.cancelled && refunded_at.is_none() && !self.heard_lately(refund) {
                let status = payment.map(|payment| payment.status);
                self.found(Invariant::I6, format!("payment {id} is {status:?}, its cash receipt is cancelled"));
            }
        }
    }

    /// I6: the receipt of an order stands until it is cancelled.
    fn order_receipts(&mut self) {
        for (id, receipt) in &self.snapshot.order_receipts {
            let status = self.snapshot.orders.get(id).map(|order| order.status);
            let failed = format!("{id}.order.failed");
            let failed_at = self.snapshot.outbox.get(&failed).map(|row| row.happened_at);
            let is_due = failed_at.is_some_and(|at| self.late(at, self.tolerances.pending));
            if receipt.issued && !receipt.cancelled && is_due {
                self.found(Invariant::I6, format!("order {id} is {status:?}, its cash receipt stands"));
            }
            let is_failed = status == Some(OrderStatus::Failed);
            if receipt.cancelled && !is_failed && !self.heard_lately(("issue-order-receipt", failed)) {
                self.found(Invariant::I6, format!("order {id} is {status:?}, its cash receipt is cancelled"));
            }
        }
    }

    /// Whether a consumer has dealt with an event only now. Its table is the last that is read: what it tells of may have
    /// happened after the event's own table was.
    fn heard_lately(&self, (consumer, event): (&str, String)) -> bool {
        let heard = self.snapshot.deliveries.get(&(consumer.to_owned(), event)).copied().flatten();
        heard.is_some_and(|at| !self.late(at, self.tolerances.pending))
    }

    /// I6: what happened has an event, and events reach their consumers.
    pub(super) fn events(&mut self) {
        for (id, row) in &self.snapshot.outbox {
            for wrong in &row.wrong {
                self.found(Invariant::I6, format!("event {id} is not as the catalogue has it: {wrong}"));
            }
            let is_republished = row.created_at > row.happened_at;
            let again = if is_republished { REPUBLISHED_WITHIN } else { Duration::ZERO };
            if !row.published && self.late(row.created_at, self.tolerances.unpublished.max(again)) {
                self.found(Invariant::I6, format!("event {id} of {} is not published", row.created_at));
            }
        }
        for (queue, messages) in &self.snapshot.dead_letters {
            if *messages > 0 {
                self.found(Invariant::I6, format!("{messages} messages lie in {queue}"));
            }
        }
        let mut expected: Vec<String> = Vec::new();
        let recent = |at: Timestamp| self.snapshot.now.millis_since(at) < EVENTS_KEPT_MILLIS;
        for (id, reservation) in self.snapshot.reservations.iter().filter(|(_, found)| recent(found.created_at)) {
            expected.extend(happened_to(reservation).map(|what| format!("{id}.reservation.{what}")));
        }
        for (id, payment) in self.snapshot.payments.iter().filter(|(_, found)| recent(found.created_at)) {
            let happened: &[&str] = match payment.status {
                PaymentStatus::Pending => &[],
                PaymentStatus::Completed | PaymentStatus::Refunding => &["completed"],
                PaymentStatus::Failed => &["failed"],
                PaymentStatus::Refunded => &["completed", "refunded"],
            };
            expected.extend(happened.iter().map(|what| format!("{id}.payment.{what}")));
        }
        for (id, charge) in self.snapshot.charges.iter().filter(|(_, found)| recent(found.requested_at)) {
            expected.extend(match charge.status {
                ChargeStatus::Credited => Some(format!("{id}.charge.completed")),
                ChargeStatus::Cancelled => Some(format!("{id}.charge.cancelled")),
                _ => None,
            });
        }
        for (id, withdrawal) in self.snapshot.withdrawals.iter().filter(|(_, found)| recent(found.requested_at)) {
            expected.extend(match withdrawal.status {
                WithdrawalStatus::Paid | WithdrawalStatus::PaidOut => Some(format!("{id}.withdrawal.completed")),
                WithdrawalStatus::Returned => Some(format!("{id}.withdrawal.returned")),
                _ => None,
            });
        }
        for (concert, line) in &self.snapshot.lines {
            let Some(plan) = line.plan.as_ref().filter(|plan| recent(plan.changed_at)) else { continue };
            // Waves make versions, too, and are no event.
            let waves = plan.gate.iter().flat_map(|gate| &gate.waves).filter(|wave| wave.at >= plan.changed_at).count();
            let first = plan.version.saturating_sub(waves as u64);
            let event = |version: u64| format!("{concert}.{version}.admission.changed");
            if !(first..=plan.version).any(|version| version <= 1 || self.snapshot.outbox.contains_key(&event(version)))
            {
                expected.push(event(first));
            }
        }
        expected.extend(self.of_orders(recent));
        for event in expected {
            if !self.snapshot.outbox.contains_key(&event) {
                self.found(Invariant::I6, format!("there is no event {event}, although that happened"));
            }
        }
    }
}

/// What happened to a reservation, as its events call it.
fn happened_to(reservation: &Reservation) -> impl Iterator<Item = &'static str> {
    let was_held = !reservation.withdrawn && reservation.status != ReservationStatus::Pending;
    let happened: &[&str] = match reservation.status {
        ReservationStatus::Paid => &["paid"],
        ReservationStatus::Refunded => &["paid", "refunded"],
        ReservationStatus::Cancelled => &["cancelled"],
        ReservationStatus::Expired => &["expired"],
        ReservationStatus::Rejected => &["rejected"],
        ReservationStatus::Pending | ReservationStatus::Held | ReservationStatus::Paying => &[],
    };
    let extended = reservation.extended_from.map(|_| &"extended");
    was_held.then_some(&"held").into_iter().chain(extended).chain(happened).copied()
}
