//! The external providers of a local stack: one small HTTP server that plays every provider the functions call, checks
//! what the real one would check, and records what it was sent, so that the demo and the tests read what really went
//! out.
//!
//! | path | plays |
//! | --- | --- |
//! | `/data-platform`, `/partner` | receivers of webhooks signed by [Standard Webhooks](https://www.standardwebhooks.com) |
//! | `/alimtalk` | NHN Cloud KakaoTalk Bizmessage, AlimTalk API v2.3 |
//! | `/toss` | Toss Payments core API: payments and cash receipts |
//! | `/notion` | Notion API, version 2022-06-28 |
//! | `/directory` | a users' directory, SCIM 2.0 (RFC 7644) |
//! | `/_sink` | the controls: what was delivered, and how each target behaves ([`Client`]) |
//!
//! A call under a known idempotency key has no second effect. It gets the first answer again; AlimTalk refuses it as a
//! repetition, as the real one does.

mod client;
mod process;
mod providers;

pub use client::Client;
pub use process::{Attached, Detached};

use crate::error::Error;
use crate::{Result, files};
use ::http::{HeaderMap, Method, Request, Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How many deliveries are remembered; the oldest go.
const REMEMBERED: usize = 100_000;
/// The pause after a connection could not be taken.
const ACCEPT_AGAIN: Duration = Duration::from_millis(10);
/// Headers that are never shown.
const SECRET_HEADERS: [&str; 2] = ["authorization", "x-secret-key"];

/// The provider that a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The data platform.
    DataPlatform,
    /// The partner's webhook.
    Partner,
    /// NHN Cloud's AlimTalk.
    #[serde(rename = "alimtalk")]
    AlimTalk,
    /// Toss Payments.
    Toss,
    /// Notion.
    Notion,
    /// The users' directory.
    Directory,
    /// All of them; only to set behaviour.
    All,
}

impl Target {
    fn of(path: &str) -> Option<Self> {
        let name = path.trim_start_matches('/').split('/').next()?;
        serde_json::from_value(Value::String(name.to_owned())).ok().filter(|target| *target != Self::All)
    }
}

/// What a target does with its calls.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// The kind.
    #[serde(flatten)]
    pub mode: Mode,
    /// For how many calls; for all when `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Only for calls whose path or body contains this.
    #[serde(default, skip_serializing_if = "Option::is_none", alias = "key_contains")]
    pub only: Option<String>,
    /// Only for this share of them, at random: 0 is none, 1 is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
}

/// What can be done with a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// What the provider does.
    Ok,
    /// Answer with a status and do nothing.
    Fail {
        /// The status.
        status: u16,
    },
    /// Take the call, and do not answer for so long.
    Hang {
        /// How long.
        seconds: u64,
    },
    /// Answer 429 with `Retry-After`.
    Throttle {
        /// Its value.
        retry_after_seconds: u64,
    },
    /// Do what the provider does, and end the connection without an answer.
    LoseAnswer,
}

impl Behaviour {
    const fn of(mode: Mode) -> Self {
        Self { mode, times: None, only: None, share: None }
    }

    /// As the provider.
    pub const fn ok() -> Self {
        Self::of(Mode::Ok)
    }

    /// Every call fails with this status.
    pub const fn fail(status: u16) -> Self {
        Self::of(Mode::Fail { status })
    }

    /// No call is answered for so long.
    pub const fn hang(seconds: u64) -> Self {
        Self::of(Mode::Hang { seconds })
    }

    /// Every call is answered 429, with when to retry.
    pub const fn throttle(retry_after_seconds: u64) -> Self {
        Self::of(Mode::Throttle { retry_after_seconds })
    }

    /// Every call takes effect, and its answer is lost.
    pub const fn lose_answer() -> Self {
        Self::of(Mode::LoseAnswer)
    }

    /// The same for the next `times` calls only.
    #[must_use]
    pub const fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// The same for calls whose path or body contains this only.
    #[must_use]
    pub fn only(mut self, part: &str) -> Self {
        self.only = Some(part.to_owned());
        self
    }

    /// The same for this share of the calls, at random: 0 is none, 1 is all.
    #[must_use]
    pub const fn share(mut self, share: f64) -> Self {
        self.share = Some(share);
        self
    }
}

/// A call that was received.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Counts the calls, from 1.
    pub seq: u64,
    /// When it was received, epoch milliseconds.
    pub at_ms: i64,
    /// The provider it was for.
    pub target: Target,
    pub method: String,
    /// Its path, without the target.
    pub path: String,
    /// The key under which it must not take effect twice.
    pub idempotency_key: Option<String>,
    /// The ids of the events in it, as far as it carries events.
    pub event_ids: Vec<String>,
    /// The correlation id: the request that began it all.
    pub correlation_id: Option<String>,
    /// What was answered; 0 when nothing was.
    pub status: u16,
    /// Whether it was accepted. AlimTalk refuses with status 200.
    pub accepted: bool,
    /// Whether its key was known already.
    pub repeated: bool,
    /// Its headers, by their names in lower case, without those that hold a secret.
    pub headers: BTreeMap<String, String>,
    /// Its body, `Null` when it has none.
    pub body: Value,
}

