//! Reservations without waiting: requested, decided in turn, undone when something cannot be carried through.

use crate::audit::assert_sound;
use crate::bench::{Bench, Requests, reserving};
use ::reservations::clients::message_of;
use ::reservations::domain::{MAX_PENDING, PENDING_SECONDS, PENDING_TOO_LONG_SECONDS, SeatRequest};
use ::reservations::handlers::{self, Deps, apply_admissions, expire_hold, roll_back_reservation};
use ::reservations::ports::ScheduleExpiry;
use ::reservations::usecases::cancel_reservation::cancel_reservation;
use ::reservations::usecases::expire_hold::{ExpireHold, SCHEDULE_ATTEMPTS};
use ::reservations::usecases::sweep_reservations::{SweepReservations, sweep_reservations};
use ::reservations::usecases::write_reservations::write_reservations;
use contracts::events::{AdmissionChanged, AvailabilityUpdateFailed, Event, EventBody};
use contracts::{ReservationId, Timestamp};
use kit::dynamo::{Item, Read, at, n, s};
use kit::queue::Message;
use kit::{Fault, Problem, Reply};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use tests::calls::{Ask, users};
use tests::fixture::{ACTIVE_SECONDS, HOLD_SECONDS, NOW, concert, place, plan, saga, schedule, seat, user};
use tests::proxy::Rule;
use tokio::task::JoinSet;

type Reserving = handlers::ReserveDeps<::reservations::dynamo::Reservations, Requests>;

fn ask(who: &str, position: u64, seats: &[&str]) -> Ask {
    ask_at(NOW, who, position, seats)
}

fn ask_at(now: Timestamp, who: &str, position: u64, seats: &[&str]) -> Ask {
    Ask::at(now)
        .user(who)
        .place(&place(who, position, NOW))
        .json(json!({"schedule_id": "date", "seats": seats}))
        .header("prefer", "respond-async")
}

async fn asked(deps: &Reserving, ask: Ask) -> Result<Reply, Problem> {
    handlers::reserve_seats(deps, ask.call()).await
}

fn id(reply: &Reply) -> String {
    reply.body.as_ref().unwrap()["reservation_id"].as_str().unwrap().to_owned()
}

/// A reservation as its owner sees it.
async fn seen(bench: &Bench, who: &str, id: &str, now: Timestamp) -> Value {
    let deps = Deps { store: bench.reservations.clone(), users: users() };
    let ask = Ask::at(now).user(who).path("reservation_id", id);
    handlers::get_reservation(&deps, ask.call()).await.unwrap().body.unwrap()
}

async fn events(bench: &Bench) -> Vec<String> {
    let items = bench.engine.items("reservations").await;
    let mut types: Vec<String> = items
        .iter()
        .filter(|item| item.text("kind").is_ok_and(|kind| kind == "outbox"))
        .map(|item| item.document::<Event>("event").unwrap().body.event_type().to_owned())
        .collect();
    types.sort();
    types
}

#[tokio::test]
async fn a_request_is_answered_at_once_and_held_later_as_if_it_had_been_waited_for() {
    let (bench, other) = (Bench::on_sale(4).await, Bench::on_sale(4).await);
    let deps = reserving(&bench);
    let reply = asked(&deps, ask("alice", 1, &["A-1-1", "A-1-2"])).await.unwrap();
    assert_eq!(reply.status.as_u16(), 202);
    assert_eq!(reply.preference_applied, Some("respond-async"));
    let id = id(&reply);
    assert_eq!(reply.location.as_deref(), Some(format!("/reservations/{id}").as_str()));
    let pending = seen(&bench, "alice", &id, NOW).await;
    assert_eq!(pending["status"], "pending");
    assert_eq!(pending.get("hold_expires_at"), None);
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_sound(&bench, NOW).await;

    write_reservations(&bench.reservations, &deps.requests.sent()[0], NOW).await.unwrap();
    assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "held");
    assert_sound(&bench, NOW).await;

    // The same seats, reserved by a waiting client, in another world.
    other.reserve(place("alice", 1, NOW), &["A-1-1", "A-1-2"], &id, NOW).await.unwrap();
    let same = async |bench: &Bench| {
        let mut items = bench.engine.items("reservations").await;
        for item in &mut items {
            // The request has another id, and an outbox row falls into a shard by chance.
            for name in ["correlation_id", "unpublished_shard", "event"] {
                item.remove(name);
            }
            // Nothing is undecided any more.
            assert_ne!(item.remove("w#date"), Some(n(1)));
        }
        items.sort_by_key(|item| (item.text("pk").unwrap().to_owned(), item.text("sk").unwrap().to_owned()));
        items
    };
    assert_eq!(same(&bench).await, same(&other).await);
}

