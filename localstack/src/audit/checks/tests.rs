//! Each invariant is broken by hand, in every way the audit looks for, and has to be found: an audit that finds
//! nothing is worth as much as the proof that it would.

use super::super::world::{DateRow, Entitlement, Entry, Line, OutboxRow, Receipt, SectionMap, Shard};
use super::*;
use contracts::admission::PlanChange;
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

/// What becomes of a buyer of [`sane`].
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

/// Ten buyers of every kind, everything as it must be.
fn sane() -> World {
    let terms = OpenSchedule {
        schedule_id: date(),
        concert_id: concert(),
        starts_at: NOW.plus_seconds(86_400),
        max_per_user: 2,
        hold_seconds: 300,
        refundable_until: None,
        sections: vec![Section {
            section: section().1,
            grade: "VIP".into(),
            price: Won::new(PRICE).unwrap(),
            rows: 2,
            seats_per_row: 5,
        }],
    };
    let plan = AdmissionPlan::opening(OPENS, 6_000, 600);
    let mut world = World { now: NOW, ..World::default() };
    world.terms.insert(date(), terms.clone());
    world.dates.insert(date(), terms);
    world.enforced_plans.insert(concert(), 1);
    let mut line = Line::default();
    line.shards.insert(0, Shard { issued: 10, shards: 1, plan });
    world.lines.insert(concert(), line);
    for buyer in &BUYERS {
        add(&mut world, buyer);
    }
    // Two bits a seat: A-1-1, A-1-2 and A-2-3 sold, A-1-3, A-1-4 and A-2-2 held.
    let map = SectionMap { seats: vec![0b01_01_10_10, 0b10_01_00_00, 0], held: 3, sold: 3 };
    world.maps.insert(section(), map);
    let taken = BTreeMap::from([(section().1, 6)]);
    world.date_rows.insert(date(), DateRow { seats_total: Some(10), taken });
    world.dead_letters.insert("hold-expiry-dead-letters".into(), 0);
    for (name, status) in
        [("rich", ChargeStatus::Credited), ("late", ChargeStatus::Confirmed), ("poor", ChargeStatus::Cancelled)]
    {
        add_charge(&mut world, name, status);
    }
    for consumer in ["push-alimtalk", "notify-partner"] {
        for sale in ["alice", "grace", "heidi"] {
            let event = format!("p-{sale}.payment.completed");
            world.deliveries.insert((consumer.into(), event), Some(NOW));
        }
    }
    world.receipts.insert(pay("alice"), Receipt { issued: true, cancelled: false });
    world.receipts.insert(pay("grace"), Receipt { issued: true, cancelled: true });
    orders::place(&mut world);
    world
}

fn add_charge(world: &mut World, name: &str, status: ChargeStatus) {
    let charge = Charge {
        user: user(name),
        key: "k".into(),
        amount: 200_000,
        payment_key: format!("provider-{name}"),
        status,
        requested_at: NOW.plus_seconds(-10),
        in_recovery_index: status.is_open(),
    };
    if status == ChargeStatus::Credited {
        let mut credited = account(&[("charge.k".to_owned(), 200_000)]);
        credited.entries[0].id = pay(name).to_string();
        world.accounts.insert(user(name), credited);
        happened(world, format!("p-{name}.charge.completed"));
    }
    if status == ChargeStatus::Cancelled {
        happened(world, format!("p-{name}.charge.cancelled"));
    }
    world.claims.insert(charge.payment_key.clone(), pay(name));
    world.charges.insert(pay(name), charge);
}

fn happened(world: &mut World, event: String) {
    let event_type = event.split_once('.').unwrap().1.to_owned();
    let row = OutboxRow { event_type, wrong: Vec::new(), published: true, happened_at: OPENS, created_at: OPENS };
    world.outbox.insert(event, row);
}

