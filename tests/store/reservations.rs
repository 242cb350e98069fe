//! Holds, limits and the reservation's part of the payment saga.

use crate::audit::assert_sound;
use crate::bench::{Bench, reason, refusal, reserving};
use ::reservations::domain::Refusal;
use ::reservations::handlers::begin_payment;
use ::reservations::handlers::confirm_reservation;
use ::reservations::handlers::expire_hold;
use ::reservations::handlers::release_reservation;
use ::reservations::handlers::{self, Deps};
use ::reservations::ports::{KeepTerms, LoadSale, ScheduleExpiry};
use ::reservations::usecases::cancel_reservation::{CancelError, cancel_reservation};
use ::reservations::usecases::expire_hold::ExpireHold;
use ::reservations::usecases::reserve_seats::ReserveError;
use ::reservations::usecases::sweep_holds::sweep_holds;
use contracts::admission::{AdmissionPlan, PlanChange};
use contracts::events::Event;
use contracts::saga::{Done, PaymentSaga, ReleaseOutcome};
use kit::dynamo::{Read, s};
use kit::queue::Message;
use kit::sweep::Budget;
use kit::{Fault, Problem, Reply, StepError, Tick};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tests::calls::{Ask, users};
use tests::fixture::{ACTIVE_SECONDS, HOLD_SECONDS, NOW, concert, place, plan, refused, saga, seat, step, terms, user};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const DONE: Done = Done { already: false };
const ALREADY: Done = Done { already: true };

fn hold_end() -> contracts::Timestamp {
    NOW.plus_seconds(HOLD_SECONDS)
}

// ---------------------------------------------------------------- holding seats

