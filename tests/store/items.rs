//! Merchandise and its stock: nothing is sold twice, nothing is lost, whatever is redelivered, late or crossed.

use crate::bench::Bench;
use ::items::domain::{Item, Label, Stock};
use ::items::dynamo::Items;
use ::items::handlers::quote_items;
use ::items::handlers::{
    Deps, change_item, create_item, deduct_stock, get_item, list_items, pause_item, receive_stock, withdraw_item,
};
use ::items::ports::{AddItem, WithdrawItem};
use contracts::ItemId;
use contracts::choreography::ACTED_ON_MILLIS;
use contracts::events::{Event, EventBody, OrderEvent, OrderFailed, StockEvent, StockRefused, schema_of};
use contracts::orders::{OrderFailure, OrderLine, Pieces, Quantity};
use contracts::steps::QuoteItems;
use kit::dynamo::{Item as Row, Read};
use kit::outbox::{self, Relay};
use kit::queue::Message;
use kit::stream::Record;
use kit::{Fault, Problem, Reply};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tests::bus::{BUS, Bus};
use tests::calls::{Ask, users};
use tests::fixture::{NOW, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

/// The items behind the proxy.
pub fn shop(bench: &Bench) -> Items {
    Items::new(bench.proxy.table("items"))
}

/// An item's id.
pub fn item_id(name: &str) -> ItemId {
    ItemId::parse(name).unwrap()
}

/// Puts units of an item on sale.
pub async fn put_on_sale(bench: &Bench, id: &str, stock: i64) {
    let (label, stock) = (Label::new(id, 1_000).unwrap(), Stock::new(stock).unwrap());
    let item = Item { id: item_id(id), label, stock, is_paused: false, created_at: NOW };
    shop(bench).add_item(&item, None, NOW).await.unwrap();
}

/// The counts of an item, as the table has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shelf {
    pub stock: i64,
    pub sold: i64,
    pub received: i64,
}

/// The counts of an item. Whatever happens: no unit appears from nothing, none is lost.
pub async fn shelf(bench: &Bench, id: &str) -> Shelf {
    let row = bench.engine.item("items", &format!("ITEM#{id}"), "ITEM").await.unwrap();
    let of = |name| row.int(name).unwrap();
    let shelf = Shelf { stock: of("stock"), sold: of("sold"), received: of("received") };
    assert_eq!(shelf.received, shelf.stock + shelf.sold, "{shelf:?}");
    shelf
}

pub async fn left_and_sold(bench: &Bench, id: &str) -> (i64, i64) {
    let shelf = shelf(bench, id).await;
    (shelf.stock, shelf.sold)
}

pub fn order(id: &str, lines: &[(&str, i64)]) -> OrderEvent {
    let lines = lines.iter().map(|(item, pieces)| OrderLine {
        item_id: item_id(item),
        name: (*item).to_owned(),
        price: won(1_000),
        quantity: Quantity::new(*pieces).unwrap(),
    });
    let (order_id, user_id) = (contracts::OrderId::parse(id).unwrap(), user("alice"));
    OrderEvent { order_id, user_id, lines: lines.collect(), total_price: won(1_000) }
}

pub fn message(id: &str, body: EventBody) -> Message {
    let event = outbox::event("encore/orders", id, &format!("request-of-{id}"), body, NOW).unwrap();
    Message::new(id, json!({ "detail": event }).to_string(), NOW)
}

/// The message that an order was placed.
pub fn placed(id: &str, lines: &[(&str, i64)]) -> Message {
    message(id, EventBody::OrderPlaced(order(id, lines)))
}

/// The message that it failed.
pub fn failed(id: &str, lines: &[(&str, i64)]) -> Message {
    message(
        id,
        EventBody::OrderFailed(OrderFailed { order: order(id, lines), reason: OrderFailure::TimedOut, actor: None }),
    )
}

/// Delivers a message for as long as it meets other writers, as its queue does.
pub async fn deliver(store: &Items, message: Message) {
    for _ in 0..50 {
        match deduct_stock(store, message.clone()).await {
            Ok(()) => return,
            Err(Fault::Contended(_)) => {}
            Err(fault) => panic!("{}", fault.chain()),
        }
    }
    panic!("it never gets through");
}

#[tokio::test]
async fn an_order_older_than_what_is_known_of_orders_takes_nothing() {
    let bench = Bench::start().await;
    let store = Items::new(bench.proxy.table("items"));
    let message = placed("o1", &[("poster", 1)]);
    let late = Message::new(&message.id, message.body.clone(), message.now.plus_millis(ACTED_ON_MILLIS + 1));
    deduct_stock(&store, late).await.unwrap();
    assert!(bench.engine.items("items").await.is_empty(), "not even a word of it");
}

