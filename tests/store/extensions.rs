//! Holds of users who buy points for them: one extension, bounded, once, and everything that went by the old end.

use crate::audit::{assert_sound, violations};
use crate::bench::{Bench, hold, refusal};
use ::payments::domain::charges::{ChargeState, Intent};
use ::payments::dynamo::charges::Charges;
use ::payments::handlers::{ExtensionDeps, request_extension};
use ::payments::ports::HoldClient;
use ::payments::ports::charges::{MoveCharge, OpenIntent, RecordCharge};
use ::reservations::domain::{Refusal, Reservation, UnpaidRule};
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::{
    ExtendDeps, begin_payment, confirm_reservation, expire_hold, extend_hold, quote_reservation, release_reservation,
};
use ::reservations::ports::{FindReservation, ScheduleExpiry};
use ::reservations::usecases::cancel_reservation::cancel_reservation;
use ::reservations::usecases::expire_hold::ExpireHold;
use ::reservations::usecases::sweep_holds::sweep_holds;
use contracts::events::{Event, EventBody};
use contracts::steps::{CreditedCharge, ExtendHold, HoldExtension, PayCharge, Quote, QuoteReservation};
use contracts::{ChargeAmount, PaymentId, Timestamp};
use kit::dynamo::{Item, Read, at, n, s};
use kit::queue::Message;
use kit::{Fault, Problem, Reply, StepError};
use serde_json::json;
use std::sync::{Arc, Mutex};
use tests::calls::{Ask, users};
use tests::fixture::{HOLD_SECONDS, NOW, place, saga, step, user, won};
use tests::proxy::{Fate, Rule};
use tokio::task::JoinSet;

const EXTENSION: u32 = 120;
const DELAY: &str = "30,120";

fn hold_end() -> Timestamp {
    NOW.plus_seconds(HOLD_SECONDS)
}

fn extended_end() -> Timestamp {
    hold_end().plus_seconds(EXTENSION.into())
}

fn ask(is_topping_up: bool) -> ExtendHold {
    ExtendHold { user_id: user("alice"), reservation_id: "r1".to_owned().try_into().unwrap(), is_topping_up }
}

/// Asks reservations for the extension of r1, for alice.
async fn extend(store: &Reservations, is_topping_up: bool, now: Timestamp) -> Result<HoldExtension, StepError> {
    let deps = ExtendDeps { store: store.clone(), extension_seconds: EXTENSION };
    extend_hold(&deps, step(ask(is_topping_up), now)).await
}

async fn extended(store: &Reservations, now: Timestamp) {
    let extended = HoldExtension::Extended { hold_expires_at: extended_end() };
    assert_eq!(extend(store, true, now).await.unwrap(), extended);
}

