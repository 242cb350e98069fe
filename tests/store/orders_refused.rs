//! What a buyer is told instead of an order, before anything is written: what is sold out, what costs something else than
//! they saw, what they have too many of; and what an order that failed later says it failed of.

use crate::bench::{Bench, key, memo};
use crate::items::{item_id, put_on_sale, receive, shop};
use crate::orders::{
    MOST_PENDING, Published, Quotes, Unreachable, alice, asking, body, carts, deliver_answer, deps, desk, events,
    open_shop, order, place, placed, put, refused, status, sweep, wanted,
};
use ::items::domain::Label;
use ::items::ports::{ChangeItem, WithdrawItem};
use ::orders::domain::Order;
use ::orders::dynamo::Orders;
use ::orders::handlers::{CartDeps, PlaceDeps, get_cart, get_order, list_orders, place_order};
use ::orders::ports::{BalanceClient, OpenOrder};
use ::points::handlers::quote_balance;
use contracts::steps::{BalanceQuote, QuoteBalance};
use contracts::{OrderId, Timestamp};
use kit::dynamo::s;
use kit::idempotency::Outcome;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::{Value, json};
use std::sync::Arc;
use tests::fixture::{NOW, step};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

async fn seen(bench: &Bench, id: &str) -> Value {
    body(get_order(&deps(bench), alice().path("order_id", id).call()).await)
}

// -------------------------------------------------------------------------------------------------- what failed

#[tokio::test]
async fn a_failed_order_names_the_items_that_were_the_reason_and_only_those() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let lines = [("mug", 1), ("poster", 1)];
    let (stock_first, points_first) = (placed(&bench, &lines, "k1").await, placed(&bench, &lines, "k2").await);
    for answer in [Published::OutOfStock, Published::Short, Published::OutOfStock] {
        deliver_answer(&bench, &stock_first, answer).await;
    }
    for answer in [Published::Short, Published::OutOfStock] {
        deliver_answer(&bench, &points_first, answer).await;
    }
    let order = seen(&bench, &stock_first).await;
    assert_eq!((&order["failure"], &order["items"]), (&json!("out_of_stock"), &json!(["poster"])));
    let other = seen(&bench, &points_first).await;
    assert_eq!((&other["failure"], other.get("items")), (&json!("insufficient_points"), None));
    let listed = body(list_orders(&deps(&bench), alice().call()).await);
    assert!(listed["items"].as_array().unwrap().contains(&order), "{listed}");
}

#[tokio::test]
async fn a_refusal_that_was_noted_and_then_lost_still_names_its_items() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    bench.proxy.inject(Rule::on("TransactWriteItems").times(3), Fate::Dropped);
    let lost = ::orders::handlers::track_order(&desk(&bench), Published::OutOfStock.to(&id)).await;
    assert!(lost.is_err());
    bench.proxy.heal();
    deliver_answer(&bench, &id, Published::Cleared).await;
    assert_eq!(seen(&bench, &id).await["items"], json!(["poster"]));
}

// ------------------------------------------------------------------------------------------------- the price seen

async fn place_at(bench: &Bench, lines: Value, key: &str) -> Result<Reply, Problem> {
    place_order(&asking(bench), alice().key(key).json(json!({ "lines": lines })).call()).await
}

#[tokio::test]
async fn an_order_at_a_price_that_is_not_todays_is_refused_with_todays_and_nothing_is_written() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    shop(&bench).relabel(&item_id("poster"), &Label::new("poster", 1_200).unwrap()).await.unwrap().unwrap();
    let line = |item: &str, seen: i64| json!({"item_id": item, "quantity": 2, "price_seen": seen});
    for wrong in [1_000, 1_201, 0] {
        let changed = place_at(&bench, json!([line("mug", 1_000), line("poster", wrong)]), "k").await.unwrap_err();
        assert_eq!((changed.status.as_u16(), changed.code), (409, "price_changed"));
        assert_eq!(changed.members["lines"], json!([{"item_id": "poster", "price_seen": wrong, "price": 1_200}]));
        assert!(bench.engine.items("orders").await.is_empty());
    }
    for bad in [-1, i64::MAX] {
        assert_eq!(refused(place_at(&bench, json!([line("poster", bad)]), "k").await), (400, "invalid_request"));
    }
    let order = body(place_at(&bench, json!([line("mug", 1_000), line("poster", 1_200)]), "k").await);
    assert_eq!(order["total_price"], 4_400, "the key was free");
}

#[tokio::test]
async fn the_price_in_the_request_counts_and_not_the_one_in_the_cart() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    put(&bench, "poster", 1, NOW).await;
    shop(&bench).relabel(&item_id("poster"), &Label::new("poster", 1_200).unwrap()).await.unwrap().unwrap();
    let line = |seen: Value| json!([{"item_id": "poster", "quantity": 1, "price_seen": seen}]);
    let changed = place_at(&bench, line(Value::Null), "k").await.unwrap_err();
    assert_eq!(changed.members["lines"], json!([{"item_id": "poster", "price_in_cart": 1_000, "price": 1_200}]));
    assert_eq!(body(place_at(&bench, line(json!(1_200)), "k").await)["total_price"], 1_200);
}

