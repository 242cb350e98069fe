//! The invariants of tests/README.md as pure checks of a [`Snapshot`].

use super::snapshot::{
    Account, Charge, ChargeStatus, Payment, PaymentStatus, Reservation, ReservationStatus, Seat, SeatState, Snapshot,
    Withdrawal, WithdrawalStatus,
};
use contracts::seats::Section;
use contracts::steps::OpenSchedule;
use contracts::{OrderId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

mod events;
mod lines;
mod orders;
mod withdrawals;

/// How far two clocks, or a plan and the copy that is enforced, may be apart, in milliseconds.
const CLOCKS_APART_MILLIS: i64 = 2_000;
/// After how long the client of an asynchronous request no longer waits for it (`sweep-reservations`).
const DECIDED_WITHIN: Duration = Duration::from_secs(600);
/// The most by which a hold may be extended, in milliseconds: the bound of `HoldExtensionSeconds`.
const LONGEST_EXTENSION_MILLIS: i64 = 1_800_000;
/// What must never break. The names are those of tests/README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Every item matches its table's documentation.
    Shape,
    /// At most one live holder per seat; a seat sold belongs to exactly one paid reservation.
    I1,
    /// A paid reservation has exactly one completed payment and one debit of its price, a refunded one has it back.
    I2,
    /// A ledger adds up to its balance, which is never below zero; what was paid at the provider is in it, once.
    I3,
    /// A hold that entered `paying` keeps its seats.
    I4,
    /// A failed payment leaves nothing behind.
    I5,
    /// Every event matches the catalogue, is published and consumed, and none is in a dead-letter queue.
    I6,
    /// Positions are unique, turns are kept, used places stay used.
    I7,
    /// Every payment, refund, charge, withdrawal, request and order comes to an end or is listed as stuck.
    I8,
    /// No seat is unavailable without a live hold or sale; counts equal the rows they count.
    I9,
    /// No more is sold than there is; a completed order has all it needs, a failed one nothing.
    I10,
    /// Every turn still to come is one user's, or was given up or lost.
    I16,
}

impl Invariant {
    /// All that an audit checks, in order.
    pub const ALL: [Self; 12] = [
        Self::Shape,
        Self::I1,
        Self::I2,
        Self::I3,
        Self::I4,
        Self::I5,
        Self::I6,
        Self::I7,
        Self::I8,
        Self::I9,
        Self::I10,
        Self::I16,
    ];

    /// The invariant in one line.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Shape => "every item reads as documented",
            Self::I1 => "one live holder per seat, sold seats are paid",
            Self::I2 => "a paid reservation has one payment and one debit",
            Self::I3 => "ledgers add up to balances, never below zero",
            Self::I4 => "a hold that is being paid keeps its seats",
            Self::I5 => "a failed payment leaves nothing behind",
            Self::I6 => "every event is published and consumed, none dead",
            Self::I7 => "positions unique, turns kept, used places used",
            Self::I8 => "everything begun ended or is listed as stuck",
            Self::I9 => "no seat lost, counts equal what they count",
            Self::I10 => "stock adds up, orders have all they need or none",
            Self::I16 => "turns to come are one user's, given up or lost",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shape => f.pad("--"),
            named => f.pad(&format!("{named:?}")),
        }
    }
}

/// A violation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub invariant: Invariant,
    /// Where, with ids and numbers.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.invariant, self.what)
    }
}

/// How late things may be before that is a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tolerances {
    /// A hold that has expired, an order that is due, or a request that its client no longer waits for, and that has
    /// not ended yet. The sweep runs every minute.
    pub overdue: Duration,
    /// An event that is not published yet. The sweep runs every minute, for rows older than a minute.
    pub unpublished: Duration,
    /// A payment, refund or charge that is pending, a reservation that is being paid, an event that was published and
    /// not delivered.
    pub pending: Duration,
    /// An order that failed and is not undone. Its sweep lists it as stuck after a quarter of an hour.
    pub undone: Duration,
}

impl Default for Tolerances {
    fn default() -> Self {
        Self {
            overdue: Duration::from_secs(90),
            unpublished: Duration::from_secs(150),
            pending: Duration::from_secs(300),
            undone: Duration::from_secs(1_500),
        }
    }
}

