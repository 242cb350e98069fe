//! Carts and orders: what is fixed when an order is placed, the outcome of the answers in whatever order they come, and
//! that a cart loses and gets back its lines once.

use crate::bench::{Bench, tick_of};
use crate::items::{item_id, put_on_sale, shop};
use ::items::domain::Label;
use ::items::dynamo::Items;
use ::items::handlers::quote_items;
use ::items::ports::{ChangeItem, WithdrawItem};
use ::orders::domain::{Answer, DUE_SHARDS, Did, DueOrder, FIRST_LOOK_SECONDS, Order, Participant, STUCK_NUDGES};
use ::orders::dynamo::{Orders, order_of};
use ::orders::handlers::{
    CartDeps, Deps, PlaceDeps, SweepDeps, clear_cart, get_cart, get_order, list_orders, place_order, put_cart_item,
    remove_cart_item, sweep_orders, track_order,
};
use ::orders::ports::{BalanceClient, EndOrder, FindDue, QuoteClient};
use contracts::choreography::ACTED_ON_MILLIS;
use contracts::events::{
    CartEvent, Event, EventBody, FaultDetected, OrderEvent, OrderFailed, OrderReported, PointsEvent, PointsRefused,
    StockEvent, StockRefused, schema_of,
};
use contracts::orders::{MAX_LINES, OrderFailure, OrderLine, Quantity};
use contracts::steps::{BalanceQuote, ItemsQuote, QuoteBalance, QuoteItems};
use contracts::{OrderId, Timestamp, Won};
use kit::dynamo::{Item as Row, Read, s};
use kit::outbox::{self, Relay};
use kit::queue::Message;
use kit::{Fault, Problem, Reply, StepError, Tick};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use tests::bus::{BUS, Bus};
use tests::calls::{Ask, users};
use tests::fixture::{NOW, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

/// How long an order may take here, in seconds.
pub const DEADLINE_SECONDS: i64 = 300;

/// Quotes by the use case itself, instead of one function invoking another.
#[derive(Debug)]
pub struct Quotes(Items);

impl QuoteClient for Quotes {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        quote_items(&self.0, step(ask.clone(), NOW)).await.map_err(|error| match error {
            StepError::Fault(fault) => fault,
            StepError::Refused(_) => panic!("a quote is never refused"),
        })
    }
}

/// Points that everybody has enough of.
#[derive(Debug)]
pub struct Plenty;

impl BalanceClient for Plenty {
    async fn balance(&self, _: &QuoteBalance) -> Result<BalanceQuote, Fault> {
        Ok(BalanceQuote { balance: Won::MAX })
    }
}

/// How many orders of a user may be pending here.
pub const MOST_PENDING: u32 = 20;

/// Carts and orders behind the proxy.
pub fn desk(bench: &Bench) -> Orders {
    Orders::new(bench.proxy.table("orders"))
}

pub fn deps(bench: &Bench) -> Deps<Orders> {
    Deps { store: desk(bench), users: users() }
}

/// The items are not behind the proxy: only what orders does to its own table is counted and broken.
fn quotes(bench: &Bench) -> Quotes {
    Quotes(Items::new(bench.engine.table("items")))
}

pub fn carts(bench: &Bench) -> CartDeps<Orders, Quotes> {
    CartDeps { store: desk(bench), items: quotes(bench), users: users() }
}

pub fn asking(bench: &Bench) -> PlaceDeps<Orders, Quotes, Plenty> {
    let (store, items) = (desk(bench), quotes(bench));
    PlaceDeps { store, items, points: Plenty, most_pending: MOST_PENDING, users: users() }
}

pub fn alice() -> Ask {
    Ask::at(NOW).user("alice")
}

pub fn refused(outcome: Result<Reply, Problem>) -> (u16, &'static str) {
    let problem = outcome.unwrap_err();
    (problem.status.as_u16(), problem.code)
}

pub fn body(outcome: Result<Reply, Problem>) -> Value {
    outcome.unwrap().body.unwrap()
}

// --------------------------------------------------------------------------------------------------------- carts

pub async fn put_at(bench: &Bench, item: &str, quantity: i64, now: Timestamp) -> Result<Reply, Problem> {
    let ask = Ask::at(now).user("alice").path("item_id", item).json(json!({ "quantity": quantity }));
    put_cart_item(&carts(bench), ask.call()).await
}

/// Puts units of an item into alice's cart.
pub async fn put(bench: &Bench, item: &str, quantity: i64, now: Timestamp) {
    put_at(bench, item, quantity, now).await.unwrap();
}

async fn remove(bench: &Bench, item: &str) {
    let reply = remove_cart_item(&deps(bench), alice().path("item_id", item).call()).await.unwrap();
    assert_eq!(reply.status.as_u16(), 204);
}

/// The items in alice's cart, and how many units of each.
pub async fn cart(bench: &Bench) -> BTreeMap<String, i64> {
    let cart = body(get_cart(&carts(bench), alice().call()).await);
    let lines = cart["lines"].as_array().unwrap();
    lines
        .iter()
        .map(|line| (line["item_id"].as_str().unwrap().to_owned(), line["quantity"].as_i64().unwrap()))
        .collect()
}

fn with(lines: &[(&str, i64)]) -> BTreeMap<String, i64> {
    lines.iter().map(|(item, quantity)| ((*item).to_owned(), *quantity)).collect()
}

#[tokio::test]
async fn a_cart_has_each_item_once_at_the_price_of_when_it_was_put_there() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 0).await;
    put_on_sale(&bench, "mug", 5).await;
    assert_eq!(body(get_cart(&carts(&bench), alice().call()).await), json!({"lines": [], "total_price": 0}));
    put(&bench, "poster", 1, NOW).await;
    shop(&bench).relabel(&item_id("mug"), &Label::new("Blue mug", 300).unwrap()).await.unwrap().unwrap();
    bench.proxy.forget();
    put(&bench, "mug", 2, NOW).await;
    assert_eq!(bench.proxy.actions(), ["UpdateItem"]);
    shop(&bench).relabel(&item_id("mug"), &Label::new("Mug", 9).unwrap()).await.unwrap().unwrap();
    let expected = json!({
        "lines": [
            {"item_id": "mug", "name": "Blue mug", "price": 300, "quantity": 2},
            {"item_id": "poster", "name": "poster", "price": 1_000, "quantity": 3},
        ],
        "total_price": 3_600,
    });
    assert_eq!(body(put_at(&bench, "poster", 3, NOW).await), expected);
    assert_eq!(body(get_cart(&carts(&bench), alice().call()).await), expected);
    for _ in 0..2 {
        remove(&bench, "mug").await;
        assert_eq!(cart(&bench).await, with(&[("poster", 3)]));
    }
    remove(&bench, "poster").await;
    put(&bench, "mug", 1, NOW).await;
    assert_eq!(cart(&bench).await, with(&[("mug", 1)]));
}

