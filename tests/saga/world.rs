//! A sale with one buyer on tables of its own, the sagas' steps on it, and what must be true of it at the end.

use contracts::Timestamp;
use contracts::saga::{PaymentSaga, RefundSaga, TokenExpiry};
use kit::dynamo::{Item, Read, s};
use kit::idempotency::{IdempotencyKey, Memo, StoredAnswer};
use payments::domain::{Payment, Refund, Status};
use payments::ports::{FindPayment, OpenPayment, OpenRefund};
use points::domain::{EntryKey, Kind, Movement};
use points::ports::{ListEntries, PostEntry, ReadBalance};
use reservations::domain;
use reservations::ports::{FindReservation, KeepTerms, Origin};
use reservations::usecases::reserve_seats::{Reserved, reserve_seats};
use serde_json::{Value, json};
use std::sync::Mutex;
use tests::dynamo::{Engine, Tables};
use tests::fixture::{NOW, PRICE, place, plan, saga, seat_request, terms, user, won};
use tests::machine::TaskResult;
use tests::steps::Steps;

/// What the buyer has at the beginning.
pub const FUNDS: i64 = 5 * PRICE;

/// A buyer who holds two seats and starts to pay, or has paid and wants a refund.
pub struct World {
    pub engine: Engine,
    pub saga: PaymentSaga,
    refund: Option<RefundSaga>,
    /// Whether another buyer waits for a seat and grabs it at the first moment it is free.
    is_crowded: bool,
    pub parked: Mutex<Vec<Value>>,
    steps: Steps,
    /// The time on the steps' clock.
    pub now: Timestamp,
}

/// What a request of alice's leaves under its key.
fn memo(key: &str) -> Memo {
    let key = IdempotencyKey { key: key.into(), fingerprint: "f".into() };
    Memo { user: user("alice"), key, about: "p1".into(), answer: StoredAnswer::created(&json!({})) }
}

impl World {
    /// The world right after `start-payment` recorded the payment. `funds` is what the buyer has.
    pub async fn new(token_expiry: TokenExpiry, funds: i64) -> Self {
        let engine = Engine::start().await;
        let steps = Steps::on(&Tables::at(engine.url()));
        let Steps { reservations, accounts, payments, .. } = &steps;
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
        let request = seat_request(place("alice", 1, NOW), &["A-1-1", "B-1-1"], "r1");
        let Ok(Reserved::Held(reservation)) = reserve_seats(reservations, &request, Origin::New, None, NOW).await
        else {
            panic!("the seats are free");
        };
        let saga = PaymentSaga { token_expiry, ..saga(&reservation, "p1") };
        let payment =
            Payment { saga: saga.clone(), status: Status::Pending, refund: None, recoveries: 0, alerted: false };
        payments.open(&payment, &memo("k"), NOW).await.unwrap().unwrap();
        let now = NOW.plus_seconds(10);
        let (refund, is_crowded, parked) = (None, false, Mutex::default());
        Self { engine, saga, refund, is_crowded, parked, steps, now }
    }

    /// The world right after `start-refund` recorded the refund of what was sold.
    pub async fn refunding(is_crowded: bool) -> Self {
        let mut world = Self::new(TokenExpiry::Event, FUNDS).await;
        for step in ["BeginPayment", "UsePoints", "ConfirmReservation", "CompletePayment"] {
            world.call(step, &world.input()).await.unwrap();
        }
        let payment = world.steps.payments.find(&world.saga.user_id, &world.saga.payment_id).await.unwrap().unwrap();
        let payment = payment.refunding(Refund { requested_at: world.now, correlation_id: "refund".into() });
        world.steps.payments.open_refund(&payment, &memo("refund"), world.now).await.unwrap();
        world.refund = payment.refund_saga();
        world.is_crowded = is_crowded;
        world
    }

    /// The input of the saga at hand.
    pub fn input(&self) -> Value {
        match &self.refund {
            None => serde_json::to_value(&self.saga).unwrap(),
            Some(refund) => serde_json::to_value(refund).unwrap(),
        }
    }

