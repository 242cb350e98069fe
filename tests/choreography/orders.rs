//! One order, whatever happens to it.

use crate::explorer::{Explorer, Facts, Mishap, Seen, Walk};
use crate::world::{DEADLINE_SECONDS, World};
use contracts::Timestamp;
use contracts::steps::{ItemsQuote, QuoteItems};
use items::dynamo::Items;
use items::usecases::quote_items::quote_items;
use kit::{Fault, Reply, StepCall, StepError};
use orders::dynamo::Orders;
use orders::handlers::PlaceDeps;
use orders::ports::AskItems;
use points::domain::{EntryKey, Kind, Movement};
use points::dynamo::Accounts;
use points::ports::PostEntry;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tests::calls::{Ask, users};
use tests::fixture::{NOW, user, won};

/// What two posters and a mug cost.
const PRICE: i64 = 2 * 1_000 + 300;
/// Those who are told of orders, and whom no order depends on.
const OUTSIDE: &[&str] = &["deliver-to-data-platform", "push-alimtalk"];

/// Quotes by the use case itself, in place of the invocation between two functions.
struct Shop(Items);

impl AskItems for Shop {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        let call = StepCall { input: ask.clone(), now: NOW };
        quote_items(&self.0, call).await.map_err(|error| match error {
            StepError::Fault(fault) => fault,
            StepError::Refused(_) => panic!("a quote is never refused"),
        })
    }
}

fn text(reply: Reply, name: &str) -> String {
    reply.body.unwrap()[name].as_str().unwrap().to_owned()
}

/// Alice has `balance` won, a poster, a mug and a sticker in her cart, and orders two posters and a mug, of which the shop
/// has five and `mugs`.
async fn placed(balance: i64, mugs: i64) -> Explorer {
    let world = World::new().await;
    let table = |context| world.engine.table(context);
    let shop = items::handlers::Deps { store: Items::new(table("items")), users: users() };
    let mut ids = Vec::new();
    for (name, price, stock) in [("poster", 1_000, 5), ("mug", 300, mugs), ("sticker", 50, 9)] {
        let body = json!({"name": name, "price": price, "stock": stock});
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
    let deps = PlaceDeps { store: Orders::new(table("orders")), items: Shop(shop.store), users: users() };
    for id in &ids {
        let ask = Ask::at(NOW).user("alice").path("item_id", id).json(json!({"quantity": 1}));
        orders::handlers::put_cart_item(&deps, ask.call()).await.unwrap();
    }
    let before = world.rows("orders").await;
    let line = |index: usize, quantity: i64| json!({"item_id": ids[index], "quantity": quantity});
    let ask = Ask::at(NOW).user("alice").key("key").json(json!({"lines": [line(0, 2), line(1, 1)]}));
    orders::handlers::place_order(&deps, ask.call()).await.unwrap();
    let cart = |of: &[usize]| of.iter().map(|index| (ids[*index].clone(), 1)).collect();
    let facts = Facts {
        stock: 5 + mugs + 9,
        pieces: 3,
        balance,
        price: PRICE,
        cart: cart(&[0, 1, 2]),
        cart_without: cart(&[2]),
    };
    Explorer::new(world, facts, &before).await
}

/// Walks, and says what it saw.
async fn walk(explorer: &mut Explorer, walk: Walk) -> Seen {
    let begun = Instant::now();
    let seen = explorer.walk(&walk).await;
    println!("{:28} {seen}; {} calls so far, {:.1?}", walk.name, explorer.calls(), begun.elapsed());
    seen
}

fn calm(name: &'static str) -> Walk {
    Walk { name, mishap: None, deadline: None, dead: OUTSIDE }
}

#[tokio::test]
async fn first_try_of_all() {
    let mut explorer = placed(10_000, 5).await;
    walk(&mut explorer, Walk { dead: &["push-alimtalk"], ..calm("with platform") }).await;
    for mishap in Mishap::ALL {
        walk(&mut explorer, Walk { mishap: Some(mishap), dead: &["push-alimtalk"], ..calm("all succeed") }).await;
    }
}

#[tokio::test]
async fn first_try_of_refusals() {
    for (balance, mugs) in [(10_000, 0), (0, 5), (0, 0)] {
        let mut explorer = placed(balance + 1, mugs).await;
        walk(&mut explorer, calm("refused")).await;
        for mishap in Mishap::ALL {
            println!("{mishap:?}");
            walk(&mut explorer, Walk { mishap: Some(mishap), ..calm("all succeed") }).await;
        }
    }
}
#[tokio::test]
async fn first_try_of_time() {
    let mut explorer = placed(10_000, 5).await;
    walk(&mut explorer, Walk { deadline: Some(NOW.plus_seconds(DEADLINE_SECONDS)), ..calm("timed out") }).await;
    for mishap in Mishap::ALL {
        println!("{mishap:?}");
        walk(
            &mut explorer,
            Walk { deadline: Some(NOW.plus_seconds(DEADLINE_SECONDS)), mishap: Some(mishap), ..calm("timed out") },
        )
        .await;
    }
}
