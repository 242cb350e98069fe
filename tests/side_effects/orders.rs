//! Orders and the external systems.

use crate::{alone, arrived, behave, shared, taken};
use local::sink::{Behaviour, Target};
use tests::cloud::{User, eventually};

#[test]
fn an_order_and_its_end_reach_the_data_platform_and_its_user() {
    shared(async |cloud| {
        let (poster, mug) = (cloud.item(1_000, 1).await, cloud.item(500, 1).await);
        let (fan, late) = (cloud.user("fan"), cloud.user("late"));
        fan.charge(1_000).await;
        late.charge(1_000).await;
        let order = fan.ordered(&[(&poster, 1)]).await;
        assert_eq!(fan.final_order(&order).await["status"], "completed");
        let refused = late.ordered(&[(&mug, 2)]).await;
        assert_eq!(late.final_order(&refused).await["failure"], "out_of_stock");
        for (order, end) in [(&order, "order.completed"), (&refused, "order.failed")] {
            arrived(cloud, Target::DataPlatform, &format!("{order}.order.placed")).await;
            arrived(cloud, Target::DataPlatform, &format!("{order}.{end}")).await;
            arrived(cloud, Target::AlimTalk, &format!("{order}.{end}")).await;
        }
    });
}

#[test]
fn an_order_has_a_receipt_until_it_is_cancelled() {
    shared(async |cloud| {
        let poster = cloud.item(1_000, 1).await;
        let fan = cloud.user("fan");
        fan.charge(1_000).await;
        let order = fan.ordered(&[(&poster, 1)]).await;
        let issued = arrived(cloud, Target::Toss, &format!("{order}.order.completed")).await;
        assert!(issued.path.ends_with("/cash-receipts"), "{}", issued.path);
        let asked = fan.send("DELETE", &format!("/orders/{order}"), &[], None).await;
        assert_eq!(asked.status, 202, "{}", asked.text());
        let cancelled = arrived(cloud, Target::Toss, &format!("{order}.order.failed")).await;
        assert!(cancelled.path.ends_with("/cancel"), "{}", cancelled.path);
        // One that fails by itself has none.
        let (mug, late) = (cloud.item(500, 1).await, cloud.user("late"));
        late.charge(1_000).await;
        let refused = late.ordered(&[(&mug, 2)]).await;
        arrived(cloud, Target::AlimTalk, &format!("{refused}.order.failed")).await;
        assert!(taken(cloud, Target::Toss, &format!("{refused}.order.failed")).await.is_empty());
    });
}

#[test]
fn with_the_data_platform_dead_orders_complete_and_are_reported_once_it_is_back() {
    alone(async |cloud| {
        let poster = cloud.item(1_000, 10).await;
        let fans: Vec<_> = (0..20).map(|_| cloud.user("fan")).collect();
        for fan in &fans {
            fan.charge(1_000).await;
        }
        behave(cloud, Target::DataPlatform, Behaviour::hang(60)).await;
        let lines = [(poster.as_str(), 1)];
        let tried = futures_util::future::join_all(fans.iter().map(|fan| fan.tried(&lines))).await;
        // Who comes when nothing is left is not placed.
        let orders: Vec<(&User, String)> =
            fans.iter().zip(tried).filter_map(|(fan, order)| Some((fan, order.ok()?))).collect();
        let mut completed = 0;
        for (fan, order) in &orders {
            completed += usize::from(fan.final_order(order).await["status"] == "completed");
        }
        assert_eq!(completed, 10);
        assert_eq!(cloud.stock(&poster).await, 0);
        for (_, order) in &orders {
            assert!(taken(cloud, Target::DataPlatform, &format!("{order}.order.placed")).await.is_empty());
        }
        behave(cloud, Target::All, Behaviour::ok()).await;
        for (fan, order) in &orders {
            arrived(cloud, Target::DataPlatform, &format!("{order}.order.placed")).await;
            let end = fan.final_order(order).await;
            let points = if end["status"] == "completed" { 0 } else { 1_000 };
            eventually("the points are settled", async || (fan.balance().await == points).then_some(())).await;
        }
    });
}
