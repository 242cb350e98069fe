//! The refund saga through the deployed system.

use crate::on_cloud;
use http::StatusCode;
use local::http::Answer;
use tests::cloud::{Terms, User, code, eventually, text};

async fn refund(who: &User, payment: &str, key: &str) -> Answer {
    who.send("POST", &format!("/payments/{payment}/refund"), &[("idempotency-key", key)], None).await
}

/// The payment once its status is `status`.
async fn becomes(who: &User, payment: &str, status: &str) {
    let path = format!("/payments/{payment}");
    eventually(status, async || (who.get(&path).await.json()["status"] == status).then_some(())).await;
}

#[test]
fn a_refund_gives_the_points_back_and_the_seats_to_anybody_once() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (fan, next) = (cloud.user("fan"), cloud.user("next"));
        fan.charge(5_000).await;
        let reservation = fan.hold(&sale, &["A-1-1", "A-1-2"]).await;
        let payment = text(&fan.pay(&reservation, "pay").await.json(), "payment_id");
        assert_eq!(fan.balance().await, 3_000);
        let first = refund(&fan, &payment, "k").await;
        assert_eq!(first.status, StatusCode::ACCEPTED, "{}", first.text());
        assert_eq!(first.headers["location"], format!("/payments/{payment}"));
        assert_eq!(first.json()["status"], "refunding");
        becomes(&fan, &payment, "refunded").await;
        assert_eq!(fan.reservation_status(&reservation).await, "refunded");
        assert_eq!(fan.balance().await, 5_000);
        let newest = fan.get("/points/history?limit=1").await.json();
        assert_eq!(
            (&newest["items"][0]["kind"], &newest["items"][0]["reference"]),
            (&"refund".into(), &payment.into())
        );
        let grabbed = next.hold(&sale, &["A-1-1"]).await;
        assert_eq!(next.reservation_status(&grabbed).await, "held");
    });
}

#[test]
fn the_same_key_is_answered_the_same_and_another_key_refused() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let fan = cloud.user("fan");
        fan.charge(1_000).await;
        let reservation = fan.hold(&sale, &["A-1-1"]).await;
        let payment = text(&fan.pay(&reservation, "pay").await.json(), "payment_id");
        let keys = ["k1", "k2", "k3", "k1", "k2", "k3"].map(|key| refund(&fan, &payment, key));
        let answers = futures_util::future::join_all(keys).await;
        let taken: Vec<usize> = (0..6).filter(|at| answers[*at].status == StatusCode::ACCEPTED).collect();
        assert!(!taken.is_empty() && taken.iter().all(|at| at % 3 == taken[0] % 3), "one key: {taken:?}");
        becomes(&fan, &payment, "refunded").await;
        let winner = ["k1", "k2", "k3"][taken[0] % 3];
        assert_eq!(refund(&fan, &payment, winner).await.json(), answers[taken[0]].json());
        let again = refund(&fan, &payment, "another").await;
        assert_eq!((again.status, code(&again).as_str()), (StatusCode::CONFLICT, "payment_not_refundable"));
        assert_eq!(fan.balance().await, 1_000, "once");
    });
}

#[test]
fn nobody_refunds_what_is_not_theirs_or_not_paid() {
    on_cloud(async |cloud| {
        let sale = cloud.sale(Terms::default()).await;
        let (fan, stranger) = (cloud.user("fan"), cloud.user("stranger"));
        fan.charge(1_000).await;
        let reservation = fan.hold(&sale, &["A-1-1", "A-1-2"]).await;
        let unpaid = text(&fan.pay(&reservation, "poor").await.json(), "payment_id");
        let refused = refund(&fan, &unpaid, "k").await;
        assert_eq!((refused.status, code(&refused).as_str()), (StatusCode::CONFLICT, "payment_not_refundable"));
        fan.charge(1_000).await;
        let payment = text(&fan.pay(&reservation, "rich").await.json(), "payment_id");
        for foreign in [payment.as_str(), "none"] {
            let refused = refund(&stranger, foreign, "k").await;
            assert_eq!((refused.status, code(&refused).as_str()), (StatusCode::NOT_FOUND, "not_found"));
        }
        let keyless = fan.send("POST", &format!("/payments/{payment}/refund"), &[], None).await;
        assert_eq!((keyless.status, code(&keyless).as_str()), (StatusCode::BAD_REQUEST, "idempotency_key_required"));
        assert_eq!(fan.reservation_status(&reservation).await, "paid");
    });
}
