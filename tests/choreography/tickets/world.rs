//! A sale's functions, each called on rows of its context's table under a fault.

use crate::stage::{Rows, Stage, Trouble};
use contracts::events::{Event, EventBody};
use contracts::saga::error_name;
use contracts::steps::{Quote, QuoteRefund, QuoteReservation, RefundQuote};
use contracts::{PaymentId, ReservationId, Timestamp, UserId};
use kit::dynamo::Read;
use kit::idempotency::{IdempotencyKey, StoredAnswer};
use kit::queue::Message;
use kit::{Fault, StepCall};
use payments::domain::{Choices, Payment};
use payments::ports::{QuoteClient, RefundQuoteClient, StartSaga};
use payments::usecases::start_payment::{StartError, StartPayment, start_payment};
use payments::usecases::start_refund::{RefundError, StartRefund, start_refund};
use points::domain::{EntryKey, Kind, Movement};
use points::ports::PostEntry;
use reservations::domain::SeatRequest;
use reservations::handlers::{ExtendDeps, expire_hold, extend_hold, quote_refund, quote_reservation};
use reservations::ports::{KeepTerms, Origin, ScheduleExpiry};
use reservations::usecases::cancel_reservation::{CancelError, cancel_reservation};
use reservations::usecases::expire_hold::ExpireHold;
use reservations::usecases::reserve_seats::{ReserveError, Reserved, reserve_seats};
use reservations::usecases::sweep_holds::sweep_holds;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Mutex;
use tests::dynamo::Tables;
use tests::fixture::{NOW, PRICE, concert, place, plan, seat_request, terms, user, won};
use tests::machine::{TaskError, TaskResult};
use tests::steps::{Steps, answered};

/// The reservation that is paid for: two seats, of which another buyer wants the first.
pub const RESERVATION: &str = "r1";
/// By how much its hold is extended, in seconds.
pub const EXTENSION_SECONDS: u32 = 60;
/// Its seats.
const SEATS: [&str; 2] = ["A-1-1", "A-1-2"];

/// A context's table. The result of a function depends only on its rows and the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    Seats,
    Points,
    Payments,
}

impl Part {
    pub const ALL: [Self; 3] = [Self::Seats, Self::Points, Self::Payments];

    pub const fn context(self) -> &'static str {
        match self {
            Self::Seats => "reservations",
            Self::Points => "points",
            Self::Payments => "payments",
        }
    }

    /// The part that a function works on; steps have the names of their states.
    pub fn of(function: &str) -> Self {
        match function {
            "UsePoints" | "ReturnPoints" => Self::Points,
            "CompletePayment" | "FailPayment" | "CompleteRefund" | "CancelRefund" | "start-payment"
            | "start-refund" => Self::Payments,
            _ => Self::Seats,
        }
    }
}

/// A function's call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Call {
    pub function: String,
    /// Its input, in JSON.
    pub input: String,
    /// When it is received.
    pub now: Timestamp,
}

/// The result of a call.
#[derive(Debug)]
pub struct Outcome {
    pub rows: Rows,
    /// Its answer; `None` if it died.
    pub done: Option<TaskResult>,
    /// The answer of the call that crossed it.
    pub other: Option<TaskResult>,
    /// Which of its requests write.
    pub writes: Vec<usize>,
    /// Its transactions, each with what it contains.
    pub transactions: Vec<(usize, String)>,
}

/// The input of `start-payment`: the content of the request, and what reservations answered.
#[derive(Debug, Serialize, Deserialize)]
pub struct Start {
    pub payment: PaymentId,
    pub reservation: ReservationId,
    pub quote: Quote,
}

/// What calls another function gets, instead of one function invoking another.
struct Said<Q>(Q);

impl QuoteClient for Said<Quote> {
    async fn quote(&self, _: &QuoteReservation) -> Result<Quote, Fault> {
        Ok(self.0.clone())
    }
}

impl RefundQuoteClient for Said<RefundQuote> {
    async fn quote_refund(&self, _: &QuoteRefund) -> Result<RefundQuote, Fault> {
        Ok(self.0.clone())
    }
}

/// State machines that keep the input of what was started.
#[derive(Default)]
struct Started(Mutex<Value>);

impl<I: Serialize + Sync> StartSaga<I> for Started {
    async fn start(&self, _: &str, saga: &I) -> Result<(), Fault> {
        *self.0.lock().unwrap() = json!(saga);
        Ok(())
    }
}

/// A queue that accepts everything.
#[derive(Debug)]
struct Queue;

impl ScheduleExpiry for Queue {
    async fn look_again(&self, _: &str, _: i32) -> Result<(), Fault> {
        Ok(())
    }
}

/// The tables and functions.
pub struct World {
    pub stage: Stage,
    steps: Steps,
    /// When the hold of the reservation is over.
    pub over: Timestamp,
    /// The event of the hold.
    pub held: String,
    /// The event of its extension, should it be extended.
    pub extended: String,
}

impl World {
    /// Alice holds two seats, and can pay for them as often as this.
    pub async fn new(payable: i64) -> Self {
        let stage = Stage::new().await;
        let steps = Steps::on(&Tables::at(stage.proxy.url()));
        steps.reservations.keep_terms(&terms(4)).await.unwrap();
        steps.reservations.keep_plan(&concert(), &plan()).await.unwrap();
        let funds = Movement {
            key: EntryKey::charge("funds"),
            entry_id: "funds".into(),
            kind: Kind::Charge,
            amount: won(payable * 2 * PRICE),
            reference: "funds".into(),
            at: NOW,
        };
        steps.accounts.post(&user("alice"), &funds).await.unwrap().unwrap();
        let request = seat_request(place("alice", 1, NOW), &SEATS, RESERVATION);
        let Ok(Reserved::Held(reservation)) =
            reserve_seats(&steps.reservations, &request, Origin::New, None, NOW).await
        else {
            panic!("the seats are free");
        };
        let key = format!("OUTBOX#{RESERVATION}.reservation.held");
        let row = stage.engine.item("reservations", &key, "OUTBOX").await.unwrap();
        let event: Event = row.document("event").unwrap();
        let over = reservation.hold_expires_at;
        let held = json!({ "detail": event }).to_string();
        let EventBody::ReservationHeld(mut extended) = event.body.clone() else { panic!("it is held") };
        extended.hold_expires_at = over.plus_seconds(EXTENSION_SECONDS.into());
        let extended = Event { body: EventBody::ReservationExtended(extended), ..event };
        Self { stage, steps, over, held, extended: json!({ "detail": extended }).to_string() }
    }