/// All violations in a snapshot, by invariant.
pub fn check(snapshot: &Snapshot, tolerances: &Tolerances) -> Vec<Finding> {
    let mut audit = Audit::of(snapshot, tolerances);
    for unreadable in &snapshot.unreadable {
        audit.found(Invariant::Shape, unreadable.clone());
    }
    for ((schedule, id), seat) in &snapshot.seats {
        audit.seat(schedule, id, seat);
    }
    for (id, reservation) in &snapshot.reservations {
        audit.reservation(id, reservation);
    }
    for (id, payment) in &snapshot.payments {
        audit.payment(id, payment);
    }
    for (id, charge) in &snapshot.charges {
        audit.charge(id, charge);
    }
    for (id, withdrawal) in &snapshot.withdrawals {
        audit.withdrawal(id, withdrawal);
    }
    audit.withdrawn();
    for (user, account) in &snapshot.accounts {
        audit.ledger(user, account);
    }
    for (id, order) in &snapshot.orders {
        audit.order(id, order);
    }
    audit.provider_payments();
    audit.stock();
    audit.bought();
    audit.jobs();
    audit.events();
    audit.deliveries();
    audit.lines();
    audit.tickets();
    audit.dates();
    audit.findings.sort();
    audit.findings
}

struct Audit<'a> {
    snapshot: &'a Snapshot,
    tolerances: &'a Tolerances,
    /// Payments of a reservation.
    payments_of: BTreeMap<&'a ReservationId, Vec<(&'a PaymentId, &'a Payment)>>,
    findings: Vec<Finding>,
}

/// A payment, and what belongs to it elsewhere.
struct SeenPayment<'a> {
    id: &'a PaymentId,
    payment: &'a Payment,
    who: String,
    reservation: Option<&'a Reservation>,
    /// Whether the waiting room has its place as used by it.
    used: bool,
    debit: Option<i64>,
    returned: Option<i64>,
}

impl SeenPayment<'_> {
    fn price(&self) -> i64 {
        self.payment.saga.amount.get()
    }

    /// The status of the reservation, if this payment has it.
    fn of_this(&self) -> Option<ReservationStatus> {
        self.reservation.filter(|found| found.payment.as_ref() == Some(self.id)).map(|found| found.status)
    }

    fn moved(&self) -> String {
        format!("debit {:?}, returned {:?}", self.debit, self.returned)
    }
}

/// Whether an ended reservation keeps a seat back, in a way that the sweep will end.
fn keeps(reservation: &Reservation, seat: &Seat) -> bool {
    let until = seat.hold_expires_at;
    until.is_some() && until == reservation.due_at && until == reservation.seats_free_at
}

impl<'a> Audit<'a> {
    fn of(snapshot: &'a Snapshot, tolerances: &'a Tolerances) -> Self {
        let mut payments_of: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (id, payment) in &snapshot.payments {
            payments_of.entry(&payment.saga.reservation_id).or_default().push((id, payment));
        }
        Self { snapshot, tolerances, payments_of, findings: Vec::new() }
    }

    fn found(&mut self, invariant: Invariant, what: impl Into<String>) {
        self.findings.push(Finding { invariant, what: what.into() });
    }

    /// Whether `since` is longer ago than `tolerance`.
    fn late(&self, since: Timestamp, tolerance: Duration) -> bool {
        self.snapshot.now.millis_since(since) > i64::try_from(tolerance.as_millis()).unwrap_or(i64::MAX)
    }