#[tokio::test]
async fn what_is_not_sold_or_no_quantity_is_not_put_in_a_cart() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 5).await;
    put_on_sale(&bench, "gone", 5).await;
    shop(&bench).withdraw(&item_id("gone"), NOW).await.unwrap();
    for item in ["gone", "none", "a#b"] {
        assert_eq!(refused(put_at(&bench, item, 1, NOW).await), (404, "not_found"), "{item}");
    }
    for quantity in [-1, 0, 10_001] {
        assert_eq!(refused(put_at(&bench, "poster", quantity, NOW).await), (400, "invalid_request"));
    }
    assert_eq!(refused(get_cart(&carts(&bench), Ask::at(NOW).call()).await), (401, "unauthorized"));
    assert!(bench.engine.items("orders").await.is_empty());
}

/// Fills alice's cart; the name of an item that is not in it.
pub async fn fill_cart(bench: &Bench) -> String {
    for n in 0..=MAX_LINES {
        put_on_sale(bench, &format!("i{n}"), 1).await;
    }
    for n in 0..MAX_LINES {
        put(bench, &format!("i{n}"), 1, NOW).await;
    }
    format!("i{MAX_LINES}")
}

#[tokio::test]
async fn a_full_cart_takes_no_other_item_until_one_is_out() {
    let bench = Bench::start().await;
    let other = fill_cart(&bench).await;
    assert_eq!(refused(put_at(&bench, &other, 1, NOW).await), (409, "cart_full"));
    put(&bench, "i0", 7, NOW).await;
    assert_eq!((cart(&bench).await.len(), cart(&bench).await["i0"]), (MAX_LINES, 7));
    remove(&bench, "i0").await;
    put(&bench, &other, 1, NOW).await;
    assert_eq!(refused(put_at(&bench, "i0", 1, NOW).await), (409, "cart_full"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_put_at_once_are_all_there() {
    let bench = Arc::new(Bench::start().await);
    let names: Vec<String> = (0..10).map(|n| format!("i{n}")).collect();
    for name in &names {
        put_on_sale(&bench, name, 1).await;
    }
    let mut puts = JoinSet::new();
    for name in names {
        let bench = Arc::clone(&bench);
        puts.spawn(async move { put(&bench, &name, 1, NOW).await });
    }
    puts.join_all().await;
    assert_eq!(cart(&bench).await.len(), 10);
}

// ------------------------------------------------------------------------------------------------------- placing

pub fn wanted(lines: &[(&str, i64)]) -> Value {
    let line = |(item, quantity): &(&str, i64)| json!({"item_id": item, "quantity": quantity});
    json!({ "lines": lines.iter().map(line).collect::<Vec<_>>() })
}

pub async fn place(bench: &Bench, lines: &[(&str, i64)], key: &str, now: Timestamp) -> Result<Reply, Problem> {
    place_order(&asking(bench), Ask::at(now).user("alice").key(key).json(wanted(lines)).call()).await
}

/// Places an order of alice's that is accepted; its id.
pub async fn placed(bench: &Bench, lines: &[(&str, i64)], key: &str) -> String {
    body(place(bench, lines, key, NOW).await)["order_id"].as_str().unwrap().to_owned()
}

pub async fn order_row(bench: &Bench, id: &str) -> Row {
    bench.engine.item("orders", "USER#alice", &format!("ORDER#{id}")).await.unwrap()
}

/// One of alice's orders, as the table has it.
pub async fn order(bench: &Bench, id: &str) -> Order {
    order_of(&order_row(bench, id).await).unwrap()
}

pub async fn status(bench: &Bench, id: &str) -> String {
    let seen = body(get_order(&deps(bench), alice().path("order_id", id).call()).await);
    seen["failure"].as_str().or(seen["status"].as_str()).unwrap().to_owned()
}

/// When the sweep finds an order.
pub async fn due_at(bench: &Bench, id: &str) -> Option<Timestamp> {
    order_row(bench, id).await.moment("due_at").ok()
}

async fn outbox_row(bench: &Bench, id: &str) -> Row {
    bench.engine.item("orders", &format!("OUTBOX#{id}"), "OUTBOX").await.unwrap_or_else(|| panic!("{id} was not said"))
}

/// The events in the outbox, by their ids; each fits its schema and is of the request that placed the order.
pub async fn events(bench: &Bench) -> BTreeMap<String, Event> {
    let rows = bench.engine.items("orders").await;
    let events = rows.iter().filter(|row| row.contains_key("event")).map(|row| row.document("event").unwrap());
    let checked = |event: Event| {
        let schema: Value = serde_json::from_str(schema_of(event.body.event_type()).unwrap()).unwrap();
        let json = serde_json::to_value(&event).unwrap();
        jsonschema::draft202012::options().build(&schema).unwrap().validate(&json).unwrap();
        assert_eq!((event.source.as_str(), event.correlationid.as_str()), ("encore/orders", "request-1"));
        (event.id.to_string(), event)
    };
    events.map(checked).collect()
}

/// The events of an order, by type.
pub async fn event_types_of(bench: &Bench, id: &str) -> Vec<String> {
    let prefix = format!("{id}.");
    events(bench).await.into_keys().filter_map(|event| event.strip_prefix(&prefix).map(str::to_owned)).collect()
}

async fn work_state(bench: &Bench, id: &str) -> BTreeMap<String, String> {
    let row = outbox_row(bench, &format!("{id}.order.placed")).await;
    let works = row["work_state"].as_m().unwrap();
    works.iter().map(|(who, work)| (who.clone(), work.as_s().unwrap().clone())).collect()
}

/// A shop with a poster (1,000) and a mug (1,000).
pub async fn open_shop(bench: &Bench) {
    put_on_sale(bench, "poster", 5).await;
    put_on_sale(bench, "mug", 5).await;
}

#[tokio::test]
async fn an_order_is_written_with_its_event_and_its_answer_in_two_round_trips() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    bench.proxy.forget();
    let reply = place(&bench, &[("poster", 2), ("mug", 1)], "k", NOW).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["BatchGetItem", "TransactWriteItems"]);
    let answer = reply.body.unwrap();
    let id = answer["order_id"].as_str().unwrap();
    assert_eq!((reply.status.as_u16(), reply.location), (202, Some(format!("/orders/{id}"))));
    let expected = json!({
        "order_id": id,
        "status": "pending",
        "lines": [
            {"item_id": "poster", "name": "poster", "price": 1_000, "quantity": 2},
            {"item_id": "mug", "name": "mug", "price": 1_000, "quantity": 1},
        ],
        "total_price": 3_000,
        "placed_at": NOW.rfc3339(),
    });
    assert_eq!(answer, expected);
    assert_eq!(body(get_order(&deps(&bench), alice().path("order_id", id).call()).await), expected);
    let event = format!("{id}.order.placed");
    let row = outbox_row(&bench, &event).await;
    assert_eq!((row.text("transaction_key").unwrap(), row.text("publish_state").unwrap()), (id, "pending"));
    let pending = ["stock", "points", "cart", "report"].map(|who| (who.to_owned(), "pending".to_owned()));
    assert_eq!(work_state(&bench, id).await, BTreeMap::from(pending));
    let EventBody::OrderPlaced(body) = events(&bench).await.remove(&event).unwrap().body else { panic!("{event}") };
    assert_eq!((serde_json::to_value(body.lines).unwrap(), body.total_price), (expected["lines"].clone(), won(3_000)));
    assert_eq!(due_at(&bench, id).await, Some(NOW.plus_seconds(FIRST_LOOK_SECONDS)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_key_is_one_order_however_many_ask_at_once_and_whatever_becomes_of_the_items() {
    let bench = Arc::new(Bench::start().await);
    open_shop(&bench).await;
    let mut asks = JoinSet::new();
    for _ in 0..8 {
        let bench = Arc::clone(&bench);
        asks.spawn(async move { placed(&bench, &[("poster", 1)], "k").await });
    }
    let mut ids = asks.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    shop(&bench).withdraw(&item_id("poster"), NOW).await.unwrap();
    bench.proxy.forget();
    assert_eq!(placed(&bench, &[("poster", 1)], "k").await, ids[0]);
    assert_eq!(bench.proxy.actions(), ["BatchGetItem"], "a repetition writes nothing");
    assert_eq!(refused(place(&bench, &[("mug", 1)], "k", NOW).await), (422, "idempotency_key_reused"));
    let a_day_later = NOW.plus_seconds(86_400);
    assert_eq!(refused(place(&bench, &[("poster", 1)], "k", a_day_later).await), (404, "item_not_found"));
    assert_eq!(event_types_of(&bench, &ids[0]).await, ["order.placed"]);
}

#[tokio::test]
async fn an_order_whose_answer_is_lost_is_placed_once() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::AnswerLost);
    let id = placed(&bench, &[("poster", 1)], "k").await;
    assert_eq!(placed(&bench, &[("poster", 1)], "k").await, id);
    let orders = bench.engine.items("orders").await;
    assert_eq!(orders.iter().filter(|row| row.get("kind") == Some(&s("order"))).count(), 1);
}

/// Items that cannot be reached.
pub struct Unreachable;

impl QuoteClient for Unreachable {
    async fn quote(&self, _: &QuoteItems) -> Result<ItemsQuote, Fault> {
        Err(Fault::unavailable("asking what items cost", "down"))
    }
}

#[tokio::test]
async fn an_order_that_was_placed_is_answered_again_without_the_items_and_a_new_one_waits_for_them() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    let alone = PlaceDeps { store: desk(&bench), items: Unreachable, points: Plenty, most_pending: 2, users: users() };
    let ask = |key| alice().key(key).json(wanted(&[("poster", 1)])).call();
    assert_eq!(body(place_order(&alone, ask("k")).await)["order_id"], id);
    assert_eq!(refused(place_order(&alone, ask("other")).await), (503, "temporarily_unavailable"));
}

#[tokio::test]
async fn an_order_costs_as_many_write_units_as_the_readme_says() {
    let bench = Bench::start().await;
    filled(&bench).await;
    bench.proxy.measure();
    let write_units = || bench.proxy.units().into_iter().filter(|(call, _)| !call.contains("Get")).map(|of| of.1).sum();
    let costs = |what: &str, expected: f64| {
        let units: f64 = write_units();
        assert!((units - expected).abs() < 0.1, "{what}: {units}");
        bench.proxy.forget();
    };
    bench.proxy.forget();
    put(&bench, "mug", 1, NOW).await;
    costs("put a line", 1.0);
    let id = placed(&bench, &[("mug", 1)], "k").await;
    costs("place", 10.0);
    clear_cart(&desk(&bench), order_placed(&id, &[("mug", 1)])).await.unwrap();
    costs("clear the cart", 7.0);
    clear_cart(&desk(&bench), order_failed(&id, &[("mug", 1)])).await.unwrap();
    costs("give back", 7.0);
    deliver_answer(&bench, &id, Published::Deducted).await;
    costs("note an answer", 2.0);
    publish(&bench).await;
    deliver_answer(&bench, &id, Published::Reported).await;
    costs("note an answer to an event that is published", 1.0);
    deliver_answer(&bench, &id, Published::Used).await;
    costs("note another", 1.0);
    deliver_answer(&bench, &id, Published::Cleared).await;
    costs("note the last one and complete", 1.0 + 6.0 + 2.0);
}

#[tokio::test]
async fn an_order_that_is_refused_writes_nothing_and_leaves_its_key_free() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let not_found = place(&bench, &[("none", 1), ("poster", 1), ("neither", 1)], "k", NOW).await.unwrap_err();
    assert_eq!((not_found.status.as_u16(), not_found.code), (404, "item_not_found"));
    assert_eq!(not_found.members["items"], json!(["none", "neither"]));
    put(&bench, "poster", 1, NOW).await;
    shop(&bench).relabel(&item_id("poster"), &Label::new("poster", 1_200).unwrap()).await.unwrap().unwrap();
    let changed = place(&bench, &[("mug", 1), ("poster", 2)], "k", NOW).await.unwrap_err();
    assert_eq!((changed.status.as_u16(), changed.code), (409, "price_changed"));
    let lines = json!([{"item_id": "poster", "price_in_cart": 1_000, "price": 1_200}]);
    assert_eq!(changed.members["lines"], lines);
    assert!(events(&bench).await.is_empty());
    put(&bench, "poster", 1, NOW).await;
    let order = body(place(&bench, &[("mug", 1), ("poster", 2)], "k", NOW).await);
    assert_eq!(order["total_price"], 3_400);
}