    /// When the hold is over once it was extended.
    pub fn over_at_last(&self) -> Timestamp {
        self.over.plus_seconds(EXTENSION_SECONDS.into())
    }

    /// Makes a call on a table with these rows.
    pub async fn play(&self, before: &Rows, job: &Call, trouble: &Trouble<Call>) -> Outcome {
        let context = Part::of(&job.function).context();
        let call = async |job: &Call| self.call(job).await;
        let made = self.stage.play(context, before, (job, trouble), call, |_, _| true).await;
        let writes = made.writes();
        let body = |index: usize| (index, made.requests[index].body.to_string());
        let transactions = made.transactions().into_iter().map(body).collect();
        let rows = self.stage.rows(context).await;
        Outcome { rows, done: made.done, other: made.other, writes, transactions }
    }

    async fn call(&self, job: &Call) -> TaskResult {
        let Steps { reservations, payments, .. } = &self.steps;
        let (input, now) = (serde_json::from_str::<Value>(&job.input).unwrap(), job.now);
        match job.function.as_str() {
            "quote-reservation" => answered(quote_reservation(reservations, step(input, now)).await),
            "quote-refund" => answered(quote_refund(reservations, step(input, now)).await),
            "extend-hold" => {
                let deps = ExtendDeps { store: reservations.clone(), extension_seconds: EXTENSION_SECONDS };
                answered(extend_hold(&deps, step(input, now)).await)
            }
            "cancel-reservation" => {
                let QuoteReservation { user_id, reservation_id } = serde_json::from_value(input).unwrap();
                match cancel_reservation(reservations, &user_id, &reservation_id, now).await {
                    Ok(()) => Ok(Value::Null),
                    Err(CancelError::Fault(fault)) => Err(failed(&fault)),
                    Err(refused) => Err(refuses(format!("{refused:?}"))),
                }
            }
            "reserve-seats" => {
                let request = seat_request(place("bob", 2, NOW), &SEATS[..1], input.as_str().unwrap());
                let request = SeatRequest { asked_at: now, ..request };
                match reserve_seats(reservations, &request, Origin::New, None, now).await {
                    Ok(_) => Ok(Value::Null),
                    Err(ReserveError::Fault(fault)) => Err(failed(&fault)),
                    Err(refused) => Err(refuses(format!("{refused:?}"))),
                }
            }
            "expire-hold" => {
                let deps = ExpireHold { store: reservations.clone(), queue: Queue };
                done(expire_hold(&deps, Message::new("message", job.input.clone(), now)).await)
            }
            "sweep-holds" => done(sweep_holds(reservations, now).await),
            "start-payment" => self.start_payment(serde_json::from_value(input).unwrap(), now).await,
            "start-refund" => {
                let (started, payment) = (Started::default(), serde_json::from_value(input).unwrap());
                let key = key(&format!("refund-{payment}"));
                let ask = StartRefund { user: alice(), payment, key, correlation_id: "refund".into(), now };
                match start_refund(payments, &Said(RefundQuote::Refundable), &started, ask, accepted).await {
                    Ok(_) => Ok(started.0.into_inner().unwrap()),
                    Err(RefundError::Fault(fault)) => Err(failed(&fault)),
                    Err(refused) => Err(refuses(format!("{refused:?}"))),
                }
            }
            state => self.steps.call(state, &input, now).await,
        }
    }

    async fn start_payment(&self, start: Start, now: Timestamp) -> TaskResult {
        let Start { payment, reservation, quote } = start;
        let started = Started::default();
        let key = key(payment.as_str());
        let choices = Choices {
            token_expiry: contracts::saga::TokenExpiry::Event,
            correlation_id: format!("request-of-{payment}"),
        };
        let ask = StartPayment { user: alice(), reservation, key, payment, choices, now };
        match start_payment(&self.steps.payments, &Said(quote), &started, ask, accepted).await {
            Ok(_) => Ok(started.0.into_inner().unwrap()),
            Err(StartError::Fault(fault)) => Err(failed(&fault)),
            Err(refused) => Err(refuses(format!("{refused:?}"))),
        }
    }
}

/// The buyer.
pub fn alice() -> UserId {
    user("alice")
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey { key: name.to_owned(), fingerprint: "f".to_owned() }
}

fn accepted(payment: &Payment) -> StoredAnswer {
    StoredAnswer::accepted(&json!({}), format!("/payments/{}", payment.saga.payment_id))
}

fn step<T: for<'a> Deserialize<'a>>(input: Value, now: Timestamp) -> StepCall<T> {
    StepCall { input: serde_json::from_value(input).unwrap(), now }
}

fn done(outcome: Result<(), Fault>) -> TaskResult {
    outcome.map(|()| Value::Null).map_err(|fault| failed(&fault))
}

fn failed(fault: &Fault) -> TaskError {
    TaskError { name: fault.name(), message: fault.chain() }
}

fn refuses(message: String) -> TaskError {
    TaskError { name: error_name::REFUSED, message }
}