#[tokio::test]
async fn a_request_for_several_seats_is_granted_whole_or_not_at_all() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-2"], "r1", NOW).await.unwrap();
    let wanted = ["A-1-1", "A-1-2", "B-1-1"];
    assert_eq!(
        refusal(bench.reserve(place("bob", 2, NOW), &wanted, "r2", NOW).await),
        Refusal::SeatsTaken(vec![seat("A-1-2")])
    );
    assert_eq!((bench.seat("A-1-1").await, bench.seat("B-1-1").await), (None, None));
    bench.reserve(place("bob", 2, NOW), &["A-1-1", "B-1-1"], "r3", NOW).await.unwrap();
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn every_seat_that_is_taken_is_named() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-3"], "r1", NOW).await.unwrap();
    let wanted = ["A-1-1", "A-1-2", "A-1-3"];
    assert_eq!(
        refusal(bench.reserve(place("bob", 2, NOW), &wanted, "r2", NOW).await),
        Refusal::SeatsTaken(vec![seat("A-1-1"), seat("A-1-3")])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_200_buyers_of_one_seat_exactly_one_gets_it_and_all_others_are_told_so() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let mut buyers = JoinSet::new();
    for position in 1..=200 {
        let bench = Arc::clone(&bench);
        buyers.spawn(async move {
            let buyer = format!("buyer-{position}");
            bench.reserve(place(&buyer, position, NOW), &["A-5-10"], &format!("r{position}"), NOW).await
        });
    }
    let mut winners = 0;
    for outcome in buyers.join_all().await {
        match outcome {
            Ok(_) => winners += 1,
            Err(ReserveError::Refused(Refusal::SeatsTaken(seats))) => assert_eq!(seats, [seat("A-5-10")]),
            Err(other) => panic!("neither holds nor is refused: {other:?}"),
        }
    }
    assert_eq!(winners, 1);
    assert_sound(&bench, NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cross_each_other_never_end_half_and_half() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let mut buyers = JoinSet::new();
    for pair in 1..=10 {
        let (left, right) = (format!("A-{pair}-1"), format!("B-{pair}-1"));
        for (side, seats) in [("x", [left.clone(), right.clone()]), ("y", [right, left])] {
            let bench = Arc::clone(&bench);
            buyers.spawn(async move {
                let id = format!("{side}{pair}");
                let wanted: Vec<&str> = seats.iter().map(String::as_str).collect();
                let outcome = bench.reserve(place(&id, pair, NOW), &wanted, &id, NOW).await;
                (pair, outcome)
            });
        }
    }
    let mut winners = Vec::new();
    for (pair, outcome) in buyers.join_all().await {
        match outcome {
            Ok(_) => winners.push(pair),
            Err(ReserveError::Refused(Refusal::SeatsTaken(seats))) => assert_eq!(seats.len(), 2, "all or nothing"),
            Err(other) => panic!("{other:?}"),
        }
    }
    winners.sort_unstable();
    assert_eq!(winners, (1..=10).collect::<Vec<u64>>());
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_transaction_that_meets_others_is_tried_again_and_gives_up_as_contended() {
    let bench = Bench::on_sale(4).await;
    bench.proxy.inject(Rule::on("TransactWriteItems").times(3), Fate::Conflicted);
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Conflicted);
    let outcome = bench.reserve(place("bob", 2, NOW), &["A-1-2"], "r2", NOW).await;
    assert!(matches!(outcome, Err(ReserveError::Fault(Fault::Contended(_)))), "{outcome:?}");
    bench.proxy.heal();
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_hold_whose_answer_got_lost_is_held_once() {
    let bench = Bench::on_sale(4).await;
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems", "TransactWriteItems"]);
    assert_sound(&bench, NOW).await;
}

// ---------------------------------------------------------------- the end of a hold

#[tokio::test]
async fn a_seat_whose_hold_is_over_goes_to_the_next_buyer_without_any_timer() {
    let bench = Bench::on_sale(4).await;
    let first = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let early = hold_end().plus_millis(-1);
    let bob = || place("bob", 2, NOW);
    let taken = Refusal::SeatsTaken(vec![seat("A-1-1")]);
    assert_eq!(refusal(bench.reserve(bob(), &["A-1-1"], "r2", early).await), taken);
    bench.reserve(bob(), &["A-1-1"], "r3", hold_end()).await.unwrap();
    assert_eq!(bench.seat("A-1-1").await, Some(("r3".into(), "held".into())));
    assert_eq!(bench.status(&first).await, "held", "nobody has ended it yet");
    assert_sound(&bench, hold_end()).await;
}

#[tokio::test]
async fn expiry_of_a_hold_frees_only_the_seats_that_are_still_its_own() {
    let bench = Bench::on_sale(4).await;
    let first = bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-2", "B-1-1"], "r1", NOW).await.unwrap();
    bench.reserve(place("bob", 2, NOW), &["A-1-2"], "r2", hold_end()).await.unwrap();
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    assert_eq!(bench.status(&first).await, "expired");
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_eq!(bench.seat("B-1-1").await, None);
    assert_eq!(bench.seat("A-1-2").await, Some(("r2".into(), "held".into())));
    assert_sound(&bench, hold_end()).await;
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    assert_sound(&bench, hold_end()).await;
}

#[tokio::test]
async fn a_sweep_ends_every_hold_that_is_over_and_no_other() {
    let bench = Bench::on_sale(4).await;
    let later = NOW.plus_seconds(60);
    for n in 1..=30 {
        let buyer = format!("buyer-{n}");
        let now = if n <= 20 { NOW } else { later };
        bench
            .reserve(
                place(&buyer, n, NOW),
                &[&format!("A-{}-{}", (n - 1) / 20 + 1, (n - 1) % 20 + 1)],
                &format!("r{n}"),
                now,
            )
            .await
            .unwrap();
    }
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    let seats = bench.engine.items("reservations").await;
    assert_eq!(seats.iter().filter(|item| item.text("kind").ok() == Some("seat")).count(), 10);
    assert_sound(&bench, hold_end()).await;
}

#[tokio::test]
async fn holds_that_cannot_be_ended_keep_no_other_from_being_ended() {
    let bench = Bench::on_sale(4).await;
    let shard = |id: &str| id.bytes().map(u32::from).sum::<u32>() % 16;
    let together: Vec<String> = (0..).map(|n| format!("r{n}")).filter(|id| shard(id) == 0).take(101).collect();
    for (n, id) in together.iter().enumerate() {
        let seat = format!("A-{}-{}", n / 20 + 1, n % 20 + 1);
        let now = NOW.plus_millis(n as i64);
        bench.reserve(place(id, n as u64 + 1, NOW), &[&seat], id, now).await.unwrap();
    }
    // All but the last have lost their owner's count, and cannot be ended without it.
    let table = bench.engine.table("reservations");
    for id in &together[..100] {
        let lost = table.client.delete_item().table_name(&table.name);
        lost.key("pk", s(format!("USER#{id}"))).key("sk", s("CONCERT#concert")).send().await.unwrap();
    }
    assert!(matches!(sweep_holds(&bench.reservations, hold_end().plus_seconds(1)).await, Err(Fault::Broken(_))));
    assert!(bench.seat("A-5-20").await.is_some());
    assert_eq!(bench.seat("A-6-1").await, None);
}

#[tokio::test]
async fn a_hold_whose_end_hangs_and_a_shard_that_hangs_keep_no_other_from_being_ended() {
    let bench = Bench::on_sale(4).await;
    let shard = |id: &str| id.bytes().map(u32::from).sum::<u32>() % 16;
    for n in 1..=20 {
        let id = format!("r{n}");
        bench.reserve(place(&format!("buyer-{n}"), n, NOW), &[&format!("A-1-{n}")], &id, NOW).await.unwrap();
    }
    let unread = shard("r2").to_string();
    let hangs = bench.proxy.hold(Rule::on("TransactWriteItems").containing("RES#r1\""));
    let unreadable = bench.proxy.hold(Rule::on("Query").containing(&format!("{{\"S\":\"{unread}\"}}")));
    // A run that never gets older, and has so little time that what hangs is soon cut off.
    let budget = Budget::by(|| Duration::ZERO, Duration::from_millis(1));
    let run = sweep_holds(&bench.reservations, Tick { now: hold_end(), budget }).await;
    assert!(matches!(run, Err(Fault::Unavailable(_))), "{run:?}");
    for n in 1..=20 {
        let id = format!("r{n}");
        let is_left = id == "r1" || shard(&id).to_string() == unread;
        assert_eq!(bench.seat(&format!("A-1-{n}")).await.is_some(), is_left, "{id}");
    }
    hangs.open();
    unreadable.open();
    bench.proxy.heal();
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    assert_sound(&bench, hold_end()).await;
    assert_eq!(bench.seat("A-1-1").await, None);
}

/// The delays that were requested.
#[derive(Debug, Default)]
struct Delays(Mutex<Vec<i32>>);

impl ScheduleExpiry for &Delays {
    async fn look_again(&self, _: &str, delay_seconds: i32) -> Result<(), Fault> {
        self.0.lock().unwrap().push(delay_seconds);
        Ok(())
    }
}

/// The message that the rule for `reservation.held` puts on the queue.
async fn held_message(bench: &Bench, id: &str) -> String {
    let row = bench.engine.item("reservations", &format!("OUTBOX#{id}.reservation.held"), "OUTBOX").await.unwrap();
    let event: Event = row.document("event").unwrap();
    json!({ "detail": event }).to_string()
}

#[tokio::test]
async fn a_hold_expires_by_its_message_when_it_is_due_and_waits_in_steps_of_15_minutes_until_then() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let body = held_message(&bench, "r1").await;
    let delays = Delays::default();
    let deps = ExpireHold { store: bench.reservations.clone(), queue: &delays };
    let message = |now| Message::new("m", body.clone(), now);
    for (early_by_millis, delay) in [(3_600_000, 900), (900_000, 900), (2_500, 3), (1, 1)] {
        expire_hold(&deps, message(hold_end().plus_millis(-early_by_millis))).await.unwrap();
        assert_eq!(delays.0.lock().unwrap().pop(), Some(delay));
    }
    assert!(bench.seat("A-1-1").await.is_some());
    for _ in 0..2 {
        expire_hold(&deps, message(hold_end())).await.unwrap();
        assert_eq!(bench.seat("A-1-1").await, None);
        assert_sound(&bench, hold_end()).await;
    }
    assert!(delays.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_hold_that_is_being_paid_is_left_alone_by_its_message_and_by_the_sweep() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&held, "p1"), NOW).await;
    let delays = Delays::default();
    let deps = ExpireHold { store: bench.reservations.clone(), queue: &delays };
    let late = hold_end().plus_seconds(3_600);
    expire_hold(&deps, Message::new("m", held_message(&bench, "r1").await, late)).await.unwrap();
    sweep_holds(&bench.reservations, late).await.unwrap();
    assert_eq!(bench.seat("A-1-1").await, Some(("r1".into(), "paying".into())));
    let taken = Refusal::SeatsTaken(vec![seat("A-1-1")]);
    assert_eq!(refusal(bench.reserve(place("bob", 2, late), &["A-1-1"], "r2", late).await), taken);
    assert_sound(&bench, late).await;
}