impl Delivery {
    fn mentions(&self, text: &str) -> bool {
        self.idempotency_key.as_deref().is_some_and(|key| key.contains(text))
            || self.event_ids.iter().any(|id| id.contains(text))
            || self.path.contains(text)
            || self.body.to_string().contains(text)
    }
}

/// The counts of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Calls that were accepted.
    pub deliveries: u64,
    /// Of those, how many took effect: the rest repeated a key.
    pub effects: u64,
    /// Distinct events in them.
    pub events: u64,
    /// Calls that were refused, failed or not answered.
    pub refused: u64,
}

/// The credentials that the functions send and the sink checks, as in the SSM documents.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    data_platform: String,
    partner: String,
    alimtalk_app: String,
    alimtalk: String,
    alimtalk_sender: String,
    toss: String,
    notion: String,
    notion_database: String,
    directory: String,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets")
    }
}

impl Secrets {
    /// Those of the stack in `dir`, made on first need.
    pub fn open(dir: &Path) -> Result<Self> {
        let path = crate::tokens::keys(dir).join("providers.json");
        if !path.exists() {
            let text = serde_json::to_vec(&Self::new()?).map_err(|e| Error::Damaged(e.to_string()))?;
            files::write_secret_once(&path, &text)?;
        }
        files::read_json(&path)?.ok_or_else(|| Error::Damaged(format!("{} is missing", path.display())))
    }

    fn new() -> Result<Self> {
        let random = || crate::tokens::random_text(24);
        let signing = || Ok::<_, Error>(format!("whsec_{}", STANDARD.encode(random()?)));
        Ok(Self {
            data_platform: signing()?,
            partner: signing()?,
            alimtalk_app: random()?,
            alimtalk: random()?,
            alimtalk_sender: random()?,
            toss: format!("test_sk_{}", random()?),
            notion: format!("ntn_{}", random()?),
            notion_database: random()?.to_lowercase(),
            directory: random()?,
        })
    }

    /// The documents that the functions of a stack read, by their parameter's name in SSM.
    pub fn documents(&self, stack: &str) -> BTreeMap<String, Value> {
        let templates = json!({
            "reservation_held": "en-held",
            "reservation_rejected": "en-rejected",
            "reservation_expired": "en-expired",
            "reservation_cancelled": "en-cancelled",
            "payment_completed": "en-paid",
            "payment_failed": "en-not-paid",
            "payment_refunded": "en-refunded",
            "payment_refund_failed": "en-not-refunded",
            "order_completed": "en-ordered",
            "order_failed": "en-not-ordered",
        });
        [
            ("data-platform", json!({"signing_secret": self.data_platform})),
            ("partner", json!({"signing_secret": self.partner})),
            (
                "alimtalk",
                json!({
                    "app_key": self.alimtalk_app, "secret_key": self.alimtalk, "sender_key": self.alimtalk_sender,
                    "templates": templates,
                }),
            ),
            ("cash-receipt", json!({"secret_key": self.toss})),
            ("payment-provider", json!({"secret_key": self.toss})),
            ("notion", json!({"token": self.notion, "database_id": self.notion_database})),
            ("user-directory", json!({"token": self.directory})),
        ]
        .map(|(name, document)| (format!("/{stack}/{name}"), document))
        .into()
    }
}

/// One request.
struct Call {
    method: Method,
    /// Without the target.
    path: String,
    query: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// An answer: status, JSON, and headers if any.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    /// Whether it means that the call was accepted.
    accepted: bool,
    body: Value,
    retry_after: Option<u64>,
}

impl Answer {
    fn new(status: u16, body: Value) -> Self {
        Self { status, accepted: (200..300).contains(&status), body, retry_after: None }
    }

    /// A refusal, whatever the status.
    fn no(status: u16, body: Value) -> Self {
        Self { accepted: false, ..Self::new(status, body) }
    }
}

#[derive(Default)]
struct State {
    seq: u64,
    deliveries: VecDeque<Delivery>,
    behaviours: HashMap<Target, Behaviour>,
    /// The first answers by target and idempotency key, and when they were given.
    answers: HashMap<(Target, String), (Instant, Answer)>,
    events: HashMap<Target, HashSet<String>>,
    tallies: BTreeMap<Target, Tally>,
    providers: providers::Providers,
}

