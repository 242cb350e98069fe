//! The payment's record, and what ensures that it is not forgotten.

use crate::bench::{Bench, RealQuotes, Sagas, tick_of};
use ::payments::domain::{Execution, LONGEST_RECOVERY_WAIT_MILLIS, PENDING_TOO_LONG_MILLIS, Payment};
use ::payments::dynamo::Payments;
use ::payments::handlers::complete_payment;
use ::payments::handlers::fail_payment;
use ::payments::handlers::{self, Deps, StartDeps};
use ::payments::ports::{FindStuck, ListPayments};
use ::payments::usecases::recover_payments::{RecoverPayments, recover_payments};
use ::reservations::usecases::sweep_holds::sweep_holds;
use contracts::Timestamp;
use contracts::saga::{CaughtError, Done, FailedPayment, TokenExpiry};
use kit::dynamo::{Read, at, s};
use kit::http::Page;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::calls::{Ask, users};
use tests::fixture::{HOLD_SECONDS, NOW, place, saga_of, step, user};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const DONE: Done = Done { already: false };
const ALREADY: Done = Done { already: true };

async fn pay(bench: &Bench, sagas: &Sagas, who: &str, key: &str, reservation: &str) -> Result<Reply, Problem> {
    pay_at(bench, sagas, who, key, reservation, NOW).await
}

async fn pay_at(
    bench: &Bench,
    sagas: &Sagas,
    who: &str,
    key: &str,
    reservation: &str,
    now: Timestamp,
) -> Result<Reply, Problem> {
    let deps = StartDeps {
        payments: bench.payments.clone(),
        users: users(),
        quotes: RealQuotes(bench.reservations.clone()),
        sagas,
        token_expiry: TokenExpiry::Event,
    };
    let ask = Ask::at(now).user(who).key(key).json(json!({"reservation_id": reservation}));
    handlers::start_payment(&deps, ask.call()).await
}

fn id_in(reply: &Reply) -> String {
    reply.body.as_ref().unwrap()["payment_id"].as_str().unwrap().to_owned()
}

