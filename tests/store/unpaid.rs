//! Holds that are let go unpaid: so many of a date for each user, and not the same seats again at once.

use crate::audit::assert_sound;
use crate::bench::{Bench, Requests, hold, refusal, reserving};
use ::reservations::domain::{EndHold, Refusal, Reservation, UnpaidRule};
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::{self, ReserveDeps, begin_payment, release_reservation};
use ::reservations::ports::WriteEnd;
use ::reservations::usecases::cancel_reservation::cancel_reservation;
use ::reservations::usecases::reserve_seats::ReserveError;
use ::reservations::usecases::sweep_holds::sweep_holds;
use ::reservations::usecases::write_reservations::write_reservations;
use contracts::Timestamp;
use contracts::events::CancelReason;
use kit::dynamo::{n, s};
use serde_json::json;
use std::sync::Arc;
use tests::calls::{Ask, queue_tokens, users};
use tests::fixture::{HOLD_SECONDS, NOW, broken_off, place, refused, saga, seat, step};
use tests::proxy::Rule;
use tokio::task::JoinSet;

fn allowing(bench: &Bench, most: u32, cool_down_seconds: u32) -> Reservations {
    bench.reservations.clone().allowing(UnpaidRule { most, cool_down_seconds })
}

async fn alice(store: &Reservations, seats: &[&str], id: &str, now: Timestamp) -> Result<Reservation, ReserveError> {
    hold(store, place("alice", 1, now), seats, id, now).await
}

async fn let_go(store: &Reservations, held: &Reservation, now: Timestamp) {
    cancel_reservation(store, &held.user, &held.id, now).await.unwrap();
}

async fn unpaid(bench: &Bench) -> kit::dynamo::Item {
    bench.engine.item("reservations", "USER#alice", "CONCERT#concert").await.unwrap()
}

#[tokio::test]
async fn a_user_who_let_so_many_holds_go_gets_no_other_and_nothing_is_written() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 3, 0);
    // Cancelled, run out, and paid in vain beyond the end.
    let first = alice(&store, &["A-1-1"], "r1", NOW).await.unwrap();
    let_go(&store, &first, NOW).await;
    alice(&store, &["A-1-1"], "r2", NOW).await.unwrap();
    let end = NOW.plus_seconds(HOLD_SECONDS);
    sweep_holds(&store, end).await.unwrap();
    let third = alice(&store, &["A-1-1"], "r3", end).await.unwrap();
    begin_payment(&store, step(saga(&third, "p1"), end)).await.unwrap();
    release_reservation(&store, step(refused(saga(&third, "p1")), end.plus_seconds(HOLD_SECONDS))).await.unwrap();
    let now = end.plus_seconds(HOLD_SECONDS);
    assert_eq!(unpaid(&bench).await["u#date"], n(3));
    bench.proxy.forget();
    let fourth = hold(&store, place("alice", 2, now), &["A-2-1"], "r4", now).await;
    assert_eq!(refusal(fourth), Refusal::UnpaidLimit { most: 3 });
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"]);
    // Others are not touched by it, and an operator who raises the number lets her in again.
    hold(&store, place("bob", 3, now), &["A-2-1"], "r5", now).await.unwrap();
    hold(&allowing(&bench, 4, 0), place("alice", 2, now), &["A-2-2"], "r6", now).await.unwrap();
    assert_sound(&bench, now).await;
}

#[tokio::test]
async fn what_was_paid_or_undone_by_the_system_does_not_count() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 1, 60);
    let paid = alice(&store, &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&paid, "p1"), NOW).await;
    let undone = alice(&store, &["A-1-2"], "r2", NOW).await.unwrap();
    let undo = EndHold::Undo(CancelReason::AvailabilityNotUpdated);
    assert!(store.end_hold(&undone.booking(), undo, NOW).await.unwrap());
    // A payment that fails in time gives the hold back: it has not ended.
    release_reservation(&store, step(refused(saga(&paid, "p1")), NOW)).await.unwrap();
    // One that we could not bring to its end until the hold was over is our doing.
    let ours = alice(&store, &["A-1-3"], "r4", NOW).await.unwrap();
    begin_payment(&store, step(saga(&ours, "p2"), NOW)).await.unwrap();
    let end = NOW.plus_seconds(HOLD_SECONDS);
    release_reservation(&store, step(broken_off(saga(&ours, "p2")), end)).await.unwrap();
    assert_eq!(bench.status(&ours).await, "expired");
    assert!(!unpaid(&bench).await.contains_key("u#date"));
    alice(&store, &["A-1-2"], "r3", NOW).await.unwrap();
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_hold_that_two_end_at_once_counts_once() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let store = allowing(&bench, 9, 60);
    let held = alice(&store, &["A-1-1", "A-1-2"], "r1", NOW).await.unwrap();
    let mut ends = JoinSet::new();
    for _ in 0..10 {
        let (store, held) = (store.clone(), held.clone());
        ends.spawn(async move { let_go(&store, &held, NOW).await });
    }
    ends.join_all().await;
    assert_eq!(unpaid(&bench).await["u#date"], n(1));
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn the_same_user_cannot_hold_the_same_seats_again_until_they_have_cooled_down() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 9, 60);
    let held = alice(&store, &["A-1-1", "A-1-2"], "r1", NOW).await.unwrap();
    let_go(&store, &held, NOW).await;
    let soon = NOW.plus_millis(59_999);
    bench.proxy.forget();
    let cooling = Refusal::SeatsCoolingDown { seats: vec![seat("A-1-2")], cool_down_seconds: 60 };
    assert_eq!(refusal(alice(&store, &["A-1-3", "A-1-2"], "r2", soon).await), cooling);
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"], "nothing is written");
    // Another seat, and another user.
    let other = alice(&store, &["A-1-3"], "r3", soon).await.unwrap();
    hold(&store, place("bob", 2, soon), &["A-1-1"], "r4", soon).await.unwrap();
    let_go(&store, &other, soon).await;
    // The first ones have cooled down, and are forgotten with the next hold; the last one has not.
    let later = NOW.plus_seconds(60);
    alice(&store, &["A-1-2"], "r5", later).await.unwrap();
    let row = unpaid(&bench).await;
    let left: Vec<&String> = row.keys().filter(|name| name.starts_with("c#")).collect();
    assert_eq!(left, [&format!("c#date#{}", soon.plus_seconds(60).millis())]);
    assert!(matches!(refusal(alice(&store, &["A-1-3"], "r6", later).await), Refusal::SeatsCoolingDown { .. }));
    assert_sound(&bench, later).await;
}