/// The answers in the outbox, by the event's id; each fits its schema.
async fn answers(bench: &Bench) -> BTreeMap<String, Event> {
    let rows = bench.engine.items("items").await;
    let events = rows.iter().filter(|row| row.contains_key("event")).map(|row| row.document("event").unwrap());
    let checked = |event: Event| {
        let schema: Value = serde_json::from_str(schema_of(event.body.event_type()).unwrap()).unwrap();
        let json = serde_json::to_value(&event).unwrap();
        jsonschema::draft202012::options().build(&schema).unwrap().validate(&json).unwrap();
        assert_eq!(
            (event.source.as_str(), event.correlationid),
            ("encore/items", format!("request-of-{}", event.subject))
        );
        (event.id.to_string(), serde_json::from_value(json).unwrap())
    };
    events.map(checked).collect()
}

pub async fn answer_ids(bench: &Bench) -> Vec<String> {
    answers(bench).await.into_keys().collect()
}

async fn answer(bench: &Bench, id: &str) -> EventBody {
    answers(bench).await.remove(id).unwrap_or_else(|| panic!("{id} was not said")).body
}

fn pieces(lines: &[(&str, i64)]) -> Vec<Pieces> {
    lines.iter().map(|(item, n)| Pieces { item_id: item_id(item), quantity: Quantity::new(*n).unwrap() }).collect()
}

fn stock_event(id: &str, lines: &[(&str, i64)]) -> StockEvent {
    let (order_id, user_id) = (contracts::OrderId::parse(id).unwrap(), user("alice"));
    StockEvent { order_id, user_id, pieces: pieces(lines) }
}

pub async fn refusal(bench: &Bench, id: &str) -> StockRefused {
    match answer(bench, &format!("{id}.stock.refused")).await {
        EventBody::StockRefused(refused) => refused,
        other => panic!("{other:?}"),
    }
}

async fn outbox_row(bench: &Bench, id: &str) -> Row {
    bench.engine.item("items", &format!("OUTBOX#{id}"), "OUTBOX").await.unwrap()
}

fn relay(bench: &Bench, bus: &Bus) -> Relay {
    Relay::new("items", bench.engine.table("items"), outbox::Bus::new(bus.client(), BUS.to_owned()))
}

/// Publishes what is in the outbox; the row of one event after it.
pub async fn published(bench: &Bench, id: &str) -> Row {
    let bus = Bus::start().await;
    let new: Vec<Record> = bench.engine.changes("items");
    relay(bench, &bus).relay(new, NOW).await.unwrap();
    let row = outbox_row(bench, id).await;
    assert_eq!(row.text("publish_state").unwrap(), "published");
    row
}

// ---------------------------------------------------------------------------------------------------- catalogue

fn deps(bench: &Bench) -> Deps<Items> {
    Deps { store: shop(bench), users: users() }
}

pub fn operator() -> Ask {
    Ask::at(NOW).operator("boss")
}

pub async fn create(bench: &Bench, ask: Ask, body: Value) -> Result<Reply, Problem> {
    create_item(&deps(bench), ask.json(body).call()).await
}

async fn created(bench: &Bench, name: &str, n: i64) -> String {
    let ask = Ask::at(NOW.plus_millis(n)).operator("boss");
    let reply = create(bench, ask, json!({"name": name, "price": n, "stock": n})).await.unwrap();
    reply.body.unwrap()["item_id"].as_str().unwrap().to_owned()
}

pub async fn seen(bench: &Bench, id: &str) -> Result<Value, Problem> {
    let reply = get_item(&shop(bench), Ask::at(NOW).path("item_id", id).call()).await?;
    Ok(reply.body.unwrap())
}

pub async fn change(bench: &Bench, id: &str, body: Value) -> Result<Reply, Problem> {
    change_item(&deps(bench), operator().path("item_id", id).json(body).call()).await
}

pub async fn receive(bench: &Bench, id: &str, units: i64, key: &str) -> Result<Reply, Problem> {
    let ask = operator().key(key).path("item_id", id).json(json!({ "received": units }));
    receive_stock(&deps(bench), ask.call()).await
}

async fn withdraw(bench: &Bench, id: &str) -> Result<Reply, Problem> {
    withdraw_item(&deps(bench), operator().path("item_id", id).call()).await
}