async fn payments_of(bench: &Bench) -> Vec<String> {
    let items = bench.engine.items("payments").await;
    let of_kind = items.iter().filter(|item| item.text("kind").ok() == Some("payment"));
    of_kind.map(|item| item.text("payment_id").unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_user_finds_their_payments_newest_first_page_by_page_and_nobody_elses() {
    let bench = Bench::start().await;
    for id in ["p1", "p2", "p3", "p4", "p5"] {
        bench.open_payment(&saga_of("alice", id, 100), NOW).await;
    }
    bench.open_payment(&saga_of("bob", "p6", 100), NOW).await;
    let deps = Deps { payments: bench.payments.clone(), users: users() };
    let (mut seen, mut sizes, mut cursor) = (Vec::new(), Vec::new(), None::<String>);
    loop {
        let mut ask = Ask::at(NOW).user("alice").query("limit", "2");
        if let Some(cursor) = &cursor {
            ask = ask.query("cursor", cursor);
        }
        bench.proxy.forget();
        let body = handlers::list_payments(&deps, ask.call()).await.unwrap().body.unwrap();
        assert_eq!(bench.proxy.actions(), ["Query"]);
        let page = body["items"].as_array().unwrap();
        sizes.push(page.len());
        seen.extend(page.iter().map(|payment| payment["payment_id"].as_str().unwrap().to_owned()));
        cursor = body["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!((seen, sizes), (["p5", "p4", "p3", "p2", "p1"].map(str::to_owned).to_vec(), vec![2, 2, 1]));
}

#[tokio::test]
async fn a_list_goes_on_behind_what_one_answer_of_the_table_holds() {
    let bench = Bench::start().await;
    let table = bench.engine.table("payments");
    for id in ["p1", "p2", "p3", "p4", "p5"] {
        bench.open_payment(&saga_of("alice", id, 100), NOW).await;
        let mut row = bench.engine.item("payments", "USER#alice", &format!("PAY#{id}")).await.unwrap();
        row.insert("padding".to_owned(), s("x".repeat(390_000)));
        table.client.put_item().table_name(&table.name).set_item(Some(row)).send().await.unwrap();
    }
    let (mut seen, mut page) = (Vec::new(), Page { limit: 20, after: None });
    loop {
        let (payments, next) = bench.payments.list(&user("alice"), &page).await.unwrap();
        seen.extend(payments.into_iter().map(|payment| payment.saga.payment_id.to_string()));
        let Some(after) = next else { break };
        page.after = Some(after);
    }
    assert_eq!(seen, ["p5", "p4", "p3", "p2", "p1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_key_fifty_times_at_once_gives_one_payment_and_one_saga() {
    let bench = Arc::new(Bench::on_sale(4).await);
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let sagas = Arc::new(Sagas::default());
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let (bench, sagas) = (Arc::clone(&bench), Arc::clone(&sagas));
        requests.spawn(async move { pay(&bench, &sagas, "alice", "k", "r1").await.unwrap() });
    }
    let replies = requests.join_all().await;
    assert!(replies.iter().all(|reply| reply.status.as_u16() == 202 && reply.location.is_some()));
    let ids: BTreeSet<String> = replies.iter().map(id_in).collect();
    assert_eq!(ids.len(), 1, "{ids:?}");
    assert_eq!(payments_of(&bench).await, Vec::from_iter(ids.clone()));
    assert_eq!(BTreeSet::from_iter(sagas.started()), ids, "repeated starts have the same name");
}

/// The code of a refusal; `paid` if there is none.
fn code(outcome: &Result<Reply, Problem>) -> &'static str {
    outcome.as_ref().map_or_else(|problem| problem.code, |_| "paid")
}

/// Ends a payment as the saga's compensation does.
async fn fails(bench: &Bench, saga: contracts::saga::PaymentSaga) {
    fail_payment(&bench.payments, step(FailedPayment { saga, failure: CaughtError::default() }, NOW)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_keys_at_once_start_one_payment_of_a_reservation_and_one_saga() {
    let bench = Arc::new(Bench::on_sale(4).await);
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let sagas = Arc::new(Sagas::default());
    let mut requests = JoinSet::new();
    for n in 0..40 {
        let (bench, sagas) = (Arc::clone(&bench), Arc::clone(&sagas));
        requests.spawn(async move { pay(&bench, &sagas, "alice", &format!("k{n}"), "r1").await });
    }
    let outcomes = requests.join_all().await;
    let started: Vec<String> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok().map(id_in)).collect();
    assert_eq!((started.len(), sagas.started(), payments_of(&bench).await), (1, started.clone(), started.clone()));
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!((refused.status.as_u16(), refused.code), (409, "payment_under_way"));
        assert_eq!(serde_json::to_value(refused.members.get("payment_id")).unwrap(), started[0].as_str());
    }
}

#[tokio::test]
async fn a_payment_that_failed_lets_the_next_one_start_and_one_at_a_time() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let mut started = Vec::new();
    for n in 0..3 {
        bench.proxy.forget();
        let reply = pay(&bench, &sagas, "alice", &format!("k{n}"), "r1").await.unwrap();
        // The claim of a failed payment is looked at, and replaced.
        assert_eq!(bench.proxy.actions().len(), if n == 0 { 2 } else { 4 }, "{:?}", bench.proxy.actions());
        started.push(id_in(&reply));
        let other = pay(&bench, &sagas, "alice", &format!("other{n}"), "r1").await;
        assert_eq!(code(&other), "payment_under_way");
        // The key means what it meant, also while its payment is undecided.
        let again = pay(&bench, &sagas, "alice", &format!("k{n}"), "r1").await.unwrap();
        assert_eq!(id_in(&again), started[n]);
        fails(&bench, tests::fixture::saga(&held, &started[n])).await;
        let again = pay(&bench, &sagas, "alice", &format!("k{n}"), "r1").await.unwrap();
        assert_eq!(id_in(&again), started[n], "and once it has failed");
    }
    assert_eq!(payments_of(&bench).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_payments_after_one_that_failed_one_is_started() {
    let bench = Arc::new(Bench::on_sale(4).await);
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let sagas = Arc::new(Sagas::default());
    let first = id_in(&pay(&bench, &sagas, "alice", "first", "r1").await.unwrap());
    fails(&bench, tests::fixture::saga(&held, &first)).await;
    let mut requests = JoinSet::new();
    for n in 0..20 {
        let (bench, sagas) = (Arc::clone(&bench), Arc::clone(&sagas));
        requests.spawn(async move { code(&pay(&bench, &sagas, "alice", &format!("k{n}"), "r1").await) });
    }
    let codes = requests.join_all().await;
    assert_eq!(codes.iter().filter(|code| **code == "paid").count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| ["paid", "payment_under_way"].contains(code)), "{codes:?}");
    assert_eq!(sagas.started().len(), 2);
}

#[tokio::test]
async fn a_payment_that_broke_off_anywhere_never_locks_its_reservation_for_good() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    // The process dies before the write: nothing is there.
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Dropped);
    assert_eq!(code(&pay(&bench, &sagas, "alice", "k1", "r1").await), "temporarily_unavailable");
    bench.proxy.heal();
    // It dies after the write, before the saga is started: the recovery starts it, and whatever ends it frees the
    // reservation.
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Dropped);
    assert_eq!(code(&pay(&bench, &sagas, "alice", "k2", "r1").await), "temporarily_unavailable");
    bench.proxy.heal();
    assert_eq!(code(&pay(&bench, &sagas, "alice", "k3", "r1").await), "payment_under_way");
    let deps = RecoverPayments { payments: bench.payments.clone(), sagas: &sagas, refunds: &sagas };
    recover_payments(&deps, NOW.plus_millis(PENDING_TOO_LONG_MILLIS + 1)).await.unwrap();
    let stuck = payments_of(&bench).await.pop().unwrap();
    assert_eq!(sagas.started(), [stuck.as_str()]);
    fails(&bench, tests::fixture::saga(&held, &stuck)).await;
    assert_eq!(code(&pay(&bench, &sagas, "alice", "k3", "r1").await), "paid");
}

#[tokio::test]
async fn a_payment_whose_start_was_lost_is_started_by_the_next_request_that_it_is_in_the_way_of() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Dropped);
    assert_eq!(code(&pay(&bench, &sagas, "alice", "click-1", "r1").await), "temporarily_unavailable");
    bench.proxy.heal();
    // The buyer presses "pay" again, and their client makes a new key. What has just been begun is left alone.
    let again = |millis| pay_at(&bench, &sagas, "alice", "click-2", "r1", NOW.plus_millis(millis));
    assert_eq!(code(&again(2_999).await), "payment_under_way");
    assert!(sagas.started().is_empty());
    assert_eq!(code(&again(3_000).await), "payment_under_way");
    assert_eq!(sagas.started(), payments_of(&bench).await);
}

