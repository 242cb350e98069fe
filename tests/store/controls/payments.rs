//! Negative controls of payments; see [`crate::controls`].

use super::{controls, put};
use crate::bench::{Bench, key, memo};
use ::payments::domain::charges::{Charge, ChargeState, INTENT_MILLIS, Intent, MAX_ATTEMPTS};
use ::payments::domain::withdrawals::{MAX_A_DAY, Source, Withdrawal, WithdrawalState};
use ::payments::domain::{Payment, Refund, Status};
use ::payments::dynamo::charges::Charges;
use ::payments::dynamo::withdrawals::Withdrawals;
use ::payments::handlers::complete_payment;
use ::payments::handlers::complete_refund;
use ::payments::handlers::fail_payment;
use ::payments::ports::charges::{
    FindStuckCharges, MoveCharge, OpenIntent, OpenedIntent, RecordCharge, RecordedCharge,
};
use ::payments::ports::withdrawals::{
    FindOpenWithdrawals, FindWithdrawal, MoveWithdrawal, RecordWithdrawal, RecordedWithdrawal,
};
use ::payments::ports::{FindStuck, OpenPayment, OpenRefund, SettleRefund};
use contracts::ChargeAmount;
use contracts::saga::{CaughtError, FailedPayment, PaymentSaga};
use contracts::steps::{CreditedCharge, PayCharge};
use kit::dynamo::{Item, Read, n};
use serde_json::json;
use tests::fixture::{NOW, payment, saga_of, step, user, won};
use tests::proxy::Rule;

fn charges(bench: &Bench) -> Charges {
    Charges::new(bench.proxy.table("payments"))
}

fn charged(id: &str, who: &str, payment_key: &str) -> Charge {
    let ask = PayCharge {
        user_id: user(who),
        key: "order-1".to_owned(),
        amount: won(100),
        payment_key: payment_key.to_owned(),
        requested_at: NOW,
        correlation_id: "request-1".to_owned(),
    };
    Charge::asked(payment(id), ask)
}

/// Opens the intent of alice's charges.
async fn intend(bench: &Bench) {
    let intent = Intent::new(user("alice"), "order-1".to_owned(), ChargeAmount::new(100).unwrap(), NOW);
    assert_eq!(charges(bench).open_intent(&intent, NOW).await.unwrap(), OpenedIntent::Now);
}

async fn stored_charge(bench: &Bench) -> Item {
    bench.engine.item("payments", "USER#alice", "CHARGE#order-1").await.unwrap()
}

async fn stored_payment(bench: &Bench, id: &str) -> Item {
    bench.engine.item("payments", "USER#alice", &format!("PAY#{id}")).await.unwrap()
}

async fn status_of(bench: &Bench, id: &str) -> String {
    stored_payment(bench, id).await.text("status").unwrap().to_owned()
}

/// A payment of alice's that is being refunded.
async fn refunding(bench: &Bench) -> Payment {
    let saga = saga_of("alice", "p1", 100);
    let payment = bench.open_payment(&saga, NOW).await;
    complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
    let refunding = payment.refunding(Refund { requested_at: NOW, correlation_id: "c".to_owned() });
    bench.payments.open_refund(&refunding, &memo(key("refund", json!({}))), NOW).await.unwrap();
    refunding
}

fn withdrawals(bench: &Bench) -> Withdrawals {
    Withdrawals::new(bench.proxy.table("payments"))
}

/// What alice takes out of her charge of 100.
fn withdrawal(id: &str, amount: i64) -> Withdrawal {
    let source =
        Source { order_id: "order-1".into(), charge_id: payment("c1"), charged: won(100), payment_key: "pay-1".into() };
    Withdrawal {
        id: payment(id),
        user: user("alice"),
        amount: won(amount),
        source: Some(source),
        requested_at: NOW,
        correlation_id: "request-1".into(),
        state: WithdrawalState::Requested,
        attempts: 0,
    }
}

async fn withdraw(bench: &Bench, withdrawal: &Withdrawal, name: &str) -> RecordedWithdrawal {
    withdrawals(bench).record_withdrawal(withdrawal, &memo(key(name, json!({}))), NOW).await.unwrap()
}

/// Alice's charge is in her balance.
async fn credited(bench: &Bench) {
    intend(bench).await;
    let charge = charged("c1", "alice", "pay-1");
    charges(bench).record_charge(&charge).await.unwrap();
    let end = ChargeState::Credited(CreditedCharge { entry_id: "c1".into(), balance: won(100) });
    for (state, to) in [(ChargeState::Pending, ChargeState::Confirmed), (ChargeState::Confirmed, end)] {
        charges(bench).move_charge(&Charge { state, ..charge.clone() }, &to, NOW).await.unwrap();
    }
}

