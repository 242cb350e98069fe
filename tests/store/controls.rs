//! Negative controls: what each condition expression keeps from happening does happen once it is gone.
//!
//! A control plays one scene twice, each time on tables of its own: as it is, where nothing may go wrong, and with one
//! condition replaced by a tautology on its way through the proxy, where it must. A condition that no control needs is
//! found by reading the sources, and fails the last test here.

use crate::audit::violations;
use crate::bench::{Bench, key, stored};
use crate::notifications::{Desk, counted, example};
use ::concerts::domain::{Concert, Schedule, SectionKey, Taken, Terms};
use ::concerts::dynamo::{Catalogue, SeatMaps};
use ::concerts::ports::{AddConcert, AddSchedule, FindConcert, KeepSeatMap};
use ::notifications::domain::{Claim, Count, Delivery, LEASE_MILLIS, News, Outcome, Sign};
use ::notifications::handlers::{issue_cash_receipt, notify_partner};
use ::notifications::ports::GuardDelivery;
use ::notifications::usecases::alert_administrator::take_in;
use ::payments::charge::{Charge, ChargeState, FindStuckCharges, MoveCharge, RecordCharge, RecordedCharge};
use ::payments::charge_dynamo::Charges;
use ::payments::domain::{Payment, Refund};
use ::payments::ports::{FindPayment, FindStuck, OpenPayment, OpenRefund, SettleRefund};
use ::payments::usecases::complete_payment::complete_payment;
use ::payments::usecases::complete_refund::complete_refund;
use ::payments::usecases::fail_payment::fail_payment;
use ::points::domain::{EntryKey, GUARDED_MILLIS, Kind, Movement};
use ::points::dynamo::MAX_HOT_ENTRIES;
use ::points::ports::{CloseCharge, PostEntry};
use ::points::usecases::return_points::return_points;
use ::points::usecases::use_points::use_points;
use ::reservations::domain::{EndHold, MAX_PENDING, Reservation, Status, Wish, Withdrawal};
use ::reservations::ports::{
    FindWaiting, KeepTerms, LoadSale, Remembered, WriteEnd, WritePayment, WritePending, WriteRefund,
};
use ::reservations::usecases::begin_payment::begin_payment;
use ::reservations::usecases::release_reservation::release_reservation;
use ::reservations::usecases::write_reservations::write_reservations;
use ::waiting_room::domain::DefaultAdmission;
use ::waiting_room::handlers::{JoinDeps, join_queue};
use ::waiting_room::ports::{
    Changed, IssuePosition, OpenLine, ReadLine, ReadUse, ReplacePlan, RestorePlace, SpendPlace,
};
use contracts::admission::AdmissionPlan;
use contracts::events::CancelReason;
use contracts::saga::{CaughtError, FailPayment, RefundSaga, ReturnPoints};
use contracts::seats::SeatStatus;
use contracts::steps::PayCharge;
use contracts::{SectionName, Timestamp, Won};
use kit::dynamo::{Item, Read, n, s};
use kit::outbox::{Relay, publish_again};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use tests::bus::{BUS, Bus};
use tests::calls::{Ask, queue_tokens, users};
use tests::dynamo::CONTEXTS;
use tests::fixture::{
    ACTIVE_SECONDS, HOLD_SECONDS, NOW, concert, payment, place, plan, saga, saga_of, schedule, step, terms, undoing,
    user, wish, won,
};
use tests::proxy::Rule;
use tests::workspace;

/// Plays a scene with the guard and without it.
pub async fn control(guard: &str, scene: impl AsyncFn(&Bench) -> bool) {
    let guarded = Bench::on_sale(4).await;
    assert!(!scene(&guarded).await, "it goes wrong with the guard in place");
    let bare = Bench::on_sale(4).await;
    let loosened = bare.proxy.loosen(guard);
    let wrong = scene(&bare).await;
    assert!(loosened.count() > 0, "no request has the condition {guard:?}");
    assert!(wrong, "nothing goes wrong without {guard:?}: it guards nothing, or the scene does not need it");
}

/// Each control: what it shows, the function that writes the condition, and the condition as it is sent. Where the source
/// puts the condition together, `from` is the source's expression.
macro_rules! controls {
    ($($name:ident: $function:literal guards $guard:literal $(from $source:literal)?, |$bench:ident| $scene:block)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::controls::control($guard, async |$bench: &$crate::bench::Bench| $scene).await;
            }
        )*

        /// (context/function, condition as the source has it), for every control.
        pub fn controlled() -> std::collections::BTreeSet<(String, String)> {
            [$(($function, $crate::controls::controls!(@source $guard $(, $source)?))),*]
                .map(|(function, source)| (function.to_owned(), $crate::controls::words(source)))
                .into()
        }
    };
    (@source $guard:literal) => { $guard };
    (@source $guard:literal, $source:literal) => { $source };
}
pub(crate) use controls;

fn hold_end() -> Timestamp {
    NOW.plus_seconds(HOLD_SECONDS)
}

async fn is_unsound(bench: &Bench, now: Timestamp) -> bool {
    !violations(bench, now).await.is_empty()
}

async fn entitlement(bench: &Bench, who: &str) -> Item {
    bench.engine.item("reservations", &format!("USER#{who}"), "CONCERT#concert").await.unwrap()
}

/// Who changes plans here.
const CHANGE: Changed<'_> = Changed { correlation_id: "c", now: NOW };

/// Writes an item behind everybody's back.
async fn put(bench: &Bench, context: &str, item: Item) {
    let table = bench.engine.table(context);
    table.client.put_item().table_name(&table.name).set_item(Some(item)).send().await.unwrap();
}

