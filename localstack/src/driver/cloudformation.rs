//! Stacks of an engine, one at a time: makes a change set, executes it, and reads the outcome.

use crate::driver::bucket::Bucket;
use crate::driver::query::{Query, Refused, numbered};
use crate::engine::info::sdk_config;
use crate::error::Error;
use crate::{Progress, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How long a change set, and its execution, may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// The interval between the first two polls.
const FIRST_POLL: Duration = Duration::from_millis(20);
/// The interval between two polls of what takes long. Each costs the engine time that it needs for the work itself.
const LAST_POLL: Duration = Duration::from_millis(250);

/// What a deployment did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The stack was made.
    Created,
    /// Resources were changed.
    Updated,
    /// It was as it should be.
    None,
}

/// A stack as it should be.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub name: String,
    /// Its template, JSON.
    pub template: String,
    pub parameters: BTreeMap<String, String>,
}

/// One thing that happened to a resource of a stack.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct StackEvent {
    logical_resource_id: String,
    resource_type: String,
    resource_status: String,
    resource_status_reason: String,
}

/// A resource of a stack.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct StackResource {
    /// Its name in the template.
    pub logical_resource_id: String,
    /// What it is called.
    pub physical_resource_id: String,
    /// Its type, `AWS::...`.
    pub resource_type: String,
}

/// The stacks of an engine.
#[derive(Clone)]
pub struct CloudFormation {
    client: Query,
    bucket: Bucket,
    progress: Progress,
    /// Held while a change set is made: LocalStack gives SAM the region in an environment variable of its process, and
    /// removes it when SAM is done, although SAM may be busy with another stack. Engines make one after the other
    /// anyway.
    making: Arc<Mutex<()>>,
}

impl CloudFormation {
    /// In the engine at that endpoint, by way of that bucket.
    pub fn new(endpoint: &str, bucket: Bucket, progress: Progress) -> Self {
        Self { client: Query::new(&sdk_config(endpoint)), bucket, progress, making: Arc::default() }
    }

    /// Creates a stack or brings it up to date. What fails names the stack.
    pub async fn deploy(&self, wanted: &Wanted) -> Result<Change> {
        let stack = One { client: &self.client, name: &wanted.name };
        let deployed = self.deploy_one(&stack, wanted).await;
        deployed.map_err(|error| Error::Deploy(format!("{}: {}", wanted.name, error.chain())))
    }

    async fn deploy_one(&self, stack: &One<'_>, wanted: &Wanted) -> Result<Change> {
        let exists = match stack.status().await?.as_deref() {
            None | Some("REVIEW_IN_PROGRESS") => false,
            // Nothing can be deployed onto a stack whose creation failed.
            Some("ROLLBACK_COMPLETE" | "CREATE_FAILED" | "ROLLBACK_FAILED") => {
                stack.delete().await?;
                false
            }
            Some(_) => true,
        };
        // Longer templates than 51,200 bytes have to come from a bucket; so they all do.
        let key = format!("{}.template.json", wanted.name);
        let url = self.bucket.put(&key, wanted.template.as_bytes().to_vec()).await?;
        let kind = if exists { "UPDATE" } else { "CREATE" };
        let making = self.making.lock().await;
        let made = stack.change_set(kind, &url, &wanted.parameters).await?;
        drop(making);
        let Some((set, changes)) = made else {
            stack.check_pretended().await?;
            return Ok(Change::None);
        };
        (self.progress)(&format!("deploying {} ({changes} changes)", wanted.name));
        let end = stack.execute(&set).await?;
        let change = match end.as_str() {
            "CREATE_COMPLETE" => Change::Created,
            "UPDATE_COMPLETE" => Change::Updated,
            other => return Err(Error::Deploy(format!("the stack is {other}:\n{}", stack.reasons().await?))),
        };
        stack.check_pretended().await?;
        Ok(change)
    }

    /// What a stack consists of.
    pub async fn resources(&self, name: &str) -> Result<Vec<StackResource>> {
        One { client: &self.client, name }.resources().await
    }