// ---------------------------------------------------------------- limits

#[tokio::test]
async fn the_ticket_limit_counts_over_all_reservations_of_a_user_for_the_date() {
    let bench = Bench::on_sale(3).await;
    let alice = || place("alice", 1, NOW);
    let limit = Refusal::TicketLimit { max_per_user: 3 };
    let paid = bench.reserve(alice(), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.reserve(alice(), &["A-1-2"], "r2", NOW).await.unwrap();
    assert_eq!(refusal(bench.reserve(alice(), &["A-1-3", "A-1-4"], "r3", NOW).await), limit);
    bench.begin(&saga(&paid, "p1"), NOW).await;
    assert_eq!(refusal(bench.reserve(alice(), &["A-1-3", "A-1-4"], "r4", NOW).await), limit);
    cancel_reservation(&bench.reservations, &user("alice"), &"r2".to_owned().try_into().unwrap(), NOW).await.unwrap();
    bench.reserve(alice(), &["A-1-3", "A-1-4"], "r5", NOW).await.unwrap();
    bench.confirm(&saga(&paid, "p1"), NOW).await;
    // A later token of the same user.
    let later = NOW.plus_seconds(ACTIVE_SECONDS + 1);
    assert_eq!(
        refusal(bench.reserve(place("alice", 9, later), &["A-2-1", "A-2-2", "A-2-3"], "r6", later).await),
        limit
    );
    assert_sound(&bench, later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_reserves_twenty_times_at_once_gets_no_more_than_the_limit() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let mut tries = JoinSet::new();
    for n in 1..=20 {
        let bench = Arc::clone(&bench);
        tries.spawn(async move {
            bench.reserve(place("alice", 1, NOW), &[&format!("A-1-{n}")], &format!("r{n}"), NOW).await.is_ok()
        });
    }
    let held = tries.join_all().await.into_iter().filter(|held| *held).count();
    assert_eq!(held, 4);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn nobody_is_refused_for_tickets_of_a_hold_that_ran_out() {
    let bench = Bench::on_sale(2).await;
    let old = bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-2"], "r1", NOW).await.unwrap();
    bench.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-3"], "r2", hold_end()).await.unwrap();
    assert_eq!(bench.status(&old).await, "expired");
    assert_eq!(bench.seat("A-1-2").await, None);
    assert_sound(&bench, hold_end()).await;
}

// ---------------------------------------------------------------- places in line

#[tokio::test]
async fn a_spent_token_reserves_nothing_more_and_the_next_one_does_whatever_is_paid_since() {
    let bench = Bench::on_sale(8).await;
    let first = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let second = bench.reserve(place("alice", 1, NOW), &["A-1-2"], "r2", NOW).await.unwrap();
    bench.begin(&saga(&first, "p1"), NOW).await;
    let sold_at = NOW.plus_seconds(10);
    bench.confirm(&saga(&first, "p1"), sold_at).await;
    let now = NOW.plus_seconds(20);
    assert_eq!(refusal(bench.reserve(place("alice", 1, NOW), &["A-1-3"], "r3", now).await), Refusal::TokenNotActive);
    // What it had reserved before can still be paid, and that takes nothing from the next place.
    bench.reserve(place("alice", 7, sold_at), &["A-1-3"], "r5", now).await.unwrap();
    bench.begin(&saga(&second, "p2"), now).await;
    bench.confirm(&saga(&second, "p2"), now).await;
    bench.reserve(place("alice", 7, sold_at), &["A-1-4"], "r6", now).await.unwrap();
    assert_eq!(refusal(bench.reserve(place("alice", 1, NOW), &["A-1-5"], "r7", now).await), Refusal::TokenNotActive);
    assert_sound(&bench, now).await;
}

#[tokio::test]
async fn a_spent_token_stays_spent_while_its_owner_is_inside_with_another() {
    let bench = Bench::on_sale(8).await;
    let first = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&first, "p1"), NOW).await;
    let sold_at = NOW.plus_seconds(10);
    bench.confirm(&saga(&first, "p1"), sold_at).await;
    bench.reserve(place("alice", 7, sold_at), &["A-1-2"], "r2", sold_at).await.unwrap();
    let outcome = bench.reserve(place("alice", 1, NOW), &["A-1-3"], "r3", sold_at).await;
    assert_eq!(refusal(outcome), Refusal::TokenNotActive);
}

#[tokio::test]
async fn a_token_issued_during_a_visit_is_void_after_it() {
    let bench = Bench::on_sale(8).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let issued = NOW.plus_seconds(60);
    let second = || place("alice", 2, issued);
    bench.reserve(second(), &["A-1-2"], "r2", issued).await.unwrap();
    bench.reserve(place("alice", 1, NOW), &["A-1-3"], "r3", issued).await.unwrap();
    // Its own time reaches further than the first one's, but it was got while that ran.
    let after = NOW.plus_seconds(ACTIVE_SECONDS);
    assert_eq!(refusal(bench.reserve(second(), &["A-1-4"], "r4", after).await), Refusal::TokenNotActive);
    bench.reserve(place("alice", 3, after), &["A-1-4"], "r5", after).await.unwrap();
    assert_sound(&bench, after).await;
}

#[tokio::test]
async fn a_sale_leaves_the_place_that_its_buyer_took_since_as_it_is() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    // The first place is over, the next one taken, before the hold is paid.
    let since = NOW.plus_seconds(ACTIVE_SECONDS + 60);
    let next = place("alice", 2, since);
    let saga = saga(&held, "p1");
    bench.begin(&saga, since).await;
    bench.confirm(&saga, since.plus_seconds(60)).await;
    let later = since.plus_seconds(120);
    bench.reserve(next, &["A-1-2"], "r2", later).await.unwrap();
    let again = bench.reserve(place("alice", 1, NOW), &["A-1-3"], "r3", later).await;
    assert_eq!(refusal(again), Refusal::TokenNotActive, "the place that was paid from is spent");
}