/// A reservation that alice asked for asynchronously.
async fn pending(bench: &Bench) -> Wish {
    let wish = wish(place("alice", 1, NOW), &["A-1-1"], "r1");
    assert!(matches!(
        bench.reservations.write_pending(&wish, &wished(&wish), None, NOW).await.unwrap(),
        Some(Remembered::Nothing)
    ));
    wish
}

/// The reservation a wish asks for.
fn wished(wish: &Wish) -> Reservation {
    Reservation {
        id: wish.reservation.clone(),
        user: wish.user.clone(),
        schedule: wish.schedule.clone(),
        concert: concert(),
        seats: wish.seats.as_slice().to_vec(),
        total_price: won(1),
        queue_position: 1,
        status: Status::Pending,
        hold_expires_at: NOW,
        created_at: NOW,
        correlation_id: wish.correlation_id.clone(),
        payment: None,
        releases: 0,
        failure: None,
    }
}

fn refund_of(reservation: &Reservation) -> RefundSaga {
    RefundSaga { payment: saga(reservation, "p1"), refund_requested_at: NOW, refund_correlation_id: "c".into() }
}

/// Deletes an item behind everybody's back.
async fn remove(bench: &Bench, context: &str, pk: &str, sk: &str) {
    let table = bench.engine.table(context);
    table.client.delete_item().table_name(&table.name).key("pk", s(pk)).key("sk", s(sk)).send().await.unwrap();
}

fn charge(id: &str, amount: i64, at: Timestamp) -> Movement {
    Movement {
        key: EntryKey::charge(id),
        entry_id: id.to_owned(),
        kind: Kind::Charge,
        amount: won(amount),
        reference: id.to_owned(),
        at,
    }
}

fn date() -> Schedule {
    let terms = terms(4);
    Schedule {
        refundable_until: None,
        id: schedule(),
        concert: concert(),
        starts_at: terms.starts_at,
        terms: Terms::new(terms.max_per_user, terms.hold_seconds, terms.sections).unwrap(),
    }
}

fn titled(title: &str) -> Concert {
    Concert::new(concert(), title, "Artist", "Venue", NOW).unwrap()
}

/// A catalogue with the concert and its date.
async fn catalogue(bench: &Bench) -> Catalogue {
    let catalogue = Catalogue::new(bench.proxy.table("concerts"));
    catalogue.add_concert(&titled("First"), None, NOW).await.unwrap();
    catalogue.add_schedule(&date(), None, NOW).await.unwrap().unwrap();
    catalogue
}

fn section_a() -> SectionKey {
    SectionKey { schedule: schedule(), section: SectionName::parse("A").unwrap() }
}

/// Whether of two projections that start from the same map the later one overwrites the earlier one.
async fn loses_an_update(maps: &SeatMaps) -> bool {
    let mut read = maps.sections(&[section_a()]).await.unwrap();
    let mut one = read.remove(0);
    let mut other = one.clone();
    one.rev += 1;
    other.rev += 1;
    one.seats.set(1, SeatStatus::Sold);
    other.seats.set(2, SeatStatus::Sold);
    assert!(maps.save(&one).await.unwrap());
    maps.save(&other).await.unwrap();
    let kept = maps.sections(&[section_a()]).await.unwrap().remove(0);
    kept.seats.get(1) != SeatStatus::Sold
}

