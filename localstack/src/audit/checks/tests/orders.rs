//! Merchandise and its orders.

use super::super::super::snapshot::{Item, Job, Order, OrderStatus, Participant, Receipt};
use super::events::DATA_PLATFORM;
use super::*;
use contracts::choreography::ParticipantState;
use contracts::orders::{OrderLine, Pieces, Quantity};
use contracts::{ItemId, OrderId};

/// The price of a poster, in won.
const POSTER: i64 = 1_000;

fn poster() -> ItemId {
    ItemId::parse("poster").unwrap()
}

fn id(name: &str) -> OrderId {
    OrderId::parse(format!("o-{name}")).unwrap()
}

/// An order of two posters, with the work of stock, points and cart.
struct Placed {
    name: &'static str,
    status: OrderStatus,
    works: [ParticipantState; 3],
    debit: bool,
    returned: bool,
    is_due: bool,
}

/// Orders of every kind, without a violation.
pub(super) fn place(snapshot: &mut Snapshot) {
    use OrderStatus::{Completed, Failed, Pending};
    use ParticipantState::{Done, Refused, Undone};
    let orders = [
        Placed {
            name: "olivia",
            status: Completed,
            works: [Done, Done, Done],
            debit: true,
            returned: false,
            is_due: false,
        },
        Placed {
            name: "peggy",
            status: Failed,
            works: [Undone, Undone, Undone],
            debit: true,
            returned: true,
            is_due: false,
        },
        Placed {
            name: "quentin",
            status: Failed,
            works: [Undone, Undone, Undone],
            debit: false,
            returned: false,
            is_due: false,
        },
        // Refused by the points a moment ago, and not undone everywhere.
        Placed {
            name: "rupert",
            status: Failed,
            works: [Done, Refused, Undone],
            debit: false,
            returned: false,
            is_due: true,
        },
        // Answered by the stock, and by no other participant yet.
        Placed {
            name: "sybil",
            status: Pending,
            works: [Done, ParticipantState::Pending, ParticipantState::Pending],
            debit: false,
            returned: false,
            is_due: true,
        },
    ];
    for order in &orders {
        add(snapshot, order);
    }
    // Olivia, rupert and sybil have two each.
    snapshot.items.insert(poster(), Item { stock: 94, sold: 6, received: 100, created_at: OPENS });
    snapshot.deliveries.insert((DATA_PLATFORM.into(), "o-olivia.order.placed".into()), Some(NOW.plus_seconds(-301)));
    happened(snapshot, "o-olivia.order.reported".into());
    snapshot.order_receipts.insert(id("olivia"), Receipt { issued: true, cancelled: false });
    snapshot.order_receipts.insert(id("peggy"), Receipt { issued: true, cancelled: true });
    snapshot.order_receipts.insert(id("quentin"), Receipt::default());
}

fn add(snapshot: &mut Snapshot, placed: &Placed) {
    let Placed { name, status, works, .. } = *placed;
    let quantity = Quantity::new(2).unwrap();
    let line = OrderLine { item_id: poster(), name: "Poster".into(), price: Won::new(POSTER).unwrap(), quantity };
    let due_at = placed.is_due.then_some(NOW.plus_seconds(30));
    let order =
        Order { user: user(name), status, lines: vec![line], total_price: 2 * POSTER, placed_at: OPENS, due_at };
    snapshot.orders.insert(id(name), order);
    let events: &[&str] = match status {
        OrderStatus::Pending => &["placed"],
        OrderStatus::Completed => &["placed", "completed"],
        OrderStatus::Failed => &["placed", "failed"],
    };
    for event in events {
        happened(snapshot, format!("o-{name}.order.{event}"));
    }
    let mut states = BTreeMap::from([("data_platform".to_owned(), ParticipantState::Pending)]);
    for (participant, work) in Participant::ALL.into_iter().zip(works) {
        states.insert(participant.name().to_owned(), work);
        let Some(event) = participant.says(work) else { continue };
        happened(snapshot, format!("o-{name}.{event}"));
        let pieces = match participant {
            Participant::Stock => vec![Pieces { item_id: poster(), quantity }],
            _ => Vec::new(),
        };
        snapshot.jobs.insert((id(name), participant), Job { work, pieces, counted: Vec::new() });
    }
    snapshot.work_states.insert(id(name), states);
    let mut ledger = vec![("charge.k".to_owned(), 10_000)];
    ledger.extend(placed.debit.then(|| (format!("use.o-{name}"), -2 * POSTER)));
    ledger.extend(placed.returned.then(|| (format!("return.o-{name}"), 2 * POSTER)));
    snapshot.accounts.insert(user(name), account(&ledger));
}