async fn quoted(bench: &Bench, ids: &[&str]) -> Vec<(String, i64)> {
    let ask = QuoteItems { items: ids.iter().map(|id| item_id(id)).collect() };
    let quote = quote_items(&shop(bench), step(ask, NOW)).await.unwrap();
    let mut items: Vec<_> = quote.items.into_iter().map(|item| (item.name, item.price.get())).collect();
    items.sort();
    items
}

pub fn refused(outcome: Result<Reply, Problem>) -> (u16, &'static str) {
    let problem = outcome.unwrap_err();
    (problem.status.as_u16(), problem.code)
}

#[tokio::test]
async fn a_created_item_is_sold_at_once_and_listed_newest_first() {
    let bench = Bench::start().await;
    let body = json!({"name": "  Poster ", "price": 15_000, "stock": 3});
    let reply = create(&bench, operator(), body).await.unwrap();
    let item = reply.body.unwrap();
    let id = item["item_id"].as_str().unwrap();
    assert_eq!((reply.status.as_u16(), reply.location), (201, Some(format!("/items/{id}"))));
    assert_eq!(item, json!({"item_id": id, "name": "Poster", "price": 15_000, "stock": 3, "paused": false}));
    assert_eq!(seen(&bench, id).await.unwrap(), item);
    assert_eq!(quoted(&bench, &[id]).await, [("Poster".to_owned(), 15_000)]);

    let mut expected = vec![id.to_owned()];
    for n in 1..5 {
        expected.insert(0, created(&bench, "Shirt", n).await);
    }
    let (mut listed, mut ask) = (Vec::new(), Ask::at(NOW).query("limit", "2"));
    loop {
        bench.proxy.forget();
        let page = list_items(&shop(&bench), ask.clone().call()).await.unwrap().body.unwrap();
        assert_eq!(bench.proxy.actions(), ["Query", "BatchGetItem"]);
        listed
            .extend(page["items"].as_array().unwrap().iter().map(|item| item["item_id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        ask = ask.query("cursor", next);
    }
    assert_eq!(listed, expected);
    let wrong = Ask::at(NOW).query("cursor", &kit::http::Cursor::seal("a#b")).call();
    assert_eq!(list_items(&shop(&bench), wrong).await.unwrap_err().code, "invalid_request");
}

#[tokio::test]
async fn an_empty_shop_is_an_empty_list() {
    let bench = Bench::start().await;
    let reply = list_items(&shop(&bench), Ask::at(NOW).call()).await.unwrap();
    assert_eq!(reply.body.unwrap(), json!({"items": []}));
    assert_eq!(quoted(&bench, &[]).await, []);
}

#[tokio::test]
async fn an_item_is_created_once_under_its_key_and_answered_alike() {
    let bench = Bench::start().await;
    let (body, keyed) = (json!({"name": "Poster", "price": 1}), || operator().key("k"));
    let first = create(&bench, keyed(), body.clone()).await.unwrap();
    assert_eq!(first.body.as_ref().unwrap()["stock"], 0, "nothing is on sale until it is said");
    let mut again = JoinSet::new();
    let deps = Arc::new(deps(&bench));
    for _ in 0..10 {
        let (deps, call) = (Arc::clone(&deps), keyed().json(body.clone()).call());
        again.spawn(async move { create_item(&deps, call).await.unwrap() });
    }
    for reply in again.join_all().await {
        assert_eq!((reply.status, &reply.body, &reply.location), (first.status, &first.body, &first.location));
    }
    assert_eq!(
        refused(create(&bench, keyed(), json!({"name": "Poster", "price": 2})).await),
        (422, "idempotency_key_reused")
    );
    let listed = list_items(&shop(&bench), Ask::at(NOW).call()).await.unwrap().body.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_item_whose_answer_got_lost_is_created_once() {
    for ask in [operator(), operator().key("k")] {
        let bench = Bench::start().await;
        bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
        let reply = create(&bench, ask, json!({"name": "Poster", "price": 1, "stock": 2})).await.unwrap();
        let item = reply.body.unwrap();
        let listed = list_items(&shop(&bench), Ask::at(NOW).call()).await.unwrap().body.unwrap();
        assert_eq!(listed, json!({ "items": [item] }));
    }
}

#[tokio::test]
async fn only_operators_touch_items_and_only_sane_values_are_taken() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    let deps = deps(&bench);
    let asks = [(Ask::at(NOW), (401, "unauthorized")), (Ask::at(NOW).user("fan"), (403, "forbidden"))];
    for (ask, expected) in asks {
        let call = || ask.clone().path("item_id", "poster").json(json!({})).call();
        assert_eq!(refused(create_item(&deps, call()).await), expected);
        assert_eq!(refused(change_item(&deps, call()).await), expected);
        assert_eq!(refused(receive_stock(&deps, call()).await), expected);
        assert_eq!(refused(withdraw_item(&deps, call()).await), expected);
    }
    for bad in [
        json!({"name": "", "price": 1}),
        json!({"name": "x".repeat(201), "price": 1}),
        json!({"name": "Poster", "price": -1}),
        json!({"name": "Poster", "price": 1_000_000_001}),
        json!({"name": "Poster", "price": 1.5}),
        json!({"name": "Poster"}),
    ] {
        assert_eq!(refused(create(&bench, operator(), bad.clone()).await), (400, "invalid_request"), "{bad}");
        assert_eq!(refused(change(&bench, "poster", bad.clone()).await), (400, "invalid_request"), "{bad}");
    }
    for bad in [-1, 1_000_000_001] {
        let body = json!({"name": "Poster", "price": 1, "stock": bad});
        assert_eq!(refused(create(&bench, operator(), body).await), (400, "invalid_request"));
    }
    for bad in [0, 1_000_000_001, -1_000_000_001] {
        assert_eq!(refused(receive(&bench, "poster", bad, "k").await), (400, "invalid_request"));
    }
    assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
}

#[tokio::test]
async fn a_changed_item_is_quoted_as_it_is_now() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    put_on_sale(&bench, "shirt", 5).await;
    let reply = change(&bench, "poster", json!({"name": "Signed poster", "price": 2_000})).await.unwrap();
    let expected = json!({"item_id": "poster", "name": "Signed poster", "price": 2_000, "stock": 5, "paused": false});
    assert_eq!((reply.status.as_u16(), reply.body.unwrap()), (200, expected.clone()));
    assert_eq!(seen(&bench, "poster").await.unwrap(), expected);
    bench.proxy.forget();
    let quote = quoted(&bench, &["poster", "shirt", "none", "poster"]).await;
    assert_eq!(quote, [("Signed poster".to_owned(), 2_000), ("shirt".to_owned(), 1_000)], "each once, the unknown not");
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"]);
}

#[tokio::test]
async fn a_paused_item_is_seen_and_said_to_be_paused_until_it_is_resumed() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    let pause = async |id: &str, paused: bool| {
        let ask = operator().path("item_id", id).json(json!({ "paused": paused }));
        pause_item(&deps(&bench), ask.call()).await
    };
    for paused in [true, true, false] {
        assert_eq!(pause("poster", paused).await.unwrap().body.unwrap()["paused"], paused);
        assert_eq!(seen(&bench, "poster").await.unwrap()["paused"], paused);
        let ask = QuoteItems { items: vec![item_id("poster")] };
        let quote = quote_items(&shop(&bench), step(ask, NOW)).await.unwrap();
        assert_eq!(quote.items[0].paused, paused);
    }
    // What was ordered before is taken.
    pause("poster", true).await.unwrap();
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (3, 2));
    assert_eq!(refused(pause("none", true).await), (404, "not_found"));
    assert_eq!(
        refused(pause_item(&deps(&bench), Ask::at(NOW).user("fan").path("item_id", "poster").call()).await),
        (403, "forbidden")
    );
}

