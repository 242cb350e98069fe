//! Providers, messages and consumers fail in every way; nothing is lost, nothing happens twice, and no sale is harmed.

use crate::undo::role_of;
use crate::{alone, arrived, behave, buy, sale, shared, taken};
use aws_sdk_sqs::types::SendMessageBatchRequestEntry;
use futures_util::StreamExt;
use local::dead_letters::DeadLetters;
use local::sink::{Behaviour, Target};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tests::cloud::{Ability, Cloud, answered, eventually, skipped, text, unique};

fn sqs(cloud: &Cloud) -> aws_sdk_sqs::Client {
    aws_sdk_sqs::Client::new(&cloud.stack.info().sdk_config())
}

fn queue(cloud: &Cloud, name: &str) -> String {
    cloud.stack.info().queues[name].clone()
}

/// A message as the bus's rule puts it on a queue: a payment completed, without a reservation.
fn completed(payment: &str, time: &str) -> String {
    json!({
        "version": "0", "id": payment, "detail-type": "payment.completed", "source": "encore/payments",
        "detail": {
            "specversion": "1.0", "id": format!("{payment}.payment.completed"), "source": "encore/payments",
            "time": time, "subject": payment, "correlationid": "c", "type": "payment.completed",
            "dataschema": "urn:encore:event:payment.completed:v1",
            "data": {
                "payment_id": payment, "user_id": "alice", "reservation_id": "r", "schedule_id": "s",
                "concert_id": "c", "seats": ["A-1-1"], "amount": 1000, "queue_position": 1,
            },
        },
    })
    .to_string()
}

/// Runs all of them, some at a time, as a gateway would admit them.
async fn side_by_side<T>(all: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    futures_util::stream::iter(all).buffered(16).collect().await
}

const NOW: &str = "2026-11-20T11:00:00.000Z";

async fn send_together(cloud: &Cloud, queue_url: &str, bodies: &[String]) {
    for chunk in bodies.chunks(10) {
        let entry = |(index, body): (usize, &String)| {
            SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(body).build().unwrap()
        };
        let entries = chunk.iter().enumerate().map(entry).collect();
        let sent =
            sqs(cloud).send_message_batch().queue_url(queue_url).set_entries(Some(entries)).send().await.unwrap();
        assert!(sent.failed().is_empty());
    }
}

fn dead_letters(cloud: &Cloud) -> DeadLetters {
    DeadLetters::new(&cloud.stack.info().sdk_config(), &cloud.stack.info().stack)
}

/// How many messages a queue holds, visible or not.
async fn held(cloud: &Cloud, queue_url: &str) -> u64 {
    use aws_sdk_sqs::types::QueueAttributeName::{
        ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible,
    };
    let names =
        [ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed, ApproximateNumberOfMessagesNotVisible];
    let got = sqs(cloud).get_queue_attributes().queue_url(queue_url).set_attribute_names(Some(names.to_vec()));
    let got = got.send().await.unwrap();
    let counts = got.attributes().unwrap().values().map(|count| count.parse::<u64>().unwrap());
    counts.sum()
}

#[test]
fn nine_of_ten_go_through_and_the_poison_is_kept_with_its_reason() {
    alone(async |cloud| {
        let name = unique("poisoned");
        let mut bodies: Vec<String> = (0..9).map(|n| completed(&format!("{name}-{n}"), NOW)).collect();
        let poison = format!("{{\"detail\": \"{name}\"}}");
        bodies.insert(4, poison.clone());
        send_together(cloud, &queue(cloud, "partner-webhook"), &bodies).await;
        for n in 0..9 {
            arrived(cloud, Target::Partner, &format!("{name}-{n}.payment.completed")).await;
        }
        let letter = eventually("the poison is among the dead letters", async || {
            let letters = dead_letters(cloud).show("partner-webhook-dead-letters").await.unwrap();
            letters.into_iter().find(|letter| letter.body == poison)
        })
        .await;
        assert_eq!(letter.reason, "Broken");
        assert!(letter.error.contains("reading a delivered event"), "{}", letter.error);
        assert_eq!(letter.consumer.as_deref(), Some("notify-partner"));
        for n in 0..9 {
            let count = taken(cloud, Target::Partner, &format!("{name}-{n}.payment.completed")).await.len();
            assert_eq!(count, 1, "the poison made nobody else come again");
        }
    });
}

