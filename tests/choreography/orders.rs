//! One order, under everything that can happen to it.

use crate::explorer::{Explorer, Facts, Mishap, Seen, Walk};
use crate::world::{DEADLINE_SECONDS, RECEIPTS, World};
use contracts::events::{Event, EventBody, OrderEvent};
use contracts::orders::{OrderLine, Quantity};
use contracts::steps::{BalanceQuote, ItemsQuote, QuoteBalance, QuoteItems};
use contracts::{ItemId, OrderId};
use items::dynamo::Items;
use items::handlers::quote_items;
use kit::{Fault, Reply, StepCall, StepError};
use orders::dynamo::Orders;
use orders::handlers::{CartDeps, PlaceDeps};
use orders::ports::{BalanceClient, QuoteClient};
use points::domain::{EntryKey, Kind, Movement};
use points::dynamo::Accounts;
use points::ports::PostEntry;
use serde_json::json;
use std::collections::BTreeSet;
use std::slice;
use std::time::Instant;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, user, won};

/// What two posters and a mug cost.
const PRICE: i64 = 2 * 1_000 + 300;
/// The consumers of order events that no order depends on.
const OUTSIDE: &[&str] = &["deliver-to-data-platform", "push-alimtalk", RECEIPTS];

/// Quotes by the use case itself, instead of one function invoking another.
struct Shop(Items);

impl QuoteClient for Shop {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        let call = StepCall { input: ask.clone(), now: NOW };
        quote_items(&self.0, call).await.map_err(|error| match error {
            StepError::Fault(fault) => fault,
            StepError::Refused(_) => panic!("a quote is never refused"),
        })
    }
}

/// Points that do not say what a user has: whether an order can be paid is decided with the others.
struct Silent;

impl BalanceClient for Silent {
    async fn balance(&self, _: &QuoteBalance) -> Result<BalanceQuote, Fault> {
        Err(Fault::unavailable("asking what a user can pay", "down"))
    }
}

fn text(reply: Reply, name: &str) -> String {
    reply.body.unwrap()[name].as_str().unwrap().to_owned()
}

/// Alice has `balance` won, a poster, a mug and a sticker in her cart, and orders two posters and a mug, of which the
/// shop has five and `mugs`. A user may have two posters.
async fn placed(balance: i64, mugs: i64) -> Explorer {
    placed_beside(balance, mugs, false).await
}

/// The same, and the stock is told of bob's order of a mug, too, if there is one.
async fn placed_beside(balance: i64, mugs: i64, has_rival: bool) -> Explorer {
    let mut world = World::new().await;
    let table = |context| world.stage.engine.table(context);
    let shop = items::handlers::Deps { store: Items::new(table("items")), users: users() };
    let mut ids = Vec::new();
    for (name, price, stock, most) in
        [("poster", 1_000, 5, Some(2)), ("mug", 300, mugs.max(1), None), ("sticker", 50, 9, None)]
    {
        let body = json!({"name": name, "price": price, "stock": stock, "max_per_user": most});
        let created = items::handlers::create_item(&shop, Ask::at(NOW).operator("op").json(body).call()).await;
        ids.push(text(created.unwrap(), "item_id"));
    }
    let funds = Movement {
        key: EntryKey::charge("funds"),
        entry_id: "funds".into(),
        kind: Kind::Charge,
        amount: won(balance),
        reference: "funds".into(),
        at: NOW,
    };
    Accounts::new(table("points")).post(&user("alice"), &funds).await.unwrap().unwrap();
    let desk = || Orders::new(table("orders"));
    let carts = CartDeps { store: desk(), items: Shop(shop.store.clone()), users: users() };
    for id in &ids {
        let ask = Ask::at(NOW).user("alice").path("item_id", id).json(json!({"quantity": 1}));
        orders::handlers::put_cart_item(&carts, ask.call()).await.unwrap();
    }
    let before = world.stage.rows("orders").await;
    let line = |index: usize, quantity: i64| json!({"item_id": ids[index], "quantity": quantity});
    let ask = Ask::at(NOW).user("alice").key("key").json(json!({"lines": [line(0, 2), line(1, 1)]}));
    let items = Shop(shop.store.clone());
    let deps = PlaceDeps { store: desk(), items, points: Silent, most_pending: 1, users: users() };
    let placed = orders::handlers::place_order(&deps, ask.call()).await.unwrap();
    let order = OrderId::parse(text(placed, "order_id")).unwrap();
    if mugs < 1 {
        // The last one was broken since.
        let broken = Ask::at(NOW).operator("op").key("k").path("item_id", &ids[1]).json(json!({"received": -1}));
        items::handlers::receive_stock(&shop, broken.call()).await.unwrap();
    }
    let cart = |of: &[usize]| of.iter().map(|index| (ids[*index].clone(), 1)).collect();
    let facts = Facts {
        stock: 5 + mugs + 9,
        pieces: 3,
        balance,
        price: PRICE,
        cart: cart(&[0, 1, 2]),
        cart_without: cart(&[2]),
    };
    world.order = Some(order);
    let rival = has_rival.then(|| bobs_order(&ids[1]));
    Explorer::new(world, facts, &before, rival).await
}