#[tokio::test]
async fn a_withdrawn_item_is_seen_ordered_and_changed_by_nobody() {
    let bench = Bench::start().await;
    for id in ["poster", "shirt"] {
        put_on_sale(&bench, id, 5).await;
    }
    for _ in 0..2 {
        assert_eq!(withdraw(&bench, "poster").await.unwrap().status.as_u16(), 204);
    }
    let gone = (404, "not_found");
    for id in ["poster", "none", "a#b"] {
        assert_eq!(seen(&bench, id).await.unwrap_err().code, "not_found");
        assert_eq!(refused(change(&bench, id, json!({"name": "Poster", "price": 1})).await), gone);
        assert_eq!(refused(receive(&bench, id, 9, "k").await), gone);
    }
    assert_eq!(refused(withdraw(&bench, "none").await), gone);
    assert_eq!(quoted(&bench, &["poster", "shirt"]).await, [("shirt".to_owned(), 1_000)]);
    let listed = list_items(&shop(&bench), Ask::at(NOW).call()).await.unwrap().body.unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1);
    assert_eq!(bench.engine.items("items").await.len(), 3, "what never was is not made");
}

// ---------------------------------------------------------------------------------------------------- stock

#[tokio::test]
async fn an_order_takes_its_units_and_publishes_it() {
    let bench = Bench::start().await;
    let lines = [("poster", 2), ("shirt", 1)];
    for (id, _) in lines {
        put_on_sale(&bench, id, 5).await;
    }
    bench.proxy.forget();
    deduct_stock(&shop(&bench), placed("o1", &lines)).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
    assert_eq!(left_and_sold(&bench, "poster").await, (3, 2));
    assert_eq!(left_and_sold(&bench, "shirt").await, (4, 1));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.deducted"]);
    assert_eq!(answer(&bench, "o1.stock.deducted").await, EventBody::StockDeducted(stock_event("o1", &lines)));
    let work = bench.engine.item("items", "ORDER#o1", "WORK").await.unwrap();
    assert_eq!(work.text("work_state").unwrap(), "done");
    assert_eq!(work.document::<Vec<Pieces>>("pieces").unwrap(), pieces(&lines));
    assert_eq!(work.int("ttl").unwrap(), NOW.plus_seconds(30 * 86_400).ttl_seconds());
}