/// The state of the running server.
pub(crate) struct Server {
    secrets: Secrets,
    nonce: String,
    state: Mutex<State>,
    over: tokio::sync::Notify,
    /// How many times the sink has checked whether the engine is there, where it does not end with its owner.
    looks: AtomicU64,
}

/// No answer: the connection ends.
#[derive(Debug, thiserror::Error)]
#[error("the answer is lost")]
struct Lost;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

impl Server {
    pub(crate) fn new(secrets: Secrets, nonce: String) -> Arc<Self> {
        let over = tokio::sync::Notify::new();
        Arc::new(Self { secrets, nonce, state: Mutex::default(), over, looks: AtomicU64::new(0) })
    }

    /// Serves until it is ended over `/_sink`. Calls still in progress then get no answer.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
                () = self.over.notified() => return,
            };
            let Ok((stream, _)) = accepted else {
                // The client has gone already, which is its affair, or there are too many open files, which passes.
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            };
            let server = Arc::clone(&self);
            connections.spawn(async move {
                let answer = service_fn(|request| Arc::clone(&server).exchange(request));
                // An error is a lost connection or a lost answer: both are what a network does.
                http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await.ok();
            });
        }
    }

    async fn exchange(self: Arc<Self>, request: Request<Incoming>) -> std::result::Result<Response<Full<Bytes>>, Lost> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(|_| Lost)?.to_bytes();
        let path = head.uri.path().to_owned();
        let query = head.uri.query().unwrap_or_default().to_owned();
        let mut call = Call { method: head.method, path, query, headers: head.headers, body };
        let answer = if let Some(control) = call.path.strip_prefix("/_sink") {
            self.control(control, &call)
        } else if let Some(target) = Target::of(&call.path) {
            let rest = call.path.trim_start_matches('/').split_once('/').map_or("", |(_, rest)| rest);
            call.path = format!("/{rest}");
            self.take(target, &call).await?
        } else {
            Answer::new(404, json!({"message": "no provider is played here"}))
        };
        let mut response = Response::new(Full::new(Bytes::from(match answer.body {
            Value::Null => String::new(),
            body => body.to_string(),
        })));
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert("content-type", ::http::HeaderValue::from_static("application/json"));
        if let Some(seconds) = answer.retry_after {
            headers.insert("retry-after", seconds.into());
        }
        Ok(response)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call for a provider.
    async fn take(&self, target: Target, call: &Call) -> std::result::Result<Answer, Lost> {
        let mode = self.state().next_mode(target, call);
        match mode {
            Mode::Ok => Ok(self.state().play(&self.secrets, target, call)),
            Mode::LoseAnswer => {
                self.state().play(&self.secrets, target, call);
                Err(Lost)
            }
            Mode::Fail { status } => {
                let answer = Answer::new(status, json!({"message": "told to fail"}));
                self.state().record(target, call, &answer, false);
                Ok(answer)
            }
            Mode::Throttle { retry_after_seconds } => {
                let body = json!({"message": "come again later"});
                let answer = Answer { retry_after: Some(retry_after_seconds), ..Answer::new(429, body) };
                self.state().record(target, call, &answer, false);
                Ok(answer)
            }
            Mode::Hang { seconds } => {
                self.state().record(target, call, &Answer::new(0, Value::Null), false);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                Err(Lost)
            }
        }
    }

    fn control(&self, path: &str, call: &Call) -> Answer {
        let mut state = self.state();
        let wanted = |name: &str| {
            let pairs = call.query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| client::decode(value))
        };
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match (call.method.as_str(), parts.as_slice()) {
            ("GET", [""]) => {
                let looks = self.looks.load(Ordering::Relaxed);
                Answer::new(200, json!({"nonce": self.nonce, "pid": std::process::id(), "engine_looks": looks}))
            }
            ("DELETE", [nonce]) if *nonce == self.nonce => {
                self.over.notify_one();
                Answer::new(204, Value::Null)
            }
            ("GET", ["deliveries"]) => {
                let since = wanted("since").and_then(|since| since.parse().ok()).unwrap_or(0_u64);
                let (target, key) = (wanted("target"), wanted("key"));
                let target = target.map(|name| Target::of(&name));
                let found = state.deliveries.iter().filter(|delivery| {
                    delivery.seq > since
                        && target.is_none_or(|target| target == Some(delivery.target))
                        && key.as_deref().is_none_or(|key| delivery.mentions(key))
                });
                Answer::new(200, json!({"items": found.collect::<Vec<_>>()}))
            }
            ("DELETE", ["deliveries"]) => {
                state.deliveries.clear();
                state.tallies.clear();
                state.events.clear();
                Answer::new(204, Value::Null)
            }
            ("GET", ["summary"]) => {
                let mut tallies = state.tallies.clone();
                for (target, tally) in &mut tallies {
                    tally.events = state.events.get(target).map_or(0, HashSet::len) as u64;
                }
                Answer::new(200, json!(tallies))
            }
            ("PUT", ["behaviour", target]) => {
                let target: Option<Target> = serde_json::from_value((*target).into()).ok();
                match (target, serde_json::from_slice::<Behaviour>(&call.body)) {
                    (Some(Target::All), Ok(behaviour)) => {
                        state.behaviours = HashMap::from([(Target::All, behaviour)]);
                        Answer::new(204, Value::Null)
                    }
                    (Some(target), Ok(behaviour)) => {
                        state.behaviours.insert(target, behaviour);
                        Answer::new(204, Value::Null)
                    }
                    (None, _) => Answer::new(400, json!({"message": format!("there is no target in {path}")})),
                    (_, Err(error)) => Answer::new(400, json!({"message": error.to_string()})),
                }
            }
            ("PUT", ["toss", "payments", key]) => match state.providers.register(&client::decode(key), &call.json()) {
                true => Answer::new(204, Value::Null),
                false => Answer::new(400, json!({"message": "order_id and amount are needed"})),
            },
            _ => Answer::new(404, json!({"message": "no such control"})),
        }
    }
}