// ------------------------------------------------------------------------------------------------------- sold out

#[tokio::test]
async fn what_is_sold_out_is_answered_as_such_before_an_order_is_written() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    put_on_sale(&bench, "shirt", 0).await;
    let sold_out = place(&bench, &[("poster", 1), ("shirt", 1)], "k", NOW).await.unwrap_err();
    assert_eq!((sold_out.status.as_u16(), sold_out.code), (409, "out_of_stock"));
    assert_eq!(sold_out.members["items"], json!(["shirt"]));
    assert!(bench.engine.items("orders").await.is_empty());
    receive(&bench, "shirt", 1, "delivery").await.unwrap();
    placed(&bench, &[("poster", 1), ("shirt", 1)], "k").await;
    // What is left is less than ordered: that is the stock's to decide, whose count may move until then.
    placed(&bench, &[("shirt", 2)], "other").await;
}

// -------------------------------------------------------------------------------------------------- pending orders

const MOST: usize = MOST_PENDING as usize;

async fn full(bench: &Bench) -> Vec<String> {
    let mut ids = Vec::new();
    for n in 0..MOST {
        ids.push(placed(bench, &[("poster", 1)], &format!("k{n}")).await);
    }
    ids
}

async fn one_more(bench: &Bench) -> Result<Reply, Problem> {
    place(bench, &[("poster", 1)], "more", NOW).await
}

#[tokio::test]
async fn a_user_has_so_many_pending_orders_and_the_end_of_one_makes_room_for_one() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let ids = full(&bench).await;
    let before = events(&bench).await.len();
    assert_eq!(refused(one_more(&bench).await), (409, "too_many_pending_orders"));
    assert_eq!(events(&bench).await.len(), before, "nothing was written");
    assert_eq!(placed(&bench, &[("poster", 1)], "k0").await, ids[0], "what was accepted is answered as before");
    let bob = alice().user("bob").key("k").json(wanted(&[("poster", 1)]));
    assert_eq!(place_order(&asking(&bench), bob.call()).await.unwrap().status.as_u16(), 202, "it is each user's own");
    // However an order ends, and however often that is delivered, it makes room for one.
    let ends: [&[Published]; 2] =
        [&[Published::Deducted, Published::Used, Published::Cleared, Published::Cleared], &[Published::Short; 2]];
    for (n, answers) in ends.into_iter().enumerate() {
        for answer in answers {
            deliver_answer(&bench, &ids[n], *answer).await;
        }
        assert_eq!(one_more(&bench).await.unwrap().status.as_u16(), 202);
        let again = place(&bench, &[("poster", 1)], "yet-another", NOW).await;
        assert_eq!(refused(again), (409, "too_many_pending_orders"));
        let more = placed(&bench, &[("poster", 1)], "more").await;
        let table = bench.engine.table("orders");
        let key = [("pk", s("USER#alice")), ("sk", s("IDEM#more"))].map(|(name, value)| (name.to_owned(), value));
        table.client.delete_item().table_name(&table.name).set_key(Some(key.into())).send().await.unwrap();
        assert_eq!(status(&bench, &more).await, "pending");
    }
}

#[tokio::test]
async fn orders_that_nobody_answers_make_room_at_their_deadline() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let ids = full(&bench).await;
    let deadline: Timestamp = NOW.plus_seconds(crate::orders::DEADLINE_SECONDS);
    sweep(&bench, deadline).await.unwrap();
    sweep(&bench, deadline).await.unwrap();
    assert_eq!(status(&bench, &ids[0]).await, "timed_out");
    for n in 0..MOST {
        placed(&bench, &[("poster", 1)], &format!("again{n}")).await;
    }
    assert_eq!(refused(one_more(&bench).await), (409, "too_many_pending_orders"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_orders_at_once_as_many_are_placed_as_may_be_pending() {
    let bench = Arc::new(Bench::start().await);
    open_shop(&bench).await;
    let mut asks = JoinSet::new();
    for n in 0..MOST + 10 {
        let bench = Arc::clone(&bench);
        asks.spawn(async move {
            loop {
                match place(&bench, &[("poster", 1)], &format!("k{n}"), NOW).await {
                    Err(problem) if problem.code == "contended" => {}
                    outcome => return outcome.map(|reply| reply.status.as_u16()).map_err(|problem| problem.code),
                }
            }
        });
    }
    let answers = asks.join_all().await;
    let of = |wanted: Result<u16, &str>| answers.iter().filter(|answer| **answer == wanted).count();
    assert_eq!((of(Ok(202)), of(Err("too_many_pending_orders"))), (MOST, 10), "{answers:?}");
}

#[tokio::test]
async fn an_order_that_the_release_before_ended_makes_room_when_there_is_none() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let ids = full(&bench).await;
    let table = bench.engine.table("orders");
    for id in &ids[..2] {
        let mut row = bench.engine.item("orders", "USER#alice", &format!("ORDER#{id}")).await.unwrap();
        row.insert("status".to_owned(), s("completed"));
        table.client.put_item().table_name(&table.name).set_item(Some(row)).send().await.unwrap();
    }
    for n in 0..2 {
        placed(&bench, &[("poster", 1)], &format!("more{n}")).await;
    }
    assert_eq!(refused(one_more(&bench).await), (409, "too_many_pending_orders"));
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_takes_the_last_place_once() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    for n in 1..MOST {
        placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
    }
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    let id = placed(&bench, &[("poster", 1)], "k").await;
    assert_eq!(placed(&bench, &[("poster", 1)], "k").await, id);
    assert_eq!(refused(one_more(&bench).await), (409, "too_many_pending_orders"));
}

#[tokio::test]
async fn the_same_request_at_once_is_no_order_too_many() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let first = order(&bench, &placed(&bench, &[("poster", 1)], "k0").await).await;
    let memo = memo(key("k", json!({})));
    let mut answers = Vec::new();
    for id in ["o1", "o2"] {
        let order = Order { id: OrderId::parse(id).unwrap(), ..first.clone() };
        answers.push(desk(&bench).open_order(&order, &memo, 2).await.unwrap());
        // The key's row is not evaluated, and there is no place: that means nothing yet.
        bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::Masked("IDEM#k"));
    }
    assert!(matches!(answers[..], [Ok(Outcome::First), Ok(Outcome::Replay(_))]), "{answers:?}");
}