#[tokio::test]
async fn an_order_of_fifty_lines_is_taken_and_given_back_as_a_whole() {
    let bench = Bench::start().await;
    let ids: Vec<String> = (0..50).map(|n| format!("item-{n}")).collect();
    for id in &ids {
        put_on_sale(&bench, id, 3).await;
    }
    let lines: Vec<(&str, i64)> = ids.iter().map(|id| (id.as_str(), 2)).collect();
    for (message, left) in [(placed("o1", &lines), (1, 2)), (failed("o1", &lines), (3, 0))] {
        deduct_stock(&shop(&bench), message).await.unwrap();
        for id in &ids {
            assert_eq!(left_and_sold(&bench, id).await, left);
        }
    }
}

#[tokio::test]
async fn an_order_that_cannot_have_all_has_none_and_gets_the_items_that_ran_out() {
    let bench = Bench::start().await;
    for (id, stock) in [("plenty", 9), ("few", 1), ("none", 0)] {
        put_on_sale(&bench, id, stock).await;
    }
    deduct_stock(&shop(&bench), placed("o1", &[("none", 1), ("plenty", 2), ("few", 2)])).await.unwrap();
    for (id, stock) in [("plenty", 9), ("few", 1), ("none", 0)] {
        assert_eq!(left_and_sold(&bench, id).await, (stock, 0), "{id}");
    }
    assert_eq!(answer_ids(&bench).await, ["o1.stock.refused"]);
    let refused = refusal(&bench, "o1").await;
    assert_eq!((refused.reason, refused.items), (OrderFailure::OutOfStock, vec![item_id("none"), item_id("few")]));
    let work = bench.engine.item("items", "ORDER#o1", "WORK").await.unwrap();
    assert_eq!((work.text("work_state").unwrap(), work.text("pieces").unwrap()), ("refused", "[]"));
}

#[tokio::test]
async fn an_order_of_an_item_that_is_not_sold_any_more_is_refused_as_such() {
    let bench = Bench::start().await;
    for (id, stock) in [("plenty", 9), ("few", 1), ("gone", 9)] {
        put_on_sale(&bench, id, stock).await;
    }
    assert!(shop(&bench).withdraw(&item_id("gone"), NOW).await.unwrap());
    deduct_stock(&shop(&bench), placed("o1", &[("few", 2), ("gone", 1), ("plenty", 1), ("never", 1)])).await.unwrap();
    let refused = refusal(&bench, "o1").await;
    assert_eq!((refused.reason, refused.items), (OrderFailure::ItemWithdrawn, vec![item_id("gone"), item_id("never")]));
    assert_eq!(left_and_sold(&bench, "gone").await, (9, 0));
    assert_eq!(left_and_sold(&bench, "plenty").await, (9, 0));
}

