//! Carts and orders through the deployed choreography: stock, points and cart answer on their own queues.

use crate::on_cloud;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tests::cloud::{User, code, eventually, text, unique};

/// The ends of orders: how many `completed`, or were refused or failed for which reason.
async fn ends(orders: &[(User, Result<String, String>)]) -> BTreeMap<String, usize> {
    let mut ends = BTreeMap::new();
    for (fan, order) in orders {
        let what = match order {
            Ok(order) => {
                let end = fan.final_order(order).await;
                end["failure"].as_str().or(end["status"].as_str()).unwrap_or_default().to_owned()
            }
            Err(code) => code.clone(),
        };
        *ends.entry(what).or_default() += 1;
    }
    ends
}

#[test]
fn an_order_takes_stock_points_and_its_lines_out_of_the_cart() {
    on_cloud(async |cloud| {
        let (poster, mug) = (cloud.item(1_000, 5).await, cloud.item(300, 5).await);
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        fan.put_in_cart(&poster, 2).await;
        let cart = fan.put_in_cart(&mug, 1).await;
        assert_eq!(cart["total_price"], 2_300);
        let placed = fan.order(&[(&poster, 2)], "k").await;
        assert_eq!(placed.status, 202, "{}", placed.text());
        let order = text(&placed.json(), "order_id");
        assert_eq!(placed.headers["location"], format!("/orders/{order}"));
        assert_eq!((&placed.json()["status"], &placed.json()["total_price"]), (&json!("pending"), &json!(2_000)));
        let end = fan.final_order(&order).await;
        assert_eq!(end["status"], "completed", "{end}");
        assert_eq!(end["lines"], json!([{"item_id": poster, "name": "Poster", "price": 1_000, "quantity": 2}]));
        assert_eq!(cloud.stock(&poster).await, 3);
        assert_eq!(fan.balance().await, 8_000);
        assert_eq!(fan.cart().await, [(mug, 1)], "only what was ordered leaves the cart");
        let newest = fan.get("/points/history?limit=1").await.json();
        assert_eq!((&newest["items"][0]["kind"], &newest["items"][0]["reference"]), (&json!("use"), &json!(order)));
        assert_eq!(fan.get("/orders").await.json()["items"][0], end);
    });
}

#[test]
fn who_cannot_pay_is_told_before_anything_is_taken() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 5).await;
        let fan = cloud.user("poor");
        fan.charge(1_999).await;
        fan.put_in_cart(&poster, 2).await;
        for _ in 0..2 {
            let refused = fan.order(&[(&poster, 2)], "k").await;
            assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "insufficient_points"));
        }
        assert_eq!(fan.get("/orders").await.json()["items"], json!([]));
        assert_eq!((cloud.stock(&poster).await, fan.balance().await), (5, 1_999), "nothing was touched");
        assert_eq!(fan.cart().await, [(poster.clone(), 2)]);
        fan.charge(1).await;
        let placed = fan.order(&[(&poster, 2)], "k").await;
        assert_eq!(placed.status, 202, "the key was free: {}", placed.text());
        assert_eq!(fan.final_order(&text(&placed.json(), "order_id")).await["status"], "completed");
    });
}

#[test]
fn an_order_of_several_lines_takes_all_of_them_or_none() {
    on_cloud(async |cloud| {
        let (poster, mug) = (cloud.item(100, 5).await, cloud.item(100, 1).await);
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let order = fan.ordered(&[(&poster, 2), (&mug, 2)]).await;
        let end = fan.final_order(&order).await;
        assert_eq!((&end["status"], &end["failure"]), (&json!("failed"), &json!("out_of_stock")));
        assert_eq!(end["items"], json!([mug]));
        eventually("the points are back", async || (fan.balance().await == 10_000).then_some(())).await;
        assert_eq!((cloud.stock(&poster).await, cloud.stock(&mug).await), (5, 1));
    });
}

#[test]
fn three_hundred_orders_for_a_hundred_units_complete_a_hundred_times() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 100).await;
        let orders: Vec<_> = (0..300)
            .map(|_| {
                let (fan, poster) = (cloud.user("fan"), poster.clone());
                tokio::spawn(async move {
                    fan.charge(1_500).await;
                    let order = fan.tried(&[(&poster, 1)]).await;
                    (fan, order)
                })
            })
            .collect();
        let mut placed = Vec::new();
        for order in orders {
            placed.push(order.await.unwrap());
        }
        let expected = BTreeMap::from([("completed".to_owned(), 100), ("out_of_stock".to_owned(), 200)]);
        assert_eq!(ends(&placed).await, expected);
        assert_eq!(cloud.stock(&poster).await, 0);
        for (fan, order) in &placed {
            let completed = match order {
                Ok(order) => fan.get(&format!("/orders/{order}")).await.json()["status"] == "completed",
                Err(_) => false,
            };
            let left = if completed { 500 } else { 1_500 };
            eventually("the points are settled", async || (fan.balance().await == left).then_some(())).await;
        }
    });
}