#[tokio::test]
async fn an_order_that_makes_no_sense_is_refused() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let line = json!({"item_id": "poster", "quantity": 1});
    let many: Vec<Value> = (0..=MAX_LINES).map(|n| json!({"item_id": format!("i{n}"), "quantity": 1})).collect();
    for lines in [
        json!([]),
        json!([line, line]),
        json!(many),
        json!([{"item_id": "poster", "quantity": 0}]),
        json!([{"item_id": "poster", "quantity": 1, "price": 1}]),
        json!([{"item_id": "poster", "quantity": 1, "price_seen": -1}]),
        json!([{"item_id": "a#b", "quantity": 1}]),
    ] {
        let ask = alice().key("k").json(json!({ "lines": lines }));
        assert_eq!(refused(place_order(&asking(&bench), ask.call()).await), (400, "invalid_request"), "{lines}");
    }
    let keyless = place_order(&asking(&bench), alice().json(json!({ "lines": [line] })).call()).await;
    assert_eq!(refused(keyless), (400, "idempotency_key_required"));
    assert!(bench.engine.items("orders").await.is_empty());
}

#[tokio::test]
async fn orders_are_listed_newest_first_in_pages_and_only_to_their_owner() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let mut expected = Vec::new();
    for n in 0..5 {
        let order = body(place(&bench, &[("poster", 1)], &format!("k{n}"), NOW.plus_millis(n)).await);
        expected.insert(0, order["order_id"].clone());
    }
    let (mut listed, mut ask) = (Vec::new(), alice().query("limit", "2"));
    loop {
        bench.proxy.forget();
        let page = body(list_orders(&deps(&bench), ask.clone().call()).await);
        assert_eq!(bench.proxy.actions(), ["Query"]);
        listed.extend(page["items"].as_array().unwrap().iter().map(|order| order["order_id"].clone()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        ask = ask.query("cursor", next);
    }
    assert_eq!(listed, expected);
    let bob = Ask::at(NOW).user("bob");
    assert_eq!(body(list_orders(&deps(&bench), bob.clone().call()).await), json!({"items": []}));
    let foreign = bob.path("order_id", expected[0].as_str().unwrap());
    assert_eq!(refused(get_order(&deps(&bench), foreign.call()).await), (404, "not_found"));
    let wrong = alice().query("cursor", &kit::http::Cursor::seal("CART"));
    assert_eq!(refused(list_orders(&deps(&bench), wrong.call()).await), (400, "invalid_request"));
}

// ------------------------------------------------------------------------------------------ the cart's part of an order

fn message(id: &str, body: EventBody, at: Timestamp) -> Message {
    let event = outbox::event("encore/test", id, "request-1", body, at).unwrap();
    Message::new("m", json!({ "detail": event }).to_string(), NOW)
}

fn order_event(id: &str, lines: &[(&str, i64)]) -> OrderEvent {
    let line = |(item, quantity): &(&str, i64)| OrderLine {
        item_id: item_id(item),
        name: (*item).to_owned(),
        price: won(1_000),
        quantity: Quantity::new(*quantity).unwrap(),
    };
    let order_id = OrderId::parse(id).unwrap();
    OrderEvent { order_id, user_id: user("alice"), lines: lines.iter().map(line).collect(), total_price: won(1_000) }
}

/// The message that an order was placed.
pub fn order_placed(id: &str, lines: &[(&str, i64)]) -> Message {
    message(id, EventBody::OrderPlaced(order_event(id, lines)), NOW)
}

/// The message that it failed.
pub fn order_failed(id: &str, lines: &[(&str, i64)]) -> Message {
    let failed = OrderFailed { order: order_event(id, lines), reason: OrderFailure::TimedOut, actor: None };
    message(id, EventBody::OrderFailed(failed), NOW.plus_seconds(60))
}

/// What left the cart or came back according to an event: item and quantity.
pub async fn moved(bench: &Bench, event: &str) -> BTreeMap<String, i64> {
    let (EventBody::CartCleared(cart) | EventBody::CartRestored(cart)) =
        events(bench).await.remove(event).unwrap().body
    else {
        panic!("{event}")
    };
    cart.pieces.into_iter().map(|pieces| (pieces.item_id.to_string(), pieces.quantity.into())).collect()
}

async fn cart_work(bench: &Bench, id: &str) -> String {
    let row = bench.engine.item("orders", &format!("ORDER#{id}"), "WORK").await.unwrap();
    assert!(row.int("ttl").unwrap() >= NOW.plus_seconds(30 * 86_400).ttl_seconds());
    row.text("work_state").unwrap().to_owned()
}

/// Publishes what is in the outbox.
pub async fn publish(bench: &Bench) -> Bus {
    let bus = Bus::start().await;
    let relay = Relay::new("orders", bench.engine.table("orders"), outbox::Bus::new(bus.client(), BUS.to_owned()));
    relay.relay(bench.engine.changes("orders"), NOW).await.unwrap();
    bus
}

/// Whether an event that was published waits to be published again.
pub async fn is_republished(bench: &Bench, event: &str) -> bool {
    let row = outbox_row(bench, event).await;
    row.contains_key("unpublished_shard") && row.text("publish_state").unwrap() == "pending"
}

/// A cart with a mug and a poster.
pub async fn filled(bench: &Bench) {
    open_shop(bench).await;
    put(bench, "mug", 1, NOW).await;
    put(bench, "poster", 2, NOW).await;
}

#[tokio::test]
async fn an_order_takes_its_lines_out_of_the_cart_and_gives_them_back_when_it_fails() {
    let bench = Bench::start().await;
    filled(&bench).await;
    bench.proxy.forget();
    clear_cart(&desk(&bench), order_placed("o1", &[("mug", 3)])).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem", "GetItem", "TransactWriteItems"]);
    assert_eq!(cart(&bench).await, with(&[("poster", 2)]));
    assert_eq!(moved(&bench, "o1.cart.cleared").await, with(&[("mug", 1)]));
    assert_eq!(cart_work(&bench, "o1").await, "done");
    clear_cart(&desk(&bench), order_failed("o1", &[("mug", 3)])).await.unwrap();
    assert_eq!(cart(&bench).await, with(&[("mug", 1), ("poster", 2)]));
    assert_eq!(moved(&bench, "o1.cart.restored").await, with(&[("mug", 1)]));
    assert_eq!(cart_work(&bench, "o1").await, "undone");
}

#[tokio::test]
async fn a_line_that_was_put_after_the_order_stays() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    put(&bench, "mug", 1, NOW.plus_millis(1)).await;
    clear_cart(&desk(&bench), order_placed("o1", &[("mug", 1)])).await.unwrap();
    assert_eq!(cart(&bench).await, with(&[("mug", 1)]));
    assert_eq!(moved(&bench, "o1.cart.cleared").await, with(&[]));
}

