//! The deployed system for tests: one local cloud a test program, users who talk to it over HTTP.
//!
//! The cloud ends with the program, however it ends. Tests share it and run in parallel: each opens a concert of its
//! own and invents its own users.

use local::http::{Answer, Client};
use local::{EngineKind, Options, Stack, TokenRequest};
use serde_json::{Value, json};
use std::future::Future;
use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// How long a condition may take to come true, and an answer to come, before a test fails. Generous: a loaded machine
/// is slow, not wrong.
fn time_limit() -> Duration {
    Duration::from_secs(match engine() {
        EngineKind::Ministack => 60,
        // One Python process serves every request and every consumer, at some 30 requests a second.
        EngineKind::Localstack => 180,
    })
}

/// What a test may need of the engine that some engines lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ability {
    /// Functions may do what the policies of their roles allow, and nothing else.
    Policies,
    /// It is LocalStack: the test is about how that is run.
    LocalStack,
}

/// What engines lack, and why. localstack/README.md lists what is skipped because of it.
const LACKS: [(EngineKind, Ability, &str); 2] = [
    (EngineKind::Localstack, Ability::Policies, "LocalStack enforces no policies without a licence"),
    (EngineKind::Ministack, Ability::LocalStack, "it is about LocalStack; ENCORE_ENGINE=localstack runs it"),
];

/// Whether the engine lacks what a test needs. Reports that on standard error, past the capture of tests' output.
pub fn skipped(needs: Ability) -> bool {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let lack = LACKS.iter().find(|(kind, ability, _)| (*kind, *ability) == (engine(), needs));
    let Some((_, _, reason)) = lack else { return false };
    let count = COUNT.fetch_add(1, Ordering::Relaxed) + 1;
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    writeln!(std::io::stderr(), "SKIPPED {test}: {reason} ({count} skipped in this program)")
        .unwrap_or_else(|e| panic!("{e}"));
    true
}

/// The cloud and a client.
#[derive(Debug)]
pub struct Cloud {
    /// The stack; `info()` has where everything is.
    pub stack: Stack,
    client: Client,
    /// Whether charging points is paid for at the sink's payment provider.
    charges_are_paid_for: bool,
}

/// Permissions that a role has lost.
#[derive(Debug)]
pub struct Permissions {
    role: String,
    /// Name and document, URL-encoded as IAM hands it out.
    policies: Vec<(String, String)>,
}

/// Every text between two marks.
fn between(text: &str, from: &str, to: &str) -> Vec<String> {
    text.split(from).skip(1).filter_map(|rest| rest.split_once(to)).map(|(found, _)| found.to_owned()).collect()
}

/// A user with a bearer token (or none).
#[derive(Debug, Clone)]
pub struct User {
    cloud: &'static Cloud,
    pub id: String,
    token: Option<String>,
}

/// A concert on sale.
#[derive(Debug, Clone)]
pub struct Sale {
    pub concert: String,
    /// The id of its date.
    pub schedule: String,
}

/// The terms of a date.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Rows of section `A`.
    pub rows: u32,
    pub seats_per_row: u32,
    /// Price of each.
    pub price: i64,
    /// Tickets a user.
    pub max_per_user: u32,
    /// Seconds a hold lasts.
    pub hold_seconds: u32,
}

impl Default for Terms {
    fn default() -> Self {
        Self { rows: 5, seats_per_row: 10, price: 1_000, max_per_user: 4, hold_seconds: 300 }
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap_or_else(|e| panic!("{e}"))
    })
}

/// The engine that plays the cloud: `ENCORE_ENGINE`, or ministack.
pub fn engine() -> EngineKind {
    static ENGINE: OnceLock<EngineKind> = OnceLock::new();
    *ENGINE.get_or_init(|| match std::env::var("ENCORE_ENGINE") {
        Ok(name) => name.parse().unwrap_or_else(|error| panic!("ENCORE_ENGINE: {error}")),
        Err(_) => EngineKind::default(),
    })
}

