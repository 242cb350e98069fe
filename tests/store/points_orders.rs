//! Points of orders: used once, refused once, given back once, whatever is delivered when and how often.

use crate::bench::Bench;
use crate::points::{assert_sound, ledger, signed};
use ::points::domain::Kind;
use ::points::dynamo::{HOT_ENTRIES, KEPT_ENTRIES, SETTLED_MILLIS};
use ::points::handlers::use_order_points;
use ::points::handlers::use_points;
use contracts::choreography::ACTED_ON_MILLIS;
use contracts::events::{Event, EventBody, OrderEvent, OrderFailed};
use contracts::orders::{OrderFailure, OrderLine, Quantity};
use contracts::{ItemId, OrderId, Timestamp};
use kit::Fault;
use kit::dynamo::{Item, Read};
use kit::outbox::Relay;
use kit::queue::Message;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tests::bus::{BUS, Bus};
use tests::fixture::{NOW, saga_of, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

/// An order of `who` that costs `price`.
fn order(who: &str, id: &str, price: i64) -> OrderEvent {
    let line = OrderLine {
        item_id: ItemId::parse("poster").unwrap(),
        name: "Poster".into(),
        price: won(price),
        quantity: Quantity::new(1).unwrap(),
    };
    OrderEvent { order_id: OrderId::parse(id).unwrap(), user_id: user(who), lines: vec![line], total_price: won(price) }
}

fn event_message(id: &str, body: EventBody, now: Timestamp) -> Message {
    let event = kit::outbox::event("encore/orders", id, &format!("request-of-{id}"), body, now).unwrap();
    Message::new("m", json!({ "detail": event }).to_string(), now)
}

/// The message that `who` placed an order which costs `price`.
pub fn placed(who: &str, id: &str, price: i64) -> Message {
    event_message(id, EventBody::OrderPlaced(order(who, id, price)), NOW)
}

/// The message that this order failed.
pub fn failed(who: &str, id: &str, price: i64) -> Message {
    let failed = OrderFailed { order: order(who, id, price), reason: OrderFailure::OutOfStock, actor: None };
    event_message(id, EventBody::OrderFailed(failed), NOW)
}

fn later(message: &Message, millis: i64) -> Message {
    Message::new(&message.id, message.body.clone(), message.now.plus_millis(millis))
}

/// Handles messages one after the other.
async fn consume(bench: &Bench, messages: &[&Message]) {
    for message in messages {
        use_order_points(&bench.points, (*message).clone()).await.unwrap();
    }
}

/// Holds back the first message's write until the second is handled.
pub async fn crossed(bench: &Bench, slow: Message, quick: Message) {
    let handled = |message| async { use_order_points(&bench.points, message).await.unwrap() };
    bench.crossed(handled(slow), handled(quick)).await;
}

/// The work for an order, and its amount.
async fn work(bench: &Bench, id: &str) -> Option<(String, i64)> {
    let row = bench.engine.item("points", &format!("ORDER#{id}"), "WORK").await?;
    Some((row.text("work_state").unwrap().to_owned(), row.int("amount").unwrap()))
}

/// The outbox rows, by the events' ids.
async fn outbox(bench: &Bench) -> Vec<(Event, Item)> {
    let rows = bench.engine.items("points").await.into_iter().filter(|item| item.contains_key("publish_state"));
    let mut rows: Vec<(Event, Item)> = rows.map(|row| (row.document("event").unwrap(), row)).collect();
    rows.sort_by(|(one, _), (other, _)| one.id.cmp(&other.id));
    rows
}

/// The events' ids, and their amounts.
async fn events(bench: &Bench) -> Vec<(String, i64)> {
    let amount = |event: &Event| match &event.body {
        EventBody::PointsUsed(points) | EventBody::PointsReturned(points) => points.amount.get(),
        EventBody::PointsRefused(points) => points.amount.get(),
        other => panic!("{other:?} is not for points to say"),
    };
    outbox(bench).await.iter().map(|(event, _)| (event.id.to_string(), amount(event))).collect()
}

fn expected(events: &[(&str, i64)]) -> Vec<(String, i64)> {
    events.iter().map(|(id, amount)| ((*id).to_owned(), *amount)).collect()
}

fn relay(bench: &Bench, bus: &Bus) -> Relay {
    Relay::new("points", bench.proxy.table("points"), kit::outbox::Bus::new(bus.client(), BUS.to_owned()))
}

// ---------------------------------------------------------------- once

#[tokio::test]
async fn an_order_is_paid_in_one_write_with_its_entry_and_its_answer() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    bench.proxy.forget();
    consume(&bench, &[&placed("alice", "o1", 300)]).await;
    assert_eq!(bench.proxy.actions(), ["GetItem", "TransactWriteItems", "GetItem"], "the last one looks if it is full");
    assert_eq!(bench.balance("alice").await, 700);
    let entry = ledger(&bench, "alice").await.remove(0);
    assert_eq!((entry.movement.key.as_str(), entry.movement.kind), ("use.o1", Kind::Use));
    assert_eq!((entry.movement.reference.as_str(), entry.movement.amount.get()), ("o1", 300));
    assert_eq!(work(&bench, "o1").await, Some(("done".into(), 300)));
    let (event, row) = outbox(&bench).await.remove(0);
    assert_eq!((event.source.as_str(), event.subject.as_str()), ("encore/points", "o1"));
    assert_eq!((event.id.as_str(), event.correlationid.as_str()), ("o1.points.used", "request-of-o1"));
    assert_eq!(row.text("transaction_key").unwrap(), "o1");
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn what_was_used_for_an_order_is_given_back_once_when_it_fails() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    let (placed, failed) = (placed("alice", "o1", 300), failed("alice", "o1", 300));
    for day in 0..3 {
        consume(&bench, &[&later(&placed, day * 86_400_000)]).await;
        assert_eq!(bench.balance("alice").await, 700);
    }
    for day in 3..6 {
        let day = day * 86_400_000;
        consume(&bench, &[&later(&failed, day), &later(&placed, day)]).await;
        assert_eq!(bench.balance("alice").await, 1_000);
    }
    let entry = ledger(&bench, "alice").await.remove(0);
    assert_eq!((entry.movement.key.as_str(), entry.movement.kind), ("return.o1", Kind::Refund));
    assert_eq!((entry.movement.reference.as_str(), entry.movement.amount.get()), ("o1", 300));
    assert_eq!(work(&bench, "o1").await, Some(("undone".into(), 300)));
    assert_eq!(events(&bench).await, expected(&[("o1.points.returned", 300), ("o1.points.used", 300)]));
    assert_sound(&bench, "alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_order_consumed_ten_times_at_once_is_paid_once_and_given_back_once() {
    let bench = Arc::new(Bench::start().await);
    bench.charge("alice", 1_000, "k").await;
    for (message, balance) in [(placed("alice", "o1", 300), 700), (failed("alice", "o1", 300), 1_000)] {
        let mut ten = JoinSet::new();
        for _ in 0..10 {
            let (bench, message) = (Arc::clone(&bench), message.clone());
            ten.spawn(async move { use_order_points(&bench.points, message).await.unwrap() });
        }
        ten.join_all().await;
        assert_eq!(bench.balance("alice").await, balance);
    }
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn an_order_that_costs_nothing_is_paid_by_who_never_had_points() {
    let bench = Bench::start().await;
    let placed = placed("alice", "o1", 0);
    consume(&bench, &[&placed, &placed]).await;
    assert_eq!(work(&bench, "o1").await, Some(("done".into(), 0)));
    consume(&bench, &[&failed("alice", "o1", 0), &placed]).await;
    assert_eq!(events(&bench).await, expected(&[("o1.points.returned", 0), ("o1.points.used", 0)]));
    assert_eq!(ledger(&bench, "alice").await.len(), 2);
    assert_sound(&bench, "alice").await;
}

#[tokio::test]
async fn a_write_that_was_lost_or_whose_answer_was_lost_is_made_once() {
    for fate in [Fate::Dropped, Fate::AnswerLost, Fate::Failed, Fate::Throttled, Fate::Conflicted] {
        for times in [1, usize::MAX] {
            let bench = Bench::start().await;
            bench.charge("alice", 1_000, "k").await;
            for (message, balance) in [(placed("alice", "o1", 300), 700), (failed("alice", "o1", 300), 1_000)] {
                bench.proxy.inject(Rule::on("TransactWriteItems").times(times), fate.clone());
                let outcome = use_order_points(&bench.points, message.clone()).await;
                assert!(!matches!(outcome, Err(Fault::Broken(_))), "{fate:?}: {outcome:?}");
                assert!(outcome.is_err() || times == 1, "{fate:?}");
                bench.proxy.heal();
                consume(&bench, &[&message]).await;
                assert_eq!(bench.balance("alice").await, balance, "{fate:?}");
            }
            assert_sound(&bench, "alice").await;
        }
    }
}

#[tokio::test]
async fn what_is_no_order_placed_or_failed_is_poison() {
    let bench = Bench::start().await;
    let completed = event_message("o1", EventBody::OrderCompleted(order("alice", "o1", 300)), NOW);
    for message in [completed, Message::new("m", "no event", NOW)] {
        assert!(matches!(use_order_points(&bench.points, message).await, Err(Fault::Broken(_))));
    }
    assert_eq!(bench.engine.items("points").await, []);
}

// ---------------------------------------------------------------- in whatever order

#[tokio::test]
async fn an_order_that_fails_before_it_is_consumed_never_costs_anything() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    let (placed, failed) = (placed("alice", "o1", 300), failed("alice", "o1", 300));
    consume(&bench, &[&failed, &placed, &failed, &placed]).await;
    assert_eq!(bench.balance("alice").await, 1_000);
    assert_eq!(work(&bench, "o1").await, Some(("undone".into(), 0)));
    assert_eq!(events(&bench).await, expected(&[("o1.points.returned", 0)]), "the failure is answered all the same");
    assert_eq!(ledger(&bench, "alice").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_crosses_its_order_leaves_nothing_used() {
    for is_failure_slow in [false, true] {
        let bench = Bench::start().await;
        bench.charge("alice", 1_000, "k").await;
        let (placed, failed) = (placed("alice", "o1", 300), failed("alice", "o1", 300));
        match is_failure_slow {
            true => crossed(&bench, failed, placed).await,
            false => crossed(&bench, placed, failed).await,
        }
        assert_eq!(bench.balance("alice").await, 1_000);
        assert_eq!(work(&bench, "o1").await.unwrap().0, "undone");
        let paid = [("o1.points.returned", 300), ("o1.points.used", 300)];
        let not_paid = [("o1.points.returned", 0)];
        assert_eq!(events(&bench).await, if is_failure_slow { expected(&paid) } else { expected(&not_paid) });
        assert_sound(&bench, "alice").await;
    }
}

#[tokio::test]
async fn an_order_beyond_the_balance_is_refused_for_good_and_its_failure_gives_nothing_back() {
    let bench = Bench::start().await;
    let (placed, failed) = (placed("alice", "o1", 300), failed("alice", "o1", 300));
    consume(&bench, &[&placed]).await;
    assert_eq!(events(&bench).await, expected(&[("o1.points.refused", 300)]), "also without an account");
    // The answer stays the same: the order may have failed of it already.
    bench.charge("alice", 1_000, "k").await;
    consume(&bench, &[&placed]).await;
    assert_eq!(work(&bench, "o1").await, Some(("refused".into(), 0)));
    consume(&bench, &[&failed, &failed, &placed]).await;
    assert_eq!(bench.balance("alice").await, 1_000);
    assert_eq!(work(&bench, "o1").await, Some(("undone".into(), 0)));
    assert_eq!(events(&bench).await, expected(&[("o1.points.refused", 300), ("o1.points.returned", 0)]));
    assert_sound(&bench, "alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_orders_at_once_with_points_for_one_the_other_is_refused() {
    let bench = Bench::start().await;
    bench.charge("alice", 500, "k").await;
    // Both have found nothing done for them before either is paid.
    crossed(&bench, placed("alice", "o1", 300), placed("alice", "o2", 300)).await;
    assert_eq!(events(&bench).await, expected(&[("o1.points.refused", 300), ("o2.points.used", 300)]));
    assert_eq!(bench.balance("alice").await, 200);
    assert_sound(&bench, "alice").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_and_charges_and_payments_at_once_never_overdraw_nor_lose_a_point() {
    let bench = Arc::new(Bench::start().await);
    bench.charge("alice", 1_000, "first").await;
    let mut work = JoinSet::new();
    for n in 0..20 {
        let of = Arc::clone(&bench);
        work.spawn(async move { use_order_points(&of.points, placed("alice", &format!("o{n}"), 150)).await.unwrap() });
        let of = Arc::clone(&bench);
        work.spawn(async move { of.charge("alice", 10, &format!("k{n}")).await });
        let of = Arc::clone(&bench);
        // With or without points left.
        work.spawn(
            async move { drop(use_points(&of.points, step(saga_of("alice", &format!("p{n}"), 50), NOW)).await) },
        );
    }
    work.join_all().await;
    assert_sound(&bench, "alice").await;
    let paid = events(&bench).await.iter().filter(|(id, _)| id.ends_with(".used")).count();
    let entries = ledger(&bench, "alice").await;
    assert_eq!(entries.iter().filter(|entry| entry.movement.reference.starts_with('o')).count(), paid);
    assert_eq!(entries.iter().filter(|entry| entry.movement.kind == Kind::Charge).count(), 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_consumed_at_once_the_ledger_adds_up_and_a_failed_order_costs_nothing() {
    for seed in 1..=4 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = Arc::new(Bench::start().await);
        bench.charge("alice", 1_000, "k").await;
        let mut failures = BTreeSet::new();
        let mut work = JoinSet::new();
        for _ in 0..80 {
            // Few orders, so that everything is repeated and meets its opposite, and some find no points left.
            let id = format!("o{}", random.u32(..12));
            let message = match random.u8(..3) {
                0 => failed("alice", &id, 200),
                _ => placed("alice", &id, 200),
            };
            if message.body.contains("order.failed") {
                failures.insert(id);
            }
            let bench = Arc::clone(&bench);
            work.spawn(async move { use_order_points(&bench.points, message).await.unwrap() });
        }
        work.join_all().await;
        assert_sound(&bench, "alice").await;
        let events: BTreeSet<String> = events(&bench).await.into_iter().map(|(id, _)| id).collect();
        let entries = ledger(&bench, "alice").await;
        for id in (0..12).map(|n| format!("o{n}")) {
            let of_order = entries.iter().filter(|entry| entry.movement.reference == id);
            let is_paid = events.contains(&format!("{id}.points.used")) && !failures.contains(&id);
            assert_eq!(of_order.map(signed).sum::<i64>(), if is_paid { -200 } else { 0 }, "seed {seed}: {id}");
            assert_eq!(events.contains(&format!("{id}.points.returned")), failures.contains(&id), "seed {seed}: {id}");
        }
    }
}

#[tokio::test]
async fn who_meets_an_orders_transaction_tries_again() {
    let bench = Bench::start().await;
    for times in 1..=3 {
        bench.proxy.inject(Rule::on("UpdateItem").times(times), Fate::Conflicted);
        bench.charge("alice", 100, &format!("k{times}")).await;
        bench.proxy.heal();
    }
    bench.proxy.inject(Rule::on("UpdateItem").once(), Fate::Conflicted);
    use_points(&bench.points, step(saga_of("alice", "p1", 50), NOW)).await.unwrap();
    assert_eq!(bench.balance("alice").await, 250);
    assert_sound(&bench, "alice").await;
}

// ---------------------------------------------------------------- beside

#[tokio::test]
async fn an_order_costs_as_many_write_units_as_the_readme_says() {
    let bench = Bench::start().await;
    bench.charge("alice", 1_000, "k").await;
    bench.proxy.measure();
    let (paid, back) = (placed("alice", "o1", 300), failed("alice", "o1", 300));
    let (beyond, tombstone) = (placed("alice", "o2", 3_000), failed("alice", "o3", 300));
    for (message, written) in [(paid, 7.0), (back, 7.0), (beyond, 5.0), (tombstone, 5.0)] {
        bench.proxy.forget();
        consume(&bench, &[&message]).await;
        let units = bench.proxy.units();
        assert!((units["TransactWriteItems"] - written).abs() < 0.1, "{units:?}");
    }
}

#[tokio::test]
async fn orders_keep_an_account_small() {
    let bench = Bench::start().await;
    let old = i64::try_from(HOT_ENTRIES).unwrap() + 4;
    for n in 0..old {
        consume(&bench, &[&placed("alice", &format!("o{n}"), 0)]).await;
    }
    let hot = async || bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap().int("hot").unwrap();
    assert_eq!(hot().await, old, "what is recent stays");
    let next = EventBody::OrderPlaced(order("alice", "next", 0));
    consume(&bench, &[&event_message("next", next, NOW.plus_millis(SETTLED_MILLIS + 1))]).await;
    assert_eq!(hot().await, KEPT_ENTRIES as i64);
    consume(&bench, &[&later(&failed("alice", "o0", 0), SETTLED_MILLIS + 1)]).await;
    assert_eq!(ledger(&bench, "alice").await.len() as i64, old + 2, "and is given back although it is archived");
    assert_sound(&bench, "alice").await;
    // What cannot be archived now is archived later.
    bench.proxy.inject(Rule::on("GetItem").after(1), Fate::Failed);
    consume(&bench, &[&placed("bob", "o-bob", 0)]).await;
    assert_eq!(work(&bench, "o-bob").await, Some(("done".into(), 0)));
}

#[tokio::test]
async fn an_order_older_than_what_is_known_of_orders_costs_nothing() {
    let bench = Bench::start().await;
    bench.charge("alice", 300, "k").await;
    consume(&bench, &[&later(&placed("alice", "o1", 300), ACTED_ON_MILLIS + 1)]).await;
    assert_eq!((bench.balance("alice").await, work(&bench, "o1").await), (300, None));
    consume(&bench, &[&later(&placed("alice", "o2", 300), ACTED_ON_MILLIS)]).await;
    assert_eq!(bench.balance("alice").await, 0);
}

#[tokio::test]
async fn an_order_published_again_is_answered_again_by_the_sweep_and_once() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let relay = relay(&bench, &bus);
    bench.charge("alice", 300, "k").await;
    let messages = [
        (placed("alice", "o1", 300), "o1.points.used"),
        (placed("alice", "o2", 300), "o2.points.refused"),
        (failed("alice", "o1", 300), "o1.points.returned"),
    ];
    let mut expected = Vec::new();
    for (message, answer) in &messages {
        let seen = bench.engine.changes("points").len();
        consume(&bench, &[message]).await;
        relay.relay(bench.engine.changes("points").split_off(seen), NOW).await.unwrap();
        for _ in 0..3 {
            consume(&bench, &[message]).await;
        }
        assert_eq!(relay.sweep(NOW.plus_seconds(61)).await.unwrap(), 1);
        expected.extend([*answer, *answer]);
        assert_eq!(bus.ids(), expected);
    }
    // A failed order is not answered as placed any more.
    consume(&bench, &[&messages[0].0]).await;
    assert_eq!(relay.sweep(NOW.plus_seconds(200)).await.unwrap(), 0);
}