#[tokio::test]
async fn what_is_ordered_of_an_item_withdrawn_since_goes_back_to_it() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    assert!(shop(&bench).withdraw(&item_id("poster"), NOW).await.unwrap());
    deduct_stock(&shop(&bench), failed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_three_hundred_orders_at_once_for_a_hundred_units_a_hundred_have_one() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 100).await;
    // A hot item's transactions meet each other; the embedded engine carries them out one by one, so the proxy makes
    // them.
    bench.proxy.inject(Rule::on("TransactWriteItems").after(50).times(300), Fate::Conflicted);
    let mut orders = JoinSet::new();
    for n in 0..300 {
        let store = shop(&bench);
        orders.spawn(async move { deliver(&store, placed(&format!("o{n}"), &[("poster", 1)])).await });
    }
    orders.join_all().await;
    assert_eq!(left_and_sold(&bench, "poster").await, (0, 100));
    let answer_ids = answer_ids(&bench).await;
    let of = |kind: &str| answer_ids.iter().filter(|id| id.ends_with(kind)).count();
    assert_eq!((answer_ids.len(), of(".stock.deducted"), of(".stock.refused")), (300, 100, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_several_items_in_any_order_never_oversell_one_nor_take_half() {
    let bench = Bench::start().await;
    for id in ["a", "b", "c"] {
        put_on_sale(&bench, id, 20).await;
    }
    let mut orders = JoinSet::new();
    for n in 0..40 {
        let store = shop(&bench);
        orders.spawn(async move {
            let mut lines = [("a", 1), ("b", 1), ("c", 2)];
            lines.rotate_left(n % 3);
            deliver(&store, placed(&format!("o{n}"), &lines)).await;
        });
    }
    orders.join_all().await;
    assert_eq!(left_and_sold(&bench, "c").await, (0, 20));
    assert_eq!(left_and_sold(&bench, "a").await, (10, 10));
    assert_eq!(left_and_sold(&bench, "b").await, (10, 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stock_set_while_orders_take_and_give_back_loses_no_unit() {
    let bench = Arc::new(Bench::start().await);
    put_on_sale(&bench, "poster", 30).await;
    let mut work = JoinSet::new();
    for n in 0..60 {
        let store = shop(&bench);
        work.spawn(async move {
            let (id, lines) = (format!("o{n}"), [("poster", 1)]);
            deliver(&store, placed(&id, &lines)).await;
            if n % 3 == 0 {
                deliver(&store, failed(&id, &lines)).await;
            }
        });
    }
    for n in 0..20 {
        let bench = Arc::clone(&bench);
        work.spawn(async move {
            // An operator asks again as long as others are in the way; each key counts once.
            let key = format!("delivery{}", n % 10);
            while let Err(problem) = receive(&bench, "poster", 1, &key).await {
                assert_eq!(problem.code, "contended");
            }
            shelf(&bench, "poster").await;
        });
    }
    work.join_all().await;
    let answer_ids = answer_ids(&bench).await;
    let has = |n: usize, kind: &str| answer_ids.contains(&format!("o{n}.stock.{kind}"));
    let sold = (0..60).filter(|n| has(*n, "deducted") && !has(*n, "restored")).count();
    let shelf = shelf(&bench, "poster").await;
    assert_eq!(shelf.sold, sold as i64);
    assert_eq!((shelf.received, shelf.stock), (40, 40 - sold as i64));
}

#[tokio::test]
async fn a_delivery_that_is_told_of_again_weeks_later_is_added_once() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 0).await;
    for seconds in [0, 86_400, 30 * 86_400 - 1] {
        let ask = Ask::at(NOW.plus_seconds(seconds)).operator("boss").key("delivery-7").path("item_id", "poster");
        let told = receive_stock(&deps(&bench), ask.json(json!({"received": 10})).call()).await.unwrap();
        assert_eq!(told.status.as_u16(), 201);
        assert_eq!(shelf(&bench, "poster").await, Shelf { stock: 10, sold: 0, received: 10 }, "after {seconds} s");
    }
}

#[tokio::test]
async fn what_is_received_is_added_once_to_what_is_left_whatever_was_sold() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 10).await;
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 10)])).await.unwrap();
    // The same request again is no second delivery, also where its answer got lost.
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    for _ in 0..3 {
        let reply = receive(&bench, "poster", 10, "delivery").await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.body.unwrap()), (201, json!({"item_id": "poster", "received": 10})));
    }
    assert_eq!(shelf(&bench, "poster").await, Shelf { stock: 10, sold: 10, received: 20 });
    assert_eq!(refused(receive(&bench, "poster", 9, "delivery").await), (422, "idempotency_key_reused"));
    // What a failed order gives back comes on top.
    deduct_stock(&shop(&bench), failed("o1", &[("poster", 10)])).await.unwrap();
    assert_eq!(shelf(&bench, "poster").await, Shelf { stock: 20, sold: 0, received: 20 });
}

#[tokio::test]
async fn no_more_is_taken_away_than_is_left_to_sell() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 3)])).await.unwrap();
    assert_eq!(refused(receive(&bench, "poster", -3, "loss").await), (409, "stock_too_low"));
    assert_eq!(receive(&bench, "poster", -2, "loss").await.unwrap().status.as_u16(), 201, "a refused key is free");
    assert_eq!(shelf(&bench, "poster").await, Shelf { stock: 0, sold: 3, received: 3 });
}

