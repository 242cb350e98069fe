//! What cannot be carried through is undone, and the on-call and the user are notified (R20, R25).

use crate::{alone, arrived, sale};
use local::sink::Target;
use tests::cloud::{Ability, Cloud, eventually, skipped};
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