#[tokio::test]
async fn a_payment_of_the_release_before_which_left_no_claim_is_no_obstacle_and_pays_at_most_once() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.open_payment(&tests::fixture::saga(&held, "p0"), NOW).await;
    let table = bench.engine.table("payments");
    let claim = table.client.delete_item().table_name(&table.name).key("pk", s("USER#alice")).key("sk", s("RES#r1"));
    claim.send().await.unwrap();
    let second = id_in(&pay(&bench, &sagas, "alice", "k", "r1").await.unwrap());
    bench.begin(&tests::fixture::saga(&held, "p0"), NOW).await;
    let begun = ::reservations::handlers::begin_payment;
    let refused = begun(&bench.reservations, step(tests::fixture::saga(&held, &second), NOW)).await;
    assert!(matches!(refused, Err(StepError::Refused("reservation_not_payable"))), "{refused:?}");
}

#[tokio::test]
async fn the_same_request_at_once_is_not_refused_for_its_own_payment() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let first = id_in(&pay(&bench, &sagas, "alice", "k", "r1").await.unwrap());
    // The key's row meets the first request's transaction, and was not looked at; the claim was.
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::Masked("IDEM#k"));
    assert_eq!(id_in(&pay(&bench, &sagas, "alice", "k", "r1").await.unwrap()), first);
}