#[tokio::test]
async fn a_line_that_was_put_anew_is_not_replaced_by_the_one_that_comes_back() {
    let bench = Bench::start().await;
    filled(&bench).await;
    clear_cart(&desk(&bench), order_placed("o1", &[("mug", 1), ("poster", 2)])).await.unwrap();
    put(&bench, "mug", 7, NOW.plus_seconds(1)).await;
    clear_cart(&desk(&bench), order_failed("o1", &[("mug", 1), ("poster", 2)])).await.unwrap();
    assert_eq!(cart(&bench).await, with(&[("mug", 7), ("poster", 2)]));
    assert_eq!(moved(&bench, "o1.cart.restored").await, with(&[("poster", 2)]));
}

#[tokio::test]
async fn a_cart_that_was_never_used_is_success_with_nothing() {
    let bench = Bench::start().await;
    clear_cart(&desk(&bench), order_placed("o1", &[("mug", 1)])).await.unwrap();
    clear_cart(&desk(&bench), order_failed("o1", &[("mug", 1)])).await.unwrap();
    for event in ["o1.cart.cleared", "o1.cart.restored"] {
        assert_eq!(moved(&bench, event).await, with(&[]), "{event}");
    }
    assert!(cart(&bench).await.is_empty());
}

#[tokio::test]
async fn an_order_that_failed_before_it_was_consumed_takes_nothing() {
    let bench = Bench::start().await;
    filled(&bench).await;
    clear_cart(&desk(&bench), order_failed("o1", &[("mug", 1)])).await.unwrap();
    assert_eq!(
        (cart_work(&bench, "o1").await.as_str(), moved(&bench, "o1.cart.restored").await),
        ("undone", with(&[]))
    );
    clear_cart(&desk(&bench), order_placed("o1", &[("mug", 1)])).await.unwrap();
    assert_eq!(cart(&bench).await, with(&[("mug", 1), ("poster", 2)]));
    assert_eq!(event_types_of(&bench, "o1").await, ["cart.restored"]);
}

