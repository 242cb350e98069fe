//! The common fixture: an engine of its own, a proxy before it, and the stores behind the proxy.

use ::payments::domain::{Choices, Execution, Payment};
use ::payments::dynamo::Payments;
use ::payments::ports::{EnsureSaga, OpenPayment, QuoteClient, RefundQuoteClient, StartSaga};
use ::points::domain::Charging;
use ::points::dynamo::Accounts;
use ::points::handlers::ChargeDeps;
use ::points::ports::PayClient;
use ::reservations::domain::{Refusal, Reservation, SeatRequest};
use ::reservations::dynamo::Reservations;
use ::reservations::handlers::ReserveDeps;
use ::reservations::handlers::quote_refund;
use ::reservations::handlers::quote_reservation;
use ::reservations::ports::{KeepTerms, Origin, SendRequest};
use ::reservations::usecases::reserve_seats::{ReserveError, Reserved, reserve_seats};
use ::waiting_room::domain::{CheckBudget, ShardCount};
use ::waiting_room::dynamo::Lines;
use ::waiting_room::handlers::{JoinDeps, StatusDeps};
use contracts::Timestamp;
use contracts::admission::QueueTokenClaims;
use contracts::saga::{PaymentSaga, TokenExpiry};
use contracts::steps::{
    ChargePaid, OpenSchedule, PayCharge, PayableReservation, Quote, QuoteRefund, QuoteReservation, RefundQuote,
};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::sweep::Budget;
use kit::{StepCall, StepError, Tick};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tests::calls::{Ask, queue_tokens, users};
use tests::dynamo::Engine;
use tests::fixture::{NOW, concert, plan, seat_request, step, terms};
use tests::proxy::{Proxy, Rule};

/// An engine, a proxy and the stores behind it.
pub struct Bench {
    pub engine: Engine,
    pub proxy: Proxy,
    pub reservations: Reservations,
    pub points: Accounts,
    pub payments: Payments,
}

impl Bench {
    /// Holds back the next transaction, which `slow` makes, until `quick` is done.
    pub async fn crossed(&self, slow: impl Future<Output = ()>, quick: impl Future<Output = ()>) {
        let gate = self.proxy.hold(Rule::on("TransactWriteItems").once());
        let crossing = async {
            gate.reached().await;
            quick.await;
            gate.open();
        };
        tokio::join!(slow, crossing);
    }

    /// With nothing in it.
    pub async fn start() -> Self {
        let engine = Engine::start().await;
        let proxy = Proxy::before(&engine).await;
        Self {
            reservations: Reservations::new(proxy.table("reservations")),
            points: Accounts::new(proxy.table("points")),
            payments: Payments::new(proxy.table("payments")),
            engine,
            proxy,
        }
    }

    /// With one date on sale to everybody who joined.
    pub async fn on_sale(max_per_user: u32) -> Self {
        Self::selling(&terms(max_per_user)).await
    }

    /// With one date on sale under these terms.
    pub async fn selling(terms: &OpenSchedule) -> Self {
        let bench = Self::start().await;
        bench.reservations.keep_terms(terms).await.unwrap();
        bench.reservations.keep_plan(&concert(), &plan()).await.unwrap();
        bench.proxy.forget();
        bench
    }

    /// The same tables, where seats that are given back are kept for so many seconds (`min,max`).
    pub fn returning(&self, delay: &str) -> Reservations {
        self.reservations.clone().returning(delay.parse().unwrap())
    }

    /// Lines of the waiting room, as a process that has just started sees them.
    pub fn lines(&self) -> Lines {
        Lines::new(self.proxy.table("waiting-room"), ShardCount::ONE)
    }

    /// Holds seats, without an idempotency key.
    pub async fn reserve(
        &self,
        place: QueueTokenClaims,
        seats: &[&str],
        id: &str,
        now: Timestamp,
    ) -> Result<Reservation, ReserveError> {
        hold(&self.reservations, place, seats, id, now).await
    }

    /// A reservation item's status.
    pub async fn status(&self, reservation: &Reservation) -> String {
        let (pk, sk) = (format!("USER#{}", reservation.user), format!("RES#{}", reservation.id));
        let item = self.engine.item("reservations", &pk, &sk).await.expect("a reservation");
        item["status"].as_s().unwrap().clone()
    }