    /// The account that a stack is in.
    pub async fn account(&self, name: &str) -> Result<String> {
        let stack = self.client.stack(name).await.map_err(|refused| refused.doing("reading the stack"))?;
        // arn:aws:cloudformation:<region>:<account>:stack/...
        let account = stack["StackId"].as_str().and_then(|arn| arn.split(':').nth(4));
        Ok(account.unwrap_or_default().to_owned())
    }
}

/// When to poll next, and when to give up.
struct Polling {
    until: Instant,
    next: Duration,
}

impl Polling {
    fn new() -> Self {
        Self { until: Instant::now() + DEADLINE, next: FIRST_POLL }
    }

    /// Waits until the next poll. `false`: the time is over.
    async fn pause(&mut self) -> bool {
        sleep(self.next).await;
        self.next = (self.next * 3 / 2).min(LAST_POLL);
        Instant::now() < self.until
    }
}

/// One stack.
struct One<'a> {
    client: &'a Query,
    name: &'a str,
}

impl One<'_> {
    async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Value, Refused> {
        self.client.call(action, &[&[("StackName", self.name)], parameters].concat()).await
    }

    /// Makes a change set and waits for it: its name and how many changes it has. `None`: it has none, and was deleted.
    async fn change_set(
        &self,
        kind: &str,
        template_url: &str,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<(String, usize)>> {
        let name = format!("deploy-{}", epoch_millis());
        let parameters: Vec<(&str, &str)> =
            parameters.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let given = numbered(&parameters);
        let mut form = vec![
            ("ChangeSetName", name.as_str()),
            ("ChangeSetType", kind),
            ("TemplateURL", template_url),
            ("Capabilities.member.1", "CAPABILITY_IAM"),
            ("Capabilities.member.2", "CAPABILITY_NAMED_IAM"),
            ("Capabilities.member.3", "CAPABILITY_AUTO_EXPAND"),
        ];
        form.extend(given.iter().map(|(field, value)| (field.as_str(), *value)));
        self.call("CreateChangeSet", &form).await.map_err(|refused| refused.doing("making the change set"))?;
        if let Some(changes) = self.changes(&name).await? {
            return Ok(Some((name, changes)));
        }
        let deleted = self.call("DeleteChangeSet", &[("ChangeSetName", &name)]).await;
        deleted.map_err(|refused| refused.doing("removing the empty change set"))?;
        Ok(None)
    }

    /// Waits for a change set to be ready. `None`: it holds no changes.
    async fn changes(&self, name: &str) -> Result<Option<usize>> {
        let mut polling = Polling::new();
        loop {
            let set = self.call("DescribeChangeSet", &[("ChangeSetName", name)]).await;
            let set = set.map_err(|refused| refused.doing("reading the change set"))?;
            match set["Status"].as_str().unwrap_or_default() {
                "CREATE_COMPLETE" => return Ok(Some(set["Changes"].as_array().map_or(0, Vec::len))),
                "FAILED" => {
                    let reason = set["StatusReason"].as_str().unwrap_or_default();
                    if reason.contains("didn't contain changes") || reason.contains("No updates") {
                        return Ok(None);
                    }
                    return Err(Error::Deploy(format!("the change set failed: {reason}")));
                }
                _ => {}
            }
            self.go_on(&mut polling, "the change set").await?;
        }
    }

    /// Executes a change set and waits for the stack to come to rest: its status then.
    async fn execute(&self, set: &str) -> Result<String> {
        let executed = self.call("ExecuteChangeSet", &[("ChangeSetName", set)]).await;
        executed.map_err(|refused| refused.doing("executing the change set"))?;
        let mut polling = Polling::new();
        loop {
            if let Some(status) = self.status().await?
                && !status.ends_with("_IN_PROGRESS")
            {
                return Ok(status);
            }
            self.go_on(&mut polling, "the deployment").await?;
        }
    }

    async fn go_on(&self, polling: &mut Polling, what: &str) -> Result<()> {
        if polling.pause().await {
            return Ok(());
        }
        let reasons = self.reasons().await?;
        Err(Error::Deploy(format!("{what} took longer than {} s:\n{reasons}", DEADLINE.as_secs())))
    }

    /// The stack's status, `None` when there is no such stack.
    async fn status(&self) -> Result<Option<String>> {
        match self.client.stack(self.name).await {
            Ok(stack) => Ok(stack["StackStatus"].as_str().map(str::to_owned)),
            Err(refused) if refused.code == "ValidationError" => Ok(None),
            Err(refused) => Err(refused.doing("reading the stack")),
        }
    }

    async fn delete(&self) -> Result<()> {
        let deleted = self.call("DeleteStack", &[]).await;
        deleted.map_err(|refused| refused.doing("removing the failed stack"))?;
        let mut polling = Polling::new();
        while !matches!(self.status().await?.as_deref(), None | Some("DELETE_COMPLETE")) {
            self.go_on(&mut polling, "removing the failed stack").await?;
        }
        Ok(())
    }

    /// What failed in the stack, from its events, first things first.
    async fn reasons(&self) -> Result<String> {
        let went_wrong = |event: &&StackEvent| {
            let status = &event.resource_status;
            status.ends_with("FAILED") || status.contains("ROLLBACK_IN_PROGRESS")
        };
        let mut lines: Vec<String> = self.events().await?.iter().filter(went_wrong).map(line).collect();
        lines.reverse();
        Ok(if lines.is_empty() { "  (no event says why)".to_owned() } else { lines.join("\n") })
    }

    /// The stack's events, newest first.
    async fn events(&self) -> Result<Vec<StackEvent>> {
        self.list("DescribeStackEvents", "StackEvents", "reading the stack's events").await
    }

    async fn resources(&self) -> Result<Vec<StackResource>> {
        self.list("ListStackResources", "StackResourceSummaries", "listing the stack's resources").await
    }

    async fn list<T: DeserializeOwned>(&self, action: &str, list: &str, doing: &str) -> Result<Vec<T>> {
        let members = self.client.list(action, self.name, list).await.map_err(|refused| refused.doing(doing))?;
        let read = members.into_iter().map(serde_json::from_value).collect::<Result<_, _>>();
        read.map_err(|error| Error::Deploy(format!("{doing}: {error}")))
    }

    /// Refuses a stack with resources whose type the engine does not know.
    async fn check_pretended(&self) -> Result<()> {
        let mut events = self.events().await?;
        events.retain(pretends);
        if events.is_empty() {
            return Ok(());
        }
        let lines = pretended(&events, &self.resources().await?);
        if lines.is_empty() {
            return Ok(());
        }
        Err(Error::Deploy(format!("the engine only pretends to have deployed:\n{}", lines.join("\n"))))
    }
}