#[tokio::test]
async fn of_many_requests_at_once_none_gets_past_the_limit() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let store = allowing(&bench, 2, 0);
    let mut tries = JoinSet::new();
    for number in 1..=20 {
        let store = store.clone();
        tries.spawn(async move {
            let held = alice(&store, &[&format!("A-1-{number}")], &format!("r{number}"), NOW).await;
            let Ok(held) = held else { return 0 };
            let_go(&store, &held, NOW).await;
            1
        });
    }
    let held: i32 = tries.join_all().await.into_iter().sum();
    // Four run at once at most, so four may have begun before the second was let go.
    assert!((2..=5).contains(&held), "{held}");
    assert!(matches!(refusal(alice(&store, &["A-2-1"], "last", NOW).await), Refusal::UnpaidLimit { most: 2 }));
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn both_are_told_with_a_code_of_their_own_at_once_and_to_who_asked_asynchronously() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 2, 60);
    let deps =
        ReserveDeps { store: store.clone(), requests: Requests::default(), users: users(), tokens: queue_tokens() };
    let ask = |seat: &str| {
        let body = json!({"schedule_id": "date", "seats": [seat]});
        Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).json(body)
    };
    let held = alice(&store, &["A-1-1"], "r1", NOW).await.unwrap();
    // Asked for while it is held, and decided when it has been let go.
    let open = reserving(&bench);
    handlers::reserve_seats(&open, ask("A-1-1").header("prefer", "respond-async").call()).await.unwrap();
    let_go(&store, &held, NOW).await;
    let problem = handlers::reserve_seats(&deps, ask("A-1-1").call()).await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (409, "seat_cooling_down"));
    assert_eq!(problem.members["seats"], json!(["A-1-1"]));
    let request = open.requests.sent().pop().unwrap();
    write_reservations(&store, &request, NOW).await.unwrap();
    let row = bench.engine.item("reservations", "USER#alice", &format!("RES#{}", request.reservation)).await.unwrap();
    assert_eq!((&row["status"], &row["failure"]), (&s("rejected"), &s("seat_cooling_down")));
    let second = alice(&store, &["A-1-2"], "r2", NOW).await.unwrap();
    let_go(&store, &second, NOW).await;
    for asynchronous in [false, true] {
        let asked = if asynchronous { ask("A-1-3").header("prefer", "respond-async") } else { ask("A-1-3") };
        let problem = handlers::reserve_seats(&deps, asked.call()).await.unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (409, "unpaid_limit_exceeded"));
        assert_eq!(problem.members["max_unpaid"], 2);
    }
}

#[tokio::test]
async fn a_hold_of_somebody_who_let_go_before_costs_no_more_than_any() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 9, 60);
    let held = alice(&store, &["A-1-1"], "r1", NOW).await.unwrap();
    bench.proxy.forget();
    let_go(&store, &held, NOW).await;
    alice(&store, &["A-1-2"], "r2", NOW).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem", "TransactWriteItems", "BatchGetItem", "TransactWriteItems"]);
}

#[tokio::test]
async fn a_hold_on_its_way_is_decided_again_when_another_one_is_let_go() {
    let bench = Bench::on_sale(4).await;
    let store = allowing(&bench, 9, 60);
    let held = alice(&store, &["A-1-1"], "r1", NOW).await.unwrap();
    let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r2").once());
    let late = async { alice(&store, &["A-1-1"], "r2", NOW).await };
    let letting_go = async {
        gate.reached().await;
        let_go(&store, &held, NOW).await;
        gate.open();
    };
    let (late, ()) = tokio::join!(late, letting_go);
    assert!(matches!(refusal(late), Refusal::SeatsCoolingDown { .. }));
    assert_sound(&bench, NOW).await;
}