#[tokio::test]
async fn a_key_used_for_another_reservation_is_refused() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    for (id, seat) in [("r1", "A-1-1"), ("r2", "A-1-2")] {
        bench.reserve(place("alice", 1, NOW), &[seat], id, NOW).await.unwrap();
    }
    pay(&bench, &sagas, "alice", "k", "r1").await.unwrap();
    let problem = pay(&bench, &sagas, "alice", "k", "r2").await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (422, "idempotency_key_reused"));
    assert_eq!(payments_of(&bench).await.len(), 1);
}

#[tokio::test]
async fn a_reservation_that_is_missing_foreign_or_over_is_not_paid() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let code = |outcome: Result<Reply, Problem>| outcome.map_or_else(|problem| problem.code, |_| "paid");
    assert_eq!(code(pay(&bench, &sagas, "alice", "k", "r9").await), "not_found");
    assert_eq!(code(pay(&bench, &sagas, "bob", "k", "r1").await), "not_found");
    sweep_holds(&bench.reservations, NOW.plus_seconds(HOLD_SECONDS)).await.unwrap();
    assert_eq!(code(pay(&bench, &sagas, "alice", "k", "r1").await), "reservation_not_payable");
    assert!(payments_of(&bench).await.is_empty() && sagas.started().is_empty());
}

#[tokio::test]
async fn a_repeated_request_is_answered_even_when_its_payment_has_made_the_reservation_unpayable() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let first = pay(&bench, &sagas, "alice", "k", "r1").await.unwrap();
    bench.begin(&tests::fixture::saga(&held, &id_in(&first)), NOW).await;
    let again = pay(&bench, &sagas, "alice", "k", "r1").await.unwrap();
    assert_eq!((&again.body, &again.location), (&first.body, &first.location));
    let other = pay(&bench, &sagas, "alice", "k2", "r1").await.unwrap_err();
    assert_eq!((other.status.as_u16(), other.code), (409, "reservation_not_payable"));
}

#[tokio::test]
async fn a_payment_whose_record_was_written_but_not_answered_is_started_by_the_repeated_request() {
    let bench = Bench::on_sale(4).await;
    let sagas = Sagas::default();
    bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Dropped);
    let problem = pay(&bench, &sagas, "alice", "k", "r1").await.unwrap_err();
    assert_eq!(problem.status.as_u16(), 503);
    assert!(sagas.started().is_empty());
    bench.proxy.heal();
    let reply = pay(&bench, &sagas, "alice", "k", "r1").await.unwrap();
    assert_eq!(sagas.started(), [id_in(&reply)]);
    assert_eq!(payments_of(&bench).await, [id_in(&reply)]);
}

#[tokio::test]
async fn a_payment_ends_once_and_publishes_one_event() {
    let bench = Bench::start().await;
    let (paid, lost) = (saga_of("alice", "p1", 100), saga_of("alice", "p2", 100));
    for saga in [&paid, &lost] {
        bench.open_payment(saga, NOW).await;
    }
    let failing = FailedPayment {
        saga: lost.clone(),
        failure: CaughtError {
            error: "Refused".into(),
            cause: json!({"errorType": "Refused", "errorMessage": "insufficient_points"}).to_string(),
        },
    };
    for done in [DONE, ALREADY, ALREADY] {
        assert_eq!(complete_payment(&bench.payments, step(paid.clone(), NOW)).await.unwrap(), done);
        assert_eq!(fail_payment(&bench.payments, step(failing.clone(), NOW)).await.unwrap(), done);
        assert_eq!(events(&bench).await, ["p1.payment.completed", "p2.payment.failed"]);
    }
    // What ended one way never ends the other way.
    let crossed = complete_payment(&bench.payments, step(lost, NOW)).await;
    assert!(matches!(crossed, Err(StepError::Fault(Fault::Broken(_)))), "{crossed:?}");
    let crossed = fail_payment(&bench.payments, step(FailedPayment { saga: paid, ..failing }, NOW)).await;
    assert!(matches!(crossed, Err(StepError::Fault(Fault::Broken(_)))), "{crossed:?}");
    assert_eq!(events(&bench).await.len(), 2);
    let deps = Deps { payments: bench.payments.clone(), users: users() };
    let get = |id: &str| handlers::get_payment(&deps, Ask::at(NOW).user("alice").path("payment_id", id).call());
    assert_eq!(get("p1").await.unwrap().body.unwrap()["status"], "completed");
    assert_eq!(get("p2").await.unwrap().body.unwrap()["failure"], "insufficient_points");
    let foreign = Ask::at(NOW).user("bob").path("payment_id", "p1").call();
    assert_eq!(handlers::get_payment(&deps, foreign).await.unwrap_err().code, "not_found");
}

