//! Negative controls of the orders table; see [`crate::controls`].

use crate::bench::{Bench, key, memo};
use crate::controls::{controls, remove};
use crate::items::item_id;
use crate::orders::{
    cart, desk, due_at, fill_cart, filled, moved, open_shop, order, order_failed, order_placed, placed, put,
    stock_answer, the_due,
};
use ::orders::domain::{Did, FIRST_LOOK_SECONDS, Order, Status};
use ::orders::handlers::clear_cart;
use ::orders::ports::{
    CancelOrder, ChangeCart, EndOrder, FindCart, FindDue, KeepAnswers, OpenOrder, PutOff, SettleOrder,
};
use contracts::OrderId;
use contracts::choreography::ParticipantState;
use contracts::orders::OrderFailure;
use kit::queue::Message;
use serde_json::json;
use tests::fixture::{NOW, user};

/// Holds back the message's write until something else is done.
async fn crossed(bench: &Bench, slow: Message, quick: impl Future<Output = ()>) {
    bench.crossed(consume(bench, slow), quick).await;
}

/// The order of alice's that there is, placed now if there is none.
async fn the_order(bench: &Bench) -> Order {
    let id = placed(bench, &[("mug", 1)], "k").await;
    order(bench, &id).await
}

async fn consume(bench: &Bench, message: Message) {
    clear_cart(&desk(bench), message).await.unwrap();
}

