//! A proxy in front of an AWS endpoint that counts requests and, on demand, breaks them: the network as it is on a bad
//! day, and the store as it would be without a guard.
//!
//! It speaks AWS's JSON protocols, where `X-Amz-Target` names the call, so it serves DynamoDB, Step Functions and
//! EventBridge alike.

use crate::dynamo::{Engine, Tables};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use kit::dynamo::Table;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};

/// A proxy, gone when dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    tables: Tables,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
}

/// A request that passed.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The call, for example `UpdateItem`.
    pub action: String,
    /// Its JSON, as it came.
    pub body: Value,
    /// Whether the endpoint received it.
    pub forwarded: bool,
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fate {
    /// It is not forwarded; the answer is 500.
    Failed,
    /// It is not forwarded; the connection breaks.
    Dropped,
    /// It is carried out; the connection breaks before the answer.
    AnswerLost,
    /// It is not forwarded; the answer is a throttle.
    Throttled,
    /// It is not forwarded; the answer is a transaction cancelled because it met another one.
    Conflicted,
    /// It is forwarded. If it is a transaction that is cancelled, its writes that contain the text met another one:
    /// whether their conditions hold was not checked, while the others' reasons are what they are.
    Masked(&'static str),
    /// It is forwarded after a while.
    Delayed(Duration),
    /// It is forwarded once the gate opens.
    Held(Gate),
}

/// Which requests meet a fate. All of them by default.
#[derive(Debug, Clone)]
pub struct Rule {
    action: Option<String>,
    text: Option<String>,
    skip: usize,
    times: usize,
}

impl Rule {
    /// Every request.
    pub fn all() -> Self {
        Self { action: None, text: None, skip: 0, times: usize::MAX }
    }

    /// Every request of a call, for example `TransactWriteItems`.
    pub fn on(action: &str) -> Self {
        Self { action: Some(action.to_owned()), ..Self::all() }
    }

    /// Of those, the ones whose JSON contains `text`.
    #[must_use]
    pub fn containing(self, text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..self }
    }

    /// Of those, all but the first `count`.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self { skip: count, ..self }
    }

    /// Of those, the first `count`.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self { times: count, ..self }
    }

    /// Of those, the first.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    fn meets(&mut self, action: &str, body: &[u8]) -> bool {
        let named = self.action.as_deref().is_none_or(|wanted| wanted == action);
        let about = self.text.as_deref().is_none_or(|text| String::from_utf8_lossy(body).contains(text));
        if !(named && about) || self.times == 0 {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

/// Where a request waits until a test lets it pass: an exact interleaving without sleeps.
#[derive(Debug, Clone)]
pub struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> Self {
        Self { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Returns once a request waits here.
    pub async fn reached(&self) {
        self.arrived.acquire().await.expect("a gate is never closed").forget();
    }

    /// Lets the request pass, and every later one.
    pub fn open(&self) {
        self.open.add_permits(Semaphore::MAX_PERMITS / 2);
    }

    async fn pass(&self) {
        self.arrived.add_permits(1);
        self.open.acquire().await.expect("a gate is never closed").forget();
    }
}

/// How often a condition was loosened.
#[derive(Debug, Clone, Default)]
pub struct Loosened(Arc<AtomicUsize>);

impl Loosened {
    /// How often.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
struct State {
    upstream: String,
    client: Client<HttpConnector, Full<Bytes>>,
    seen: Mutex<Vec<Seen>>,
    rules: Mutex<Vec<(Rule, Fate)>>,
    loose: Mutex<Vec<(String, Loosened)>>,
    measuring: AtomicBool,
    units: Mutex<BTreeMap<String, f64>>,
}

impl Proxy {
    /// A proxy in front of an embedded engine.
    pub async fn before(engine: &Engine) -> Self {
        Self::start(engine.url()).await
    }

    /// A proxy in front of an endpoint (`http://host:port`).
    pub async fn start(upstream: &str) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let state = Arc::new(State {
            upstream: upstream.to_owned(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            seen: Mutex::default(),
            rules: Mutex::default(),
            loose: Mutex::default(),
            measuring: AtomicBool::new(false),
            units: Mutex::default(),
        });
        let handled = Arc::clone(&state);
        let (url, stop) = serve(move |request| {
            let state = Arc::clone(&handled);
            async move { state.handle(request).await }
        })
        .await;
        Self { tables: Tables::at(&url), url, state, _stop: stop }
    }

    /// Its endpoint.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A context's table, reached through it.
    pub fn table(&self, context: &str) -> Table {
        self.tables.of(context)
    }

    /// The requests that passed since the last [`Proxy::forget`], oldest first.
    pub fn seen(&self) -> Vec<Seen> {
        locked(&self.state.seen).clone()
    }

    /// The calls that passed, oldest first.
    pub fn actions(&self) -> Vec<String> {
        locked(&self.state.seen).iter().map(|seen| seen.action.clone()).collect()
    }

    /// Starts counting anew.
    pub fn forget(&self) {
        locked(&self.state.seen).clear();
        locked(&self.state.units).clear();
    }

    /// Gives requests a fate, from now on. The first rule that a request meets counts.
    pub fn inject(&self, rule: Rule, fate: Fate) {
        locked(&self.state.rules).push((rule, fate));
    }

    /// Holds requests back.
    pub fn hold(&self, rule: Rule) -> Gate {
        let gate = Gate::new();
        self.inject(rule, Fate::Held(gate.clone()));
        gate
    }

    /// Lets all requests pass again.
    pub fn heal(&self) {
        locked(&self.state.rules).clear();
        locked(&self.state.loose).clear();
    }

    /// Removes a guard: from now on every condition expression that reads `condition` always holds. What it prevents
    /// must then happen, or it guards nothing.
    pub fn loosen(&self, condition: &str) -> Loosened {
        let loosened = Loosened::default();
        locked(&self.state.loose).push((words(condition), loosened.clone()));
        loosened
    }

    /// Has DynamoDB report what each request consumes, from now on; see [`Proxy::units`].
    pub fn measure(&self) {
        self.state.measuring.store(true, Ordering::SeqCst);
    }

    /// Capacity units consumed by each call since the last [`Proxy::forget`].
    pub fn units(&self) -> BTreeMap<String, f64> {
        locked(&self.state.units).clone()
    }
}

impl State {
    async fn handle(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
        let (mut head, body) = request.into_parts();
        let mut body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let action = action_of(&head.headers);
        let json = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let fate = locked(&self.rules).iter_mut().find_map(|(rule, fate)| {
            let met = rule.meets(&action, &body);
            met.then(|| fate.clone())
        });
        let forwarded = !matches!(fate, Some(Fate::Failed | Fate::Dropped | Fate::Throttled | Fate::Conflicted));
        let changed = self.rewritten(&action, &json);
        locked(&self.seen).push(Seen { action: action.clone(), body: json.clone(), forwarded });
        match &fate {
            Some(Fate::Failed) => {
                return Ok(error(StatusCode::INTERNAL_SERVER_ERROR, json!({"__type": "InternalServerError"})));
            }
            Some(Fate::Dropped) => return Err(broken()),
            Some(Fate::Throttled) => {
                return Ok(error(StatusCode::BAD_REQUEST, json!({"__type": "ThrottlingException"})));
            }
            Some(Fate::Conflicted) => return Ok(error(StatusCode::BAD_REQUEST, conflict(&json))),
            Some(Fate::Delayed(time)) => tokio::time::sleep(*time).await,
            Some(Fate::Held(gate)) => gate.pass().await,
            Some(Fate::AnswerLost | Fate::Masked(_)) | None => {}
        }
        if let Some(changed) = changed {
            body = changed.to_string().into();
            head.headers.remove(header::CONTENT_LENGTH);
        }
        head.uri = format!("{}{}", self.upstream, head.uri.path()).parse().map_err(io::Error::other)?;
        let answer = self.client.request(Request::from_parts(head, Full::new(body))).await.map_err(io::Error::other)?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        if matches!(fate, Some(Fate::AnswerLost)) {
            return Err(broken());
        }
        if let Some(Fate::Masked(text)) = fate {
            return Ok(self::answer(head.status, &masked(&json, &body, text)));
        }
        if self.measuring.load(Ordering::SeqCst) {
            *locked(&self.units).entry(action).or_default() += consumed(&body);
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// The request as it is forwarded, if it is changed.
    fn rewritten(&self, action: &str, json: &Value) -> Option<Value> {
        let mut changed = json.clone();
        for (condition, loosened) in locked(&self.loose).iter() {
            for write in writes_of(&mut changed) {
                let Some(Value::String(expression)) = write.get("ConditionExpression") else { continue };
                if words(expression) == *condition {
                    write["ConditionExpression"] = always(expression).into();
                    loosened.0.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        let measured = ["Item", "Items", "Query"].iter().any(|end| action.ends_with(end));
        if measured && self.measuring.load(Ordering::SeqCst) {
            changed["ReturnConsumedCapacity"] = "TOTAL".into();
        }
        (changed != *json).then_some(changed)
    }
}

/// The single writes of a request.
fn writes_of(request: &mut Value) -> Vec<&mut Value> {
    if request.get("TransactItems").is_none() {
        return vec![request];
    }
    let items = request["TransactItems"].as_array_mut().expect("a list of writes");
    items.iter_mut().filter_map(Value::as_object_mut).flat_map(|item| item.values_mut()).collect()
}

/// A condition that always holds and still uses every name and value, which DynamoDB insists on. It also insists that
/// no parentheses are redundant.
fn always(expression: &str) -> String {
    let part = if is_parenthesized(expression) { expression.to_owned() } else { format!("({expression})") };
    format!("{part} OR NOT {part}")
}

/// Whether one pair of parentheses spans the whole expression.
fn is_parenthesized(expression: &str) -> bool {
    let mut depth = 0;
    let closes = expression.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    closes == Some(expression.len() - 1)
}

fn words(expression: &str) -> String {
    expression.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn action_of(headers: &http::HeaderMap) -> String {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok()).unwrap_or_default();
    target.rsplit('.').next().unwrap_or_default().to_owned()
}

fn conflict(request: &Value) -> Value {
    let count = request["TransactItems"].as_array().map_or(1, Vec::len);
    let reasons: Vec<Value> =
        (0..count).map(|index| json!({"Code": if index == 0 { "TransactionConflict" } else { "None" }})).collect();
    if request.get("TransactItems").is_some() {
        json!({"__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException", "CancellationReasons": reasons})
    } else {
        json!({"__type": "com.amazonaws.dynamodb.v20120810#TransactionConflictException"})
    }
}

/// The answer to a transaction with the reasons of the writes that contain a text as conflicts.
fn masked(request: &Value, answer: &[u8], text: &str) -> Value {
    let mut answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let writes = request["TransactItems"].as_array().cloned().unwrap_or_default();
    let reasons = answer["CancellationReasons"].as_array_mut();
    for (write, reason) in writes.iter().zip(reasons.into_iter().flatten()) {
        if write.to_string().contains(text) {
            *reason = json!({"Code": "TransactionConflict"});
        }
    }
    answer
}

fn consumed(answer: &[u8]) -> f64 {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let units = |table: &Value| table["CapacityUnits"].as_f64().unwrap_or_default();
    match &answer["ConsumedCapacity"] {
        Value::Array(tables) => tables.iter().map(units).sum(),
        table => units(table),
    }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the proxy broke the connection")
}

fn error(status: StatusCode, body: Value) -> Response<Full<Bytes>> {
    answer(status, &body)
}

/// An answer in AWS's JSON protocol.
pub(crate) fn answer(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
    response
}

/// Serves HTTP/1.1 on a free loopback port until the sender is dropped. A handler's error breaks the connection.
pub(crate) async fn serve<F, Fut>(handle: F) -> (String, oneshot::Sender<()>)
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<Response<Full<Bytes>>, io::Error>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("a bound port"));
    let (stop, mut stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                _ = &mut stopped => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, _) = accepted.expect("a connection");
            stream.set_nodelay(true).expect("a socket option");
            let service = hyper::service::service_fn(handle.clone());
            tokio::spawn(async move {
                // A connection that breaks is the client's to notice.
                drop(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (url, stop)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