#[tokio::test]
async fn a_pause_of_admission_is_in_force_for_the_very_next_request() {
    let bench = Bench::on_sale(8).await;
    let pause = PlanChange { opens_at: NOW, rate_per_minute: 0, active_seconds: 600, max_active: None };
    let paused = plan().changed(0, NOW, pause).unwrap();
    bench.reservations.keep_plan(&concert(), &paused).await.unwrap();
    // The next who joins: earlier turns have come.
    let next = place("alice", paused.lapsed_by(NOW) + 1, NOW);
    let outcome = bench.reserve(next, &["A-1-1"], "r1", NOW).await;
    assert_eq!(refusal(outcome), Refusal::TokenNotActive);
}

// ---------------------------------------------------------------- what other contexts decide

#[tokio::test]
async fn the_terms_of_a_date_never_change() {
    let bench = Bench::on_sale(2).await;
    bench.reservations.keep_terms(&terms(50)).await.unwrap();
    let sale =
        bench.reservations.load_sale(&terms(2).schedule_id, &concert(), &user("alice"), None, NOW).await.unwrap();
    assert_eq!(sale.terms, Some(terms(2)));
}

#[tokio::test]
async fn an_older_plan_never_replaces_a_newer_one() {
    let bench = Bench::on_sale(2).await;
    let at_version = |version| AdmissionPlan { version, ..plan() };
    for (kept, in_force) in [(7, 7), (3, 7), (7, 7), (8, 8)] {
        bench.reservations.keep_plan(&concert(), &at_version(kept)).await.unwrap();
        let sale =
            bench.reservations.load_sale(&terms(2).schedule_id, &concert(), &user("alice"), None, NOW).await.unwrap();
        assert_eq!(sale.plan.unwrap().version, in_force, "after {kept}");
    }
}

