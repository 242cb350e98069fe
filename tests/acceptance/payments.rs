//! The payment saga through the deployed system.

use crate::on_cloud;
use serde_json::json;
use tests::cloud::{Terms, code, eventually, text};

#[test]
fn a_buyer_finds_what_is_theirs_without_having_kept_an_id() {
    on_cloud(async |cloud| {
        let (fan, other) = (cloud.user("fan"), cloud.user("other"));
        fan.charge(10_000).await;
        let mut paid = Vec::new();
        for key in ["first", "second", "third"] {
            let reservation = fan.hold(&cloud.sale(Terms::default()).await, &["A-1-1"]).await;
            let payment = fan.pay(&reservation, key).await.json();
            paid.insert(0, (text(&payment, "payment_id"), reservation));
        }
        for reservation in fan.get("/reservations").await.json()["items"].as_array().unwrap() {
            let ids = (text(reservation, "payment_id"), text(reservation, "reservation_id"));
            assert!(paid.contains(&ids), "{reservation}");
        }
        let (mut found, mut path) = (Vec::new(), "/payments?limit=2".to_owned());
        loop {
            let page = fan.get(&path).await;
            assert_eq!(page.status, 200, "{}", page.text());
            let page = page.json();
            let ids = |payment| (text(payment, "payment_id"), text(payment, "reservation_id"));
            found.extend(page["items"].as_array().unwrap().iter().map(ids));
            let Some(cursor) = page["next_cursor"].as_str() else { break };
            path = format!("/payments?limit=2&cursor={cursor}");
        }
        assert_eq!(found, paid, "newest first, each once");
        assert_eq!(other.get("/payments").await.json(), serde_json::json!({"items": []}));
        assert_eq!(cloud.nobody().get("/payments").await.status, 401);
        assert_eq!(fan.get("/payments?cursor=x").await.status, 400);
    });
}

#[test]
fn a_paid_reservation_is_paid_once_recorded_and_sold() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let reservation = fan.hold(&sale, &["A-1-1", "A-1-2"]).await;
        let paid = fan.pay(&reservation, "k").await;
        assert_eq!(paid.status, 200, "{}", paid.text());
        let paid = paid.json();
        assert_eq!((paid["status"].as_str(), paid["amount"].as_i64()), (Some("completed"), Some(2_000)));
        assert_eq!(fan.reservation_status(&reservation).await, "paid");
        assert_eq!(fan.balance().await, 3_000);
        let newest = fan.get("/points/history?limit=1").await.json();
        assert_eq!(newest["items"][0]["kind"], "use");
        assert_eq!(newest["items"][0]["reference"], paid["payment_id"]);
        eventually("the map shows the sale", async || (sale.seat(&fan, "A-1-1").await == "sold").then_some(())).await;
        let uncancellable = fan.delete(&format!("/reservations/{reservation}")).await;
        assert_eq!(
            (uncancellable.status.as_u16(), code(&uncancellable).as_str()),
            (409, "reservation_not_cancellable")
        );
    });
}

#[test]
fn without_waiting_the_answer_is_202_with_the_place_to_look() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        let body = json!({"reservation_id": reservation});
        let accepted = fan.send("POST", "/payments", &[("idempotency-key", "k")], Some(&body)).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text());
        assert_eq!(accepted.json()["status"], "pending");
        let payment = text(&accepted.json(), "payment_id");
        assert_eq!(accepted.headers["location"], format!("/payments/{payment}"));
        assert_eq!(fan.final_payment(&payment).await["status"], "completed");
        let stranger = cloud.user("stranger").get(&format!("/payments/{payment}")).await;
        assert_eq!((stranger.status.as_u16(), code(&stranger).as_str()), (404, "not_found"));
    });
}

#[test]
fn who_cannot_afford_it_keeps_the_hold_and_may_pay_after_charging() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(999).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        let failed = fan.pay(&reservation, "poor").await.json();
        assert_eq!(
            (failed["status"].as_str(), failed["failure"].as_str()),
            (Some("failed"), Some("insufficient_points"))
        );
        assert_eq!(fan.reservation_status(&reservation).await, "held");
        assert_eq!(fan.balance().await, 999);
        assert_eq!(
            fan.pay(&reservation, "poor").await.json()["payment_id"],
            failed["payment_id"],
            "the key is used up"
        );
        fan.charge(1).await;
        let paid = fan.pay(&reservation, "rich").await.json();
        assert_eq!(paid["status"], "completed");
        assert_eq!(fan.balance().await, 0);
    });
}

#[test]
fn a_hold_that_is_over_cannot_be_paid() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms { hold_seconds: 1, ..Terms::default() }).await;
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        eventually("the hold is over", async || {
            (fan.reservation_status(&reservation).await == "expired").then_some(())
        })
        .await;
        let refused = fan.pay(&reservation, "k").await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "reservation_not_payable"));
        assert_eq!(fan.balance().await, 5_000);
    });
}

#[test]
fn nobody_pays_a_reservation_that_is_not_theirs() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (alice, bob) = (cloud.user("alice"), cloud.user("bob"));
        bob.charge(5_000).await;
        let reservation = alice.hold(&sale, &["A-1-1"]).await;
        for id in [reservation.as_str(), "none"] {
            let refused = bob.pay(id, "k").await;
            assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (404, "not_found"));
        }
        assert_eq!(bob.balance().await, 5_000);
    });
}

#[test]
fn paying_needs_a_key_and_a_key_is_for_one_request() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let (first, second) = (fan.hold(&sale, &["A-1-1"]).await, fan.hold(&sale, &["A-1-2"]).await);
        let keyless = fan.post("/payments", &json!({"reservation_id": first})).await;
        assert_eq!((keyless.status.as_u16(), code(&keyless).as_str()), (400, "idempotency_key_required"));
        assert_eq!(fan.pay(&first, "k").await.json()["status"], "completed");
        let reused = fan.pay(&second, "k").await;
        assert_eq!((reused.status.as_u16(), code(&reused).as_str()), (422, "idempotency_key_reused"));
    });
}

#[test]
fn forty_keys_at_once_on_one_reservation_make_one_payment() {
    on_cloud(async |cloud| {
        let fan = cloud.user("fan");
        fan.charge(5_000).await;
        let reservation = fan.hold(&cloud.sale(Terms::default()).await, &["A-1-1"]).await;
        let body = json!({"reservation_id": reservation});
        let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
        let (payer, body) = (&fan, &body);
        let tries = keys.iter().map(|key| async move {
            payer.send("POST", "/payments", &[("idempotency-key", key.as_str())], Some(body)).await
        });
        let answers = futures_util::future::join_all(tries).await;
        let accepted: Vec<_> = answers.iter().filter(|answer| answer.status == 202).collect();
        assert_eq!(accepted.len(), 1, "{:?}", answers.iter().map(|answer| answer.status).collect::<Vec<_>>());
        let payment = text(&accepted[0].json(), "payment_id");
        for refused in answers.iter().filter(|answer| answer.status != 202) {
            let refusal = refused.json();
            match code(refused).as_str() {
                "payment_under_way" => assert_eq!(text(&refusal, "payment_id"), payment),
                // By then it has the reservation.
                code => assert_eq!((refused.status.as_u16(), code), (409, "reservation_not_payable")),
            }
        }
        let all = fan.get("/payments").await.json();
        assert_eq!(all["items"].as_array().map(Vec::len), Some(1), "{all}");
        eventually("it is paid", async || (fan.reservation_status(&reservation).await == "paid").then_some(())).await;
    });
}