fn order<'a>(snapshot: &'a mut Snapshot, name: &str) -> &'a mut Order {
    snapshot.orders.get_mut(&id(name)).unwrap()
}

fn works(snapshot: &mut Snapshot, name: &str, participant: Participant, work: ParticipantState) {
    snapshot.jobs.get_mut(&(id(name), participant)).unwrap().work = work;
}

fn ledger(snapshot: &mut Snapshot, name: &str, lines: &[(&str, i64)]) {
    let lines: Vec<(String, i64)> = lines.iter().map(|(key, adds)| ((*key).to_owned(), *adds)).collect();
    snapshot.accounts.insert(user(name), account(&lines));
}

#[test]
fn i10_a_completed_order_without_one_of_its_parts_is_found() {
    for participant in Participant::ALL {
        let name = participant.name();
        for work in [ParticipantState::Refused, ParticipantState::Undone] {
            let finding = format!("o-olivia of olivia is Completed, but its {name} is Some({work:?})");
            breaks(Invariant::I10, &finding, |snapshot| works(snapshot, "olivia", participant, work));
        }
        breaks(Invariant::I10, &format!("is Completed, but its {name} is None"), |snapshot| {
            snapshot.jobs.remove(&(id("olivia"), participant));
        });
        breaks(Invariant::I10, &format!("it heard of its {name}: Some(Some(Pending))"), |snapshot| {
            snapshot.work_states.get_mut(&id("olivia")).unwrap().insert(name.into(), ParticipantState::Pending);
        });
    }
    breaks(Invariant::I10, "is Completed: price 2000, debit None", |snapshot| {
        ledger(snapshot, "olivia", &[("charge.k", 10_000)]);
    });
    breaks(Invariant::I10, "debit Some(1), returned None", |snapshot| {
        ledger(snapshot, "olivia", &[("charge.k", 10_000), ("use.o-olivia", -1)]);
    });
    breaks(Invariant::I10, "returned Some(2000)", |snapshot| {
        let lines = [("charge.k", 10_000), ("use.o-olivia", -2_000), ("return.o-olivia", 2_000)];
        ledger(snapshot, "olivia", &lines);
    });
    breaks(Invariant::I10, "costs 1, but its lines cost 2000", |snapshot| order(snapshot, "olivia").total_price = 1);
}