    /// The owner and the state of a seat.
    pub async fn seat(&self, id: &str) -> Option<(String, String)> {
        let seat = tests::fixture::seat(id);
        let (section, block) = (&seat.section, terms(1).block_of(&seat).unwrap());
        let pk = format!("SEATS#date#{section}#{block}");
        let item = self.engine.item("reservations", &pk, &format!("SEAT#{id}")).await?;
        let text = |name: &str| item[name].as_s().unwrap().clone();
        Some((text("reservation_id"), text("status")))
    }

    /// The balance as the table has it.
    pub async fn balance(&self, user: &str) -> i64 {
        let account = self.engine.item("points", &format!("USER#{user}"), "ACCOUNT").await;
        account.and_then(|item| item.get("balance").map(|n| n.as_n().unwrap().parse().unwrap())).unwrap_or(0)
    }
}

/// Holds seats in a store, without an idempotency key.
pub async fn hold(
    store: &Reservations,
    place: QueueTokenClaims,
    seats: &[&str],
    id: &str,
    now: Timestamp,
) -> Result<Reservation, ReserveError> {
    let request = SeatRequest { asked_at: now, ..seat_request(place, seats, id) };
    match reserve_seats(store, &request, Origin::New, None, now).await? {
        Reserved::Held(reservation) => Ok(reservation),
        other => panic!("no key was given, nothing was pending: {other:?}"),
    }
}

/// The memo that alice's request leaves under its key, with an answer that is not read.
pub fn memo(key: IdempotencyKey) -> Memo {
    Memo {
        user: contracts::UserId::parse("alice").unwrap(),
        key,
        about: "id".to_owned(),
        answer: StoredAnswer::created(&json!({})),
    }
}

/// An idempotency key with a body's fingerprint.
pub fn key(name: &str, body: Value) -> IdempotencyKey {
    IdempotencyKey::required(&Ask::at(NOW).key(name).json(body).call(), "POST /test").unwrap()
}

