//! What the functions printed, from the engine's CloudWatch Logs.

use crate::deploy::authorization;
use crate::error::Error;
use crate::http::Client;
use crate::{Result, StackInfo};
use ::http::Method;
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// A line of a function's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The handler that printed it.
    pub handler: String,
    /// The line.
    pub message: String,
    /// Distinguishes equal lines.
    pub id: String,
}

/// Reads function logs.
#[derive(Clone, Debug)]
pub struct Logs {
    http: Client,
    endpoint: String,
    /// Handler -> function.
    functions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(default)]
    events: Vec<Event>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    timestamp: i64,
    message: String,
    #[serde(default)]
    event_id: String,
}

impl Logs {
    /// The logs of one handler, given by its name or its function's name, or of all.
    pub fn new(info: &StackInfo, handler: Option<&str>) -> Result<Self> {
        let functions: BTreeMap<String, String> = info
            .functions
            .iter()
            .filter(|(name, function)| handler.is_none_or(|wanted| wanted == *name || wanted == *function))
            .map(|(name, function)| (name.clone(), function.clone()))
            .collect();
        if let Some(handler) = handler.filter(|_| functions.is_empty()) {
            let known: Vec<&str> = info.functions.keys().map(String::as_str).collect();
            return Err(Error::Usage(format!("there is no handler {handler}; there are {}", known.join(", "))));
        }
        Ok(Self { http: Client::new(), endpoint: info.endpoint_url.clone(), functions })
    }

    /// The lines since a time (milliseconds since 1970), in the order of their times. Without the START, END and REPORT
    /// lines of the platform.
    pub async fn since(&self, from_ms: i64) -> Result<Vec<LogLine>> {
        let mut reads = JoinSet::new();
        for (handler, function) in &self.functions {
            let (this, handler, function) = (self.clone(), handler.clone(), function.clone());
            reads.spawn(async move { this.of(handler, &function, from_ms).await });
        }
        let mut lines = Vec::new();
        while let Some(read) = reads.join_next().await {
            lines.extend(read.map_err(|e| Error::Engine(format!("reading logs was interrupted: {e}")))??);
        }
        // Stable: the lines of one call, which share their time, stay in their order.
        lines.sort_by(|a: &LogLine, b| (a.at_ms, &a.handler).cmp(&(b.at_ms, &b.handler)));
        Ok(lines)
    }

    async fn of(&self, handler: String, function: &str, from_ms: i64) -> Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        let mut token = None;
        loop {
            let mut ask =
                json!({"logGroupName": format!("/aws/lambda/{function}"), "startTime": from_ms, "limit": 10_000});
            if let Some(token) = &token {
                ask["nextToken"] = json!(token);
            }
            let headers = [
                ("content-type", "application/x-amz-json-1.1"),
                ("x-amz-target", "Logs_20140328.FilterLogEvents"),
                ("authorization", &authorization("logs")),
            ];
            let answer = self.http.send(Method::POST, &self.endpoint, &headers, ask.to_string()).await?;
            let text = answer.text();
            if !answer.status.is_success() {
                // A function that was never called has no group yet.
                if text.contains("ResourceNotFoundException") {
                    return Ok(lines);
                }
                return Err(Error::Engine(format!("the logs of {function}: {} {text}", answer.status)));
            }
            let page: Page = serde_json::from_str(&text)
                .map_err(|e| Error::Engine(format!("the logs of {function} cannot be read: {e}")))?;
            lines.extend(page.events.into_iter().filter(|event| !is_platform(&event.message)).map(|event| LogLine {
                at_ms: event.timestamp,
                handler: handler.clone(),
                message: event.message,
                id: event.event_id,
            }));
            match page.next_token {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => return Ok(lines),
            }
        }
    }
}

fn is_platform(message: &str) -> bool {
    ["START RequestId: ", "END RequestId: ", "REPORT RequestId: "].iter().any(|start| message.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platforms_own_lines_are_left_out() {
        assert!(is_platform("REPORT RequestId: 1\tDuration: 3 ms"));
        assert!(!is_platform("{\"message\":\"START\"}"));
    }
}
