//! Each invariant is broken by hand, in every way the audit looks for, and has to be found: an audit without findings
//! is worth as much as the proof that it would find them.

use super::super::snapshot::{
    Counter, DateRow, Entitlement, Entry, Line, OutboxRow, Receipt, SectionMap, Stripe, UserPlace,
};
use super::*;
use contracts::admission::{AdmissionPlan, PlanChange, Wave};
use contracts::saga::{PaymentSaga, TokenExpiry};
use contracts::steps::OpenSchedule;
use contracts::{ConcertId, SectionName, Won};

mod orders;

const OPENS: Timestamp = Timestamp::from_millis(1_000_000);
const NOW: Timestamp = OPENS.plus_seconds(1_000);
const PRICE: i64 = 50_000;

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn concert() -> ConcertId {
    ConcertId::parse("c").unwrap()
}

fn date() -> ScheduleId {
    ScheduleId::parse("d").unwrap()
}

fn seat(id: &str) -> (ScheduleId, SeatId) {
    (date(), SeatId::parse(id).unwrap())
}

fn res(name: &str) -> ReservationId {
    ReservationId::parse(format!("r-{name}")).unwrap()
}

fn pay(name: &str) -> PaymentId {
    PaymentId::parse(format!("p-{name}")).unwrap()
}

fn section() -> (ScheduleId, SectionName) {
    (date(), SectionName::parse("A").unwrap())
}

/// The fate of a buyer of [`sane`].
struct Buyer {
    name: &'static str,
    position: u64,
    seats: &'static [&'static str],
    reservation: ReservationStatus,
    payment: Option<PaymentStatus>,
}

const BUYERS: [Buyer; 10] = [
    Buyer {
        name: "alice",
        position: 1,
        seats: &["A-1-1", "A-1-2"],
        reservation: ReservationStatus::Paid,
        payment: Some(PaymentStatus::Completed),
    },
    Buyer { name: "bob", position: 2, seats: &["A-1-3"], reservation: ReservationStatus::Held, payment: None },
    Buyer {
        name: "carol",
        position: 3,
        seats: &["A-1-4"],
        reservation: ReservationStatus::Paying,
        payment: Some(PaymentStatus::Pending),
    },
    Buyer {
        name: "dave",
        position: 4,
        seats: &["A-1-5"],
        reservation: ReservationStatus::Expired,
        payment: Some(PaymentStatus::Failed),
    },
    Buyer { name: "erin", position: 5, seats: &["A-2-1"], reservation: ReservationStatus::Cancelled, payment: None },
    Buyer {
        name: "frank",
        position: 6,
        seats: &["A-2-2"],
        reservation: ReservationStatus::Held,
        payment: Some(PaymentStatus::Failed),
    },
    Buyer {
        name: "grace",
        position: 7,
        seats: &["A-2-4"],
        reservation: ReservationStatus::Refunded,
        payment: Some(PaymentStatus::Refunded),
    },
    Buyer {
        name: "heidi",
        position: 8,
        seats: &["A-2-3"],
        reservation: ReservationStatus::Paid,
        payment: Some(PaymentStatus::Refunding),
    },
    Buyer { name: "ivan", position: 9, seats: &["A-2-4"], reservation: ReservationStatus::Pending, payment: None },
    Buyer { name: "judy", position: 10, seats: &["A-1-1"], reservation: ReservationStatus::Rejected, payment: None },
];

/// Ten buyers of every kind, without a violation.
fn sane() -> Snapshot {
    let block = Section::new(section().1, "VIP".into(), Won::new(PRICE).unwrap(), 2, 5);
    let terms = OpenSchedule::new(date(), concert(), NOW.plus_seconds(86_400), (2, 300), vec![block]);
    let plan = AdmissionPlan::opening(OPENS, 6_000, 600);
    let mut snapshot = Snapshot { now: NOW, ..Snapshot::default() };
    snapshot.terms.insert(date(), terms.clone());
    snapshot.dates.insert(date(), OpenSchedule { seats_per_block: None, ..terms });
    snapshot.enforced_plans.insert(concert(), 1);
    let stripe = Some(Stripe { number: 0, shards: 1, after_position: 0, after_turn: 0 });
    let mut line = Line { plan: Some(plan), stripe, ..Line::default() };
    line.counters.insert((0, 0), Counter { issued: 10, turn: 10 });
    let place = |buyer: &Buyer| UserPlace { place: Some((buyer.position, buyer.position)), vacant: 0 };
    line.places = BUYERS.iter().map(|buyer| (user(buyer.name), place(buyer))).collect();
    snapshot.lines.insert(concert(), line);
    for buyer in &BUYERS {
        add(&mut snapshot, buyer);
    }
    // Two bits a seat: A-1-1, A-1-2 and A-2-3 sold, A-1-3, A-1-4 and A-2-2 held.
    let map = SectionMap { seats: vec![0b01_01_10_10, 0b10_01_00_00, 0], held: 3, sold: 3 };
    snapshot.maps.insert(section(), map);
    let taken = BTreeMap::from([(section().1, 6)]);
    snapshot.date_rows.insert(date(), DateRow { seats_total: Some(10), taken });
    snapshot.dead_letters.insert("hold-expiry-dead-letters".into(), 0);
    for (name, status) in
        [("rich", ChargeStatus::Credited), ("late", ChargeStatus::Confirmed), ("poor", ChargeStatus::Cancelled)]
    {
        add_charge(&mut snapshot, name, status);
    }
    snapshot.receipts.insert(pay("alice"), Receipt { issued: true, cancelled: false });
    snapshot.receipts.insert(pay("grace"), Receipt { issued: true, cancelled: true });
    orders::place(&mut snapshot);
    snapshot
}

fn add_charge(snapshot: &mut Snapshot, name: &str, status: ChargeStatus) {
    let charge = Charge {
        user: user(name),
        key: "k".into(),
        amount: 200_000,
        payment_key: format!("provider-{name}"),
        status,
        requested_at: NOW.plus_seconds(-10),
        in_recovery_index: status.is_open(),
        withdrawn: 0,
    };
    if status == ChargeStatus::Credited {
        let mut credited = account(&[("charge.k".to_owned(), 200_000)]);
        credited.entries[0].id = pay(name).to_string();
        snapshot.accounts.insert(user(name), credited);
        happened(snapshot, format!("p-{name}.charge.completed"));
    }
    if status == ChargeStatus::Cancelled {
        happened(snapshot, format!("p-{name}.charge.cancelled"));
    }
    snapshot.charges.insert(pay(name), charge);
}

/// An event that was published, and consumed by everybody who consumes its type.
fn happened(snapshot: &mut Snapshot, event: String) {
    let event_type = event.split_once('.').unwrap().1.to_owned();
    for consumer in events::consumers_of(&event_type) {
        snapshot.deliveries.insert((consumer.to_owned(), event.clone()), Some(NOW));
    }
    let row = OutboxRow { event_type, wrong: Vec::new(), published: true, happened_at: OPENS, created_at: OPENS };
    snapshot.outbox.insert(event, row);
}