impl State {
    /// What to do with a call, as set for the target or for all.
    fn next_mode(&mut self, target: Target, call: &Call) -> Mode {
        let text = String::from_utf8_lossy(&call.body).into_owned();
        for who in [target, Target::All] {
            let Some(behaviour) = self.behaviours.get_mut(&who) else { continue };
            let concerned =
                behaviour.only.as_deref().is_none_or(|part| text.contains(part) || call.path.contains(part));
            let by_chance = behaviour.share.is_none_or(|share| fastrand::f64() < share);
            match &mut behaviour.times {
                _ if !(concerned && by_chance) => continue,
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            return behaviour.mode.clone();
        }
        Mode::Ok
    }

    /// What the provider does.
    fn play(&mut self, secrets: &Secrets, target: Target, call: &Call) -> Answer {
        let key = idempotency_key(call).map(|key| (target, format!("{} {} {key}", call.method, call.path)));
        let first = key.as_ref().and_then(|key| self.answers.get(key));
        let first =
            first.filter(|(at, _)| providers::remembers_keys_for(target).is_none_or(|time| at.elapsed() < time));
        if let Some((_, first)) = first.cloned() {
            // A repeated call has to authenticate again.
            let answer = providers::proof(secrets, target, call).unwrap_or_else(|| providers::again(target, first));
            self.record(target, call, &answer, true);
            return answer;
        }
        let answer = match providers::proof(secrets, target, call) {
            Some(refusal) => refusal,
            None => self.providers.answer(secrets, target, call),
        };
        if let Some(key) = key.filter(|_| answer.accepted) {
            self.answers.insert(key, (Instant::now(), answer.clone()));
        }
        self.record(target, call, &answer, false);
        answer
    }

    fn record(&mut self, target: Target, call: &Call, answer: &Answer, repeated: bool) {
        self.seq += 1;
        let body = call.json();
        let ids = |value: &Value| value["id"].as_str().map(str::to_owned);
        let event_ids: Vec<String> = body["events"].as_array().into_iter().flatten().filter_map(ids).collect();
        let tally = self.tallies.entry(target).or_default();
        if answer.accepted {
            tally.deliveries += 1;
            tally.effects += u64::from(!repeated);
            let events = self.events.entry(target).or_default();
            events.extend(event_ids.iter().cloned());
            events.extend(idempotency_key(call).filter(|_| event_ids.is_empty()));
        } else {
            tally.refused += 1;
        }
        self.deliveries.push_back(Delivery {
            seq: self.seq,
            at_ms: now_ms(),
            target,
            method: call.method.to_string(),
            path: call.path.clone(),
            idempotency_key: idempotency_key(call),
            event_ids,
            correlation_id: call.header("x-correlation-id").map(str::to_owned),
            status: answer.status,
            accepted: answer.accepted,
            repeated,
            headers: shown_headers(&call.headers),
            body,
        });
        if self.deliveries.len() > REMEMBERED {
            self.deliveries.pop_front();
        }
    }
}

/// The headers of a call that may be shown.
fn shown_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let shown = headers.iter().filter(|(name, _)| !SECRET_HEADERS.contains(&name.as_str()));
    shown.map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

/// The key under which a call must not take effect twice, in the header of whichever provider.
fn idempotency_key(call: &Call) -> Option<String> {
    let names = ["webhook-id", "idempotency-key", "x-nc-api-idempotency-key"];
    names.into_iter().find_map(|name| call.header(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests;
