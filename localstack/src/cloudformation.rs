//! Stacks of an engine, one at a time: a change set is made and executed, and what became of it is read.

use crate::bucket::Bucket;
use crate::error::Error;
use crate::info::sdk_config;
use crate::{Progress, Result};
use aws_sdk_cloudformation as cfn;
use cfn::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use cfn::types::{
    Capability, ChangeSetStatus, ChangeSetType, Parameter, ResourceStatus, StackEvent, StackResourceSummary,
    StackStatus,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// How long a change set, and its execution, may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between the first two looks.
const FIRST_POLL: Duration = Duration::from_millis(20);
/// Between two looks at what takes long. Each costs the engine time that it needs for the work that is waited for.
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

/// A stack as CloudFormation is to have it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its template, JSON.
    pub template: String,
    /// The template's parameters.
    pub parameters: BTreeMap<String, String>,
}

/// The stacks of an engine.
#[derive(Clone)]
pub struct CloudFormation {
    client: cfn::Client,
    bucket: Bucket,
    progress: Progress,
    /// Held while a change set is made: LocalStack tells SAM the region in a variable of its process, which it takes away
    /// again when SAM is done, also with another stack. Engines make one after the other anyway.
    making: Arc<Mutex<()>>,
}

impl CloudFormation {
    /// In the engine at that endpoint, by way of that bucket.
    pub fn new(endpoint: &str, bucket: Bucket, progress: Progress) -> Self {
        Self { client: cfn::Client::new(&sdk_config(endpoint)), bucket, progress, making: Arc::default() }
    }

    /// Creates a stack or brings it up to date. What fails names the stack.
    pub async fn deploy(&self, wanted: &Wanted) -> Result<Change> {
        let stack = One { client: &self.client, name: &wanted.name };
        let deployed = self.deploy_one(&stack, wanted).await;
        deployed.map_err(|error| Error::Deploy(format!("{}: {}", wanted.name, error.chain())))
    }

    async fn deploy_one(&self, stack: &One<'_>, wanted: &Wanted) -> Result<Change> {
        let exists = match stack.status().await? {
            None | Some(StackStatus::ReviewInProgress) => false,
            // Nothing can be deployed onto a stack whose creation failed.
            Some(StackStatus::RollbackComplete | StackStatus::CreateFailed | StackStatus::RollbackFailed) => {
                stack.delete().await?;
                false
            }
            Some(_) => true,
        };
        // Longer templates than 51,200 bytes have to come from a bucket; so they all do.
        let key = format!("{}.template.json", wanted.name);
        let url = self.bucket.put(&key, wanted.template.as_bytes().to_vec()).await?;
        let kind = if exists { ChangeSetType::Update } else { ChangeSetType::Create };
        let making = self.making.lock().await;
        let made = stack.change_set(kind, url, &wanted.parameters).await?;
        drop(making);
        let Some((set, changes)) = made else {
            stack.check_pretended().await?;
            return Ok(Change::None);
        };
        (self.progress)(&format!("deploying {} ({changes} changes)", wanted.name));
        let end = stack.execute(&set).await?;
        let change = match end {
            StackStatus::CreateComplete => Change::Created,
            StackStatus::UpdateComplete => Change::Updated,
            other => return Err(Error::Deploy(format!("the stack is {other}:\n{}", stack.reasons().await?))),
        };
        stack.check_pretended().await?;
        Ok(change)
    }

    /// What a stack consists of.
    pub async fn resources(&self, name: &str) -> Result<Vec<StackResourceSummary>> {
        One { client: &self.client, name }.resources().await
    }

    /// The account that a stack is in.
    pub async fn account(&self, name: &str) -> Result<String> {
        let stacks = self.client.describe_stacks().stack_name(name).send().await;
        let stacks = stacks.map_err(|e| failed("reading the stack", e))?;
        // arn:aws:cloudformation:<region>:<account>:stack/...
        let account = stacks.stacks().first().and_then(|stack| stack.stack_id()?.split(':').nth(4));
        Ok(account.unwrap_or_default().to_owned())
    }
}

