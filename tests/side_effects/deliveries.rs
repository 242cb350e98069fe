//! What each provider receives of a sale, once each.

use crate::{Bought, arrived, arrived_at, buy, sale, shared, taken};
use local::sink::Target;
use serde_json::{Value, json};
use tests::cloud::eventually;

#[test]
fn a_sale_reaches_all_its_consumers() {
    shared(async |cloud| {
        let bought = buy(cloud, &sale(cloud).await, "A-1-1").await;
        arrived_at(cloud, &[Target::DataPlatform, Target::AlimTalk], &bought.held()).await;
        let all = [Target::DataPlatform, Target::AlimTalk, Target::Partner, Target::Toss];
        arrived_at(cloud, &all, &bought.completed()).await;
        let paid = format!("{}.reservation.paid", bought.reservation);
        arrived(cloud, Target::DataPlatform, &paid).await;
        // Once each, where a person would notice a second time.
        for target in [Target::AlimTalk, Target::Partner, Target::Toss] {
            assert_eq!(taken(cloud, target, &bought.completed()).await.len(), 1, "{target:?}");
        }
        let status = bought.buyer.get("/points").await;
        assert_eq!(status.status, 200);
    });
}

#[test]
fn every_call_carries_the_request_that_began_it_all() {
    shared(async |cloud| {
        let sale = sale(cloud).await;
        let buyer = cloud.user("buyer");
        buyer.charge(10_000).await;
        let reservation = buyer.hold(&sale, &["A-1-1"]).await;
        let paid = buyer.pay(&reservation, "pay").await;
        let request = paid.headers["x-request-id"].to_str().unwrap().to_owned();
        let payment = paid.json()["payment_id"].as_str().unwrap().to_owned();
        for target in [Target::Partner, Target::AlimTalk, Target::Toss] {
            let call = arrived(cloud, target, &format!("{payment}.payment.completed")).await;
            assert_eq!(call.correlation_id.as_deref(), Some(request.as_str()), "{target:?}");
        }
    });
}

#[test]
fn joins_and_status_checks_reach_the_data_platform() {
    shared(async |cloud| {
        let sale = sale(cloud).await;
        let user = cloud.user("curious");
        let token = user.join(&sale).await;
        for _ in 0..3 {
            let checked = user.send("GET", "/queue-status", &[("queue-token", &token)], None).await;
            assert_eq!(checked.status, 200, "{}", checked.text());
        }
        let count = async |kind: &str| -> usize {
            let all = cloud.sink().deliveries(Some(Target::DataPlatform), Some(&user.id)).await.unwrap();
            let events =
                all.iter().flat_map(|delivery| delivery.body["events"].as_array().cloned().unwrap_or_default());
            let ids: std::collections::BTreeSet<String> = events
                .filter(|event| event["type"] == kind && event["data"]["user_id"] == user.id.as_str())
                .map(|event| event["id"].to_string())
                .collect();
            ids.len()
        };
        eventually("one join and three checks", async || {
            (count("queue.joined").await == 1 && count("queue.checked").await == 3).then_some(())
        })
        .await;
    });
}

#[test]
fn a_refund_takes_the_receipt_back_and_notifies_the_buyer() {
    shared(async |cloud| {
        let Bought { buyer, payment, .. } = buy(cloud, &sale(cloud).await, "A-1-1").await;
        arrived(cloud, Target::Toss, &format!("{payment}.payment.completed")).await;
        let path = format!("/payments/{payment}/refund");
        let asked = buyer.send("POST", &path, &[("idempotency-key", "refund")], Some(&json!({}))).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        let refunded = format!("{payment}.payment.refunded");
        let cancel = arrived(cloud, Target::Toss, &refunded).await;
        assert!(cancel.path.ends_with("/cancel"), "{}", cancel.path);
        arrived_at(cloud, &[Target::AlimTalk, Target::DataPlatform, Target::Partner], &refunded).await;
    });
}

#[test]
fn a_hold_that_runs_out_is_reported() {
    shared(async |cloud| {
        let sale = cloud.sale(tests::cloud::Terms { hold_seconds: 1, ..Default::default() }).await;
        let user = cloud.user("slow");
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        arrived_at(cloud, &[Target::AlimTalk, Target::DataPlatform], &format!("{reservation}.reservation.expired"))
            .await;
    });
}

#[test]
fn a_payment_that_fails_is_reported() {
    shared(async |cloud| {
        let sale = sale(cloud).await;
        let user = cloud.user("poor");
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        let paid: Value = user.pay(&reservation, "pay").await.json();
        assert_eq!(paid["failure"], "insufficient_points", "{paid}");
        let failed = format!("{}.payment.failed", paid["payment_id"].as_str().unwrap());
        arrived_at(cloud, &[Target::AlimTalk, Target::DataPlatform], &failed).await;
        assert!(taken(cloud, Target::Partner, &failed).await.is_empty());
    });
}