controls! {
    an_order_that_failed_takes_no_lines_however_late_it_is_placed: "orders/first_work"
    guards "attribute_not_exists(pk)", |bench| {
        filled(bench).await;
        crossed(bench, order_placed("o1", &[("mug", 1)]), consume(bench, order_failed("o1", &[("mug", 1)]))).await;
        !cart(bench).await.contains_key("mug")
    }

    an_order_that_takes_its_lines_while_its_failure_settles_gives_them_back: "orders/first_work"
    guards "attribute_not_exists(pk)", |bench| {
        filled(bench).await;
        crossed(bench, order_failed("o1", &[("mug", 1)]), consume(bench, order_placed("o1", &[("mug", 1)]))).await;
        !cart(bench).await.contains_key("mug")
    }

    a_line_that_is_put_while_an_order_takes_the_one_before_it_stays: "orders/cart_lines"
    guards "rev = :rev", |bench| {
        filled(bench).await;
        crossed(bench, order_placed("o1", &[("mug", 1)]), put(bench, "mug", 7, NOW.plus_seconds(1))).await;
        cart(bench).await.get("mug") != Some(&7)
    }

    a_line_that_is_put_while_the_one_before_it_comes_back_stays: "orders/cart_lines"
    guards "rev = :rev", |bench| {
        filled(bench).await;
        consume(bench, order_placed("o1", &[("mug", 1)])).await;
        crossed(bench, order_failed("o1", &[("mug", 1)]), put(bench, "mug", 7, NOW.plus_seconds(1))).await;
        cart(bench).await.get("mug") != Some(&7)
    }

    what_came_back_is_published_as_it_came_back: "orders/put_lines_back"
    guards "work_state = :before", |bench| {
        filled(bench).await;
        consume(bench, order_placed("o1", &[("mug", 1)])).await;
        put(bench, "mug", 7, NOW.plus_seconds(1)).await;
        // The one finds the item in the cart again, the other does not.
        let other = async {
            desk(bench).remove_line(&user("alice"), &item_id("mug")).await.unwrap();
            consume(bench, order_failed("o1", &[("mug", 1)])).await;
        };
        crossed(bench, order_failed("o1", &[("mug", 1)]), other).await;
        cart(bench).await.get("mug") != moved(bench, "o1.cart.restored").await.get("mug")
    }

    a_cart_has_no_more_lines_than_an_order_can_have: "orders/put_line"
    guards "attribute_not_exists(listed) OR contains(listed, :item) OR size(listed) < :most", |bench| {
        let other = fill_cart(bench).await;
        let mut line = desk(bench).find_cart(&user("alice")).await.unwrap().lines.remove(0);
        line.line.item_id = item_id(&other);
        desk(bench).put_line(&user("alice"), &line).await.unwrap().is_some()
    }

    an_id_is_never_given_to_two_orders: "orders/opening"
    guards "attribute_not_exists(pk)", |bench| {
        open_shop(bench).await;
        let id = placed(bench, &[("mug", 1)], "k").await;
        let found = order(bench, &id).await;
        assert!(desk(bench).complete(&found, NOW).await.unwrap());
        desk(bench).open_order(&found, &memo(key("other", json!({}))), 9).await.unwrap().unwrap();
        order(bench, &id).await.status != Status::Completed
    }

    no_more_orders_of_a_user_are_pending_than_may_be: "orders/opening"
    guards "attribute_not_exists(orders) OR size(orders) < :most", |bench| {
        open_shop(bench).await;
        let opened = async |id: &str, key_name: &str| {
            let order = Order { id: OrderId::parse(id).unwrap(), status: Status::Pending, ..the_order(bench).await };
            desk(bench).open_order(&order, &memo(key(key_name, json!({}))), 2).await.unwrap().is_ok()
        };
        opened("o2", "k2").await;
        opened("o3", "k3").await
    }

    what_failed_is_not_cancelled: "orders/cancel"
    guards "#status IN (:pending, :completed)", |bench| {
        open_shop(bench).await;
        let found = the_order(bench).await;
        assert!(desk(bench).fail(&found, &OrderFailure::OutOfStock.into(), NOW).await.unwrap());
        // The event of its failure would be the same; as it is, it says why the order failed first.
        remove(bench, "orders", &format!("OUTBOX#{}.order.failed", found.id), "OUTBOX").await;
        desk(bench).cancel(&found, &user("alice"), None, NOW).await.unwrap();
        order(bench, found.id.as_str()).await.status.is_cancelled()
    }

    no_more_orders_are_cancelled_on_a_day_than_can_be: "orders/counted"
    guards "attribute_not_exists(orders) OR size(orders) < :most", |bench| {
        open_shop(bench).await;
        for name in ["k1", "k2"] {
            let order = order(bench, &placed(bench, &[("mug", 1)], name).await).await;
            desk(bench).cancel(&order, &user("alice"), Some(1), NOW).await.unwrap();
        }
        bench.engine.items("orders").await.iter().filter(|row| row.contains_key("cancelled_by")).count() > 1
    }

    an_order_ends_once: "orders/ended"
    guards "#status = :pending", |bench| {
        open_shop(bench).await;
        let id = placed(bench, &[("mug", 1)], "k").await;
        let found = order(bench, &id).await;
        assert!(desk(bench).complete(&found, NOW).await.unwrap());
        desk(bench).fail(&found, &OrderFailure::TimedOut.into(), NOW).await.unwrap();
        order(bench, &id).await.status != Status::Completed
    }

    what_was_undone_stays_undone_however_late_it_is_reported_done: "orders/note_answer"
    guards "work_state.#participant = :pending", |bench| {
        open_shop(bench).await;
        let id = placed(bench, &[("mug", 1)], "k").await;
        desk(bench).note_answer(&stock_answer(&id, Did::Undo)).await.unwrap();
        let (_, state) = desk(bench).note_answer(&stock_answer(&id, Did::Its)).await.unwrap().unwrap();
        state.stock != ParticipantState::Undone
    }

    an_answer_to_an_order_that_is_forgotten_is_no_poison: "orders/note_answer"
    guards "attribute_exists(work_state)", |bench| {
        desk(bench).note_answer(&stock_answer("gone", Did::Undo)).await.is_err()
    }

    an_order_that_has_not_failed_is_looked_after: "orders/settle"
    guards "#status = :failed", |bench| {
        open_shop(bench).await;
        let id = placed(bench, &[("mug", 1)], "k").await;
        let _settled = desk(bench).settle(&order(bench, &id).await, NOW).await;
        due_at(bench, &id).await.is_none()
    }

    an_order_that_fails_while_the_sweep_looks_at_it_is_looked_at_as_failed: "orders/put_off"
    guards "due_at = :before", |bench| {
        open_shop(bench).await;
        let id = placed(bench, &[("mug", 1)], "k").await;
        let now = NOW.plus_seconds(FIRST_LOOK_SECONDS);
        let due = the_due(bench, now).await;
        assert!(desk(bench).fail(&due.order, &OrderFailure::OutOfStock.into(), now).await.unwrap());
        let put_off = PutOff { until: NOW.plus_seconds(300), nudges: 0, alert: false };
        desk(bench).put_off(&due, put_off, now).await.unwrap();
        due_at(bench, &id).await != Some(now.plus_seconds(FIRST_LOOK_SECONDS))
    }
}
