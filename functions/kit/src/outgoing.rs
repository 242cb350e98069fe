//! Calls to external providers. Every call has a timeout, few tries, and one of three outcomes: an answer, *refused* (a
//! 4xx: a retry is of no use, [`Fault::Broken`]) or *unavailable* (no answer, 408, 425, 429, 5xx:
//! [`Fault::Unavailable`], with the provider's `Retry-After`).
//!
//! Redirects are not followed, so that no provider can send our credentials elsewhere. An answer is read up to
//! [`MAX_ANSWER_BYTES`]; the error of a refused [`Client::send`] keeps the beginning of its body, others only the
//! status, and none the request, so that neither a secret nor personal data reaches a log.

use crate::{Fault, dynamo};
use http::{HeaderMap, Method};
use serde_json::Value;
use std::time::Duration;

/// How much of an answer is read.
pub const MAX_ANSWER_BYTES: usize = 256 * 1024;
/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one try may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Tries of one call. A call that fails them all is retried by the queue, much later.
const ATTEMPTS: u32 = 2;
/// How much of a refusal's body is kept, in characters.
const EXCERPT_CHARS: usize = 300;

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: Method,
    pub url: String,
    /// Its headers, without `content-type`.
    pub headers: HeaderMap,
    /// Its JSON, sent exactly as these bytes, so that they can be signed.
    pub body: Option<Vec<u8>>,
}

/// An answer with a 2xx or 3xx status, or a 4xx from [`Client::answer`].
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    fn excerpt(&self) -> String {
        String::from_utf8_lossy(&self.body).chars().take(EXCERPT_CHARS).collect()
    }
}

/// Sends requests.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
}

impl Client {
    /// A client that trusts the system's roots.
    pub fn new() -> Result<Self, Fault> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ATTEMPT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("encore/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { http: http.map_err(|error| Fault::broken("setting up an HTTP client", error))? })
    }

    /// Sends a request whose refusal is a fault. `doing` names the operation. The request must be idempotent.
    pub async fn send(&self, doing: &'static str, request: &Request) -> Result<Answer, Fault> {
        let answer = self.answer(doing, request).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        Err(Fault::broken(doing, format!("refused with {}: {}", answer.status, answer.excerpt())))
    }

    /// Sends a request whose refusal is an answer: only no answer, or one that asks for a retry, is a fault.
    pub async fn answer(&self, doing: &'static str, request: &Request) -> Result<Answer, Fault> {
        let mut attempt = 0;
        loop {
            let outcome = self.once(doing, request).await;
            attempt += 1;
            match outcome {
                // A provider that sends `Retry-After` is not called before then.
                Err(fault) if attempt < ATTEMPTS && fault.wait().is_none() => {
                    tokio::time::sleep(dynamo::jitter(attempt + 2)).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// [`Client::answer`] in one try, for a request that must not be repeated before its outcome has been looked up.
    pub async fn once(&self, doing: &'static str, request: &Request) -> Result<Answer, Fault> {
        let unavailable = |error: reqwest::Error| Fault::unavailable(doing, error.without_url());
        let mut sending = self.http.request(request.method.clone(), &request.url).headers(request.headers.clone());
        if let Some(body) = &request.body {
            sending = sending.header(http::header::CONTENT_TYPE, "application/json").body(body.clone());
        }
        let mut response = sending.send().await.map_err(unavailable)?;
        let status = response.status().as_u16();
        let retry_after = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(retry_after_seconds).map(Duration::from_secs);
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unavailable)? {
            let room = MAX_ANSWER_BYTES.saturating_sub(body.len());
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() >= room {
                break;
            }
        }
        if matches!(status, 408 | 425 | 429) || status >= 500 {
            // Not its body: a debugger's error page may repeat our request, and other answers may contain personal
            // data.
            return Err(Fault::unavailable(doing, format!("answered {status}")).retry_after(retry_after));
        }
        Ok(Answer { status, body })
    }
}

/// `Retry-After` in seconds; a date is ignored in favour of our own backoff.
fn retry_after_seconds(value: &str) -> Option<u64> {
    value.trim().parse().ok()
}

/// A header whose value never appears in debug output.
pub fn secret_header(value: &str) -> Result<http::HeaderValue, Fault> {
    let mut header = http::HeaderValue::from_str(value)
        .map_err(|_| Fault::broken("writing a header", "a secret has characters that no header takes"))?;
    header.set_sensitive(true);
    Ok(header)
}