#[tokio::test]
async fn an_order_older_than_what_is_known_of_orders_takes_no_line() {
    let bench = Bench::start().await;
    filled(&bench).await;
    let before = cart(&bench).await;
    let message = order_placed("o1", &[("poster", 2)]);
    let late = Message::new(&message.id, message.body.clone(), NOW.plus_millis(ACTED_ON_MILLIS + 1));
    clear_cart(&Orders::new(bench.proxy.table("orders")), late).await.unwrap();
    assert_eq!(cart(&bench).await, before);
    assert!(events(&bench).await.is_empty());
}

#[tokio::test]
async fn events_that_are_redelivered_are_answered_again_and_do_nothing() {
    let bench = Bench::start().await;
    filled(&bench).await;
    for (message, event) in [
        (order_placed("o1", &[("mug", 1)]), "o1.cart.cleared"),
        (order_failed("o1", &[("mug", 1)]), "o1.cart.restored"),
    ] {
        clear_cart(&desk(&bench), message.clone()).await.unwrap();
        let after = cart(&bench).await;
        publish(&bench).await;
        assert!(!is_republished(&bench, event).await);
        clear_cart(&desk(&bench), message).await.unwrap();
        assert!(is_republished(&bench, event).await);
        assert_eq!(cart(&bench).await, after);
    }
}

