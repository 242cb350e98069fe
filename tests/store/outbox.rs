//! From a row in the writer's table to the bus: at least once, and never lost.

use crate::bench::Bench;
use ::payments::handlers::complete_payment;
use kit::dynamo::{Item, Read};
use kit::outbox::{Relay, publish_again};
use std::collections::BTreeSet;
use tests::bus::{BUS, Bus};
use tests::fixture::{NOW, place, saga_of, step};
use tests::proxy::{Fate, Rule};

/// Completes payments, whose events then wait in the outbox.
async fn completed(bench: &Bench, count: usize) -> Vec<String> {
    for n in 1..=count {
        let saga = saga_of("alice", &format!("p{n:02}"), 100);
        bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    }
    (1..=count).map(|n| format!("p{n:02}.payment.completed")).collect()
}

fn relay(bench: &Bench, bus: &Bus, context: &str) -> Relay {
    Relay::new("payments", bench.proxy.table(context), kit::outbox::Bus::new(bus.client(), BUS.to_owned()))
}

async fn row(bench: &Bench, id: &str) -> Item {
    bench.engine.item("payments", &format!("OUTBOX#{id}"), "OUTBOX").await.unwrap()
}

fn is_published(row: &Item) -> bool {
    row.text("publish_state").unwrap() == "published" && !row.contains_key("unpublished_shard")
}

#[tokio::test]
async fn new_rows_are_published_with_everything_a_rule_matches_on_and_marked() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 12).await;
    relay(&bench, &bus, "payments").relay(bench.engine.changes("payments"), NOW).await.unwrap();
    assert_eq!(bus.ids(), ids, "in the order they happened");
    assert_eq!(bus.requests(), 2, "ten at a time");
    for id in &ids {
        let row = row(&bench, id).await;
        assert!(is_published(&row));
        assert_eq!(row.int("attempts").unwrap(), 1);
        assert_eq!(row.moment("published_at").unwrap(), NOW);
        assert!(row.int("ttl").unwrap() > NOW.millis() / 1000);
    }
    let event = &bus.events()[0];
    assert_eq!((event.source.as_str(), event.subject.as_str()), ("encore/payments", "p01"));
    assert_eq!(event.correlationid, "request-of-p01");
}

#[tokio::test]
async fn marking_a_row_publishes_nothing() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 2).await;
    let relay = relay(&bench, &bus, "payments");
    relay.relay(bench.engine.changes("payments"), NOW).await.unwrap();
    let changes = bench.engine.changes("payments");
    let of_marking = changes.into_iter().filter(|record| record.change != kit::stream::Change::Insert).collect();
    relay.relay(of_marking, NOW).await.unwrap();
    assert_eq!(bus.ids(), ids);
}

#[tokio::test]
async fn a_batch_delivered_twice_is_published_twice_under_the_same_ids() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 3).await;
    let records = bench.engine.changes("payments");
    let relay = relay(&bench, &bus, "payments");
    relay.relay(records.clone(), NOW).await.unwrap();
    relay.relay(records, NOW).await.unwrap();
    assert_eq!(bus.events().len(), 6);
    assert_eq!(BTreeSet::from_iter(bus.ids()), BTreeSet::from_iter(ids));
}

#[tokio::test]
async fn an_entry_the_bus_refuses_is_tried_again_alone() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 5).await;
    bus.refuse(&ids[2], 1);
    relay(&bench, &bus, "payments").relay(bench.engine.changes("payments"), NOW).await.unwrap();
    assert_eq!(bus.events().len(), 5, "nobody hears the others twice");
    assert_eq!(bus.ids().last(), Some(&ids[2]));
    assert_eq!(bus.requests(), 2);
}

#[tokio::test]
async fn an_entry_the_bus_keeps_refusing_waits_for_the_sweep_and_holds_nothing_up() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 5).await;
    bus.refuse(&ids[2], usize::MAX);
    let relay = relay(&bench, &bus, "payments");
    relay.relay(bench.engine.changes("payments"), NOW).await.unwrap();
    assert_eq!(bus.events().len(), 4);
    let waiting = row(&bench, &ids[2]).await;
    assert!(!is_published(&waiting));
    assert_eq!(waiting.text("last_error").unwrap(), "InternalFailure");
    bus.refuse(&ids[2], 0);
    let soon = NOW.plus_seconds(60);
    assert_eq!(relay.sweep(soon).await.unwrap(), 0, "the relay may still be at it");
    assert_eq!(relay.sweep(soon.plus_millis(1)).await.unwrap(), 1);
    assert_eq!(bus.ids().last(), Some(&ids[2]));
    let published = row(&bench, &ids[2]).await;
    assert!(is_published(&published) && !published.contains_key("last_error"));
    assert_eq!(relay.sweep(soon.plus_seconds(60)).await.unwrap(), 0);
}