#[test]
fn ten_orders_at_once_with_points_for_three_complete_three_times() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 100).await;
        let fan = cloud.user("fan");
        fan.charge(3_999).await;
        let mut orders = Vec::new();
        let lines = [(poster.as_str(), 1)];
        for order in futures_util::future::join_all((0..10).map(|_| fan.tried(&lines))).await {
            orders.push((fan.clone(), order));
        }
        let expected = BTreeMap::from([("completed".to_owned(), 3), ("insufficient_points".to_owned(), 7)]);
        assert_eq!(ends(&orders).await, expected);
        assert_eq!(fan.balance().await, 999);
        eventually("the stock is settled", async || (cloud.stock(&poster).await == 97).then_some(())).await;
    });
}

#[test]
fn an_order_is_placed_once_under_its_key_however_many_ask_at_once() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 100).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let lines = [(poster.as_str(), 2)];
        let answers = futures_util::future::join_all((0..8).map(|_| fan.order(&lines, "k"))).await;
        let ids: std::collections::BTreeSet<String> = answers
            .iter()
            .filter(|answer| answer.status == 202)
            .map(|answer| text(&answer.json(), "order_id"))
            .collect();
        assert_eq!(ids.len(), 1, "one order");
        let order = ids.first().unwrap();
        assert_eq!(fan.final_order(order).await["status"], "completed");
        // The item is gone, and the answer is still the first one.
        assert_eq!(cloud.operator().delete(&format!("/admin/items/{poster}")).await.status, 204);
        let again = fan.order(&[(&poster, 2)], "k").await;
        assert_eq!((again.status.as_u16(), text(&again.json(), "order_id").as_str()), (202, order.as_str()));
        let other = fan.order(&[(&poster, 3)], "k").await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
        assert_eq!(fan.balance().await, 8_000);
        assert_eq!(fan.get("/orders").await.json()["items"].as_array().map(Vec::len), Some(1));
    });
}

#[test]
fn a_price_that_changed_since_the_cart_was_filled_is_reported_before_anything_is_taken() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 5).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        fan.put_in_cart(&poster, 1).await;
        let dearer = json!({"name": "Poster", "price": 1_200});
        assert_eq!(cloud.operator().put(&format!("/admin/items/{poster}"), &dearer).await.status, 200);
        let refused = fan.order(&[(&poster, 1)], "k").await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "price_changed"));
        let lines = json!([{"item_id": poster, "price_in_cart": 1_000, "price": 1_200}]);
        assert_eq!(refused.json()["lines"], lines);
        assert_eq!(fan.balance().await, 10_000);
        // To accept the price, the fan puts the item into the cart again; the same key is free, because nothing was
        // done.
        fan.put_in_cart(&poster, 1).await;
        let placed = fan.order(&[(&poster, 1)], "k").await;
        assert_eq!(placed.status, 202, "{}", placed.text());
        // Whatever happens to the price now, this order keeps its own.
        let cheaper = json!({"name": "Poster", "price": 1});
        assert_eq!(cloud.operator().put(&format!("/admin/items/{poster}"), &cheaper).await.status, 200);
        let end = fan.final_order(&text(&placed.json(), "order_id")).await;
        assert_eq!((&end["status"], &end["total_price"]), (&json!("completed"), &json!(1_200)));
        assert_eq!(fan.balance().await, 8_800);
    });
}

#[test]
fn what_is_not_in_the_shop_can_be_neither_ordered_nor_put_in_a_cart() {
    on_cloud(async |cloud| {
        let (poster, gone) = (cloud.item(1_000, 5).await, cloud.item(1_000, 5).await);
        assert_eq!(cloud.operator().delete(&format!("/admin/items/{gone}")).await.status, 204);
        let fan = cloud.user("fan");
        let refused = fan.order(&[(&poster, 1), (&gone, 1), ("none", 1)], "k").await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (404, "item_not_found"));
        let mut named: Vec<Value> = refused.json()["items"].as_array().cloned().unwrap();
        named.sort_by_key(ToString::to_string);
        let mut expected = vec![json!(gone), json!("none")];
        expected.sort_by_key(ToString::to_string);
        assert_eq!(named, expected);
        for item in [gone.as_str(), "none"] {
            let put = fan.put(&format!("/cart/items/{item}"), &json!({"quantity": 1})).await;
            assert_eq!((put.status.as_u16(), code(&put).as_str()), (404, "not_found"));
        }
        assert_eq!(fan.get("/orders").await.json()["items"], json!([]));
    });
}

