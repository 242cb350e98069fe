//! Negative controls of notifications; see [`crate::controls`].

use super::controls;
use crate::notifications::{Desk, counted, example};
use ::notifications::domain::{Claim, Count, Delivery, FaultUpdate, LEASE_MILLIS, Outcome, Sign};
use ::notifications::handlers::{issue_cash_receipt, notify_partner};
use ::notifications::ports::GuardDelivery;
use ::notifications::usecases::alert_administrator::take_in;
use tests::fixture::NOW;
use tests::proxy::Rule;

controls! {
    a_message_that_comes_twice_is_delivered_once: "notifications/claim"
    guards "attribute_not_exists(pk) OR claimed_until <= :now OR lease = :lease", |bench| {
        let desk = Desk::beside(bench).await;
        for _ in 0..2 {
            notify_partner(&desk.webhook("/partner"), example("payment.completed")).await.unwrap();
        }
        desk.heard("/partner").len() != 1
    }

    a_claim_that_ended_is_not_given_back_in_the_name_of_the_next: "notifications/release"
    guards "lease = :lease", |bench| {
        let (store, delivery) = (Desk::beside(bench).await.store(), Delivery::new("test", "event"));
        let Claim::Mine(lease) = store.claim(&delivery, NOW).await.unwrap() else { panic!("it is free") };
        let after = NOW.plus_millis(LEASE_MILLIS);
        assert!(matches!(store.claim(&delivery, after).await.unwrap(), Claim::Mine(_)));
        store.finish(&delivery, &Outcome::sent(None), after).await.unwrap();
        store.release(&delivery, &lease).await.unwrap();
        store.claim(&delivery, after).await.unwrap() != Claim::Done
    }

    no_receipt_is_begun_for_a_payment_that_was_refunded: "notifications/begin_receipt"
    guards "attribute_not_exists(refunded_by) OR attribute_exists(begun)", |bench| {
        let desk = Desk::beside(bench).await;
        for kind in ["payment.refunded", "payment.completed"] {
            issue_cash_receipt(&desk.receipts(), example(kind)).await.unwrap();
        }
        !desk.heard("cash-receipts").is_empty()
    }

    a_sign_that_crosses_another_is_counted: "notifications/replace_alert"
    guards "attribute_not_exists(pk) OR rev = :before", |bench| {
        let desk = Desk::beside(bench).await;
        let (store, sign) = (desk.store(), |at| {
            let (fault, summary, detail) = ("f".to_owned(), String::new(), String::new());
            FaultUpdate::Sign(Sign { fault, summary, detail, count: Count::OneMore, at })
        });
        take_in(&store, &sign(NOW)).await.unwrap();
        let gate = bench.proxy.hold(Rule::on("PutItem").once());
        let (slow, quick) = (sign(NOW.plus_seconds(1)), sign(NOW.plus_seconds(2)));
        let crossing = async {
            gate.reached().await;
            take_in(&store, &quick).await.unwrap();
            gate.open();
        };
        tokio::join!(async { take_in(&store, &slow).await.unwrap() }, crossing);
        counted(&desk).await != 3
    }
}