fn add(world: &mut World, buyer: &Buyer) {
    let (name, status) = (buyer.name, buyer.reservation);
    let seats: Vec<SeatId> = buyer.seats.iter().map(|id| seat(id).1).collect();
    let price = PRICE * seats.len() as i64;
    // What is to be decided was asked for just now.
    let made = if status == ReservationStatus::Pending { NOW.plus_seconds(-10) } else { OPENS.plus_seconds(500) };
    // Erin's and dave's holds are over.
    let hold_expires_at = if status.is_live() { NOW.plus_seconds(60) } else { NOW.plus_seconds(-60) };
    let has = buyer.payment.filter(|payment| *payment != PaymentStatus::Failed).map(|_| pay(name));
    world.reservations.insert(
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
        happened(world, format!("r-{name}.reservation.{event}"));
    }
    add_seats(world, buyer, &seats, hold_expires_at);
    let mut entitlement = Entitlement::default();
    entitlement.tickets.insert(date(), if status.is_live() { seats.len() as i64 } else { 0 });
    if let ReservationStatus::Paid | ReservationStatus::Refunded = status {
        entitlement.spent.insert(buyer.position, made.plus_seconds(20));
    }
    world.entitlements.insert((user(name), concert()), entitlement);
    if let Some(payment) = buyer.payment {
        add_payment(world, buyer, payment, seats, (made, hold_expires_at));
    }
}

fn add_seats(world: &mut World, buyer: &Buyer, seats: &[SeatId], hold_expires_at: Timestamp) {
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
            let taken =
                Seat { state, reservation: res(name), user: user(name), hold_expires_at: until, payment: has.clone() };
            world.seats.insert((date(), id.clone()), taken);
        }
    }
}

fn add_payment(
    world: &mut World,
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
    world.payments.insert(pay(name), record);
    let mut ledger = vec![("charge.k".to_owned(), 200_000), (format!("use.p-{name}"), -price)];
    match payment {
        PaymentStatus::Completed | PaymentStatus::Refunding | PaymentStatus::Refunded => {
            happened(world, format!("p-{name}.payment.completed"));
            let line = world.lines.get_mut(&concert()).unwrap();
            line.used.insert((buyer.position, pay(name)));
            if payment == PaymentStatus::Refunded {
                happened(world, format!("p-{name}.payment.refunded"));
                ledger.push((format!("return.p-{name}"), price));
            }
        }
        PaymentStatus::Failed => {
            happened(world, format!("p-{name}.payment.failed"));
            ledger.push((format!("return.p-{name}"), price));
        }
        PaymentStatus::Pending => {}
    }
    world.accounts.insert(user(name), account(&ledger));
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
    assert_eq!(check(&sane(), &Graces::default()), []);
    assert_eq!(check(&World::default(), &Graces::default()), []);
}

/// Breaks a sane world; the audit has to find it under the invariant.
fn breaks<T>(invariant: Invariant, what: &str, harm: impl FnOnce(&mut World) -> T) {
    let mut world = sane();
    harm(&mut world);
    let findings = check(&world, &Graces::default());
    let hit = findings.iter().any(|found| found.invariant == invariant && found.what.contains(what));
    assert!(hit, "{invariant} `{what}` is not among {findings:#?}");
}

fn reservation<'a>(world: &'a mut World, name: &str) -> &'a mut Reservation {
    world.reservations.get_mut(&res(name)).unwrap()
}

fn payment<'a>(world: &'a mut World, name: &str) -> &'a mut Payment {
    world.payments.get_mut(&pay(name)).unwrap()
}

fn taken<'a>(world: &'a mut World, id: &str) -> &'a mut Seat {
    world.seats.get_mut(&seat(id)).unwrap()
}

fn line(world: &mut World) -> &mut Line {
    world.lines.get_mut(&concert()).unwrap()
}

#[test]
fn what_cannot_be_read_is_found() {
    breaks(Invariant::Shape, "odd", |world| world.unreadable.push("an odd item".into()));
}

#[test]
fn i1_a_seat_given_away_under_a_live_hold_is_found() {
    breaks(Invariant::I1, "r-bob of bob is Held, but its seat A-1-3", |world| {
        taken(world, "A-1-3").reservation = res("frank");
    });
    breaks(Invariant::I1, "nobody's", |world| world.seats.remove(&seat("A-1-3")));
}