async fn events(bench: &Bench) -> Vec<String> {
    let items = bench.engine.items("payments").await;
    let mut ids: Vec<String> =
        items.iter().filter_map(|item| item.text("pk").unwrap().strip_prefix("OUTBOX#")).map(str::to_owned).collect();
    ids.sort();
    ids
}

// ---------------------------------------------------------------- recovery

fn recovery<'a>(bench: &Bench, sagas: &'a Sagas) -> RecoverPayments<Payments, &'a Sagas, &'a Sagas> {
    RecoverPayments { payments: bench.payments.clone(), sagas, refunds: sagas }
}

fn overdue(after_millis: i64) -> Timestamp {
    NOW.plus_millis(PENDING_TOO_LONG_MILLIS + after_millis)
}

async fn recoveries(bench: &Bench, id: &str) -> i64 {
    bench.engine.item("payments", "USER#alice", &format!("PAY#{id}")).await.unwrap().int("recoveries").unwrap()
}

#[tokio::test]
async fn a_payment_whose_saga_was_never_started_is_started_under_its_own_name() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    recover_payments(&recovery(&bench, &sagas), overdue(0)).await.unwrap();
    assert!(sagas.started().is_empty(), "it is not pending for too long yet");
    recover_payments(&recovery(&bench, &sagas), overdue(1)).await.unwrap();
    assert_eq!(sagas.started(), ["p1"]);
    assert_eq!(recoveries(&bench, "p1").await, 0);
}

#[tokio::test]
async fn all_unstarted_payments_are_started_in_one_run_however_many_there_are() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    let ids: BTreeSet<String> = (0..300).map(|n| format!("p{n}")).collect();
    for id in &ids {
        bench.open_payment(&saga_of("alice", id, 100), NOW).await;
    }
    recover_payments(&recovery(&bench, &sagas), tick_of(1_000_000, overdue(1))).await.unwrap();
    assert_eq!(BTreeSet::from_iter(sagas.started()), ids);
    assert_eq!(sagas.started().len(), 300, "once each");
}

#[tokio::test]
async fn a_recovery_whose_time_is_over_leaves_the_rest_to_the_next_one() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    for n in 0..60 {
        bench.open_payment(&saga_of("alice", &format!("p{n}"), 100), NOW).await;
    }
    recover_payments(&recovery(&bench, &sagas), tick_of(60, overdue(1))).await.unwrap();
    let first = sagas.started().len();
    assert!((1..60).contains(&first), "{first}");
    recover_payments(&recovery(&bench, &sagas), tick_of(1_000_000, overdue(2))).await.unwrap();
    assert_eq!(BTreeSet::from_iter(sagas.started()).len(), 60);
}

#[tokio::test]
async fn a_saga_that_still_runs_is_left_alone() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    sagas.set("p1", Execution::Running);
    for minutes in 0..5 {
        recover_payments(&recovery(&bench, &sagas), overdue(1 + minutes * 60_000)).await.unwrap();
    }
    assert!(sagas.started().is_empty());
}

#[tokio::test]
async fn a_payment_whose_saga_ended_without_an_end_gets_another_one_less_and_less_often() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    sagas.set("p1", Execution::Over);
    let mut waits = Vec::new();
    let (mut now, mut last) = (overdue(1), overdue(1));
    for count in 1..=9 {
        let before = sagas.started().len();
        while sagas.started().len() == before {
            recover_payments(&recovery(&bench, &sagas), now).await.unwrap();
            now = now.plus_millis(30_000);
        }
        let name = format!("p1-r{count}");
        assert_eq!(sagas.started().last(), Some(&name));
        assert_eq!(recoveries(&bench, "p1").await, count);
        sagas.set(&name, Execution::Over);
        waits.push(now.millis_since(last));
        last = now;
    }
    assert!(waits.is_sorted(), "{waits:?}");
    assert!(*waits.last().unwrap() <= LONGEST_RECOVERY_WAIT_MILLIS + 90_000, "{waits:?}");
}

