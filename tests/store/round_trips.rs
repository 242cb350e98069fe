//! How often each use case calls its table, counted at the endpoint, through the handlers that production runs.

use crate::audit::assert_sound;
use crate::bench::{Bench, RealQuotes, Sagas, checking, joining, reserving};
use ::concerts::domain::{Concert, Schedule, Terms};
use ::concerts::dynamo::{Catalogue, SeatMaps};
use ::concerts::handlers as concerts;
use ::concerts::ports::{AddConcert, AddSchedule};
use ::payments::handlers as payments;
use ::payments::handlers::complete_payment;
use ::payments::handlers::fail_payment;
use ::points::domain::Charging;
use ::points::handlers as points;
use ::points::handlers::return_points;
use ::points::handlers::use_points;
use ::reservations::handlers as reservations;
use ::reservations::handlers::begin_payment;
use ::reservations::handlers::confirm_reservation;
use ::reservations::handlers::release_reservation;
use ::reservations::usecases::write_reservations::write_reservations;
use ::waiting_room::clients::Enforcer;
use ::waiting_room::domain::{DefaultAdmission, plan_change};
use ::waiting_room::handlers as waiting_room;
use ::waiting_room::handlers::expire_queue_token;
use ::waiting_room::handlers::restore_queue_token;
use ::waiting_room::ports::OpenLine;
use contracts::saga::{CaughtError, FailedPayment, ReleaseOutcome, TokenExpiry};
use contracts::steps::ChargePaid;
use kit::{Fault, StepError};
use serde_json::json;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, PRICE, concert, place, refused, saga, saga_of, schedule, step, terms, undoing};
use tests::proxy::{Fate, Rule};

#[tokio::test]
async fn charging_and_reading_points_is_one_round_trip_each() {
    let bench = Bench::start().await;
    let deps = points::Deps { accounts: bench.points.clone(), users: users() };
    let charging = bench.charging(Charging::Open, ChargePaid::Pending);
    let charge = Ask::at(NOW).user("alice").key("k").json(json!({"amount": 500}));
    for _ in 0..2 {
        bench.proxy.forget();
        let reply = points::charge_points(&charging, charge.clone().call()).await.unwrap();
        assert_eq!(reply.body.unwrap()["balance"], 500);
        assert_eq!(bench.proxy.actions(), ["UpdateItem"]);
    }
    bench.proxy.forget();
    let reply = points::get_points(&deps, Ask::at(NOW).user("alice").call()).await.unwrap();
    assert_eq!(reply.body.unwrap()["balance"], 500);
    assert_eq!(bench.proxy.actions(), ["GetItem"]);
    bench.proxy.forget();
    points::list_point_history(&deps, Ask::at(NOW).user("alice").call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem"], "the archive is not asked while there is none");
}

#[tokio::test]
async fn reserving_is_one_read_and_one_write_with_and_without_a_key() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let ask = |seats: &[&str]| {
        let body = json!({"schedule_id": "date", "seats": seats});
        Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).json(body)
    };
    for ask in [ask(&["A-1-1", "A-1-2"]), ask(&["B-1-1"]).key("k")] {
        bench.proxy.forget();
        reservations::reserve_seats(&deps, ask.call()).await.unwrap();
        assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
    }
    bench.proxy.forget();
    reservations::reserve_seats(&deps, ask(&["B-1-1"]).key("k").call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"], "a repetition writes nothing");
}

#[tokio::test]
async fn asking_for_seats_is_one_read_and_one_write_and_deciding_too() {
    let bench = Bench::on_sale(4).await;
    let deps = reserving(&bench);
    let body = json!({"schedule_id": "date", "seats": ["A-1-1"]});
    let ask = Ask::at(NOW).user("alice").place(&place("alice", 1, NOW)).json(body).header("prefer", "respond-async");
    reservations::reserve_seats(&deps, ask.call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
    bench.proxy.forget();
    let request = deps.requests.sent().pop().unwrap();
    write_reservations(&bench.reservations, &request, NOW).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
}

#[tokio::test]
async fn a_refusal_for_a_taken_seat_costs_no_more_than_a_hold() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.proxy.forget();
    bench.reserve(place("bob", 2, NOW), &["A-1-1"], "r2", NOW).await.unwrap_err();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
}

