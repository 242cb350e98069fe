//! The sink's controls, for tests and the demo.

use super::{Behaviour, Delivery, Tally, Target};
use crate::error::Error;
use crate::{Result, http};
use ::http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Talks to a stack's sink.
#[derive(Clone, Debug)]
pub struct Client {
    url: String,
    http: http::Client,
}

#[derive(Deserialize)]
struct Items {
    items: Vec<Delivery>,
}

impl Client {
    /// Of the sink at this URL ([`crate::StackInfo::sink_url`]).
    pub fn new(url: &str) -> Self {
        Self { url: url.to_owned(), http: http::Client::new() }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let url = format!("{}/_sink{path}", self.url);
        let answer = self.http.json(method, &url, &[], body).await?;
        if answer.status.is_success() {
            return Ok(answer.json());
        }
        Err(Error::Engine(format!("{url}: {} {}", answer.status, answer.text())))
    }

    /// What was received, oldest first: for one target, or about something (an event, a user, a fault).
    pub async fn deliveries(&self, target: Option<Target>, key: Option<&str>) -> Result<Vec<Delivery>> {
        let mut query = String::new();
        if let Some(target) = target {
            query.push_str(&format!("&target={}", name(target)));
        }
        if let Some(key) = key {
            query.push_str(&format!("&key={}", encode(key)));
        }
        let found = self.ask(Method::GET, &format!("/deliveries?{}", query.trim_start_matches('&')), None).await?;
        let read = serde_json::from_value::<Items>(found).map_err(|e| Error::Engine(format!("the sink: {e}")))?;
        Ok(read.items)
    }

    /// The counts of each target.
    pub async fn summary(&self) -> Result<BTreeMap<Target, Tally>> {
        let found = self.ask(Method::GET, "/summary", None).await?;
        serde_json::from_value(found).map_err(|e| Error::Engine(format!("the sink: {e}")))
    }

    /// Sets how a target behaves from now on. [`Target::All`] takes back what was set for single ones.
    pub async fn behave(&self, target: Target, behaviour: Behaviour) -> Result<()> {
        self.ask(Method::PUT, &format!("/behaviour/{}", name(target)), Some(&json!(behaviour))).await.map(drop)
    }

    /// What a customer did in the payment provider's widget: paid `amount` for an order.
    pub async fn register_payment(&self, payment_key: &str, order_id: &str, amount: i64) -> Result<()> {
        let body = json!({"order_id": order_id, "amount": amount});
        self.ask(Method::PUT, &format!("/toss/payments/{}", encode(payment_key)), Some(&body)).await.map(drop)
    }

    /// Forgets what was received so far.
    pub async fn forget(&self) -> Result<()> {
        self.ask(Method::DELETE, "/deliveries", None).await.map(drop)
    }

    /// The nonce of the sink that answers here.
    pub(super) async fn nonce(&self) -> Option<String> {
        self.ask(Method::GET, "", None).await.ok()?["nonce"].as_str().map(str::to_owned)
    }

    /// Ends the sink with this nonce.
    pub(super) async fn end(&self, nonce: &str) -> Result<()> {
        self.ask(Method::DELETE, &format!("/{nonce}"), None).await.map(drop)
    }
}

fn name(target: Target) -> String {
    json!(target).as_str().unwrap_or_default().to_owned()
}

/// Percent-encodes all but what every URL takes.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The reverse. What is no percent-encoding stays as it is.
pub(super) fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, behind)) = rest.split_first() {
        let hex = behind.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
