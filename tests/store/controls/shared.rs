//! Negative controls of what all contexts share; see [`crate::controls`].

use super::{controls, remove};
use crate::bench::{key, memo};
use ::payments::handlers::complete_payment;
use ::payments::ports::{FindPayment, OpenPayment};
use kit::outbox::{Relay, publish_again};
use serde_json::json;
use tests::bus::{BUS, Bus};
use tests::fixture::{NOW, payment, saga_of, step, user};

controls! {
    a_key_stands_for_one_payment: "kit/remember_until"
    guards "attribute_not_exists(pk) OR forgotten_at <= :now", |bench| {
        let mut other = bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
        // Of another reservation, so that nothing else stands in its way.
        (other.saga.payment_id, other.saga.reservation_id) = (payment("p2"), saga_of("alice", "p2", 100).reservation_id);
        // `open_payment` uses the payment's id as its key.
        bench.payments.open(&other, &memo(key("p1", json!({}))), NOW).await.unwrap().unwrap();
        bench.payments.find(&user("alice"), &payment("p2")).await.unwrap().is_some()
    }

    requesting_an_event_again_never_makes_one: "kit/publish_again"
    guards "publish_state = :published", |bench| {
        publish_again(&bench.proxy.table("payments"), "forgotten.payment.completed", NOW).await.unwrap();
        bench.engine.item("payments", "OUTBOX#forgotten.payment.completed", "OUTBOX").await.is_some()
    }

    marking_never_makes_a_row: "kit/mark"
    guards "attribute_exists(pk)", |bench| {
        let bus = Bus::start().await;
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        let records = bench.engine.changes("payments");
        remove(bench, "payments", "OUTBOX#p1.payment.completed", "OUTBOX").await;
        let bus = kit::outbox::Bus::new(bus.client(), BUS.to_owned());
        let _told = Relay::new("payments", bench.proxy.table("payments"), bus).relay(records, NOW).await;
        bench.engine.item("payments", "OUTBOX#p1.payment.completed", "OUTBOX").await.is_some()
    }
}