controls! {
    // ------------------------------------------------------------ reservations: holding

    a_seat_has_one_holder: "reservations/write_hold"
    guards "attribute_not_exists(pk) OR (#status = :held AND hold_expires_at <= :now)", |bench| {
        bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let _second = bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", NOW).await;
        is_unsound(bench, NOW).await
    }

    a_first_hold_of_a_visit_keeps_to_the_ticket_limit: "reservations/write_hold"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)", |bench| {
        let seats = ["A-1-1", "A-1-2", "A-1-3", "A-1-4"];
        let held = bench.reserve(place("alice", 1, NOW), &seats, "r1", NOW).await.unwrap();
        let later = NOW.plus_seconds(ACTIVE_SECONDS);
        // Being paid, the tickets count for as long as it takes.
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reserve(place("alice", 2, later), &["A-2-1"], "r2", later).await.is_ok()
    }

    a_later_hold_of_a_visit_keeps_to_the_ticket_limit: "reservations/write_hold"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND visit_ends_at > :now", |bench| {
        let seats = ["A-1-1", "A-1-2", "A-1-3", "A-1-4"];
        bench.reserve(place("alice", 1, NOW), &seats, "r1", NOW).await.unwrap();
        bench.reserve(place("alice", 1, NOW), &["A-2-1"], "r2", NOW).await.is_ok()
    }

    two_tokens_at_once_begin_one_visit: "reservations/write_hold"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)", |bench| {
        let later = NOW.plus_seconds(60);
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
        let second = async { bench.reserve(place("alice", 2, later), &["A-1-2"], "r2", later).await };
        let first = async {
            gate.reached().await;
            let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await;
            gate.open();
            held
        };
        let (second, first) = tokio::join!(second, first);
        first.unwrap();
        second.unwrap();
        let ends_at = entitlement(bench, "alice").await.moment("visit_ends_at").unwrap();
        ends_at != NOW.plus_seconds(ACTIVE_SECONDS)
    }

    a_hold_on_its_way_when_the_visit_ends_by_a_sale_is_not_made: "reservations/write_hold"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND visit_ends_at > :now", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let saga = saga(&held, "p1");
        bench.begin(&saga, NOW).await;
        let now = NOW.plus_seconds(20);
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
        let late = async { bench.reserve(place("alice", 1, NOW), &["A-1-2"], "r2", now).await };
        let sale = async {
            gate.reached().await;
            bench.confirm(&saga, NOW.plus_seconds(10)).await;
            gate.open();
        };
        tokio::join!(late, sale).0.is_ok()
    }

    a_hold_on_its_way_when_its_place_is_spent_is_not_made_within_another_visit: "reservations/write_hold"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND visit_ends_at > :now", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let saga = saga(&held, "p1");
        bench.begin(&saga, NOW).await;
        let (sold_at, now) = (NOW.plus_seconds(10), NOW.plus_seconds(20));
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
        let late = async { bench.reserve(place("alice", 1, NOW), &["A-1-2"], "r2", now).await };
        let another_visit = async {
            gate.reached().await;
            bench.confirm(&saga, sold_at).await;
            bench.reserve(place("alice", 2, sold_at), &["A-1-3"], "r3", sold_at).await.unwrap();
            gate.open();
        };
        tokio::join!(late, another_visit).0.is_ok()
    }

    an_id_is_never_given_to_two_reservations: "reservations/write_hold"
    guards "attribute_not_exists(pk)", |bench| {
        bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let _again = bench.reserve(place("alice", 1, NOW), &["A-1-2"], "r1", NOW).await;
        is_unsound(bench, NOW).await
    }

    terms_never_change: "reservations/keep_terms"
    guards "attribute_not_exists(pk)", |bench| {
        bench.reservations.keep_terms(&terms(50)).await.unwrap();
        let sale = bench.reservations.load_sale(&schedule(), &concert(), &user("alice"), None, NOW).await.unwrap();
        sale.terms != Some(terms(4))
    }

    a_late_plan_never_replaces_a_newer_one: "reservations/keep_plan"
    guards "attribute_not_exists(pk) OR version < :version", |bench| {
        bench.reservations.keep_plan(&concert(), &AdmissionPlan { version: 9, ..plan() }).await.unwrap();
        bench.reservations.keep_plan(&concert(), &AdmissionPlan { version: 8, ..plan() }).await.unwrap();
        let sale = bench.reservations.load_sale(&schedule(), &concert(), &user("alice"), None, NOW).await.unwrap();
        sale.plan.unwrap().version != 9
    }

    // ------------------------------------------------------------ reservations: ending

    a_hold_that_is_being_paid_never_expires: "reservations/end_hold"
    guards "#status = :held AND hold_expires_at <= :now" from "guard", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.end_hold(&held, EndHold::Expire, hold_end()).await.unwrap();
        is_unsound(bench, hold_end()).await
    }

    a_cancelled_hold_gives_its_tickets_back_once: "reservations/end_hold"
    guards "#status = :held AND hold_expires_at > :now" from "guard", |bench| {
        bench.reserve(place("alice", 1, NOW), &["B-1-1"], "r0", NOW).await.unwrap();
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        for _ in 0..2 {
            bench.reservations.end_hold(&held, EndHold::Cancel, NOW).await.unwrap();
        }
        is_unsound(bench, NOW).await
    }

    a_hold_that_is_over_frees_no_seat_of_its_next_holder: "reservations/end_hold"
    guards "reservation_id = :reservation AND #status = :held", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", hold_end()).await.unwrap();
        bench.reservations.end_hold(&held, EndHold::Expire, hold_end()).await.unwrap();
        is_unsound(bench, hold_end()).await
    }

    a_count_of_tickets_never_falls_below_zero: "reservations/fewer_tickets"
    guards "#tickets >= :count", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let mut corrupt = entitlement(bench, "alice").await;
        corrupt.insert("n#date".to_owned(), n(0));
        put(bench, "reservations", corrupt).await;
        let _ended = bench.reservations.end_hold(&held, EndHold::Cancel, NOW).await;
        entitlement(bench, "alice").await["n#date"] != n(0)
    }

    a_hold_that_is_paid_is_not_undone: "reservations/end_hold"
    guards "#status = :held" from "guard", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        let undo = EndHold::Undo(CancelReason::AvailabilityNotUpdated);
        bench.reservations.end_hold(&held, undo, NOW).await.unwrap();
        is_unsound(bench, NOW).await
    }

    // ------------------------------------------------------------ reservations: asked for asynchronously

    a_wish_that_is_decided_is_not_decided_again: "reservations/write_hold"
    guards "#status = :pending", |bench| {
        let wish = pending(bench).await;
        bench.reservations.withdraw(&wished(&wish), Withdrawal::Reject("seat_taken"), NOW).await.unwrap();
        write_reservations(&bench.reservations, &wish, NOW).await.unwrap();
        bench.seat("A-1-1").await.is_some()
    }

    a_wish_written_twice_undoes_no_decision: "reservations/write_pending"
    guards "attribute_not_exists(pk)", |bench| {
        let wish = pending(bench).await;
        write_reservations(&bench.reservations, &wish, NOW).await.unwrap();
        bench.reservations.write_pending(&wish, &wished(&wish), None, NOW).await.unwrap().unwrap();
        is_unsound(bench, NOW).await
    }

    a_user_has_so_many_undecided_wishes_and_no_more: "reservations/write_pending"
    guards "attribute_not_exists(#wishes) OR #wishes < :most", |bench| {
        let mut last = None;
        for number in 0..=MAX_PENDING {
            let wish = wish(place("alice", 1, NOW), &["A-1-1"], &format!("r{number}"));
            last = Some(bench.reservations.write_pending(&wish, &wished(&wish), None, NOW).await.unwrap());
        }
        last.unwrap().is_some()
    }

    what_is_held_is_not_withdrawn: "reservations/withdraw"
    guards "#status = :pending", |bench| {
        let wish = pending(bench).await;
        write_reservations(&bench.reservations, &wish, NOW).await.unwrap();
        bench.reservations.withdraw(&wished(&wish), Withdrawal::Reject("timed_out"), NOW).await.unwrap();
        is_unsound(bench, NOW).await
    }

    what_is_decided_is_not_looked_after: "reservations/look_later"
    guards "#status = :pending", |bench| {
        let wish = pending(bench).await;
        write_reservations(&bench.reservations, &wish, NOW).await.unwrap();
        bench.reservations.look_later(&wished(&wish), NOW).await.unwrap();
        let pk = format!("USER#{}", wish.user);
        let row = bench.engine.item("reservations", &pk, &format!("RES#{}", wish.reservation)).await.unwrap();
        row.contains_key("waiting_at")
    }

    // ------------------------------------------------------------ reservations: refunding

    a_refund_repeated_late_touches_no_next_holder: "reservations/refund"
    guards "reservation_id = :reservation AND #status = :sold", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.confirm(&saga(&held, "p1"), NOW).await;
        // As if the seat had gone to somebody else although it is sold.
        let seat = bench.engine.item("reservations", "SEATS#date#A", "SEAT#A-1-1").await.unwrap();
        let others = Item::from([("reservation_id".to_owned(), s("r2")), ("status".to_owned(), s("held"))]);
        put(bench, "reservations", seat.into_iter().chain(others).collect()).await;
        let _refunded = bench.reservations.refund(&refund_of(&held), NOW).await;
        bench.seat("A-1-1").await.is_none()
    }

    a_refund_is_made_once_and_by_the_payment_that_paid: "reservations/refund"
    guards "#status = :paid AND payment_id = :payment", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.confirm(&saga(&held, "p1"), NOW).await;
        let mut other = refund_of(&held);
        other.payment.payment_id = payment("p2");
        let _refunded = bench.reservations.refund(&other, NOW).await;
        bench.status(&held).await == "refunded"
    }

    // ------------------------------------------------------------ reservations: paying

    a_release_closes_the_door_to_its_late_begin: "reservations/begin"
    guards "#status = :held AND NOT contains(released, :payment)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        release_reservation(&bench.reservations, step(saga(&held, "p1"), NOW)).await.unwrap();
        begin_payment(&bench.reservations, step(saga(&held, "p1"), NOW)).await.is_ok()
    }

    a_begin_takes_no_seat_that_went_to_somebody_else: "reservations/seats_move"
    guards "reservation_id = :reservation AND #status = :from", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap();
        bench.reserve(place("bob", 2, NOW), &["B-1-1"], "r2", hold_end()).await.unwrap();
        let _begun = begin_payment(&bench.reservations, step(saga(&held, "p1"), hold_end())).await;
        is_unsound(bench, hold_end()).await
    }

    a_payment_sells_nothing_that_another_one_is_paying: "reservations/confirm"
    guards "#status = :paying AND payment_id = :payment", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.confirm(&saga(&held, "p2"), NOW).await.unwrap();
        bench.status(&held).await == "paid"
    }

    a_sale_needs_the_count_of_its_owners_tickets: "reservations/confirm"
    guards "attribute_exists(pk)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        remove(bench, "reservations", "USER#alice", "CONCERT#concert").await;
        let _confirmed = bench.reservations.confirm(&saga(&held, "p1"), NOW).await;
        bench.status(&held).await == "paid"
    }

    a_payment_gives_nothing_back_that_another_one_is_paying: "reservations/back_to_held"
    guards "#status = :paying AND payment_id = :payment", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.release(&saga(&held, "p2"), NOW).await.unwrap();
        bench.status(&held).await != "paying"
    }

    a_payment_frees_nothing_that_another_one_is_paying: "reservations/back_to_nobody"
    guards "#status = :paying AND payment_id = :payment", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.release(&saga(&held, "p2"), hold_end()).await.unwrap();
        bench.status(&held).await != "paying"
    }

    a_release_frees_no_seat_of_somebody_else: "reservations/back_to_nobody"
    guards "reservation_id = :reservation AND #status = :paying", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        let mut corrupt = bench.engine.item("reservations", "SEATS#date#A", "SEAT#A-1-1").await.unwrap();
        corrupt.insert("reservation_id".to_owned(), s("r2"));
        put(bench, "reservations", corrupt).await;
        let _released = bench.reservations.release(&saga(&held, "p1"), hold_end()).await;
        bench.seat("A-1-1").await.is_none()
    }

    a_begin_that_arrives_while_its_release_closes_the_door_is_released: "reservations/close_to"
    guards "attribute_exists(pk) AND (attribute_not_exists(payment_id) OR payment_id <> :payment)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let saga = saga(&held, "p1");
        let gate = bench.proxy.hold(Rule::on("UpdateItem").once());
        let releasing = async { release_reservation(&bench.reservations, step(saga.clone(), NOW)).await };
        let beginning = async {
            gate.reached().await;
            bench.begin(&saga, NOW).await;
            gate.open();
        };
        tokio::join!(releasing, beginning).0.unwrap();
        bench.status(&held).await == "paying"
    }

    // ------------------------------------------------------------ points

    a_charge_is_made_once_under_its_key: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full)" from "guard", |bench| {
        for _ in 0..2 {
            bench.charge("alice", 100, "k").await;
        }
        bench.balance("alice").await != 100
    }

    a_balance_keeps_to_its_limit: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full)" from "guard", |bench| {
        for (id, amount) in [("a", Won::MAX.get()), ("b", 1)] {
            let _posted = bench.points.post(&user("alice"), &charge(id, amount, NOW)).await;
        }
        bench.balance("alice").await > Won::MAX.get()
    }

    a_full_account_takes_no_more_charges: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full)" from "guard", |bench| {
        bench.charge("alice", 1, "k").await;
        let mut full = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
        full.insert("hot".to_owned(), n(MAX_HOT_ENTRIES));
        put(bench, "points", full).await;
        bench.points.post(&user("alice"), &charge("k2", 1, NOW)).await.unwrap().is_ok()
    }

    a_payment_takes_its_points_once: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        for _ in 0..2 {
            use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        }
        bench.balance("alice").await != 900
    }

    a_balance_is_never_overdrawn: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit" from "guard", |bench| {
        bench.charge("alice", 100, "k").await;
        let _used = use_points(&bench.points, step(saga_of("alice", "p1", 101), NOW)).await;
        bench.balance("alice").await < 0
    }

    a_use_after_its_return_takes_nothing: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        let _used = use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await;
        bench.balance("alice").await != 1_000
    }

    a_payment_of_nothing_has_one_entry: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void)" from "guard", |bench| {
        for _ in 0..2 {
            use_points(&bench.points, step(saga_of("alice", "p1", 0), NOW)).await.unwrap();
        }
        bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap()["seq"] != n(1)
    }

    points_are_returned_once: "points/posting"
    guards "attribute_exists(#used) AND attribute_not_exists(#entry)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        for _ in 0..2 {
            return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        }
        bench.balance("alice").await != 1_000
    }

    points_that_were_not_used_are_not_returned: "points/posting"
    guards "attribute_exists(#used) AND attribute_not_exists(#entry)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        bench.balance("alice").await != 1_000
    }

    points_of_a_completed_payment_are_refunded_once: "points/posting"
    guards "attribute_not_exists(#entry)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        for _ in 0..2 {
            let refund = ReturnPoints { saga: saga_of("alice", "p1", 100), refund_requested_at: Some(NOW) };
            return_points(&bench.points, step(refund, NOW)).await.unwrap();
        }
        bench.balance("alice").await != 1_000
    }

    a_use_that_arrives_while_its_return_closes_the_door_is_returned: "points/close"
    guards "attribute_not_exists(#made)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        let saga = saga_of("alice", "p1", 100);
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET #void").once());
        let returning = async { return_points(&bench.points, step(undoing(saga.clone()), NOW)).await };
        let using = async {
            gate.reached().await;
            use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap();
            gate.open();
        };
        tokio::join!(returning, using).0.unwrap();
        bench.balance("alice").await != 1_000
    }

    a_charge_that_was_refused_for_good_is_never_made: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full)" from "guard", |bench| {
        bench.points.close_charge(&user("alice"), &charge("c1", 100, NOW)).await.unwrap();
        let _late = bench.points.post(&user("alice"), &charge("c1", 100, NOW)).await;
        bench.balance("alice").await != 0
    }

    a_charge_that_was_made_is_not_refused_for_good: "points/close"
    guards "attribute_not_exists(#made)", |bench| {
        bench.points.post(&user("alice"), &charge("c1", 100, NOW)).await.unwrap().unwrap();
        bench.points.close_charge(&user("alice"), &charge("c1", 100, NOW)).await.unwrap().is_none()
    }

    an_entry_is_archived_once: "points/archive"
    guards "attribute_exists(#e0) AND attribute_exists(#last)", |bench| {
        let (first, then) = (NOW, NOW.plus_seconds(1));
        for index in 0..64 {
            let at = if index < 20 { first } else { then };
            bench.points.post(&user("alice"), &charge(&format!("c{index}"), 1, at)).await.unwrap().unwrap();
        }
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").once());
        let (few, many) = (charge("few", 1, first.plus_millis(GUARDED_MILLIS + 1)), charge("many", 1, then.plus_millis(GUARDED_MILLIS + 1)));
        let slow = async { bench.points.post(&user("alice"), &few).await };
        let quick = async {
            gate.reached().await;
            bench.points.post(&user("alice"), &many).await.unwrap().unwrap();
            gate.open();
        };
        tokio::join!(slow, quick).0.unwrap().unwrap();
        let account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
        account.keys().filter(|name| name.starts_with("e#")).count() as i64 != account.int("hot").unwrap()
    }

    an_archive_is_never_overwritten: "points/archive"
    guards "attribute_not_exists(pk)", |bench| {
        let kept = Item::from([
            ("pk".to_owned(), s("USER#alice")),
            ("sk".to_owned(), s("LEDGER#000000000032")),
            ("entries".to_owned(), s("[]")),
        ]);
        put(bench, "points", kept.clone()).await;
        for index in 0..64 {
            bench.points.post(&user("alice"), &charge(&format!("c{index}"), 1, NOW)).await.unwrap().unwrap();
        }
        let later = charge("later", 1, NOW.plus_millis(GUARDED_MILLIS + 1));
        bench.points.post(&user("alice"), &later).await.unwrap().unwrap();
        bench.engine.item("points", "USER#alice", "LEDGER#000000000032").await != Some(kept)
    }

    // ------------------------------------------------------------ payments: charges

    a_charge_is_recorded_once: "payments/record_charge"
    guards "attribute_not_exists(pk)", |bench| {
        let charges = charges(bench);
        for (id, payment_key) in [("c1", "pay-1"), ("c2", "pay-2")] {
            charges.record_charge(&charged(id, "alice", payment_key)).await.unwrap();
        }
        stored_charge(bench).await.text("charge_id").unwrap() != "c1"
    }

    a_providers_payment_pays_for_one_charge: "payments/record_charge"
    guards "attribute_not_exists(pk)", |bench| {
        let charges = charges(bench);
        charges.record_charge(&charged("c1", "alice", "pay-1")).await.unwrap();
        matches!(charges.record_charge(&charged("c2", "bob", "pay-1")).await.unwrap(), RecordedCharge::Now)
    }

    a_charge_that_was_refused_is_not_confirmed_by_a_late_step: "payments/move_charge"
    guards "#status = :from", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        charges.record_charge(&charge).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Refused("declined".to_owned()), NOW).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Confirmed, NOW).await.unwrap();
        stored_charge(bench).await.text("status").unwrap() != "refused"
    }

    a_charges_recovery_is_counted_once: "payments/count_charge_recovery"
    guards "#status = :from AND recoveries = :counted", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        charges.record_charge(&charge).await.unwrap();
        let first = charges.count_charge_recovery(&charge, NOW).await.unwrap();
        first && charges.count_charge_recovery(&charge, NOW).await.unwrap()
    }

    a_charge_that_ended_is_not_open_again_by_a_recovery: "payments/count_charge_recovery"
    guards "#status = :from AND recoveries = :counted", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        charges.record_charge(&charge).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Refused("declined".to_owned()), NOW).await.unwrap();
        charges.count_charge_recovery(&charge, NOW).await.unwrap();
        stored_charge(bench).await.contains_key("pending_since")
    }

    // ------------------------------------------------------------ payments

    a_completed_payment_never_fails: "payments/ended"
    guards "#status = :from", |bench| {
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga.clone(), NOW)).await.unwrap();
        let failing = FailPayment { saga, failure: CaughtError::default() };
        let _failed = fail_payment(&bench.payments, step(failing, NOW)).await;
        status_of(bench, "p1").await != "completed"
    }

    a_payment_completes_once: "payments/ended"
    guards "#status = :from", |bench| {
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        for now in [NOW, NOW.plus_seconds(1)] {
            complete_payment(&bench.payments, step(saga.clone(), now)).await.unwrap();
        }
        stored_payment(bench, "p1").await.moment("settled_at").unwrap() != NOW
    }

    a_payment_that_ended_is_never_opened_again: "payments/open"
    guards "attribute_not_exists(pk)", |bench| {
        let saga = saga_of("alice", "p1", 100);
        let payment = bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        let _again = bench.payments.open(&payment, &key("other", json!({})), &stored(), NOW).await;
        status_of(bench, "p1").await != "completed"
    }

    a_key_stands_for_one_payment: "kit/remember"
    guards "attribute_not_exists(pk) OR forgotten_at <= :now", |bench| {
        let mut other = bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
        other.saga.payment_id = payment("p2");
        // `open_payment` uses the payment's id as its key.
        bench.payments.open(&other, &key("p1", json!({})), &stored(), NOW).await.unwrap();
        bench.payments.find(&user("alice"), &payment("p2")).await.unwrap().is_some()
    }

    a_recovery_is_counted_once: "payments/looked_at"
    guards "#status = :open AND recoveries = :before", |bench| {
        let payment = bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
        let counted = Payment { recoveries: 1, ..payment.clone() };
        let first = bench.payments.looked_at(&payment, &counted, NOW).await.unwrap();
        first && bench.payments.looked_at(&payment, &counted, NOW).await.unwrap()
    }

    a_payment_that_ended_is_not_pending_again_by_a_look: "payments/looked_at"
    guards "#status = :open AND recoveries = :before", |bench| {
        let saga = saga_of("alice", "p1", 100);
        let payment = bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        bench.payments.looked_at(&payment, &payment, NOW).await.unwrap();
        stored_payment(bench, "p1").await.contains_key("pending_since")
    }

    // ------------------------------------------------------------ payments: refunds

    a_payment_that_is_refunded_is_not_refunded_again: "payments/open_refund"
    guards "#status = :completed", |bench| {
        let refunding = refunding(bench).await;
        complete_refund(&bench.payments, step(refunding.refund_saga().unwrap(), NOW)).await.unwrap();
        bench.payments.open_refund(&refunding, &key("again", json!({})), &stored(), NOW).await.unwrap();
        status_of(bench, "p1").await != "refunded"
    }

    a_refund_completes_once: "payments/ended"
    guards "#status = :from", |bench| {
        let refund = refunding(bench).await.refund_saga().unwrap();
        for now in [NOW, NOW.plus_seconds(1)] {
            complete_refund(&bench.payments, step(refund.clone(), now)).await.unwrap();
        }
        stored_payment(bench, "p1").await.moment("refunded_at").unwrap() != NOW
    }

    a_refund_that_was_carried_out_is_not_cancelled: "payments/cancel_refund"
    guards "#status = :from AND refund_requested_at = :requested", |bench| {
        let refund = refunding(bench).await.refund_saga().unwrap();
        complete_refund(&bench.payments, step(refund.clone(), NOW)).await.unwrap();
        bench.payments.cancel_refund(&refund, "late", NOW).await.unwrap();
        status_of(bench, "p1").await != "refunded"
    }

    a_late_cancel_does_not_end_the_refund_after_it: "payments/cancel_refund"
    guards "#status = :from AND refund_requested_at = :requested", |bench| {
        let first = refunding(bench).await;
        bench.payments.cancel_refund(&first.refund_saga().unwrap(), "refused", NOW).await.unwrap();
        let second = Refund { requested_at: NOW.plus_seconds(1), correlation_id: "c".to_owned() };
        let second = first.clone().refunding(second);
        bench.payments.open_refund(&second, &key("again", json!({})), &stored(), NOW).await.unwrap();
        bench.payments.cancel_refund(&first.refund_saga().unwrap(), "late", NOW).await.unwrap();
        status_of(bench, "p1").await != "refunding"
    }

    asking_for_an_event_again_never_makes_one: "kit/publish_again"
    guards "publish_state = :published", |bench| {
        publish_again(&bench.proxy.table("payments"), "forgotten.payment.completed", NOW).await.unwrap();
        bench.engine.item("payments", "OUTBOX#forgotten.payment.completed", "OUTBOX").await.is_some()
    }

    marking_never_makes_a_row: "kit/mark"
    guards "attribute_exists(pk)", |bench| {
        let bus = Bus::start().await;
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        let records = bench.engine.changes("payments");
        remove(bench, "payments", "OUTBOX#p1.payment.completed", "OUTBOX").await;
        let bus = kit::outbox::Bus::new(bus.client(), BUS.to_owned());
        let _told = Relay::new("payments", bench.proxy.table("payments"), bus).relay(records, NOW).await;
        bench.engine.item("payments", "OUTBOX#p1.payment.completed", "OUTBOX").await.is_some()
    }

    // ------------------------------------------------------------ waiting room

    nobody_joins_a_line_that_is_not_there: "waiting-room/increment"
    guards "attribute_exists(pk)", |bench| {
        let _issued = bench.lines().issue(&concert(), None).await;
        !bench.engine.items("waiting-room").await.is_empty()
    }

    nobody_joins_before_the_sale_opens_where_that_is_off: "waiting-room/increment"
    guards "attribute_exists(pk) AND opens_at <= :now", |bench| {
        let lines = bench.lines();
        lines.open(&concert(), DefaultAdmission::Open.plan(NOW.plus_seconds(1))).await.unwrap();
        lines.issue(&concert(), Some(NOW)).await.unwrap().is_ok()
    }

    a_join_repeated_under_its_key_gives_the_first_place: "waiting-room/remember"
    guards "attribute_not_exists(pk) OR forgotten_at <= :now" from "put.condition_expression", |bench| {
        let line = bench.lines();
        line.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let deps = JoinDeps { line, users: users(), queue_tokens: queue_tokens(), join_before_open: true };
        let mut positions = BTreeSet::new();
        for _ in 0..2 {
            let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").key("k").call();
            let reply = join_queue(&deps, ask).await.unwrap();
            positions.insert(reply.body.unwrap()["position"].as_u64().unwrap());
        }
        positions.len() != 1
    }

    a_plan_made_from_old_counts_is_not_put_in_force: "waiting-room/replace_plan"
    guards "plan_version = :read AND issued <= :ceiling", |bench| {
        let lines = bench.lines();
        let opened = lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let read = lines.line(&concert()).await.unwrap().unwrap();
        lines.issue(&concert(), None).await.unwrap().unwrap();
        let next = AdmissionPlan { version: opened.version + 1, ..opened };
        lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap()
    }

    of_two_changes_of_a_plan_none_is_lost: "waiting-room/replace_plan"
    guards "plan_version = :read AND issued <= :ceiling", |bench| {
        let lines = bench.lines();
        let opened = lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
        let read = lines.line(&concert()).await.unwrap().unwrap();
        let next = AdmissionPlan { version: opened.version + 1, ..opened };
        assert!(lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap());
        lines.replace_plan(&concert(), &read, 0, &next, &CHANGE).await.unwrap()
    }

    a_line_opened_again_gives_out_no_position_twice: "waiting-room/open"
    guards "attribute_not_exists(pk)", |bench| {
        let lines = bench.lines();
        let mut positions = Vec::new();
        for _ in 0..2 {
            lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
            positions.push(lines.issue(&concert(), None).await.unwrap().unwrap().position);
        }
        positions != [1, 2]
    }

    a_restored_place_is_not_spent_by_a_late_step: "waiting-room/spend"
    guards "attribute_not_exists(#undone) OR NOT contains(#undone, :payment)", |bench| {
        let lines = bench.lines();
        lines.restore(&concert(), 1, &payment("p1")).await.unwrap();
        lines.spend(&concert(), 1, &payment("p1")).await.unwrap();
        lines.is_used(&concert(), 1, NOW).await.unwrap()
    }

    // ------------------------------------------------------------ concerts

    a_concert_is_never_overwritten: "concerts/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        let catalogue = Catalogue::new(bench.proxy.table("concerts"));
        for title in ["First", "Second"] {
            let _added = catalogue.add_concert(&titled(title), None, NOW).await;
        }
        catalogue.concert(&concert()).await.unwrap() != Some(titled("First"))
    }

    a_date_needs_its_concert: "concerts/add_schedule"
    guards "attribute_exists(pk)", |bench| {
        let catalogue = Catalogue::new(bench.proxy.table("concerts"));
        catalogue.add_schedule(&date(), None, NOW).await.unwrap().is_ok()
    }

    the_first_writer_of_a_map_is_not_overwritten: "concerts/save"
    guards "attribute_not_exists(rev)", |bench| {
        catalogue(bench).await;
        loses_an_update(&SeatMaps::new(bench.proxy.table("concerts"))).await
    }

    a_later_writer_of_a_map_is_not_overwritten: "concerts/save"
    guards "rev = :before", |bench| {
        catalogue(bench).await;
        let maps = SeatMaps::new(bench.proxy.table("concerts"));
        let mut first = maps.sections(&[section_a()]).await.unwrap().remove(0);
        first.rev += 1;
        assert!(maps.save(&first).await.unwrap());
        loses_an_update(&maps).await
    }

    a_count_is_never_replaced_by_an_older_one: "concerts/publish_newer"
    guards "(attribute_not_exists(#r0) OR #r0 < :r0)" from "guards.join(\" AND \")", |bench| {
        catalogue(bench).await;
        let maps = SeatMaps::new(bench.proxy.table("concerts"));
        for (rev, seats) in [(2, 20), (1, 10)] {
            let taken = Taken { section: section_a().section, rev, seats };
            maps.publish(&date().date(), &[taken]).await.unwrap();
        }
        let items = bench.engine.items("concerts").await;
        let row = items.iter().find(|item| item.contains_key("taken#A")).unwrap();
        row["taken#A"] != n(20)
    }

    // ------------------------------------------------------------ notifications

    a_message_that_comes_twice_is_delivered_once: "notifications/claim"
    guards "attribute_not_exists(pk) OR claimed_until <= :now OR lease = :lease", |bench| {
        let desk = Desk::beside(bench).await;
        for _ in 0..2 {
            notify_partner(&desk.webhook("/partner"), example("payment.completed")).await.unwrap();
        }
        desk.heard("/partner").len() != 1
    }

    a_claim_that_ended_is_not_given_back_in_the_name_of_the_next: "notifications/release"
    guards "lease = :lease", |bench| {
        let (store, delivery) = (Desk::beside(bench).await.store(), Delivery::new("test", "event"));
        let Claim::Mine(lease) = store.claim(&delivery, NOW).await.unwrap() else { panic!("it is free") };
        let after = NOW.plus_millis(LEASE_MILLIS);
        assert!(matches!(store.claim(&delivery, after).await.unwrap(), Claim::Mine(_)));
        store.finish(&delivery, &Outcome::sent(None), after).await.unwrap();
        store.release(&delivery, &lease).await.unwrap();
        store.claim(&delivery, after).await.unwrap() != Claim::Done
    }

    no_receipt_is_begun_for_a_payment_that_was_refunded: "notifications/begin_receipt"
    guards "attribute_not_exists(refunded_by) OR attribute_exists(begun)", |bench| {
        let desk = Desk::beside(bench).await;
        for kind in ["payment.refunded", "payment.completed"] {
            issue_cash_receipt(&desk.receipts(), example(kind)).await.unwrap();
        }
        !desk.heard("cash-receipts").is_empty()
    }

    a_sign_that_crosses_another_is_counted: "notifications/replace_alert"
    guards "attribute_not_exists(pk) OR rev = :before", |bench| {
        let desk = Desk::beside(bench).await;
        let (store, sign) = (desk.store(), |at| {
            let (fault, summary, detail) = ("f".to_owned(), String::new(), String::new());
            News::Sign(Sign { fault, summary, detail, count: Count::OneMore, at })
        });
        take_in(&store, &sign(NOW)).await.unwrap();
        let gate = bench.proxy.hold(Rule::on("PutItem").once());
        let (slow, quick) = (sign(NOW.plus_seconds(1)), sign(NOW.plus_seconds(2)));
        let crossing = async {
            gate.reached().await;
            take_in(&store, &quick).await.unwrap();
            gate.open();
        };
        tokio::join!(async { take_in(&store, &slow).await.unwrap() }, crossing);
        counted(&desk).await != 3
    }
}