#[test]
fn an_order_that_makes_no_sense_is_refused_and_nothing_is_written() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 5).await;
        let fan = cloud.user("fan");
        let line = |quantity: Value| json!({"item_id": poster, "quantity": quantity});
        for lines in [
            json!([]),
            json!([line(json!(1)), line(json!(2))]),
            json!([line(json!(0))]),
            json!([line(json!(-1))]),
            json!([line(json!(1.5))]),
            json!([line(json!("1"))]),
            json!([line(json!(1_000_000))]),
            json!([{"item_id": poster}]),
            json!([{"item_id": poster, "quantity": 1, "price": 1}]),
            json!([{"item_id": "a#b", "quantity": 1}]),
            json!((0..51).map(|n| json!({"item_id": format!("i{n}"), "quantity": 1})).collect::<Vec<_>>()),
        ] {
            let body = json!({ "lines": lines });
            let answer = fan.send("POST", "/orders", &[("idempotency-key", &unique("k"))], Some(&body)).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{body}");
        }
        let keyless = fan.post("/orders", &json!({"lines": [line(json!(1))]})).await;
        assert_eq!((keyless.status.as_u16(), code(&keyless).as_str()), (400, "idempotency_key_required"));
        assert_eq!(cloud.nobody().order(&[(&poster, 1)], "k").await.status, 401);
        assert_eq!(fan.get("/orders").await.json()["items"], json!([]));
        assert_eq!(cloud.stock(&poster).await, 5);
    });
}

#[test]
fn nobody_sees_anybody_elses_orders_or_cart() {
    on_cloud(async |cloud| {
        let poster = cloud.item(10, 5).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        alice.charge(100).await;
        alice.put_in_cart(&poster, 3).await;
        let order = alice.ordered(&[(&poster, 1)]).await;
        let foreign = bob.get(&format!("/orders/{order}")).await;
        assert_eq!((foreign.status.as_u16(), code(&foreign).as_str()), (404, "not_found"));
        assert_eq!(bob.get("/orders").await.json()["items"], json!([]));
        assert!(bob.cart().await.is_empty());
        assert_eq!(cloud.nobody().get("/cart").await.status, 401);
        alice.final_order(&order).await;
    });
}

#[test]
fn a_cart_keeps_each_item_once_until_it_is_taken_out() {
    on_cloud(async |cloud| {
        let (poster, mug) = (cloud.item(1_000, 5).await, cloud.item(300, 0).await);
        let fan = cloud.user("fan");
        fan.put_in_cart(&poster, 1).await;
        fan.put_in_cart(&mug, 2).await;
        let cart = fan.put_in_cart(&poster, 3).await;
        assert_eq!(cart["total_price"], 3_600);
        assert_eq!(fan.get("/cart").await.json(), cart);
        for _ in 0..2 {
            assert_eq!(fan.delete(&format!("/cart/items/{mug}")).await.status, 204);
        }
        assert_eq!(fan.cart().await, [(poster.clone(), 3)]);
        for bad in [json!({"quantity": 0}), json!({"quantity": -1}), json!({"quantity": 10_001}), json!({})] {
            let put = fan.put(&format!("/cart/items/{poster}"), &bad).await;
            assert_eq!((put.status.as_u16(), code(&put).as_str()), (400, "invalid_request"), "{bad}");
        }
        assert_eq!(fan.cart().await, [(poster, 3)]);
    });
}

#[test]
fn orders_are_listed_newest_first_in_pages() {
    on_cloud(async |cloud| {
        let poster = cloud.item(0, 100).await;
        let fan = cloud.user("fan");
        let mut placed = Vec::new();
        for _ in 0..5 {
            placed.push(fan.ordered(&[(&poster, 1)]).await);
        }
        let first = fan.get("/orders?limit=3").await.json();
        let cursor = text(&first, "next_cursor");
        let rest = fan.get(&format!("/orders?limit=3&cursor={cursor}")).await.json();
        let listed: Vec<String> = [&first, &rest]
            .iter()
            .flat_map(|page| page["items"].as_array().cloned().unwrap_or_default())
            .map(|order| text(&order, "order_id"))
            .collect();
        placed.reverse();
        assert_eq!(listed, placed);
        assert!(rest.get("next_cursor").is_none());
        for order in &placed {
            assert_eq!(fan.final_order(order).await["status"], "completed", "for nothing, without points");
        }
    });
}

#[test]
fn an_order_at_a_price_that_is_not_todays_is_refused_and_one_at_todays_is_not() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 5).await;
        let fan = cloud.user("fan");
        fan.charge(10_000).await;
        let order = async |seen: i64| {
            let body = json!({"lines": [{"item_id": poster, "quantity": 2, "price_seen": seen}]});
            fan.send("POST", "/orders", &[("idempotency-key", "k")], Some(&body)).await
        };
        let refused = order(900).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "price_changed"));
        assert_eq!(refused.json()["lines"], json!([{"item_id": poster, "price_seen": 900, "price": 1_000}]));
        assert_eq!(fan.get("/orders").await.json()["items"], json!([]));
        assert_eq!(order(1_000).await.status, 202);
    });
}