// ---------------------------------------------------------------- cancelling

#[tokio::test]
async fn a_hold_is_cancelled_once_and_by_its_owner_only() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let cancel = |who: &str, now| {
        let (store, who, id) = (bench.reservations.clone(), user(who), held.id.clone());
        async move { cancel_reservation(&store, &who, &id, now).await }
    };
    assert!(matches!(cancel("bob", NOW).await, Err(CancelError::NotFound)));
    assert!(matches!(cancel("alice", hold_end()).await, Err(CancelError::NotCancellable)));
    for _ in 0..2 {
        cancel("alice", NOW).await.unwrap();
        assert_eq!(bench.seat("A-1-1").await, None);
        assert_sound(&bench, NOW).await;
    }
    bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", NOW).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_cancelling_and_paying_at_once_exactly_one_wins() {
    let bench = Arc::new(Bench::on_sale(40).await);
    let (mut cancelled, mut begun) = (0, 0);
    for n in 1..=20 {
        let seat = format!("A-1-{n}");
        let held = bench.reserve(place("alice", 1, NOW), &[&seat, &format!("B-1-{n}")], &format!("r{n}"), NOW).await;
        let held = held.unwrap();
        let (store, id) = (bench.reservations.clone(), held.id.clone());
        let cancelling = tokio::spawn(async move { cancel_reservation(&store, &user("alice"), &id, NOW).await });
        let (store, saga) = (bench.reservations.clone(), saga(&held, &format!("p{n}")));
        let beginning = tokio::spawn(async move { begin_payment(&store, step(saga, NOW)).await });
        match (cancelling.await.unwrap(), beginning.await.unwrap()) {
            (Ok(()), Err(StepError::Refused("reservation_not_payable"))) => cancelled += 1,
            (Err(CancelError::NotCancellable), Ok(Done { already: false })) => begun += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(cancelled + begun, 20);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_payment_that_begins_between_the_look_and_the_cancellation_wins() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("cancelled").once());
    let (store, id) = (bench.reservations.clone(), held.id.clone());
    let cancelling = tokio::spawn(async move { cancel_reservation(&store, &user("alice"), &id, NOW).await });
    gate.reached().await;
    bench.begin(&saga(&held, "p1"), NOW).await;
    gate.open();
    assert!(matches!(cancelling.await.unwrap(), Err(CancelError::NotCancellable)));
    assert_eq!(bench.status(&held).await, "paying");
    assert_sound(&bench, NOW).await;
}

// ---------------------------------------------------------------- paying

#[tokio::test]
async fn every_step_repeated_reports_that_it_was_done_already_and_changes_nothing() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(begin_payment(&bench.reservations, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_sound(&bench, NOW).await;
    }
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(confirm_reservation(&bench.reservations, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_eq!(bench.seat("B-1-1").await, Some(("r1".into(), "sold".into())));
        assert_sound(&bench, NOW).await;
    }
    assert_eq!(begin_payment(&bench.reservations, step(saga, NOW)).await.unwrap(), ALREADY);
}

#[tokio::test]
async fn a_reservation_belongs_to_the_first_payment_that_begins() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&held, "p1"), NOW).await;
    let other = || step(saga(&held, "p2"), NOW);
    let release = || step(refused(saga(&held, "p2")), NOW);
    assert_eq!(reason(begin_payment(&bench.reservations, other()).await), "reservation_not_payable");
    assert_eq!(reason(confirm_reservation(&bench.reservations, other()).await), "reservation_not_payable");
    let released = release_reservation(&bench.reservations, release()).await.unwrap();
    assert_eq!(released.outcome, ReleaseOutcome::Released);
    assert_eq!(bench.status(&held).await, "paying", "the other payment has nothing to release");
    bench.confirm(&saga(&held, "p1"), NOW).await;
    assert_eq!(release_reservation(&bench.reservations, release()).await.unwrap().outcome, ReleaseOutcome::Released);
    assert_eq!(bench.status(&held).await, "paid");
    assert_sound(&bench, NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_ten_payments_that_begin_at_once_exactly_one_does() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap();
    let mut payments = JoinSet::new();
    for n in 1..=10 {
        let (store, saga) = (bench.reservations.clone(), saga(&held, &format!("p{n}")));
        payments.spawn(async move { begin_payment(&store, step(saga, NOW)).await.is_ok() });
    }
    assert_eq!(payments.join_all().await.into_iter().filter(|begun| *begun).count(), 1);
    assert_sound(&bench, NOW).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_second_a_hold_ends_its_payment_or_the_next_buyer_gets_the_seats_never_both() {
    let bench = Arc::new(Bench::on_sale(40).await);
    for n in 1..=20 {
        let (left, right) = (format!("A-1-{n}"), format!("B-1-{n}"));
        let held = bench.reserve(place("alice", 1, NOW), &[&left, &right], &format!("a{n}"), NOW).await.unwrap();
        let (store, saga) = (bench.reservations.clone(), saga(&held, &format!("p{n}")));
        let beginning = tokio::spawn(async move { begin_payment(&store, step(saga, hold_end())).await });
        let next = Arc::clone(&bench);
        let taking = tokio::spawn(async move {
            let buyer = format!("bob-{n}");
            next.reserve(place(&buyer, 100 + n, NOW), &[&right], &format!("b{n}"), hold_end()).await
        });
        match (beginning.await.unwrap(), taking.await.unwrap()) {
            (Ok(_), Err(ReserveError::Refused(Refusal::SeatsTaken(_)))) => {}
            (Err(StepError::Refused("hold_expired")), Ok(_)) => {}
            other => panic!("{other:?}"),
        }
        assert_sound(&bench, hold_end()).await;
    }
}

#[tokio::test]
async fn a_payment_asked_for_in_time_begins_late_while_nobody_took_a_seat() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let late = hold_end().plus_seconds(5);
    bench.begin(&saga(&held, "p1"), late).await;
    bench.confirm(&saga(&held, "p1"), late).await;
    assert_sound(&bench, late).await;
}