    /// Bob takes a seat if it is free.
    async fn grab(&self) {
        let request = seat_request(place("bob", 2, NOW), &["A-1-1"], "r2");
        let _taken = reserve_seats(&self.steps.reservations, &request, Origin::New, None, self.now).await;
    }

    /// Calls the function behind a state.
    pub async fn call(&self, state: &str, data: &Value) -> TaskResult {
        if self.is_crowded {
            self.grab().await;
        }
        match state {
            "ParkPayment" | "ParkRefund" => {
                self.parked.lock().unwrap().push(data.clone());
                Ok(json!({}))
            }
            step => self.steps.call(step, data, self.now).await,
        }
    }

    pub async fn payment(&self) -> Status {
        self.steps.payments.find(&self.saga.user_id, &self.saga.payment_id).await.unwrap().unwrap().status
    }

    pub async fn balance(&self) -> i64 {
        self.steps.accounts.balance(&self.saga.user_id).await.unwrap().get()
    }

    pub async fn reservation(&self) -> domain::Reservation {
        self.steps.reservations.find(&self.saga.user_id, &self.saga.reservation_id).await.unwrap().unwrap()
    }

    async fn seats(&self) -> Vec<Item> {
        self.seats_of(self.saga.reservation_id.as_str()).await
    }

    async fn seats_of(&self, reservation: &str) -> Vec<Item> {
        let mut items = self.engine.items("reservations").await;
        items.retain(|item| item.get("kind") == Some(&s("seat")) && item["reservation_id"] == s(reservation));
        items
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

    /// The events about the buyer.
    async fn events(&self) -> Vec<String> {
        let mut types = Vec::new();
        for context in ["reservations", "payments"] {
            for item in self.engine.items(context).await {
                if item.text("kind").is_ok_and(|kind| kind == "outbox") {
                    let event: Value = item.document("event").unwrap();
                    if event["data"]["user_id"] == self.saga.user_id.as_str() {
                        types.push(event["type"].as_str().unwrap().to_owned());
                    }
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
        let mut events = vec!["payment.completed", "reservation.held", "reservation.paid"];
        if self.refund.is_some() {
            events.insert(1, "payment.refund_failed");
        }
        assert_eq!(self.events().await, events, "{case}");
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

    /// Refunded: the points back once, the seats free or another buyer's, every event there once.
    pub async fn assert_refunded(&self, case: &str) {
        assert_eq!(self.payment().await, Status::Refunded, "{case}");
        assert_eq!(self.reservation().await.status, domain::Status::Refunded, "{case}");
        assert_eq!(self.balance().await, FUNDS, "{case}");
        assert_eq!(self.tickets().await, 0, "{case}");
        assert_eq!(self.seats().await.len(), 0, "{case}");
        let grabbed = self.seats_of("r2").await;
        assert_eq!(grabbed.len(), usize::from(self.is_crowded), "{case}");
        assert!(grabbed.iter().all(|seat| seat.text("status").unwrap() == "held"), "{case}");
        let events =
            ["payment.completed", "payment.refunded", "reservation.held", "reservation.paid", "reservation.refunded"];
        assert_eq!(self.events().await, events, "{case}");
        self.assert_ledger(case).await;
    }

    async fn assert_ledger(&self, case: &str) {
        let page = kit::http::Page { limit: 100, after: None };
        let (entries, _) = self.steps.accounts.entries(&self.saga.user_id, &page).await.unwrap();
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

    /// Whichever of these outcomes it is, it is that one completely.
    pub async fn assert_settled(&self, case: &str) {
        match self.payment().await {
            Status::Completed => self.assert_sold(case).await,
            Status::Refunded => self.assert_refunded(case).await,
            Status::Failed(_) => {
                assert_eq!(self.balance().await, FUNDS, "{case}");
                self.assert_undone(case).await;
            }
            other => panic!("{case}: the payment is {other:?}"),
        }
    }
}
