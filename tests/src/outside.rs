//! The external systems, as the consumers meet them: a server that records its requests and answers like the providers,
//! or as it is set to. It also plays the parameter store, so that secrets come the way they come in a function.

use crate::proxy::{answer, serve};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use kit::secrets::Secret;
use kit::service::{SSM, Service};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The server, gone when dropped.
#[derive(Debug)]
pub struct Outside {
    url: String,
    state: Arc<Mutex<State>>,
    _stop: oneshot::Sender<()>,
}

/// A request that was received.
#[derive(Debug, Clone)]
pub struct Heard {
    /// Method and path, for example `POST /v1/pages`.
    pub what: String,
    pub headers: HeaderMap,
    /// Its body, exactly.
    pub bytes: Vec<u8>,
    /// Its body as JSON.
    pub body: Value,
}

impl Heard {
    /// A header's text.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().expect("a header's text")).unwrap_or_default()
    }
}

/// The answer that replaces a provider's.
#[derive(Debug, Clone)]
struct Refusal {
    /// Part of method and path, or of the body.
    about: String,
    status: u16,
    retry_after: Option<u64>,
    times: usize,
}

#[derive(Debug, Default)]
struct State {
    heard: Vec<Heard>,
    refusals: Vec<Refusal>,
    documents: HashMap<String, Value>,
    /// First answers by idempotency key.
    answers: HashMap<String, Value>,
    /// Pages by id.
    pages: Vec<(String, Value)>,
}

impl Outside {
    /// Starts it.
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let handled = Arc::clone(&state);
        let (url, stop) = serve(move |request| {
            let state = Arc::clone(&handled);
            async move { exchange(&state, request).await }
        })
        .await;
        Self { url, state, _stop: stop }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// A secret that is kept in the parameter store.
    pub fn secret<T: DeserializeOwned + Clone>(&self, name: &str, document: Value) -> Secret<T> {
        locked(&self.state).documents.insert(name.to_owned(), document);
        Secret::new(Service::new(SSM, &kit::aws::local_config(&self.url, "us-east-1")), name.to_owned())
    }

    /// The requests that providers received whose method and path contain `what`, oldest first.
    pub fn heard(&self, what: &str) -> Vec<Heard> {
        locked(&self.state).heard.iter().filter(|heard| heard.what.contains(what)).cloned().collect()
    }

    /// The pages there are: their properties.
    pub fn pages(&self) -> Vec<Value> {
        locked(&self.state).pages.iter().map(|(_, properties)| properties.clone()).collect()
    }

    /// Answers the next `times` requests whose method, path or body contain `about` with a status.
    pub fn refuse(&self, about: &str, status: u16, retry_after: Option<u64>, times: usize) {
        let about = about.to_owned();
        locked(&self.state).refusals.push(Refusal { about, status, retry_after, times });
    }
}

async fn exchange(state: &Mutex<State>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes().to_vec();
    let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let mut state = locked(state);
    if head.headers.contains_key("x-amz-target") {
        let name = body["Name"].as_str().unwrap_or_default();
        let document = state.documents.get(name).expect("a parameter").to_string();
        return Ok(answer(StatusCode::OK, &json!({"Parameter": {"Name": name, "Value": document}})));
    }
    let heard = Heard { what: format!("{} {}", head.method, head.uri.path()), headers: head.headers, bytes, body };
    state.heard.push(heard.clone());
    let text = String::from_utf8_lossy(&heard.bytes).into_owned();
    let told = state
        .refusals
        .iter_mut()
        .find(|refusal| refusal.times > 0 && (heard.what.contains(&refusal.about) || text.contains(&refusal.about)));
    if let Some(refusal) = told {
        refusal.times -= 1;
        let status = StatusCode::from_u16(refusal.status).expect("a status");
        let mut response = answer(status, &json!({"code": "told", "message": "told to refuse"}));
        if let Some(seconds) = refusal.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        return Ok(response);
    }
    Ok(answer(StatusCode::OK, &state.provide(&heard)))
}

impl State {
    fn provide(&mut self, heard: &Heard) -> Value {
        let key = ["idempotency-key", "x-nc-api-idempotency-key"].map(|name| heard.header(name)).concat();
        if let Some(first) = self.answers.get(&key) {
            return first.clone();
        }
        let count = self.heard.len();
        let segments: Vec<&str> = heard.what.split(['/', ' ']).filter(|part| !part.is_empty()).collect();
        let said = match segments.as_slice() {
            ["GET", "Users", _] => json!({"phoneNumbers": [{"type": "mobile", "value": "+82-10-1234-5678"}]}),
            ["POST", "alimtalk", ..] => json!({
                "header": {"isSuccessful": true, "resultCode": 0},
                "message": {"requestId": format!("request-{count}"), "sendResults": [{"resultCode": 0}]},
            }),
            ["POST", "v1", "cash-receipts"] => json!({"receiptKey": format!("receipt-{count}")}),
            ["POST", "v1", "pages"] => {
                let id = format!("page-{count}");
                self.pages.push((id.clone(), heard.body["properties"].clone()));
                json!({ "id": id })
            }
            ["PATCH", "v1", "pages", id] => {
                let page = self.pages.iter_mut().find(|(known, _)| known == id).expect("a page");
                for (name, value) in heard.body["properties"].as_object().expect("properties") {
                    page.1[name] = value.clone();
                }
                json!({ "id": id })
            }
            ["POST", "v1", "databases", _, "query"] => {
                let wanted = &heard.body["filter"]["and"];
                let fits = |page: &Value| {
                    page["Fault"]["rich_text"][0]["text"]["content"] == wanted[0]["rich_text"]["equals"]
                        && page["Status"]["select"]["name"] == wanted[1]["select"]["equals"]
                };
                let found = self.pages.iter().filter(|(_, page)| fits(page));
                json!({"results": found.map(|(id, _)| json!({ "id": id })).collect::<Vec<_>>()})
            }
            _ => json!({}),
        };
        if !key.is_empty() {
            self.answers.insert(key, said.clone());
        }
        said
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