controls! {
    a_withdrawal_is_recorded_once: "payments/record_withdrawal" guards "attribute_not_exists(pk)", |bench| {
        credited(bench).await;
        withdraw(bench, &withdrawal("w1", 10), "k1").await;
        withdraw(bench, &withdrawal("w1", 20), "k2").await;
        let found = withdrawals(bench).find_withdrawal(&user("alice"), &payment("w1")).await.unwrap().unwrap();
        found.amount != won(10)
    }

    no_more_is_taken_out_of_a_charge_than_was_charged: "payments/source_taken"
    guards "#status = :credited AND charge_id = :charge AND (attribute_not_exists(withdrawn) OR withdrawn <= :room)", |bench| {
        credited(bench).await;
        withdraw(bench, &withdrawal("w1", 70), "k1").await;
        withdraw(bench, &withdrawal("w2", 70), "k2").await;
        stored_charge(bench).await["withdrawn"] != n(70)
    }

    nothing_is_taken_out_of_a_charge_that_is_not_in_the_balance: "payments/source_taken"
    guards "#status = :credited AND charge_id = :charge AND (attribute_not_exists(withdrawn) OR withdrawn <= :room)", |bench| {
        intend(bench).await;
        charges(bench).record_charge(&charged("c1", "alice", "pay-1")).await.unwrap();
        withdraw(bench, &withdrawal("w1", 70), "k1").await == RecordedWithdrawal::Now
    }

    a_charge_gets_no_room_that_was_not_taken: "payments/source_freed"
    guards "charge_id = :charge AND withdrawn >= :amount", |bench| {
        credited(bench).await;
        withdraw(bench, &withdrawal("w1", 70), "k1").await;
        let mut corrupt = stored_charge(bench).await;
        corrupt.insert("withdrawn".to_owned(), n(0));
        put(bench, "payments", corrupt).await;
        let _moved = withdrawals(bench).move_withdrawal(&withdrawal("w1", 70), &WithdrawalState::Refused, NOW).await;
        stored_charge(bench).await["withdrawn"] != n(0)
    }

    a_user_has_so_many_withdrawals_a_day: "payments/counted"
    guards "attribute_not_exists(asked) OR asked < :most", |bench| {
        credited(bench).await;
        for number in 0..MAX_A_DAY {
            let name = format!("w{number}");
            assert_eq!(withdraw(bench, &withdrawal(&name, 1), &name).await, RecordedWithdrawal::Now);
        }
        withdraw(bench, &withdrawal("more", 1), "more").await == RecordedWithdrawal::Now
    }

    a_withdrawal_is_moved_from_where_it_is: "payments/move_withdrawal" guards "#status = :from", |bench| {
        credited(bench).await;
        let requested = withdrawal("w1", 70);
        withdraw(bench, &requested, "k1").await;
        withdrawals(bench).move_withdrawal(&requested, &WithdrawalState::Debited, NOW).await.unwrap();
        let _late = withdrawals(bench).move_withdrawal(&requested, &WithdrawalState::Refused, NOW).await;
        let found = withdrawals(bench).find_withdrawal(&user("alice"), &payment("w1")).await.unwrap().unwrap();
        found.state != WithdrawalState::Debited
    }

    an_attempt_of_a_withdrawal_is_one_runs: "payments/count_attempt"
    guards "#status = :from AND attempts = :counted", |bench| {
        credited(bench).await;
        let requested = withdrawal("w1", 70);
        withdraw(bench, &requested, "k1").await;
        assert!(withdrawals(bench).count_attempt(&requested, NOW).await.unwrap());
        withdrawals(bench).count_attempt(&requested, NOW).await.unwrap()
    }

    of_a_reservation_one_payment_is_undecided_at_a_time: "payments/claim"
    guards "attribute_not_exists(pk) OR payment_id = :decided", |bench| {
        let first = saga_of("alice", "p1", 100);
        bench.open_payment(&first, NOW).await;
        let second = PaymentSaga { payment_id: payment("p2"), ..first };
        let other = Payment { saga: second, status: Status::Pending, refund: None, recoveries: 0, alerted: false };
        bench.payments.open(&other, &memo(key("k2", json!({}))), NOW).await.unwrap().is_ok()
    }

    a_charge_is_recorded_once: "payments/record_charge"
    guards "attribute_not_exists(pk) OR #status = :refused", |bench| {
        let charges = charges(bench);
        intend(bench).await;
        for (id, payment_key) in [("c1", "pay-1"), ("c2", "pay-2")] {
            charges.record_charge(&charged(id, "alice", payment_key)).await.unwrap();
        }
        stored_charge(bench).await.text("charge_id").unwrap() != "c1"
    }

    nothing_is_charged_without_an_intent: "payments/intent_charged"
    guards "order_id = :key AND amount = :amount AND expires_at > :now AND \
            (attribute_not_exists(attempts) OR attempts < :most)", |bench| {
        matches!(charges(bench).record_charge(&charged("c1", "alice", "pay-1")).await.unwrap(), RecordedCharge::Now)
    }

    an_open_intent_is_given_again: "payments/replace_intent"
    guards "attribute_not_exists(pk) OR attempts < :most AND counted_until >= :now AND \
            (amount <> :amount OR expires_at < :long OR attribute_exists(charge_id))", |bench| {
        intend(bench).await;
        let again = Intent::new(user("alice"), "order-2".to_owned(), ChargeAmount::new(100).unwrap(), NOW);
        charges(bench).open_intent(&again, NOW).await.unwrap() == OpenedIntent::Now
    }

    of_two_who_begin_to_count_anew_at_once_one_does: "payments/replace_intent"
    guards "attribute_not_exists(counted_until) OR counted_until = :ended", |bench| {
        intend(bench).await;
        let mut used_up = bench.engine.item("payments", "USER#alice", "CHARGE-INTENT").await.unwrap();
        used_up.insert("attempts".to_owned(), n(MAX_ATTEMPTS));
        put(bench, "payments", used_up).await;
        let later = NOW.plus_millis(INTENT_MILLIS + 1);
        let intent = |id: &str| Intent::new(user("alice"), id.to_owned(), ChargeAmount::new(100).unwrap(), later);
        let (slow, quick) = (intent("order-2"), intent("order-3"));
        let (one, other) = (charges(bench), charges(bench));
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("counted_until) OR counted_until = :ended").once());
        let slow = async { one.open_intent(&slow, later).await };
        let quick = async {
            gate.reached().await;
            let opened = other.open_intent(&quick, later).await.unwrap();
            gate.open();
            opened
        };
        let (slow, quick) = tokio::join!(slow, quick);
        assert_eq!(quick, OpenedIntent::Now);
        slow.is_ok()
    }

    of_two_who_count_anew_under_one_intent_at_once_one_does: "payments/count_anew"
    guards "attribute_not_exists(counted_until) OR counted_until = :ended", |bench| {
        intend(bench).await;
        // An intent that outlives the hour that is counted.
        let kept = |now| Intent::new(user("alice"), "order-2".to_owned(), ChargeAmount::new(200).unwrap(), now);
        let soon = NOW.plus_millis(INTENT_MILLIS - 1);
        charges(bench).open_intent(&kept(soon), soon).await.unwrap();
        let later = NOW.plus_millis(INTENT_MILLIS + 1);
        let (one, other) = (charges(bench), charges(bench));
        let gate = bench.proxy.hold(Rule::on("UpdateItem").containing("SET attempts = :zero").once());
        let slow = async { one.open_intent(&kept(later), later).await };
        let quick = async {
            gate.reached().await;
            let opened = other.open_intent(&kept(later), later).await.unwrap();
            gate.open();
            opened
        };
        let (slow, quick) = tokio::join!(slow, quick);
        assert!(matches!(quick, OpenedIntent::Before(_)));
        slow.is_ok()
    }

    a_charge_that_was_refused_is_not_confirmed_by_a_late_step: "payments/move_charge"
    guards "#status = :from AND charge_id = :id", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        intend(bench).await;
        charges.record_charge(&charge).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Refused("declined".to_owned()), NOW).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Confirmed, NOW).await.unwrap();
        stored_charge(bench).await.text("status").unwrap() != "refused"
    }

    a_charges_recovery_is_counted_once: "payments/count_charge_recovery"
    guards "#status = :from AND charge_id = :id AND recoveries = :counted", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        intend(bench).await;
        charges.record_charge(&charge).await.unwrap();
        let first = charges.count_charge_recovery(&charge, NOW).await.unwrap();
        first && charges.count_charge_recovery(&charge, NOW).await.unwrap()
    }

    a_charge_that_ended_is_not_open_again_by_a_recovery: "payments/count_charge_recovery"
    guards "#status = :from AND charge_id = :id AND recoveries = :counted", |bench| {
        let (charges, charge) = (charges(bench), charged("c1", "alice", "pay-1"));
        intend(bench).await;
        charges.record_charge(&charge).await.unwrap();
        charges.move_charge(&charge, &ChargeState::Refused("declined".to_owned()), NOW).await.unwrap();
        charges.count_charge_recovery(&charge, NOW).await.unwrap();
        stored_charge(bench).await.contains_key("pending_since")
    }

    a_completed_payment_never_fails: "payments/ended"
    guards "#status = :from", |bench| {
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga.clone(), NOW)).await.unwrap();
        let failing = FailedPayment { saga, failure: CaughtError::default() };
        let _failed = fail_payment(&bench.payments, step(failing, NOW)).await;
        status_of(bench, "p1").await != "completed"
    }

    a_payment_completes_once: "payments/ended"
    guards "#status = :from", |bench| {
        let saga = saga_of("alice", "p1", 100);
        bench.open_payment(&saga, NOW).await;
        for now in [NOW, NOW.plus_seconds(1)] {
            complete_payment(&bench.payments, step(saga.clone(), now)).await.unwrap();
        }
        stored_payment(bench, "p1").await.moment("settled_at").unwrap() != NOW
    }

    a_payment_that_ended_is_never_opened_again: "payments/open"
    guards "attribute_not_exists(pk)", |bench| {
        let saga = saga_of("alice", "p1", 100);
        let payment = bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        let _again = bench.payments.open(&payment, &memo(key("other", json!({}))), NOW).await;
        status_of(bench, "p1").await != "completed"
    }

    a_recovery_is_counted_once: "payments/looked_at"
    guards "#status = :open AND recoveries = :before", |bench| {
        let payment = bench.open_payment(&saga_of("alice", "p1", 100), NOW).await;
        let counted = Payment { recoveries: 1, ..payment.clone() };
        let first = bench.payments.looked_at(&payment, &counted, NOW).await.unwrap();
        first && bench.payments.looked_at(&payment, &counted, NOW).await.unwrap()
    }

    a_payment_that_ended_is_not_pending_again_by_a_look: "payments/looked_at"
    guards "#status = :open AND recoveries = :before", |bench| {
        let saga = saga_of("alice", "p1", 100);
        let payment = bench.open_payment(&saga, NOW).await;
        complete_payment(&bench.payments, step(saga, NOW)).await.unwrap();
        bench.payments.looked_at(&payment, &payment, NOW).await.unwrap();
        stored_payment(bench, "p1").await.contains_key("pending_since")
    }

    a_payment_that_is_refunded_is_not_refunded_again: "payments/open_refund"
    guards "#status = :completed", |bench| {
        let refunding = refunding(bench).await;
        complete_refund(&bench.payments, step(refunding.refund_saga().unwrap(), NOW)).await.unwrap();
        bench.payments.open_refund(&refunding, &memo(key("again", json!({}))), NOW).await.unwrap();
        status_of(bench, "p1").await != "refunded"
    }

    a_refund_completes_once: "payments/ended"
    guards "#status = :from", |bench| {
        let refund = refunding(bench).await.refund_saga().unwrap();
        for now in [NOW, NOW.plus_seconds(1)] {
            complete_refund(&bench.payments, step(refund.clone(), now)).await.unwrap();
        }
        stored_payment(bench, "p1").await.moment("refunded_at").unwrap() != NOW
    }

    a_refund_that_was_carried_out_is_not_cancelled: "payments/cancel_refund"
    guards "#status = :from AND refund_requested_at = :requested", |bench| {
        let refund = refunding(bench).await.refund_saga().unwrap();
        complete_refund(&bench.payments, step(refund.clone(), NOW)).await.unwrap();
        bench.payments.cancel_refund(&refund, "late", NOW).await.unwrap();
        status_of(bench, "p1").await != "refunded"
    }

    a_late_cancel_does_not_end_the_refund_after_it: "payments/cancel_refund"
    guards "#status = :from AND refund_requested_at = :requested", |bench| {
        let first = refunding(bench).await;
        bench.payments.cancel_refund(&first.refund_saga().unwrap(), "refused", NOW).await.unwrap();
        let second = Refund { requested_at: NOW.plus_seconds(1), correlation_id: "c".to_owned() };
        let second = first.clone().refunding(second);
        bench.payments.open_refund(&second, &memo(key("again", json!({}))), NOW).await.unwrap();
        bench.payments.cancel_refund(&first.refund_saga().unwrap(), "late", NOW).await.unwrap();
        status_of(bench, "p1").await != "refunding"
    }
}
