//! Orders that are cancelled, by their user or by an operator: to their participants they have failed.

use crate::bench::Bench;
use crate::orders::{
    Published, alice, body, deliver_answer, deps, desk, due_at, event_types_of, events, is_republished, open_shop,
    order, place, placed, publish, refused, sweep,
};
use ::orders::domain::FIRST_LOOK_SECONDS;
use ::orders::dynamo::Orders;
use ::orders::handlers::{CancelDeps, cancel_any_order, cancel_order, get_order};
use contracts::Timestamp;
use contracts::events::EventBody;
use kit::{Problem, Reply};
use tests::calls::{Ask, users};
use tests::fixture::NOW;
use tests::proxy::{Fate, Rule};

/// How long a user can cancel an order here, in seconds.
const WITHIN_SECONDS: i64 = 1_800;
/// How many orders a user can cancel on a day here.
const MOST: u32 = 3;
const DONE: [Published; 3] = [Published::Deducted, Published::Used, Published::Cleared];
const UNDONE: [Published; 3] = [Published::Restored, Published::Returned, Published::CartRestored];

fn cancelling(bench: &Bench) -> CancelDeps<Orders> {
    CancelDeps { store: desk(bench), within_seconds: WITHIN_SECONDS, most: MOST, users: users() }
}

async fn cancel(bench: &Bench, id: &str, now: Timestamp) -> Result<Reply, Problem> {
    cancel_order(&cancelling(bench), Ask::at(now).user("alice").path("order_id", id).call()).await
}

async fn seen(bench: &Bench, id: &str) -> String {
    let order = body(get_order(&deps(bench), alice().path("order_id", id).call()).await);
    assert_eq!(order.get("failure"), None, "{order}");
    order["status"].as_str().unwrap().to_owned()
}

async fn actor(bench: &Bench, id: &str) -> String {
    match events(bench).await.remove(&format!("{id}.order.failed")).unwrap().body {
        EventBody::OrderFailed(failed) if failed.reason.as_str() == "cancelled" => failed.actor.unwrap().to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_order_is_cancelled_while_it_is_pending_and_once_it_is_completed_and_then_undone() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    for (n, before) in [&[][..], &DONE[..2], &DONE[..]].into_iter().enumerate() {
        let id = placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
        for answer in before {
            deliver_answer(&bench, &id, *answer).await;
        }
        bench.proxy.forget();
        let reply = cancel(&bench, &id, NOW).await.unwrap();
        assert_eq!(bench.proxy.actions(), ["GetItem", "TransactWriteItems"]);
        assert_eq!((reply.status.as_u16(), reply.location), (202, Some(format!("/orders/{id}"))));
        assert_eq!(reply.body.unwrap()["status"], "cancelled");
        assert_eq!((seen(&bench, &id).await.as_str(), actor(&bench, &id).await.as_str()), ("cancelled", "alice"));
        let look = NOW.plus_seconds(FIRST_LOOK_SECONDS);
        assert_eq!(due_at(&bench, &id).await, Some(look), "until all have undone their part");
        // What was said of it before changes nothing, however late and however often it is delivered.
        for answer in DONE.into_iter().chain(DONE) {
            deliver_answer(&bench, &id, answer).await;
        }
        assert_eq!(seen(&bench, &id).await, "cancelled");
        publish(&bench).await;
        sweep(&bench, look).await.unwrap();
        assert!(is_republished(&bench, &format!("{id}.order.failed")).await);
        for answer in UNDONE {
            deliver_answer(&bench, &id, answer).await;
        }
        assert_eq!((due_at(&bench, &id).await, seen(&bench, &id).await.as_str()), (None, "cancelled"));
    }
}

#[tokio::test]
async fn an_order_that_is_cancelled_again_or_without_an_answer_is_cancelled_once() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    for seconds in [0, 1, WITHIN_SECONDS + 1] {
        let reply = cancel(&bench, &id, NOW.plus_seconds(seconds)).await.unwrap();
        assert_eq!((reply.status.as_u16(), &reply.body.unwrap()["status"]), (202, &"cancelled".into()));
    }
    assert_eq!(event_types_of(&bench, &id).await, ["order.failed", "order.placed"]);
    // It is pending no longer.
    let row = bench.engine.item("orders", "USER#alice", "PENDING").await.unwrap();
    assert!(!row.contains_key("orders"));
}

#[tokio::test]
async fn an_order_that_failed_or_whose_time_is_over_or_that_is_somebody_elses_is_not_cancelled() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    let late = cancel(&bench, &id, NOW.plus_seconds(WITHIN_SECONDS + 1)).await;
    assert_eq!(refused(late), (409, "order_not_cancellable"));
    let bob = Ask::at(NOW).user("bob").path("order_id", &id);
    assert_eq!(refused(cancel_order(&cancelling(&bench), bob.call()).await), (404, "not_found"));
    deliver_answer(&bench, &id, Published::OutOfStock).await;
    assert_eq!(refused(cancel(&bench, &id, NOW).await), (409, "order_not_cancellable"));
    assert_eq!(refused(cancel(&bench, "none", NOW).await), (404, "not_found"));
}