/// Whether an event is of a resource whose type the engine does not know: LocalStack reports it as complete, and states
/// only here that it made nothing.
fn pretends(event: &StackEvent) -> bool {
    event.resource_status_reason.contains("as a fallback")
}

/// What a stack still has of the resources that were only pretended.
fn pretended(events: &[StackEvent], resources: &[StackResource]) -> Vec<String> {
    let still_there = |event: &&StackEvent| {
        resources.iter().any(|resource| resource.logical_resource_id == event.logical_resource_id)
    };
    let mut lines: Vec<String> = events.iter().filter(still_there).map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// An event with its reason.
fn line(event: &StackEvent) -> String {
    let text_or = |text: &'static str, of: &str| if of.is_empty() { text.to_owned() } else { of.to_owned() };
    format!(
        "  {} ({}): {}",
        text_or("?", &event.logical_resource_id),
        text_or("?", &event.resource_type),
        text_or("no reason given", &event.resource_status_reason)
    )
}

fn epoch_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deployed_as_a_fallback_is_named_while_the_stack_has_it() {
        let event = |name: &str, why: &str| {
            let (logical_resource_id, resource_type) = (name.to_owned(), "AWS::X::Y".to_owned());
            let (resource_status, resource_status_reason) = ("CREATE_COMPLETE".to_owned(), why.to_owned());
            StackEvent { logical_resource_id, resource_type, resource_status, resource_status_reason }
        };
        let why = "Resource type AWS::X::Y is not supported but was deployed as a fallback";
        let mut events = vec![event("Kept", why), event("Kept", why), event("Removed", why), event("Good", "")];
        events.retain(pretends);
        let there = |name: &str| StackResource { logical_resource_id: name.to_owned(), ..Default::default() };
        assert_eq!(pretended(&events, &[there("Kept"), there("Good")]), [format!("  Kept (AWS::X::Y): {why}")]);
    }
}