// ------------------------------------------------------------------------------------------------ without points

/// Balances as points has them, or nobody who says so.
struct Balances(Option<::points::dynamo::Accounts>);

impl BalanceClient for Balances {
    async fn balance(&self, ask: &QuoteBalance) -> Result<BalanceQuote, Fault> {
        let Some(accounts) = &self.0 else { return Err(Fault::unavailable("asking what a user can pay", "down")) };
        quote_balance(accounts, step(ask.clone(), NOW)).await.map_err(|error| match error {
            StepError::Fault(fault) => fault,
            StepError::Refused(_) => panic!("a balance is never refused"),
        })
    }
}

fn paying(bench: &Bench, accounts: Option<::points::dynamo::Accounts>) -> PlaceDeps<Orders, Quotes, Balances> {
    let PlaceDeps { store, items, most_pending, users, .. } = asking(bench);
    PlaceDeps { store, items, points: Balances(accounts), most_pending, users }
}

#[tokio::test]
async fn who_cannot_pay_is_told_before_anything_is_written_and_who_can_may_order() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let deps = paying(&bench, Some(bench.points.clone()));
    let order = async || place_order(&deps, alice().key("k").json(wanted(&[("poster", 2)])).call()).await;
    assert_eq!(refused(order().await), (409, "insufficient_points"));
    bench.charge("alice", 1_999, "c1").await;
    assert_eq!(refused(order().await), (409, "insufficient_points"));
    assert!(bench.engine.items("orders").await.is_empty());
    bench.charge("alice", 1, "c2").await;
    assert_eq!(order().await.unwrap().status.as_u16(), 202, "the key was free");
}

#[tokio::test]
async fn an_order_is_placed_if_points_does_not_say_what_its_user_has() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let order = place_order(&paying(&bench, None), alice().key("k").json(wanted(&[("poster", 2)])).call()).await;
    assert_eq!(order.unwrap().status.as_u16(), 202);
}

// -------------------------------------------------------------------------------------------------------- the cart

#[tokio::test]
async fn a_cart_tells_which_of_its_items_are_not_sold_any_more() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    for item in ["mug", "poster"] {
        put(&bench, item, 1, NOW).await;
    }
    let lines = async || body(get_cart(&carts(&bench), alice().call()).await)["lines"].clone();
    let line = |item: &str| json!({"item_id": item, "name": item, "price": 1_000, "quantity": 1});
    assert_eq!(lines().await, json!([line("mug"), line("poster")]));
    shop(&bench).withdraw(&item_id("mug"), NOW).await.unwrap();
    let mut withdrawn = line("mug");
    withdrawn["withdrawn"] = json!(true);
    assert_eq!(lines().await, json!([withdrawn, line("poster")]));
    // Without items it is shown as it is.
    let CartDeps { store, users, .. } = carts(&bench);
    let alone = CartDeps { store, items: Unreachable, users };
    assert_eq!(body(get_cart(&alone, alice().call()).await)["lines"], json!([line("mug"), line("poster")]));
}

#[tokio::test]
async fn an_order_of_more_than_a_user_may_have_is_refused_with_its_items() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let label = Label::new("poster", 1_000).unwrap().limited(Some(2)).unwrap();
    shop(&bench).relabel(&item_id("poster"), &label).await.unwrap().unwrap();
    let over = place(&bench, &[("mug", 3), ("poster", 3)], "k", NOW).await.unwrap_err();
    assert_eq!((over.status.as_u16(), over.code), (409, "item_limit_exceeded"));
    assert_eq!(over.members["items"], json!(["poster"]));
    assert!(bench.engine.items("orders").await.is_empty());
    placed(&bench, &[("mug", 3), ("poster", 2)], "k").await;
}