#[tokio::test]
async fn the_operator_of_a_hot_item_gets_through() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 3).await;
    bench.proxy.inject(Rule::on("TransactWriteItems").times(3), Fate::Conflicted);
    assert_eq!(receive(&bench, "poster", 4, "k1").await.unwrap().status.as_u16(), 201);
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::Conflicted);
    assert_eq!(refused(receive(&bench, "poster", 1, "k2").await), (503, "contended"));
    assert_eq!(left_and_sold(&bench, "poster").await, (7, 0));
}

// ------------------------------------------------------------------------------------- again, late, crossed, lost

#[tokio::test]
async fn an_order_consumed_again_and_again_takes_its_units_once() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    for _ in 0..3 {
        deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    }
    assert_eq!(left_and_sold(&bench, "poster").await, (3, 2));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.deducted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_deliveries_at_once_have_one_effect() {
    for (first, message, left) in [
        (None, placed as fn(&str, &[(&str, i64)]) -> Message, (3, 2)),
        (Some(placed("o1", &[("poster", 2)])), failed, (5, 0)),
    ] {
        let bench = Bench::start().await;
        put_on_sale(&bench, "poster", 5).await;
        if let Some(first) = first {
            deduct_stock(&shop(&bench), first).await.unwrap();
        }
        let mut deliveries = JoinSet::new();
        for _ in 0..10 {
            let store = shop(&bench);
            deliveries.spawn(async move { deliver(&store, message("o1", &[("poster", 2)])).await });
        }
        deliveries.join_all().await;
        assert_eq!(left_and_sold(&bench, "poster").await, left);
    }
}

#[tokio::test]
async fn an_order_that_is_refused_stays_refused_when_units_come_in() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 1).await;
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    receive(&bench, "poster", 8, "delivery").await.unwrap();
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (9, 0));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.refused"]);
}

#[tokio::test]
async fn a_failed_order_gives_its_units_back_once() {
    let bench = Bench::start().await;
    let lines = [("poster", 2), ("shirt", 1)];
    for (id, _) in lines {
        put_on_sale(&bench, id, 5).await;
    }
    deduct_stock(&shop(&bench), placed("o1", &lines)).await.unwrap();
    for _ in 0..3 {
        deduct_stock(&shop(&bench), failed("o1", &lines)).await.unwrap();
        assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
        assert_eq!(left_and_sold(&bench, "shirt").await, (5, 0));
    }
    assert_eq!(answer_ids(&bench).await, ["o1.stock.deducted", "o1.stock.restored"]);
    assert_eq!(answer(&bench, "o1.stock.restored").await, EventBody::StockRestored(stock_event("o1", &lines)));
    // The placed order is skipped from now on.
    deduct_stock(&shop(&bench), placed("o1", &lines)).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
}

#[tokio::test]
async fn a_failure_consumed_before_its_order_keeps_the_order_from_taking_anything() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    deduct_stock(&shop(&bench), failed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(answer(&bench, "o1.stock.restored").await, EventBody::StockRestored(stock_event("o1", &[])));
    for _ in 0..2 {
        deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    }
    deduct_stock(&shop(&bench), failed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.restored"]);
}

#[tokio::test]
async fn a_failure_after_a_refusal_gives_nothing_back_and_is_answered() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 1).await;
    for message in [placed, failed, failed, placed] {
        deduct_stock(&shop(&bench), message("o1", &[("poster", 2)])).await.unwrap();
    }
    assert_eq!(left_and_sold(&bench, "poster").await, (1, 0));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.refused", "o1.stock.restored"]);
    assert_eq!(answer(&bench, "o1.stock.restored").await, EventBody::StockRestored(stock_event("o1", &[])));
}

#[tokio::test]
async fn an_order_and_its_failure_that_cross_leave_the_stock_as_it_was() {
    // Every pair of messages, each held at its write while the other one goes all the way; out of stock and not.
    for (pieces, slow, quick) in [
        (2, placed as fn(&str, &[(&str, i64)]) -> Message, failed as fn(&str, &[(&str, i64)]) -> Message),
        (2, failed, placed),
        (9, placed, failed),
        (9, failed, placed),
    ] {
        let bench = Bench::start().await;
        put_on_sale(&bench, "poster", 5).await;
        let (store, lines) = (shop(&bench), [("poster", pieces)]);
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").once());
        let crossing = async {
            gate.reached().await;
            deduct_stock(&store, quick("o1", &lines)).await.unwrap();
            gate.open();
        };
        tokio::join!(async { deduct_stock(&store, slow("o1", &lines)).await.unwrap() }, crossing);
        assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
        let work = bench.engine.item("items", "ORDER#o1", "WORK").await.unwrap();
        assert_eq!(work.text("work_state").unwrap(), "undone");
        assert!(answer_ids(&bench).await.contains(&"o1.stock.restored".to_owned()));
    }
}

