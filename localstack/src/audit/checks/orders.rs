//! The invariants of merchandise and its orders.

use super::events::DATA_PLATFORM;
use super::{Audit, Invariant};
use crate::audit::snapshot::{Order, OrderStatus, Participant};
use contracts::choreography::ParticipantState;
use contracts::{ItemId, OrderId, Timestamp, UserId};
use std::collections::BTreeMap;
use std::time::Duration;

/// The longest time limit of participants (`OrderDeadlineSeconds` in the template).
const LONGEST_DEADLINE: Duration = Duration::from_secs(3_600);
/// How long participants are sure to keep what they did for an order, in milliseconds: a day less than its TTL.
const WORK_KEPT_MILLIS: i64 = 29 * 24 * 3600 * 1000;

impl Audit<'_> {
    fn work(&self, order: &OrderId, participant: Participant) -> Option<ParticipantState> {
        self.snapshot.jobs.get(&(order.clone(), participant)).map(|job| job.work)
    }

    /// I8, I10: an order.
    pub(super) fn order(&mut self, id: &OrderId, order: &Order) {
        let who = format!("order {id} of {}", order.user);
        let price: i64 = order.lines.iter().map(|line| line.price.get() * i64::from(line.quantity)).sum();
        if price != order.total_price || order.lines.is_empty() {
            let total = order.total_price;
            self.found(Invariant::I10, format!("{who} costs {total}, but its lines cost {price}"));
        }
        match (order.status, order.due_at) {
            (OrderStatus::Pending, due) => self.still_pending(&who, order, due),
            (OrderStatus::Failed, Some(due)) => self.still_to_be_undone(id, &who, due),
            (OrderStatus::Completed, Some(_)) => {
                self.found(Invariant::I8, format!("{who} is completed and the sweep finds it"));
            }
            (OrderStatus::Completed | OrderStatus::Failed, None) => {}
        }
        if order.is_quiet() {
            self.ended(id, &who, order);
        }
    }

    fn still_pending(&mut self, who: &str, order: &Order, due: Option<Timestamp>) {
        let placed = order.placed_at;
        match due {
            None => self.found(Invariant::I8, format!("{who} is pending and the sweep cannot find it")),
            Some(due) if self.late(due, self.tolerances.overdue) => {
                self.found(Invariant::I8, format!("{who} is pending, which was to end at {due}"));
            }
            // Postponed again and again.
            Some(_) if self.late(placed, LONGEST_DEADLINE + self.tolerances.overdue) => {
                self.found(Invariant::I8, format!("{who} is pending since {placed}"));
            }
            Some(_) => {}
        }
    }

    fn still_to_be_undone(&mut self, id: &OrderId, who: &str, due: Timestamp) {
        if self.late(due, self.tolerances.overdue) {
            self.found(Invariant::I8, format!("{who} failed and was to be looked at again at {due}"));
        }
        let failed = self.snapshot.outbox.get(&format!("{id}.order.failed")).map(|row| row.happened_at);
        let stuck = format!("order-undo-stuck:{id}.");
        let is_listed =
            self.snapshot.outbox.range(stuck.clone()..).next().is_some_and(|(id, _)| id.starts_with(&stuck));
        if let Some(failed) = failed.filter(|failed| self.late(*failed, self.tolerances.undone) && !is_listed) {
            self.found(Invariant::I8, format!("{who} failed at {failed} and is not undone"));
        }
    }

    /// I10: an order that has come to rest has everything, or nothing.
    fn ended(&mut self, id: &OrderId, who: &str, order: &Order) {
        let status = order.status;
        let wanted = if status == OrderStatus::Completed { ParticipantState::Done } else { ParticipantState::Undone };
        let is_known = self.snapshot.now.millis_since(order.placed_at) < WORK_KEPT_MILLIS;
        for participant in Participant::ALL {
            let name = participant.name();
            let work = self.work(id, participant);
            if is_known && work != Some(wanted) {
                self.found(Invariant::I10, format!("{who} is {status:?}, but its {name} is {work:?}"));
            }
            // The recorded state expires with the event whose row it is in.
            let recorded = self.snapshot.work_states.get(id).map(|states| states.get(name).copied());
            if recorded.is_some_and(|recorded| recorded != Some(wanted)) {
                self.found(Invariant::I10, format!("{who} is {status:?}, but it heard of its {name}: {recorded:?}"));
            }
        }
        let account = self.snapshot.accounts.get(&order.user);
        let entry = |what: &str| {
            let key = format!("{what}.{id}");
            account.and_then(|account| account.entries.iter().find(|entry| entry.key == key)).map(|entry| entry.adds)
        };
        let (debit, returned) = (entry("use").map(|adds| -adds), entry("return"));
        let price = order.total_price;
        let fits = match status {
            OrderStatus::Completed => debit.unwrap_or(0) == price && returned.is_none(),
            _ => debit.unwrap_or(0) == returned.unwrap_or(0),
        };
        if !fits {
            let moved = format!("price {price}, debit {debit:?}, returned {returned:?}");
            self.found(Invariant::I10, format!("{who} is {status:?}: {moved}"));
        }
    }

    /// I10: the stock of each item is what was not sold, and what was sold is what orders have.
    pub(super) fn stock(&mut self) {
        // Orders in progress may be seen in different states in different tables.
        let mut moving: BTreeMap<&ItemId, i64> = BTreeMap::new();
        for order in self.snapshot.orders.values().filter(|order| !order.is_quiet()) {
            for line in &order.lines {
                *moving.entry(&line.item_id).or_default() += i64::from(line.quantity);
            }
        }
        let mut taken: BTreeMap<&ItemId, i64> = BTreeMap::new();
        for job in self.snapshot.jobs.values().filter(|job| job.work == ParticipantState::Done) {
            for pieces in &job.pieces {
                *taken.entry(&pieces.item_id).or_default() += i64::from(pieces.quantity);
            }
        }
        for (id, item) in &self.snapshot.items {
            let (stock, sold, received) = (item.stock, item.sold, item.received);
            if stock < 0 || sold < 0 || stock + sold != received {
                let there = format!("{stock} in stock and {sold} sold of {received}");
                self.found(Invariant::I10, format!("item {id} has {there}"));
            }
            let (taken, moving) = (taken.remove(id).unwrap_or(0), moving.get(id).copied().unwrap_or(0));
            // Orders expire before the item's count of what was sold.
            let forgotten = self.snapshot.now.millis_since(item.created_at) >= WORK_KEPT_MILLIS;
            if sold < taken - moving || sold > taken + moving && !forgotten {
                self.found(Invariant::I10, format!("item {id} has {sold} sold, orders have {taken}"));
            }
        }
        for (id, pieces) in taken {
            self.found(Invariant::I10, format!("orders have {pieces} of {id}, which does not exist"));
        }
    }

    /// I10: what a user has of a limited item, as the limit counts it, is what their orders took of it.
    pub(super) fn bought(&mut self) {
        // Orders in progress may be seen in different states in different tables.
        let mut moving: BTreeMap<(&UserId, &ItemId), i64> = BTreeMap::new();
        for order in self.snapshot.orders.values().filter(|order| !order.is_quiet()) {
            for line in &order.lines {
                *moving.entry((&order.user, &line.item_id)).or_default() += i64::from(line.quantity);
            }
        }
        let mut taken: BTreeMap<(&UserId, &ItemId), i64> = BTreeMap::new();
        for ((id, _), job) in self.snapshot.jobs.iter().filter(|(_, job)| job.work == ParticipantState::Done) {
            let Some(order) = self.snapshot.orders.get(id) else { continue };
            for pieces in job.pieces.iter().filter(|pieces| job.counted.contains(&pieces.item_id)) {
                *taken.entry((&order.user, &pieces.item_id)).or_default() += i64::from(pieces.quantity);
            }
        }
        for ((user, item), count) in &self.snapshot.bought {
            let taken = taken.remove(&(user, item)).unwrap_or(0);
            let moving = moving.get(&(user, item)).copied().unwrap_or(0);
            // Orders expire before the count of what was bought.
            let created = self.snapshot.items.get(item).map(|item| item.created_at);
            let forgotten = created.is_none_or(|at| self.snapshot.now.millis_since(at) >= WORK_KEPT_MILLIS);
            if *count < taken - moving || *count > taken + moving && !forgotten {
                self.found(Invariant::I10, format!("{user} has {count} of {item} by its limit, orders have {taken}"));
            }
        }
        for ((user, item), taken) in taken {
            if taken > moving.get(&(user, item)).copied().unwrap_or(0) {
                self.found(Invariant::I10, format!("{user} has {taken} of {item}, which its limit does not count"));
            }
        }
    }

    /// I10: no participant works for an order that does not exist, or takes something other than was ordered.
    pub(super) fn jobs(&mut self) {
        for ((id, participant), job) in &self.snapshot.jobs {
            let name = participant.name();
            let Some(order) = self.snapshot.orders.get(id) else {
                // It may have been placed after orders were read.
                let event =
                    participant.says(job.work).and_then(|event| self.snapshot.outbox.get(&format!("{id}.{event}")));
                if event.is_none_or(|event| self.late(event.happened_at, self.tolerances.pending)) {
                    self.found(Invariant::I10, format!("{name} worked for order {id}, which does not exist"));
                }
                continue;
            };
            if *participant == Participant::Stock && job.work == ParticipantState::Done {
                let taken: Vec<_> = job.pieces.iter().map(|pieces| (&pieces.item_id, pieces.quantity)).collect();
                let ordered: Vec<_> = order.lines.iter().map(|line| (&line.item_id, line.quantity)).collect();
                if taken.iter().any(|line| !ordered.contains(line)) || taken.len() != ordered.len() {
                    self.found(Invariant::I10, format!("order {id} is for {ordered:?}, taken were {taken:?}"));
                }
            }
        }
    }

    /// The events of what happened to orders, and of what their participants did.
    pub(super) fn of_orders(&self, recent: impl Fn(Timestamp) -> bool) -> Vec<String> {
        let mut expected = Vec::new();
        for (id, order) in self.snapshot.orders.iter().filter(|(_, order)| recent(order.placed_at)) {
            let happened: &[&str] = match order.status {
                OrderStatus::Pending => &["placed"],
                OrderStatus::Completed => &["placed", "completed"],
                OrderStatus::Failed => &["placed", "failed"],
            };
            expected.extend(happened.iter().map(|what| format!("{id}.order.{what}")));
            for participant in Participant::ALL {
                let event = self.work(id, participant).and_then(|work| participant.says(work));
                expected.extend(event.map(|event| format!("{id}.{event}")));
            }
            // The data platform accepted it, which is published, too.
            let placed = (DATA_PLATFORM.to_owned(), format!("{id}.order.placed"));
            let reported = self.snapshot.deliveries.get(&placed).copied().flatten();
            let is_due = reported.is_some_and(|at| self.late(at, self.tolerances.pending));
            expected.extend(is_due.then(|| format!("{id}.order.reported")));
        }
        expected
    }
}