#[tokio::test]
async fn clearing_a_cart_survives_being_cut_off_before_and_after_its_write() {
    for fate in [Fate::Dropped, Fate::AnswerLost] {
        let bench = Bench::start().await;
        filled(&bench).await;
        for (message, expected) in [
            (order_placed("o1", &[("mug", 1)]), with(&[("poster", 2)])),
            (order_failed("o1", &[("mug", 1)]), with(&[("mug", 1), ("poster", 2)])),
        ] {
            // As often as the client retries by itself.
            bench.proxy.inject(Rule::on("TransactWriteItems").times(3), fate.clone());
            let cut_off = clear_cart(&desk(&bench), message.clone()).await;
            assert!(matches!(cut_off, Err(Fault::Unavailable(_))), "{fate:?}: {cut_off:?}");
            bench.proxy.heal();
            clear_cart(&desk(&bench), message).await.unwrap();
            assert_eq!(cart(&bench).await, expected, "{fate:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_many_orders_at_once_take_each_line_once_and_all_of_it_comes_back() {
    let bench = Arc::new(Bench::start().await);
    filled(&bench).await;
    let all = with(&[("mug", 1), ("poster", 2)]);
    for round in 0..5 {
        let id = |n: usize| format!("o{round}-{n}");
        for message in [order_placed, order_failed] {
            let mut deliveries = JoinSet::new();
            for n in 0..8 {
                let (bench, message) = (Arc::clone(&bench), message(&id(n / 2), &[("mug", 1), ("poster", 2)]));
                deliveries.spawn(async move { deliver(&desk(&bench), message).await });
            }
            deliveries.join_all().await;
        }
        assert_eq!(cart(&bench).await, all);
        let mut mugs = 0;
        for n in 0..4 {
            let taken = moved(&bench, &format!("{}.cart.cleared", id(n))).await;
            assert_eq!(moved(&bench, &format!("{}.cart.restored", id(n))).await, taken);
            mugs += taken.get("mug").copied().unwrap_or(0);
        }
        assert_eq!(mugs, 1, "it was in the cart once");
    }
}

/// Delivers messages for as long as they meet other writers, as their queue does.
async fn deliver(store: &Orders, message: Message) {
    for _ in 0..50 {
        match clear_cart(store, message.clone()).await {
            Ok(()) => return,
            Err(Fault::Contended(_)) => {}
            Err(fault) => panic!("{}", fault.chain()),
        }
    }
    panic!("it never gets through");
}

#[tokio::test]
async fn what_is_no_event_of_an_order_and_no_answer_to_one_is_poison() {
    let bench = Bench::start().await;
    let other =
        EventBody::OrderReported(OrderReported { order_id: OrderId::parse("o1").unwrap(), user_id: user("alice") });
    let cleared = clear_cart(&desk(&bench), message("o1", other, NOW)).await;
    assert!(matches!(cleared, Err(Fault::Broken(_))), "{cleared:?}");
    let tracked = track_order(&desk(&bench), order_placed("o1", &[("mug", 1)])).await;
    assert!(matches!(tracked, Err(Fault::Broken(_))), "{tracked:?}");
    for poison in ["", "{}", "[]"] {
        let message = Message::new("m", poison, NOW);
        assert!(matches!(clear_cart(&desk(&bench), message.clone()).await, Err(Fault::Broken(_))));
        assert!(matches!(track_order(&desk(&bench), message).await, Err(Fault::Broken(_))));
    }
}

// -------------------------------------------------------------------------------------------------------- answers

/// The events that a participant can publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    Deducted,
    OutOfStock,
    Restored,
    Used,
    Short,
    Returned,
    Cleared,
    CartRestored,
    Reported,
}

impl Published {
    pub fn to(self, id: &str) -> Message {
        let (order_id, user_id) = (OrderId::parse(id).unwrap(), user("alice"));
        let stock = StockEvent { order_id: order_id.clone(), user_id: user_id.clone(), pieces: Vec::new() };
        let points = PointsEvent { order_id: order_id.clone(), user_id: user_id.clone(), amount: won(0) };
        let cart = CartEvent { order_id: order_id.clone(), user_id: user_id.clone(), pieces: Vec::new() };
        let body = match self {
            Self::Deducted => EventBody::StockDeducted(stock),
            Self::OutOfStock => {
                let (reason, items) = (OrderFailure::OutOfStock, vec![item_id("poster")]);
                EventBody::StockRefused(StockRefused { order_id, user_id, reason, items })
            }
            Self::Restored => EventBody::StockRestored(stock),
            Self::Used => EventBody::PointsUsed(points),
            Self::Short => {
                let (reason, amount) = (OrderFailure::InsufficientPoints, won(1));
                EventBody::PointsRefused(PointsRefused { order_id, user_id, amount, reason })
            }
            Self::Returned => EventBody::PointsReturned(points),
            Self::Cleared => EventBody::CartCleared(cart),
            Self::CartRestored => EventBody::CartRestored(cart),
            Self::Reported => EventBody::OrderReported(OrderReported { order_id, user_id }),
        };
        message(id, body, NOW)
    }
}

pub async fn deliver_answer(bench: &Bench, id: &str, answer: Published) {
    track_order(&desk(bench), answer.to(id)).await.unwrap();
}

fn permutations<const N: usize>(of: [Published; N]) -> Vec<Vec<Published>> {
    let mut all = vec![Vec::new()];
    for answer in of {
        all = all
            .into_iter()
            .flat_map(|order| {
                (0..=order.len()).map(move |place| {
                    let mut longer = order.clone();
                    longer.insert(place, answer);
                    longer
                })
            })
            .collect();
    }
    all
}

#[tokio::test]
async fn an_order_is_complete_with_the_last_of_three_answers_in_whatever_order_and_however_often_they_come() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let orders = permutations([Published::Deducted, Published::Used, Published::Cleared, Published::Reported]);
    assert_eq!(orders.len(), 24);
    for (n, answers) in orders.into_iter().enumerate() {
        let id = placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
        let mut missing = 3;
        for answer in answers.iter().copied() {
            assert_eq!(status(&bench, &id).await, "pending", "{answers:?}");
            for _ in 0..2 {
                deliver_answer(&bench, &id, answer).await;
            }
            missing -= usize::from(answer != Published::Reported);
            if missing == 0 {
                break;
            }
        }
        assert_eq!(status(&bench, &id).await, "completed", "{answers:?}");
        deliver_answer(&bench, &id, Published::Reported).await;
        assert!(work_state(&bench, &id).await.values().all(|work| work == "done"));
        assert_eq!(event_types_of(&bench, &id).await, ["order.completed", "order.placed"]);
        assert_eq!(due_at(&bench, &id).await, None, "nobody owes it anything");
    }
}

#[tokio::test]
async fn the_first_refusal_fails_an_order_with_its_reason_and_the_second_changes_nothing() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    for (n, answers) in permutations([Published::OutOfStock, Published::Short, Published::Cleared, Published::Reported])
        .into_iter()
        .enumerate()
    {
        let id = placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
        for answer in &answers {
            deliver_answer(&bench, &id, *answer).await;
        }
        let first = answers.iter().find(|answer| [Published::OutOfStock, Published::Short].contains(answer)).unwrap();
        let expected = if *first == Published::Short { "insufficient_points" } else { "out_of_stock" };
        assert_eq!(status(&bench, &id).await, expected, "{answers:?}");
        let EventBody::OrderFailed(failed) = events(&bench).await.remove(&format!("{id}.order.failed")).unwrap().body
        else {
            panic!("{answers:?}")
        };
        assert_eq!((failed.reason.as_str(), failed.order.lines.len()), (expected, 1));
        assert_eq!(event_types_of(&bench, &id).await, ["order.failed", "order.placed"]);
    }
}

