//! A plain HTTP client with kept connections, for the API and for the engine.
//!
//! Small on purpose: the AWS clients cover AWS; this is for what a buyer's browser would send and for the few calls to
//! the engine that need no client of their own.

use crate::error::Error;
use ::http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;
use std::time::Duration;

/// How long an answer may take. Above API Gateway's own limit of 29 s.
const TIMEOUT: Duration = Duration::from_secs(35);

/// A client. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Legacy<HttpConnector, Full<Bytes>>,
    timeout: Duration,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON, `Null` when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client that waits 35 s for an answer.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_secs(10)));
        let inner = Legacy::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            // The engine closes idle connections after 75 s; leave before it does.
            .pool_idle_timeout(Duration::from_secs(30))
            .build(connector);
        Self { inner, timeout: TIMEOUT }
    }

    /// The same client with another limit for an answer.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { inner: self.inner.clone(), timeout }
    }

    /// Sends a request and reads the whole answer. Any status is an answer; an error means that none came.
    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Error> {
        let failed = |why: &dyn std::fmt::Display| Error::Engine(format!("{method} {url}: {why}"));
        let mut request = Request::builder().method(&method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).map_err(|e| failed(&e))?;
        let exchange = async {
            let answer = self.inner.request(request).await.map_err(|e| failed(&chain(&e)))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|e| failed(&chain(&e)))?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(failed(&format!("no answer within {} s", self.timeout.as_secs()))),
        }
    }

    /// Sends a JSON body, or none.
    pub async fn json(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let Some(body) = body else { return self.send(method, url, headers, Bytes::new()).await };
        let mut headers = headers.to_vec();
        headers.push(("content-type", "application/json"));
        self.send(method, url, &headers, body.to_string()).await
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