#[tokio::test]
async fn one_user_cannot_fill_a_sections_queue() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    for _ in 0..MAX_PENDING {
        assert_eq!(asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap().status.as_u16(), 202);
    }
    let before = bench.engine.items("reservations").await.len();
    for _ in 0..3 {
        let refused = asked(&deps, ask("alice", 1, &["A-1-2"])).await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (409, "too_many_pending"));
    }
    assert_eq!(bench.engine.items("reservations").await.len(), before, "nothing is written");
    assert_eq!(asked(&deps, ask("bob", 2, &["A-1-2"])).await.unwrap().status.as_u16(), 202, "others may");
    // One is held, nineteen are rejected, and each of them makes room once, however often it is decided.
    for request in deps.requests.sent() {
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
        write_reservations(&bench.reservations, &request, NOW).await.unwrap();
    }
    for who in ["alice", "bob"] {
        let entitlement = bench.engine.item("reservations", &format!("USER#{who}"), "CONCERT#concert").await.unwrap();
        assert_eq!(entitlement.int("w#date").unwrap(), 0, "{who}");
    }
    assert_eq!(asked(&deps, ask("alice", 1, &["A-1-3"])).await.unwrap().status.as_u16(), 202);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn what_is_known_to_be_impossible_is_refused_at_once_and_nothing_is_written() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let before = bench.engine.items("reservations").await.len();
    assert_eq!(
        asked(&deps, ask_at(NOW.plus_millis(-1), "alice", 1, &["A-1-1"])).await.unwrap_err().code,
        "queue_token_not_active"
    );
    assert_eq!(asked(&deps, ask("alice", 1, &["Z-9-9"])).await.unwrap_err().code, "seat_not_found");
    let many = ["A-1-1", "A-1-2", "A-1-3", "A-1-4", "B-1-1"];
    assert_eq!(asked(&deps, ask("alice", 1, &many)).await.unwrap_err().code, "ticket_limit_exceeded");
    assert_eq!(bench.engine.items("reservations").await.len(), before);
    assert!(deps.requests.sent().is_empty());
}

#[tokio::test]
async fn of_many_who_ask_for_one_seat_one_gets_it_and_the_others_are_rejected() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let mut ids = Vec::new();
    for n in 1..=20 {
        let who = format!("user-{n}");
        ids.push((who.clone(), id(&asked(&deps, ask(&who, n, &["A-1-1"])).await.unwrap())));
    }
    let mut deciding = JoinSet::new();
    for request in deps.requests.sent() {
        let store = bench.reservations.clone();
        deciding.spawn(async move { write_reservations(&store, &request, NOW).await.unwrap() });
    }
    deciding.join_all().await;
    let mut held = 0;
    for (who, id) in ids {
        let found = seen(&bench, &who, &id, NOW).await;
        match found["status"].as_str().unwrap() {
            "held" => held += 1,
            _ => assert_eq!((&found["status"], &found["failure"]), (&"rejected".into(), &"seat_taken".into())),
        }
    }
    assert_eq!(held, 1);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn the_same_request_ten_times_at_once_and_a_day_late_is_decided_once() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let request = deps.requests.sent().pop().unwrap();
    let decide = async |now: Timestamp| {
        let mut deciding = JoinSet::new();
        for _ in 0..10 {
            let (store, request) = (bench.reservations.clone(), request.clone());
            deciding.spawn(async move { write_reservations(&store, &request, now).await });
        }
        // Some may have met the others and are redelivered.
        while deciding.join_next().await.is_some() {}
        write_reservations(&bench.reservations, &request, now).await.unwrap();
    };
    decide(NOW).await;
    assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "held");
    assert_sound(&bench, NOW).await;
    let tomorrow = NOW.plus_seconds(86_400);
    decide(tomorrow).await;
    assert_eq!(seen(&bench, "alice", &id, tomorrow).await["status"], "expired");
    assert_eq!(events(&bench).await, ["reservation.held"]);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_request_made_in_time_is_held_although_the_token_ran_out_while_it_waited() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let just = NOW.plus_seconds(ACTIVE_SECONDS - 1);
    let id = id(&asked(&deps, ask_at(just, "alice", 1, &["A-1-1"])).await.unwrap());
    let late = just.plus_seconds(PENDING_TOO_LONG_SECONDS);
    write_reservations(&bench.reservations, &deps.requests.sent()[0], late).await.unwrap();
    let held = seen(&bench, "alice", &id, late).await;
    assert_eq!(held["status"], "held");
    assert_eq!(held["hold_expires_at"], late.plus_seconds(HOLD_SECONDS).rfc3339());
    assert_eq!(held["created_at"], just.rfc3339());
}

