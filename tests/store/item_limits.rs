//! How many units of an item a user may have, over all of their orders; and that what a read shows to be in vain is not
//! tried on the item's row.

use crate::bench::Bench;
use crate::items::{
    answer_ids, change, create, deliver, failed, item_id, left_and_sold, operator, placed, put_on_sale, refusal,
    refused, seen, shelf, shop,
};
use ::items::handlers::deduct_stock;
use ::items::ports::WithdrawItem;
use contracts::orders::OrderFailure;
use kit::dynamo::Read;
use serde_json::{Value, json};
use tests::fixture::NOW;
use tokio::task::JoinSet;

// ------------------------------------------------------------------------------------------- seen to be in vain

/// Whether a request since the proxy last forgot them wrote this item's row.
fn wrote(bench: &Bench, item: &str) -> bool {
    let key = format!("ITEM#{item}");
    let requests = bench.proxy.seen();
    requests.iter().any(|request| request.action == "TransactWriteItems" && request.body.to_string().contains(&key))
}

#[tokio::test]
async fn an_order_of_what_is_sold_out_is_refused_without_a_write_of_the_items_row() {
    let bench = Bench::start().await;
    for (item, stock) in [("plenty", 9), ("few", 1), ("none", 0), ("gone", 9)] {
        put_on_sale(&bench, item, stock).await;
    }
    assert!(shop(&bench).withdraw(&item_id("gone"), NOW).await.unwrap());
    for (id, lines, reason, items) in [
        ("o1", [("plenty", 1), ("none", 1)], OrderFailure::OutOfStock, "none"),
        ("o2", [("few", 2), ("plenty", 1)], OrderFailure::OutOfStock, "few"),
        ("o3", [("plenty", 1), ("gone", 1)], OrderFailure::ItemWithdrawn, "gone"),
    ] {
        bench.proxy.forget();
        deduct_stock(&shop(&bench), placed(id, &lines)).await.unwrap();
        assert!(lines.iter().all(|(item, _)| !wrote(&bench, item)), "{id}");
        let refused = refusal(&bench, id).await;
        assert_eq!((refused.reason, refused.items), (reason, vec![item_id(items)]));
        bench.proxy.forget();
        deduct_stock(&shop(&bench), placed(id, &lines)).await.unwrap();
        assert!(lines.iter().all(|(item, _)| !wrote(&bench, item)), "{id}, again");
    }
    assert_eq!(left_and_sold(&bench, "plenty").await, (9, 0));
}

#[tokio::test]
async fn what_runs_out_between_the_read_and_the_write_is_refused_all_the_same() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 2).await;
    let handled = |message| async { deduct_stock(&shop(&bench), message).await.unwrap() };
    bench.crossed(handled(placed("o1", &[("poster", 2)])), handled(placed("o2", &[("poster", 1)]))).await;
    assert_eq!(left_and_sold(&bench, "poster").await, (1, 1));
    assert_eq!(answer_ids(&bench).await, ["o1.stock.refused", "o2.stock.deducted"]);
}

// ------------------------------------------------------------------------------------------------ max_per_user

/// An item of which a user may have `most` units.
pub async fn limited(bench: &Bench, stock: i64, most: i64) -> String {
    let body = json!({"name": "Poster", "price": 1_000, "stock": stock, "max_per_user": most});
    let reply = create(bench, operator(), body).await.unwrap();
    reply.body.unwrap()["item_id"].as_str().unwrap().to_owned()
}

/// How many units of an item alice has, as the limit counts them.
pub async fn counted(bench: &Bench, item: &str) -> i64 {
    let row = bench.engine.item("items", "USER#alice", "BOUGHT").await.unwrap_or_default();
    row.get(&format!("n#{item}")).map_or(0, |units| units.as_n().unwrap().parse().unwrap())
}

#[tokio::test]
async fn an_operator_sets_changes_and_lifts_the_limit_of_an_item() {
    let bench = Bench::start().await;
    let id = limited(&bench, 9, 4).await;
    assert_eq!(seen(&bench, &id).await.unwrap()["max_per_user"], 4);
    let put = async |most: Value| {
        let body = json!({"name": "Poster", "price": 1_000, "max_per_user": most});
        change(&bench, &id, body).await.unwrap().body.unwrap()
    };
    assert_eq!(put(json!(2)).await["max_per_user"], 2);
    assert_eq!(put(Value::Null).await.get("max_per_user"), None);
    assert_eq!(seen(&bench, &id).await.unwrap().get("max_per_user"), None);
    for bad in [0, -1, 10_001] {
        let body = json!({"name": "Poster", "price": 1, "max_per_user": bad});
        assert_eq!(refused(create(&bench, operator(), body.clone()).await), (400, "invalid_request"), "{bad}");
        assert_eq!(refused(change(&bench, &id, body).await), (400, "invalid_request"), "{bad}");
    }
}

