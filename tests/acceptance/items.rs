//! Merchandise: what an operator puts on sale, and how it is shown.

use crate::on_cloud;
use serde_json::{Value, json};
use tests::cloud::{code, text};

#[test]
fn an_item_is_seen_by_anybody_as_soon_as_it_is_created() {
    on_cloud(async |cloud| {
        let item = json!({"name": "  Poster ", "price": 15_000, "stock": 3});
        let created = cloud.operator().post("/admin/items", &item).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let id = text(&created.json(), "item_id");
        assert_eq!(created.headers["location"], format!("/items/{id}"));
        let expected = json!({"item_id": id, "name": "Poster", "price": 15_000, "stock": 3, "paused": false});
        assert_eq!(created.json(), expected);
        assert_eq!(cloud.nobody().get(&format!("/items/{id}")).await.json(), expected);
        let listed = cloud.nobody().get("/items?limit=100").await.json();
        assert!(listed["items"].as_array().unwrap().contains(&expected), "{listed}");
    });
}

#[test]
fn an_operator_changes_an_item_and_its_stock_and_takes_it_off_the_shop() {
    on_cloud(async |cloud| {
        let operator = cloud.operator();
        let id = cloud.item(1_000, 5).await;
        let changed =
            operator.put(&format!("/admin/items/{id}"), &json!({"name": "Signed poster", "price": 2_000})).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let path = format!("/admin/items/{id}/stock");
        let receive = async |units: i64, key: &str| {
            operator.send("POST", &path, &[("idempotency-key", key)], Some(&json!({"received": units}))).await
        };
        for _ in 0..2 {
            let received = receive(2, "delivery").await;
            assert_eq!((received.status.as_u16(), received.json()["received"].as_i64()), (201, Some(2)));
        }
        let other = receive(3, "delivery").await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
        let too_many = receive(-8, "loss").await;
        assert_eq!((too_many.status.as_u16(), code(&too_many).as_str()), (409, "stock_too_low"));
        let expected = json!({"item_id": id, "name": "Signed poster", "price": 2_000, "stock": 7, "paused": false});
        assert_eq!(cloud.nobody().get(&format!("/items/{id}")).await.json(), expected);
        let sale = format!("/admin/items/{id}/sale");
        assert_eq!(operator.put(&sale, &json!({"paused": true})).await.json()["paused"], true);
        let lines = json!({"lines": [{"item_id": id, "quantity": 1}]});
        let fan = cloud.user("fan");
        fan.charge(2_000).await;
        let refused = fan.send("POST", "/orders", &[("idempotency-key", "early")], Some(&lines)).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "sale_paused"), "{}", refused.text());
        assert_eq!(operator.put(&sale, &json!({"paused": false})).await.json(), expected);
        let placed = fan.send("POST", "/orders", &[("idempotency-key", "early")], Some(&lines)).await;
        assert_eq!(placed.status, 202, "{}", placed.text());
        for _ in 0..2 {
            let withdrawn = operator.delete(&format!("/admin/items/{id}")).await;
            assert_eq!(withdrawn.status, 204, "{}", withdrawn.text());
        }
        assert_eq!(cloud.nobody().get(&format!("/items/{id}")).await.status, 404);
        let listed: Value = cloud.nobody().get("/items?limit=100").await.json();
        assert!(listed["items"].as_array().unwrap().iter().all(|item| item["item_id"] != id.as_str()));
    });
}

#[test]
fn a_created_item_is_created_once_under_its_key() {
    on_cloud(async |cloud| {
        let operator = cloud.operator();
        let create = async |price: i64| {
            let item = json!({"name": "Poster", "price": price});
            operator.send("POST", "/admin/items", &[("idempotency-key", "k")], Some(&item)).await
        };
        let first = create(1).await;
        assert_eq!(first.status, 201, "{}", first.text());
        assert_eq!(create(1).await.json(), first.json());
        let other = create(2).await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
    });
}

#[test]
fn only_operators_touch_items_and_only_sane_ones_are_taken() {
    on_cloud(async |cloud| {
        let (operator, fan) = (cloud.operator(), cloud.user("fan"));
        let id = cloud.item(1_000, 5).await;
        let item = json!({"name": "Poster", "price": 1});
        assert_eq!(fan.post("/admin/items", &item).await.status, 403);
        assert_eq!(cloud.nobody().post("/admin/items", &item).await.status, 401);
        assert_eq!(fan.post(&format!("/admin/items/{id}/stock"), &json!({"received": 1})).await.status, 403);
        assert_eq!(fan.put(&format!("/admin/items/{id}"), &item).await.status, 403);
        assert_eq!(fan.delete(&format!("/admin/items/{id}")).await.status, 403);
        for bad in [
            json!({"name": "", "price": 1}),
            json!({"name": "x".repeat(201), "price": 1}),
            json!({"name": "Poster"}),
            json!({"name": "Poster", "price": -1}),
            json!({"name": "Poster", "price": 1.5}),
            json!({"name": "Poster", "price": 1_000_000_001}),
            json!({"name": "Poster", "price": 1, "stock": -1}),
            json!({"name": "Poster", "price": 1, "sold": 1}),
        ] {
            let answer = operator.post("/admin/items", &bad).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{bad}");
        }
        let stock = format!("/admin/items/{id}/stock");
        for bad in [json!({"received": 0}), json!({"received": "1"}), json!({}), json!({"received": 1, "sold": 0})] {
            let answer = operator.send("POST", &stock, &[("idempotency-key", "k")], Some(&bad)).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{bad}");
        }
        let keyless = operator.post(&stock, &json!({"received": 1})).await;
        assert_eq!((keyless.status.as_u16(), code(&keyless).as_str()), (400, "idempotency_key_required"));
        let missing = operator.put("/admin/items/none", &item).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
        let key = [("idempotency-key", "k")];
        let missing = operator.send("POST", "/admin/items/none/stock", &key, Some(&json!({"received": 1}))).await;
        assert_eq!((missing.status.as_u16(), code(&missing).as_str()), (404, "not_found"));
        assert_eq!(cloud.stock(&id).await, 5);
    });
}