async fn alice(store: &Reservations) -> Reservation {
    hold(store, place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1", NOW).await.unwrap()
}

async fn bob(store: &Reservations, id: &str, now: Timestamp) -> Result<Reservation, Refusal> {
    hold(store, place("bob", 2, now), &["A-1-1"], id, now).await.map_err(|error| refusal(Err(error)))
}

async fn row(bench: &Bench) -> Item {
    bench.engine.item("reservations", "USER#alice", "RES#r1").await.unwrap()
}

/// What is in the outbox under an event's name.
async fn event(bench: &Bench, what: &str) -> Option<Event> {
    let row = bench.engine.item("reservations", &format!("OUTBOX#r1.reservation.{what}"), "OUTBOX").await?;
    Some(row.document("event").unwrap())
}

fn end_in(event: &Event) -> Timestamp {
    match &event.body {
        EventBody::ReservationHeld(it) | EventBody::ReservationExtended(it) | EventBody::ReservationExpired(it) => {
            it.hold_expires_at
        }
        other => panic!("{other:?}"),
    }
}

// ---------------------------------------------------------------- once, as a whole

#[tokio::test]
async fn a_hold_is_extended_once_with_its_seats_and_the_same_request_gets_the_same_answer() {
    for delay in ["0,0", DELAY] {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(delay);
        alice(&store).await;
        let before = row(&bench).await;
        bench.proxy.forget();
        extended(&store, NOW).await;
        assert_eq!(bench.proxy.actions(), ["GetItem", "TransactWriteItems"], "{delay}");
        let after = row(&bench).await;
        assert_eq!((&after["hold_expires_at"], &after["due_at"]), (&at(extended_end()), &at(extended_end())));
        assert_eq!(after["extended_from"], at(hold_end()));
        let later = |item: &Item| item.moment("seats_free_at").unwrap().plus_seconds(EXTENSION.into());
        assert_eq!(after.get("seats_free_at"), before.get("seats_free_at").map(|_| at(later(&before))).as_ref());
        assert_sound(&bench, NOW).await;
        // Later, with another intent or none, and on a stage that has turned it off since.
        bench.proxy.forget();
        for is_topping_up in [true, false] {
            let again = extend(&store, is_topping_up, extended_end().plus_millis(-1)).await.unwrap();
            assert_eq!(again, HoldExtension::Extended { hold_expires_at: extended_end() });
        }
        let off = ExtendDeps { store: store.clone(), extension_seconds: 0 };
        let again = extend_hold(&off, step(ask(true), NOW)).await.unwrap();
        assert_eq!(again, HoldExtension::Extended { hold_expires_at: extended_end() });
        assert_eq!(bench.proxy.actions(), ["GetItem"; 3], "{delay}");
        assert_eq!(row(&bench).await, after);
    }
}

#[tokio::test]
async fn of_many_requests_at_once_one_moves_the_end_and_all_are_told_it() {
    let bench = Arc::new(Bench::on_sale(4).await);
    alice(&bench.reservations).await;
    let mut requests = JoinSet::new();
    for _ in 0..12 {
        let bench = Arc::clone(&bench);
        requests.spawn(async move { extended(&bench.reservations, NOW).await });
    }
    requests.join_all().await;
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn an_extension_whose_answer_is_lost_is_told_to_who_asks_again() {
    let bench = Bench::on_sale(4).await;
    alice(&bench.reservations).await;
    bench.proxy.inject(Rule::on("TransactWriteItems"), Fate::AnswerLost);
    assert!(extend(&bench.reservations, true, NOW).await.is_err());
    bench.proxy.heal();
    extended(&bench.reservations, NOW).await;
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_conflict_on_the_reservation_is_not_taken_for_seats_that_are_lost() {
    let bench = Bench::on_sale(4).await;
    alice(&bench.reservations).await;
    let seat = bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap();
    bench.proxy.inject(Rule::on("TransactWriteItems").once(), Fate::Masked("RES#r1"));
    extended(&bench.reservations, NOW).await;
    assert_ne!(bench.engine.item("reservations", "SEATS#date#A#0", "SEAT#A-1-1").await.unwrap(), seat);
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn what_is_no_running_hold_or_is_no_topping_up_is_not_extended() {
    let bench = Bench::on_sale(4).await;
    let store = &bench.reservations;
    assert_eq!(extend(store, true, NOW).await.unwrap(), HoldExtension::NotFound);
    let held = alice(store).await;
    let others = ExtendHold { user_id: user("bob"), ..ask(true) };
    let deps = ExtendDeps { store: store.clone(), extension_seconds: EXTENSION };
    assert_eq!(extend_hold(&deps, step(others, NOW)).await.unwrap(), HoldExtension::NotFound);
    assert_eq!(extend(store, false, NOW).await.unwrap(), HoldExtension::NotToppingUp);
    let off = ExtendDeps { store: store.clone(), extension_seconds: 0 };
    assert_eq!(extend_hold(&off, step(ask(true), NOW)).await.unwrap(), HoldExtension::NotExtendable);
    assert_eq!(extend(store, true, hold_end()).await.unwrap(), HoldExtension::NotExtendable, "it is over");
    begin_payment(store, step(saga(&held, "p1"), NOW)).await.unwrap();
    assert_eq!(extend(store, true, NOW).await.unwrap(), HoldExtension::NotExtendable, "it is being paid");
    confirm_reservation(store, step(saga(&held, "p1"), NOW)).await.unwrap();
    assert_eq!(extend(store, true, NOW).await.unwrap(), HoldExtension::NotExtendable, "it is paid");
    assert_eq!(row(&bench).await["hold_expires_at"], at(hold_end()));
    assert_sound(&bench, NOW).await;
}

#[tokio::test]
async fn a_hold_whose_seat_is_anothers_by_now_is_not_extended() {
    let bench = Bench::on_sale(4).await;
    alice(&bench.reservations).await;
    // By bob's clock it is over.
    bob(&bench.reservations, "r2", hold_end()).await.unwrap();
    let before = row(&bench).await;
    assert_eq!(
        extend(&bench.reservations, true, hold_end().plus_millis(-1)).await.unwrap(),
        HoldExtension::NotExtendable
    );
    assert_eq!(row(&bench).await, before);
    assert_sound(&bench, hold_end()).await;
}

// ---------------------------------------------------------------- what went by the old end

#[tokio::test]
async fn an_extended_hold_ends_at_its_new_end_by_its_message_or_the_sweep_and_not_before() {
    for (delay, by_message) in [("0,0", true), ("0,0", false), (DELAY, true), (DELAY, false)] {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(delay).allowing(UnpaidRule { most: 10, cool_down_seconds: 0 });
        alice(&store).await;
        extended(&store, NOW).await;
        let messages = [event(&bench, "held").await.unwrap(), event(&bench, "extended").await.unwrap()];
        assert_eq!(messages.each_ref().map(end_in), [hold_end(), extended_end()]);
        let delays = Delays::default();
        let deps = ExpireHold { store: store.clone(), queue: &delays };
        let deliver = async |now: Timestamp| {
            for event in &messages {
                let body = json!({ "detail": event }).to_string();
                expire_hold(&deps, Message::new("m", body, now)).await.unwrap();
            }
        };
        for now in [hold_end(), extended_end().plus_millis(-1)] {
            deliver(now).await;
            sweep_holds(&store, now).await.unwrap();
            assert_eq!(row(&bench).await["status"], s("held"), "{delay}");
            assert!(bob(&store, "early", now).await.is_err(), "{delay}");
            assert_sound(&bench, now).await;
        }
        assert_eq!(*delays.0.lock().unwrap(), [i32::try_from(EXTENSION).unwrap(), 1], "each once, for its message");
        match by_message {
            true => deliver(extended_end()).await,
            false => sweep_holds(&store, extended_end()).await.unwrap(),
        }
        let ended = row(&bench).await;
        assert_eq!(ended["status"], s("expired"), "{delay}");
        let counts = bench.engine.item("reservations", "USER#alice", "CONCERT#concert").await.unwrap();
        assert_eq!((&counts["u#date"], &counts["n#date"]), (&n(1), &n(0)), "it counts as any other");
        let free = ended.get("seats_free_at").map_or(extended_end(), |_| ended.moment("seats_free_at").unwrap());
        if delay == DELAY {
            let kept = extended_end().plus_seconds(30)..=extended_end().plus_seconds(120);
            assert!(kept.contains(&free), "{free}");
            assert!(bob(&store, "early", free.plus_millis(-1)).await.is_err());
        }
        bob(&store, "r2", free).await.unwrap();
        assert_sound(&bench, free).await;
    }
}

#[tokio::test]
async fn the_event_of_a_later_end_tells_that_end() {
    let bench = Bench::on_sale(4).await;
    let store = &bench.reservations;
    alice(store).await;
    extended(store, NOW).await;
    let body = json!({ "detail": event(&bench, "extended").await.unwrap() }).to_string();
    let delays = Delays::default();
    let deps = ExpireHold { store: store.clone(), queue: &delays };
    expire_hold(&deps, Message::new("m", body, extended_end())).await.unwrap();
    assert_eq!(end_in(&event(&bench, "expired").await.unwrap()), extended_end());
}

#[tokio::test]
async fn an_extended_hold_is_paid_and_cancelled_as_any_other() {
    for cancelled in [true, false] {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(DELAY);
        let held = alice(&store).await;
        extended(&store, NOW).await;
        let now = hold_end().plus_seconds(1);
        if cancelled {
            cancel_reservation(&store, &held.user, &held.id, now).await.unwrap();
        } else {
            let quoted = QuoteReservation { user_id: held.user.clone(), reservation_id: held.id.clone() };
            let Quote::Payable(quote) = quote_reservation(&store, step(quoted, now)).await.unwrap() else {
                panic!("its hold runs");
            };
            assert_eq!(quote.hold_expires_at, extended_end());
            let paying = contracts::saga::PaymentSaga { hold_expires_at: quote.hold_expires_at, ..saga(&held, "p1") };
            begin_payment(&store, step(paying.clone(), now)).await.unwrap();
            confirm_reservation(&store, step(paying, now)).await.unwrap();
        }
        assert_eq!(bench.status(&held).await, if cancelled { "cancelled" } else { "paid" });
        assert_sound(&bench, now).await;
    }
}

#[tokio::test]
async fn a_payment_that_was_asked_for_before_the_extension_and_fails_gives_the_hold_back_until_its_new_end() {
    for delay in ["0,0", DELAY] {
        let bench = Bench::on_sale(4).await;
        let store = bench.returning(delay);
        let held = alice(&store).await;
        // Its input says when the hold ended then.
        let paying = saga(&held, "p1");
        extended(&store, NOW).await;
        begin_payment(&store, step(paying.clone(), NOW)).await.unwrap();
        let now = hold_end().plus_seconds(1);
        for _ in 0..2 {
            release_reservation(&store, step(tests::fixture::refused(paying.clone()), now)).await.unwrap();
            assert_eq!(bench.status(&held).await, "held", "{delay}");
            assert_sound(&bench, now).await;
        }
        let found = store.find(&held.user, &held.id).await.unwrap().unwrap();
        assert_eq!((found.hold_expires_at, found.is_extended), (extended_end(), true));
        // And one that fails beyond that ends it.
        begin_payment(&store, step(saga(&held, "p2"), now)).await.unwrap();
        release_reservation(&store, step(tests::fixture::refused(saga(&held, "p2")), extended_end())).await.unwrap();
        assert_eq!(bench.status(&held).await, "expired", "{delay}");
        assert_eq!(end_in(&event(&bench, "expired").await.unwrap()), extended_end());
        assert_sound(&bench, extended_end()).await;
    }
}

/// What can come between the read and the write of an extension.
#[derive(Debug, Clone, Copy)]
enum Between {
    Begun,
    Cancelled,
    Expired,
    Extended,
}

#[tokio::test]
async fn whatever_comes_between_decides_and_nothing_is_half_extended() {
    for between in [Between::Begun, Between::Cancelled, Between::Expired, Between::Extended] {
        let bench = Bench::on_sale(4).await;
        let store = &bench.reservations;
        let held = alice(store).await;
        let last = hold_end().plus_millis(-1);
        let mut answer = None;
        let slow = async { answer = Some(extend(store, true, last).await.unwrap()) };
        let quick = async {
            match between {
                Between::Begun => bench.begin(&saga(&held, "p1"), last).await,
                Between::Cancelled => cancel_reservation(store, &held.user, &held.id, last).await.unwrap(),
                Between::Expired => sweep_holds(store, hold_end()).await.unwrap(),
                Between::Extended => extended(store, last).await,
            }
        };
        bench.crossed(slow, quick).await;
        let wanted = match between {
            Between::Extended => HoldExtension::Extended { hold_expires_at: extended_end() },
            _ => HoldExtension::NotExtendable,
        };
        assert_eq!(answer, Some(wanted), "{between:?}");
        assert_eq!(violations(&bench, last).await, Vec::<String>::new(), "{between:?}");
    }
}

/// The delays that were asked for.
#[derive(Debug, Default)]
struct Delays(Mutex<Vec<i32>>);

impl ScheduleExpiry for &Delays {
    async fn look_again(&self, _: &str, delay_seconds: i32) -> Result<(), Fault> {
        self.0.lock().unwrap().push(delay_seconds);
        Ok(())
    }
}

// ---------------------------------------------------------------- asked for by its user

/// Reservations, asked by the use case itself instead of one function invoking another.
struct Holds(Reservations, Timestamp);

impl HoldClient for Holds {
    async fn extend(&self, ask: &ExtendHold) -> Result<HoldExtension, Fault> {
        let deps = ExtendDeps { store: self.0.clone(), extension_seconds: EXTENSION };
        match extend_hold(&deps, step(ask.clone(), self.1)).await {
            Ok(answer) => Ok(answer),
            Err(StepError::Fault(fault)) => Err(fault),
            Err(StepError::Refused(_)) => panic!("an extension is answered"),
        }
    }
}

async fn requested(bench: &Bench, who: &str, now: Timestamp) -> Result<Reply, Problem> {
    let holds = Holds(bench.reservations.clone(), now);
    let deps = ExtensionDeps { charges: Charges::new(bench.proxy.table("payments")), users: users(), holds };
    request_extension(&deps, Ask::at(now).user(who).path("reservation_id", "r1").call()).await
}

async fn refused(bench: &Bench, who: &str, now: Timestamp) -> (u16, &'static str) {
    let problem = requested(bench, who, now).await.unwrap_err();
    (problem.status.as_u16(), problem.code)
}

async fn intend(charges: &Charges, who: &str) -> Intent {
    let intent = Intent::new(user(who), format!("order-of-{who}"), ChargeAmount::new(500).unwrap(), NOW);
    charges.open_intent(&intent, NOW).await.unwrap();
    intent
}

#[tokio::test]
async fn a_user_with_an_open_charge_intent_gets_more_time_and_nobody_else() {
    let bench = Bench::on_sale(4).await;
    let charges = Charges::new(bench.proxy.table("payments"));
    assert_eq!(refused(&bench, "alice", NOW).await, (404, "not_found"));
    alice(&bench.reservations).await;
    assert_eq!(refused(&bench, "alice", NOW).await, (409, "charge_intent_not_open"));
    intend(&charges, "bob").await;
    assert_eq!(refused(&bench, "bob", NOW).await, (404, "not_found"));
    assert_eq!(refused(&bench, "alice", NOW).await, (409, "charge_intent_not_open"));
    let intent = intend(&charges, "alice").await;
    assert_eq!(refused(&bench, "alice", hold_end()).await, (409, "hold_not_extendable"));
    bench.proxy.forget();
    let first = requested(&bench, "alice", NOW).await.unwrap();
    assert_eq!(bench.proxy.actions(), ["GetItem", "GetItem", "TransactWriteItems"]);
    assert_eq!(first.status.as_u16(), 200);
    let wanted = json!({"reservation_id": "r1", "hold_expires_at": extended_end().rfc3339()});
    assert_eq!(first.body, Some(wanted));
    let again = requested(&bench, "alice", NOW).await.unwrap();
    assert_eq!(again.body, first.body);
    // The intent's charge is in the balance: what was extended stays, and another hold is not extended for it.
    let charge = charge_of(&intent);
    charges.record_charge(&charge).await.unwrap();
    let credited = ChargeState::Credited(CreditedCharge { entry_id: "c1".into(), balance: won(500) });
    for (from, to) in [(ChargeState::Pending, ChargeState::Confirmed), (ChargeState::Confirmed, credited)] {
        let from = ::payments::domain::charges::Charge { state: from, ..charge.clone() };
        assert_eq!(charges.move_charge(&from, &to, NOW).await.unwrap(), None);
    }
    assert_eq!(requested(&bench, "alice", hold_end()).await.unwrap().body, first.body);
    let next = ExtendHold { reservation_id: "r3".to_owned().try_into().unwrap(), ..ask(false) };
    hold(&bench.reservations, place("alice", 1, NOW), &["A-2-1"], "r3", NOW).await.unwrap();
    let answer = Holds(bench.reservations.clone(), NOW).extend(&next).await.unwrap();
    assert_eq!(answer, HoldExtension::NotToppingUp);
    assert_sound(&bench, NOW).await;
}

fn charge_of(intent: &Intent) -> ::payments::domain::charges::Charge {
    let asked = PayCharge {
        user_id: intent.user.clone(),
        key: intent.order_id.clone(),
        amount: intent.amount,
        payment_key: "pay-1".into(),
        requested_at: NOW,
        correlation_id: "request-1".into(),
    };
    ::payments::domain::charges::Charge::asked(PaymentId::parse("c1").unwrap(), asked)
}

#[tokio::test]
async fn an_intent_extends_for_as_long_as_points_may_come_of_it() {
    let bench = Bench::on_sale(4).await;
    let charges = Charges::new(bench.proxy.table("payments"));
    alice(&bench.reservations).await;
    let intent = intend(&charges, "alice").await;
    let charge = charge_of(&intent);
    charges.record_charge(&charge).await.unwrap();
    charges.move_charge(&charge, &ChargeState::Refused("reject_card_payment".into()), NOW).await.unwrap();
    // Declined, it may be paid again.
    requested(&bench, "alice", NOW).await.unwrap();
    assert_eq!(row(&bench).await["extended_from"], at(hold_end()));
    assert_sound(&bench, NOW).await;
}