#[tokio::test]
async fn a_user_has_no_more_units_of_an_item_than_its_limit_over_all_orders() {
    let bench = Bench::start().await;
    let id = limited(&bench, 9, 3).await;
    let take = async |order: &str, units: i64| {
        // Delivered twice: it counts once.
        for _ in 0..2 {
            deduct_stock(&shop(&bench), placed(order, &[(&id, units)])).await.unwrap();
        }
    };
    take("o1", 2).await;
    take("o2", 2).await;
    let over = refusal(&bench, "o2").await;
    assert_eq!((over.reason.as_str(), over.items), ("item_limit_exceeded", vec![item_id(&id)]));
    take("o3", 1).await;
    assert_eq!((left_and_sold(&bench, &id).await, counted(&bench, &id).await), ((6, 3), 3));
    // What a failed order gives back may be had again, once; a refused one gives back nothing.
    for order in ["o1", "o1", "o2"] {
        deduct_stock(&shop(&bench), failed(order, &[(&id, 2)])).await.unwrap();
    }
    assert_eq!((left_and_sold(&bench, &id).await, counted(&bench, &id).await), ((8, 1), 1));
    take("o4", 3).await;
    take("o5", 2).await;
    assert_eq!((left_and_sold(&bench, &id).await, counted(&bench, &id).await), ((6, 3), 3));
    assert_eq!(refusal(&bench, "o4").await.reason.as_str(), "item_limit_exceeded");
}

#[tokio::test]
async fn a_failure_consumed_before_its_order_leaves_the_count_alone() {
    let bench = Bench::start().await;
    let id = limited(&bench, 9, 3).await;
    deduct_stock(&shop(&bench), failed("o1", &[(&id, 2)])).await.unwrap();
    deduct_stock(&shop(&bench), placed("o1", &[(&id, 2)])).await.unwrap();
    assert_eq!((left_and_sold(&bench, &id).await, counted(&bench, &id).await), ((9, 0), 0));
}

#[tokio::test]
async fn who_has_all_they_may_have_does_not_write_the_items_row() {
    let bench = Bench::start().await;
    let id = limited(&bench, 9, 1).await;
    deduct_stock(&shop(&bench), placed("o1", &[(&id, 1)])).await.unwrap();
    bench.proxy.forget();
    deduct_stock(&shop(&bench), placed("o2", &[(&id, 1)])).await.unwrap();
    assert!(!wrote(&bench, &id));
    assert_eq!(refusal(&bench, "o2").await.reason.as_str(), "item_limit_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_orders_of_one_user_at_once_have_the_limit_together() {
    let bench = Bench::start().await;
    let (id, other) = (limited(&bench, 50, 7).await, limited(&bench, 50, 5).await);
    let mut orders = JoinSet::new();
    for n in 0..20 {
        let (store, id, other) = (shop(&bench), id.clone(), other.clone());
        orders.spawn(async move { deliver(&store, placed(&format!("o{n}"), &[(&id, 2), (&other, 1)])).await });
    }
    orders.join_all().await;
    assert_eq!((left_and_sold(&bench, &id).await, counted(&bench, &id).await), ((44, 6), 6));
    assert_eq!((left_and_sold(&bench, &other).await, counted(&bench, &other).await), ((47, 3), 3));
}

#[tokio::test]
async fn a_limit_that_is_set_while_an_order_is_decided_holds_for_it() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 9).await;
    let handled = async { deduct_stock(&shop(&bench), placed("o1", &[("poster", 3)])).await.unwrap() };
    let limiting = async {
        change(&bench, "poster", json!({"name": "Poster", "price": 1, "max_per_user": 2})).await.unwrap();
    };
    bench.crossed(handled, limiting).await;
    assert_eq!(refusal(&bench, "o1").await.reason.as_str(), "item_limit_exceeded");
    assert_eq!(shelf(&bench, "poster").await.sold, 0);
}

#[tokio::test]
async fn an_order_of_fifty_limited_lines_is_counted_and_given_back_as_a_whole() {
    let bench = Bench::start().await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(limited(&bench, 3, 2).await);
    }
    let lines: Vec<(&str, i64)> = ids.iter().map(|id| (id.as_str(), 2)).collect();
    for (message, units) in [(placed("o1", &lines), 2), (failed("o1", &lines), 0)] {
        deduct_stock(&shop(&bench), message).await.unwrap();
        for id in &ids {
            assert_eq!((shelf(&bench, id).await.sold, counted(&bench, id).await), (units, units));
        }
    }
}

#[tokio::test]
async fn what_was_taken_before_there_was_a_limit_is_not_counted_and_gives_nothing_back() {
    let bench = Bench::start().await;
    put_on_sale(&bench, "poster", 9).await;
    deduct_stock(&shop(&bench), placed("o1", &[("poster", 5)])).await.unwrap();
    change(&bench, "poster", json!({"name": "Poster", "price": 1, "max_per_user": 2})).await.unwrap();
    deduct_stock(&shop(&bench), placed("o2", &[("poster", 2)])).await.unwrap();
    deduct_stock(&shop(&bench), failed("o1", &[("poster", 5)])).await.unwrap();
    assert_eq!((left_and_sold(&bench, "poster").await, counted(&bench, "poster").await), ((7, 2), 2));
    let work = bench.engine.item("items", "ORDER#o2", "WORK").await.unwrap();
    assert_eq!(work.text("work_state").unwrap(), "done");
}