/// When to look next, and when no more.
struct Patience {
    until: Instant,
    next: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + DEADLINE, next: FIRST_POLL }
    }

    /// Waits until it is time for another look. `false`: there is none.
    async fn pause(&mut self) -> bool {
        sleep(self.next).await;
        self.next = (self.next * 3 / 2).min(LAST_POLL);
        Instant::now() < self.until
    }
}

/// One stack.
struct One<'a> {
    client: &'a cfn::Client,
    name: &'a str,
}

impl One<'_> {
    /// Makes a change set and waits for it: its name and how many changes it has. `None`: none, and it is gone again.
    async fn change_set(
        &self,
        kind: ChangeSetType,
        template_url: String,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Option<(String, usize)>> {
        let parameter = |(key, value)| Parameter::builder().parameter_key(key).parameter_value(value).build();
        let name = format!("deploy-{}", epoch_millis());
        self.client
            .create_change_set()
            .stack_name(self.name)
            .change_set_name(&name)
            .change_set_type(kind)
            .template_url(template_url)
            .capabilities(Capability::CapabilityIam)
            .capabilities(Capability::CapabilityNamedIam)
            .capabilities(Capability::CapabilityAutoExpand)
            .set_parameters(Some(parameters.iter().map(parameter).collect()))
            .send()
            .await
            .map_err(|e| failed("making the change set", e))?;
        if let Some(changes) = self.changes(&name).await? {
            return Ok(Some((name, changes)));
        }
        let deleted = self.client.delete_change_set().stack_name(self.name).change_set_name(&name).send().await;
        deleted.map_err(|e| failed("removing the empty change set", e))?;
        Ok(None)
    }

    /// Waits for a change set to be ready. `None`: it holds no changes.
    async fn changes(&self, name: &str) -> Result<Option<usize>> {
        let mut patience = Patience::new();
        loop {
            let set = self.client.describe_change_set().stack_name(self.name).change_set_name(name).send().await;
            let set = set.map_err(|e| failed("reading the change set", e))?;
            match set.status() {
                Some(ChangeSetStatus::CreateComplete) => return Ok(Some(set.changes().len())),
                Some(ChangeSetStatus::Failed) => {
                    let reason = set.status_reason().unwrap_or_default();
                    if reason.contains("didn't contain changes") || reason.contains("No updates") {
                        return Ok(None);
                    }
                    return Err(Error::Deploy(format!("the change set failed: {reason}")));
                }
                _ => {}
            }
            self.go_on(&mut patience, "the change set").await?;
        }
    }

    /// Executes a change set and waits for the stack to come to rest.
    async fn execute(&self, set: &str) -> Result<StackStatus> {
        let executed = self.client.execute_change_set().stack_name(self.name).change_set_name(set).send().await;
        executed.map_err(|e| failed("executing the change set", e))?;
        let mut patience = Patience::new();
        loop {
            if let Some(status) = self.status().await?
                && !status.as_str().ends_with("_IN_PROGRESS")
            {
                return Ok(status);
            }
            self.go_on(&mut patience, "the deployment").await?;
        }
    }

    async fn go_on(&self, patience: &mut Patience, what: &str) -> Result<()> {
        if patience.pause().await {
            return Ok(());
        }
        let reasons = self.reasons().await?;
        Err(Error::Deploy(format!("{what} took longer than {} s:\n{reasons}", DEADLINE.as_secs())))
    }

    /// The stack's status, `None` when there is no such stack.
    async fn status(&self) -> Result<Option<StackStatus>> {
        match self.client.describe_stacks().stack_name(self.name).send().await {
            Ok(answer) => Ok(answer.stacks().first().and_then(|stack| stack.stack_status().cloned())),
            Err(error) if error.code() == Some("ValidationError") => Ok(None),
            Err(error) => Err(failed("reading the stack", error)),
        }
    }

    async fn delete(&self) -> Result<()> {
        let deleted = self.client.delete_stack().stack_name(self.name).send().await;
        deleted.map_err(|e| failed("removing the failed stack", e))?;
        let mut patience = Patience::new();
        while !matches!(self.status().await?, None | Some(StackStatus::DeleteComplete)) {
            self.go_on(&mut patience, "removing the failed stack").await?;
        }
        Ok(())
    }

    /// What went wrong in the stack, from its events, first things first.
    async fn reasons(&self) -> Result<String> {
        let went_wrong = |event: &&StackEvent| {
            let status = event.resource_status().map(ResourceStatus::as_str).unwrap_or_default();
            status.ends_with("FAILED") || status.contains("ROLLBACK_IN_PROGRESS")
        };
        let mut lines: Vec<String> = self.events().await?.iter().filter(went_wrong).map(line).collect();
        lines.reverse();
        Ok(if lines.is_empty() { "  (no event says why)".to_owned() } else { lines.join("\n") })
    }

    /// The stack's events, newest first.
    async fn events(&self) -> Result<Vec<StackEvent>> {
        let mut events = Vec::new();
        let mut pages = self.client.describe_stack_events().stack_name(self.name).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("reading the stack's events", e))?;
            events.extend(page.stack_events.unwrap_or_default());
        }
        Ok(events)
    }

    async fn resources(&self) -> Result<Vec<StackResourceSummary>> {
        let mut resources = Vec::new();
        let mut pages = self.client.list_stack_resources().stack_name(self.name).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("listing the stack's resources", e))?;
            resources.extend(page.stack_resource_summaries.unwrap_or_default());
        }
        Ok(resources)
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