#[tokio::test]
async fn a_failed_order_is_settled_once_every_participant_has_undone_its_part_however_late_the_rest_comes() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let undoing = [Published::Restored, Published::Returned, Published::CartRestored];
    for (n, undone) in permutations(undoing).into_iter().enumerate() {
        let id = placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
        deliver_answer(&bench, &id, Published::OutOfStock).await;
        assert_eq!(due_at(&bench, &id).await, Some(NOW.plus_seconds(FIRST_LOOK_SECONDS)));
        for answer in undone {
            assert!(due_at(&bench, &id).await.is_some(), "somebody still owes it something");
            deliver_answer(&bench, &id, answer).await;
            // What was done before is delivered after what undid it.
            deliver_answer(&bench, &id, Published::Used).await;
            deliver_answer(&bench, &id, Published::Cleared).await;
        }
        let settled_at = order_row(&bench, &id).await.moment("settled_at").unwrap();
        assert_eq!((due_at(&bench, &id).await, settled_at), (None, NOW));
        deliver_answer(&bench, &id, Published::Deducted).await;
        deliver_answer(&bench, &id, Published::Restored).await;
        assert_eq!(status(&bench, &id).await, "out_of_stock");
        assert_eq!(event_types_of(&bench, &id).await, ["order.failed", "order.placed"]);
    }
}

#[tokio::test]
async fn an_order_that_ran_out_of_time_does_not_complete_by_answers_that_were_in_flight() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    assert!(desk(&bench).fail(&order(&bench, &id).await, &OrderFailure::TimedOut.into(), NOW).await.unwrap());
    for answer in [Published::Deducted, Published::Used, Published::Cleared] {
        deliver_answer(&bench, &id, answer).await;
    }
    assert_eq!(status(&bench, &id).await, "timed_out");
    assert!(due_at(&bench, &id).await.is_some());
    assert_eq!(event_types_of(&bench, &id).await, ["order.failed", "order.placed"]);
}

#[tokio::test]
async fn an_answer_survives_being_cut_off_before_and_after_each_of_its_writes() {
    for fate in [Fate::Dropped, Fate::AnswerLost] {
        for write in ["UpdateItem", "TransactWriteItems"] {
            for (last, end) in [(Published::Cleared, "completed"), (Published::Short, "insufficient_points")] {
                let bench = Bench::start().await;
                open_shop(&bench).await;
                let id = placed(&bench, &[("poster", 1)], "k").await;
                deliver_answer(&bench, &id, Published::Deducted).await;
                if last == Published::Cleared {
                    deliver_answer(&bench, &id, Published::Used).await;
                }
                bench.proxy.inject(Rule::on(write).times(3), fate.clone());
                let cut_off = track_order(&desk(&bench), last.to(&id)).await;
                assert!(matches!(cut_off, Err(Fault::Unavailable(_))), "{fate:?} {write}: {cut_off:?}");
                bench.proxy.heal();
                deliver_answer(&bench, &id, last).await;
                assert_eq!(status(&bench, &id).await, end, "{fate:?} {write}");
            }
        }
    }
}

#[tokio::test]
async fn a_refusal_that_was_noted_and_then_lost_fails_the_order_with_the_next_answer() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    bench.proxy.inject(Rule::on("TransactWriteItems").times(3), Fate::Dropped);
    assert!(track_order(&desk(&bench), Published::OutOfStock.to(&id)).await.is_err());
    bench.proxy.heal();
    deliver_answer(&bench, &id, Published::Cleared).await;
    assert_eq!(status(&bench, &id).await, "out_of_stock");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_all_come_at_once_and_twice_complete_an_order_once() {
    let bench = Arc::new(Bench::start().await);
    open_shop(&bench).await;
    for n in 0..5 {
        let id = placed(&bench, &[("poster", 1)], &format!("k{n}")).await;
        let mut answers = JoinSet::new();
        for answer in [Published::Deducted, Published::Used, Published::Cleared, Published::Reported]
            .into_iter()
            .flat_map(|answer| [answer, answer])
        {
            let (bench, id) = (Arc::clone(&bench), id.clone());
            answers.spawn(async move { deliver_answer(&bench, &id, answer).await });
        }
        answers.join_all().await;
        assert_eq!(status(&bench, &id).await, "completed");
    }
}

