//! Negative controls of what points does for orders; see [`crate::controls`].

use crate::bench::Bench;
use crate::controls::controls;
use crate::points_orders::{crossed, failed, placed};
use ::points::dynamo::MAX_HOT_ENTRIES;
use ::points::handlers::use_order_points;
use kit::dynamo::{Read, n};

/// Gives alice as many recent entries as an account may have.
async fn fill(bench: &Bench) {
    bench.charge("alice", 500, "k").await;
    let table = bench.engine.table("points");
    let mut account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
    account.insert("hot".to_owned(), n(MAX_HOT_ENTRIES));
    table.client.put_item().table_name(&table.name).set_item(Some(account)).send().await.unwrap();
}

async fn is_paid(bench: &Bench, order: &str) -> bool {
    let work = bench.engine.item("points", &format!("ORDER#{order}"), "WORK").await.unwrap();
    work.text("work_state").unwrap() == "done"
}

controls! {
    an_order_told_twice_at_once_is_paid_once: "points/work_begun"
    guards "attribute_not_exists(pk)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        crossed(bench, placed("alice", "o1", 300), placed("alice", "o1", 300)).await;
        bench.balance("alice").await != 700
    }

    an_order_that_failed_is_not_paid_however_late_it_is_told: "points/work_begun"
    guards "attribute_not_exists(pk)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        crossed(bench, placed("alice", "o1", 300), failed("alice", "o1", 300)).await;
        bench.balance("alice").await != 1_000
    }

    an_order_that_is_paid_while_its_failure_settles_is_paid_back: "points/work_begun"
    guards "attribute_not_exists(pk)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        crossed(bench, failed("alice", "o1", 300), placed("alice", "o1", 300)).await;
        bench.balance("alice").await != 1_000
    }

    an_order_never_overdraws_a_balance: "points/within_transaction"
    guards "balance >= :price AND hot < :full" from "guard", |bench| {
        bench.charge("alice", 500, "k").await;
        for id in ["o1", "o2"] {
            use_order_points(&bench.points, placed("alice", id, 300)).await.unwrap();
        }
        bench.balance("alice").await != 200
    }

    orders_that_cost_nothing_never_fill_an_account: "points/within_transaction"
    guards "attribute_not_exists(hot) OR hot < :full" from "guard", |bench| {
        fill(bench).await;
        use_order_points(&bench.points, placed("alice", "o1", 0)).await.unwrap();
        is_paid(bench, "o1").await
    }

    orders_never_fill_an_account: "points/within_transaction"
    guards "balance >= :price AND hot < :full" from "guard", |bench| {
        fill(bench).await;
        use_order_points(&bench.points, placed("alice", "o1", 1)).await.unwrap();
        is_paid(bench, "o1").await
    }

    an_order_that_fails_twice_at_once_is_paid_back_once: "points/work_undone"
    guards "work_state = :before", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_order_points(&bench.points, placed("alice", "o1", 300)).await.unwrap();
        crossed(bench, failed("alice", "o1", 300), failed("alice", "o1", 300)).await;
        bench.balance("alice").await != 1_000
    }
}