/// Whether an event is of a resource whose type the engine does not know: LocalStack reports it as complete, and says only
/// here that it made nothing.
fn pretends(event: &StackEvent) -> bool {
    event.resource_status_reason().is_some_and(|why| why.contains("as a fallback"))
}

/// What a stack still has of the resources that were only pretended.
fn pretended(events: &[StackEvent], resources: &[StackResourceSummary]) -> Vec<String> {
    let still_there = |event: &&StackEvent| {
        resources.iter().any(|resource| resource.logical_resource_id() == event.logical_resource_id())
    };
    let mut lines: Vec<String> = events.iter().filter(still_there).map(line).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// An event that says why.
fn line(event: &StackEvent) -> String {
    format!(
        "  {} ({}): {}",
        event.logical_resource_id().unwrap_or("?"),
        event.resource_type().unwrap_or("?"),
        event.resource_status_reason().unwrap_or("no reason given")
    )
}

fn epoch_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()
}

fn failed<E, R>(doing: &str, error: SdkError<E, R>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
    R: std::fmt::Debug + 'static,
{
    // A refusal says what is wrong in its message; of anything else, the whole chain may matter.
    let why = match (error.code(), error.message()) {
        (Some(code), Some(message)) => format!("{message} ({code})"),
        _ => DisplayErrorContext(error).to_string(),
    };
    Error::Deploy(format!("{doing}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_deployed_as_a_fallback_is_named_while_the_stack_has_it() {
        let event = |name: &str, why: &str| {
            let event = StackEvent::builder().logical_resource_id(name).resource_type("AWS::X::Y");
            event.resource_status(ResourceStatus::CreateComplete).resource_status_reason(why).build()
        };
        let why = "Resource type AWS::X::Y is not supported but was deployed as a fallback";
        let mut events = vec![event("Kept", why), event("Kept", why), event("Removed", why), event("Good", "")];
        events.retain(pretends);
        let there = |name: &str| StackResourceSummary::builder().logical_resource_id(name).build();
        assert_eq!(pretended(&events, &[there("Kept"), there("Good")]), [format!("  Kept (AWS::X::Y): {why}")]);
    }
}