#[test]
fn i1_a_seat_whose_reservation_is_not_for_it_is_found() {
    breaks(Invariant::I1, "not for this seat", |world| reservation(world, "bob").seats = vec![seat("A-2-4").1]);
    breaks(Invariant::I1, "not for this seat", |world| taken(world, "A-1-3").user = user("mallory"));
    breaks(Invariant::I1, "does not exist in that hall", |world| {
        let stray = taken(world, "A-1-3").clone();
        world.seats.insert(seat("A-9-9"), stray);
    });
    breaks(Invariant::I1, "another time", |world| taken(world, "A-1-3").hold_expires_at = Some(OPENS));
}

#[test]
fn i1_a_sold_seat_without_a_paid_reservation_and_the_other_way_round_is_found() {
    breaks(Invariant::I1, "(Sold by r-bob): that reservation is Held", |world| {
        taken(world, "A-1-3").state = SeatState::Sold;
    });
    breaks(Invariant::I1, "that reservation is Cancelled", |world| {
        reservation(world, "alice").status = ReservationStatus::Cancelled;
    });
    breaks(Invariant::I1, "r-alice of alice is Paid, but its seat A-1-2", |world| {
        world.seats.remove(&seat("A-1-2"));
    });
    breaks(Invariant::I1, "sold by another payment", |world| taken(world, "A-1-1").payment = Some(pay("dave")));
}

