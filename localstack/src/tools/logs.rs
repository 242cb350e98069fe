//! The functions' logs, from the engine's CloudWatch Logs.

use crate::driver::bucket::authorization;
use crate::error::Error;
use crate::http::Client;
use crate::{Result, StackInfo};
use ::http::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often a read that the engine failed is retried.
const READ_AGAIN: u32 = 20;

/// A line of a function's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    pub at_ms: i64,
    /// The handler that printed it.
    pub handler: String,
    pub message: String,
    /// Distinguishes equal lines.
    pub id: String,
}

/// Reads function logs.
#[derive(Clone, Debug)]
pub struct Logs {
    http: Client,
    endpoint: String,
    stack: String,
    /// Handler -> function.
    functions: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Groups {
    #[serde(default)]
    log_groups: Vec<Group>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    log_group_name: String,
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
    #[serde(default)]
    log_stream_name: String,
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
        Ok(Self { http: Client::new(), endpoint: info.endpoint_url.clone(), stack: info.stack.clone(), functions })
    }

    /// The lines since a time (milliseconds since 1970), in time order. Without the START, END and REPORT lines of the
    /// platform.
    pub async fn since(&self, from_ms: i64) -> Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for group in self.groups().await? {
            lines.extend(self.of(&group, from_ms).await?);
        }
        // Stable: the lines of one call, which share their time, stay in their order.
        lines.sort_by(|a: &LogLine, b| (a.at_ms, &a.handler).cmp(&(b.at_ms, &b.handler)));
        Ok(lines)
    }

    /// The stack's log groups: one for each context, and those of functions that have their own.
    async fn groups(&self) -> Result<Vec<String>> {
        let mut groups = Vec::new();
        for prefix in [format!("/{}/", self.stack), format!("/aws/lambda/{}-", self.stack)] {
            let mut token = None;
            loop {
                let mut ask = json!({"logGroupNamePrefix": prefix});
                if let Some(token) = &token {
                    ask["nextToken"] = json!(token);
                }
                let page: Groups = self.ask("DescribeLogGroups", &ask).await?;
                groups.extend(page.log_groups.into_iter().map(|group| group.log_group_name));
                match page.next_token {
                    Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                    _ => break,
                }
            }
        }
        Ok(groups)
    }

    async fn of(&self, group: &str, from_ms: i64) -> Result<Vec<LogLine>> {
        let own = group.strip_prefix("/aws/lambda/");
        let of_one = own.and_then(|name| self.functions.iter().find(|(_, function)| *function == name));
        if own.is_some() && of_one.is_none() {
            return Ok(Vec::new()); // Not asked for, or of a stack whose name begins the same.
        }
        let mut events = Vec::new();
        let mut token = None;
        loop {
            let mut ask = json!({"logGroupName": group, "startTime": from_ms, "limit": 10_000});
            if let Some(token) = &token {
                ask["nextToken"] = json!(token);
            }
            let page: Page = self.ask("FilterLogEvents", &ask).await?;
            events.extend(page.events);
            match page.next_token {
                Some(next) if token.as_ref() != Some(&next) => token = Some(next),
                _ => break,
            }
        }
        let named_by = handlers_of(&events);
        let lines = events.into_iter().filter(|event| !is_platform(&event.message)).filter_map(|event| {
            let named = handler_of(&event.message).or_else(|| named_by.get(&event.log_stream_name).cloned());
            let handler = of_one.map(|(handler, _)| handler.clone()).or(named)?;
            self.functions.contains_key(&handler).then_some(LogLine {
                at_ms: event.timestamp,
                handler,
                message: event.message,
                id: event.event_id,
            })
        });
        Ok(lines.collect())
    }

    async fn ask<T: DeserializeOwned>(&self, operation: &str, ask: &Value) -> Result<T> {
        let target = format!("Logs_20140328.{operation}");
        let headers = [
            ("content-type", "application/x-amz-json-1.1"),
            ("x-amz-target", target.as_str()),
            ("authorization", &authorization("logs")),
        ];
        let mut answer = self.http.send(Method::POST, &self.endpoint, &headers, ask.to_string()).await?;
        // The engine answers 500 while it iterates over its groups and a function's first line makes another one. This
        // only reads.
        for _ in 0..READ_AGAIN {
            if !answer.status.is_server_error() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(10..50))).await;
            answer = self.http.send(Method::POST, &self.endpoint, &headers, ask.to_string()).await?;
        }
        let text = answer.text();
        if !answer.status.is_success() {
            return Err(Error::Engine(format!("{operation} of {ask}: {} {text}", answer.status)));
        }
        serde_json::from_str(&text).map_err(|e| Error::Engine(format!("{operation} cannot be read: {e}")))
    }
}

/// The handler that a line of ours names.
fn handler_of(message: &str) -> Option<String> {
    let line: Value = serde_json::from_str(message).ok()?;
    Some(line["handler"].as_str()?.to_owned())
}

/// The handler of each stream, where one of its lines names it: a metric or a runtime's message does not.
fn handlers_of(events: &[Event]) -> BTreeMap<String, String> {
    let named = |event: &Event| Some((event.log_stream_name.clone(), handler_of(&event.message)?));
    events.iter().filter_map(named).collect()
}

fn is_platform(message: &str) -> bool {
    ["START RequestId: ", "END RequestId: ", "REPORT RequestId: "].iter().any(|start| message.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_stream_are_of_the_handler_that_one_of_them_names() {
        let line = |stream: &str, message: &str| Event {
            timestamp: 1,
            message: message.to_owned(),
            event_id: String::new(),
            log_stream_name: stream.to_owned(),
        };
        let named = handlers_of(&[line("1", "Held"), line("1", r#"{"handler":"use-points"}"#), line("2", "{}")]);
        assert_eq!(named, BTreeMap::from([("1".to_owned(), "use-points".to_owned())]));
    }

    #[test]
    fn the_platforms_own_lines_are_left_out() {
        assert!(is_platform("REPORT RequestId: 1\tDuration: 3 ms"));
        assert!(!is_platform("{\"message\":\"START\"}"));
    }
}