#[tokio::test]
async fn payments_that_cannot_be_read_keep_none_behind_them_from_its_recovery() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    let table = bench.engine.table("payments");
    let whole = bench.engine.item("payments", "USER#alice", "PAY#p1").await.unwrap();
    // More than one page of the shard, all of them due before it.
    for n in 0..120 {
        let mut unreadable = whole.clone();
        unreadable.insert("sk".to_owned(), s(format!("PAY#lost-{n}")));
        unreadable.insert("status".to_owned(), s("who knows"));
        unreadable.insert("pending_since".to_owned(), at(NOW.plus_millis(-1 - n)));
        table.client.put_item().table_name(&table.name).set_item(Some(unreadable)).send().await.unwrap();
    }
    recover_payments(&recovery(&bench, &sagas), overdue(1)).await.unwrap();
    assert_eq!(sagas.started(), ["p1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recoveries_at_once_start_one_saga() {
    let bench = Bench::start().await;
    let sagas = Arc::new(Sagas::default());
    bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    sagas.set("p1", Execution::Over);
    let mut sweeps = JoinSet::new();
    for _ in 0..10 {
        let (payments, sagas) = (bench.payments.clone(), Arc::clone(&sagas));
        sweeps.spawn(async move {
            recover_payments(&RecoverPayments { payments, sagas: &*sagas, refunds: &*sagas }, overdue(1))
                .await
                .unwrap();
        });
    }
    sweeps.join_all().await;
    assert_eq!(sagas.started(), ["p1-r1"]);
    assert_eq!(recoveries(&bench, "p1").await, 1);
}

#[tokio::test]
async fn a_payment_that_has_ended_is_never_recovered() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    for id in ["p1", "p2"] {
        bench.open_payment(&saga_of("alice", id, 100), NOW).await;
    }
    complete_payment(&bench.payments, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
    let failing = FailedPayment { saga: saga_of("alice", "p2", 100), failure: CaughtError::default() };
    fail_payment(&bench.payments, step(failing, NOW)).await.unwrap();
    recover_payments(&recovery(&bench, &sagas), overdue(86_400_000)).await.unwrap();
    assert!(sagas.started().is_empty());
}

#[tokio::test]
async fn a_recovery_that_died_after_counting_is_finished_by_the_next_one() {
    let bench = Bench::start().await;
    let payment = bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
    let sagas = Sagas::default();
    sagas.set("p1", Execution::Over);
    let counted = Payment { recoveries: 1, ..payment.clone() };
    assert!(bench.payments.looked_at(&payment, &counted, overdue(1)).await.unwrap());
    recover_payments(&recovery(&bench, &sagas), overdue(3_600_000)).await.unwrap();
    assert_eq!(sagas.started(), ["p1-r1"], "the very execution that was counted");
    assert_eq!(recoveries(&bench, "p1").await, 1);
}

#[tokio::test]
async fn a_payment_that_cannot_be_read_keeps_no_other_from_being_recovered() {
    let bench = Bench::start().await;
    let sagas = Sagas::default();
    for id in ["p1", "p2", "p3"] {
        bench.open_payment(&saga_of("alice", id, 100), NOW).await;
    }
    let table = bench.engine.table("payments");
    let mut corrupt = bench.engine.item("payments", "USER#alice", "PAY#p2").await.unwrap();
    corrupt.insert("saga".to_owned(), kit::dynamo::s("{"));
    table.client.put_item().table_name(&table.name).set_item(Some(corrupt)).send().await.unwrap();
    // It may be reported, but the others are started.
    drop(recover_payments(&recovery(&bench, &sagas), overdue(1)).await);
    assert_eq!(BTreeSet::from_iter(sagas.started()), BTreeSet::from(["p1".to_owned(), "p3".to_owned()]));
}
