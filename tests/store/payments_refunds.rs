//! The payment's side of a refund: requested once, started surely, ended once, and never forgotten.

use crate::bench::{Bench, RealQuotes, Sagas};
use ::payments::domain::{Execution, PENDING_TOO_LONG_MILLIS, STUCK_MILLIS};
use ::payments::handlers::cancel_refund;
use ::payments::handlers::complete_payment;
use ::payments::handlers::complete_refund;
use ::payments::handlers::{self, Deps, RefundDeps};
use ::payments::ports::FindPayment;
use ::payments::usecases::recover_payments::{RecoverPayments, recover_payments};
use ::reservations::ports::KeepTerms;
use contracts::Timestamp;
use contracts::events::{Event, EventBody};
use contracts::saga::{CancelRefund, CaughtError, Done, RefundSaga};
use contracts::steps::OpenSchedule;
use kit::dynamo::Read;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, concert, payment, place, plan, saga, saga_of, step, terms, user};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const DONE: Done = Done { already: false };
const ALREADY: Done = Done { already: true };

/// Sells a seat to alice, by payment `p1`.
async fn sell(bench: &Bench) {
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    bench.open_payment(&saga, NOW).await;
    bench.begin(&saga, NOW).await;
    bench.confirm(&saga, NOW).await;
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
}

async fn sold() -> Bench {
    let bench = Bench::on_sale(4).await;
    sell(&bench).await;
    bench.proxy.forget();
    bench
}

/// Requests a refund of `p1`.
async fn ask(bench: &Bench, sagas: &Sagas, ask: Ask) -> Result<Reply, Problem> {
    ask_of(bench, sagas, ask.path("payment_id", "p1")).await
}

async fn refund(bench: &Bench, sagas: &Sagas, who: &str, key: &str, id: &str) -> Result<Reply, Problem> {
    ask_of(bench, sagas, Ask::at(NOW.plus_seconds(1)).user(who).key(key).path("payment_id", id)).await
}

async fn ask_of(bench: &Bench, sagas: &Sagas, ask: Ask) -> Result<Reply, Problem> {
    let deps = RefundDeps {
        payments: bench.payments.clone(),
        users: users(),
        quotes: RealQuotes(bench.reservations.clone()),
        sagas,
    };
    handlers::start_refund(&deps, ask.call()).await
}

fn code(outcome: Result<Reply, Problem>) -> (u16, &'static str) {
    outcome.map_or_else(|problem| (problem.status.as_u16(), problem.code), |reply| (reply.status.as_u16(), "taken on"))
}

async fn shown(bench: &Bench) -> String {
    let deps = Deps { payments: bench.payments.clone(), users: users() };
    let ask = Ask::at(NOW).user("alice").path("payment_id", "p1");
    let body = handlers::get_payment(&deps, ask.call()).await.unwrap().body.unwrap();
    body["status"].as_str().unwrap().to_owned()
}

/// The input of the open refund's saga.
async fn open_saga(bench: &Bench) -> RefundSaga {
    bench.payments.find(&user("alice"), &payment("p1")).await.unwrap().unwrap().refund_saga().unwrap()
}

fn refused(saga: RefundSaga) -> CancelRefund {
    let cause = json!({"errorType": "Refused", "errorMessage": "reservation_not_refundable"}).to_string();
    CancelRefund { saga, failure: CaughtError { error: "Refused".into(), cause } }
}

async fn events(bench: &Bench) -> Vec<Event> {
    let items = bench.engine.items("payments").await;
    let rows = items.iter().filter(|item| item.text("kind").ok() == Some("outbox"));
    rows.map(|row| row.document("event").unwrap()).collect()
}

// ---------------------------------------------------------------- requesting

#[tokio::test]
async fn a_refund_is_recorded_answered_and_started() {
    let (bench, sagas) = (sold().await, Sagas::default());
    let reply = refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    assert_eq!(
        bench.proxy.actions(),
        ["GetItem", "GetItem", "GetItem", "TransactWriteItems"],
        "the payment, the quote's reservation and terms, the write"
    );
    assert_eq!((reply.status.as_u16(), reply.location.as_deref()), (202, Some("/payments/p1")));
    let body = reply.body.unwrap();
    let wanted = json!({"payment_id": "p1", "status": "refunding", "reservation_id": "r1", "amount": 100_000});
    for (name, value) in wanted.as_object().unwrap() {
        assert_eq!(&body[name], value, "{name}");
    }
    assert_eq!(sagas.started(), ["p1-refund"]);
    assert_eq!(shown(&bench).await, "refunding");
    let saga = open_saga(&bench).await;
    assert_eq!((saga.refund_requested_at, saga.refund_correlation_id.as_str()), (NOW.plus_seconds(1), "request-1"));
}

