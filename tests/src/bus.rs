//! An EventBridge that records the entries it gets, and refuses those that a test picks.

use crate::proxy::{answer, serve};
use contracts::events::Event;
use http::StatusCode;
use http_body_util::BodyExt as _;
use kit::service::{EVENTS, Service};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The name of the bus.
pub const BUS: &str = "encore-bus";

/// A bus, gone when dropped.
#[derive(Debug)]
pub struct Bus {
    client: Service,
    state: Arc<State>,
    _stop: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    accepted: Mutex<Vec<Event>>,
    requests: Mutex<usize>,
    refusals: Mutex<HashMap<String, usize>>,
    down: Mutex<bool>,
}

impl Bus {
    /// Starts it.
    pub async fn start() -> Self {
        let state = Arc::new(State::default());
        let handled = Arc::clone(&state);
        let (url, stop) = serve(move |request| {
            let state = Arc::clone(&handled);
            async move {
                let body = request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
                let (status, body) = state.put(&serde_json::from_slice(&body).map_err(io::Error::other)?);
                Ok(answer(status, &body))
            }
        })
        .await;
        Self { client: Service::new(EVENTS, &kit::aws::local_config(&url, "us-east-1")), state, _stop: stop }
    }

    /// A client of it.
    pub fn client(&self) -> Service {
        self.client.clone()
    }

    /// The events it accepted, in order, repetitions included.
    pub fn events(&self) -> Vec<Event> {
        locked(&self.state.accepted).clone()
    }

    /// The ids of those.
    pub fn ids(&self) -> Vec<String> {
        locked(&self.state.accepted).iter().map(|event| event.id.to_string()).collect()
    }

    /// How many requests it received.
    pub fn requests(&self) -> usize {
        *locked(&self.state.requests)
    }

    /// Refuses the next `times` entries with this event's id.
    pub fn refuse(&self, event_id: &str, times: usize) {
        locked(&self.state.refusals).insert(event_id.to_owned(), times);
    }

    /// Answers every request with 500, or no longer.
    pub fn set_down(&self, down: bool) {
        *locked(&self.state.down) = down;
    }
}

impl State {
    fn put(&self, request: &Value) -> (StatusCode, Value) {
        *locked(&self.requests) += 1;
        if *locked(&self.down) {
            return (StatusCode::INTERNAL_SERVER_ERROR, json!({"__type": "InternalException"}));
        }
        let entries = request["Entries"].as_array().expect("entries");
        assert!(entries.len() <= 10, "PutEvents takes ten entries");
        let answers: Vec<Value> = entries.iter().map(|entry| self.entry(entry)).collect();
        let failed = answers.iter().filter(|answer| answer.get("ErrorCode").is_some()).count();
        (StatusCode::OK, json!({"FailedEntryCount": failed, "Entries": answers}))
    }

    fn entry(&self, entry: &Value) -> Value {
        let event: Event = serde_json::from_str(entry["Detail"].as_str().expect("a detail")).expect("an event");
        assert_eq!(entry["EventBusName"], BUS);
        assert_eq!(entry["Source"], event.source.as_str());
        assert_eq!(entry["DetailType"], event.body.event_type());
        if let Some(left) = locked(&self.refusals).get_mut(event.id.as_str()).filter(|left| **left > 0) {
            *left -= 1;
            return json!({"ErrorCode": "InternalFailure", "ErrorMessage": "refused by the test"});
        }
        let id = event.id.to_string();
        locked(&self.accepted).push(event);
        json!({ "EventId": id })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