/// Why seats were not held.
pub fn refusal(outcome: Result<Reservation, ReserveError>) -> Refusal {
    match outcome {
        Err(ReserveError::Refused(refusal)) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// The reason that a step was refused for.
pub fn reason<T: std::fmt::Debug>(outcome: Result<T, StepError>) -> &'static str {
    match outcome {
        Err(StepError::Refused(reason)) => reason,
        other => panic!("not refused: {other:?}"),
    }
}

/// Quotes by the use case itself, instead of one function invoking another.
pub struct RealQuotes(pub Reservations);

impl QuoteClient for RealQuotes {
    async fn quote(&self, ask: &QuoteReservation) -> Result<Quote, Fault> {
        let call = StepCall { input: ask.clone(), now: NOW };
        quote_reservation(&self.0, call).await.map_err(never_refused)
    }
}

impl RefundQuoteClient for RealQuotes {
    async fn quote_refund(&self, ask: &QuoteRefund) -> Result<RefundQuote, Fault> {
        let call = StepCall { input: ask.clone(), now: NOW };
        quote_refund(&self.0, call).await.map_err(never_refused)
    }
}

fn never_refused(error: StepError) -> Fault {
    match error {
        StepError::Fault(fault) => fault,
        StepError::Refused(_) => panic!("a quote is never refused"),
    }
}

/// Payments that give one answer to every charge.
#[derive(Debug)]
pub struct PaymentsSay(pub ChargePaid);

impl PayClient for PaymentsSay {
    async fn pay_charge(&self, _: &PayCharge) -> Result<ChargePaid, Fault> {
        Ok(self.0.clone())
    }
}

/// A tick at `now` whose time is over once its clock, which moves on by 20 ms whenever it is read, was read so often.
pub fn tick_of(reads: u64, now: Timestamp) -> Tick {
    let clock = AtomicU64::new(0);
    let passed = move || Duration::from_millis(20) * u32::try_from(clock.fetch_add(1, Ordering::Relaxed)).unwrap();
    Tick { now, budget: Budget::by(passed, Duration::from_millis(20 * reads)) }
}

/// Sagas that are only recorded.
#[derive(Debug, Default)]
pub struct Sagas {
    started: Mutex<Vec<String>>,
    executions: Mutex<BTreeMap<String, Execution>>,
}

impl Sagas {
    /// The names executions were started under, in order, repetitions included.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }

    /// Sets the state of an execution.
    pub fn set(&self, name: &str, execution: Execution) {
        self.executions.lock().unwrap().insert(name.to_owned(), execution);
    }
}

impl<I: Sync> StartSaga<I> for &Sagas {
    async fn start(&self, name: &str, _: &I) -> Result<(), Fault> {
        self.started.lock().unwrap().push(name.to_owned());
        self.executions.lock().unwrap().entry(name.to_owned()).or_insert(Execution::Running);
        Ok(())
    }
}

impl<I: Sync> EnsureSaga<I> for &Sagas {
    async fn ensure(&self, name: &str, saga: &I) -> Result<Execution, Fault> {
        let found = self.executions.lock().unwrap().get(name).copied();
        match found {
            Some(execution) => Ok(execution),
            None => self.start(name, saga).await.map(|()| Execution::Running),
        }
    }
}

impl Bench {
    /// Records the payment that a saga belongs to, as `start-payment` does.
    pub async fn open_payment(&self, saga: &PaymentSaga, now: Timestamp) -> Payment {
        let quote = PayableReservation {
            schedule_id: saga.schedule_id.clone(),
            concert_id: saga.concert_id.clone(),
            seats: saga.seats.clone(),
            total_price: saga.amount,
            hold_expires_at: saga.hold_expires_at,
            queue_position: saga.queue_position,
        };
        let choices = Choices { token_expiry: TokenExpiry::Event, correlation_id: saga.correlation_id.clone() };
        let (id, user, reservation) = (saga.payment_id.clone(), saga.user_id.clone(), saga.reservation_id.clone());
        let payment = Payment::of(id, user, reservation, quote, choices, now);
        let memo = Memo { user: saga.user_id.clone(), ..memo(key(saga.payment_id.as_str(), json!({}))) };
        let opened = self.payments.open(&payment, &memo, now).await.unwrap();
        assert_eq!(opened, Ok(Outcome::First));
        payment
    }

    /// The dependencies of `charge-points` where points are charged this way.
    pub fn charging(&self, charging: Charging, payments: ChargePaid) -> ChargeDeps<Accounts, PaymentsSay> {
        ChargeDeps { accounts: self.points.clone(), payments: PaymentsSay(payments), charging, users: users() }
    }

    /// Gives a user points.
    pub async fn charge(&self, user: &str, amount: i64, key: &str) {
        use ::points::usecases::charge_points::{ChargePoints, charge_points};
        use contracts::ChargeAmount;
        let ask = ChargePoints {
            user: tests::fixture::user(user),
            amount: ChargeAmount::new(amount).unwrap(),
            idempotency_key: key.to_owned(),
            entry_id: format!("entry-{key}"),
            now: NOW,
        };
        charge_points(&self.points, ask).await.unwrap();
    }

    /// Takes a reservation to being paid.
    pub async fn begin(&self, saga: &PaymentSaga, now: Timestamp) {
        use ::reservations::handlers::begin_payment;
        begin_payment(&self.reservations, step(saga.clone(), now)).await.unwrap();
    }

    /// Sells a reservation that is being paid.
    pub async fn confirm(&self, saga: &PaymentSaga, now: Timestamp) {
        use ::reservations::handlers::confirm_reservation;
        confirm_reservation(&self.reservations, step(saga.clone(), now)).await.unwrap();
    }
}

/// Accepts requests for seats, or is down.
#[derive(Debug, Default)]
pub struct Requests {
    taken: Mutex<Vec<SeatRequest>>,
    pub down: std::sync::atomic::AtomicBool,
}

impl Requests {
    /// All that were accepted.
    pub fn sent(&self) -> Vec<SeatRequest> {
        self.taken.lock().unwrap().clone()
    }
}

impl SendRequest for Requests {
    async fn ask(&self, request: &SeatRequest) -> Result<(), Fault> {
        if self.down.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Fault::unavailable("asking for seats", "down"));
        }
        self.taken.lock().unwrap().push(request.clone());
        Ok(())
    }
}

/// The dependencies of `reserve-seats`.
pub fn reserving(bench: &Bench) -> ReserveDeps<Reservations, Requests> {
    let store = bench.reservations.clone();
    ReserveDeps { store, requests: Requests::default(), users: users(), tokens: queue_tokens() }
}

/// What `join-queue` is wired with.
pub fn joining(line: Lines) -> JoinDeps<Lines> {
    JoinDeps { line, users: users(), queue_tokens: queue_tokens(), join_before_open: true, budget: budget() }
}

/// What `check-queue-status` is wired with.
pub fn checking(line: Lines) -> StatusDeps<Lines> {
    StatusDeps { line, users: users(), queue_tokens: queue_tokens(), budget: budget(), limit: Mutex::default() }
}

fn budget() -> CheckBudget {
    CheckBudget::default()
}