#[tokio::test]
async fn a_request_that_comes_when_its_client_waits_no_more_is_rejected() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let tomorrow = NOW.plus_seconds(86_400);
    for _ in 0..2 {
        write_reservations(&bench.reservations, &deps.requests.sent()[0], tomorrow).await.unwrap();
    }
    let rejected = seen(&bench, "alice", &id, tomorrow).await;
    assert_eq!((&rejected["status"], &rejected["failure"]), (&"rejected".into(), &"timed_out".into()));
    assert_eq!(events(&bench).await, ["reservation.rejected"]);
    assert_sound(&bench, tomorrow).await;
}

#[tokio::test]
async fn a_pending_reservation_is_given_up_for_good() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let cancel = Deps { store: bench.reservations.clone(), users: users() };
    for _ in 0..2 {
        let ask = Ask::at(NOW).user("alice").path("reservation_id", &id);
        handlers::cancel_reservation(&cancel, ask.call()).await.unwrap();
    }
    write_reservations(&bench.reservations, &deps.requests.sent()[0], NOW).await.unwrap();
    assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "cancelled");
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_request_that_is_held_between_the_look_and_its_cancellation_is_cancelled_all_the_same() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let gate = bench.proxy.hold(Rule::on("TransactWriteItems").containing("cancelled").once());
    let (store, of) = (bench.reservations.clone(), ReservationId::parse(&id).unwrap());
    let cancelling = tokio::spawn(async move { cancel_reservation(&store, &user("alice"), &of, NOW).await });
    gate.reached().await;
    write_reservations(&bench.reservations, &deps.requests.sent()[0], NOW).await.unwrap();
    gate.open();
    cancelling.await.unwrap().unwrap();
    assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "cancelled");
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn of_cancelling_and_deciding_at_once_the_cancellation_has_the_last_word() {
    let bench = Bench::on_sale(40).await;
    let deps = reserving(&bench);
    for number in 1..=20 {
        let (left, right) = (format!("A-1-{number}"), format!("B-1-{number}"));
        let id = id(&asked(&deps, ask("alice", 1, &[&left, &right])).await.unwrap());
        let (store, request) = (bench.reservations.clone(), deps.requests.sent().pop().unwrap());
        let deciding = tokio::spawn(async move { write_reservations(&store, &request, NOW).await });
        let (store, of) = (bench.reservations.clone(), ReservationId::parse(&id).unwrap());
        let cancelling = tokio::spawn(async move { cancel_reservation(&store, &user("alice"), &of, NOW).await });
        deciding.await.unwrap().unwrap();
        cancelling.await.unwrap().unwrap();
        assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "cancelled");
        assert_eq!((bench.seat(&left).await, bench.seat(&right).await), (None, None));
    }
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_key_used_by_one_who_waited_gives_that_answer_and_asks_for_nothing() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let waited = Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).key("k");
    let held = asked(&deps, waited.json(json!({"schedule_id": "date", "seats": ["A-1-1"]}))).await.unwrap();
    let again = asked(&deps, ask("alice", 1, &["A-1-1"]).key("k")).await.unwrap();
    assert_eq!((again.status, &again.body), (held.status, &held.body));
    assert_eq!(again.preference_applied, None);
    assert!(deps.requests.sent().is_empty());
}

#[tokio::test]
async fn a_key_gives_the_first_answer_again_and_asks_once() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let first = asked(&deps, ask("alice", 1, &["A-1-1"]).key("k")).await.unwrap();
    let again = asked(&deps, ask("alice", 1, &["A-1-1"]).key("k")).await.unwrap();
    assert_eq!((again.status, &again.body, &again.location), (first.status, &first.body, &first.location));
    assert_eq!(deps.requests.sent().len(), 1);
    let other = asked(&deps, ask("alice", 1, &["A-1-2"]).key("k")).await.unwrap_err();
    assert_eq!(other.code, "idempotency_key_reused");
}