fn charges(bench: &Bench) -> Charges {
    Charges::new(bench.proxy.table("payments"))
}

fn charged(id: &str, who: &str, payment_key: &str) -> Charge {
    let ask = PayCharge {
        user_id: user(who),
        key: "order-1".to_owned(),
        amount: won(100),
        payment_key: payment_key.to_owned(),
        requested_at: NOW,
        correlation_id: "request-1".to_owned(),
    };
    Charge::asked(payment(id), ask)
}

async fn stored_charge(bench: &Bench) -> Item {
    bench.engine.item("payments", "USER#alice", "CHARGE#order-1").await.unwrap()
}

async fn stored_payment(bench: &Bench, id: &str) -> Item {
    bench.engine.item("payments", "USER#alice", &format!("PAY#{id}")).await.unwrap()
}

async fn status_of(bench: &Bench, id: &str) -> String {
    stored_payment(bench, id).await.text("status").unwrap().to_owned()
}

/// A payment of alice's that is on its way back.
async fn refunding(bench: &Bench) -> Payment {
    let saga = saga_of("alice", "p1", 100);
    let payment = bench.open_payment(&saga, NOW).await;
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    let refunding = payment.refunding(Refund { requested_at: NOW, correlation_id: "c".to_owned() });
    bench.payments.open_refund(&refunding, &key("refund", json!({})), &stored(), NOW).await.unwrap();
    refunding
}

