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
fn points_that_nobody_paid_for_are_taken_out_by_an_operator() {
    on_cloud(async |cloud| {
        let (fan, other, operator) = (cloud.user("fan"), cloud.user("other"), cloud.operator());
        fan.charge(500).await;
        let withdraw = async |key: &str, amount: i64| {
            let body = json!({ "amount": amount });
            fan.send("POST", "/points/withdrawals", &[("idempotency-key", key)], Some(&body)).await
        };
        let asked = withdraw("k", 300).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        let id = text(&asked.json(), "withdrawal_id");
        assert_eq!((fan.balance().await, withdraw("k", 300).await.json()), (200, asked.json()));
        let reused = withdraw("k", 301).await;
        assert_eq!((reused.status.as_u16(), code(&reused).as_str()), (422, "idempotency_key_reused"));
        let low = withdraw("l", 201).await;
        assert_eq!((low.status.as_u16(), code(&low).as_str()), (409, "insufficient_points"));
        let keyless = fan.post("/points/withdrawals", &json!({ "amount": 1 })).await;
        assert_eq!((keyless.status.as_u16(), code(&keyless).as_str()), (400, "idempotency_key_required"));
        let path = format!("/points/withdrawals/{id}");
        assert_eq!(fan.get(&path).await.json()["status"], "pending");
        assert_eq!(other.get(&path).await.status, 404);
        assert_eq!(fan.get("/admin/points/withdrawals").await.status, 403);
        let listed = operator.get("/admin/points/withdrawals").await.json();
        let mine = listed["items"].as_array().unwrap().iter().find(|item| item["withdrawal_id"] == id.as_str());
        assert_eq!(mine.unwrap()["amount"], 300);
        let payout = format!("/admin/points/withdrawals/{id}/payout");
        for (reference, status) in [("bank-1", 200), ("bank-1", 200), ("bank-2", 409)] {
            let recorded = operator.post(&payout, &json!({ "reference": reference })).await;
            assert_eq!(recorded.status, status, "{reference}: {}", recorded.text());
        }
        assert_eq!(fan.get(&path).await.json()["status"], "paid");
        assert_eq!(fan.balance().await, 200);
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