#[test]
fn what_is_sold_out_is_answered_at_once_with_its_items() {
    on_cloud(async |cloud| {
        let (poster, mug) = (cloud.item(100, 5).await, cloud.item(100, 0).await);
        let fan = cloud.user("fan");
        fan.charge(1_000).await;
        let refused = fan.order(&[(&poster, 1), (&mug, 1)], "k").await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "out_of_stock"));
        assert_eq!(refused.json()["items"], json!([mug]));
        assert_eq!((cloud.stock(&poster).await, fan.balance().await), (5, 1_000));
    });
}

#[test]
fn a_user_gets_no_more_of_an_item_than_its_limit_in_one_order_and_in_all() {
    on_cloud(async |cloud| {
        let body = json!({"name": "Poster", "price": 10, "stock": 9, "max_per_user": 3});
        let created = cloud.operator().post("/admin/items", &body).await;
        assert_eq!((created.status.as_u16(), &created.json()["max_per_user"]), (201, &json!(3)));
        let poster = text(&created.json(), "item_id");
        let (fan, other) = (cloud.user("fan"), cloud.user("other"));
        for buyer in [&fan, &other] {
            buyer.charge(1_000).await;
        }
        let over = fan.order(&[(&poster, 4)], "k").await;
        assert_eq!((over.status.as_u16(), code(&over).as_str()), (409, "item_limit_exceeded"));
        assert_eq!(over.json()["items"], json!([poster]));
        assert_eq!(fan.final_order(&fan.ordered(&[(&poster, 2)]).await).await["status"], "completed");
        let end = fan.final_order(&fan.ordered(&[(&poster, 2)]).await).await;
        assert_eq!((&end["failure"], &end["items"]), (&json!("item_limit_exceeded"), &json!([poster])));
        eventually("the points are back", async || (fan.balance().await == 980).then_some(())).await;
        assert_eq!(fan.final_order(&fan.ordered(&[(&poster, 1)]).await).await["status"], "completed");
        assert_eq!(other.final_order(&other.ordered(&[(&poster, 3)]).await).await["status"], "completed");
        assert_eq!(cloud.stock(&poster).await, 3);
    });
}

#[test]
fn a_cart_says_which_of_its_items_are_not_sold_any_more() {
    on_cloud(async |cloud| {
        let (poster, gone) = (cloud.item(1_000, 5).await, cloud.item(300, 5).await);
        let fan = cloud.user("fan");
        fan.put_in_cart(&poster, 1).await;
        fan.put_in_cart(&gone, 2).await;
        assert_eq!(cloud.operator().delete(&format!("/admin/items/{gone}")).await.status, 204);
        let cart = fan.get("/cart").await.json();
        for line in cart["lines"].as_array().unwrap() {
            let is_gone = line["item_id"] == gone.as_str();
            assert_eq!(line.get("withdrawn"), is_gone.then_some(&json!(true)), "{cart}");
        }
    });
}

#[test]
fn an_order_is_cancelled_by_its_user_or_by_an_operator_and_everything_comes_back() {
    on_cloud(async |cloud| {
        let poster = cloud.item(1_000, 5).await;
        let (fan, other) = (cloud.user("fan"), cloud.user("other"));
        fan.charge(10_000).await;
        for by in [&fan, &cloud.operator()] {
            let order = fan.ordered(&[(&poster, 2)]).await;
            assert_eq!(fan.final_order(&order).await["status"], "completed");
            assert_eq!(fan.balance().await, 8_000);
            let path = if by.id == fan.id { format!("/orders/{order}") } else { format!("/admin/orders/{order}") };
            assert_eq!(other.delete(&path).await.status, if by.id == fan.id { 404 } else { 403 });
            for _ in 0..2 {
                let cancelled = by.delete(&path).await;
                assert_eq!((cancelled.status.as_u16(), &cancelled.json()["status"]), (202, &json!("cancelled")));
            }
            eventually("the points are back", async || (fan.balance().await == 10_000).then_some(())).await;
            eventually("the stock is back", async || (cloud.stock(&poster).await == 5).then_some(())).await;
            let seen = fan.get(&format!("/orders/{order}")).await.json();
            assert_eq!((&seen["status"], seen.get("failure")), (&json!("cancelled"), None));
        }
        let failed = fan.ordered(&[(&poster, 6)]).await;
        assert_eq!(fan.final_order(&failed).await["failure"], "out_of_stock");
        let refused = fan.delete(&format!("/orders/{failed}")).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "order_not_cancellable"));
    });
}
