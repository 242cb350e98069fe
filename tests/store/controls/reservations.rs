//! Negative controls of reservations; see [`crate::controls`].

use super::{controls, put, remove};
use crate::audit::violations;
use crate::bench::{Bench, hold};
use ::reservations::domain::extensions::Extension;
use ::reservations::domain::{EndHold, MAX_PENDING, Reservation, SeatRequest, Status, UnpaidRule};
use ::reservations::handlers::begin_payment;
use ::reservations::handlers::release_reservation;
use ::reservations::ports::{
    EndReturn, EndVisit, FindReservation, FindWaiting, KeepTerms, LoadSale, WriteEnd, WriteExtension, WritePayment,
    WritePending, WriteRefund,
};
use ::reservations::usecases::write_reservations::write_reservations;
use contracts::Timestamp;
use contracts::admission::AdmissionPlan;
use contracts::events::CancelReason;
use contracts::saga::RefundSaga;
use kit::dynamo::{Item, Read, n, s};
use kit::idempotency::Outcome;
use tests::fixture::{
    ACTIVE_SECONDS, HOLD_SECONDS, NOW, concert, payment, place, plan, refused, saga, schedule, seat_request, step,
    terms, user, won,
};
use tests::proxy::Rule;

fn hold_end() -> Timestamp {
    NOW.plus_seconds(HOLD_SECONDS)
}

async fn is_unsound(bench: &Bench, now: Timestamp) -> bool {
    !violations(bench, now).await.is_empty()
}

async fn entitlement(bench: &Bench, who: &str) -> Item {
    bench.engine.item("reservations", &format!("USER#{who}"), "CONCERT#concert").await.unwrap()
}

/// A reservation that alice requested asynchronously.
async fn pending(bench: &Bench) -> SeatRequest {
    let request = seat_request(place("alice", 1, NOW), &["A-1-1"], "r1");
    assert!(matches!(
        bench.reservations.write_pending(&request, &pending_reservation(&request), None, NOW).await.unwrap(),
        Some(Outcome::First)
    ));
    request
}

/// The reservation a request asks for.
fn pending_reservation(request: &SeatRequest) -> Reservation {
    Reservation {
        id: request.reservation.clone(),
        user: request.user.clone(),
        schedule: request.schedule.clone(),
        concert: concert(),
        seats: request.seats.as_slice().to_vec(),
        total_price: won(1),
        queue_position: 1,
        status: Status::Pending,
        hold_expires_at: NOW,
        created_at: NOW,
        correlation_id: request.correlation_id.clone(),
        payment: None,
        releases: 0,
        failure: None,
        seats_free_at: None,
        is_extended: false,
    }
}

/// Asks for a hold to end a minute later.
async fn extended(bench: &Bench, held: &Reservation, now: Timestamp) {
    let until = held.hold_expires_at.plus_seconds(60);
    let extension = Extension { from: held.hold_expires_at, until, seats_free_at: None };
    bench.reservations.write_extension(held, &extension, now).await.unwrap();
}

fn refund_of(reservation: &Reservation) -> RefundSaga {
    RefundSaga { payment: saga(reservation, "p1"), refund_requested_at: NOW, refund_correlation_id: "c".into() }
}