#[tokio::test]
async fn a_request_whose_message_is_lost_is_sent_again_and_one_that_is_never_decided_is_rejected() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    deps.requests.down.store(true, Ordering::Relaxed);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let sweep = SweepReservations { store: bench.reservations.clone(), requests: Requests::default() };
    sweep_reservations(&sweep, NOW.plus_seconds(PENDING_SECONDS).plus_millis(-1)).await.unwrap();
    assert!(sweep.requests.sent().is_empty(), "its message may still come");
    let due = NOW.plus_seconds(PENDING_SECONDS);
    sweep_reservations(&sweep, due).await.unwrap();
    sweep_reservations(&sweep, due).await.unwrap();
    let requests: Vec<SeatRequest> = sweep.requests.sent();
    assert_eq!(requests.len(), 1, "once for each time it is due");
    assert_eq!(requests[0].reservation.as_str(), id);
    let too_late = NOW.plus_seconds(PENDING_TOO_LONG_SECONDS + 1);
    sweep_reservations(&sweep, too_late).await.unwrap();
    let rejected = seen(&bench, "alice", &id, too_late).await;
    assert_eq!((&rejected["status"], &rejected["failure"]), (&"rejected".into(), &"timed_out".into()));
    write_reservations(&bench.reservations, &requests[0], too_late).await.unwrap();
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_sound(&bench, too_late).await;
}

#[tokio::test]
async fn a_queue_that_is_down_keeps_no_request_from_being_postponed() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap();
    let sweep = SweepReservations { store: bench.reservations.clone(), requests: Requests::default() };
    sweep.requests.down.store(true, Ordering::Relaxed);
    let due = NOW.plus_seconds(PENDING_SECONDS);
    assert!(sweep_reservations(&sweep, due).await.is_err());
    sweep_reservations(&sweep, due).await.unwrap();
}

#[tokio::test]
async fn a_request_comes_out_of_its_message_as_it_went_in_and_anything_else_is_poison() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let id = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let sent = message_of(&deps.requests.sent()[0]);
    for poison in ["{}", "no json", &sent.replace("A-1-1", "A")] {
        let refused = handlers::write_reservations(&bench.reservations, Message::new("m", poison, NOW)).await;
        assert!(matches!(refused, Err(Fault::Broken(_))), "{poison}");
    }
    handlers::write_reservations(&bench.reservations, Message::new("m", sent, NOW)).await.unwrap();
    assert_eq!(seen(&bench, "alice", &id, NOW).await["status"], "held");
}

#[tokio::test]
async fn requests_that_cannot_be_read_keep_no_other_from_being_sent_again() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let last = id(&asked(&deps, ask("alice", 1, &["A-1-1"])).await.unwrap());
    let row = bench.engine.item("reservations", "USER#alice", &format!("RES#{last}")).await.unwrap();
    let table = bench.engine.table("reservations");
    for n in 0..120 {
        let mut corrupt = row.clone();
        corrupt.insert("sk".to_owned(), s(format!("RES#corrupt-{n}")));
        corrupt.insert("waiting_at".to_owned(), at(NOW));
        corrupt.insert("wish".to_owned(), s("{"));
        table.client.put_item().table_name(&table.name).set_item(Some(corrupt)).send().await.unwrap();
    }
    let sweep = SweepReservations { store: bench.reservations.clone(), requests: Requests::default() };
    sweep_reservations(&sweep, NOW.plus_seconds(PENDING_SECONDS)).await.unwrap();
    assert_eq!(sweep.requests.sent().len(), 1);
}

// ---------------------------------------------------------------- what cannot be carried through

/// A queue that accepts nothing.
struct Down;

impl ScheduleExpiry for Down {
    async fn look_again(&self, _: &str, _: i32) -> Result<(), Fault> {
        Err(Fault::unavailable("delaying a hold's expiry", "down"))
    }
}

fn delivered(event: &Event, receives: u32, now: Timestamp) -> Message {
    Message::new("m", json!({"detail": event}).to_string(), now).received_times(receives)
}

async fn event(bench: &Bench, id: &str) -> Event {
    let row: Item = bench.engine.item("reservations", &format!("OUTBOX#{id}"), "OUTBOX").await.unwrap();
    row.document("event").unwrap()
}

