//! Negative controls of points; see [`crate::controls`].

use super::{controls, put};
use crate::bench::Bench;
use crate::points_orders::{crossed, failed, placed};
use ::points::domain::{EntryKey, Kind, Movement};
use ::points::dynamo::{FULL_ENTRIES, HOT_ENTRIES, SETTLED_MILLIS};
use ::points::handlers::return_points;
use ::points::handlers::use_order_points;
use ::points::handlers::use_points;
use ::points::ports::{CloseCharge, PostEntry};
use contracts::saga::ReturnPoints;
use contracts::{Timestamp, Won};
use kit::dynamo::{Item, Read, n, s};
use tests::fixture::{NOW, saga_of, step, undoing, user, won};
use tests::proxy::Rule;

fn charge(id: &str, amount: i64, at: Timestamp) -> Movement {
    Movement {
        key: EntryKey::charge(id),
        entry_id: id.to_owned(),
        kind: Kind::Charge,
        amount: won(amount),
        reference: id.to_owned(),
        at,
    }
}

/// Has all of alice's entries archived but the last few.
async fn archive(bench: &Bench) {
    for index in 0..HOT_ENTRIES + 1 {
        let newer = charge(&format!("n{index}"), 1, NOW.plus_millis(SETTLED_MILLIS + 1));
        bench.points.post(&user("alice"), &newer).await.unwrap().unwrap();
    }
}

/// Makes a movement again while another is held back until it, and much else, is in the archive.
async fn repeated_late<T>(bench: &Bench, repeated: impl Future<Output = T>, meanwhile: impl AsyncFn()) -> T {
    let gate = bench.proxy.hold(Rule::on("UpdateItem").once());
    let archived = async {
        gate.reached().await;
        meanwhile().await;
        archive(bench).await;
        gate.open();
    };
    tokio::join!(repeated, archived).0
}

/// Gives alice an account that has no room, and nothing that could be archived.
async fn fill(bench: &Bench) {
    bench.charge("alice", 500, "k").await;
    let table = bench.engine.table("points");
    let mut account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
    account.insert("hot".to_owned(), n(FULL_ENTRIES));
    table.client.put_item().table_name(&table.name).set_item(Some(account)).send().await.unwrap();
}

async fn is_paid(bench: &Bench, order: &str) -> bool {
    let work = bench.engine.item("points", &format!("ORDER#{order}"), "WORK").await;
    work.is_some_and(|work| work.text("work_state").unwrap() == "done")
}