#[tokio::test]
async fn an_answer_is_one_round_trip_and_a_second_one_where_it_decides_something() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    for (answer, actions) in [
        (Published::Deducted, vec!["UpdateItem"]),
        (Published::Reported, vec!["UpdateItem"]),
        (Published::Used, vec!["UpdateItem"]),
        (Published::Cleared, vec!["UpdateItem", "TransactWriteItems"]),
    ] {
        bench.proxy.forget();
        deliver_answer(&bench, &id, answer).await;
        assert_eq!(bench.proxy.actions(), actions, "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_to_an_order_that_is_forgotten_makes_nothing() {
    let bench = Bench::start().await;
    for answer in [Published::Deducted, Published::OutOfStock, Published::Restored] {
        deliver_answer(&bench, "gone", answer).await;
    }
    assert!(bench.engine.items("orders").await.is_empty());
}

// ----------------------------------------------------------------------------------------------------- the sweep

pub async fn sweep(bench: &Bench, tick: impl Into<Tick>) -> Result<(), Fault> {
    sweep_orders(&SweepDeps { store: desk(bench), deadline_seconds: DEADLINE_SECONDS }, tick).await
}

/// The one order that is due.
pub async fn the_due(bench: &Bench, now: Timestamp) -> DueOrder {
    let mut found = Vec::new();
    for shard in 0..DUE_SHARDS {
        found.extend(desk(bench).due_orders(shard, now, None).await.unwrap().rows);
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test]
async fn an_order_without_its_answers_is_published_again_after_a_minute_and_fails_at_its_deadline() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    let event = format!("{id}.order.placed");
    publish(&bench).await;
    sweep(&bench, NOW.plus_seconds(FIRST_LOOK_SECONDS - 1)).await.unwrap();
    assert!(!is_republished(&bench, &event).await);
    sweep(&bench, NOW.plus_seconds(FIRST_LOOK_SECONDS)).await.unwrap();
    assert!(is_republished(&bench, &event).await);
    let deadline = NOW.plus_seconds(DEADLINE_SECONDS);
    assert_eq!(due_at(&bench, &id).await, Some(deadline));
    sweep(&bench, deadline.plus_millis(-1)).await.unwrap();
    assert_eq!(status(&bench, &id).await, "pending");
    sweep(&bench, deadline).await.unwrap();
    assert_eq!(status(&bench, &id).await, "timed_out");
    assert_eq!(event_types_of(&bench, &id).await, ["order.failed", "order.placed"]);
    assert_eq!(due_at(&bench, &id).await, Some(deadline.plus_seconds(FIRST_LOOK_SECONDS)));
}

#[tokio::test]
async fn the_failure_of_an_order_is_published_until_it_is_settled_and_the_on_call_is_paged_once() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    deliver_answer(&bench, &id, Published::OutOfStock).await;
    let (failed, stuck) = (format!("{id}.order.failed"), format!("order-undo-stuck:{id}.fault.detected"));
    let mut now = NOW;
    for nudge in 1..=STUCK_NUDGES + 2 {
        publish(&bench).await;
        now = due_at(&bench, &id).await.unwrap();
        sweep(&bench, now).await.unwrap();
        assert!(is_republished(&bench, &failed).await, "nudge {nudge}");
        assert_eq!(events(&bench).await.contains_key(&stuck), nudge >= STUCK_NUDGES, "nudge {nudge}");
        if nudge == STUCK_NUDGES {
            assert_eq!(now.millis_since(NOW), 16 * 60_000, "a quarter of an hour");
        }
        let bus = Bus::start().await;
        let relay = Relay::new("orders", bench.engine.table("orders"), outbox::Bus::new(bus.client(), BUS.to_owned()));
        relay.sweep(now.plus_seconds(61)).await.unwrap();
        assert!(bus.ids().contains(&failed));
        assert_eq!(bus.ids().contains(&stuck), nudge == STUCK_NUDGES, "nudge {nudge}");
    }
    let EventBody::FaultDetected(FaultDetected { fault, detail, .. }) =
        events(&bench).await.remove(&stuck).unwrap().body
    else {
        panic!("{stuck}")
    };
    assert_eq!(fault, "orders-stuck");
    assert!(detail.contains("alice"), "{detail}");
    for answer in [Published::Restored, Published::Returned, Published::CartRestored] {
        deliver_answer(&bench, &id, answer).await;
    }
    bench.proxy.forget();
    sweep(&bench, now.plus_seconds(86_400)).await.unwrap();
    assert!(bench.proxy.actions().iter().all(|action| action == "Query"), "nothing is due");
}

#[tokio::test]
async fn an_order_that_cannot_be_handled_and_one_that_cannot_be_read_keep_no_other_from_its_end() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(placed(&bench, &[("poster", 1)], &format!("k{n}")).await);
    }
    let table = bench.engine.table("orders");
    let mut unreadable = order_row(&bench, &ids[0]).await;
    unreadable.insert("status".to_owned(), s("who knows"));
    table.client.put_item().table_name(&table.name).set_item(Some(unreadable)).send().await.unwrap();
    bench.proxy.inject(Rule::on("TransactWriteItems").containing(&ids[1]), Fate::Failed);
    let deadline = NOW.plus_seconds(DEADLINE_SECONDS);
    assert!(sweep(&bench, deadline).await.is_err());
    assert_eq!(status(&bench, &ids[1]).await, "pending");
    for id in &ids[2..] {
        assert_eq!(status(&bench, id).await, "timed_out");
    }
    bench.proxy.heal();
    sweep(&bench, deadline).await.unwrap();
    assert_eq!(status(&bench, &ids[1]).await, "timed_out");
}

#[tokio::test]
async fn a_sweep_whose_time_is_over_begins_nothing_and_the_next_one_finds_the_rest() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let mut ids = Vec::new();
    for n in 0..12 {
        ids.push(placed(&bench, &[("poster", 1)], &format!("k{n}")).await);
    }
    let deadline = NOW.plus_seconds(DEADLINE_SECONDS);
    let failed = async || {
        let mut failed = 0;
        for id in &ids {
            failed += usize::from(status(&bench, id).await == "timed_out");
        }
        failed
    };
    sweep(&bench, tick_of(0, deadline)).await.unwrap();
    assert_eq!(failed().await, 0);
    sweep(&bench, tick_of(DUE_SHARDS + 12, deadline)).await.unwrap();
    assert!((1..12).contains(&failed().await), "{}", failed().await);
    sweep(&bench, deadline).await.unwrap();
    assert_eq!(failed().await, 12);
}

#[tokio::test]
async fn an_order_that_completes_while_the_sweep_looks_at_it_stays_complete() {
    let bench = Bench::start().await;
    open_shop(&bench).await;
    let id = placed(&bench, &[("poster", 1)], "k").await;
    for answer in [Published::Deducted, Published::Used] {
        deliver_answer(&bench, &id, answer).await;
    }
    let gate = bench.proxy.hold(Rule::on("TransactWriteItems").once());
    let sweeping = sweep(&bench, NOW.plus_seconds(DEADLINE_SECONDS));
    let answering = async {
        gate.reached().await;
        deliver_answer(&bench, &id, Published::Cleared).await;
        gate.open();
    };
    tokio::join!(sweeping, answering).0.unwrap();
    assert_eq!(status(&bench, &id).await, "completed");
    assert_eq!(event_types_of(&bench, &id).await, ["order.completed", "order.placed"]);
}

/// An answer of the stock, as it is noted.
pub fn stock_answer(id: &str, did: Did) -> Answer {
    Answer { order: OrderId::parse(id).unwrap(), participant: Participant::Stock, did }
}