#[test]
fn the_same_message_twice_ten_at_once_or_a_day_late_has_one_effect() {
    shared(async |cloud| {
        for consumer in
            [(Target::Partner, "partner-webhook"), (Target::AlimTalk, "alimtalk-push"), (Target::Toss, "cash-receipts")]
        {
            let (target, queue_name) = consumer;
            let url = queue(cloud, queue_name);
            let payment = unique("repeated");
            let event = format!("{payment}.payment.completed");
            send_together(cloud, &url, &vec![completed(&payment, NOW); 10]).await;
            arrived(cloud, target, &event).await;
            // A day late: the message is older than everything else, and is delivered after all of it.
            send_together(cloud, &url, &[completed(&payment, "2026-11-19T11:00:00.000Z"), completed(&payment, NOW)])
                .await;
            eventually("all copies are handled", async || (held(cloud, &url).await == 0).then_some(())).await;
            assert_eq!(taken(cloud, target, &event).await.len(), 1, "{queue_name}");
        }
    });
}

#[test]
fn a_consumer_that_loses_the_answer_of_what_it_did_does_it_once() {
    alone(async |cloud| {
        behave(cloud, Target::All, Behaviour::lose_answer().times(1)).await;
        let payment = unique("lost");
        let event = format!("{payment}.payment.completed");
        for queue_name in ["partner-webhook", "alimtalk-push", "cash-receipts"] {
            send_together(cloud, &queue(cloud, queue_name), &[completed(&payment, NOW)]).await;
        }
        for (target, queue_name) in
            [(Target::Partner, "partner-webhook"), (Target::AlimTalk, "alimtalk-push"), (Target::Toss, "cash-receipts")]
        {
            eventually("it is handled", async || (held(cloud, &queue(cloud, queue_name)).await == 0).then_some(()))
                .await;
            let keys: BTreeSet<Option<String>> =
                taken(cloud, target, &event).await.into_iter().map(|delivery| delivery.idempotency_key).collect();
            assert_eq!(keys.len(), 1, "{target:?}: one effect, however many calls");
        }
    });
}

#[test]
fn what_a_provider_refuses_is_a_dead_letter_at_once_and_goes_through_when_redriven() {
    alone(async |cloud| {
        let payment = unique("refused");
        behave(cloud, Target::Partner, Behaviour::fail(422)).await;
        send_together(cloud, &queue(cloud, "partner-webhook"), &[completed(&payment, NOW)]).await;
        let letter = eventually("it is among the dead letters", async || {
            let letters = dead_letters(cloud).show("partner-webhook-dead-letters").await.unwrap();
            letters.into_iter().find(|letter| letter.body.contains(&payment))
        })
        .await;
        assert!(letter.error.contains("422"), "{}", letter.error);
        assert_eq!(letter.receives, Some(1), "a refusal is not asked again");
        behave(cloud, Target::Partner, Behaviour::ok()).await;
        for _ in 0..2 {
            dead_letters(cloud).redrive("partner-webhook-dead-letters", Some(&letter.id)).await.unwrap();
        }
        arrived(cloud, Target::Partner, &format!("{payment}.payment.completed")).await;
        let left = dead_letters(cloud).show("partner-webhook-dead-letters").await.unwrap();
        assert!(left.iter().all(|letter| !letter.body.contains(&payment)));
    });
}

#[test]
fn a_provider_that_sets_a_time_to_retry_is_not_called_before() {
    alone(async |cloud| {
        let payment = unique("throttled");
        behave(cloud, Target::Partner, Behaviour::throttle(4).times(1)).await;
        send_together(cloud, &queue(cloud, "partner-webhook"), &[completed(&payment, NOW)]).await;
        let event = format!("{payment}.payment.completed");
        let went = arrived(cloud, Target::Partner, &event).await;
        let all = cloud.sink().deliveries(Some(Target::Partner), Some(&event)).await.unwrap();
        let refused = all.iter().find(|delivery| delivery.status == 429).unwrap();
        assert!(went.at_ms - refused.at_ms >= 3_900, "asked again after {} ms", went.at_ms - refused.at_ms);
    });
}

