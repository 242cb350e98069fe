//! What cannot be carried through is undone, and the on-call and the user are notified (R20, R25).

use crate::{alone, arrived, sale, shared};
use local::sink::Target;
use std::time::Instant;
use tests::cloud::{Ability, Cloud, code, eventually, skipped};
use tests::functions::Functions;

pub async fn role_of(cloud: &Cloud, handler: &str) -> String {
    Functions::of(cloud.stack.info()).role(&cloud.stack.info().functions[handler]).await
}

#[test]
fn a_hold_whose_end_cannot_be_scheduled_is_cancelled_and_all_are_notified() {
    if skipped(Ability::Policies) {
        return;
    }
    alone(async |cloud| {
        let sale = sale(cloud).await;
        let user = cloud.user("unlucky");
        // The end is scheduled by sending a message: without the permission that fails, and only that.
        let role = role_of(cloud, "expire-hold").await;
        let taken = cloud.take_permission(&role, "sqs:SendMessage").await;
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        eventually("the reservation is undone", async || {
            (user.reservation_status(&reservation).await == "cancelled").then_some(())
        })
        .await;
        cloud.give_permissions(taken).await;
        let cancelled = format!("{reservation}.reservation.cancelled");
        arrived(cloud, Target::AlimTalk, &cancelled).await;
        let call = arrived(cloud, Target::DataPlatform, &cancelled).await;
        assert!(call.body.to_string().contains("expiry_not_scheduled"));
        eventually("an administrator is told", async || {
            cloud.sink().deliveries(Some(Target::Notion), Some("hold-expiry-unscheduled")).await.unwrap().pop()
        })
        .await;
        eventually("the seat is free", async || (sale.seat(&user, "A-1-1").await == "available").then_some(())).await;
        cloud.user("next").hold(&sale, &["A-1-1"]).await;
    });
}

#[test]
fn a_hold_that_the_counts_cannot_take_in_is_rolled_back_with_its_scheduled_end() {
    alone(async |cloud| {
        let sale = sale(cloud).await;
        let user = cloud.user("unlucky");
        let dynamo = aws_sdk_dynamodb::Client::new(&cloud.stack.info().sdk_config());
        let table = &cloud.stack.info().tables["concerts"];
        let s = |text: String| aws_sdk_dynamodb::types::AttributeValue::S(text);
        let lost = dynamo
            .delete_item()
            .table_name(table)
            .key("pk", s(format!("SCHEDULE#{}", sale.schedule)))
            .key("sk", s("INFO".to_owned()))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllOld)
            .send()
            .await
            .unwrap();
        assert!(lost.attributes().is_some(), "the date was there");
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        let cancelled = format!("{reservation}.reservation.cancelled");
        let call = arrived(cloud, Target::DataPlatform, &cancelled).await;
        assert!(call.body.to_string().contains("availability_not_updated"));
        assert_eq!(user.reservation_status(&reservation).await, "cancelled");
        arrived(cloud, Target::AlimTalk, &cancelled).await;
    });
}

#[test]
fn a_seat_that_is_given_back_is_nobodys_for_a_while_and_then_free_for_all() {
    shared(async |cloud| {
        let sale = sale(cloud).await;
        let (giver, taker) = (cloud.user("giver"), cloud.user("taker"));
        let token = taker.join(&sale).await;
        let reservation = giver.hold(&sale, &["A-1-1"]).await;
        let shown = || async { sale.seat(&taker, "A-1-1").await };
        eventually("the map shows the hold", async || (shown().await == "held").then_some(())).await;
        let given_back = Instant::now();
        assert_eq!(giver.delete(&format!("/reservations/{reservation}")).await.status, 204);
        assert_eq!(giver.reservation_status(&reservation).await, "cancelled");
        let refused = taker.reserve(&sale, &token, &["A-1-1"]).await;
        assert_eq!((refused.status.as_u16(), code(&refused).as_str()), (409, "seat_taken"));
        assert_eq!(refused.json()["seats"], serde_json::json!(["A-1-1"]), "and nothing of when");
        assert_eq!(shown().await, "held");
        // Nobody tries to take it: the map shows it by itself.
        eventually("the map shows it free", async || (shown().await == "available").then_some(())).await;
        assert!(given_back.elapsed().as_millis() >= 3_000, "{:?}", given_back.elapsed());
        taker.hold(&sale, &["A-1-1"]).await;
    });
}