#[tokio::test]
async fn a_payment_of_a_hold_that_has_expired_is_refused_as_such() {
    let bench = Bench::on_sale(2).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    let begun = begin_payment(&bench.reservations, step(saga(&held, "p1"), hold_end())).await;
    assert_eq!(reason(begun), "hold_expired");
}

#[tokio::test]
async fn a_released_reservation_has_the_hold_it_had_or_is_expired_when_that_is_over() {
    let bench = Bench::on_sale(4).await;
    for (id, seats, released_at, status) in [
        ("r1", ["A-1-1", "B-1-1"], hold_end().plus_millis(-1), "held"),
        ("r2", ["A-1-2", "B-1-2"], hold_end(), "expired"),
    ] {
        let held = bench.reserve(place("alice", 1, NOW), &seats, id, NOW).await.unwrap();
        let saga = saga(&held, &format!("p-{id}"));
        bench.begin(&saga, NOW).await;
        for _ in 0..3 {
            let released =
                release_reservation(&bench.reservations, step(refused(saga.clone()), released_at)).await.unwrap();
            assert_eq!(released.outcome, ReleaseOutcome::Released);
            assert_eq!(bench.status(&held).await, status);
            assert_sound(&bench, released_at).await;
        }
        assert_eq!(bench.seat(seats[1]).await.is_some(), status == "held");
    }
    // The one that is held again ends by the sweep like any other.
    sweep_holds(&bench.reservations, hold_end()).await.unwrap();
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_sound(&bench, hold_end()).await;
}

#[tokio::test]
async fn a_release_that_comes_before_its_begin_leaves_a_tombstone_for_it_and_for_no_other_payment() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let late = saga(&held, "p1");
    for _ in 0..2 {
        let released = release_reservation(&bench.reservations, step(refused(late.clone()), NOW)).await.unwrap();
        assert_eq!(released.outcome, ReleaseOutcome::Released);
    }
    assert_eq!(reason(begin_payment(&bench.reservations, step(late.clone(), NOW)).await), "reservation_not_payable");
    assert_eq!(bench.status(&held).await, "held");
    bench.begin(&saga(&held, "p2"), NOW).await;
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_begin_on_its_way_while_its_release_settles_is_released_or_refused() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let late = saga(&held, "p1");
    // The release has found nothing to release and is about to write the tombstone when the begin arrives.
    let gate = bench.proxy.hold(Rule::on("UpdateItem").once());
    let (store, input) = (bench.reservations.clone(), late.clone());
    let releasing = tokio::spawn(async move { release_reservation(&store, step(refused(input), NOW)).await });
    gate.reached().await;
    bench.begin(&late, NOW).await;
    gate.open();
    assert_eq!(releasing.await.unwrap().unwrap().outcome, ReleaseOutcome::Released);
    assert_eq!(bench.status(&held).await, "held");
    assert_eq!(reason(begin_payment(&bench.reservations, step(late, NOW)).await), "reservation_not_payable");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_release_after_a_confirmation_whose_answer_got_lost_reports_that_it_is_paid() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    bench.begin(&saga, NOW).await;
    // The first try is carried out, and then the store is gone for as long as the step tries.
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Failed);
    let confirmed = confirm_reservation(&bench.reservations, step(saga.clone(), NOW)).await;
    assert!(matches!(confirmed, Err(StepError::Fault(Fault::Unavailable(_)))), "{confirmed:?}");
    bench.proxy.heal();
    let released = release_reservation(&bench.reservations, step(refused(saga), NOW)).await.unwrap();
    assert_eq!(released.outcome, ReleaseOutcome::AlreadyPaid);
    assert_eq!(bench.status(&held).await, "paid");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn nothing_of_somebody_elses_reservation_can_be_paid() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let forged = PaymentSaga { user_id: user("mallory"), ..saga(&held, "p1") };
    let begun = begin_payment(&bench.reservations, step(forged.clone(), NOW)).await;
    assert_eq!(reason(begun), "reservation_not_payable");
    let released = release_reservation(&bench.reservations, step(refused(forged), NOW)).await.unwrap();
    assert_eq!(released.outcome, ReleaseOutcome::Released);
    assert_eq!(bench.status(&held).await, "held");
    assert_sound(&bench, NOW).await;
}