#[test]
fn a_hold_that_is_over_may_lose_its_seats_to_somebody_else() {
    let mut world = sane();
    reservation(&mut world, "bob").hold_expires_at = NOW;
    reservation(&mut world, "bob").due_at = Some(NOW);
    taken(&mut world, "A-1-3").hold_expires_at = Some(NOW);
    assert_eq!(check(&world, &Graces::default()), []);
    // Erin takes it over.
    reservation(&mut world, "erin").seats = vec![seat("A-1-3").1];
    reservation(&mut world, "erin").status = ReservationStatus::Held;
    reservation(&mut world, "erin").hold_expires_at = NOW.plus_seconds(60);
    reservation(&mut world, "erin").due_at = Some(NOW.plus_seconds(60));
    let erins = Seat {
        state: SeatState::Held,
        reservation: res("erin"),
        user: user("erin"),
        hold_expires_at: Some(NOW.plus_seconds(60)),
        payment: None,
    };
    world.seats.insert(seat("A-1-3"), erins);
    world.entitlements.get_mut(&(user("erin"), concert())).unwrap().tickets.insert(date(), 1);
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i2_a_sale_without_exactly_one_completed_payment_is_found() {
    breaks(Invariant::I2, "completed payments of it: []", |world| world.payments.remove(&pay("alice")));
    breaks(Invariant::I2, "PaymentId(\"p-second\")", |world| {
        let second = payment(world, "alice").clone();
        world.payments.insert(pay("second"), second);
    });
    breaks(Invariant::I2, "its reservation r-alice is Some((Held", |world| {
        reservation(world, "alice").status = ReservationStatus::Held;
    });
    breaks(Invariant::I2, "amount 1,", |world| payment(world, "alice").amount = 1);
    breaks(Invariant::I2, "costs 1, but its seats cost Some(100000)", |world| {
        reservation(world, "alice").total_price = 1;
    });
}

#[test]
fn i2_a_sale_without_exactly_one_debit_of_its_price_is_found() {
    let ledger = |lines: &[(&str, i64)]| {
        let lines: Vec<(String, i64)> = lines.iter().map(|(key, adds)| ((*key).to_owned(), *adds)).collect();
        account(&lines)
    };
    breaks(Invariant::I2, "price 100000, debit None", |world| {
        world.accounts.insert(user("alice"), ledger(&[("charge.k", 200_000)]));
    });
    breaks(Invariant::I2, "debit Some(1)", |world| {
        world.accounts.insert(user("alice"), ledger(&[("charge.k", 200_000), ("use.p-alice", -1)]));
    });
    breaks(Invariant::I2, "returned Some(100000)", |world| {
        let lines = [("charge.k", 200_000), ("use.p-alice", -100_000), ("return.p-alice", 100_000)];
        world.accounts.insert(user("alice"), ledger(&lines));
    });
    breaks(Invariant::I2, "use.p-nobody, but there is no such payment", |world| {
        world.accounts.insert(user("bob"), ledger(&[("charge.k", 200_000), ("use.p-nobody", -1)]));
    });
}

#[test]
fn a_sale_between_confirmation_and_record_is_no_finding_until_it_takes_too_long() {
    let mut world = sane();
    world.outbox.remove("p-alice.payment.completed");
    line(&mut world).used.remove(&(1, pay("alice")));
    let pending = payment(&mut world, "alice");
    pending.status = PaymentStatus::Pending;
    pending.in_recovery_index = true;
    assert_eq!(check(&world, &Graces::default()), []);
    payment(&mut world, "alice").created_at = NOW.plus_seconds(-301);
    assert!(check(&world, &Graces::default()).iter().all(|found| found.invariant == Invariant::I8));
    assert_eq!(check(&world, &Graces::default()).len(), 1);
}

#[test]
fn i3_a_ledger_that_does_not_add_up_is_found() {
    let alice = |world: &mut World, harm: fn(&mut Account)| harm(world.accounts.get_mut(&user("alice")).unwrap());
    breaks(Invariant::I3, "the balance is 7", |world| alice(world, |account| account.balance = 7));
    breaks(Invariant::I3, "the entry says 7", |world| alice(world, |account| account.entries[0].balance_after = 7));
    breaks(Invariant::I3, "has entry 3 where 2 must be", |world| {
        alice(world, |account| account.entries[1].sequence = 3);
    });
    breaks(Invariant::I3, "has 1 entries", |world| alice(world, |account| account.entries.truncate(1)));
    breaks(Invariant::I3, "the account says 2 and 9", |world| alice(world, |account| account.hot = 9));
    breaks(Invariant::I3, "adds up to -1", |world| {
        world.accounts.insert(user("bob"), account(&[("charge.k".into(), -1)]));
    });
    breaks(Invariant::I3, "has charge.k twice", |world| {
        world.accounts.insert(user("bob"), account(&[("charge.k".into(), 1), ("charge.k".into(), 1)]));
    });
}

#[test]
fn i3_an_entry_behind_a_closed_door_is_found() {
    let close = |world: &mut World, what: &str| {
        world.accounts.get_mut(&user("dave")).unwrap().closed.insert(what.to_owned());
    };
    breaks(Invariant::I3, "has charge.k, which was closed off", |world| close(world, "charge.k"));
    breaks(Invariant::I3, "has use.p-dave, which was closed off", |world| close(world, "p-dave"));
    let mut world = sane();
    close(&mut world, "charge.other");
    close(&mut world, "p-other");
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i2_a_refund_that_gave_back_half_is_found() {
    let ledger = |world: &mut World, name: &str, lines: &[i64]| {
        let keys = ["charge.k".to_owned(), format!("use.p-{name}"), format!("return.p-{name}")];
        let lines: Vec<(String, i64)> = keys.into_iter().zip(lines.iter().copied()).collect();
        world.accounts.insert(user(name), account(&lines));
    };
    breaks(Invariant::I2, "p-grace of grace is Refunded: price 50000, debit Some(50000), returned None", |world| {
        ledger(world, "grace", &[200_000, -PRICE]);
    });
    breaks(Invariant::I2, "returned Some(1)", |world| ledger(world, "grace", &[200_000, -PRICE, 1]));
    breaks(Invariant::I2, "p-heidi of heidi is Refunding: price 50000, debit Some(50000), returned Some(50000)", |w| {
        ledger(w, "heidi", &[200_000, -PRICE, PRICE]);
    });
    breaks(Invariant::I2, "p-grace of grace is Refunded, its reservation Some(Paid)", |world| {
        reservation(world, "grace").status = ReservationStatus::Paid;
    });
    breaks(Invariant::I2, "p-heidi of heidi is Refunding, its reservation None", |world| {
        reservation(world, "heidi").payment = None;
    });
    breaks(Invariant::I2, "r-grace of grace is refunded, its payment is Some(Completed)", |world| {
        payment(world, "grace").status = PaymentStatus::Completed;
    });
    breaks(Invariant::I1, "(Sold by r-grace): that reservation is Refunded", |world| {
        let kept = Seat { reservation: res("grace"), user: user("grace"), ..taken(world, "A-1-1").clone() };
        world.seats.insert(seat("A-2-4"), kept);
    });
    breaks(Invariant::I7, "is refunded, but its place 7 is not used", |w| line(w).used.remove(&(7, pay("grace"))));
}

/// A refund whose seats are free and whose points are back, and that does not say so yet.
#[test]
fn a_refund_between_its_steps_is_no_finding_until_it_takes_too_long() {
    let mut world = sane();
    reservation(&mut world, "heidi").status = ReservationStatus::Refunded;
    happened(&mut world, "r-heidi.reservation.refunded".into());
    world.seats.remove(&seat("A-2-3"));
    world.entitlements.get_mut(&(user("heidi"), concert())).unwrap().tickets.insert(date(), 0);
    world.maps.get_mut(&section()).unwrap().seats[1] = 0b00_01_00_00;
    world.maps.get_mut(&section()).unwrap().sold = 2;
    world.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 5);
    assert_eq!(check(&world, &Graces::default()), []);
    let lines = [("charge.k", 200_000), ("use.p-heidi", -PRICE), ("return.p-heidi", PRICE)];
    world.accounts.insert(user("heidi"), account(&lines.map(|(key, adds)| (key.to_owned(), adds))));
    assert_eq!(check(&world, &Graces::default()), []);
    payment(&mut world, "heidi").refund_requested_at = Some(NOW.plus_seconds(-301));
    let findings = check(&world, &Graces::default());
    assert_eq!(findings.len(), 1);
    assert!(findings[0].what.contains("is being refunded since"), "{findings:?}");
    world.parked.insert(pay("heidi"));
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i3_a_charge_that_is_paid_and_not_credited_or_the_other_way_round_is_found() {
    let charge = |world: &mut World, name: &str, status| world.charges.get_mut(&pay(name)).unwrap().status = status;
    breaks(Invariant::I3, "p-rich of rich is Credited with 200000, credited were []", |world| {
        world.accounts.remove(&user("rich"));
    });
    breaks(Invariant::I3, "credited were [1]", |world| {
        world.accounts.get_mut(&user("rich")).unwrap().entries[0].adds = 1;
    });
    breaks(Invariant::I3, "is Cancelled with 200000, credited were [200000]", |world| {
        charge(world, "rich", ChargeStatus::Cancelled);
    });
    breaks(Invariant::I3, "is Refused with 200000, credited were [200000]", |world| {
        charge(world, "rich", ChargeStatus::Refused);
    });
    breaks(Invariant::I3, "credited were [200000, 200000]", |world| {
        let again = world.accounts[&user("rich")].entries[0].clone();
        world.accounts.get_mut(&user("rich")).unwrap().entries.push(again);
    });
    breaks(Invariant::I3, "is credited as charge.other, not as charge.k", |world| {
        world.accounts.get_mut(&user("rich")).unwrap().entries[0].key = "charge.other".into();
    });
    breaks(Invariant::I3, "has no claim", |world| world.claims.remove("provider-rich"));
    breaks(Invariant::I3, "is for p-rich, which does not exist", |world| world.charges.remove(&pay("rich")));
}

#[test]
fn i8_a_charge_without_an_end_is_found_unless_somebody_was_told() {
    let old = |world: &mut World| world.charges.get_mut(&pay("late")).unwrap().requested_at = NOW.plus_seconds(-301);
    breaks(Invariant::I8, "charge p-late of late is Confirmed since", old);
    breaks(Invariant::I8, "the index of the recovery says otherwise", |world| {
        world.charges.get_mut(&pay("late")).unwrap().in_recovery_index = false;
    });
    let mut world = sane();
    old(&mut world);
    happened(&mut world, "charge-stuck:p-late.7.fault.detected".into());
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i8_a_request_that_nobody_decides_is_found() {
    breaks(Invariant::I8, "r-ivan of ivan is pending since", |world| {
        reservation(world, "ivan").created_at = NOW.plus_seconds(-691);
    });
    breaks(Invariant::I8, "r-ivan of ivan is Pending, the index", |world| {
        reservation(world, "ivan").in_waiting_index = false;
    });
    breaks(Invariant::I8, "r-judy of judy is Rejected, the index", |world| {
        reservation(world, "judy").in_waiting_index = true;
    });
    breaks(Invariant::I9, "is not free although that reservation is Pending", |world| {
        let kept = Seat { reservation: res("ivan"), user: user("ivan"), ..taken(world, "A-1-3").clone() };
        world.seats.insert(seat("A-2-4"), kept);
    });
}

#[test]
fn i6_what_nobody_heard_or_is_not_of_the_catalogue_is_found() {
    let event = "p-heidi.payment.completed";
    breaks(Invariant::I6, "push-alimtalk never heard of p-heidi.payment.completed", |world| {
        world.deliveries.remove(&("push-alimtalk".to_owned(), event.to_owned()));
    });
    breaks(Invariant::I6, "notify-partner never heard of p-heidi.payment.completed", |world| {
        world.deliveries.insert(("notify-partner".to_owned(), event.to_owned()), None);
    });
    breaks(Invariant::I6, "is not as the catalogue has it: no time", |world| {
        world.outbox.get_mut(event).unwrap().wrong.push("no time".into());
    });
    breaks(Invariant::I6, "is refunded, its cash receipt stands", |world| {
        world.receipts.get_mut(&pay("grace")).unwrap().cancelled = false;
        payment(world, "grace").refunded_at = Some(NOW.plus_seconds(-301));
    });
    breaks(Invariant::I6, "is Some(Completed), its cash receipt is cancelled", |world| {
        world.receipts.get_mut(&pay("alice")).unwrap().cancelled = true;
    });
    // Whoever is switched off hears of nothing, and news take a moment.
    let mut world = sane();
    world.deliveries.retain(|(consumer, _), _| consumer != "push-alimtalk");
    world.outbox.get_mut(event).unwrap().created_at = NOW.plus_seconds(-10);
    world.deliveries.remove(&("notify-partner".to_owned(), event.to_owned()));
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i4_a_seat_lost_while_it_is_being_paid_is_found() {
    let lost = "r-carol of carol is Paying, but its seat A-1-4";
    breaks(Invariant::I4, lost, |world| world.seats.remove(&seat("A-1-4")));
    breaks(Invariant::I4, lost, |world| taken(world, "A-1-4").reservation = res("bob"));
    breaks(Invariant::I4, lost, |world| taken(world, "A-1-4").state = SeatState::Held);
    breaks(Invariant::I4, lost, |world| taken(world, "A-1-4").payment = Some(pay("dave")));
    for back in [PaymentStatus::Refunding, PaymentStatus::Refunded] {
        breaks(Invariant::I4, "is being paid by a refunded payment", |world| payment(world, "carol").status = back);
    }
}

#[test]
fn i5_what_a_failed_payment_leaves_behind_is_found() {
    breaks(Invariant::I5, "debit Some(50000), returned None", |world| {
        let ledger = [("charge.k".to_owned(), 200_000), ("use.p-dave".to_owned(), -PRICE)];
        world.accounts.insert(user("dave"), account(&ledger));
    });
    breaks(Invariant::I5, "debit None, returned Some(50000)", |world| {
        world.accounts.insert(user("dave"), account(&[("return.p-dave".to_owned(), PRICE)]));
    });
    breaks(Invariant::I5, "reservation r-frank is Held by it", |world| {
        reservation(world, "frank").payment = Some(pay("frank"));
    });
    breaks(Invariant::I5, "still has seat A-2-2", |world| taken(world, "A-2-2").payment = Some(pay("frank")));
    breaks(Invariant::I5, "place 4 is used by it", |world| line(world).used.insert((4, pay("dave"))));
}

#[test]
fn i6_an_event_that_is_missing_late_or_dead_is_found() {
    breaks(Invariant::I6, "3 messages", |world| world.dead_letters.insert("token-expiry-dead-letters".into(), 3));
    breaks(Invariant::I6, "is not published", |world| {
        world.outbox.get_mut("r-bob.reservation.held").unwrap().published = false;
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
        breaks(Invariant::I6, event, |world| world.outbox.remove(event));
    }
}

#[test]
fn an_event_just_made_may_wait_to_be_published() {
    let mut world = sane();
    happened(&mut world, "new.fault.detected".into());
    let new = world.outbox.get_mut("new.fault.detected").unwrap();
    (new.published, new.happened_at, new.created_at) = (false, NOW.plus_seconds(-10), NOW.plus_seconds(-10));
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn an_event_that_is_said_once_more_waits_for_the_sweep_however_strict_the_audit_is() {
    let strict = Graces { unpublished: Duration::ZERO, ..Graces::default() };
    let mut world = World { now: NOW, ..World::default() };
    happened(&mut world, "o.order.placed".into());
    let again = world.outbox.get_mut("o.order.placed").unwrap();
    (again.published, again.created_at) = (false, NOW.plus_seconds(-149));
    assert_eq!(check(&world, &strict), []);
    world.now = NOW.plus_seconds(2);
    assert_eq!(check(&world, &strict).len(), 1);
}

#[test]
fn i7_a_place_that_two_have_or_nobody_gave_out_is_found() {
    breaks(Invariant::I7, "place 1 of c was used by {UserId(\"alice\"), UserId(\"bob\")}", |world| {
        reservation(world, "bob").queue_position = 1;
    });
    breaks(Invariant::I7, "place 11 of c was never given out", |world| {
        reservation(world, "bob").queue_position = 11;
    });
    breaks(Invariant::I7, "place 0 of c was never given out", |world| {
        reservation(world, "bob").queue_position = 0;
    });
    breaks(Invariant::I7, "has counters [0] of {2}", |world| line(world).shards.get_mut(&0).unwrap().shards = 2);
}

#[test]
fn places_of_several_counters_are_told_apart() {
    let mut world = sane();
    let first = line(&mut world).shards[&0].clone();
    // Places 1, 3, 5, 7, 9 and 2, 4, 6, 8, 10.
    let shards = (0..2).map(|shard| (shard, Shard { issued: 5, shards: 2, ..first.clone() }));
    line(&mut world).shards = shards.collect();
    assert_eq!(check(&world, &Graces::default()), []);
    line(&mut world).shards.get_mut(&1).unwrap().issued = 4;
    let findings = check(&world, &Graces::default());
    assert_eq!(findings.len(), 1);
    assert!(findings[0].what.contains("place 10 of c was never given out"), "{findings:?}");
}

#[test]
fn i7_a_place_used_before_its_turn_is_found() {
    breaks(Invariant::I7, "whose turn came at", |world| {
        reservation(world, "bob").created_at = OPENS.plus_millis(9);
    });
    breaks(Invariant::I7, "whose turn has not come", |world| {
        let shard = line(world).shards.get_mut(&0).unwrap();
        let pause = PlanChange { opens_at: OPENS, rate_per_minute: 0, active_seconds: 600 };
        shard.plan = shard.plan.changed(1, OPENS, pause);
    });
}

#[test]
fn a_change_of_the_plan_after_a_reservation_says_nothing_about_it() {
    let mut world = sane();
    world.reservations.remove(&res("ivan"));
    let shard = line(&mut world).shards.get_mut(&0).unwrap();
    let pause = PlanChange { opens_at: OPENS, rate_per_minute: 0, active_seconds: 600 };
    // Made at 500 s, by whoever was admitted until then; paused at 499 s.
    shard.plan = shard.plan.changed(1, OPENS.plus_seconds(499), pause);
    world.enforced_plans.insert(concert(), 2);
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i7_a_place_that_was_not_spent_or_spent_and_used_again_is_found() {
    breaks(Invariant::I7, "place 1 is not used", |world| line(world).used.clear());
    breaks(Invariant::I7, "does not count as spent", |world| {
        world.entitlements.get_mut(&(user("alice"), concert())).unwrap().spent.clear();
    });
    breaks(Invariant::I7, "spent at", |world| {
        world.entitlements.get_mut(&(user("bob"), concert())).unwrap().spent.insert(2, OPENS);
    });
    breaks(Invariant::I7, "which does not exist", |world| line(world).used.insert((3, pay("nobody"))));
}

#[test]
fn i7_a_plan_that_is_not_enforced_is_found() {
    breaks(Invariant::I7, "reservations enforces Some(2)", |world| world.enforced_plans.insert(concert(), 2));
    breaks(Invariant::I7, "reservations enforces None", |world| world.enforced_plans.clear());
    breaks(Invariant::I7, "has no waiting room", |world| world.lines.clear());
}

#[test]
fn i8_a_payment_without_an_end_is_found_unless_it_is_listed_as_stuck() {
    let old = |world: &mut World| payment(world, "carol").created_at = NOW.plus_seconds(-301);
    breaks(Invariant::I8, "payment p-carol of carol is pending since", old);
    let mut world = sane();
    old(&mut world);
    world.parked.insert(pay("carol"));
    assert_eq!(check(&world, &Graces::default()), []);
}

#[test]
fn i8_a_payment_that_the_recovery_would_miss_or_repeat_is_found() {
    breaks(Invariant::I8, "the recovery cannot find it", |world| payment(world, "carol").in_recovery_index = false);
    breaks(Invariant::I8, "p-heidi of heidi is being refunded and the recovery cannot find it", |world| {
        payment(world, "heidi").in_recovery_index = false;
    });
    breaks(Invariant::I8, "and the recovery finds it", |world| payment(world, "alice").in_recovery_index = true);
    breaks(Invariant::I8, "which does not exist", |world| world.payments.remove(&pay("carol")));
}

#[test]
fn i9_a_seat_that_is_neither_held_nor_sold_nor_free_is_found() {
    breaks(Invariant::I9, "there is no such reservation", |world| world.reservations.remove(&res("bob")));
    breaks(Invariant::I9, "is not free although that reservation is Cancelled", |world| {
        reservation(world, "bob").status = ReservationStatus::Cancelled;
    });
    breaks(Invariant::I9, "is still held although that was over", |world| {
        reservation(world, "bob").hold_expires_at = NOW.plus_seconds(-91);
    });
    breaks(Invariant::I9, "the sweep of overdue holds cannot find it", |world| {
        reservation(world, "bob").due_at = None;
    });
    breaks(Invariant::I9, "is Paid and the sweep finds it", |world| {
        reservation(world, "alice").due_at = Some(NOW);
    });
}

#[test]
fn i9_a_count_of_tickets_that_drifted_is_found() {
    let tickets = |world: &mut World, name: &str, count: i64| {
        world.entitlements.get_mut(&(user(name), concert())).unwrap().tickets.insert(date(), count);
    };
    breaks(Invariant::I9, "alice has 2 tickets of d, counted are 1", |world| tickets(world, "alice", 1));
    breaks(Invariant::I9, "erin has 0 tickets of d, counted are 1", |world| tickets(world, "erin", 1));
    breaks(Invariant::I9, "bob has 1 tickets of d, counted are 0", |world| world.entitlements.clear());
    breaks(Invariant::I9, "at most 1 are allowed", |world| world.terms.get_mut(&date()).unwrap().max_per_user = 1);
}

#[test]
fn i9_a_map_or_count_that_drifted_is_found() {
    breaks(Invariant::I9, "seat A-1-1 of d is sold, the map shows available", |world| world.maps.clear());
    breaks(Invariant::I9, "seat A-2-5 of d is available, the map shows held", |world| {
        world.maps.get_mut(&section()).unwrap().seats[2] = 0b01_00;
    });
    breaks(Invariant::I9, "the map counts 9 held", |world| world.maps.get_mut(&section()).unwrap().held = 9);
    breaks(Invariant::I9, "6 taken, the list counts 4", |world| {
        world.date_rows.get_mut(&date()).unwrap().taken.insert(section().1, 4);
    });
    breaks(Invariant::I9, "shown with 9 seats and has 10", |world| {
        world.date_rows.get_mut(&date()).unwrap().seats_total = Some(9);
    });
    breaks(Invariant::I9, "not in the catalogue", |world| world.dates.clear());
    breaks(Invariant::I9, "under other terms", |world| world.dates.get_mut(&date()).unwrap().hold_seconds = 1);
    breaks(Invariant::I9, "which has none", |world| {
        let stray = world.maps[&section()].clone();
        world.maps.insert((date(), SectionName::parse("Z").unwrap()), stray);
    });
}