fn add(snapshot: &mut Snapshot, buyer: &Buyer) {
    let (name, status) = (buyer.name, buyer.reservation);
    let seats: Vec<SeatId> = buyer.seats.iter().map(|id| seat(id).1).collect();
    let price = PRICE * seats.len() as i64;
    // A pending request was made just now.
    let made = if status == ReservationStatus::Pending { NOW.plus_seconds(-10) } else { OPENS.plus_seconds(500) };
    // Erin's and dave's holds are over.
    let hold_expires_at = if status.is_live() { NOW.plus_seconds(60) } else { NOW.plus_seconds(-60) };
    let has = buyer.payment.filter(|payment| *payment != PaymentStatus::Failed).map(|_| pay(name));
    snapshot.reservations.insert(
        res(name),
        Reservation {
            user: user(name),
            schedule: date(),
            concert: concert(),
            seats: seats.clone(),
            total_price: price,
            queue_position: buyer.position,
            status,
            hold_expires_at,
            created_at: made,
            payment: has.clone(),
            due_at: (status == ReservationStatus::Held).then_some(hold_expires_at),
            seats_free_at: None,
            extended_from: None,
            in_waiting_index: status == ReservationStatus::Pending,
            withdrawn: status == ReservationStatus::Rejected,
        },
    );
    let events: &[&str] = match status {
        ReservationStatus::Pending => &[],
        ReservationStatus::Rejected => &["rejected"],
        ReservationStatus::Held | ReservationStatus::Paying => &["held"],
        ReservationStatus::Paid => &["held", "paid"],
        ReservationStatus::Refunded => &["held", "paid", "refunded"],
        ReservationStatus::Cancelled => &["held", "cancelled"],
        ReservationStatus::Expired => &["held", "expired"],
    };
    for event in events {
        happened(snapshot, format!("r-{name}.reservation.{event}"));
    }
    add_seats(snapshot, buyer, &seats, hold_expires_at);
    let mut entitlement = Entitlement::default();
    entitlement.tickets.insert(date(), if status.is_live() { seats.len() as i64 } else { 0 });
    if let ReservationStatus::Paid | ReservationStatus::Refunded = status {
        entitlement.spent.insert(buyer.position, made.plus_seconds(20));
    }
    snapshot.entitlements.insert((user(name), concert()), entitlement);
    if let Some(payment) = buyer.payment {
        add_payment(snapshot, buyer, payment, seats, (made, hold_expires_at));
    }
}

fn add_seats(snapshot: &mut Snapshot, buyer: &Buyer, seats: &[SeatId], hold_expires_at: Timestamp) {
    let (name, status) = (buyer.name, buyer.reservation);
    let has = buyer.payment.filter(|payment| *payment != PaymentStatus::Failed).map(|_| pay(name));
    let state = match status {
        ReservationStatus::Held => Some(SeatState::Held),
        ReservationStatus::Paying => Some(SeatState::Paying),
        ReservationStatus::Paid => Some(SeatState::Sold),
        _ => None,
    };
    if let Some(state) = state {
        for id in seats {
            let until = (state != SeatState::Sold).then_some(hold_expires_at);
            let taken = Seat {
                block: Some(0),
                state,
                reservation: res(name),
                user: user(name),
                hold_expires_at: until,
                payment: has.clone(),
            };
            snapshot.seats.insert((date(), id.clone()), taken);
        }
    }
}

fn add_payment(
    snapshot: &mut Snapshot,
    buyer: &Buyer,
    payment: PaymentStatus,
    seats: Vec<SeatId>,
    (made, hold_expires_at): (Timestamp, Timestamp),
) {
    let name = buyer.name;
    let price = PRICE * seats.len() as i64;
    let saga = PaymentSaga {
        payment_id: pay(name),
        user_id: user(name),
        reservation_id: res(name),
        schedule_id: date(),
        concert_id: concert(),
        seats,
        amount: Won::new(price).unwrap(),
        hold_expires_at,
        queue_position: buyer.position,
        token_expiry: TokenExpiry::Event,
        requested_at: made,
        correlation_id: "q".into(),
    };
    let created_at = NOW.plus_seconds(-10);
    let asked = matches!(payment, PaymentStatus::Refunding | PaymentStatus::Refunded).then_some(created_at);
    let record = Payment {
        saga,
        status: payment,
        amount: price,
        created_at,
        refund_requested_at: asked,
        refunded_at: asked.filter(|_| payment == PaymentStatus::Refunded),
        in_recovery_index: matches!(payment, PaymentStatus::Pending | PaymentStatus::Refunding),
    };
    snapshot.payments.insert(pay(name), record);
    let mut ledger = vec![("charge.k".to_owned(), 200_000), (format!("use.p-{name}"), -price)];
    match payment {
        PaymentStatus::Completed | PaymentStatus::Refunding | PaymentStatus::Refunded => {
            happened(snapshot, format!("p-{name}.payment.completed"));
            let line = snapshot.lines.get_mut(&concert()).unwrap();
            line.used.insert((buyer.position, Some(pay(name))));
            if payment == PaymentStatus::Refunded {
                happened(snapshot, format!("p-{name}.payment.refunded"));
                ledger.push((format!("return.p-{name}"), price));
            }
        }
        PaymentStatus::Failed => {
            happened(snapshot, format!("p-{name}.payment.failed"));
            ledger.push((format!("return.p-{name}"), price));
        }
        PaymentStatus::Pending => {}
    }
    snapshot.accounts.insert(user(name), account(&ledger));
}

fn account(ledger: &[(String, i64)]) -> Account {
    let mut account = Account::default();
    for (key, adds) in ledger {
        account.balance += adds;
        account.sequence += 1;
        account.entries.push(Entry {
            key: key.clone(),
            id: key.clone(),
            adds: *adds,
            balance_after: account.balance,
            sequence: account.sequence,
            archived: account.sequence == 1,
        });
    }
    account.hot = account.sequence - 1;
    account
}

#[test]
fn a_world_in_order_gives_no_findings() {
    assert_eq!(check(&sane(), &Tolerances::default()), []);
    assert_eq!(check(&Snapshot::default(), &Tolerances::default()), []);
}

/// Breaks a sane snapshot; the audit has to find it under the invariant.
fn breaks<T>(invariant: Invariant, what: &str, harm: impl FnOnce(&mut Snapshot) -> T) {
    let mut snapshot = sane();
    harm(&mut snapshot);
    let findings = check(&snapshot, &Tolerances::default());
    let hit = findings.iter().any(|found| found.invariant == invariant && found.what.contains(what));
    assert!(hit, "{invariant} `{what}` is not among {findings:#?}");
}

fn reservation<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Reservation {
    snapshot.reservations.get_mut(&res(name)).unwrap()
}

fn payment<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Payment {
    snapshot.payments.get_mut(&pay(name)).unwrap()
}

fn taken<'a>(snapshot: &'a mut Snapshot, id: &str) -> &'a mut Seat {
    snapshot.seats.get_mut(&seat(id)).unwrap()
}

fn line(snapshot: &mut Snapshot) -> &mut Line {
    snapshot.lines.get_mut(&concert()).unwrap()
}