#[tokio::test]
async fn a_hold_whose_end_cannot_be_scheduled_is_undone_after_some_tries_and_the_on_call_paged() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let deps = ExpireHold { store: bench.reservations.clone(), queue: Down };
    let held_event = event(&bench, "r1.reservation.held").await;
    for receives in 1..SCHEDULE_ATTEMPTS {
        expire_hold(&deps, delivered(&held_event, receives, NOW)).await.unwrap_err();
        assert_eq!(bench.status(&held).await, "held");
    }
    for _ in 0..2 {
        expire_hold(&deps, delivered(&held_event, SCHEDULE_ATTEMPTS, NOW)).await.unwrap();
        assert_eq!(bench.status(&held).await, "cancelled");
    }
    assert_eq!(bench.seat("A-1-1").await, None);
    assert_eq!(events(&bench).await, ["fault.detected", "reservation.cancelled", "reservation.held"]);
    let EventBody::ReservationCancelled(cancelled) = event(&bench, "r1.reservation.cancelled").await.body else {
        panic!("no cancellation");
    };
    assert_eq!(cancelled.reason.as_str(), "expiry_not_scheduled");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_hold_that_is_being_paid_is_not_undone_because_its_end_cannot_be_scheduled() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&held, "p1"), NOW).await;
    let deps = ExpireHold { store: bench.reservations.clone(), queue: Down };
    let held_event = event(&bench, "r1.reservation.held").await;
    expire_hold(&deps, delivered(&held_event, SCHEDULE_ATTEMPTS, NOW)).await.unwrap();
    assert_eq!(bench.status(&held).await, "paying");
    assert_sound(&bench, NOW).await;
}

fn not_shown(reservation: &str) -> Message {
    let body = EventBody::AvailabilityUpdateFailed(AvailabilityUpdateFailed {
        reservation_id: contracts::ReservationId::parse(reservation).unwrap(),
        user_id: user("alice"),
        schedule_id: schedule(),
        seats: vec![seat("A-1-1")],
        reason: "no map".into(),
    });
    delivered(&kit::outbox::event("encore/concerts", reservation, "c", body, NOW).unwrap(), 1, NOW)
}

#[tokio::test]
async fn a_hold_that_the_counts_cannot_take_in_is_rolled_back_once() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    for _ in 0..2 {
        roll_back_reservation(&bench.reservations, not_shown("r1")).await.unwrap();
        assert_eq!(bench.status(&held).await, "cancelled");
    }
    assert_eq!(bench.seat("A-1-1").await, None);
    let deps = ExpireHold { store: bench.reservations.clone(), queue: Down };
    let held_event = event(&bench, "r1.reservation.held").await;
    expire_hold(&deps, delivered(&held_event, 1, NOW.plus_seconds(HOLD_SECONDS))).await.unwrap();
    assert_eq!(events(&bench).await, ["reservation.cancelled", "reservation.held"], "its scheduled end finds nothing");
    roll_back_reservation(&bench.reservations, not_shown("nobodys")).await.unwrap();
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_rollback_waits_for_a_payment_and_leaves_what_is_sold_to_the_on_call() {
    let bench = Bench::on_sale(4).await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.begin(&saga(&held, "p1"), NOW).await;
    let waits = roll_back_reservation(&bench.reservations, not_shown("r1")).await.unwrap_err();
    assert!(matches!(waits, Fault::Unavailable(_)));
    bench.confirm(&saga(&held, "p1"), NOW).await;
    for _ in 0..2 {
        roll_back_reservation(&bench.reservations, not_shown("r1")).await.unwrap();
    }
    assert_eq!(bench.status(&held).await, "paid");
    assert_eq!(events(&bench).await, ["fault.detected", "reservation.held", "reservation.paid"]);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_plan_received_by_event_is_in_force_unless_a_newer_one_is() {
    let bench = Bench::on_sale(4).await;
    let changed = |version, opens_at| {
        let plan = contracts::admission::AdmissionPlan { version, opens_at, ..plan() };
        let body =
            EventBody::AdmissionChanged(AdmissionChanged { concert_id: concert(), plan, actor: "op".to_owned() });
        delivered(&kit::outbox::event("encore/waiting-room", "concert", "c", body, NOW).unwrap(), 1, NOW)
    };
    let newer = NOW.plus_seconds(7);
    apply_admissions(&bench.reservations, changed(9, newer)).await.unwrap();
    apply_admissions(&bench.reservations, changed(8, NOW)).await.unwrap();
    use ::reservations::ports::LoadSale;
    let sale = bench.reservations.load_sale(&schedule(), &concert(), &user("alice"), None, NOW).await.unwrap();
    assert_eq!(sale.plan.unwrap().opens_at, newer);
}
