//! Charging, reading, history.

use crate::on_cloud;
use serde_json::json;
use tests::cloud::{code, text};

#[test]
fn a_charge_is_made_once_under_its_key() {
    on_cloud(async |cloud| {
        let fan = cloud.user("fan");
        let charge = async |amount: i64| {
            fan.send("POST", "/points/charges", &[("idempotency-key", "k")], Some(&json!({"amount": amount}))).await
        };
        let first = charge(500).await;
        assert_eq!(first.status, 201, "{}", first.text());
        assert_eq!(first.json()["balance"], 500);
        assert_eq!(charge(500).await.json(), first.json());
        let other = charge(501).await;
        assert_eq!((other.status.as_u16(), code(&other).as_str()), (422, "idempotency_key_reused"));
        assert_eq!(fan.balance().await, 500);
    });
}

#[test]
fn a_charge_needs_a_key_and_a_sane_amount() {
    on_cloud(async |cloud| {
        let fan = cloud.user("fan");
        let keyless = fan.post("/points/charges", &json!({"amount": 1})).await;
        assert_eq!((keyless.status.as_u16(), code(&keyless).as_str()), (400, "idempotency_key_required"));
        for bad in [json!(0), json!(-5), json!(1_000_000_001), json!(1.5), json!("1"), json!(null), json!(1e300)] {
            let body = json!({"amount": bad});
            let answer = fan.send("POST", "/points/charges", &[("idempotency-key", "k")], Some(&body)).await;
            assert_eq!((answer.status.as_u16(), code(&answer).as_str()), (400, "invalid_request"), "{body}");
        }
        assert_eq!(fan.balance().await, 0);
    });
}

#[test]
fn the_history_has_every_movement_newest_first() {
    on_cloud(async |cloud| {
        let fan = cloud.user("fan");
        for amount in 1..=5 {
            fan.charge(amount).await;
        }
        let first = fan.get("/points/history?limit=3").await.json();
        let cursor = text(&first, "next_cursor");
        let rest = fan.get(&format!("/points/history?limit=3&cursor={cursor}")).await.json();
        let rows: Vec<_> =
            [&first, &rest].iter().flat_map(|page| page["items"].as_array().cloned().unwrap_or_default()).collect();
        let movements: Vec<_> =
            rows.iter().map(|row| (row["amount"].as_i64().unwrap(), row["balance_after"].as_i64().unwrap())).collect();
        assert_eq!(movements, [(5, 15), (4, 10), (3, 6), (2, 3), (1, 1)]);
        assert!(rows.iter().all(|row| row["kind"] == "charge"));
        assert!(rest.get("next_cursor").is_none());
    });
}

#[test]
fn nobody_sees_anybody_elses_points() {
    on_cloud(async |cloud| {
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        alice.charge(100).await;
        assert_eq!(bob.balance().await, 0);
        assert_eq!(bob.get("/points/history").await.json()["items"], json!([]));
        assert_eq!(cloud.nobody().get("/points").await.status, 401);
    });
}