#[test]
fn what_cannot_be_read_is_found() {
    breaks(Invariant::Shape, "odd", |snapshot| snapshot.unreadable.push("an odd item".into()));
}

#[test]
fn i1_a_seat_given_away_under_a_live_hold_is_found() {
    breaks(Invariant::I1, "r-bob of bob is Held, but its seat A-1-3", |snapshot| {
        taken(snapshot, "A-1-3").reservation = res("frank");
    });
    breaks(Invariant::I1, "nobody's", |snapshot| snapshot.seats.remove(&seat("A-1-3")));
}

#[test]
fn i1_a_seat_whose_reservation_is_not_for_it_is_found() {
    breaks(Invariant::I1, "not for this seat", |snapshot| reservation(snapshot, "bob").seats = vec![seat("A-2-4").1]);
    breaks(Invariant::I1, "not for this seat", |snapshot| taken(snapshot, "A-1-3").user = user("mallory"));
    breaks(Invariant::I1, "does not exist in that hall", |snapshot| {
        let stray = taken(snapshot, "A-1-3").clone();
        snapshot.seats.insert(seat("A-9-9"), stray);
    });
    breaks(Invariant::I1, "where nobody looks for it", |snapshot| taken(snapshot, "A-1-3").block = None);
    breaks(Invariant::I1, "another time", |snapshot| taken(snapshot, "A-1-3").hold_expires_at = Some(OPENS));
}

#[test]
fn i1_a_sold_seat_without_a_paid_reservation_and_the_other_way_round_is_found() {
    breaks(Invariant::I1, "(Sold by r-bob): that reservation is Held", |snapshot| {
        taken(snapshot, "A-1-3").state = SeatState::Sold;
    });
    breaks(Invariant::I1, "that reservation is Cancelled", |snapshot| {
        reservation(snapshot, "alice").status = ReservationStatus::Cancelled;
    });
    breaks(Invariant::I1, "r-alice of alice is Paid, but its seat A-1-2", |snapshot| {
        snapshot.seats.remove(&seat("A-1-2"));
    });
    breaks(Invariant::I1, "sold by another payment", |snapshot| taken(snapshot, "A-1-1").payment = Some(pay("dave")));
}

#[test]
fn a_hold_that_is_over_may_lose_its_seats_to_another() {
    let mut snapshot = sane();
    reservation(&mut snapshot, "bob").hold_expires_at = NOW;
    reservation(&mut snapshot, "bob").due_at = Some(NOW);
    taken(&mut snapshot, "A-1-3").hold_expires_at = Some(NOW);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    // Erin takes it over.
    reservation(&mut snapshot, "erin").seats = vec![seat("A-1-3").1];
    reservation(&mut snapshot, "erin").status = ReservationStatus::Held;
    reservation(&mut snapshot, "erin").hold_expires_at = NOW.plus_seconds(60);
    reservation(&mut snapshot, "erin").due_at = Some(NOW.plus_seconds(60));
    let erins = Seat {
        block: Some(0),
        state: SeatState::Held,
        reservation: res("erin"),
        user: user("erin"),
        hold_expires_at: Some(NOW.plus_seconds(60)),
        payment: None,
    };
    snapshot.seats.insert(seat("A-1-3"), erins);
    snapshot.entitlements.get_mut(&(user("erin"), concert())).unwrap().tickets.insert(date(), 1);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

/// Erin gave A-2-1 back; nobody has it until `free_at`.
fn given_back(snapshot: &mut Snapshot, free_at: Timestamp) {
    reservation(snapshot, "erin").seats_free_at = Some(free_at);
    reservation(snapshot, "erin").due_at = Some(free_at);
    let kept = Seat {
        block: Some(0),
        state: SeatState::Held,
        reservation: res("erin"),
        user: user("erin"),
        hold_expires_at: Some(free_at),
        payment: None,
    };
    snapshot.seats.insert(seat("A-2-1"), kept);
    let map = snapshot.maps.get_mut(&section()).unwrap();
    (map.seats[1], map.held) = (0b10_01_01_00, 4);
    snapshot.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 7);
}

#[test]
fn a_seat_that_was_given_back_may_be_nobodys_for_a_while() {
    let mut snapshot = sane();
    given_back(&mut snapshot, NOW.plus_seconds(30));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    // A hold may keep its seats longer than itself, too.
    reservation(&mut snapshot, "bob").seats_free_at = Some(NOW.plus_seconds(90));
    taken(&mut snapshot, "A-1-3").hold_expires_at = Some(NOW.plus_seconds(90));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    // Somebody has taken it since, and the reservation's own row is still to be tidied up.
    given_back(&mut snapshot, NOW.plus_seconds(-1));
    snapshot.seats.remove(&seat("A-2-1"));
    let map = snapshot.maps.get_mut(&section()).unwrap();
    (map.seats[1], map.held) = (0b10_01_00_00, 3);
    snapshot.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 6);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i9_a_seat_that_was_given_back_and_stays_nobodys_is_found() {
    breaks(Invariant::I9, "keeps its seats although they were free at", |snapshot| {
        given_back(snapshot, NOW.plus_seconds(-91));
    });
    breaks(Invariant::I9, "is not free although that reservation is Cancelled", |snapshot| {
        given_back(snapshot, NOW.plus_seconds(30));
        reservation(snapshot, "erin").due_at = None;
    });
    breaks(Invariant::I9, "is not free although that reservation is Cancelled", |snapshot| {
        given_back(snapshot, NOW.plus_seconds(30));
        taken(snapshot, "A-2-1").hold_expires_at = Some(NOW.plus_seconds(3_600));
    });
    breaks(Invariant::I9, "is Cancelled and the sweep finds it", |snapshot| {
        given_back(snapshot, NOW.plus_seconds(30));
        reservation(snapshot, "erin").seats_free_at = None;
    });
    breaks(Invariant::I1, "for another time than its reservation", |snapshot| {
        reservation(snapshot, "bob").seats_free_at = Some(NOW.plus_seconds(90));
    });
    breaks(Invariant::I1, "for another time than its reservation", |snapshot| {
        reservation(snapshot, "bob").seats_free_at = Some(NOW.plus_seconds(59));
        taken(snapshot, "A-1-3").hold_expires_at = Some(NOW.plus_seconds(59));
    });
}

#[test]
fn i2_a_sale_without_exactly_one_completed_payment_is_found() {
    breaks(Invariant::I2, "completed payments of it: []", |snapshot| snapshot.payments.remove(&pay("alice")));
    breaks(Invariant::I2, "PaymentId(\"p-second\")", |snapshot| {
        let second = payment(snapshot, "alice").clone();
        snapshot.payments.insert(pay("second"), second);
    });
    breaks(Invariant::I2, "its reservation r-alice is Some((Held", |snapshot| {
        reservation(snapshot, "alice").status = ReservationStatus::Held;
    });
    breaks(Invariant::I2, "amount 1,", |snapshot| payment(snapshot, "alice").amount = 1);
    breaks(Invariant::I2, "costs 1, but its seats cost Some(100000)", |snapshot| {
        reservation(snapshot, "alice").total_price = 1;
    });
}