// ---------------------------------------------------------------- over HTTP

async fn post(bench: &Bench, ask: Ask) -> Result<Reply, Problem> {
    let deps = reserving(bench);
    handlers::reserve_seats(&deps, ask.call()).await
}

fn ask(seats: &[&str]) -> Ask {
    Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).json(json!({"schedule_id": "date", "seats": seats}))
}

#[tokio::test]
async fn a_key_gives_the_first_answer_again_and_is_refused_for_another_request() {
    let bench = Bench::on_sale(4).await;
    let first = post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap();
    assert_eq!(first.status.as_u16(), 201);
    let again = post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap();
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    let other = post(&bench, ask(&["A-1-2"]).key("k")).await.unwrap_err();
    assert_eq!((other.status.as_u16(), other.code), (422, "idempotency_key_reused"));
    let others_key = Ask::at(NOW)
        .user("bob")
        .place(&place("bob", 2, NOW))
        .json(json!({"schedule_id": "date", "seats": ["A-1-2"]}))
        .key("k");
    assert_eq!(post(&bench, others_key).await.unwrap().status.as_u16(), 201, "keys are per user");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_under_its_key() {
    let bench = Bench::on_sale(4).await;
    let taken = bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    assert_eq!(post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap_err().code, "seat_taken");
    cancel_reservation(&bench.reservations, &user("bob"), &taken.id, NOW).await.unwrap();
    assert_eq!(post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap().status.as_u16(), 201);
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_even_while_its_row_is_still_there() {
    let bench = Bench::on_sale(4).await;
    post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap();
    let tomorrow = NOW.plus_seconds(86_400);
    let later = Ask::at(tomorrow)
        .user("alice")
        .place(&place("alice", 9, tomorrow))
        .json(json!({"schedule_id": "date", "seats": ["A-1-2"]}))
        .key("k");
    assert_eq!(post(&bench, later).await.unwrap().status.as_u16(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_fifty_times_at_once_holds_once_and_answers_alike() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let bench = Arc::clone(&bench);
        requests.spawn(async move { post(&bench, ask(&["A-1-1", "A-1-2"]).key("k")).await });
    }
    let mut answers = BTreeSet::new();
    for answer in requests.join_all().await {
        let answer = answer.unwrap();
        assert_eq!(answer.status.as_u16(), 201);
        answers.insert(answer.body.unwrap()["reservation_id"].as_str().unwrap().to_owned());
    }
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_list_pages_newest_first_without_gaps_or_repetitions() {
    let bench = Bench::on_sale(20).await;
    for n in 1..=15 {
        bench.reserve(place("alice", 1, NOW), &[&format!("A-1-{n}")], &format!("r{n:02}"), NOW).await.unwrap();
    }
    bench.reserve(place("bob", 2, NOW), &["B-1-1"], "r99", NOW).await.unwrap();
    let deps = Deps { store: bench.reservations.clone(), users: users() };
    for limit in [1, 4, 5, 15, 16] {
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let mut ask = Ask::at(NOW).user("alice").query("limit", &limit.to_string());
            if let Some(cursor) = &cursor {
                ask = ask.query("cursor", cursor);
            }
            let body = handlers::list_reservations(&deps, ask.call()).await.unwrap().body.unwrap();
            let items = body["items"].as_array().unwrap().clone();
            assert!(items.len() <= limit && !items.is_empty());
            seen.extend(items.into_iter().map(|item| item["reservation_id"].as_str().unwrap().to_owned()));
            cursor = body["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        let newest_first: Vec<String> = (1..=15).rev().map(|n| format!("r{n:02}")).collect();
        assert_eq!(seen, newest_first, "pages of {limit}");
    }
}

#[tokio::test]
async fn a_cursor_made_up_by_somebody_is_answered_without_a_failure_and_without_foreign_rows() {
    let bench = Bench::on_sale(20).await;
    post(&bench, ask(&["A-1-1"]).key("k")).await.unwrap();
    let deps = Deps { store: bench.reservations.clone(), users: users() };
    for made_up in ["A", "RES#", "RES#~~~", "ZZZ", "CONCERT#concert", "IDEM#k", "~", " "] {
        let cursor = kit::http::Cursor::seal(made_up);
        let ask = Ask::at(NOW).user("alice").query("cursor", &cursor);
        match handlers::list_reservations(&deps, ask.call()).await {
            Ok(reply) => {
                let items = reply.body.unwrap()["items"].as_array().unwrap().len();
                assert!(items <= 1, "{made_up}");
            }
            Err(problem) => assert_eq!(problem.status.as_u16(), 400, "{made_up}: {problem:?}"),
        }
    }
}

#[tokio::test]
async fn somebody_elses_reservation_is_not_found() {
    let bench = Bench::on_sale(20).await;
    let body = post(&bench, ask(&["A-1-1"])).await.unwrap().body.unwrap();
    let id = body["reservation_id"].as_str().unwrap();
    let deps = Deps { store: bench.reservations.clone(), users: users() };
    let get = |who: &str| {
        let call = Ask::at(NOW).user(who).path("reservation_id", id).call();
        handlers::get_reservation(&deps, call)
    };
    assert_eq!(get("alice").await.unwrap().body.unwrap()["status"], "held");
    assert_eq!(get("bob").await.unwrap_err().code, "not_found");
    let foreign = Ask::at(NOW).user("bob").path("reservation_id", id).call();
    assert_eq!(handlers::cancel_reservation(&deps, foreign).await.unwrap_err().code, "not_found");
}

#[tokio::test]
async fn a_queue_token_of_somebody_else_or_for_another_concert_is_worth_nothing() {
    let bench = Bench::on_sale(20).await;
    let body = json!({"schedule_id": "date", "seats": ["A-1-1"]});
    let with = |claims| Ask::at(NOW).user("alice").place(&claims).json(body.clone());
    let mut other_concert = place("alice", 1, NOW);
    other_concert.concert_id = "another".to_owned().try_into().unwrap();
    let waiting = place("alice", 10_000_000_000, NOW);
    let mut outlived = place("alice", 1, NOW);
    outlived.exp = NOW.millis() / 1000;
    for (claims, status, code) in [
        (place("bob", 1, NOW), 401, "invalid_queue_token"),
        (other_concert, 401, "invalid_queue_token"),
        (waiting, 403, "queue_token_not_active"),
        (outlived, 403, "queue_token_not_active"),
        (place("alice", 1, NOW.plus_seconds(-ACTIVE_SECONDS)), 403, "queue_token_not_active"),
    ] {
        let problem = post(&bench, with(claims)).await.unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.code), (status, code));
    }
    let none = Ask::at(NOW).user("alice").json(body.clone());
    assert_eq!(post(&bench, none).await.unwrap_err().code, "invalid_queue_token");
    let nobody = Ask::at(NOW).place(&place("alice", 1, NOW)).json(body);
    assert_eq!(post(&bench, nobody).await.unwrap_err().code, "unauthorized");
    assert_eq!(bench.engine.items("reservations").await.len(), 2, "terms and plan only");
}

#[tokio::test]
async fn seats_and_dates_that_do_not_exist_are_told_apart() {
    let bench = Bench::on_sale(20).await;
    let unknown = post(&bench, ask(&["A-1-1", "A-11-1", "C-1-1"])).await.unwrap_err();
    assert_eq!((unknown.status.as_u16(), unknown.code), (404, "seat_not_found"));
    assert_eq!(unknown.members["seats"], json!(["A-11-1", "C-1-1"]));
    let nowhere = Ask::at(NOW)
        .user("alice")
        .place(&place("alice", 1, NOW))
        .json(json!({"schedule_id": "another", "seats": ["A-1-1"]}));
    assert_eq!(post(&bench, nowhere).await.unwrap_err().code, "not_found");
    for seats in [json!([]), json!(["A-1-1", "A-1-1"]), json!(["A-01-1"]), Value::Null] {
        let body = json!({"schedule_id": "date", "seats": seats});
        let odd = Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).json(body);
        assert_eq!(post(&bench, odd).await.unwrap_err().code, "invalid_request", "{seats}");
    }
}

#[tokio::test]
async fn a_reservation_that_cannot_be_read_keeps_no_other_from_being_ended() {
    let bench = Bench::on_sale(4).await;
    let table = bench.engine.table("reservations");
    for (n, seat) in ["A-1-1", "A-1-2", "A-1-3"].into_iter().enumerate() {
        let id = format!("r{n}");
        bench.reserve(place(&id, n as u64 + 1, NOW), &[seat], &id, NOW).await.unwrap();
    }
    let mut corrupt = bench.engine.item("reservations", "USER#r1", "RES#r1").await.unwrap();
    corrupt.insert("seats".to_owned(), kit::dynamo::s("?"));
    table.client.put_item().table_name(&table.name).set_item(Some(corrupt)).send().await.unwrap();
    // It may be reported, but the others' seats are free.
    drop(sweep_holds(&bench.reservations, hold_end()).await);
    assert_eq!((bench.seat("A-1-1").await, bench.seat("A-1-3").await), (None, None));
}