/// Every condition in a context's or the kit's source, as (context/function, condition).
fn written() -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for context in CONTEXTS.into_iter().chain(["kit"]) {
        for file in sources(context) {
            let text = fs::read_to_string(&file).unwrap();
            for (start, call) in text.match_indices("condition_expression(") {
                // `key_condition_expression` belongs to reading, `return_values_on_...` is no condition.
                let before = &text[..start];
                if !(before.ends_with('.') || before.ends_with(".set_")) {
                    continue;
                }
                let function = before.rsplit("fn ").next().unwrap().split(['(', '<']).next().unwrap();
                let condition = argument(&text[start + call.len()..]);
                *found.entry((format!("{context}/{function}"), condition)).or_default() += 1;
            }
        }
    }
    found
}

fn sources(context: &str) -> Vec<std::path::PathBuf> {
    let dir = workspace(&format!("functions/{context}/src"));
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// The argument that starts a text: a string literal's value, or the expression.
fn argument(text: &str) -> String {
    let trimmed = text.trim_start();
    if let Some(literal) = trimmed.strip_prefix('"') {
        return words(&literal.split('"').next().unwrap().replace("\\\n", " "));
    }
    let mut depth = 1;
    let end = trimmed.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    words(&trimmed[..end.unwrap()])
}

pub fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_condition_expression_has_a_negative_control() {
    let written: BTreeSet<(String, String)> = written().into_keys().collect();
    assert!(written.len() > 30, "the search finds the conditions");
    let elsewhere = [
        crate::controls_items::controlled(),
        crate::controls_orders::controlled(),
        crate::controls_points::controlled(),
    ];
    let controlled: BTreeSet<(String, String)> = elsewhere.into_iter().flatten().chain(controlled()).collect();
    let missing: Vec<_> = written.difference(&controlled).collect();
    let stale: Vec<_> = controlled.difference(&written).collect();
    assert!(missing.is_empty() && stale.is_empty(), "without a control: {missing:#?}\nno longer written: {stale:#?}");
}