#[test]
fn i2_a_sale_without_exactly_one_debit_of_its_price_is_found() {
    let ledger = |lines: &[(&str, i64)]| {
        let lines: Vec<(String, i64)> = lines.iter().map(|(key, adds)| ((*key).to_owned(), *adds)).collect();
        account(&lines)
    };
    breaks(Invariant::I2, "price 100000, debit None", |snapshot| {
        snapshot.accounts.insert(user("alice"), ledger(&[("charge.k", 200_000)]));
    });
    breaks(Invariant::I2, "debit Some(1)", |snapshot| {
        snapshot.accounts.insert(user("alice"), ledger(&[("charge.k", 200_000), ("use.p-alice", -1)]));
    });
    breaks(Invariant::I2, "returned Some(100000)", |snapshot| {
        let lines = [("charge.k", 200_000), ("use.p-alice", -100_000), ("return.p-alice", 100_000)];
        snapshot.accounts.insert(user("alice"), ledger(&lines));
    });
    breaks(Invariant::I2, "use.p-nobody, but there is no such payment", |snapshot| {
        snapshot.accounts.insert(user("bob"), ledger(&[("charge.k", 200_000), ("use.p-nobody", -1)]));
    });
}

#[test]
fn a_sale_between_confirmation_and_record_is_no_finding_until_it_takes_too_long() {
    let mut snapshot = sane();
    snapshot.outbox.remove("p-alice.payment.completed");
    line(&mut snapshot).used.remove(&(1, Some(pay("alice"))));
    let pending = payment(&mut snapshot, "alice");
    pending.status = PaymentStatus::Pending;
    pending.in_recovery_index = true;
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    payment(&mut snapshot, "alice").created_at = NOW.plus_seconds(-301);
    assert!(check(&snapshot, &Tolerances::default()).iter().all(|found| found.invariant == Invariant::I8));
    assert_eq!(check(&snapshot, &Tolerances::default()).len(), 1);
}

#[test]
fn i3_a_ledger_that_does_not_add_up_is_found() {
    let alice =
        |snapshot: &mut Snapshot, harm: fn(&mut Account)| harm(snapshot.accounts.get_mut(&user("alice")).unwrap());
    breaks(Invariant::I3, "the balance is 7", |snapshot| alice(snapshot, |account| account.balance = 7));
    breaks(Invariant::I3, "the entry says 7", |snapshot| {
        alice(snapshot, |account| account.entries[0].balance_after = 7)
    });
    breaks(Invariant::I3, "has entry 3 where 2 must be", |snapshot| {
        alice(snapshot, |account| account.entries[1].sequence = 3);
    });
    breaks(Invariant::I3, "has 1 entries", |snapshot| alice(snapshot, |account| account.entries.truncate(1)));
    breaks(Invariant::I3, "the account says 2 and 9", |snapshot| alice(snapshot, |account| account.hot = 9));
    breaks(Invariant::I3, "adds up to -1", |snapshot| {
        snapshot.accounts.insert(user("bob"), account(&[("charge.k".into(), -1)]));
    });
    breaks(Invariant::I3, "has an archived key use.x without its entry", |snapshot| {
        alice(snapshot, |account| account.archived_keys.extend(["use.x".to_owned()]));
    });
    breaks(Invariant::I3, "has charge.k twice", |snapshot| {
        snapshot.accounts.insert(user("bob"), account(&[("charge.k".into(), 1), ("charge.k".into(), 1)]));
    });
}

