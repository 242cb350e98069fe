//! A sale with one buyer on tables of its own, the saga's steps on it, and what must be true of it at the end.

use crate::machine::{TaskError, TaskResult};
use contracts::Timestamp;
use contracts::saga::{Done, FailPayment, PaymentSaga, Release, TokenExpiry, error_name};
use kit::dynamo::{Item, Read};
use kit::idempotency::{IdempotencyKey, StoredAnswer};
use kit::{StepCall, StepError};
use payments::domain::{Payment, Status};
use payments::dynamo::Payments;
use payments::ports::{FindPayment, OpenPayment};
use payments::usecases::complete_payment::complete_payment;
use payments::usecases::fail_payment::fail_payment;
use points::domain::{EntryKey, Kind, Movement};
use points::dynamo::Accounts;
use points::ports::{ListEntries, PostEntry, ReadBalance};
use points::usecases::return_points::return_points;
use points::usecases::use_points::use_points;
use reservations::domain;
use reservations::dynamo::Reservations;
use reservations::ports::{FindReservation, KeepTerms, Origin};
use reservations::usecases::begin_payment::begin_payment;
use reservations::usecases::confirm_reservation::confirm_reservation;
use reservations::usecases::release_reservation::release_reservation;
use reservations::usecases::reserve_seats::{Reserved, reserve_seats};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::sync::Mutex;
use tests::dynamo::Engine;
use tests::fixture::{NOW, PRICE, place, plan, saga, terms, user, wish, won};
use waiting_room::domain::ShardCount;
use waiting_room::dynamo::Lines;
use waiting_room::usecases::expire_queue_token::expire_queue_token;
use waiting_room::usecases::restore_queue_token::restore_queue_token;

/// What the buyer has at the beginning.
pub const FUNDS: i64 = 5 * PRICE;

/// A buyer who holds two seats and asks to pay.
pub struct World {
    pub engine: Engine,
    pub saga: PaymentSaga,
    pub parked: Mutex<Vec<Value>>,
    reservations: Reservations,
    accounts: Accounts,
    payments: Payments,
    lines: Lines,
    /// What the clock of the steps says.
    pub now: Timestamp,
}