#[tokio::test]
async fn an_operator_cancels_anybodys_order_for_six_days_and_is_named_in_its_event() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let (day, hour) = (24 * 3_600, 3_600);
    let ask = async |by: Ask, id: &str| cancel_any_order(&deps(&bench), by.path("order_id", id).call()).await;
    let at = |seconds| Ask::at(NOW.plus_seconds(seconds)).operator("boss");
    let (late, id) = (placed(&bench, &[("mug", 1)], "k1").await, placed(&bench, &[("poster", 1)], "k2").await);
    assert_eq!(refused(ask(alice(), &id).await), (403, "forbidden"));
    assert_eq!(refused(ask(at(6 * day + hour), &late).await), (409, "order_not_cancellable"));
    for _ in 0..2 {
        assert_eq!(ask(at(6 * day), &id).await.unwrap().status.as_u16(), 202);
    }
    assert_eq!((seen(&bench, &id).await.as_str(), actor(&bench, &id).await.as_str()), ("cancelled", "boss"));
    assert_eq!(refused(ask(at(0), "none").await), (404, "not_found"));
}

#[tokio::test]
async fn an_order_that_ends_while_it_is_cancelled_is_wholly_one_or_the_other() {
    for (last, expected) in [(Published::Cleared, Ok("cancelled")), (Published::Short, Err("order_not_cancellable"))] {
        let bench = Bench::start().await;
        open_shop(&bench).await;
        let id = placed(&bench, &[("poster", 1)], "k").await;
        for answer in [Published::Deducted, Published::Used] {
            if last == Published::Cleared || answer == Published::Deducted {
                deliver_answer(&bench, &id, answer).await;
            }
        }
        let mut outcome = None;
        bench
            .crossed(async { outcome = Some(cancel(&bench, &id, NOW).await) }, deliver_answer(&bench, &id, last))
            .await;
        let status = outcome.unwrap().map(|reply| reply.body.unwrap()["status"].as_str().unwrap().to_owned());
        assert_eq!(status.as_deref().map_err(|problem| problem.code), expected);
    }
}

/// Places an order and cancels it.
async fn in_vain(bench: &Bench, key: &str, now: Timestamp) -> Result<u16, (u16, &'static str)> {
    let Reply { body, .. } = place(bench, &[("poster", 1)], key, now).await.unwrap();
    let id = body.unwrap()["order_id"].as_str().unwrap().to_owned();
    cancel(bench, &id, now)
        .await
        .map(|reply| reply.status.as_u16())
        .map_err(|problem| (problem.status.as_u16(), problem.code))
}

#[tokio::test]
async fn a_user_cancels_so_many_orders_on_a_day_and_operators_any_number() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let limit = Err((409, "cancellation_limit_exceeded"));
    // The last day of November in Korea.
    let evening = Timestamp::parse_rfc3339("2026-11-30T14:59:59Z").unwrap();
    for n in 0..MOST {
        assert_eq!(in_vain(&bench, &format!("k{n}"), evening).await, Ok(202));
    }
    assert_eq!(in_vain(&bench, "more", evening).await, limit);
    let id = placed(&bench, &[("poster", 1)], "more").await;
    assert_eq!(seen(&bench, &id).await, "pending", "nothing was written");
    let boss = Ask::at(evening).operator("boss").path("order_id", &id);
    assert_eq!(cancel_any_order(&deps(&bench), boss.call()).await.unwrap().status.as_u16(), 202);
    // What is cancelled already is not one more.
    assert_eq!(cancel(&bench, &id, evening).await.unwrap().status.as_u16(), 202);
    assert_eq!(in_vain(&bench, "tomorrow", evening.plus_seconds(1)).await, Ok(202));
}

#[tokio::test]
async fn an_order_that_meets_another_write_while_its_user_can_cancel_no_more_is_not_called_one_too_many() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    for n in 1..MOST {
        assert_eq!(in_vain(&bench, &format!("k{n}"), NOW).await, Ok(202));
    }
    // The last one: its first try is carried out, and nobody hears of it.
    let id = placed(&bench, &[("poster", 1)], "last").await;
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::Masked("ORDER#"));
    assert_eq!(cancel(&bench, &id, NOW).await.unwrap().status.as_u16(), 202);
    assert_eq!(seen(&bench, &id).await, "cancelled");
}

#[tokio::test]
async fn an_order_that_is_cancelled_makes_room_for_another() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let first = placed(&bench, &[("poster", 1)], "k").await;
    for n in 1..crate::orders::MOST_PENDING {
        placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
    }
    assert_eq!(refused(place(&bench, &[("poster", 1)], "more", NOW).await), (409, "too_many_pending_orders"));
    cancel(&bench, &first, NOW).await.unwrap();
    let more = placed(&bench, &[("poster", 1)], "more").await;
    assert_eq!(order(&bench, &more).await.status.as_str(), "pending");
}