#[tokio::test]
async fn starting_a_payment_is_one_read_of_the_reservation_and_one_write_of_the_payment() {
    let bench = Bench::on_sale(4).await;
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let sagas = Sagas::default();
    let deps = payments::StartDeps {
        payments: bench.payments.clone(),
        users: users(),
        quotes: RealQuotes(bench.reservations.clone()),
        sagas: &sagas,
        token_expiry: TokenExpiry::Event,
    };
    bench.proxy.forget();
    let ask = Ask::at(NOW).user("alice").key("k").json(json!({"reservation_id": "r1"}));
    let reply = payments::start_payment(&deps, ask.call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem", "TransactWriteItems"]);
    let id = reply.body.unwrap()["payment_id"].as_str().unwrap().to_owned();
    assert_eq!(sagas.started(), [id.as_str()]);
    bench.proxy.forget();
    let deps = payments::Deps { payments: bench.payments.clone(), users: users() };
    payments::get_payment(&deps, Ask::at(NOW).user("alice").path("payment_id", &id).call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem"]);
}

#[tokio::test]
async fn each_step_of_the_payment_saga_is_one_round_trip() {
    let bench = Bench::on_sale(4).await;
    bench.charge("alice", 1_000_000, "k").await;
    let lines = bench.lines();
    let mut sagas = Vec::new();
    for (id, seats) in [("1", ["A-1-1", "A-1-2"]), ("2", ["B-1-1", "B-1-2"])] {
        let held = bench.reserve(place("alice", 1, NOW), &seats, &format!("r{id}"), NOW).await.unwrap();
        let saga = saga(&held, &format!("p{id}"));
        bench.open_payment(&saga, NOW).await;
        sagas.push(saga);
    }
    let transaction = ["TransactWriteItems"];
    let update = ["UpdateItem"];
    macro_rules! costs {
        ($actions:expr, $step:ident($store:expr, $input:expr)) => {
            bench.proxy.forget();
            $step($store, step($input, NOW)).await.unwrap();
            assert_eq!(bench.proxy.actions(), $actions, stringify!($step));
        };
    }
    let paid = &sagas[0];
    costs!(transaction, begin_payment(&bench.reservations, paid.clone()));
    costs!(update, use_points(&bench.points, paid.clone()));
    costs!(update, expire_queue_token(&lines, paid.clone()));
    costs!(transaction, confirm_reservation(&bench.reservations, paid.clone()));
    costs!(transaction, complete_payment(&bench.payments, paid.clone()));
    let undone = &sagas[1];
    begin_payment(&bench.reservations, step(undone.clone(), NOW)).await.unwrap();
    use_points(&bench.points, step(undone.clone(), NOW)).await.unwrap();
    costs!(transaction, release_reservation(&bench.reservations, refused(undone.clone())));
    costs!(update, restore_queue_token(&lines, undone.clone()));
    costs!(update, return_points(&bench.points, undoing(undone.clone())));
    let failing = FailedPayment { saga: undone.clone(), failure: CaughtError::default() };
    costs!(transaction, fail_payment(&bench.payments, failing));
}

#[tokio::test]
async fn each_step_repeated_is_still_one_round_trip() {
    let bench = Bench::on_sale(4).await;
    bench.charge("alice", 1_000_000, "k").await;
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    bench.open_payment(&saga, NOW).await;
    for round in ["first", "repeated"] {
        let repeated = round == "repeated";
        bench.proxy.forget();
        // Repeated, a begin finds its reservation sold, which is further than it needs.
        assert_eq!(begin_payment(&bench.reservations, step(saga.clone(), NOW)).await.unwrap().already, repeated);
        assert_eq!(use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap().already, repeated);
        assert_eq!(confirm_reservation(&bench.reservations, step(saga.clone(), NOW)).await.unwrap().already, repeated);
        assert_eq!(complete_payment(&bench.payments, step(saga.clone(), NOW)).await.unwrap().already, repeated);
        assert_eq!(bench.proxy.actions().len(), 4, "{round}: {:?}", bench.proxy.actions());
    }
}

#[tokio::test]
async fn a_new_place_is_three_writes_the_same_again_a_read_and_a_status_check_nothing_once_warm() {
    let bench = Bench::start().await;
    let lines = bench.lines();
    lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    let join = joining(lines);
    let soon = NOW.plus_millis(500);
    let ask = |user| Ask::at(soon).user(user).path("concert_id", "concert").call();
    bench.proxy.forget();
    waiting_room::join_queue(&join, ask("alice")).await.unwrap();
    assert_eq!(
        bench.proxy.actions(),
        ["BatchGetItem", "UpdateItem", "UpdateItem", "UpdateItem"],
        "cold: the plan first"
    );
    bench.proxy.forget();
    let reply = waiting_room::join_queue(&join, ask("bob")).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["UpdateItem", "UpdateItem", "UpdateItem"]);
    bench.proxy.forget();
    let again = waiting_room::join_queue(&join, ask("bob")).await.unwrap();
    assert_eq!(
        (again.status.as_u16(), bench.proxy.actions()),
        (200, vec!["GetItem".to_owned(), "BatchGetItem".to_owned()])
    );
    bench.proxy.forget();
    waiting_room::join_queue(&join, ask("bob")).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem"], "whether an active place is spent is read once a second");
    let token = reply.body.unwrap()["token"].as_str().unwrap().to_owned();
    let status = checking(bench.lines());
    let check = || Ask::at(soon).user("bob").header("queue-token", &token).call();
    bench.proxy.forget();
    waiting_room::check_queue_status(&status, check()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"], "the first check of a second");
    bench.proxy.forget();
    for _ in 0..15 {
        waiting_room::check_queue_status(&status, check()).await.unwrap();
    }
    assert_eq!(bench.proxy.actions(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cap_costs_those_who_join_and_ask_nothing() {
    let bench = Bench::start().await;
    let lines = bench.lines();
    let change = plan_change(NOW, 600, 600, Some(5)).unwrap();
    let plan = DefaultAdmission::Open.plan(NOW).changed(0, NOW, change).unwrap();
    lines.open(&concert(), plan).await.unwrap();
    let join = joining(lines);
    let ask = |user| Ask::at(NOW).user(user).path("concert_id", "concert").call();
    waiting_room::join_queue(&join, ask("alice")).await.unwrap();
    bench.proxy.forget();
    let reply = waiting_room::join_queue(&join, ask("bob")).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["UpdateItem", "UpdateItem", "UpdateItem"]);
    let token = reply.body.unwrap()["token"].as_str().unwrap().to_owned();
    let status = checking(bench.lines());
    let check = || Ask::at(NOW).user("bob").header("queue-token", &token).call();
    waiting_room::check_queue_status(&status, check()).await.unwrap();
    bench.proxy.forget();
    waiting_room::check_queue_status(&status, check()).await.unwrap();
    assert_eq!(bench.proxy.actions(), Vec::<String>::new());
}

#[tokio::test]
async fn leaving_is_five_calls_at_most_and_a_change_of_the_plan_three() {
    let bench = Bench::start().await;
    let lines = bench.lines();
    lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    let ask = |user| Ask::at(NOW).user(user).path("concert_id", "concert").call();
    waiting_room::join_queue(&joining(lines), ask("alice")).await.unwrap();
    let leave = waiting_room::LeaveDeps { line: bench.lines(), reservations: Enforcer::Nobody, users: users() };
    bench.proxy.forget();
    waiting_room::leave_queue(&leave, ask("alice")).await.unwrap();
    let calls = ["BatchGetItem", "GetItem", "BatchGetItem", "UpdateItem", "UpdateItem"];
    assert_eq!(bench.proxy.actions(), calls, "the plan, the row, the page; the page, the row");
    let set = waiting_room::AdmissionDeps {
        line: bench.lines(),
        reservations: Enforcer::Nobody,
        users: users(),
        lead_millis: 0,
    };
    let body = json!({"opens_at": NOW.rfc3339(), "rate_per_minute": 6, "active_seconds": 600});
    let ask = Ask::at(NOW).operator("op").path("concert_id", "concert").json(body).call();
    bench.proxy.forget();
    waiting_room::set_admission(&set, ask).await.unwrap();
    let mut calls = bench.proxy.actions();
    calls.sort();
    assert_eq!(calls, ["BatchGetItem", "GetItem", "TransactWriteItems"], "the first two at once");
}

#[tokio::test]
async fn dates_and_a_seat_map_of_any_size_are_one_round_trip_each() {
    let bench = Bench::start().await;
    let catalogue = Catalogue::new(bench.proxy.table("concerts"));
    let maps = SeatMaps::new(bench.proxy.table("concerts"));
    let shown = Concert::new(concert(), "Title", "Artist", "Venue", NOW).unwrap();
    let terms = terms(4);
    let date = Schedule {
        refundable_until: None,
        id: schedule(),
        concert: concert(),
        starts_at: terms.starts_at,
        terms: Terms::new(terms.max_per_user, terms.hold_seconds, terms.sections).unwrap(),
    };
    catalogue.add_concert(&shown, None, NOW).await.unwrap();
    catalogue.show_concert(&shown).await.unwrap();
    catalogue.add_schedule(&date, None, NOW).await.unwrap().unwrap();
    catalogue.show_schedule(&date, "c", NOW).await.unwrap();
    let of_concert = || Ask::at(NOW).path("concert_id", "concert").call();
    bench.proxy.forget();
    let dates = concerts::list_schedules(&catalogue, of_concert()).await.unwrap().body.unwrap();
    assert_eq!(dates["items"][0]["seats_available"], 400);
    assert_eq!(bench.proxy.actions(), ["Query"]);
    bench.proxy.forget();
    concerts::get_seat_map(&maps, Ask::at(NOW).path("schedule_id", "date").call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["Query"]);
    bench.proxy.forget();
    concerts::get_concert(&catalogue, of_concert()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem"]);
    bench.proxy.forget();
    concerts::list_concerts(&catalogue, Ask::at(NOW).call()).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["Query"]);
}

#[tokio::test]
async fn a_ticket_costs_at_most_43_write_units_from_joining_to_the_completed_payment() {
    let bench = Bench::on_sale(4).await;
    let lines = bench.lines();
    lines.open(&concert(), DefaultAdmission::Open.plan(NOW)).await.unwrap();
    bench.charge("alice", 1_000_000, "k").await;
    bench.proxy.measure();
    bench.proxy.forget();
    let join = joining(lines);
    let ask = Ask::at(NOW).user("alice").path("concert_id", "concert").call();
    waiting_room::join_queue(&join, ask).await.unwrap();
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    bench.open_payment(&saga, NOW).await;
    begin_payment(&bench.reservations, step(saga.clone(), NOW)).await.unwrap();
    use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap();
    confirm_reservation(&bench.reservations, step(saga.clone(), NOW)).await.unwrap();
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    let units = bench.proxy.units();
    let written: f64 = ["UpdateItem", "PutItem", "TransactWriteItems"].iter().filter_map(|call| units.get(*call)).sum();
    println!("write units a ticket: {written} ({units:?})");
    assert!(written > 10.0 && written <= 43.0, "{units:?}");
}

#[tokio::test]
async fn a_step_whose_answer_got_lost_for_good_reports_when_repeated_that_it_was_done() {
    let bench = Bench::on_sale(4).await;
    bench.charge("alice", 1_000_000, "k").await;
    let lines = bench.lines();
    let mut sagas = Vec::new();
    for (id, seat) in [("1", "A-1-1"), ("2", "B-1-1")] {
        let held = bench.reserve(place("alice", 1, NOW), &[seat], &format!("r{id}"), NOW).await.unwrap();
        let saga = saga(&held, &format!("p{id}"));
        bench.open_payment(&saga, NOW).await;
        sagas.push(saga);
    }
    macro_rules! repeats {
        ($step:ident($store:expr, $input:expr)) => {{
            // The first try is carried out, and then the table does not answer for as long as the step tries.
            bench.proxy.inject(Rule::all().once(), Fate::AnswerLost);
            bench.proxy.inject(Rule::all(), Fate::Dropped);
            let outcome = $step($store, step($input, NOW)).await;
            assert!(matches!(outcome, Err(StepError::Fault(Fault::Unavailable(_)))), "{outcome:?}");
            bench.proxy.heal();
            $step($store, step($input, NOW)).await.unwrap()
        }};
    }
    let (paid, undone) = (&sagas[0], &sagas[1]);
    assert!(repeats!(begin_payment(&bench.reservations, paid.clone())).already);
    assert!(repeats!(use_points(&bench.points, paid.clone())).already);
    assert!(repeats!(expire_queue_token(&lines, paid.clone())).already);
    assert!(repeats!(confirm_reservation(&bench.reservations, paid.clone())).already);
    assert!(repeats!(complete_payment(&bench.payments, paid.clone())).already);
    begin_payment(&bench.reservations, step(undone.clone(), NOW)).await.unwrap();
    use_points(&bench.points, step(undone.clone(), NOW)).await.unwrap();
    let released = repeats!(release_reservation(&bench.reservations, refused(undone.clone())));
    assert_eq!(released.outcome, ReleaseOutcome::Released);
    assert!(repeats!(restore_queue_token(&lines, undone.clone())).already);
    assert!(repeats!(return_points(&bench.points, undoing(undone.clone()))).already);
    let failing = FailedPayment { saga: undone.clone(), failure: CaughtError::default() };
    assert!(repeats!(fail_payment(&bench.payments, failing.clone())).already);
    assert_eq!(bench.balance("alice").await, 1_000_000 - PRICE, "one debit");
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_refusal_of_the_points_step_is_one_round_trip() {
    let bench = Bench::start().await;
    use_points(&bench.points, step(saga_of("alice", "p1", 1), NOW)).await.unwrap_err();
    assert_eq!(bench.proxy.actions(), ["UpdateItem"]);
}