    fn section(&self, schedule: &ScheduleId, seat: &SeatId) -> Option<&'a Section> {
        let terms = self.snapshot.terms.get(schedule)?;
        terms.sections.iter().find(|section| section.index_of(seat).is_some())
    }

    /// I1, I9: a seat that is not free, seen from the seat.
    fn seat(&mut self, schedule: &ScheduleId, id: &SeatId, seat: &Seat) {
        let who = format!("seat {id} of {schedule} ({:?} by {})", seat.state, seat.reservation);
        if self.section(schedule, id).is_none() {
            self.found(Invariant::I1, format!("{who} does not exist in that hall"));
        } else if self.snapshot.terms.get(schedule).and_then(|terms| terms.block_of(id)) != seat.block {
            self.found(Invariant::I1, format!("{who} is kept where nobody looks for it"));
        }
        let Some(reservation) = self.snapshot.reservations.get(&seat.reservation) else {
            return self.found(Invariant::I9, format!("{who}: there is no such reservation"));
        };
        if !reservation.seats.contains(id) || reservation.schedule != *schedule || reservation.user != seat.user {
            self.found(Invariant::I1, format!("{who}: that reservation is not for this seat, date and user"));
        }
        let status = reservation.status;
        match (seat.state, status) {
            (SeatState::Held, ReservationStatus::Held) => {
                let until = reservation.seats_free_at.unwrap_or(reservation.hold_expires_at);
                if seat.hold_expires_at != Some(until) || until < reservation.hold_expires_at {
                    self.found(Invariant::I1, format!("{who} is held for another time than its reservation"));
                }
            }
            (SeatState::Paying, ReservationStatus::Paying) => {}
            (SeatState::Sold, ReservationStatus::Paid) => {
                if seat.payment != reservation.payment {
                    self.found(Invariant::I1, format!("{who} was sold by another payment than its reservation"));
                }
            }
            // Checked from the reservation, with all its seats.
            (_, ReservationStatus::Paying) => {}
            // Given back, and not free for anybody yet. For how long, is checked from the reservation.
            (SeatState::Held, ended) if ended.may_keep_seats() && keeps(reservation, seat) => {}
            (SeatState::Held | SeatState::Paying, ended) if !ended.is_live() => {
                self.found(Invariant::I9, format!("{who} is not free although that reservation is {ended:?}"));
            }
            (_, other) => self.found(Invariant::I1, format!("{who}: that reservation is {other:?}")),
        }
    }

    /// I9: the seats that an ended reservation keeps back become free, and until then the sweep knows of them.
    fn kept_back(&mut self, who: &str, reservation: &Reservation) {
        let Some(due_at) = reservation.due_at.filter(|_| reservation.status.may_keep_seats()) else { return };
        let status = reservation.status;
        if reservation.seats_free_at != Some(due_at) {
            self.found(Invariant::I9, format!("{who} is {status:?} and the sweep finds it"));
        } else if self.late(due_at, self.tolerances.overdue) {
            self.found(
                Invariant::I9,
                format!("{who} is {status:?} and keeps its seats although they were free at {due_at}"),
            );
        }
    }

    /// I9: a hold runs until its end, which was extended by no more than any may be.
    fn held_until(&mut self, who: &str, reservation: &Reservation) {
        let left = reservation.hold_expires_at.millis_since(self.snapshot.now);
        if reservation.status == ReservationStatus::Expired && left > CLOCKS_APART_MILLIS {
            self.found(Invariant::I9, format!("{who} is expired before its end at {}", reservation.hold_expires_at));
        }
        let Some(from) = reservation.extended_from else { return };
        let until = reservation.hold_expires_at;
        if until <= from || until.millis_since(from) > LONGEST_EXTENSION_MILLIS {
            self.found(Invariant::I9, format!("{who} was extended from {from} to {until}"));
        }
    }

    /// I1, I2, I4, I6, I7, I8, I9: a reservation.
    fn reservation(&mut self, id: &ReservationId, reservation: &Reservation) {
        let who = format!("reservation {id} of {}", reservation.user);
        let overdue = self.snapshot.now >= reservation.hold_expires_at;
        let (invariant, wanted) = match reservation.status {
            ReservationStatus::Held if !overdue => (Invariant::I1, Some(SeatState::Held)),
            ReservationStatus::Paying => (Invariant::I4, Some(SeatState::Paying)),
            ReservationStatus::Paid => (Invariant::I1, Some(SeatState::Sold)),
            // A hold that expired may have lost its seats already.
            _ => (Invariant::I1, None),
        };
        if let Some(wanted) = wanted {
            for seat in &reservation.seats {
                let found = self.snapshot.seats.get(&(reservation.schedule.clone(), seat.clone()));
                let ours = found.is_some_and(|found| {
                    found.reservation == *id
                        && found.state == wanted
                        && (wanted != SeatState::Paying || found.payment == reservation.payment)
                });
                if !ours {
                    let there = found.map_or("nobody's".to_owned(), |found| {
                        format!("{:?} by {}, payment {:?}", found.state, found.reservation, found.payment)
                    });
                    let status = reservation.status;
                    self.found(invariant, format!("{who} is {status:?}, but its seat {seat} is {there}"));
                }
            }
        }
        self.price(&who, reservation);
        self.kept_back(&who, reservation);
        self.held_until(&who, reservation);
        match reservation.status {
            ReservationStatus::Held => {
                if self.late(reservation.hold_expires_at, self.tolerances.overdue) {
                    self.found(
                        Invariant::I9,
                        format!("{who} is still held although that was over at {}", reservation.hold_expires_at),
                    );
                }
                if reservation.due_at != Some(reservation.hold_expires_at) {
                    self.found(Invariant::I9, format!("{who} is held and the sweep of overdue holds cannot find it"));
                }
            }
            status if reservation.due_at.is_some() && !status.may_keep_seats() => {
                self.found(Invariant::I9, format!("{who} is {status:?} and the sweep finds it"));
            }
            ReservationStatus::Paid => self.paid(id, &who, reservation),
            ReservationStatus::Paying => self.paying(&who, reservation),
            ReservationStatus::Refunded => self.given_back(&who, reservation),
            ReservationStatus::Pending
                if self.late(reservation.created_at, DECIDED_WITHIN + self.tolerances.overdue) =>
            {
                self.found(Invariant::I8, format!("{who} is pending since {}", reservation.created_at));
            }
            _ => {}
        }
        if reservation.in_waiting_index != (reservation.status == ReservationStatus::Pending) {
            let status = reservation.status;
            self.found(Invariant::I8, format!("{who} is {status:?}, the index of pending ones says otherwise"));
        }
        self.turn(&who, reservation);
    }

    /// I2: the price is that of the seats.
    fn price(&mut self, who: &str, reservation: &Reservation) {
        let prices = reservation.seats.iter().map(|seat| self.section(&reservation.schedule, seat));
        let sum: Option<i64> = prices.map(|section| section.map(|section| section.price.get())).sum();
        if sum != Some(reservation.total_price) {
            let total = reservation.total_price;
            self.found(Invariant::I2, format!("{who} costs {total}, but its seats cost {sum:?}"));
        }
    }

    /// I2, I7: what a paid reservation needs.
    fn paid(&mut self, id: &ReservationId, who: &str, reservation: &Reservation) {
        let payments = self.payments_of.get(id).cloned().unwrap_or_default();
        // While a refund is in progress, the sale stands.
        let stands = |status| matches!(status, PaymentStatus::Completed | PaymentStatus::Refunding);
        let completed: Vec<_> = payments.iter().filter(|(_, payment)| stands(payment.status)).collect();
        match completed.as_slice() {
            [(payment, _)] if reservation.payment.as_ref() == Some(payment) => {}
            // Between the confirmation and the record; I8 limits how long that may take.
            [] if payments.iter().any(|(payment, found)| {
                reservation.payment.as_ref() == Some(payment) && found.status == PaymentStatus::Pending
            }) => {}
            found => {
                let ids: Vec<&PaymentId> = found.iter().map(|(payment, _)| *payment).collect();
                let by = &reservation.payment;
                self.found(Invariant::I2, format!("{who} was paid by {by:?}; completed payments of it: {ids:?}"));
            }
        }
        let entitlement = self.snapshot.entitlements.get(&(reservation.user.clone(), reservation.concert.clone()));
        let position = reservation.queue_position;
        if !entitlement.is_some_and(|entitlement| entitlement.spent.contains_key(&position)) {
            self.found(Invariant::I7, format!("{who} is paid, but its place {position} does not count as spent"));
        }
    }

    /// I2: a reservation was given back by a payment that is, or is being, paid back.
    fn given_back(&mut self, who: &str, reservation: &Reservation) {
        let payment = reservation.payment.as_ref().and_then(|payment| self.snapshot.payments.get(payment));
        let status = payment.map(|payment| payment.status);
        if !matches!(status, Some(PaymentStatus::Refunding | PaymentStatus::Refunded)) {
            self.found(Invariant::I2, format!("{who} is refunded, its payment is {status:?}"));
        }
    }

    /// I4, I8: what a reservation that is being paid needs.
    fn paying(&mut self, who: &str, reservation: &Reservation) {
        match reservation.payment.as_ref().map(|payment| (payment, self.snapshot.payments.get(payment))) {
            Some((_, Some(payment))) => match payment.status {
                // I8 of the payment limits how long.
                PaymentStatus::Pending => {}
                // Found with the payment.
                PaymentStatus::Failed | PaymentStatus::Completed => {}
                PaymentStatus::Refunding | PaymentStatus::Refunded => {
                    self.found(Invariant::I4, format!("{who} is being paid by a refunded payment"));
                }
            },
            unknown => self.found(Invariant::I8, format!("{who} is being paid by {unknown:?}, which does not exist")),
        }
    }

    /// I7: made in turn, with a place that was not spent.
    fn turn(&mut self, who: &str, reservation: &Reservation) {
        let (position, made) = (reservation.queue_position, reservation.created_at);
        let key = (reservation.user.clone(), reservation.concert.clone());
        if let Some(spent) = self.snapshot.entitlements.get(&key).and_then(|found| found.spent.get(&position))
            && made.millis_since(*spent) > CLOCKS_APART_MILLIS
        {
            self.found(Invariant::I7, format!("{who} was made at {made} with place {position}, spent at {spent}"));
        }
        let Some(line) = self.snapshot.lines.get(&reservation.concert) else {
            return self.found(Invariant::I7, format!("{who}: {} has no waiting room", reservation.concert));
        };
        let Some(plan) = &line.plan else { return };
        // Of a place that its user has no more, the turn is not known.
        let place = line.places.get(&reservation.user).and_then(|found| found.place);
        let turn = place.filter(|(found, _)| *found == position).map(|(_, turn)| turn);
        if let Some(why) = turn.and_then(|turn| lines::out_of_turn(plan, (position, turn), made)) {
            self.found(Invariant::I7, format!("{who} was made at {made} with place {position}, {why}"));
        }
    }

    /// I2, I5, I7, I8: a payment.
    fn payment(&mut self, id: &PaymentId, payment: &Payment) {
        let saga = &payment.saga;
        let reservation = self.snapshot.reservations.get(&saga.reservation_id);
        let line = self.snapshot.lines.get(&saga.concert_id);
        let account = self.snapshot.accounts.get(&saga.user_id);
        let entry = |key: String| account.and_then(|account| account.entries.iter().find(|entry| entry.key == key));
        let seen = SeenPayment {
            id,
            payment,
            who: format!("payment {id} of {}", saga.user_id),
            reservation,
            used: line.is_some_and(|line| line.used.contains(&(saga.queue_position, Some(id.clone())))),
            debit: entry(format!("use.{id}")).map(|entry| -entry.adds),
            returned: entry(format!("return.{id}")).map(|entry| entry.adds),
        };
        let (who, price) = (&seen.who, seen.price());
        if payment.amount != price || reservation.is_none_or(|found| found.total_price != price) {
            let total = reservation.map(|found| found.total_price);
            let amount = payment.amount;
            self.found(Invariant::I2, format!("{who}: amount {amount}, its saga {price}, its reservation {total:?}"));
        }
        match payment.status {
            PaymentStatus::Pending => self.pending_payment(&seen),
            PaymentStatus::Completed => self.completed_payment(&seen),
            PaymentStatus::Failed => self.failed_payment(&seen),
            PaymentStatus::Refunding | PaymentStatus::Refunded => self.refund(&seen),
        }
        let is_open = matches!(payment.status, PaymentStatus::Pending | PaymentStatus::Refunding);
        if payment.in_recovery_index && !is_open {
            self.found(Invariant::I8, format!("{who} is {:?} and the recovery finds it", payment.status));
        }
    }

    fn pending_payment(&mut self, seen: &SeenPayment<'_>) {
        let (who, payment) = (&seen.who, seen.payment);
        if self.late(payment.created_at, self.tolerances.pending) && !self.snapshot.parked.contains(seen.id) {
            self.found(Invariant::I8, format!("{who} is pending since {}", payment.created_at));
        }
        if !payment.in_recovery_index {
            self.found(Invariant::I8, format!("{who} is pending and the recovery cannot find it"));
        }
    }

    fn completed_payment(&mut self, seen: &SeenPayment<'_>) {
        let (who, saga, price) = (&seen.who, &seen.payment.saga, seen.price());
        if seen.of_this() != Some(ReservationStatus::Paid) {
            let there = seen.reservation.map(|found| (found.status, &found.payment));
            let which = &saga.reservation_id;
            self.found(Invariant::I2, format!("{who} is completed, its reservation {which} is {there:?}"));
        }
        if (seen.debit, seen.returned) != (Some(price), None) {
            self.found(Invariant::I2, format!("{who} is completed: price {price}, {}", seen.moved()));
        }
        if !seen.used {
            let position = saga.queue_position;
            self.found(Invariant::I7, format!("{who} is completed, but its place {position} is not used"));
        }
    }

    fn failed_payment(&mut self, seen: &SeenPayment<'_>) {
        let (who, saga) = (&seen.who, &seen.payment.saga);
        if seen.debit.unwrap_or(0) != seen.returned.unwrap_or(0) {
            self.found(Invariant::I5, format!("{who} failed: {}", seen.moved()));
        }
        if let Some(status) = seen.of_this() {
            let there = format!("reservation {} is {status:?} by it", saga.reservation_id);
            self.found(Invariant::I5, format!("{who} failed, but {there}"));
        }
        for seat in &saga.seats {
            let found = self.snapshot.seats.get(&(saga.schedule_id.clone(), seat.clone()));
            if found.is_some_and(|found| found.payment.as_ref() == Some(seen.id)) {
                self.found(Invariant::I5, format!("{who} failed, but still has seat {seat}"));
            }
        }
        if seen.used {
            let position = saga.queue_position;
            self.found(Invariant::I5, format!("{who} failed, but place {position} is used by it"));
        }
    }

    fn refund(&mut self, seen: &SeenPayment<'_>) {
        let (who, payment, price) = (&seen.who, seen.payment, seen.price());
        let of_this = seen.of_this();
        let is_over = payment.status == PaymentStatus::Refunded;
        let is_free = of_this == Some(ReservationStatus::Refunded);
        if !is_free && (is_over || of_this != Some(ReservationStatus::Paid)) {
            self.found(Invariant::I2, format!("{who} is {:?}, its reservation {of_this:?}", payment.status));
        }
        // The points go back after the seats, never before.
        let may_be_returned = if is_over { seen.returned == Some(price) } else { seen.returned.is_none() || is_free };
        if seen.debit != Some(price) || seen.returned.is_some_and(|returned| returned != price) || !may_be_returned {
            self.found(Invariant::I2, format!("{who} is {:?}: price {price}, {}", payment.status, seen.moved()));
        }
        if is_over && !seen.used {
            let position = payment.saga.queue_position;
            self.found(Invariant::I7, format!("{who} is refunded, but its place {position} is not used"));
        }
        let since = payment.refund_requested_at.unwrap_or(payment.created_at);
        if !is_over && self.late(since, self.tolerances.pending) && !self.snapshot.parked.contains(seen.id) {
            self.found(Invariant::I8, format!("{who} is being refunded since {since}"));
        }
        if !is_over && !payment.in_recovery_index {
            self.found(Invariant::I8, format!("{who} is being refunded and the recovery cannot find it"));
        }
    }

    /// I3, I8: a charge that is paid for at the provider: both have the money's worth, or neither has.
    fn charge(&mut self, id: &PaymentId, charge: &Charge) {
        let who = format!("charge {id} of {}", charge.user);
        let account = self.snapshot.accounts.get(&charge.user);
        let entries = account.into_iter().flat_map(|account| &account.entries);
        let credits: Vec<i64> = entries.filter(|entry| entry.id == id.as_str()).map(|entry| entry.adds).collect();
        let fits = match charge.status {
            ChargeStatus::Credited => credits == [charge.amount],
            // Between the entry and its record.
            ChargeStatus::Confirmed => credits.is_empty() || credits == [charge.amount],
            _ => credits.is_empty(),
        };
        if !fits {
            let (status, amount) = (charge.status, charge.amount);
            self.found(Invariant::I3, format!("{who} is {status:?} with {amount}, credited were {credits:?}"));
        }
        let key = format!("charge.{}", charge.key);
        let mut entries = account.into_iter().flat_map(|account| &account.entries);
        if let Some(stray) = entries.find(|entry| entry.id == id.as_str() && entry.key != key) {
            self.found(Invariant::I3, format!("{who} is credited as {}, not as {key}", stray.key));
        }
        if charge.in_recovery_index != charge.status.is_open() {
            let status = charge.status;
            self.found(Invariant::I8, format!("{who} is {status:?}, the index of the recovery says otherwise"));
        }
        let stuck = format!("charge-stuck:{id}.");
        let is_listed =
            self.snapshot.outbox.range(stuck.clone()..).next().is_some_and(|(id, _)| id.starts_with(&stuck));
        if charge.status.is_open() && self.late(charge.requested_at, self.tolerances.pending) && !is_listed {
            self.found(Invariant::I8, format!("{who} is {:?} since {}", charge.status, charge.requested_at));
        }
    }

    /// I3: a payment at the provider pays for one charge.
    fn provider_payments(&mut self) {
        let mut paid = BTreeMap::new();
        let took = |charge: &&Charge| matches!(charge.status, ChargeStatus::Confirmed | ChargeStatus::Credited);
        for charge in self.snapshot.charges.values().filter(took) {
            *paid.entry(&charge.payment_key).or_insert(0) += 1;
        }
        for (payment_key, charges) in paid.into_iter().filter(|(_, charges)| *charges > 1) {
            self.found(Invariant::I3, format!("the provider's {payment_key} pays for {charges} charges"));
        }
    }

    /// I3, and I2 for debits that belong to nothing.
    fn ledger(&mut self, user: &UserId, account: &Account) {
        let who = format!("the ledger of {user}");
        let mut entries: Vec<_> = account.entries.iter().collect();
        entries.sort_by_key(|entry| entry.sequence);
        let mut balance = 0_i64;
        for (expected, entry) in (1_u64..).zip(&entries) {
            if entry.sequence != expected {
                self.found(Invariant::I3, format!("{who} has entry {} where {expected} must be", entry.sequence));
            }
            balance = balance.saturating_add(entry.adds);
            if entry.balance_after != balance || balance < 0 {
                let (key, says) = (&entry.key, entry.balance_after);
                self.found(Invariant::I3, format!("{who}: after {key} it adds up to {balance}, the entry says {says}"));
            }
        }
        if balance != account.balance || account.balance < 0 {
            let says = account.balance;
            self.found(Invariant::I3, format!("{who} adds up to {balance}, the balance is {says}"));
        }
        let hot = entries.iter().filter(|entry| !entry.archived).count() as u64;
        if account.sequence != entries.len() as u64 || account.hot != hot {
            let says = format!("the account says {} and {}", account.sequence, account.hot);
            self.found(Invariant::I3, format!("{who} has {} entries, {hot} of them recent; {says}", entries.len()));
        }
        for key in &account.archived_keys {
            if !account.entries.iter().any(|entry| entry.archived && entry.key == *key) {
                self.found(Invariant::I3, format!("{who} has an archived key {key} without its entry"));
            }
        }
        let mut keys = BTreeSet::new();
        for entry in &account.entries {
            if !keys.insert(&entry.key) {
                self.found(Invariant::I3, format!("{who} has {} twice", entry.key));
            }
        }
        for closed in &account.closed {
            let key = if closed.starts_with("charge.") { closed.clone() } else { format!("use.{closed}") };
            if keys.contains(&key) {
                self.found(Invariant::I3, format!("{who} has {key}, which was closed off"));
            }
        }
        for key in keys {
            if let Some(id) = key.strip_prefix("use.").or_else(|| key.strip_prefix("return.")) {
                let paid = PaymentId::parse(id).is_ok_and(|id| self.snapshot.payments.contains_key(&id));
                let order = OrderId::parse(id).ok().and_then(|id| self.snapshot.orders.get(&id));
                let out = PaymentId::parse(id).ok().and_then(|id| self.snapshot.withdrawals.get(&id));
                let paid = paid || out.is_some_and(|out| out.user == *user);
                if !paid && order.is_none_or(|order| order.user != *user) {
                    let which = "no such payment, order or withdrawal of theirs";
                    self.found(Invariant::I2, format!("{who} has {key}, but there is {which}"));
                }
            }
        }
    }

    /// I9: the counts of tickets by user and date.
    fn tickets(&mut self) {
        let mut live: BTreeMap<_, i64> = BTreeMap::new();
        for found in self.snapshot.reservations.values().filter(|found| found.status.is_live()) {
            *live.entry((&found.user, &found.concert, &found.schedule)).or_default() += found.seats.len() as i64;
        }
        let mut counted: BTreeMap<_, i64> = BTreeMap::new();
        for ((user, concert), entitlement) in &self.snapshot.entitlements {
            for (schedule, count) in &entitlement.tickets {
                counted.insert((user, concert, schedule), *count);
            }
        }
        let keys: BTreeSet<_> = live.keys().chain(counted.keys()).copied().collect();
        for key in keys {
            let (are, says) = (live.get(&key).copied().unwrap_or(0), counted.get(&key).copied().unwrap_or(0));
            let (user, _, schedule) = key;
            if are != says {
                self.found(Invariant::I9, format!("{user} has {are} tickets of {schedule}, counted are {says}"));
            }
            let most = self.snapshot.terms.get(schedule).map_or(0, |terms| i64::from(terms.max_per_user));
            if are > most {
                self.found(
                    Invariant::I9,
                    format!("{user} has {are} tickets of {schedule}, at most {most} are allowed"),
                );
            }
        }
    }

    /// I9: what users see of a date equals what reservations has of it.
    fn dates(&mut self) {
        for (id, terms) in &self.snapshot.terms {
            let Some(date) = self.snapshot.dates.get(id) else {
                self.found(Invariant::I9, format!("date {id} is sold and not in the catalogue"));
                continue;
            };
            // Where its seats are kept, is not for users, and the catalogue does not have it.
            if (OpenSchedule { seats_per_block: terms.seats_per_block, ..date.clone() }) != *terms {
                self.found(Invariant::I9, format!("date {id} is sold under other terms than the catalogue has"));
            }
            let row = self.snapshot.date_rows.get(id);
            let total: i64 = terms.sections.iter().map(|section| i64::from(section.seats())).sum();
            if let Some(shown) = row.and_then(|row| row.seats_total)
                && shown != total
            {
                self.found(Invariant::I9, format!("date {id} is shown with {shown} seats and has {total}"));
            }
            for section in &terms.sections {
                let (held, sold) = self.section_map(id, section);
                let name = &section.section;
                let taken = row.and_then(|row| row.taken.get(name)).copied().unwrap_or(0);
                if taken != held + sold {
                    let are = held + sold;
                    self.found(Invariant::I9, format!("section {name} of {id}: {are} taken, the list counts {taken}"));
                }
            }
        }
        for (schedule, section) in self.snapshot.maps.keys() {
            let known = self
                .snapshot
                .terms
                .get(schedule)
                .is_some_and(|terms| terms.sections.iter().any(|found| found.section == *section));
            if !known {
                self.found(Invariant::I9, format!("there is a map of section {section} of {schedule}, which has none"));
            }
        }
    }

    /// Compares a section's map with its seats. Returns how many are held and sold.
    fn section_map(&mut self, schedule: &ScheduleId, section: &Section) -> (i64, i64) {
        let map = self.snapshot.maps.get(&(schedule.clone(), section.section.clone()));
        let name = &section.section;
        let (mut held, mut sold) = (0, 0);
        for index in 0..section.seats() {
            let Some(seat) = section.seat_at(index) else { continue };
            let found = self.snapshot.seats.get(&(schedule.clone(), seat.clone()));
            let code = match found.map(|found| found.state) {
                None => 0,
                Some(SeatState::Held | SeatState::Paying) => {
                    held += 1;
                    1
                }
                Some(SeatState::Sold) => {
                    sold += 1;
                    2
                }
            };
            let shown = map.map_or(0, |map| map.code(index));
            if shown != code {
                let names = ["available", "held", "sold", "corrupt"];
                let (are, see) = (names[code as usize], names[usize::from(shown)]);
                self.found(Invariant::I9, format!("seat {seat} of {schedule} is {are}, the map shows {see}"));
            }
        }
        if let Some(map) = map
            && (map.held, map.sold) != (held, sold)
        {
            let says = format!("the map counts {} held, {} sold", map.held, map.sold);
            self.found(Invariant::I9, format!("section {name} of {schedule}: {held} held, {sold} sold; {says}"));
        }
        (held, sold)
    }
}

#[cfg(test)]
mod tests;