controls! {
    a_charge_is_made_once_under_its_key: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        for _ in 0..2 {
            bench.charge("alice", 100, "k").await;
        }
        bench.balance("alice").await != 100
    }

    a_balance_keeps_to_its_limit: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        for (id, amount) in [("a", Won::MAX.get()), ("b", 1)] {
            let _posted = bench.points.post(&user("alice"), &charge(id, amount, NOW)).await;
        }
        bench.balance("alice").await > Won::MAX.get()
    }

    an_account_that_has_no_room_takes_no_charge: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        fill(bench).await;
        bench.points.post(&user("alice"), &charge("k2", 1, NOW)).await.is_ok()
    }

    a_payment_takes_its_points_once: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        for _ in 0..2 {
            use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        }
        bench.balance("alice").await != 900
    }

    a_balance_is_never_overdrawn: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 100, "k").await;
        let _used = use_points(&bench.points, step(saga_of("alice", "p1", 101), NOW)).await;
        bench.balance("alice").await < 0
    }

    a_use_after_its_return_takes_nothing: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        let _used = use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await;
        bench.balance("alice").await != 1_000
    }

    a_payment_of_nothing_has_one_entry: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(hot) OR hot < :full) AND (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        for _ in 0..2 {
            use_points(&bench.points, step(saga_of("alice", "p1", 0), NOW)).await.unwrap();
        }
        bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap()["seq"] != n(1)
    }

    points_are_returned_once: "points/posting"
    guards "attribute_exists(#used) AND attribute_not_exists(#entry) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        for _ in 0..2 {
            return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        }
        bench.balance("alice").await != 1_000
    }

    points_that_were_not_used_are_not_returned: "points/posting"
    guards "attribute_exists(#used) AND attribute_not_exists(#entry) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        bench.balance("alice").await != 1_000
    }

    points_of_a_completed_payment_are_refunded_once: "points/posting"
    guards "attribute_not_exists(#entry) AND (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        for _ in 0..2 {
            let refund = ReturnPoints { saga: saga_of("alice", "p1", 100), refund_requested_at: Some(NOW) };
            return_points(&bench.points, step(refund, NOW)).await.unwrap();
        }
        bench.balance("alice").await != 1_000
    }

    a_use_that_arrives_while_its_return_writes_the_tombstone_is_returned: "points/close"
    guards "attribute_not_exists(#made) AND (attribute_not_exists(archives) OR archives = :archives)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        let saga = saga_of("alice", "p1", 100);
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET #void").once());
        let returning = async { return_points(&bench.points, step(undoing(saga.clone()), NOW)).await };
        let using = async {
            gate.reached().await;
            use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap();
            gate.open();
        };
        tokio::join!(returning, using).0.unwrap();
        bench.balance("alice").await != 1_000
    }

    a_charge_that_was_refused_for_good_is_never_made: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.points.close_charge(&user("alice"), &charge("c1", 100, NOW)).await.unwrap();
        let _late = bench.points.post(&user("alice"), &charge("c1", 100, NOW)).await;
        bench.balance("alice").await != 0
    }

    a_charge_that_was_made_is_not_refused_for_good: "points/close"
    guards "attribute_not_exists(#made) AND (attribute_not_exists(archives) OR archives = :archives)", |bench| {
        bench.points.post(&user("alice"), &charge("c1", 100, NOW)).await.unwrap().unwrap();
        bench.points.close_charge(&user("alice"), &charge("c1", 100, NOW)).await.unwrap().is_none()
    }

    a_charge_that_is_archived_meanwhile_is_made_once: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(balance) OR balance <= :limit) AND (attribute_not_exists(hot) OR hot < :full) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 100, "k").await;
        repeated_late(bench, bench.charge("alice", 100, "k"), async || {}).await;
        bench.balance("alice").await != 100 + HOT_ENTRIES as i64 + 1
    }

    a_use_that_is_archived_meanwhile_is_made_once: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND balance >= :limit AND hot < :full AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        let again = async { use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap() };
        repeated_late(bench, again, async || {}).await;
        bench.balance("alice").await != 900 + HOT_ENTRIES as i64 + 1
    }

    a_payment_of_nothing_that_is_archived_meanwhile_has_one_entry: "points/posting"
    guards "attribute_not_exists(#entry) AND attribute_not_exists(#void) AND \
            (attribute_not_exists(hot) OR hot < :full) AND (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        use_points(&bench.points, step(saga_of("alice", "p1", 0), NOW)).await.unwrap();
        let again = async { use_points(&bench.points, step(saga_of("alice", "p1", 0), NOW)).await.unwrap() };
        repeated_late(bench, again, async || {}).await;
        bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap()["seq"] != n(HOT_ENTRIES + 2)
    }

    a_return_that_is_archived_meanwhile_is_made_once: "points/posting"
    guards "attribute_exists(#used) AND attribute_not_exists(#entry) AND \
            (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        let back = async || return_points(&bench.points, step(undoing(saga_of("alice", "p1", 100)), NOW)).await.unwrap();
        repeated_late(bench, back(), async || assert!(!back().await.already)).await;
        bench.balance("alice").await != 1_000 + HOT_ENTRIES as i64 + 1
    }

    a_refund_that_is_archived_meanwhile_is_made_once: "points/posting"
    guards "attribute_not_exists(#entry) AND (attribute_not_exists(archives) OR archives = :archives)" from "guard", |bench| {
        bench.charge("alice", 1_000, "k").await;
        use_points(&bench.points, step(saga_of("alice", "p1", 100), NOW)).await.unwrap();
        let refund = || ReturnPoints { saga: saga_of("alice", "p1", 100), refund_requested_at: Some(NOW) };
        let back = async || return_points(&bench.points, step(refund(), NOW)).await.unwrap();
        repeated_late(bench, back(), async || assert!(!back().await.already)).await;
        bench.balance("alice").await != 1_000 + HOT_ENTRIES as i64 + 1
    }

    a_use_that_is_archived_while_its_return_writes_the_tombstone_is_returned: "points/close"
    guards "attribute_not_exists(#made) AND (attribute_not_exists(archives) OR archives = :archives)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        let saga = saga_of("alice", "p1", 100);
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET #void").once());
        let returning = async { return_points(&bench.points, step(undoing(saga.clone()), NOW)).await };
        let using = async {
            gate.reached().await;
            use_points(&bench.points, step(saga.clone(), NOW)).await.unwrap();
            archive(bench).await;
            gate.open();
        };
        tokio::join!(returning, using).0.unwrap();
        bench.balance("alice").await != 1_000 + HOT_ENTRIES as i64 + 1
    }

    an_entry_is_archived_once: "points/entries_removed"
    guards "attribute_exists(#e0) AND attribute_exists(#last) AND \
            (attribute_not_exists(archives) OR archives = :archives)", |bench| {
        // By its clock, the first entry is younger than those after it: of two who archive, one leaves it.
        for index in 0..60 {
            let at = if (1..20).contains(&index) { NOW } else { NOW.plus_seconds(1) };
            bench.points.post(&user("alice"), &charge(&format!("c{index}"), 1, at)).await.unwrap().unwrap();
        }
        let gate = bench.proxy.hold(Rule::on("TransactWriteItems").once());
        let many = charge("many", 1, NOW.plus_seconds(1).plus_millis(SETTLED_MILLIS + 1));
        let few = charge("few", 1, NOW.plus_millis(SETTLED_MILLIS + 1));
        let slow = async { bench.points.post(&user("alice"), &many).await };
        let quick = async {
            gate.reached().await;
            bench.points.post(&user("alice"), &few).await.unwrap().unwrap();
            gate.open();
        };
        tokio::join!(slow, quick).0.unwrap().unwrap();
        let account = bench.engine.item("points", "USER#alice", "ACCOUNT").await.unwrap();
        account.keys().filter(|name| name.starts_with("e#")).count() as i64 != account.int("hot").unwrap()
    }

    an_archive_is_never_overwritten: "points/page_written"
    guards "attribute_not_exists(pk)", |bench| {
        let kept = Item::from([
            ("pk".to_owned(), s("USER#alice")),
            ("sk".to_owned(), s("LEDGER#000000000032")),
            ("entries".to_owned(), s("[]")),
        ]);
        put(bench, "points", kept.clone()).await;
        for index in 0..60 {
            bench.points.post(&user("alice"), &charge(&format!("c{index}"), 1, NOW)).await.unwrap().unwrap();
        }
        let later = charge("later", 1, NOW.plus_millis(SETTLED_MILLIS + 1));
        bench.points.post(&user("alice"), &later).await.unwrap().unwrap();
        bench.engine.item("points", "USER#alice", "LEDGER#000000000032").await != Some(kept)
    }

    an_order_consumed_twice_at_once_is_paid_once: "points/work_begun"
    guards "attribute_not_exists(pk)", |bench| {
        bench.charge("alice", 1_000, "k").await;
        crossed(bench, placed("alice", "o1", 300), placed("alice", "o1", 300)).await;
        bench.balance("alice").await != 700
    }

    an_order_that_failed_is_not_paid_however_late_it_is_consumed: "points/work_begun"
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
        let _outcome = use_order_points(&bench.points, placed("alice", "o1", 0)).await;
        is_paid(bench, "o1").await
    }

    orders_never_fill_an_account: "points/within_transaction"
    guards "balance >= :price AND hot < :full" from "guard", |bench| {
        fill(bench).await;
        let _outcome = use_order_points(&bench.points, placed("alice", "o1", 1)).await;
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
