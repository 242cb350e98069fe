//! The on-call is paged once per fault, however often it shows, and notified when it is over.

use crate::{alone, behave, buy, sale, shared};
use aws_sdk_dynamodb::types::AttributeValue;
use local::Logs;
use local::sink::{Behaviour, Delivery, Target};
use serde_json::{Value, json};
use tests::cloud::{Cloud, eventually, unique};
use tests::functions::Functions;

/// The pages opened for a fault.
async fn pages(cloud: &Cloud, fault: &str) -> Vec<Delivery> {
    let mut all = cloud.sink().deliveries(Some(Target::Notion), Some(fault)).await.unwrap();
    all.retain(|call| call.method == "POST" && call.path.ends_with("/v1/pages") && call.status < 300);
    all
}

fn fault_detected(fault: &str, sign: usize) -> String {
    json!({
        "version": "0", "id": "x", "detail-type": "fault.detected", "source": "encore/payments",
        "detail": {
            "specversion": "1.0", "id": format!("{fault}.{sign}.fault.detected"), "source": "encore/payments",
            "time": "2026-11-20T11:00:00.000Z", "subject": fault, "correlationid": "c", "type": "fault.detected",
            "dataschema": "urn:encore:event:fault.detected:v1",
            "data": {"fault": fault, "summary": "A payment is stuck", "detail": "since an hour"},
        },
    })
    .to_string()
}

#[test]
fn one_fault_is_one_page_however_often_it_shows() {
    alone(async |cloud| {
        let fault = unique("payment-stuck:p");
        let sqs = aws_sdk_sqs::Client::new(&cloud.stack.info().sdk_config());
        let url = &cloud.stack.info().queues["administrator-alerts"];
        // The first answer is lost: the page exists, and its id is not known.
        behave(cloud, Target::Notion, Behaviour::lose_answer().times(1)).await;
        for sign in 0..20 {
            sqs.send_message().queue_url(url).message_body(fault_detected(&fault, sign)).send().await.unwrap();
        }
        eventually("the alert arrives", async || pages(cloud, &fault).await.pop()).await;
        // The queue may hold messages that other tests left for a provider that was down.
        let tables = aws_sdk_dynamodb::Client::new(&cloud.stack.info().sdk_config());
        for sign in 0..20 {
            let key = format!("DELIVERY#alert-administrator#{fault}.{sign}.fault.detected");
            eventually(&key, async || {
                let row = tables
                    .get_item()
                    .table_name(&cloud.stack.info().tables["notifications"])
                    .key("pk", AttributeValue::S(key.clone()))
                    .key("sk", AttributeValue::S("DELIVERY".to_owned()))
                    .send();
                row.await.unwrap().item.filter(|row| row.contains_key("done_at")).map(drop)
            })
            .await;
        }
        assert_eq!(pages(cloud, &fault).await.len(), 1);
    });
}

#[test]
fn a_dead_letter_pages_the_on_call_once_and_reports_when_it_is_gone() {
    alone(async |cloud| {
        let info = cloud.stack.info();
        let sqs = aws_sdk_sqs::Client::new(&info.sdk_config());
        let queue = "token-expiry-dead-letters";
        let fault = format!("{}-{queue}", info.stack);
        for n in 0..3 {
            sqs.send_message().queue_url(&info.queues[queue]).message_body(format!("poison {n}")).send().await.unwrap();
        }
        let watch = async || {
            let (answer, failed) = Functions::of(info).invoke(&info.functions["watch-dead-letters"], "{}").await;
            assert!(!failed, "{answer}");
        };
        watch().await;
        watch().await;
        assert_eq!(pages(cloud, &fault).await.len(), 1);
        sqs.purge_queue().queue_url(&info.queues[queue]).send().await.unwrap();
        watch().await;
        eventually("the page is closed", async || {
            let calls = cloud.sink().deliveries(Some(Target::Notion), None).await.unwrap();
            let page = pages(cloud, &fault).await.pop()?;
            let closed = calls.into_iter().filter(|call| call.method == "PATCH" && call.status < 300);
            closed.into_iter().find(|call| call.seq > page.seq && call.body.to_string().contains("Closed"))
        })
        .await;
    });
}

#[test]
fn what_is_retried_logs_how_long_it_has_waited() {
    alone(async |cloud| {
        let sale = sale(cloud).await;
        behave(cloud, Target::Partner, Behaviour::fail(503)).await;
        buy(cloud, &sale, "A-1-1").await;
        let logs = Logs::new(cloud.stack.info(), Some("notify-partner")).unwrap();
        eventually("the metric that an alarm looks at", async || {
            let lines = logs.since(0).await.unwrap();
            let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(&line.message).ok());
            // By the stage alone: one alarm is on all queues.
            let of_all = json!([["Stage"]]);
            let ages = lines.filter(|line| line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == of_all);
            ages.filter_map(|line| line["RetryAge"].as_u64()).find(|age| *age >= 2)
        })
        .await;
    });
}

#[test]
fn what_must_not_be_is_counted_and_its_line_names_the_handler() {
    shared(async |cloud| {
        let info = cloud.stack.info();
        let (answer, failed) = Functions::of(info).invoke(&info.functions["use-points"], "{}").await;
        assert!(failed, "a step took nothing for its input: {answer}");
        let logs = Logs::new(info, Some("use-points")).unwrap();
        eventually("the metric that an alarm looks at, and the reason", async || {
            let lines = logs.since(0).await.unwrap();
            let lines: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(&line.message).ok()).collect();
            let counted = lines.iter().any(|line| line["Broken"] == 1 && line["_aws"].is_object());
            let named = lines.iter().any(|line| line["handler"] == "use-points" && line["outcome"] == "Broken");
            (counted && named).then_some(())
        })
        .await;
    });
}