#[tokio::test]
async fn an_event_is_published_once_more_however_often_that_is_requested() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 2).await;
    let relay = relay(&bench, &bus, "payments");
    relay.relay(bench.engine.changes("payments"), NOW).await.unwrap();
    let table = bench.proxy.table("payments");
    let asked = NOW.plus_seconds(10);
    for second in 0..5 {
        publish_again(&table, &ids[1], asked.plus_seconds(second)).await.unwrap();
    }
    assert_eq!(relay.sweep(asked.plus_seconds(5)).await.unwrap(), 1);
    assert_eq!(relay.sweep(asked.plus_seconds(6)).await.unwrap(), 0, "once");
    assert_eq!(bus.ids(), [&*ids[0], &*ids[1], &*ids[1]]);
    let row = row(&bench, &ids[1]).await;
    assert!(is_published(&row));
    assert_eq!(row.int("attempts").unwrap(), 2);
    publish_again(&table, "unknown.payment.completed", asked).await.unwrap();
    assert_eq!(relay.sweep(asked.plus_seconds(200)).await.unwrap(), 0, "what is gone stays unsaid");
}

#[tokio::test]
async fn what_happens_while_the_bus_is_down_is_published_once_it_is_back() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 3).await;
    bus.set_down(true);
    let relay = relay(&bench, &bus, "payments");
    relay.relay(bench.engine.changes("payments"), NOW).await.unwrap();
    assert!(bus.events().is_empty());
    bus.set_down(false);
    assert_eq!(relay.sweep(NOW.plus_seconds(61)).await.unwrap(), 3);
    assert_eq!(BTreeSet::from_iter(bus.ids()), BTreeSet::from_iter(ids.clone()));
    for id in ids {
        assert!(is_published(&row(&bench, &id).await));
    }
}

#[tokio::test]
async fn a_row_that_the_stream_never_brought_is_published_by_the_sweep() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 15).await;
    assert_eq!(relay(&bench, &bus, "payments").sweep(NOW.plus_seconds(61)).await.unwrap(), 15);
    assert_eq!(BTreeSet::from_iter(bus.ids()), BTreeSet::from_iter(ids));
}

#[tokio::test]
async fn a_sweep_publishes_all_of_a_shard_however_much_it_has() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 130).await;
    let table = bench.engine.table("payments");
    for id in &ids {
        let mut row = row(&bench, id).await;
        row.insert("unpublished_shard".to_owned(), kit::dynamo::s(7));
        table.client.put_item().table_name(&table.name).set_item(Some(row)).send().await.unwrap();
    }
    assert_eq!(relay(&bench, &bus, "payments").sweep(NOW.plus_seconds(61)).await.unwrap(), 130);
    assert_eq!(BTreeSet::from_iter(bus.ids()), BTreeSet::from_iter(ids));
}

#[tokio::test]
async fn a_row_published_but_not_marked_is_published_again() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 1).await;
    bench.proxy.inject(Rule::on("UpdateItem"), Fate::Failed);
    let relay = relay(&bench, &bus, "payments");
    relay.relay(bench.engine.changes("payments"), NOW).await.unwrap_err();
    assert_eq!(bus.ids(), ids, "its batch will be delivered again");
    bench.proxy.heal();
    assert_eq!(relay.sweep(NOW.plus_seconds(61)).await.unwrap(), 1);
    assert!(is_published(&row(&bench, &ids[0]).await));
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_none_of_the_others_from_being_published() {
    let (bench, bus) = (Bench::start().await, Bus::start().await);
    let ids = completed(&bench, 3).await;
    let table = bench.engine.table("payments");
    let mut corrupt = row(&bench, &ids[1]).await;
    corrupt.insert("event".to_owned(), kit::dynamo::s("{"));
    table.client.put_item().table_name(&table.name).set_item(Some(corrupt)).send().await.unwrap();
    let relay = relay(&bench, &bus, "payments");
    relay.sweep(NOW.plus_seconds(61)).await.unwrap();
    assert_eq!(BTreeSet::from_iter(bus.ids()), BTreeSet::from([ids[0].clone(), ids[2].clone()]));
}

#[tokio::test]
async fn a_reservation_publishes_its_whole_life() {
    let (bench, bus) = (Bench::on_sale(4).await, Bus::start().await);
    let held = bench.reserve(place("alice", 1, NOW), &["A-1-1"], "r1", NOW).await.unwrap();
    let saga = tests::fixture::saga(&held, "p1");
    bench.begin(&saga, NOW).await;
    bench.confirm(&saga, NOW).await;
    relay(&bench, &bus, "reservations").relay(bench.engine.changes("reservations"), NOW).await.unwrap();
    assert_eq!(bus.ids(), ["r1.reservation.held", "r1.reservation.paid"]);
}