#[test]
fn i3_an_entry_with_a_tombstone_is_found() {
    let close = |snapshot: &mut Snapshot, what: &str| {
        snapshot.accounts.get_mut(&user("dave")).unwrap().closed.insert(what.to_owned());
    };
    breaks(Invariant::I3, "has charge.k, which was closed off", |snapshot| close(snapshot, "charge.k"));
    breaks(Invariant::I3, "has use.p-dave, which was closed off", |snapshot| close(snapshot, "p-dave"));
    let mut snapshot = sane();
    close(&mut snapshot, "charge.other");
    close(&mut snapshot, "p-other");
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i2_a_refund_that_gave_back_half_is_found() {
    let ledger = |snapshot: &mut Snapshot, name: &str, lines: &[i64]| {
        let keys = ["charge.k".to_owned(), format!("use.p-{name}"), format!("return.p-{name}")];
        let lines: Vec<(String, i64)> = keys.into_iter().zip(lines.iter().copied()).collect();
        snapshot.accounts.insert(user(name), account(&lines));
    };
    breaks(Invariant::I2, "p-grace of grace is Refunded: price 50000, debit Some(50000), returned None", |snapshot| {
        ledger(snapshot, "grace", &[200_000, -PRICE]);
    });
    breaks(Invariant::I2, "returned Some(1)", |snapshot| ledger(snapshot, "grace", &[200_000, -PRICE, 1]));
    breaks(Invariant::I2, "p-heidi of heidi is Refunding: price 50000, debit Some(50000), returned Some(50000)", |w| {
        ledger(w, "heidi", &[200_000, -PRICE, PRICE]);
    });
    breaks(Invariant::I2, "p-grace of grace is Refunded, its reservation Some(Paid)", |snapshot| {
        reservation(snapshot, "grace").status = ReservationStatus::Paid;
    });
    breaks(Invariant::I2, "p-heidi of heidi is Refunding, its reservation None", |snapshot| {
        reservation(snapshot, "heidi").payment = None;
    });
    breaks(Invariant::I2, "r-grace of grace is refunded, its payment is Some(Completed)", |snapshot| {
        payment(snapshot, "grace").status = PaymentStatus::Completed;
    });
    breaks(Invariant::I1, "(Sold by r-grace): that reservation is Refunded", |snapshot| {
        let kept = Seat { reservation: res("grace"), user: user("grace"), ..taken(snapshot, "A-1-1").clone() };
        snapshot.seats.insert(seat("A-2-4"), kept);
    });
    breaks(Invariant::I7, "is refunded, but its place 7 is not used", |w| {
        line(w).used.remove(&(7, Some(pay("grace"))))
    });
}

/// A refund whose seats are free and whose points are back, and whose record does not show it yet.
#[test]
fn a_refund_between_its_steps_is_no_finding_until_it_takes_too_long() {
    let mut snapshot = sane();
    reservation(&mut snapshot, "heidi").status = ReservationStatus::Refunded;
    happened(&mut snapshot, "r-heidi.reservation.refunded".into());
    snapshot.seats.remove(&seat("A-2-3"));
    snapshot.entitlements.get_mut(&(user("heidi"), concert())).unwrap().tickets.insert(date(), 0);
    snapshot.maps.get_mut(&section()).unwrap().seats[1] = 0b00_01_00_00;
    snapshot.maps.get_mut(&section()).unwrap().sold = 2;
    snapshot.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 5);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    let lines = [("charge.k", 200_000), ("use.p-heidi", -PRICE), ("return.p-heidi", PRICE)];
    snapshot.accounts.insert(user("heidi"), account(&lines.map(|(key, adds)| (key.to_owned(), adds))));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    payment(&mut snapshot, "heidi").refund_requested_at = Some(NOW.plus_seconds(-301));
    let findings = check(&snapshot, &Tolerances::default());
    assert_eq!(findings.len(), 1);
    assert!(findings[0].what.contains("is being refunded since"), "{findings:?}");
    snapshot.parked.insert(pay("heidi"));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i3_a_charge_that_is_paid_and_not_credited_or_the_other_way_round_is_found() {
    let charge =
        |snapshot: &mut Snapshot, name: &str, status| snapshot.charges.get_mut(&pay(name)).unwrap().status = status;
    breaks(Invariant::I3, "p-rich of rich is Credited with 200000, credited were []", |snapshot| {
        snapshot.accounts.remove(&user("rich"));
    });
    breaks(Invariant::I3, "credited were [1]", |snapshot| {
        snapshot.accounts.get_mut(&user("rich")).unwrap().entries[0].adds = 1;
    });
    breaks(Invariant::I3, "is Cancelled with 200000, credited were [200000]", |snapshot| {
        charge(snapshot, "rich", ChargeStatus::Cancelled);
    });
    breaks(Invariant::I3, "is Refused with 200000, credited were [200000]", |snapshot| {
        charge(snapshot, "rich", ChargeStatus::Refused);
    });
    breaks(Invariant::I3, "credited were [200000, 200000]", |snapshot| {
        let again = snapshot.accounts[&user("rich")].entries[0].clone();
        snapshot.accounts.get_mut(&user("rich")).unwrap().entries.push(again);
    });
    breaks(Invariant::I3, "is credited as charge.other, not as charge.k", |snapshot| {
        snapshot.accounts.get_mut(&user("rich")).unwrap().entries[0].key = "charge.other".into();
    });
    breaks(Invariant::I3, "the provider's provider-late pays for 2 charges", |snapshot| {
        snapshot.charges.get_mut(&pay("rich")).unwrap().payment_key = "provider-late".to_owned();
    });
}

/// Rich takes out a part of what was charged; an operator has to pay heidi.
fn withdrawing(status: WithdrawalStatus) -> Snapshot {
    let mut snapshot = sane();
    let withdrawal = Withdrawal {
        user: user("rich"),
        amount: 50_000,
        charge: Some(pay("rich")),
        status,
        requested_at: NOW.plus_seconds(-10),
        in_schedule_index: matches!(
            status,
            WithdrawalStatus::Requested | WithdrawalStatus::Debited | WithdrawalStatus::Returning
        ),
        in_payout_index: false,
    };
    snapshot.withdrawals.insert(pay("out"), withdrawal);
    let is_back = matches!(status, WithdrawalStatus::Returned | WithdrawalStatus::Refused);
    snapshot.charges.get_mut(&pay("rich")).unwrap().withdrawn = if is_back { 0 } else { 50_000 };
    let mut lines = vec![("charge.k".to_owned(), 200_000), ("use.p-out".to_owned(), -50_000)];
    if status == WithdrawalStatus::Returned {
        lines.push(("return.p-out".to_owned(), 50_000));
        happened(&mut snapshot, "p-out.withdrawal.returned".into());
    }
    if status == WithdrawalStatus::Refused {
        lines.pop();
    }
    if status == WithdrawalStatus::Paid {
        happened(&mut snapshot, "p-out.withdrawal.completed".into());
    }
    let mut credited = account(&lines);
    credited.entries[0].id = pay("rich").to_string();
    snapshot.accounts.insert(user("rich"), credited);
    snapshot
}

#[test]
fn i3_points_that_are_taken_out_and_not_paid_or_the_other_way_round_are_found() {
    use WithdrawalStatus as Status;
    for status in
        [Status::Requested, Status::Debited, Status::Paid, Status::Returning, Status::Returned, Status::Refused]
    {
        assert_eq!(check(&withdrawing(status), &Tolerances::default()), [], "{status:?}");
    }
    let found = |snapshot: &Snapshot| {
        check(snapshot, &Tolerances::default()).iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let with = |status, change: &dyn Fn(&mut Snapshot)| {
        let mut snapshot = withdrawing(status);
        change(&mut snapshot);
        found(&snapshot)
    };
    let back = |snapshot: &mut Snapshot| {
        snapshot.accounts.insert(user("rich"), {
            let mut credited = account(&[("charge.k".to_owned(), 200_000)]);
            credited.entries[0].id = pay("rich").to_string();
            credited
        });
    };
    assert!(with(Status::Paid, &back).contains("I3 withdrawal p-out of rich is Paid with 50000, the ledger has 0"));
    assert!(with(Status::Debited, &back).contains("is Debited with 50000, the ledger has 0"));
    let refused = |snapshot: &mut Snapshot| snapshot.withdrawals.get_mut(&pay("out")).unwrap().status = Status::Refused;
    assert!(with(Status::Debited, &refused).contains("is Refused with 50000, the ledger has -50000"));
    let counted = |withdrawn: i64| {
        move |snapshot: &mut Snapshot| snapshot.charges.get_mut(&pay("rich")).unwrap().withdrawn = withdrawn
    };
    assert!(
        with(Status::Paid, &counted(0)).contains("I3 of charge p-rich 50000 of 200000 are taken out, counted are 0")
    );
    assert!(with(Status::Returned, &counted(50_000)).contains("I3 of charge p-rich 0 of 200000 are taken out"));
    let lost = |snapshot: &mut Snapshot| drop(snapshot.outbox.remove("p-out.withdrawal.completed"));
    assert!(with(Status::Paid, &lost).contains("I6 there is no event p-out.withdrawal.completed"));
    let unlisted =
        |snapshot: &mut Snapshot| snapshot.withdrawals.get_mut(&pay("out")).unwrap().in_schedule_index = false;
    assert!(
        with(Status::Debited, &unlisted).contains("I8 withdrawal p-out of rich is Debited, the index says otherwise")
    );
    let old = |snapshot: &mut Snapshot| {
        snapshot.withdrawals.get_mut(&pay("out")).unwrap().requested_at = NOW.plus_seconds(-301)
    };
    assert!(with(Status::Debited, &old).contains("I8 withdrawal p-out of rich is Debited since"));
    // An operator may take their time.
    let payout = |snapshot: &mut Snapshot| {
        let out = snapshot.withdrawals.get_mut(&pay("out")).unwrap();
        (out.charge, out.in_schedule_index, out.in_payout_index) = (None, false, true);
        out.requested_at = NOW.plus_seconds(-100_000);
        snapshot.charges.get_mut(&pay("rich")).unwrap().withdrawn = 0;
    };
    assert_eq!(with(Status::Debited, &payout), "");
}

#[test]
fn i8_a_charge_without_an_end_is_found_unless_it_is_reported_as_stuck() {
    let old =
        |snapshot: &mut Snapshot| snapshot.charges.get_mut(&pay("late")).unwrap().requested_at = NOW.plus_seconds(-301);
    breaks(Invariant::I8, "charge p-late of late is Confirmed since", old);
    breaks(Invariant::I8, "the index of the recovery says otherwise", |snapshot| {
        snapshot.charges.get_mut(&pay("late")).unwrap().in_recovery_index = false;
    });
    let mut snapshot = sane();
    old(&mut snapshot);
    happened(&mut snapshot, "charge-stuck:p-late.7.fault.detected".into());
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i8_a_request_that_is_never_decided_is_found() {
    breaks(Invariant::I8, "r-ivan of ivan is pending since", |snapshot| {
        reservation(snapshot, "ivan").created_at = NOW.plus_seconds(-691);
    });
    breaks(Invariant::I8, "r-ivan of ivan is Pending, the index", |snapshot| {
        reservation(snapshot, "ivan").in_waiting_index = false;
    });
    breaks(Invariant::I8, "r-judy of judy is Rejected, the index", |snapshot| {
        reservation(snapshot, "judy").in_waiting_index = true;
    });
    breaks(Invariant::I9, "is not free although that reservation is Pending", |snapshot| {
        let kept = Seat { reservation: res("ivan"), user: user("ivan"), ..taken(snapshot, "A-1-3").clone() };
        snapshot.seats.insert(seat("A-2-4"), kept);
    });
}

#[test]
fn i6_an_event_that_was_not_consumed_or_is_not_of_the_catalogue_is_found() {
    let event = "p-heidi.payment.completed";
    breaks(Invariant::I6, "push-alimtalk never heard of p-heidi.payment.completed", |snapshot| {
        snapshot.deliveries.remove(&("push-alimtalk".to_owned(), event.to_owned()));
    });
    breaks(Invariant::I6, "notify-partner never heard of p-heidi.payment.completed", |snapshot| {
        snapshot.deliveries.insert(("notify-partner".to_owned(), event.to_owned()), None);
    });
    breaks(Invariant::I6, "is not as the catalogue has it: no time", |snapshot| {
        snapshot.outbox.get_mut(event).unwrap().wrong.push("no time".into());
    });
    breaks(Invariant::I6, "is refunded, its cash receipt stands", |snapshot| {
        snapshot.receipts.get_mut(&pay("grace")).unwrap().cancelled = false;
        payment(snapshot, "grace").refunded_at = Some(NOW.plus_seconds(-301));
    });
    breaks(Invariant::I6, "is Some(Completed), its cash receipt is cancelled", |snapshot| {
        snapshot.receipts.get_mut(&pay("alice")).unwrap().cancelled = true;
    });
    let refunded = ("issue-cash-receipt".to_owned(), "p-alice.payment.refunded".to_owned());
    let mut snapshot = sane();
    snapshot.receipts.get_mut(&pay("alice")).unwrap().cancelled = true;
    snapshot.deliveries.insert(refunded, Some(NOW));
    assert_eq!(check(&snapshot, &Tolerances::default()), [], "it was refunded after its table was read");
    // A disabled consumer consumes nothing, and events take a moment.
    let mut snapshot = sane();
    snapshot.deliveries.retain(|(consumer, _), _| consumer != "push-alimtalk");
    snapshot.outbox.get_mut(event).unwrap().created_at = NOW.plus_seconds(-10);
    snapshot.deliveries.remove(&("notify-partner".to_owned(), event.to_owned()));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i4_a_seat_lost_while_it_is_being_paid_is_found() {
    let lost = "r-carol of carol is Paying, but its seat A-1-4";
    breaks(Invariant::I4, lost, |snapshot| snapshot.seats.remove(&seat("A-1-4")));
    breaks(Invariant::I4, lost, |snapshot| taken(snapshot, "A-1-4").reservation = res("bob"));
    breaks(Invariant::I4, lost, |snapshot| taken(snapshot, "A-1-4").state = SeatState::Held);
    breaks(Invariant::I4, lost, |snapshot| taken(snapshot, "A-1-4").payment = Some(pay("dave")));
    for back in [PaymentStatus::Refunding, PaymentStatus::Refunded] {
        breaks(Invariant::I4, "is being paid by a refunded payment", |snapshot| {
            payment(snapshot, "carol").status = back
        });
    }
}

#[test]
fn i5_what_a_failed_payment_leaves_behind_is_found() {
    breaks(Invariant::I5, "debit Some(50000), returned None", |snapshot| {
        let ledger = [("charge.k".to_owned(), 200_000), ("use.p-dave".to_owned(), -PRICE)];
        snapshot.accounts.insert(user("dave"), account(&ledger));
    });
    breaks(Invariant::I5, "debit None, returned Some(50000)", |snapshot| {
        snapshot.accounts.insert(user("dave"), account(&[("return.p-dave".to_owned(), PRICE)]));
    });
    breaks(Invariant::I5, "reservation r-frank is Held by it", |snapshot| {
        reservation(snapshot, "frank").payment = Some(pay("frank"));
    });
    breaks(Invariant::I5, "still has seat A-2-2", |snapshot| taken(snapshot, "A-2-2").payment = Some(pay("frank")));
    breaks(Invariant::I5, "place 4 is used by it", |snapshot| line(snapshot).used.insert((4, Some(pay("dave")))));
}

#[test]
fn i9_a_hold_that_expired_before_its_end_is_found() {
    breaks(Invariant::I9, "is expired before its end", |snapshot| {
        reservation(snapshot, "dave").hold_expires_at = NOW.plus_seconds(30);
    });
}

#[test]
fn i6_i9_a_hold_that_was_extended_too_far_or_without_its_event_is_found() {
    let extended = |snapshot: &mut Snapshot, by: i64| {
        let from = reservation(snapshot, "bob").hold_expires_at.plus_seconds(-by);
        reservation(snapshot, "bob").extended_from = Some(from);
        happened(snapshot, "r-bob.reservation.extended".to_owned());
    };
    let mut snapshot = sane();
    extended(&mut snapshot, 1_800);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    for by in [0, -1, 1_801] {
        breaks(Invariant::I9, "was extended from", |snapshot| extended(snapshot, by));
    }
    breaks(Invariant::I6, "there is no event r-bob.reservation.extended", |snapshot| {
        extended(snapshot, 300);
        snapshot.outbox.remove("r-bob.reservation.extended");
    });
}

#[test]
fn i6_an_event_that_is_missing_late_or_dead_is_found() {
    breaks(Invariant::I6, "3 messages", |snapshot| snapshot.dead_letters.insert("token-expiry-dead-letters".into(), 3));
    breaks(Invariant::I6, "is not published", |snapshot| {
        snapshot.outbox.get_mut("r-bob.reservation.held").unwrap().published = false;
    });
    for event in [
        "r-bob.reservation.held",
        "r-alice.reservation.paid",
        "r-erin.reservation.cancelled",
        "r-dave.reservation.expired",
        "p-alice.payment.completed",
        "p-dave.payment.failed",
        "r-judy.reservation.rejected",
        "r-grace.reservation.paid",
        "r-grace.reservation.refunded",
        "p-grace.payment.completed",
        "p-grace.payment.refunded",
        "p-heidi.payment.completed",
        "p-rich.charge.completed",
        "p-poor.charge.cancelled",
    ] {
        breaks(Invariant::I6, event, |snapshot| snapshot.outbox.remove(event));
    }
}

#[test]
fn i6_covers_every_event_type_that_notifications_consumes() {
    let mut consumed = 0;
    for name in contracts::events::EventBody::TYPES {
        for consumer in events::consumers_of(name) {
            consumed += 1;
            breaks(Invariant::I6, &format!("{consumer} never heard of some.{name}"), |snapshot| {
                happened(snapshot, format!("some.{name}"));
                happened(snapshot, format!("another.{name}"));
                snapshot.deliveries.remove(&(consumer.to_owned(), format!("some.{name}")))
            });
        }
    }
    assert!(consumed > 30, "the consumers are found");
    assert_eq!(events::consumers_of("payment.completed").count(), 4);
    assert_eq!(events::consumers_of("stock.deducted").count(), 0, "orders consumes it");
}

#[test]
fn i6_a_change_of_a_plan_without_its_event_is_found() {
    breaks(Invariant::I6, "there is no event c.7.admission.changed", |snapshot| {
        let plan = line(snapshot).plan.as_mut().unwrap();
        (plan.version, plan.changed_at) = (7, OPENS);
        snapshot.enforced_plans.insert(concert(), 7)
    });
}

#[test]
fn an_event_just_made_may_wait_to_be_published() {
    let mut snapshot = sane();
    happened(&mut snapshot, "new.fault.detected".into());
    let new = snapshot.outbox.get_mut("new.fault.detected").unwrap();
    (new.published, new.happened_at, new.created_at) = (false, NOW.plus_seconds(-10), NOW.plus_seconds(-10));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn an_event_that_is_published_again_waits_for_the_sweep_however_strict_the_audit_is() {
    let strict = Tolerances { unpublished: Duration::ZERO, ..Tolerances::default() };
    let mut snapshot = Snapshot { now: NOW, ..Snapshot::default() };
    happened(&mut snapshot, "o.order.placed".into());
    let again = snapshot.outbox.get_mut("o.order.placed").unwrap();
    (again.published, again.created_at) = (false, NOW.plus_seconds(-149));
    assert_eq!(check(&snapshot, &strict), []);
    snapshot.now = NOW.plus_seconds(2);
    assert_eq!(check(&snapshot, &strict).len(), 1);
}

#[test]
fn i7_a_place_that_two_have_or_no_counter_gave_out_is_found() {
    breaks(Invariant::I7, "place 1 of c was used by {UserId(\"alice\"), UserId(\"bob\")}", |snapshot| {
        reservation(snapshot, "bob").queue_position = 1;
    });
    breaks(Invariant::I7, "place 11 of c was never given out", |snapshot| {
        reservation(snapshot, "bob").queue_position = 11;
    });
    breaks(Invariant::I7, "place 0 of c was never given out", |snapshot| {
        reservation(snapshot, "bob").queue_position = 0;
    });
    breaks(Invariant::I7, "has counters [(0, 0)] of", |snapshot| line(snapshot).stripe.as_mut().unwrap().shards = 2);
}

#[test]
fn places_of_several_counters_are_told_apart() {
    let mut snapshot = sane();
    // Places 1 to 4 of the first counter; then 5, 7, 9 and 6, 8, 10.
    let line = line(&mut snapshot);
    line.stripe = Some(Stripe { number: 1, shards: 2, after_position: 4, after_turn: 4 });
    line.counters.insert((0, 0), Counter { issued: 4, turn: 4 });
    line.counters.extend((0..2).map(|shard| ((1, shard), Counter { issued: 3, turn: 3 })));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    self::line(&mut snapshot).counters.get_mut(&(1, 1)).unwrap().issued = 2;
    let findings = check(&snapshot, &Tolerances::default());
    assert_eq!(findings.len(), 1);
    assert!(findings[0].what.contains("place 10 of c was never given out"), "{findings:?}");
}

#[test]
fn i7_a_place_used_before_its_turn_is_found() {
    breaks(Invariant::I7, "whose turn came at", |snapshot| {
        reservation(snapshot, "bob").created_at = OPENS.plus_millis(9);
    });
    breaks(Invariant::I7, "whose turn has not come", |snapshot| {
        let plan = line(snapshot).plan.as_mut().unwrap();
        plan.segments[0].rate_per_minute = 0;
    });
}

#[test]
fn a_change_of_the_plan_after_a_reservation_is_no_finding_about_it() {
    let mut snapshot = sane();
    snapshot.reservations.remove(&res("ivan"));
    let plan = line(&mut snapshot).plan.as_mut().unwrap();
    let pause = PlanChange { opens_at: OPENS, rate_per_minute: 0, active_seconds: 600, max_active: None };
    // Made at 500 s, in a position that was admitted by then; paused at 499 s.
    *plan = plan.changed(0, OPENS.plus_seconds(499), pause).unwrap();
    snapshot.enforced_plans.insert(concert(), 2);
    happened(&mut snapshot, "c.2.admission.changed".into());
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

/// The plan after a cap was set.
fn capped(snapshot: &mut Snapshot, at: Timestamp) -> &mut Line {
    snapshot.enforced_plans.insert(concert(), 2);
    let line = line(snapshot);
    let cap = PlanChange { opens_at: OPENS, rate_per_minute: 6_000, active_seconds: 600, max_active: Some(5) };
    line.plan = line.plan.as_ref().unwrap().changed(0, at, cap);
    line.is_gated = true;
    happened(snapshot, "c.2.admission.changed".into());
    self::line(snapshot)
}

#[test]
fn a_cap_that_was_set_later_is_no_finding_about_those_who_were_inside() {
    let mut snapshot = sane();
    capped(&mut snapshot, NOW);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i7_a_gate_that_nobody_looks_at_and_a_place_that_it_did_not_let_in_are_found() {
    breaks(Invariant::I7, "is not listed", |snapshot| capped(snapshot, NOW).is_gated = false);
    breaks(Invariant::I7, "which was not let in", |snapshot| {
        capped(snapshot, OPENS.plus_seconds(-60));
    });
}

/// A line whose last wave came at `at`, and is not enforced.
fn waved(snapshot: &mut Snapshot, at: Timestamp) {
    let line = capped(snapshot, NOW.plus_seconds(-60));
    let plan = line.plan.as_mut().unwrap();
    plan.gate.as_mut().unwrap().waves.push(Wave { last_position: 9, at, active_seconds: 600 });
    plan.version += 1;
}

#[test]
fn a_wave_that_is_on_its_way_to_reservations_is_no_finding_unless_it_stays_so() {
    let mut snapshot = sane();
    waved(&mut snapshot, NOW.plus_seconds(-9));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    breaks(Invariant::I7, "reservations enforces Some(2)", |snapshot| waved(snapshot, NOW.plus_seconds(-10)));
    breaks(Invariant::I7, "reservations enforces Some(1)", |snapshot| {
        waved(snapshot, NOW);
        snapshot.enforced_plans.insert(concert(), 1);
    });
}

#[test]
fn i7_a_place_that_was_not_spent_or_spent_and_used_again_is_found() {
    breaks(Invariant::I7, "place 1 is not used", |snapshot| line(snapshot).used.clear());
    breaks(Invariant::I7, "does not count as spent", |snapshot| {
        snapshot.entitlements.get_mut(&(user("alice"), concert())).unwrap().spent.clear();
    });
    breaks(Invariant::I7, "spent at", |snapshot| {
        snapshot.entitlements.get_mut(&(user("bob"), concert())).unwrap().spent.insert(2, OPENS);
    });
    breaks(Invariant::I7, "which does not exist", |snapshot| line(snapshot).used.insert((3, Some(pay("nobody")))));
}

#[test]
fn i7_a_plan_that_is_not_enforced_is_found() {
    breaks(Invariant::I7, "reservations enforces Some(2)", |snapshot| snapshot.enforced_plans.insert(concert(), 2));
    breaks(Invariant::I7, "reservations enforces None", |snapshot| snapshot.enforced_plans.clear());
    breaks(Invariant::I7, "has no waiting room", |snapshot| snapshot.lines.clear());
}

#[test]
fn i8_a_payment_without_an_end_is_found_unless_it_is_listed_as_stuck() {
    let old = |snapshot: &mut Snapshot| payment(snapshot, "carol").created_at = NOW.plus_seconds(-301);
    breaks(Invariant::I8, "payment p-carol of carol is pending since", old);
    let mut snapshot = sane();
    old(&mut snapshot);
    snapshot.parked.insert(pay("carol"));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i8_a_payment_that_the_recovery_would_miss_or_repeat_is_found() {
    breaks(Invariant::I8, "the recovery cannot find it", |snapshot| {
        payment(snapshot, "carol").in_recovery_index = false
    });
    breaks(Invariant::I8, "p-heidi of heidi is being refunded and the recovery cannot find it", |snapshot| {
        payment(snapshot, "heidi").in_recovery_index = false;
    });
    breaks(Invariant::I8, "and the recovery finds it", |snapshot| payment(snapshot, "alice").in_recovery_index = true);
    breaks(Invariant::I8, "which does not exist", |snapshot| snapshot.payments.remove(&pay("carol")));
}

#[test]
fn i9_a_seat_that_is_neither_held_nor_sold_nor_free_is_found() {
    breaks(Invariant::I9, "there is no such reservation", |snapshot| snapshot.reservations.remove(&res("bob")));
    breaks(Invariant::I9, "is not free although that reservation is Cancelled", |snapshot| {
        reservation(snapshot, "bob").status = ReservationStatus::Cancelled;
    });
    breaks(Invariant::I9, "is still held although that was over", |snapshot| {
        reservation(snapshot, "bob").hold_expires_at = NOW.plus_seconds(-91);
    });
    breaks(Invariant::I9, "the sweep of overdue holds cannot find it", |snapshot| {
        reservation(snapshot, "bob").due_at = None;
    });
    breaks(Invariant::I9, "is Paid and the sweep finds it", |snapshot| {
        reservation(snapshot, "alice").due_at = Some(NOW);
    });
}

#[test]
fn i9_a_count_of_tickets_that_drifted_is_found() {
    let tickets = |snapshot: &mut Snapshot, name: &str, count: i64| {
        snapshot.entitlements.get_mut(&(user(name), concert())).unwrap().tickets.insert(date(), count);
    };
    breaks(Invariant::I9, "alice has 2 tickets of d, counted are 1", |snapshot| tickets(snapshot, "alice", 1));
    breaks(Invariant::I9, "erin has 0 tickets of d, counted are 1", |snapshot| tickets(snapshot, "erin", 1));
    breaks(Invariant::I9, "bob has 1 tickets of d, counted are 0", |snapshot| snapshot.entitlements.clear());
    breaks(Invariant::I9, "at most 1 are allowed", |snapshot| {
        snapshot.terms.get_mut(&date()).unwrap().max_per_user = 1
    });
}

#[test]
fn i9_a_map_or_count_that_drifted_is_found() {
    breaks(Invariant::I9, "seat A-1-1 of d is sold, the map shows available", |snapshot| snapshot.maps.clear());
    breaks(Invariant::I9, "seat A-2-5 of d is available, the map shows held", |snapshot| {
        snapshot.maps.get_mut(&section()).unwrap().seats[2] = 0b01_00;
    });
    breaks(Invariant::I9, "the map counts 9 held", |snapshot| snapshot.maps.get_mut(&section()).unwrap().held = 9);
    breaks(Invariant::I9, "6 taken, the list counts 4", |snapshot| {
        snapshot.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 4);
    });
    breaks(Invariant::I9, "shown with 9 seats and has 10", |snapshot| {
        snapshot.date_rows.get_mut(&date()).unwrap().seats_total = Some(9);
    });
    breaks(Invariant::I9, "not in the catalogue", |snapshot| snapshot.dates.clear());
    breaks(Invariant::I9, "under other terms", |snapshot| snapshot.dates.get_mut(&date()).unwrap().hold_seconds = 1);
    breaks(Invariant::I9, "which has none", |snapshot| {
        let stray = snapshot.maps[&section()].clone();
        snapshot.maps.insert((date(), SectionName::parse("Z").unwrap()), stray);
    });
}

#[test]
fn i16_a_turn_that_two_have_or_that_is_nobodys_is_found() {
    let place = |position| UserPlace { place: Some((position, position)), vacant: 0 };
    let crowd = |snapshot: &mut Snapshot| {
        let line = line(snapshot);
        line.plan.as_mut().unwrap().segments[0].rate_per_minute = 0;
        line.places = (1..=10).map(|position| (user(&format!("u{position}")), place(position))).collect();
    };
    let i16 = |change: &dyn Fn(&mut Line)| {
        let mut snapshot = sane();
        snapshot.reservations.clear();
        crowd(&mut snapshot);
        change(line(&mut snapshot));
        let findings = check(&snapshot, &Tolerances::default());
        findings
            .into_iter()
            .filter(|found| found.invariant == Invariant::I16)
            .map(|found| found.what)
            .collect::<Vec<_>>()
    };
    assert_eq!(i16(&|_| {}), Vec::<String>::new());
    let twice = i16(&|line| line.places.get_mut(&user("u2")).unwrap().place = Some((2, 1)));
    assert!(twice[0].contains("turn 1 of c is that of"), "{twice:?}");
    let gone = i16(&|line| line.places.retain(|user, _| user.as_str() != "u2"));
    assert_eq!(gone, ["1 of 10 turns to come in c are nobody's, 0 places were given up or lost"]);
    assert_eq!(i16(&|line| line.places.get_mut(&user("u2")).unwrap().place = None), Vec::<String>::new());
    let rejoined = i16(&|line| {
        line.counters.insert((0, 0), Counter { issued: 11, turn: 11 });
        line.places.insert(user("u2"), UserPlace { place: Some((11, 11)), vacant: 1 });
    });
    assert_eq!(rejoined, Vec::<String>::new());
}
