//! The API as a client sees it: every call is measured, counted by its answer, and retried where the contract allows
//! it.

use crate::http::Client;
use crate::{Error, Result};
use contracts::{ConcertId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, SeatId, SectionName, Timestamp};
use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

/// How often a call is made that is answered with 429, 502, 503 or 504, or not at all. Every write has a key or is
/// idempotent.
const ATTEMPTS: u32 = 6;
/// The wait before the first retry when the answer gives none; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// How many answers with 5xx are kept in full.
const KEPT_FAULTS: usize = 10;

/// A client of the API. Clones share connections, limits and numbers.
#[derive(Clone)]
pub struct Api {
    base: String,
    http: Client,
    /// The maximum of calls in progress: that many browsers fit on this machine.
    gate: Arc<Semaphore>,
    numbers: Arc<Mutex<Numbers>>,
}

/// The user of a call.
#[derive(Clone, Default)]
pub struct Caller {
    pub bearer: String,
    /// Their queue token, once they have one.
    pub queue_token: Option<String>,
}

/// What was measured.
#[derive(Debug, Default, Clone)]
pub struct Numbers {
    /// By route, in the order of its name.
    pub routes: BTreeMap<&'static str, Route>,
    /// Answers with 5xx other than 503, and failures that no retry fixed. There must be none.
    pub faults: Vec<String>,
    /// How many there were, of which `faults` keeps some.
    pub fault_count: u64,
    /// Answers with 429 or 503, and lost answers, that a retry fixed.
    pub mended: u64,
}

/// What was measured of a route.
#[derive(Debug, Default, Clone)]
pub struct Route {
    /// How long each answer took.
    pub latencies: Vec<Duration>,
    /// How often each answer came: `201`, `409 seat_taken`.
    pub answers: BTreeMap<String, u64>,
}

impl Numbers {
    /// How many calls were answered.
    pub fn requests(&self) -> usize {
        self.routes.values().map(|route| route.latencies.len()).sum()
    }

    /// How often any route answered this.
    pub fn answered(&self, answer: &str) -> u64 {
        self.routes.values().filter_map(|route| route.answers.get(answer)).sum()
    }
}

/// A refusal of the API: a problem document (RFC 9457) with its code.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: u16,
    /// The stable name of the reason.
    pub code: String,
    pub route: &'static str,
    /// The seats it names.
    pub seats: Vec<String>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} {}", self.route, self.status, self.code)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Error::Engine(format!("the API answered {refused}"))
    }
}

/// An answer, or why not.
pub type Answer<T> = Result<T, Refused>;

struct Ask<'a> {
    method: Method,
    /// As the routes of infra/openapi.yaml are written.
    route: &'static str,
    path: String,
    caller: Option<&'a Caller>,
    headers: Vec<(&'static str, String)>,
    body: Option<Value>,
}

impl<'a> Ask<'a> {
    fn new(method: Method, route: &'static str, path: String) -> Self {
        Self { method, route, path, caller: None, headers: Vec::new(), body: None }
    }

    fn by(mut self, caller: &'a Caller) -> Self {
        self.caller = Some(caller);
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.headers.push(("idempotency-key", key.to_owned()));
        self
    }