/// Runs a test against the program's cloud, which the first test starts with these template parameters.
pub fn with_cloud<F: Future<Output = ()>>(parameters: &[(&str, &str)], test: impl FnOnce(&'static Cloud) -> F) {
    static CLOUD: OnceLock<Cloud> = OnceLock::new();
    let cloud = CLOUD.get_or_init(|| {
        let mut options = Options::ephemeral("test");
        options.progress = local::stderr_progress();
        options.engine = engine();
        for (name, value) in parameters {
            options = options.parameter(name, value);
        }
        let stack = runtime().block_on(Stack::start(options)).unwrap_or_else(|error| panic!("no cloud: {error}"));
        let charges_are_paid_for = parameters.iter().any(|(name, _)| *name == "PaymentProviderUrl");
        Cloud { stack, client: Client::new().with_timeout(time_limit()), charges_are_paid_for }
    });
    runtime().block_on(test(cloud));
}

/// Runs a future of a test that needs no cloud on the same runtime.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().block_on(future)
}

/// A name that is unique in this program.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(1);
    format!("{prefix}-{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until `look` finds something, and returns it. Fails the test with `what` when it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, look: impl FnMut() -> F) -> T {
    eventually_after(what, Duration::ZERO, look).await
}

/// The same for what takes that long even on a fast machine.
pub async fn eventually_after<T, F: Future<Output = Option<T>>>(
    what: &str,
    takes: Duration,
    mut look: impl FnMut() -> F,
) -> T {
    let deadline = Instant::now() + takes + time_limit();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Repeats a call for as long as it is answered 503, as the API's clients do. For calls with a key.
pub async fn answered<F: Future<Output = Answer>>(mut ask: impl FnMut() -> F) -> Answer {
    eventually("an answer that is no 503", || {
        let asked = ask();
        async { Some(asked.await).filter(|answer| answer.status != 503) }
    })
    .await
}

/// Lets real time pass, for tests that race a real deadline from both sides. To wait for a condition, use
/// [`eventually`].
pub async fn after(time: Duration) {
    tokio::time::sleep(time).await;
}

impl Cloud {
    /// A new user.
    pub fn user(&'static self, prefix: &str) -> User {
        let id = unique(prefix);
        let token = self.stack.tokens().user(&id).unwrap_or_else(|error| panic!("no token: {error}"));
        User { cloud: self, id, token: Some(token) }
    }

    /// A new operator.
    pub fn operator(&'static self) -> User {
        let id = unique("operator");
        let token = self.stack.tokens().operator(&id).unwrap_or_else(|error| panic!("no token: {error}"));
        User { cloud: self, id, token: Some(token) }
    }

    /// A user without a token.
    pub fn nobody(&'static self) -> User {
        User { cloud: self, id: String::new(), token: None }
    }

    /// A user with this text as bearer token.
    pub fn bearer(&'static self, token: &str) -> User {
        User { cloud: self, id: String::new(), token: Some(token.to_owned()) }
    }

    /// The sink, which plays the external systems.
    pub fn sink(&self) -> local::sink::Client {
        local::sink::Client::new(&self.stack.info().sink_url)
    }

    /// Removes the waits between retries from the engine's state machines. How often they retry stays.
    pub async fn skip_waits(&self) {
        let url = format!("{}/_ministack/config", self.stack.info().endpoint_url);
        let body = json!({"stepfunctions._SFN_WAIT_SCALE": 0});
        let answer = self.client.json(http::Method::POST, &url, &[], Some(&body)).await;
        let answer = answer.unwrap_or_else(|error| panic!("{url}: {error}"));
        assert!(answer.status.is_success(), "{}", answer.text());
    }

    /// Takes all permissions from a role; returns what gives them back.
    pub async fn take_permissions(&self, role: &str) -> Permissions {
        let names = self.iam(&format!("Action=ListRolePolicies&RoleName={role}")).await;
        let mut policies = Vec::new();
        for name in between(&names, "<member>", "</member>") {
            let found = self.iam(&format!("Action=GetRolePolicy&RoleName={role}&PolicyName={name}")).await;
            let document = between(&found, "<PolicyDocument>", "</PolicyDocument>").pop();
            policies.push((name.clone(), document.unwrap_or_else(|| panic!("no document in {found}"))));
            self.iam(&format!("Action=DeleteRolePolicy&RoleName={role}&PolicyName={name}")).await;
        }
        assert!(!policies.is_empty(), "{role} has no policy to lose");
        Permissions { role: role.to_owned(), policies }
    }

    /// Takes one action from a role; returns what gives it back.
    pub async fn take_permission(&self, role: &str, action: &str) -> Permissions {
        let whole = self.take_permissions(role).await;
        for (name, document) in &whole.policies {
            // URL-encoded, as IAM returned it; an action that nothing here has takes its place.
            let (old, new) = (action.replace(':', "%3A"), "sts%3AGetCallerIdentity");
            let document = document.replace(&old, new).replace(action, "sts:GetCallerIdentity");
            self.iam(&format!("Action=PutRolePolicy&RoleName={role}&PolicyName={name}&PolicyDocument={document}"))
                .await;
        }
        whole
    }

    /// Gives them back.
    pub async fn give_permissions(&self, permissions: Permissions) {
        let role = permissions.role;
        for (name, document) in permissions.policies {
            self.iam(&format!("Action=PutRolePolicy&RoleName={role}&PolicyName={name}&PolicyDocument={document}"))
                .await;
        }
    }

    /// A call of IAM's query API, which the tests need too seldom for a client of its own.
    async fn iam(&self, query: &str) -> String {
        let headers = [
            ("content-type", "application/x-www-form-urlencoded"),
            // The engine takes the service from the scope, and any key for the account's owner.
            (
                "authorization",
                "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0",
            ),
        ];
        let url = format!("{}/", self.stack.info().endpoint_url);
        let body = format!("{query}&Version=2010-05-08");
        let answer = self.client.send(http::Method::POST, &url, &headers, body).await;
        let answer = answer.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert!(answer.status.is_success(), "{query}: {}", answer.text());
        answer.text()
    }

    /// A token of `user` that ends in `ttl_seconds`, or ended before now.
    pub fn token(&self, user: &str, ttl_seconds: i64) -> String {
        let request = TokenRequest { user, operator: false, ttl_seconds };
        self.stack.tokens().issue(request).unwrap_or_else(|error| panic!("no token: {error}"))
    }

    /// A concert with one date, on sale, with everybody admitted at once.
    pub async fn sale(&'static self, terms: Terms) -> Sale {
        let sale = self.concert(terms).await;
        let operator = self.operator();
        let path = format!("/admin/concerts/{}/admission", sale.concert);
        let plan = json!({"opens_at": "2026-01-01T00:00:00Z", "rate_per_minute": 1_000_000, "active_seconds": 3600});
        let admitted = answered(|| operator.put(&path, &plan)).await;
        assert_eq!(admitted.status, 200, "{}", admitted.text());
        sale
    }

    /// An item of merchandise; its id.
    pub async fn item(&'static self, price: i64, stock: i64) -> String {
        let item = json!({"name": "Poster", "price": price, "stock": stock});
        let created = self.operator().create("/admin/items", &item).await;
        assert_eq!(created.status, 201, "{}", created.text());
        text(&created.json(), "item_id")
    }

    /// How many units of an item are left, as anyone sees it.
    pub async fn stock(&'static self, item: &str) -> i64 {
        let found = self.nobody().get(&format!("/items/{item}")).await;
        found.json()["stock"].as_i64().unwrap_or_else(|| panic!("no stock in {}", found.text()))
    }

    /// A concert with one date, without an admission plan.
    pub async fn concert(&'static self, terms: Terms) -> Sale {
        let operator = self.operator();
        let concert =
            operator.create("/admin/concerts", &json!({"title": "Title", "artist": "Artist", "venue": "Venue"})).await;
        assert_eq!(concert.status, 201, "{}", concert.text());
        let concert = text(&concert.json(), "concert_id");
        let schedule = operator
            .create(
                &format!("/admin/concerts/{concert}/schedules"),
                &json!({
                    "starts_at": "2099-01-01T10:00:00Z", "max_per_user": terms.max_per_user,
                    "hold_seconds": terms.hold_seconds,
                    "sections": [{"section": "A", "grade": "VIP", "price": terms.price, "rows": terms.rows,
                        "seats_per_row": terms.seats_per_row}]
                }),
            )
            .await;
        assert_eq!(schedule.status, 201, "{}", schedule.text());
        Sale { concert, schedule: text(&schedule.json(), "schedule_id") }
    }
}

/// A member that must be a string.
pub fn text(json: &Value, name: &str) -> String {
    json[name].as_str().unwrap_or_else(|| panic!("no string {name} in {json}")).to_owned()
}

/// The `code` of a problem.
pub fn code(answer: &Answer) -> String {
    text(&answer.json(), "code")
}

impl User {
    /// Sends a request with more headers.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut all = headers.to_vec();
        if let Some(bearer) = &bearer {
            all.push(("authorization", bearer));
        }
        let url = format!("{}{path}", self.cloud.stack.info().api_url);
        let method = method.parse().unwrap_or_else(|_| panic!("method {method}"));
        let answer = self.cloud.client.json(method, &url, &all, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// Sends raw text as a body.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, &str)], body: String) -> Answer {
        let bearer = self.token.as_ref().map(|token| format!("Bearer {token}"));
        let mut all = headers.to_vec();
        all.push(("content-type", "application/json"));
        if let Some(bearer) = &bearer {
            all.push(("authorization", bearer));
        }
        let url = format!("{}{path}", self.cloud.stack.info().api_url);
        let method = method.parse().unwrap_or_else(|_| panic!("method {method}"));
        let answer = self.cloud.client.send(method, &url, &all, body).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// `GET`
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await
    }

    /// `POST`
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], Some(body)).await
    }

    /// `POST` under a key of its own, once it is answered.
    pub async fn create(&self, path: &str, body: &Value) -> Answer {
        let key = unique("create");
        let headers = [("idempotency-key", key.as_str())];
        answered(|| self.send("POST", path, &headers, Some(body))).await
    }

    /// `PUT`
    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send("PUT", path, &[], Some(body)).await
    }

    /// `DELETE`
    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[], None).await
    }

    /// Joins the waiting room; the queue token.
    pub async fn join(&self, sale: &Sale) -> String {
        let path = format!("/concerts/{}/queue-tokens", sale.concert);
        // Joining again answers with the place that a lost answer was about.
        let joined = answered(|| self.send("POST", &path, &[], None)).await;
        assert!([200, 201].contains(&joined.status.as_u16()), "{}", joined.text());
        text(&joined.json(), "token")
    }

    /// Tries to reserve seats with a queue token.
    pub async fn reserve(&self, sale: &Sale, queue_token: &str, seats: &[&str]) -> Answer {
        let body = json!({"schedule_id": sale.schedule, "seats": seats});
        self.send("POST", "/reservations", &[("queue-token", queue_token)], Some(&body)).await
    }

    /// Joins and holds seats; the reservation's id.
    pub async fn hold(&self, sale: &Sale, seats: &[&str]) -> String {
        let (token, key) = (self.join(sale).await, unique("hold"));
        let headers = [("queue-token", token.as_str()), ("idempotency-key", key.as_str())];
        let body = json!({"schedule_id": sale.schedule, "seats": seats});
        let held = answered(|| self.send("POST", "/reservations", &headers, Some(&body))).await;
        assert_eq!(held.status, 201, "{}", held.text());
        text(&held.json(), "reservation_id")
    }

    /// Opens a charge intent; its order id.
    pub async fn charge_intent(&self, amount: i64) -> String {
        let body = json!({"amount": amount});
        let opened = answered(|| self.send("POST", "/points/charge-intents", &[], Some(&body))).await;
        assert!([200, 201].contains(&opened.status.as_u16()), "{}", opened.text());
        text(&opened.json(), "order_id")
    }

    /// Charges points, paying for them where that is required.
    pub async fn charge(&self, amount: i64) {
        let mut key = unique("charge");
        let mut body = json!({"amount": amount});
        if self.cloud.charges_are_paid_for {
            key = self.charge_intent(amount).await;
            let payment_key = unique("paid");
            self.cloud.sink().register_payment(&payment_key, &key, amount).await.unwrap_or_else(|e| panic!("{e}"));
            body["payment_key"] = payment_key.into();
        }
        let headers = [("idempotency-key", key.as_str())];
        let charged = answered(|| self.send("POST", "/points/charges", &headers, Some(&body))).await;
        assert_eq!(charged.status, 201, "{}", charged.text());
    }

    /// Pays under a key, waiting for the end.
    pub async fn pay(&self, reservation: &str, key: &str) -> Answer {
        let body = json!({"reservation_id": reservation});
        self.send("POST", "/payments", &[("idempotency-key", key), ("prefer", "wait=10")], Some(&body)).await
    }

    /// Places an order under a key: pairs of an item and a quantity.
    pub async fn order(&self, lines: &[(&str, i64)], key: &str) -> Answer {
        let lines: Vec<Value> =
            lines.iter().map(|(item, quantity)| json!({"item_id": item, "quantity": quantity})).collect();
        self.send("POST", "/orders", &[("idempotency-key", key)], Some(&json!({ "lines": lines }))).await
    }

    /// Places an order that is accepted; its id.
    pub async fn ordered(&self, lines: &[(&str, i64)]) -> String {
        self.tried(lines).await.unwrap_or_else(|code| panic!("an order is refused: {code}"))
    }

    /// Places an order; its id, or the code that it is refused with.
    pub async fn tried(&self, lines: &[(&str, i64)]) -> Result<String, String> {
        let key = unique("order");
        let answer = answered(|| self.order(lines, &key)).await;
        if answer.status == 202 { Ok(text(&answer.json(), "order_id")) } else { Err(code(&answer)) }
    }

    /// An order once it is final.
    pub async fn final_order(&self, order: &str) -> Value {
        eventually("the order is final", async || {
            let found = self.get(&format!("/orders/{order}")).await.json();
            (found["status"] != "pending").then_some(found)
        })
        .await
    }

    /// Puts units of an item into the user's cart; the cart.
    pub async fn put_in_cart(&self, item: &str, quantity: i64) -> Value {
        let put = self.put(&format!("/cart/items/{item}"), &json!({ "quantity": quantity })).await;
        assert_eq!(put.status, 200, "{}", put.text());
        put.json()
    }

    /// The items and quantities in the user's cart.
    pub async fn cart(&self) -> Vec<(String, i64)> {
        let cart = self.get("/cart").await.json();
        let lines = cart["lines"].as_array().cloned().unwrap_or_else(|| panic!("no lines in {cart}"));
        lines.iter().map(|line| (text(line, "item_id"), line["quantity"].as_i64().unwrap_or_default())).collect()
    }

    /// The status of one of the user's reservations.
    pub async fn reservation_status(&self, reservation: &str) -> String {
        let found = self.get(&format!("/reservations/{reservation}")).await;
        assert_eq!(found.status, 200, "{}", found.text());
        text(&found.json(), "status")
    }

    /// The user's balance.
    pub async fn balance(&self) -> i64 {
        let found = self.get("/points").await;
        found.json()["balance"].as_i64().unwrap_or_else(|| panic!("no balance in {}", found.text()))
    }

    /// A payment once it is final.
    pub async fn final_payment(&self, payment: &str) -> Value {
        eventually("the payment is final", async || {
            let found = self.get(&format!("/payments/{payment}")).await.json();
            (found["status"] != "pending").then_some(found)
        })
        .await
    }
}

impl Sale {
    /// How many seats are available, as anyone sees it.
    pub async fn available(&self, user: &User) -> i64 {
        let map = user.get(&format!("/schedules/{}/seats", self.schedule)).await.json();
        map["seats_available"].as_i64().unwrap_or_else(|| panic!("no count in {map}"))
    }

    /// The status of one seat, as anyone sees it.
    pub async fn seat(&self, user: &User, seat: &str) -> String {
        let map = user.get(&format!("/schedules/{}/seats", self.schedule)).await.json();
        let sections = map["sections"].as_array().cloned().unwrap_or_default();
        let mut seats = sections.iter().flat_map(|section| section["seats"].as_array().cloned().unwrap_or_default());
        let found = seats.find(|one| one["seat_id"] == seat).unwrap_or_else(|| panic!("no seat {seat}"));
        text(&found, "status")
    }
}