controls! {
    a_seat_has_one_holder: "reservations/seat_taken"
    guards "attribute_not_exists(pk) OR (#status = :held AND hold_expires_at <= :now)", |bench| {
        bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let _second = bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", NOW).await;
        is_unsound(bench, NOW).await
    }

    a_first_hold_of_a_visit_keeps_to_the_ticket_limit: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND \
            (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)", |bench| {
        let seats = ["A-1-1", "A-1-2", "A-1-3", "A-1-4"];
        let held = bench.reserve(place("alice", 1, NOW), &seats, "r1", NOW).await.unwrap();
        let later = NOW.plus_seconds(ACTIVE_SECONDS);
        // Being paid, the tickets count for as long as it takes.
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reserve(place("alice", 2, later), &["A-2-1"], "r2", later).await.is_ok()
    }

    a_later_hold_of_a_visit_keeps_to_the_ticket_limit: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND visit_ends_at > :now", |bench| {
        let seats = ["A-1-1", "A-1-2", "A-1-3", "A-1-4"];
        bench.reserve(place("alice", 1, NOW), &seats, "r1", NOW).await.unwrap();
        bench.reserve(place("alice", 1, NOW), &["A-2-1"], "r2", NOW).await.is_ok()
    }

    two_tokens_at_once_begin_one_visit: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND \
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

    a_hold_on_its_way_when_the_visit_ends_by_a_sale_is_not_made: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND visit_ends_at > :now", |bench| {
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

    a_hold_on_its_way_when_its_place_is_spent_is_not_made_within_another_visit: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND visit_ends_at > :now", |bench| {
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

    a_hold_on_its_way_when_its_user_lets_the_last_one_go_is_not_made: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND visit_ends_at > :now", |bench| {
        let store = bench.reservations.clone().allowing(UnpaidRule { most: 1, cool_down_seconds: 0 });
        let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
        let late = async { hold(&store, place("alice", 1, NOW), &["A-1-2"], "r2", NOW).await };
        let letting_go = async {
            gate.reached().await;
            store.end_hold(&held.booking(), EndHold::Cancel, NOW).await.unwrap();
            gate.open();
        };
        tokio::join!(late, letting_go).0.is_ok()
    }

    a_first_hold_of_a_visit_is_not_made_when_its_user_lets_the_last_one_go: "reservations/one_hold_more"
    guards "(attribute_not_exists(#tickets) OR #tickets <= :room) AND attribute_not_exists(#spent) AND \
            (attribute_not_exists(#unpaid) OR #unpaid = :unpaid) AND \
            (attribute_not_exists(visit_ends_at) OR visit_ends_at <= :issued_at)", |bench| {
        let store = bench.reservations.clone().allowing(UnpaidRule { most: 1, cool_down_seconds: 0 });
        let held = hold(&store, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let later = NOW.plus_seconds(ACTIVE_SECONDS);
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
        let late = async { hold(&store, place("alice", 2, later), &["A-1-2"], "r2", later).await };
        let running_out = async {
            gate.reached().await;
            store.end_hold(&held.booking(), EndHold::Expire, later).await.unwrap();
            gate.open();
        };
        tokio::join!(late, running_out).0.is_ok()
    }

    an_id_is_never_given_to_two_reservations: "reservations/held_row"
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

    a_hold_that_is_being_paid_never_expires: "reservations/hold_ended"
    guards "#status = :held AND hold_expires_at <= :now AND \
            (attribute_not_exists(seats_free_at) OR seats_free_at <= :now)" from "guard", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.end_hold(&held.booking(), EndHold::Expire, hold_end()).await.unwrap();
        is_unsound(bench, hold_end()).await
    }

    a_hold_that_is_being_paid_never_expires_where_seats_are_kept_back: "reservations/hold_ended"
    guards "#status = :held AND hold_expires_at <= :now AND seats_free_at > :now" from "guard", |bench| {
        let keeping = bench.returning("30,120");
        let held = hold(&keeping, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        keeping.end_hold(&held.booking(), EndHold::Expire, hold_end()).await.unwrap();
        is_unsound(bench, hold_end()).await
    }

    a_seat_of_somebody_else_is_not_kept_back: "reservations/seat_kept"
    guards "reservation_id = :reservation AND #status = :held", |bench| {
        let keeping = bench.returning("30,120");
        let held = hold(&keeping, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let seat = bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap();
        let others = Item::from([("reservation_id".to_owned(), s("r2")), ("hold_expires_at".to_owned(), n(1))]);
        put(bench, "reservations", seat.into_iter().chain(others).collect()).await;
        keeping.end_hold(&held.booking(), EndHold::Cancel, NOW).await.unwrap();
        bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap()["hold_expires_at"] != n(1)
    }

    seats_that_were_kept_back_long_enough_are_freed_only_while_nobody_has_them: "reservations/seat_let_go"
    guards "reservation_id = :reservation AND #status = :held AND hold_expires_at <= :now", |bench| {
        let keeping = bench.returning("30,120");
        let held = hold(&keeping, place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        keeping.end_hold(&held.booking(), EndHold::Cancel, NOW).await.unwrap();
        let free = NOW.plus_seconds(120);
        bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", free).await.unwrap();
        let ended = bench.reservations.find(&user("alice"), &held.id).await.unwrap().unwrap();
        bench.reservations.end_return(&ended, free).await.unwrap();
        is_unsound(bench, free).await
    }

    a_running_hold_stays_in_the_sight_of_the_sweep: "reservations/end_return"
    guards "#status <> :held AND #status <> :paying AND seats_free_at <= :now", |bench| {
        let held = hold(&bench.returning("30,120"), place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.reservations.end_return(&held, hold_end()).await.unwrap();
        let row = bench.engine.item("reservations", "USER#alice", "RES#r1").await.unwrap();
        !row.contains_key("due_at")
    }

    a_cancelled_hold_gives_its_tickets_back_once: "reservations/hold_ended"
    guards "#status = :held AND hold_expires_at > :now" from "guard", |bench| {
        bench.reserve(place("alice", 1, NOW), &["B-1-1"], "r0", NOW).await.unwrap();
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        for _ in 0..2 {
            bench.reservations.end_hold(&held.booking(), EndHold::Cancel, NOW).await.unwrap();
        }
        is_unsound(bench, NOW).await
    }

    a_hold_that_is_over_frees_no_seat_of_its_next_holder: "reservations/seat_freed"
    guards "reservation_id = :reservation AND #status = :held", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", hold_end()).await.unwrap();
        bench.reservations.end_hold(&held.booking(), EndHold::Expire, hold_end()).await.unwrap();
        is_unsound(bench, hold_end()).await
    }

    a_count_of_tickets_never_falls_below_zero: "reservations/fewer_tickets"
    guards "#tickets >= :count", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let mut corrupt = entitlement(bench, "alice").await;
        corrupt.insert("n#date".to_owned(), n(0));
        put(bench, "reservations", corrupt).await;
        let _ended = bench.reservations.end_hold(&held.booking(), EndHold::Cancel, NOW).await;
        entitlement(bench, "alice").await["n#date"] != n(0)
    }

    a_hold_that_is_paid_is_not_undone: "reservations/hold_ended"
    guards "#status = :held", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        let undo = EndHold::Undo(CancelReason::AvailabilityNotUpdated);
        bench.reservations.end_hold(&held.booking(), undo, NOW).await.unwrap();
        is_unsound(bench, NOW).await
    }

    a_request_that_is_decided_is_not_decided_again: "reservations/held_row"
    guards "#status = :pending", |bench| {
        let request = pending(bench).await;
        bench.reservations.reject_request(&request, "seat_taken", NOW).await.unwrap();
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
        bench.seat("A-1-1").await.is_some()
    }

    a_request_written_twice_undoes_no_decision: "reservations/write_pending"
    guards "attribute_not_exists(pk)", |bench| {
        let request = pending(bench).await;
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
        bench.reservations.write_pending(&request, &pending_reservation(&request), None, NOW).await.unwrap().unwrap();
        is_unsound(bench, NOW).await
    }

    a_user_has_so_many_undecided_requests_and_no_more: "reservations/write_pending"
    guards "attribute_not_exists(#wishes) OR #wishes < :most", |bench| {
        let mut last = None;
        for number in 0..=MAX_PENDING {
            let request = seat_request(place("alice", 1, NOW), &["A-1-1"], &format!("r{number}"));
            last = Some(bench.reservations.write_pending(&request, &pending_reservation(&request), None, NOW).await.unwrap());
        }
        last.unwrap().is_some()
    }

    what_is_held_is_not_ended_as_a_request: "reservations/end_request"
    guards "#status = :pending", |bench| {
        let request = pending(bench).await;
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
        bench.reservations.reject_request(&request, "timed_out", NOW).await.unwrap();
        is_unsound(bench, NOW).await
    }

    what_is_decided_is_not_looked_after: "reservations/look_later"
    guards "#status = :pending", |bench| {
        let request = pending(bench).await;
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
        bench.reservations.look_later(&pending_reservation(&request), NOW).await.unwrap();
        let pk = format!("USER#{}", request.user);
        let row = bench.engine.item("reservations", &pk, &format!("RES#{}", request.reservation)).await.unwrap();
        row.contains_key("waiting_at")
    }

    a_refund_repeated_late_touches_no_next_holder: "reservations/seat_given_back"
    guards "reservation_id = :reservation AND #status = :sold", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.confirm(&saga(&held, "p1"), NOW).await;
        // As if the seat had gone to another although it is sold.
        let seat = bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap();
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

    a_release_leaves_a_tombstone_for_its_late_begin: "reservations/begin"
    guards "#status = :held AND NOT contains(released, :payment)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        release_reservation(&bench.reservations, step(refused(saga(&held, "p1")), NOW)).await.unwrap();
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
        bench.reservations.release(&refused(saga(&held, "p2")), NOW).await.unwrap();
        bench.status(&held).await != "paying"
    }

    a_payment_frees_nothing_that_another_one_is_paying: "reservations/back_to_nobody"
    guards "#status = :paying AND payment_id = :payment AND hold_expires_at = :ends_at", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.release(&refused(saga(&held, "p2")), hold_end()).await.unwrap();
        bench.status(&held).await != "paying"
    }

    a_payment_that_fails_leaves_a_hold_that_was_extended_meanwhile: "reservations/back_to_nobody"
    guards "#status = :paying AND payment_id = :payment AND hold_expires_at = :ends_at", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        extended(bench, &held, NOW).await;
        bench.begin(&saga(&held, "p1"), NOW).await;
        bench.reservations.release(&refused(saga(&held, "p1")), hold_end()).await.unwrap();
        bench.status(&held).await != "held"
    }

    a_hold_is_extended_once: "reservations/hold_extended"
    guards "#status = :held AND hold_expires_at > :now AND attribute_not_exists(extended_from)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        extended(bench, &held, NOW).await;
        extended(bench, &Reservation { hold_expires_at: hold_end().plus_seconds(60), ..held }, NOW).await;
        let row = bench.engine.item("reservations", "USER#alice", "RES#r1").await.unwrap();
        row.moment("hold_expires_at").unwrap() != hold_end().plus_seconds(60)
    }

    a_seat_that_somebody_has_by_now_is_not_extended: "reservations/seat_extended"
    guards "reservation_id = :reservation AND #status = :held", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", hold_end()).await.unwrap();
        extended(bench, &held, hold_end().plus_millis(-1)).await;
        is_unsound(bench, hold_end()).await
    }

    a_release_frees_no_seat_of_somebody_else: "reservations/back_to_nobody"
    guards "reservation_id = :reservation AND #status = :paying", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        bench.begin(&saga(&held, "p1"), NOW).await;
        let mut corrupt = bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap();
        corrupt.insert("reservation_id".to_owned(), s("r2"));
        put(bench, "reservations", corrupt).await;
        let _released = bench.reservations.release(&refused(saga(&held, "p1")), hold_end()).await;
        bench.seat("A-1-1").await.is_none()
    }

    a_begin_that_arrives_while_its_release_writes_the_tombstone_is_released: "reservations/close_to"
    guards "attribute_exists(pk) AND (attribute_not_exists(payment_id) OR payment_id <> :payment)", |bench| {
        let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
        let saga = saga(&held, "p1");
        let gate = bench.proxy.hold(Rule::on("UpdateItem").once());
        let releasing = async { release_reservation(&bench.reservations, step(refused(saga.clone()), NOW)).await };
        let beginning = async {
            gate.reached().await;
            bench.begin(&saga, NOW).await;
            gate.open();
        };
        tokio::join!(releasing, beginning).0.unwrap();
        bench.status(&held).await == "paying"
    }

    a_visit_that_ended_later_is_not_ended_earlier: "reservations/end_visit"
    guards "attribute_not_exists(visit_ends_at) OR visit_ends_at <= :at OR visit_ends_at > :now", |bench| {
        let (alice, after) = (user("alice"), |seconds| NOW.plus_seconds(seconds));
        bench.reservations.end_visit(&alice, &concert(), after(30), after(30)).await.unwrap();
        bench.reservations.end_visit(&alice, &concert(), after(10), after(40)).await.unwrap();
        bench.reserve(place("alice", 1, after(20)), &["A-1-1"], "r1", after(50)).await.is_ok()
    }
}