    fn body(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

impl Api {
    /// The API at `base`, with at most `at_once` calls under way.
    pub fn new(base: &str, at_once: usize) -> Self {
        Self {
            base: base.to_owned(),
            http: Client::new(),
            gate: Arc::new(Semaphore::new(at_once)),
            numbers: Arc::default(),
        }
    }

    /// What was measured so far.
    pub fn numbers(&self) -> Numbers {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes a call, with retries where needed, and reads its answer.
    async fn ask<T: DeserializeOwned>(&self, ask: Ask<'_>) -> Answer<T> {
        let mut headers: Vec<(&str, &str)> = ask.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let bearer = ask.caller.map(|caller| format!("Bearer {}", caller.bearer));
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        headers.extend(ask.caller.and_then(|caller| caller.queue_token.as_deref()).map(|token| ("queue-token", token)));
        let url = format!("{}{}", self.base, ask.path);
        let refused = |status, code: String| Refused { status, code, route: ask.route, seats: Vec::new() };
        let (mut attempt, mut pause, mut mended) = (1, FIRST_PAUSE, 0);
        loop {
            let Ok(place) = self.gate.acquire().await else { return Err(refused(0, "closed".to_owned())) };
            let begun = Instant::now();
            let sent = self.http.json(ask.method.clone(), &url, &headers, ask.body.as_ref()).await;
            let took = begun.elapsed();
            drop(place);
            let (status, body, retry_after) = match &sent {
                Ok(answer) => {
                    let after = answer.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
                    (answer.status.as_u16(), answer.json(), after)
                }
                Err(error) => (0, json!({"code": "no_answer", "detail": error.to_string()}), None),
            };
            let code = body["code"].as_str().filter(|_| !(200..300).contains(&status)).map(str::to_owned);
            self.count(ask.route, status, code.as_deref(), took);
            // An overloaded system may answer so, if a retry fixes it; any other failure counts.
            let overload = matches!(status, 0 | 429 | 503);
            let again = (overload || matches!(status, 502 | 504)) && attempt < ATTEMPTS;
            if (overload && !again) || (status >= 500 && !overload) {
                self.fault(format!("{} answered {status} {body} (try {attempt})", ask.route));
            }
            if again {
                let asked = retry_after.map(Duration::from_secs);
                sleep(asked.unwrap_or(pause).mul_f64(0.75 + fastrand::f64() / 2.0)).await;
                pause *= 2;
                attempt += 1;
                mended += u64::from(overload);
                continue;
            }
            if !overload && status < 500 {
                self.with_numbers(|numbers| numbers.mended += mended);
            }
            if let Some(code) = code {
                let seats = serde_json::from_value(body["seats"].clone()).unwrap_or_default();
                return Err(Refused { seats, ..refused(status, code) });
            }
            if !StatusCode::from_u16(status).is_ok_and(|status| status.is_success()) {
                return Err(refused(status, "without_code".to_owned()));
            }
            return serde_json::from_value(body).map_err(|error| refused(status, format!("unreadable: {error}")));
        }
    }

    fn with_numbers(&self, change: impl FnOnce(&mut Numbers)) {
        change(&mut self.numbers.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn count(&self, route: &'static str, status: u16, code: Option<&str>, took: Duration) {
        let status = if status == 0 { "none".to_owned() } else { status.to_string() };
        let answer = code.map_or(status.clone(), |code| format!("{status} {code}"));
        self.with_numbers(|numbers| {
            let route = numbers.routes.entry(route).or_default();
            route.latencies.push(took);
            *route.answers.entry(answer).or_default() += 1;
        });
    }

    fn fault(&self, what: String) {
        self.with_numbers(|numbers| {
            numbers.fault_count += 1;
            if numbers.faults.len() < KEPT_FAULTS {
                numbers.faults.push(what);
            }
        });
    }

    /// An operator announces a concert.
    pub async fn create_concert(&self, by: &Caller, key: &str, title: &str) -> Answer<ConcertId> {
        let body = json!({"title": title, "artist": "The Encores", "venue": "Olympic Hall"});
        let ask = Ask::new(Method::POST, "POST /admin/concerts", "/admin/concerts".to_owned());
        self.ask(ask.by(by).key(key).body(body)).await.map(|made: Concert| made.concert_id)
    }

    /// An operator opens a date.
    pub async fn create_schedule(&self, by: &Caller, key: &str, concert: &ConcertId, terms: Value) -> Answer<Date> {
        let path = format!("/admin/concerts/{concert}/schedules");
        let ask = Ask::new(Method::POST, "POST /admin/concerts/{id}/schedules", path);
        self.ask(ask.by(by).key(key).body(terms)).await
    }

    /// An operator sets how fast people come in.
    pub async fn set_admission(&self, by: &Caller, concert: &ConcertId, plan: Plan) -> Answer<Admission> {
        let path = format!("/admin/concerts/{concert}/admission");
        let body = json!({
            "opens_at": plan.opens_at.rfc3339(),
            "rate_per_minute": plan.rate_per_minute,
            "active_seconds": plan.active_seconds,
        });
        self.ask(Ask::new(Method::PUT, "PUT /admin/concerts/{id}/admission", path).by(by).body(body)).await
    }

    /// The dates of a concert.
    pub async fn schedules(&self, concert: &ConcertId) -> Answer<Vec<Date>> {
        let path = format!("/concerts/{concert}/schedules");
        let found: Answer<List<Date>> = self.ask(Ask::new(Method::GET, "GET /concerts/{id}/schedules", path)).await;
        found.map(|list| list.items)
    }

    /// The seats of a date.
    pub async fn seat_map(&self, schedule: &ScheduleId) -> Answer<SeatMap> {
        self.ask(Ask::new(Method::GET, "GET /schedules/{id}/seats", format!("/schedules/{schedule}/seats"))).await
    }

    /// Joins the waiting room.
    pub async fn join(&self, by: &Caller, concert: &ConcertId, key: Option<&str>) -> Answer<Joined> {
        let path = format!("/concerts/{concert}/queue-tokens");
        let ask = Ask::new(Method::POST, "POST /concerts/{id}/queue-tokens", path).by(by);
        self.ask(key.into_iter().fold(ask, Ask::key)).await
    }

    /// Asks for the state of the queue token.
    pub async fn queue_status(&self, by: &Caller) -> Answer<Place> {
        self.ask(Ask::new(Method::GET, "GET /queue-status", "/queue-status".to_owned()).by(by)).await
    }

    /// Reserves seats.
    pub async fn reserve(
        &self,
        by: &Caller,
        key: &str,
        schedule: &ScheduleId,
        seats: &[SeatId],
    ) -> Answer<Reservation> {
        let body = json!({"schedule_id": schedule, "seats": seats});
        let ask = Ask::new(Method::POST, "POST /reservations", "/reservations".to_owned());
        self.ask(ask.by(by).key(key).body(body)).await
    }

    /// Asks for seats without waiting for the decision.
    pub async fn ask_for(
        &self,
        by: &Caller,
        key: &str,
        schedule: &ScheduleId,
        seats: &[SeatId],
    ) -> Answer<Reservation> {
        let body = json!({"schedule_id": schedule, "seats": seats});
        let mut ask = Ask::new(Method::POST, "POST /reservations (async)", "/reservations".to_owned()).by(by).key(key);
        ask.headers.push(("prefer", "respond-async".to_owned()));
        self.ask(ask.body(body)).await
    }

    /// Reads a reservation.
    pub async fn reservation(&self, by: &Caller, id: &ReservationId) -> Answer<Reservation> {
        self.ask(Ask::new(Method::GET, "GET /reservations/{id}", format!("/reservations/{id}")).by(by)).await
    }

    /// Cancels a reservation.
    pub async fn cancel(&self, by: &Caller, id: &ReservationId) -> Answer<()> {
        let ask = Ask::new(Method::DELETE, "DELETE /reservations/{id}", format!("/reservations/{id}")).by(by);
        self.ask(ask).await.map(|_: Value| ())
    }

    /// Charges points.
    pub async fn charge(&self, by: &Caller, key: &str, amount: i64) -> Answer<Charged> {
        let ask = Ask::new(Method::POST, "POST /points/charges", "/points/charges".to_owned());
        self.ask(ask.by(by).key(key).body(json!({"amount": amount}))).await
    }

    /// The balance.
    pub async fn balance(&self, by: &Caller) -> Answer<i64> {
        let found: Answer<Balance> = self.ask(Ask::new(Method::GET, "GET /points", "/points".to_owned()).by(by)).await;
        found.map(|found| found.balance)
    }

    /// Pays for a reservation, waiting for the end for up to `wait` seconds; 0 does not wait.
    pub async fn pay(&self, by: &Caller, key: &str, id: &ReservationId, wait: u64) -> Answer<Payment> {
        let route = if wait == 0 { "POST /payments" } else { "POST /payments (wait)" };
        let mut ask = Ask::new(Method::POST, route, "/payments".to_owned()).by(by).key(key);
        if wait > 0 {
            ask.headers.push(("prefer", format!("wait={wait}")));
        }
        self.ask(ask.body(json!({"reservation_id": id}))).await
    }

    /// Gives a paid reservation back.
    pub async fn refund(&self, by: &Caller, key: &str, id: &PaymentId) -> Answer<Payment> {
        let ask = Ask::new(Method::POST, "POST /payments/{id}/refund", format!("/payments/{id}/refund"));
        self.ask(ask.by(by).key(key)).await
    }

    /// Reads a payment.
    pub async fn payment(&self, by: &Caller, id: &PaymentId) -> Answer<Payment> {
        self.ask(Ask::new(Method::GET, "GET /payments/{id}", format!("/payments/{id}")).by(by)).await
    }

    /// An operator puts an item on sale.
    pub async fn create_item(&self, by: &Caller, key: &str, name: &str, price: i64, stock: i64) -> Answer<Item> {
        let body = json!({"name": name, "price": price, "stock": stock});
        let ask = Ask::new(Method::POST, "POST /admin/items", "/admin/items".to_owned());
        self.ask(ask.by(by).key(key).body(body)).await
    }

    /// Reads an item.
    pub async fn item(&self, id: &ItemId) -> Answer<Item> {
        self.ask(Ask::new(Method::GET, "GET /items/{id}", format!("/items/{id}"))).await
    }

    /// Puts an item into the cart.
    pub async fn put_in_cart(&self, by: &Caller, id: &ItemId, quantity: i64) -> Answer<Cart> {
        let ask = Ask::new(Method::PUT, "PUT /cart/items/{id}", format!("/cart/items/{id}"));
        self.ask(ask.by(by).body(json!({"quantity": quantity}))).await
    }

    /// Reads the cart.
    pub async fn cart(&self, by: &Caller) -> Answer<Cart> {
        self.ask(Ask::new(Method::GET, "GET /cart", "/cart".to_owned()).by(by)).await
    }

    /// Orders some units of an item.
    pub async fn place_order(&self, by: &Caller, key: &str, id: &ItemId, quantity: i64) -> Answer<Order> {
        let ask = Ask::new(Method::POST, "POST /orders", "/orders".to_owned());
        let body = json!({"lines": [{"item_id": id, "quantity": quantity}]});
        self.ask(ask.by(by).key(key).body(body)).await
    }

    /// Reads an order.
    pub async fn order(&self, by: &Caller, id: &OrderId) -> Answer<Order> {
        self.ask(Ask::new(Method::GET, "GET /orders/{id}", format!("/orders/{id}")).by(by)).await
    }
}

/// How people are admitted.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// From when on.
    pub opens_at: Timestamp,
    /// How many a minute; 0 pauses.
    pub rate_per_minute: u32,
    /// How long each may stay, in seconds.
    pub active_seconds: u32,
}

#[derive(Deserialize)]
struct Concert {
    concert_id: ConcertId,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

#[derive(Deserialize)]
struct Balance {
    balance: i64,
}

/// The plan now in force, as an operator gets it.
#[derive(Clone, Debug, Deserialize)]
pub struct Admission {
    /// How many places have been admitted.
    pub admitted: Option<u64>,
    /// How many have been given out.
    pub issued: Option<u64>,
}

/// A date. Its creation does not return how many seats are free.
#[derive(Clone, Debug, Deserialize)]
pub struct Date {
    pub schedule_id: ScheduleId,
    pub seats_total: u32,
    /// Those that are free.
    pub seats_available: Option<u32>,
}

/// A date's seats.
#[derive(Clone, Debug, Deserialize)]
pub struct SeatMap {
    pub sections: Vec<SectionOfMap>,
    /// How many seats are free.
    pub seats_available: u32,
}

/// A section's seats.
#[derive(Clone, Debug, Deserialize)]
pub struct SectionOfMap {
    pub section: SectionName,
    pub grade: String,
    /// What each seat costs.
    pub price: i64,
    /// Row by row.
    pub seats: Vec<SeatOfMap>,
}

/// A seat.
#[derive(Clone, Debug, Deserialize)]
pub struct SeatOfMap {
    pub seat_id: SeatId,
    pub status: contracts::seats::SeatStatus,
}

/// A place in line, with its token.
#[derive(Clone, Debug, Deserialize)]
pub struct Joined {
    pub token: String,
    /// The place.
    #[serde(flatten)]
    pub place: Place,
}

/// The state of a queue token.
#[derive(Clone, Debug, Deserialize)]
pub struct Place {
    /// The place in line.
    pub position: u64,
    pub status: PlaceStatus,
    /// When it lets in.
    #[serde(deserialize_with = "maybe_moment")]
    pub active_at: Option<Timestamp>,
    /// When to poll next.
    pub poll_after_ms: u64,
}

/// The state of a place in line.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum PlaceStatus {
    /// Not yet.
    Waiting,
    /// Inside.
    Active,
    /// Was inside.
    Expired,
    /// Spent on a ticket.
    Used,
}

/// A reservation.
#[derive(Clone, Debug, Deserialize)]
pub struct Reservation {
    pub reservation_id: ReservationId,
    /// Where it is in its life.
    pub status: String,
    pub seats: Vec<SeatId>,
    pub total_price: i64,
    /// When the hold ends, once there is one.
    #[serde(default, deserialize_with = "maybe_moment")]
    pub hold_expires_at: Option<Timestamp>,
    /// Why it was rejected.
    pub failure: Option<String>,
}

/// A charge.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Charged {
    /// The balance after it.
    pub balance: i64,
    /// Its entry in the ledger.
    pub entry_id: String,
}

/// A payment.
#[derive(Clone, Debug, Deserialize)]
pub struct Payment {
    pub payment_id: PaymentId,
    /// `pending`, `completed`, `failed`, `refunding` or `refunded`.
    pub status: String,
    /// Why it failed.
    pub failure: Option<String>,
}

/// An item of merchandise.
#[derive(Clone, Debug, Deserialize)]
pub struct Item {
    pub item_id: ItemId,
    /// How many are left.
    pub stock: i64,
}

/// What is in a cart.
#[derive(Clone, Debug, Deserialize)]
pub struct Cart {
    pub lines: Vec<CartLine>,
}

/// A line of a cart.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct CartLine {
    pub item_id: ItemId,
    pub quantity: i64,
}

/// An order.
#[derive(Clone, Debug, Deserialize)]
pub struct Order {
    pub order_id: OrderId,
    /// `pending`, `completed` or `failed`.
    pub status: String,
    /// Why it failed.
    pub failure: Option<String>,
    pub total_price: i64,
}

fn maybe_moment<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    text.map(|text| Timestamp::parse_rfc3339(&text)).transpose().map_err(serde::de::Error::custom)
}
