//! Negative controls of the items table; see [`crate::controls`].

use crate::bench::Bench;
use crate::controls::controls;
use crate::item_limits::limited;
use crate::items::{failed, item_id, placed, published, put_on_sale, receive, shelf, shop};
use ::items::domain::Label;
use ::items::handlers::deduct_stock;
use ::items::ports::{AddItem, ChangeItem, FindItem, WithdrawItem};
use kit::queue::Message;
use tests::fixture::NOW;

/// Holds back the first message's write until the second is done.
async fn crossed(bench: &Bench, slow: Message, quick: Message) {
    let handled = |message| async { deduct_stock(&shop(bench), message).await.unwrap() };
    bench.crossed(handled(slow), handled(quick)).await;
}

controls! {
    an_id_is_never_given_to_two_items: "items/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        let mut other = shop(bench).find_item(&item_id("poster")).await.unwrap().unwrap();
        other.label = Label::new("Another", 1).unwrap();
        shop(bench).add_item(&other, None, NOW).await.unwrap();
        shop(bench).find_item(&item_id("poster")).await.unwrap() == Some(other)
    }

    an_order_consumed_twice_at_once_takes_its_units_once: "items/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        crossed(bench, placed("o1", &[("poster", 2)]), placed("o1", &[("poster", 2)])).await;
        shelf(bench, "poster").await.sold != 2
    }

    an_order_that_failed_takes_nothing_however_late_it_is_placed: "items/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        crossed(bench, placed("o1", &[("poster", 2)]), failed("o1", &[("poster", 2)])).await;
        shelf(bench, "poster").await.sold != 0
    }

    an_order_that_takes_its_pieces_while_its_failure_settles_gives_them_back: "items/put_new"
    guards "attribute_not_exists(pk)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        crossed(bench, failed("o1", &[("poster", 2)]), placed("o1", &[("poster", 2)])).await;
        shelf(bench, "poster").await.sold != 0
    }

    a_stock_is_never_below_zero: "items/deducted"
    guards "stock >= :pieces AND attribute_not_exists(withdrawn_at) AND \
            (attribute_not_exists(max_per_user) OR max_per_user = :limit)", |bench| {
        put_on_sale(bench, "poster", 2).await;
        crossed(bench, placed("o1", &[("poster", 2)]), placed("o2", &[("poster", 1)])).await;
        shelf(bench, "poster").await.stock < 0
    }

    a_withdrawn_item_is_not_sold: "items/deducted"
    guards "stock >= :pieces AND attribute_not_exists(withdrawn_at) AND \
            (attribute_not_exists(max_per_user) OR max_per_user = :limit)", |bench| {
        put_on_sale(bench, "poster", 2).await;
        let withdrawn = async { assert!(shop(bench).withdraw(&item_id("poster"), NOW).await.unwrap()) };
        let taking = async { deduct_stock(&shop(bench), placed("o1", &[("poster", 1)])).await.unwrap() };
        bench.crossed(taking, withdrawn).await;
        shelf(bench, "poster").await.sold != 0
    }

    an_order_is_decided_by_the_limit_of_when_its_units_are_taken: "items/deducted"
    guards "stock >= :pieces AND attribute_not_exists(withdrawn_at) AND \
            (attribute_not_exists(max_per_user) OR max_per_user = :limit)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        let limiting = async {
            let label = Label::new("Poster", 1).unwrap().limited(Some(2)).unwrap();
            shop(bench).relabel(&item_id("poster"), &label).await.unwrap().unwrap();
        };
        let taking = async { deduct_stock(&shop(bench), placed("o1", &[("poster", 3)])).await.unwrap() };
        bench.crossed(taking, limiting).await;
        shelf(bench, "poster").await.sold != 0
    }

    two_orders_of_a_user_at_once_do_not_exceed_the_limit: "items/counted"
    guards "(attribute_not_exists(#n0) OR #n0 <= :m0)" from "within.join(\" AND \")", |bench| {
        let id = limited(bench, 9, 2).await;
        crossed(bench, placed("o1", &[(&id, 1)]), placed("o2", &[(&id, 2)])).await;
        shelf(bench, &id).await.sold > 2
    }

    pieces_are_put_back_once: "items/restore"
    guards "work_state = :before", |bench| {
        put_on_sale(bench, "poster", 5).await;
        deduct_stock(&shop(bench), placed("o1", &[("poster", 2)])).await.unwrap();
        crossed(bench, failed("o1", &[("poster", 2)]), failed("o1", &[("poster", 2)])).await;
        shelf(bench, "poster").await.stock != 5
    }

    an_item_that_is_not_sold_is_not_changed: "items/change"
    guards "attribute_exists(pk) AND attribute_not_exists(withdrawn_at)", |bench| {
        put_on_sale(bench, "poster", 5).await;
        assert!(shop(bench).withdraw(&item_id("poster"), NOW).await.unwrap());
        shop(bench).relabel(&item_id("poster"), &Label::new("Another", 1).unwrap()).await.unwrap().is_some()
    }

    an_item_that_never_was_is_not_made_by_a_change: "items/change"
    guards "attribute_exists(pk) AND attribute_not_exists(withdrawn_at)", |bench| {
        let _changed = shop(bench).relabel(&item_id("poster"), &Label::new("Another", 1).unwrap()).await;
        !bench.engine.items("items").await.is_empty()
    }

    an_item_that_never_was_is_not_withdrawn: "items/withdraw"
    guards "attribute_exists(pk)", |bench| {
        shop(bench).withdraw(&item_id("poster"), NOW).await.unwrap()
    }

    an_answer_that_is_forgotten_stays_unpublished: "kit/publish_again"
    guards "publish_state = :published", |bench| {
        deduct_stock(&shop(bench), failed("o1", &[("poster", 2)])).await.unwrap();
        let mut row = published(bench, "o1.stock.restored").await;
        row.retain(|name, _| name == "pk" || name == "sk");
        let table = bench.engine.table("items");
        table.client.delete_item().table_name(&table.name).set_key(Some(row)).send().await.unwrap();
        deduct_stock(&shop(bench), failed("o1", &[("poster", 2)])).await.unwrap();
        bench.engine.item("items", "OUTBOX#o1.stock.restored", "OUTBOX").await.is_some()
    }

    no_more_is_taken_away_than_is_left: "items/receive"
    guards "attribute_not_exists(withdrawn_at) AND stock >= :least", |bench| {
        put_on_sale(bench, "poster", 5).await;
        receive(bench, "poster", -6, "k").await.is_ok()
    }
}