/// An order of one unit that the stock alone is told of.
fn bobs_order(item: &str) -> Event {
    let line = OrderLine {
        item_id: ItemId::parse(item).unwrap(),
        name: "mug".into(),
        price: won(300),
        quantity: Quantity::new(1).unwrap(),
    };
    let order_id = OrderId::parse("rival").unwrap();
    let order = OrderEvent { order_id, user_id: user("bob"), lines: vec![line], total_price: won(300) };
    kit::outbox::event("encore/orders", "rival", "request-2", EventBody::OrderPlaced(order), NOW).unwrap()
}

/// Everything is delivered, in every order; the external systems are dead all the time.
const CALM: Walk = Walk { mishaps: &[], at_most: 0, swept_at: None, is_cancelled: false, dead: OUTSIDE };
/// The same, and only the receipts are alive.
const WITH_RECEIPTS: Walk = Walk { dead: &["deliver-to-data-platform", "push-alimtalk"], ..CALM };
/// Everything is dead again, and the order may reach its deadline at any moment.
const TIMED: Walk = Walk { swept_at: Some(NOW.plus_seconds(DEADLINE_SECONDS)), ..CALM };

/// The same, and `order.placed` may be published again at any moment.
const REPUBLISHED: Walk = Walk { swept_at: Some(NOW.plus_seconds(60)), ..CALM };

/// Walks without mishaps, and prints what it saw.
async fn walk(explorer: &mut Explorer, walk: Walk) -> Seen {
    let begun = Instant::now();
    let seen = explorer.walk(&walk).await.unwrap_or_else(|wrong| panic!("{walk:?}: {wrong}"));
    println!(
        "{} of {:?}: {seen}; {} calls so far, {:.1?}",
        walk.at_most,
        walk.mishaps,
        explorer.calls(),
        begun.elapsed()
    );
    seen
}

fn set(ends: &[&str]) -> BTreeSet<String> {
    ends.iter().map(|end| (*end).to_owned()).collect()
}

/// Walks without a mishap: so many paths, to these ends.
async fn walk_calmly(explorer: &mut Explorer, base: Walk, ways: u128, ends: &[&str]) -> Seen {
    let seen = walk(explorer, base).await;
    assert_eq!((seen.size.ways, &seen.ends), (ways, &set(ends)), "{base:?}");
    seen
}

/// Walks with each mishap, which must strike everything that a calm walk delivers and that it can strike, and must not
/// lead to other ends.
async fn walk_with_each_mishap(explorer: &mut Explorer, base: Walk, calm: &Seen) {
    for mishap in &Mishap::ALL {
        let seen = walk(explorer, Walk { mishaps: slice::from_ref(mishap), at_most: 1, ..base }).await;
        assert_eq!(seen.ends, calm.ends, "{mishap:?}");
        let is_struck = |(event, function): &&(String, String)| match mishap {
            Mishap::Lost => event != "the clock" && function != RECEIPTS,
            Mishap::Doubled | Mishap::Crashed | Mishap::Unanswered => true,
            Mishap::Crossed | Mishap::Unpublished => false,
        };
        let struck: BTreeSet<_> = seen.struck.iter().map(|(_, about)| about).collect();
        let spared: Vec<_> = calm.delivered.iter().filter(is_struck).filter(|about| !struck.contains(about)).collect();
        assert!(spared.is_empty() && !struck.is_empty(), "{mishap:?} spared {spared:?}");
        assert!(seen.size.ways > calm.size.ways, "{mishap:?} makes no difference");
    }
}

/// Each of them consumes the failure before the order on some path.
fn assert_tombstones(seen: &Seen, participants: &[&str]) {
    for participant in participants {
        let met = |event: &str, work: &str| (event.to_owned(), (*participant).to_owned(), work.to_owned());
        assert!(seen.met.contains(&met("order.failed", "")), "{participant}");
        assert!(seen.met.contains(&met("order.placed", "undone")), "{participant}");
    }
}

#[tokio::test]
async fn an_order_that_all_can_serve_completes_whatever_happens_once() {
    let mut explorer = placed(PRICE, 1).await;
    let calm = walk_calmly(&mut explorer, CALM, 90, &["completed"]).await;
    walk_with_each_mishap(&mut explorer, CALM, &calm).await;
}

#[tokio::test]
async fn an_order_completes_whatever_happens_to_the_data_platforms_messages() {
    let mut explorer = placed(PRICE, 1).await;
    let alive = Walk { dead: &["push-alimtalk", RECEIPTS], ..CALM };
    let calm = walk_calmly(&mut explorer, alive, 3_240, &["completed"]).await;
    walk_with_each_mishap(&mut explorer, alive, &calm).await;
}

#[tokio::test]
async fn an_order_that_the_stock_refuses_fails_and_is_undone_whatever_happens_once() {
    let mut explorer = placed(PRICE, 0).await;
    let calm = walk_calmly(&mut explorer, CALM, 162_650, &["failed: out_of_stock"]).await;
    assert_tombstones(&calm, &["use-order-points", "clear-cart"]);
    walk_with_each_mishap(&mut explorer, CALM, &calm).await;
}