#[tokio::test]
async fn the_same_key_gives_the_first_answer_and_another_key_is_refused() {
    let (bench, sagas) = (sold().await, Sagas::default());
    let first = refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    for end in ["refunding", "refunded"] {
        bench.proxy.forget();
        let again = ask(&bench, &sagas, Ask::at(NOW).user("alice").key("k").json(json!({}))).await.unwrap();
        assert_eq!((again.status, &again.body, &again.location), (first.status, &first.body, &first.location), "{end}");
        assert_eq!(bench.proxy.actions(), ["GetItem", "GetItem"], "{end}");
        assert_eq!(code(refund(&bench, &sagas, "alice", "k2", "p1").await), (409, "payment_not_refundable"), "{end}");
        if end == "refunding" {
            complete_refund(&bench.payments, step(open_saga(&bench).await, NOW)).await.unwrap();
        }
    }
    assert_eq!(BTreeSet::from_iter(sagas.started()), BTreeSet::from(["p1-refund".to_owned()]));
}

#[tokio::test]
async fn only_the_owner_of_a_completed_payment_refunds_it_and_with_a_key_of_its_own() {
    let (bench, sagas) = (sold().await, Sagas::default());
    bench.open_payment(&saga_of("alice", "p2", 100), NOW).await;
    assert_eq!(code(refund(&bench, &sagas, "mallory", "k", "p1").await), (404, "not_found"));
    assert_eq!(code(refund(&bench, &sagas, "alice", "k", "p9").await), (404, "not_found"));
    assert_eq!(code(refund(&bench, &sagas, "alice", "k", "p2").await), (409, "payment_not_refundable"));
    let keyless = Ask::at(NOW).user("alice");
    assert_eq!(code(ask(&bench, &sagas, keyless.clone()).await), (400, "idempotency_key_required"));
    let wordy = keyless.key("k").json(json!({"amount": 1}));
    assert_eq!(code(ask(&bench, &sagas, wordy).await), (400, "invalid_request"));
    // The key of `open_payment`.
    assert_eq!(code(refund(&bench, &sagas, "alice", "p1", "p1").await), (422, "idempotency_key_reused"));
    assert_eq!((shown(&bench).await, sagas.started()), ("completed".to_owned(), Vec::new()));
    refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    assert_eq!(code(refund(&bench, &sagas, "alice", "k", "p2").await), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn after_the_deadline_the_answer_says_when_it_was() {
    let (bench, sagas) = (Bench::start().await, Sagas::default());
    bench.reservations.keep_terms(&OpenSchedule { refundable_until: Some(NOW), ..terms(4) }).await.unwrap();
    bench.reservations.keep_plan(&concert(), &plan()).await.unwrap();
    sell(&bench).await;
    let problem = refund(&bench, &sagas, "alice", "k", "p1").await.unwrap_err();
    assert_eq!((problem.status.as_u16(), problem.code), (409, "payment_not_refundable"));
    assert!(problem.detail.contains(&NOW.rfc3339()), "{}", problem.detail);
    assert_eq!(shown(&bench).await, "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_refunds_at_once_one_is_taken_on() {
    for one_key in [false, true] {
        let (bench, sagas) = (Arc::new(sold().await), Arc::new(Sagas::default()));
        let mut requests = JoinSet::new();
        for number in 0..30 {
            let (bench, sagas) = (Arc::clone(&bench), Arc::clone(&sagas));
            let key = if one_key { "k".to_owned() } else { format!("k{number}") };
            requests.spawn(async move { refund(&bench, &sagas, "alice", &key, "p1").await });
        }
        let (mut taken, mut refused) = (Vec::new(), Vec::new());
        for outcome in requests.join_all().await {
            match outcome {
                Ok(reply) => taken.push(reply.body),
                Err(problem) => refused.push(problem.code),
            }
        }
        assert_eq!(taken.len(), if one_key { 30 } else { 1 }, "{refused:?}");
        assert!(taken.iter().all(|body| body == &taken[0]));
        assert!(refused.iter().all(|code| *code == "payment_not_refundable"), "{refused:?}");
        assert_eq!(BTreeSet::from_iter(sagas.started()), BTreeSet::from(["p1-refund".to_owned()]));
    }
}

#[tokio::test]
async fn a_refund_that_was_written_but_not_answered_is_started_by_the_repeated_request() {
    let (bench, sagas) = (sold().await, Sagas::default());
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Dropped);
    assert_eq!(refund(&bench, &sagas, "alice", "k", "p1").await.unwrap_err().status.as_u16(), 503);
    assert!(sagas.started().is_empty());
    bench.proxy.heal();
    assert_eq!(code(refund(&bench, &sagas, "alice", "k", "p1").await), (202, "taken on"));
    assert_eq!(sagas.started(), ["p1-refund"]);
}

// ---------------------------------------------------------------- ending

#[tokio::test]
async fn a_refund_ends_once_in_one_round_trip_and_publishes_one_event() {
    let (bench, sagas) = (sold().await, Sagas::default());
    refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    let saga = open_saga(&bench).await;
    for done in [DONE, ALREADY, ALREADY] {
        bench.proxy.forget();
        assert_eq!(complete_refund(&bench.payments, step(saga.clone(), NOW)).await.unwrap(), done);
        assert_eq!(bench.proxy.actions(), ["TransactWriteItems"]);
    }
    assert_eq!(shown(&bench).await, "refunded");
    let crossed = cancel_refund(&bench.payments, step(refused(saga.clone()), NOW)).await;
    assert!(matches!(crossed, Err(StepError::Fault(Fault::Broken(_)))), "{crossed:?}");
    // A step of the payment's saga that arrives this late finds its work done.
    assert_eq!(complete_payment(&bench.payments, step(saga.payment, NOW)).await.unwrap(), ALREADY);
    let refunds = events(&bench).await.into_iter().filter(|event| event.body.event_type().contains("refund"));
    let refunds: Vec<_> = refunds.collect();
    assert_eq!((refunds.len(), refunds[0].id.as_str()), (1, "p1.payment.refunded"));
    assert_eq!(refunds[0].correlationid, "request-1");
}

#[tokio::test]
async fn a_refused_refund_leaves_the_payment_completed_and_may_be_requested_again() {
    let (bench, sagas) = (sold().await, Sagas::default());
    refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    let first = open_saga(&bench).await;
    for done in [DONE, ALREADY] {
        bench.proxy.forget();
        assert_eq!(cancel_refund(&bench.payments, step(refused(first.clone()), NOW)).await.unwrap(), done);
        assert_eq!(bench.proxy.actions(), ["TransactWriteItems"]);
    }
    assert_eq!(shown(&bench).await, "completed");
    let crossed = complete_refund(&bench.payments, step(first.clone(), NOW)).await;
    assert!(matches!(crossed, Err(StepError::Fault(Fault::Broken(_)))), "{crossed:?}");
    // The key stands for the first request, whatever its outcome.
    assert_eq!(code(refund(&bench, &sagas, "alice", "k", "p1").await), (202, "taken on"));
    assert_eq!((shown(&bench).await, sagas.started()), ("completed".to_owned(), vec!["p1-refund".to_owned()]));
    ask(&bench, &sagas, Ask::at(NOW.plus_seconds(60)).user("alice").key("k2")).await.unwrap();
    assert_eq!(sagas.started(), ["p1-refund", "p1-refund-r1"], "no execution has the name of another");
    assert_eq!(cancel_refund(&bench.payments, step(refused(first), NOW)).await.unwrap(), ALREADY);
    assert_eq!(shown(&bench).await, "refunding", "a late step of the first refund does not end the second");
    let second = open_saga(&bench).await;
    assert_eq!(cancel_refund(&bench.payments, step(refused(second), NOW)).await.unwrap(), DONE);
    let failed = events(&bench).await.into_iter().filter_map(|event| match event.body {
        EventBody::PaymentRefundFailed(failed) => Some((event.id.to_string(), failed.reason)),
        _ => None,
    });
    let failed: BTreeSet<_> = failed.collect();
    assert_eq!(failed.len(), 2, "each refund is told of: {failed:?}");
    assert!(failed.iter().all(|(_, reason)| reason == "reservation_not_refundable"));
}

// ---------------------------------------------------------------- recovery

async fn sweep(bench: &Bench, sagas: &Sagas, now: Timestamp) {
    let deps = RecoverPayments { payments: bench.payments.clone(), sagas, refunds: sagas };
    recover_payments(&deps, now).await.unwrap();
}

fn overdue(after_millis: i64) -> Timestamp {
    NOW.plus_seconds(1).plus_millis(PENDING_TOO_LONG_MILLIS + after_millis)
}

#[tokio::test]
async fn a_refund_whose_saga_was_never_started_or_ended_without_an_end_is_driven_on() {
    let (bench, sagas) = (sold().await, Sagas::default());
    let nobody_starts = Sagas::default();
    refund(&bench, &nobody_starts, "alice", "k", "p1").await.unwrap();
    sweep(&bench, &sagas, overdue(0)).await;
    assert!(sagas.started().is_empty(), "it is not open for too long yet");
    sweep(&bench, &sagas, overdue(1)).await;
    assert_eq!(sagas.started(), ["p1-refund"]);
    sagas.set("p1-refund", Execution::Over);
    sweep(&bench, &sagas, overdue(120_000)).await;
    assert_eq!(sagas.started(), ["p1-refund", "p1-refund-r1"]);
    complete_refund(&bench.payments, step(open_saga(&bench).await, NOW)).await.unwrap();
    sagas.set("p1-refund-r1", Execution::Over);
    sweep(&bench, &sagas, overdue(86_400_000)).await;
    assert_eq!(sagas.started().len(), 2, "what has ended is left alone");
}

#[tokio::test]
async fn refunds_that_take_long_do_not_hide_those_behind_them() {
    let (bench, sagas) = (Bench::start().await, Sagas::default());
    // More than one read takes, all in one shard of the index.
    let shard = |id: &str| id.bytes().map(u64::from).sum::<u64>() % 4;
    let ids = (100..999).map(|number| format!("p{number}")).filter(|id| shard(id) == shard("lost"));
    for id in ids.take(60) {
        bench.open_payment(&saga_of("alice", &id, 100), NOW).await;
        sagas.set(&id, Execution::Running);
    }
    bench.open_payment(&saga_of("alice", "lost", 100), NOW.plus_seconds(1)).await;
    for minute in 0..2 {
        sweep(&bench, &sagas, overdue(1 + minute * 60_000)).await;
    }
    assert_eq!(sagas.started(), ["lost"]);
}

fn faults(events: Vec<Event>) -> Vec<(String, String)> {
    let faults = events.into_iter().filter_map(|event| match event.body {
        EventBody::FaultDetected(fault) => Some((fault.fault, fault.detail)),
        _ => None,
    });
    faults.collect()
}

#[tokio::test]
async fn the_on_call_is_paged_once_for_a_saga_that_was_recovered_five_times() {
    let (bench, sagas) = (sold().await, Sagas::default());
    refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    let mut now = overdue(1);
    for count in 0..7 {
        let last = sagas.started().last().unwrap().clone();
        sagas.set(&last, Execution::Over);
        let before = sagas.started().len();
        while sagas.started().len() == before {
            sweep(&bench, &sagas, now).await;
            now = now.plus_seconds(30);
        }
        let found = faults(events(&bench).await);
        let expected = if count < 4 && now.millis_since(NOW) < STUCK_MILLIS { 0 } else { 1 };
        assert_eq!(found.len(), expected, "{count}: {found:?}");
    }
    let found = faults(events(&bench).await);
    assert_eq!(found[0].0, "payments-stuck");
    assert!(found[0].1.contains("5 recoveries; the execution is p1-refund-r5"), "{found:?}");
}

#[tokio::test]
async fn the_on_call_is_paged_once_for_a_saga_that_has_run_for_an_hour_and_separately_for_its_refund() {
    let (bench, sagas) = (Bench::on_sale(4).await, Sagas::default());
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = saga(&held, "p1");
    bench.open_payment(&saga, NOW).await;
    sagas.set("p1", Execution::Running);
    for minutes in [58, 59, 60] {
        sweep(&bench, &sagas, NOW.plus_seconds(minutes * 60)).await;
        assert!(faults(events(&bench).await).is_empty(), "{minutes}");
    }
    let first = NOW.plus_seconds(3_661);
    for now in [first, first.plus_seconds(61), first.plus_seconds(122)] {
        sweep(&bench, &sagas, now).await;
        let events = events(&bench).await;
        assert_eq!(events.iter().map(|event| event.time).collect::<Vec<_>>(), [first], "once");
        assert_eq!(faults(events).len(), 1);
    }
    bench.begin(&saga, NOW).await;
    bench.confirm(&saga, NOW).await;
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    refund(&bench, &sagas, "alice", "k", "p1").await.unwrap();
    sweep(&bench, &sagas, NOW.plus_seconds(7_200)).await;
    let events = events(&bench).await;
    let signs: BTreeSet<&str> =
        events.iter().map(|event| event.subject.as_str()).filter(|of| of.contains("stuck")).collect();
    assert_eq!(signs, BTreeSet::from(["payment-stuck:p1", "payment-stuck:p1-refund"]));
    assert!(faults(events.clone()).iter().all(|(fault, _)| fault == "payments-stuck"), "one page for all of them");
}