#[tokio::test]
async fn a_refusal_that_crosses_the_failure_is_not_written_over_it() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 1).await;
    let (store, lines) = (shop(&bench), [("poster", 2)]);
    // The read finds too few units; the transaction writes the refusal.
    let gate = bench.proxy.hold(Rule::on("TransactWriteItems").once());
    let crossing = async {
        gate.reached().await;
        deduct_stock(&store, failed("o1", &lines)).await.unwrap();
        gate.open();
    };
    tokio::join!(async { deduct_stock(&store, placed("o1", &lines)).await.unwrap() }, crossing);
    assert_eq!(answer_ids(&bench).await, ["o1.stock.restored"]);
}

#[tokio::test]
async fn an_order_that_only_meets_other_writers_is_redelivered_and_changes_nothing_until_then() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    bench.proxy.inject(Rule::on("TransactWriteItems").times(8), Fate::Conflicted);
    let outcome = deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await;
    assert!(matches!(outcome, Err(Fault::Contended(_))), "{outcome:?}");
    assert_eq!(left_and_sold(&bench, "poster").await, (5, 0));
    assert_eq!(answer_ids(&bench).await, Vec::<String>::new());
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(left_and_sold(&bench, "poster").await, (3, 2));
}

#[tokio::test]
async fn a_consumer_that_dies_before_or_after_its_write_does_it_once_when_the_message_is_redelivered() {
    let lines = [("poster", 2)];
    let lives: [(&[Message], Message, (i64, i64)); 4] = [
        (&[], placed("o1", &lines), (3, 2)),
        (&[], placed("o1", &[("poster", 9)]), (5, 0)),
        (&[], failed("o1", &lines), (5, 0)),
        (&[placed("o1", &lines)], failed("o1", &lines), (5, 0)),
    ];
    for (before, message, left) in lives {
        for fate in [Fate::Failed, Fate::Dropped, Fate::AnswerLost] {
            let bench = Bench::start().await;
            put_on_sale(&bench, "poster", 5).await;
            for message in before {
                deduct_stock(&shop(&bench), message.clone()).await.unwrap();
            }
            // Every try of the last write: the client gives up.
            bench.proxy.inject(Rule::on("TransactWriteItems"), fate.clone());
            let outcome = deduct_stock(&shop(&bench), message.clone()).await;
            assert!(matches!(outcome, Err(Fault::Unavailable(_))), "{fate:?}: {outcome:?}");
            bench.proxy.heal();
            deduct_stock(&shop(&bench), message.clone()).await.unwrap();
            assert_eq!(left_and_sold(&bench, "poster").await, left, "{fate:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_is_published_again_with_its_order_and_only_once_it_was_published() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 2).await;
    let later = NOW.plus_seconds(120);
    for (first, again, id) in [
        (placed("o1", &[("poster", 2)]), placed("o1", &[("poster", 2)]), "o1.stock.deducted"),
        (placed("o2", &[("poster", 2)]), placed("o2", &[("poster", 2)]), "o2.stock.refused"),
        (failed("o1", &[("poster", 2)]), failed("o1", &[("poster", 2)]), "o1.stock.restored"),
        (failed("o3", &[("poster", 2)]), failed("o3", &[("poster", 2)]), "o3.stock.restored"),
    ] {
        deduct_stock(&shop(&bench), first).await.unwrap();
        let waiting = outbox_row(&bench, id).await;
        deduct_stock(&shop(&bench), again.clone()).await.unwrap();
        assert_eq!(outbox_row(&bench, id).await, waiting, "what waits is said anyway");
        published(&bench, id).await;
        deduct_stock(&shop(&bench), again).await.unwrap();
        let bus = Bus::start().await;
        relay(&bench, &bus).sweep(later).await.unwrap();
        assert_eq!(bus.ids(), [id]);
    }
    // For a failed order it is not published again that its units were taken.
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 2)])).await.unwrap();
    assert_eq!(relay(&bench, &Bus::start().await).sweep(later.plus_seconds(120)).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_no_event_of_an_order_is_poison() {
    let bench = Bench::start().await;
    let completed = message("o1", EventBody::OrderCompleted(order("o1", &[("poster", 1)])));
    for poison in [Message::new("m", "{}", NOW), completed] {
        let outcome = deduct_stock(&shop(&bench), poison).await;
        assert!(matches!(outcome, Err(Fault::Broken(_))), "{outcome:?}");
    }
    assert_eq!(bench.engine.items("items").await.len(), 0);
}