#[tokio::test]
async fn of_two_orders_of_the_last_unit_one_has_it_whatever_happens_once() {
    let mut explorer = placed_beside(PRICE, 1, true).await;
    let calm = walk_calmly(&mut explorer, CALM, 3_210_550, &["completed", "failed: out_of_stock"]).await;
    walk_with_each_mishap(&mut explorer, CALM, &calm).await;
}

#[tokio::test]
async fn an_order_that_the_points_refuse_fails_and_is_undone_whatever_happens_once() {
    let mut explorer = placed(PRICE - 1, 1).await;
    let calm = walk_calmly(&mut explorer, CALM, 162_650, &["failed: insufficient_points"]).await;
    assert_tombstones(&calm, &["deduct-stock", "clear-cart"]);
    walk_with_each_mishap(&mut explorer, CALM, &calm).await;
}

#[tokio::test]
async fn an_order_that_stock_and_points_refuse_at_once_fails_for_one_of_the_reasons() {
    let mut explorer = placed(PRICE - 1, 0).await;
    let ends = ["failed: insufficient_points", "failed: out_of_stock"];
    let calm = walk_calmly(&mut explorer, CALM, 294_700, &ends).await;
    assert_tombstones(&calm, &["deduct-stock", "use-order-points", "clear-cart"]);
    walk_with_each_mishap(&mut explorer, CALM, &calm).await;
}

#[tokio::test]
async fn an_order_whose_time_is_over_while_answers_are_in_flight_is_wholly_one_or_the_other() {
    let mut explorer = placed(PRICE, 1).await;
    let timed = walk_calmly(&mut explorer, TIMED, 4_977_720, &["completed", "failed: timed_out"]).await;
    assert_tombstones(&timed, &["deduct-stock", "use-order-points", "clear-cart"]);
    walk_with_each_mishap(&mut explorer, TIMED, &timed).await;
}

#[tokio::test]
async fn an_order_that_is_published_again_while_its_messages_are_in_flight_ends_as_it_would_have() {
    let mut explorer = placed(PRICE, 1).await;
    walk_calmly(&mut explorer, REPUBLISHED, 291_690, &["completed"]).await;
    let mut explorer = placed(PRICE - 1, 0).await;
    walk_calmly(&mut explorer, REPUBLISHED, 1_348_054_540, &["failed: insufficient_points", "failed: out_of_stock"])
        .await;
}

#[tokio::test]
async fn an_order_that_is_cancelled_at_any_moment_is_undone_with_its_receipt_whatever_happens_once() {
    let mut explorer = placed(PRICE, 1).await;
    let cancelled = Walk { is_cancelled: true, ..WITH_RECEIPTS };
    let calm = walk_calmly(&mut explorer, cancelled, 57_182_160, &["failed: cancelled"]).await;
    walk_with_each_mishap(&mut explorer, cancelled, &calm).await;
    let mut explorer = placed(PRICE - 1, 1).await;
    let timed = Walk { is_cancelled: true, ..TIMED };
    let ends = ["failed: cancelled", "failed: insufficient_points", "failed: timed_out"];
    walk_calmly(&mut explorer, timed, 33_484_669_120, &ends).await;
}

#[tokio::test]
async fn an_order_that_completes_has_its_receipt_whatever_happens_once() {
    let mut explorer = placed(PRICE, 1).await;
    let calm = walk_calmly(&mut explorer, WITH_RECEIPTS, 90, &["completed"]).await;
    walk_with_each_mishap(&mut explorer, WITH_RECEIPTS, &calm).await;
}

#[tokio::test]
async fn any_two_mishaps_to_an_order_that_all_can_serve_leave_it_one_or_the_other() {
    let mut explorer = placed(PRICE, 1).await;
    let seen = walk(&mut explorer, Walk { mishaps: &Mishap::ALL, at_most: 2, ..CALM }).await;
    assert_eq!(seen.ends, set(&["completed", "failed: timed_out"]));
}

/// What the conditions prevent happens without them, and the walk sees it.
#[tokio::test]
async fn a_world_without_one_of_its_guards_is_found_out() {
    let crossed = Walk { mishaps: &[Mishap::Crossed], at_most: 1, ..CALM };
    let doubled = Walk { mishaps: &[Mishap::Doubled], at_most: 1, ..CALM };
    let guards = [
        ("attribute_not_exists(pk)", 0, false, crossed),
        ("work_state = :before", 0, false, doubled),
        (
            "stock >= :pieces AND attribute_not_exists(withdrawn_at) AND \
          (attribute_not_exists(max_per_user) OR max_per_user = :limit)",
            1,
            true,
            crossed,
        ),
        ("#status = :pending", 1, false, TIMED),
    ];
    for (guard, mugs, has_rival, walk) in guards {
        let mut explorer = placed_beside(PRICE, mugs, has_rival).await;
        explorer.world.stage.loosened = Some(guard);
        let wrong = explorer.walk(&walk).await.err().unwrap_or_else(|| panic!("nothing goes wrong without {guard}"));
        println!("without {guard}: {wrong}");
    }
}
