//! What the tables of a sale hold, as the auditor reads it, and what must be true of it.

use super::world::{Part, RESERVATION};
use crate::stage::Rows;
use contracts::seats::Section;
use contracts::{ReservationId, Timestamp};
use local::audit::{
    Finding, Invariant, PaymentStatus, ReservationStatus, SeatState, SectionMap, Snapshot, Tolerances, check, of_items,
};
use payments::dynamo::payment_of;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;

/// What the auditor looks for here. There is no waiting room, and no catalogue of its dates.
const AUDITED: [Invariant; 8] = [
    Invariant::Shape,
    Invariant::I1,
    Invariant::I2,
    Invariant::I3,
    Invariant::I4,
    Invariant::I5,
    Invariant::I8,
    Invariant::I9,
];

/// A part's rows, looked at.
#[derive(Debug, Clone)]
pub struct Picture {
    snapshot: Snapshot,
    /// When the sweep finds the first hold.
    pub due: Option<Timestamp>,
    /// Whether a hold was extended.
    pub is_extended: bool,
    /// The payments that are completed.
    pub completed: BTreeSet<String>,
    /// The payments whose saga is open, whether it is a refund, and its input.
    pub open: Vec<(String, bool, String)>,
}

impl Picture {
    pub fn of(part: Part, rows: &Rows) -> Self {
        let snapshot = of_items(part.context(), rows.values()).unwrap();
        let is_payment = |sk: &str| sk.starts_with("PAY#");
        let payments = rows.iter().filter(|((_, sk), _)| is_payment(sk)).map(|(_, row)| payment_of(row).unwrap());
        let open = payments.filter(|payment| !payment.status.is_final()).map(|payment| {
            let refund = payment.refund_saga();
            let input = refund.as_ref().map_or_else(|| json!(payment.saga), |refund| json!(refund));
            (payment.saga.payment_id.to_string(), refund.is_some(), input.to_string())
        });
        let is_completed = PaymentStatus::Completed;
        let completed = snapshot.payments.iter().filter(|(_, found)| found.status == is_completed);
        Self {
            open: open.collect(),
            completed: completed.map(|(id, _)| id.to_string()).collect(),
            is_extended: snapshot.reservations.values().any(|found| found.extended_from.is_some()),
            due: snapshot.reservations.values().filter_map(|found| found.due_at).min(),
            snapshot,
        }
    }

    /// The statuses of all that is in it, for people.
    pub fn status(&self) -> String {
        let reservations = self.snapshot.reservations.iter().map(|(id, found)| format!("{id} {:?}", found.status));
        let payments = self.snapshot.payments.iter().map(|(id, found)| format!("{id} {:?}", found.status));
        reservations.chain(payments).collect::<Vec<_>>().join(", ")
    }

    /// Why this picture must never become that one, if so.
    pub fn forbids(&self, after: &Self) -> Option<String> {
        use PaymentStatus as Payment;
        use ReservationStatus as Reservation;
        let reservations = self.snapshot.reservations.iter().find_map(|(id, before)| {
            let (before, after) = (before.status, after.snapshot.reservations.get(id).map(|found| found.status));
            let may = match before {
                Reservation::Held => {
                    matches!(after, Some(Reservation::Paying | Reservation::Cancelled | Reservation::Expired))
                }
                Reservation::Paying => {
                    matches!(after, Some(Reservation::Held | Reservation::Expired | Reservation::Paid))
                }
                Reservation::Paid => after == Some(Reservation::Refunded),
                _ => false,
            };
            (after != Some(before) && !may).then(|| format!("{id}: {before:?} became {after:?}"))
        });
        let payments = self.snapshot.payments.iter().find_map(|(id, before)| {
            let (before, after) = (before.status, after.snapshot.payments.get(id).map(|found| found.status));
            let may = match before {
                Payment::Pending => matches!(after, Some(Payment::Completed | Payment::Failed)),
                Payment::Completed => after == Some(Payment::Refunding),
                Payment::Refunding => matches!(after, Some(Payment::Refunded | Payment::Completed)),
                Payment::Failed | Payment::Refunded => false,
            };
            (after != Some(before) && !may).then(|| format!("{id}: {before:?} became {after:?}"))
        });
        reservations.or(payments)
    }
}

/// The violations of all parts together. Where everything `is_settled`, nothing may be open any more.
pub fn audit([seats, points, payments]: [&Picture; Part::ALL.len()], now: Timestamp, is_settled: bool) -> Vec<String> {
    let mut all = seats.snapshot.clone();
    all.now = now;
    all.accounts.clone_from(&points.snapshot.accounts);
    all.payments.clone_from(&payments.snapshot.payments);
    all.outbox.extend(payments.snapshot.outbox.clone());
    for part in [points, payments] {
        all.unreadable.extend(part.snapshot.unreadable.iter().cloned());
    }
    publish(&mut all);
    let patience = if is_settled { Duration::ZERO } else { Duration::MAX };
    let tolerances =
        Tolerances { overdue: patience, unpublished: Duration::MAX, pending: patience, undone: Duration::MAX };
    let findings = check(&all, &tolerances).into_iter();
    let is_audited = |finding: &Finding| AUDITED.contains(&finding.invariant) || is_missing_event(finding);
    let mut wrong: Vec<String> = findings.filter(is_audited).map(|finding| finding.to_string()).collect();
    if is_settled {
        wrong.extend(payments.open.iter().map(|(id, ..)| format!("{id} never ended")));
        let id = ReservationId::parse(RESERVATION).unwrap();
        if all.reservations.get(&id).is_none_or(|found| found.status == ReservationStatus::Paying) {
            wrong.push(format!("{id} is being paid for ever"));
        }
    }
    wrong
}

/// What happened has its event; that events are published is not this walk's.
fn is_missing_event(finding: &Finding) -> bool {
    finding.invariant == Invariant::I6 && finding.what.starts_with("there is no event")
}

/// The catalogue and the seat map follow the seats.
fn publish(all: &mut Snapshot) {
    all.dates = all.terms.clone();
    for (schedule, terms) in &all.terms {
        for section in &terms.sections {
            let map = map_of(all, section);
            let row = all.date_rows.entry(schedule.clone()).or_default();
            row.taken.insert(section.section.clone(), map.held + map.sold);
            all.maps.insert((schedule.clone(), section.section.clone()), map);
        }
    }
}

fn map_of(all: &Snapshot, section: &Section) -> SectionMap {
    let mut map = SectionMap { seats: vec![0; section.seats().div_ceil(4) as usize], held: 0, sold: 0 };
    for ((_, id), seat) in &all.seats {
        let Some(index) = section.index_of(id) else { continue };
        let code = if seat.state == SeatState::Sold { 2 } else { 1 };
        map.sold += i64::from(code == 2);
        map.held += i64::from(code == 1);
        map.seats[index as usize / 4] |= code << (2 * (index % 4));
    }
    map
}