#[test]
fn i6_a_receipt_that_outlives_its_order_or_ends_before_it_is_found() {
    let receipt = |snapshot: &mut Snapshot, name: &str, cancelled| {
        snapshot.order_receipts.insert(id(name), Receipt { issued: true, cancelled });
    };
    breaks(Invariant::I6, "order o-peggy is Some(Failed), its cash receipt stands", |snapshot| {
        receipt(snapshot, "peggy", false);
        snapshot.outbox.get_mut("o-peggy.order.failed").unwrap().happened_at = NOW.plus_seconds(-301);
    });
    for (name, finding) in [
        ("olivia", "order o-olivia is Some(Completed), its cash receipt is cancelled"),
        ("sybil", "order o-sybil is Some(Pending), its cash receipt is cancelled"),
        ("nobody", "order o-nobody is None, its cash receipt is cancelled"),
    ] {
        breaks(Invariant::I6, finding, |snapshot| receipt(snapshot, name, true));
    }
    // Cancelled a moment ago; and cancelled after its table was read.
    let mut snapshot = sane();
    receipt(&mut snapshot, "peggy", false);
    snapshot.outbox.get_mut("o-peggy.order.failed").unwrap().happened_at = NOW;
    receipt(&mut snapshot, "olivia", true);
    let heard = ("issue-order-receipt".to_owned(), "o-olivia.order.failed".to_owned());
    snapshot.deliveries.insert(heard, Some(NOW));
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i10_what_a_failed_order_leaves_behind_is_found() {
    for participant in Participant::ALL {
        let name = participant.name();
        for work in [ParticipantState::Done, ParticipantState::Refused] {
            let finding = format!("o-peggy of peggy is Failed, but its {name} is Some({work:?})");
            breaks(Invariant::I10, &finding, |snapshot| works(snapshot, "peggy", participant, work));
        }
    }
    let unreturned = [("charge.k", 10_000), ("use.o-peggy", -2_000)];
    breaks(Invariant::I10, "is Failed: price 2000, debit Some(2000), returned None", |snapshot| {
        ledger(snapshot, "peggy", &unreturned);
    });
    breaks(Invariant::I10, "debit None, returned Some(2000)", |snapshot| {
        ledger(snapshot, "quentin", &[("return.o-quentin", 2_000)]);
    });
    // Before it is undone, nothing has to be.
    let mut snapshot = sane();
    order(&mut snapshot, "peggy").due_at = Some(NOW);
    ledger(&mut snapshot, "peggy", &unreturned);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i10_a_stock_that_does_not_add_up_is_found() {
    let item = |snapshot: &mut Snapshot, harm: fn(&mut Item)| harm(snapshot.items.get_mut(&poster()).unwrap());
    breaks(Invariant::I10, "item poster has 95 in stock and 6 sold of 100", |w| item(w, |item| item.stock = 95));
    breaks(Invariant::I10, "has -1 in stock", |snapshot| {
        item(snapshot, |item| (item.stock, item.received) = (-1, 5));
    });
    // Rupert's and sybil's orders may be seen half done: by four units, and no more.
    for (sold, fits) in [(1, false), (2, true), (10, true), (11, false)] {
        let mut snapshot = sane();
        let found = snapshot.items.get_mut(&poster()).unwrap();
        (found.sold, found.stock) = (sold, 100 - sold);
        assert_eq!(check(&snapshot, &Tolerances::default()).is_empty(), fits, "{sold} sold");
    }
    let mut quiet = sane();
    for name in ["rupert", "sybil"] {
        quiet.orders.remove(&id(name));
        quiet.jobs.retain(|(order, _), _| *order != id(name));
    }
    let findings = check(&quiet, &Tolerances::default());
    assert!(findings.iter().any(|found| found.what == "item poster has 6 sold, orders have 2"), "{findings:?}");
    breaks(Invariant::I10, "orders have 6 of poster, which does not exist", |snapshot| snapshot.items.clear());
}

#[test]
fn i10_a_limit_that_does_not_count_what_its_user_has_is_found() {
    let counted = |snapshot: &mut Snapshot, count| {
        snapshot.jobs.get_mut(&(id("olivia"), Participant::Stock)).unwrap().counted = vec![poster()];
        snapshot.bought.insert((user("olivia"), poster()), count);
    };
    let mut snapshot = sane();
    counted(&mut snapshot, 2);
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
    breaks(Invariant::I10, "olivia has 3 of poster by its limit, orders have 2", |w| counted(w, 3));
    breaks(Invariant::I10, "olivia has 1 of poster by its limit, orders have 2", |w| counted(w, 1));
    breaks(Invariant::I10, "olivia has 2 of poster, which its limit does not count", |snapshot| {
        counted(snapshot, 2);
        snapshot.bought.clear();
    });
}

#[test]
fn i10_work_for_no_order_or_of_something_else_is_found() {
    breaks(Invariant::I10, "stock worked for order o-olivia, which does not exist", |snapshot| {
        snapshot.orders.remove(&id("olivia"));
    });
    breaks(Invariant::I10, "order o-olivia is for", |snapshot| {
        let job = snapshot.jobs.get_mut(&(id("olivia"), Participant::Stock)).unwrap();
        job.pieces[0].quantity = Quantity::new(1).unwrap();
    });
    breaks(Invariant::I10, "order o-olivia is for", |snapshot| {
        snapshot.jobs.get_mut(&(id("olivia"), Participant::Stock)).unwrap().pieces.clear();
    });
    breaks(Invariant::I2, "has use.o-peggy, but there is no such payment, order or withdrawal of theirs", |snapshot| {
        ledger(snapshot, "bob", &[("charge.k", 10_000), ("use.o-peggy", -1)]);
    });
    // Placed after orders were read, and worked for before the others were.
    let mut snapshot = sane();
    snapshot.orders.remove(&id("sybil"));
    snapshot.outbox.get_mut("o-sybil.stock.deducted").unwrap().happened_at = NOW;
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn orders_that_participants_have_forgotten_are_held_against_nothing() {
    let mut snapshot = sane();
    snapshot.now = NOW.plus_seconds(29 * 24 * 3600);
    snapshot.jobs.clear();
    snapshot.work_states.clear();
    let findings = check(&snapshot, &Tolerances::default());
    assert!(findings.iter().all(|found| found.invariant != Invariant::I10), "{findings:?}");
    ledger(&mut snapshot, "olivia", &[("charge.k", 10_000)]);
    assert!(check(&snapshot, &Tolerances::default()).iter().any(|found| found.invariant == Invariant::I10));
}

#[test]
fn i8_an_order_without_an_end_is_found() {
    breaks(Invariant::I8, "o-sybil of sybil is pending, which was to end at", |snapshot| {
        order(snapshot, "sybil").due_at = Some(NOW.plus_seconds(-91));
    });
    breaks(Invariant::I8, "is pending since", |snapshot| order(snapshot, "sybil").placed_at = NOW.plus_seconds(-3_691));
    breaks(Invariant::I8, "is pending and the sweep cannot find it", |snapshot| order(snapshot, "sybil").due_at = None);
    breaks(Invariant::I8, "is completed and the sweep finds it", |snapshot| {
        order(snapshot, "olivia").due_at = Some(NOW.plus_seconds(30));
    });
    breaks(Invariant::I8, "o-rupert of rupert failed and was to be looked at again at", |snapshot| {
        order(snapshot, "rupert").due_at = Some(NOW.plus_seconds(-91));
    });
}

#[test]
fn i8_an_order_that_is_not_undone_is_found_unless_it_is_reported_as_stuck() {
    let old = |snapshot: &mut Snapshot| {
        snapshot.outbox.get_mut("o-rupert.order.failed").unwrap().happened_at = NOW.plus_seconds(-1_501);
    };
    breaks(Invariant::I8, "o-rupert of rupert failed at", old);
    let mut snapshot = sane();
    old(&mut snapshot);
    happened(&mut snapshot, "order-undo-stuck:o-rupert.fault.detected".into());
    assert_eq!(check(&snapshot, &Tolerances::default()), []);
}

#[test]
fn i6_an_event_of_an_order_that_is_missing_or_not_consumed_is_found() {
    for event in [
        "o-olivia.order.placed",
        "o-olivia.order.completed",
        "o-olivia.stock.deducted",
        "o-olivia.points.used",
        "o-olivia.cart.cleared",
        "o-olivia.order.reported",
        "o-peggy.order.failed",
        "o-peggy.stock.restored",
        "o-peggy.points.returned",
        "o-peggy.cart.restored",
        "o-rupert.points.refused",
        "o-sybil.order.placed",
    ] {
        breaks(Invariant::I6, &format!("there is no event {event}, although"), |snapshot| {
            snapshot.outbox.remove(event)
        });
    }
    for (consumer, event) in [
        (DATA_PLATFORM, "o-peggy.order.placed"),
        (DATA_PLATFORM, "o-olivia.order.completed"),
        (DATA_PLATFORM, "o-peggy.order.failed"),
        ("push-alimtalk", "o-olivia.order.completed"),
        ("push-alimtalk", "o-peggy.order.failed"),
    ] {
        breaks(Invariant::I6, &format!("{consumer} never heard of {event}"), |snapshot| {
            snapshot.deliveries.remove(&(consumer.to_owned(), event.to_owned()));
        });
    }
}