impl World {
    /// The world right after `start-payment` recorded the payment. `funds` is what the buyer has.
    pub async fn new(token_expiry: TokenExpiry, funds: i64) -> Self {
        let engine = Engine::start().await;
        let reservations = Reservations::new(engine.table("reservations"));
        let accounts = Accounts::new(engine.table("points"));
        let payments = Payments::new(engine.table("payments"));
        let lines = Lines::new(engine.table("waiting-room"), ShardCount::ONE);
        reservations.keep_terms(&terms(4)).await.unwrap();
        reservations.keep_plan(&tests::fixture::concert(), &plan()).await.unwrap();
        let charge = Movement {
            key: EntryKey::charge("funds"),
            entry_id: "funds".into(),
            kind: Kind::Charge,
            amount: won(funds),
            reference: "funds".into(),
            at: NOW,
        };
        accounts.post(&user("alice"), &charge).await.unwrap().unwrap();
        let answer = |_: &domain::Reservation| StoredAnswer { status: 201, body: json!({}), location: None };
        let wish = wish(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1");
        let Ok(Reserved::Held(reservation)) = reserve_seats(&reservations, &wish, Origin::New, None, answer, NOW).await
        else {
            panic!("the seats are free");
        };
        let saga = PaymentSaga { token_expiry, ..saga(&reservation, "p1") };
        let payment = Payment { saga: saga.clone(), status: Status::Pending, recoveries: 0 };
        let key = IdempotencyKey { key: "k".into(), fingerprint: "f".into() };
        payments.open(&payment, &key, &answer(&reservation), NOW).await.unwrap();
        let now = NOW.plus_seconds(10);
        Self { engine, saga, parked: Mutex::default(), reservations, accounts, payments, lines, now }
    }

    /// Calls the function behind a state.
    pub async fn call(&self, state: &str, data: &Value) -> TaskResult {
        match state {
            "BeginPayment" => answered(begin_payment(&self.reservations, self.step(data)).await),
            "UsePoints" => answered(use_points(&self.accounts, self.step(data)).await),
            "ExpireQueueToken" => answered(expire_queue_token(&self.lines, self.step(data)).await),
            "ConfirmReservation" => answered(confirm_reservation(&self.reservations, self.step(data)).await),
            "CompletePayment" => answered(complete_payment(&self.payments, self.step(data)).await),
            "ReleaseReservation" => answered::<Release>(release_reservation(&self.reservations, self.step(data)).await),
            "RestoreQueueToken" => answered(restore_queue_token(&self.lines, self.step(data)).await),
            "ReturnPoints" => answered::<Done>(return_points(&self.accounts, self.step(data)).await),
            "FailPayment" => answered(fail_payment(&self.payments, self.step::<FailPayment>(data)).await),
            "ParkPayment" => {
                self.parked.lock().unwrap().push(data.clone());
                Ok(json!({}))
            }
            other => panic!("no function behind {other}"),
        }
    }

    fn step<I: DeserializeOwned>(&self, data: &Value) -> StepCall<I> {
        StepCall { input: serde_json::from_value(data.clone()).unwrap(), now: self.now }
    }

    pub async fn payment(&self) -> Status {
        self.payments.find(&self.saga.user_id, &self.saga.payment_id).await.unwrap().unwrap().status
    }

    pub async fn balance(&self) -> i64 {
        self.accounts.balance(&self.saga.user_id).await.unwrap().get()
    }

    pub async fn reservation(&self) -> domain::Reservation {
        self.reservations.find(&self.saga.user_id, &self.saga.reservation_id).await.unwrap().unwrap()
    }

    async fn seats(&self) -> Vec<Item> {
        let items = self.engine.items("reservations").await;
        items.into_iter().filter(|item| item.text("kind").is_ok_and(|kind| kind == "seat")).collect()
    }

    async fn tickets(&self) -> i64 {
        let sk = format!("CONCERT#{}", self.saga.concert_id);
        let item = self.engine.item("reservations", &format!("USER#{}", self.saga.user_id), &sk).await.unwrap();
        let count = item.get(&format!("n#{}", self.saga.schedule_id)).and_then(|n| n.as_n().ok());
        count.and_then(|digits| digits.parse().ok()).unwrap()
    }

    async fn token_spent(&self) -> bool {
        let items = self.engine.items("waiting-room").await;
        let used = items.iter().filter_map(|item| item.get("used").and_then(|used| used.as_ss().ok())).flatten();
        used.into_iter().any(|entry| entry.ends_with(self.saga.payment_id.as_str()))
    }

    async fn events(&self) -> Vec<String> {
        let mut types = Vec::new();
        for context in ["reservations", "payments"] {
            for item in self.engine.items(context).await {
                if item.text("kind").is_ok_and(|kind| kind == "outbox") {
                    let event: Value = item.document("event").unwrap();
                    types.push(event["type"].as_str().unwrap().to_owned());
                }
            }
        }
        types.sort();
        types
    }

    /// Sold: paid once, debited once, every seat sold, every event there once.
    pub async fn assert_sold(&self, case: &str) {
        assert_eq!(self.payment().await, Status::Completed, "{case}");
        let reservation = self.reservation().await;
        assert_eq!(reservation.status, domain::Status::Paid, "{case}");
        assert_eq!(reservation.payment.as_ref(), Some(&self.saga.payment_id), "{case}");
        assert_eq!(self.balance().await, FUNDS - self.saga.amount.get(), "{case}");
        let seats = self.seats().await;
        assert_eq!(seats.len(), self.saga.seats.len(), "{case}");
        assert!(seats.iter().all(|seat| seat.text("status").unwrap() == "sold"), "{case}");
        assert_eq!(self.tickets().await, 2, "{case}");
        assert_eq!(self.events().await, ["payment.completed", "reservation.held", "reservation.paid"], "{case}");
        if self.saga.token_expiry == TokenExpiry::Strict {
            assert!(self.token_spent().await, "{case}");
        }
        self.assert_ledger(case).await;
    }

    /// Undone: the points back, the seats held as before or free if the hold is over, nothing spent.
    pub async fn assert_undone(&self, case: &str) {
        assert!(matches!(self.payment().await, Status::Failed(_)), "{case}: {:?}", self.payment().await);
        let reservation = self.reservation().await;
        let seats = self.seats().await;
        if self.now < self.saga.hold_expires_at {
            assert_eq!(reservation.status, domain::Status::Held, "{case}");
            assert_eq!(seats.len(), self.saga.seats.len(), "{case}");
            assert!(seats.iter().all(|seat| seat.text("status").unwrap() == "held"), "{case}");
            assert_eq!(self.tickets().await, 2, "{case}");
        } else {
            assert_eq!(reservation.status, domain::Status::Expired, "{case}");
            assert_eq!(seats.len(), 0, "{case}");
            assert_eq!(self.tickets().await, 0, "{case}");
        }
        assert!(seats.iter().all(|seat| !seat.contains_key("payment_id")), "{case}");
        assert_eq!(reservation.payment, None, "{case}");
        assert!(!self.token_spent().await, "{case}");
        assert!(self.events().await.contains(&"payment.failed".to_owned()), "{case}");
        self.assert_ledger(case).await;
    }

    async fn assert_ledger(&self, case: &str) {
        let page = kit::http::Page { limit: 100, after: None };
        let (entries, _) = self.accounts.entries(&self.saga.user_id, &page).await.unwrap();
        let sum: i64 =
            entries
                .iter()
                .map(|entry| {
                    if entry.movement.kind.adds() { entry.movement.amount.get() } else { -entry.movement.amount.get() }
                })
                .sum();
        assert_eq!(sum, self.balance().await, "{case}");
        assert_eq!(entries[0].balance_after.get(), sum, "{case}");
    }

    /// Whichever of the two it is, it is wholly that.
    pub async fn assert_settled(&self, case: &str) {
        match self.payment().await {
            Status::Completed => self.assert_sold(case).await,
            Status::Failed(_) => {
                assert_eq!(self.balance().await, FUNDS, "{case}");
                self.assert_undone(case).await;
            }
            other => panic!("{case}: the payment is {other:?}"),
        }
    }
}

fn answered<O: Serialize>(outcome: Result<O, StepError>) -> TaskResult {
    match outcome {
        Ok(answer) => Ok(serde_json::to_value(answer).unwrap()),
        Err(StepError::Refused(reason)) => Err(TaskError { name: error_name::REFUSED, message: reason.to_owned() }),
        Err(StepError::Fault(fault)) => Err(TaskError { name: fault.name(), message: fault.chain() }),
    }
}