#[test]
fn a_hold_is_reported_although_its_first_messages_met_a_provider_that_was_down() {
    alone(async |cloud| {
        behave(cloud, Target::AlimTalk, Behaviour::fail(503)).await;
        let sale = sale(cloud).await;
        let user = cloud.user("patient");
        let reservation = user.hold(&sale, &["A-1-1"]).await;
        let event = format!("{reservation}.reservation.held");
        eventually("it was tried and failed", async || {
            let tried = cloud.sink().deliveries(Some(Target::AlimTalk), Some(&event)).await.unwrap();
            (tried.len() >= 2).then_some(())
        })
        .await;
        behave(cloud, Target::All, Behaviour::ok()).await;
        arrived(cloud, Target::AlimTalk, &event).await;
    });
}

#[test]
fn with_all_providers_dead_two_hundred_payments_stay_paid_and_all_is_delivered_once_they_are_back() {
    alone(async |cloud| {
        let sale = sale(cloud).await;
        // Charging needs the provider that will be dead: the points are there before.
        let users = side_by_side((0..200).map(|_| async {
            let user = cloud.user("steadfast");
            user.charge(1_000).await;
            user
        }));
        let users = users.await;
        behave(cloud, Target::DataPlatform, Behaviour::hang(60)).await;
        for target in [Target::AlimTalk, Target::Partner, Target::Toss, Target::Directory] {
            behave(cloud, target, Behaviour::fail(500)).await;
        }
        let sale = &sale;
        let payments = side_by_side(users.into_iter().enumerate().map(|(n, user)| async move {
            let reservation = user.hold(sale, &[&format!("A-{}-{}", n / 20 + 1, n % 20 + 1)]).await;
            let paid = answered(async || user.pay(&reservation, "pay").await).await;
            let payment = text(&paid.json(), "payment_id");
            let end: Value = user.final_payment(&payment).await;
            assert_eq!(end["status"], "completed", "{end}");
            payment
        }));
        let payments = payments.await;
        behave(cloud, Target::All, Behaviour::ok()).await;
        for payment in &payments {
            let event = format!("{payment}.payment.completed");
            for target in [Target::DataPlatform, Target::AlimTalk, Target::Partner, Target::Toss] {
                arrived(cloud, target, &event).await;
            }
            for target in [Target::AlimTalk, Target::Partner, Target::Toss] {
                assert_eq!(taken(cloud, target, &event).await.len(), 1, "{event} at {target:?}");
            }
        }
    });
}

#[test]
fn a_sale_with_all_providers_dead_is_a_sale() {
    alone(async |cloud| {
        let sale = sale(cloud).await;
        for target in [Target::DataPlatform, Target::AlimTalk, Target::Partner, Target::Notion, Target::Directory] {
            behave(cloud, target, Behaviour::hang(60)).await;
        }
        let bought = buy(cloud, &sale, "A-1-1").await;
        assert_eq!(bought.buyer.reservation_status(&bought.reservation).await, "paid");
    });
}

#[test]
fn queue_activity_that_met_a_bus_that_was_down_is_reported_once_it_is_redriven() {
    if skipped(Ability::Policies) {
        return;
    }
    alone(async |cloud| {
        let sale = sale(cloud).await;
        let role = role_of(cloud, "report-queue-activity").await;
        let taken_away = cloud.take_permission(&role, "events:PutEvents").await;
        let user = cloud.user("early");
        user.join(&sale).await;
        let queue = "queue-activity-dead-letters";
        // Redriven too early, it fails again, and is kept again.
        for _ in 0..2 {
            eventually("Lambda keeps the call", async || {
                let kept = dead_letters(cloud).redrive(queue, None).await.unwrap();
                (kept.sent > 0).then_some(())
            })
            .await;
        }
        eventually("Lambda keeps the call", async || {
            (!dead_letters(cloud).show(queue).await.unwrap().is_empty()).then_some(())
        })
        .await;
        cloud.give_permissions(taken_away).await;
        assert!(dead_letters(cloud).redrive(queue, None).await.unwrap().sent >= 1);
        eventually("the join is told", async || {
            let calls = cloud.sink().deliveries(Some(Target::DataPlatform), Some(&user.id)).await.unwrap();
            calls.into_iter().find(|call| call.status < 300 && call.body.to_string().contains("queue.joined"))
        })
        .await;
        assert!(dead_letters(cloud).show(queue).await.unwrap().is_empty());
    });
}
