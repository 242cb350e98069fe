//! Puts the template into the engine by CloudFormation change sets, and reads back where everything is.

use crate::artifacts::Package;
use crate::engine::Engine;
use crate::error::{AtPath, Error};
use crate::http::Client;
use crate::info::{StackInfo, sdk_config};
use crate::{ISSUER, Progress, REGION, Result};
use ::http::Method;
use aws_sdk_cloudformation as cfn;
use cfn::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use cfn::types::{
    Capability, ChangeSetStatus, ChangeSetType, Parameter, ResourceStatus, StackEvent, StackResourceSummary,
    StackStatus,
};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How long a change set, and its execution, may take.
const DEADLINE: Duration = Duration::from_secs(180);
/// Between two looks.
const POLL: Duration = Duration::from_millis(50);

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

/// Deploys to one engine.
pub struct Deployer<'a> {
    endpoint: String,
    stack: &'a str,
    client: cfn::Client,
    http: Client,
    progress: &'a Progress,
}

impl<'a> Deployer<'a> {
    /// For the stack of that name in that engine.
    pub fn new(endpoint_url: String, stack: &'a str, progress: &'a Progress) -> Self {
        let client = cfn::Client::new(&sdk_config(&endpoint_url));
        Self { endpoint: endpoint_url, stack, client, http: Client::new(), progress }
    }

    /// The bucket of the packages.
    pub fn bucket(&self) -> String {
        format!("{}-packages", self.stack.to_lowercase())
    }

    /// Uploads what is not there yet.
    pub async fn upload(&self, packages: &[Package]) -> Result<()> {
        self.store(Method::PUT, "", Vec::new(), &[200, 409]).await?;
        for package in packages {
            let key = package.key();
            if self.store(Method::HEAD, &key, Vec::new(), &[200, 404]).await? == 404 {
                let content = fs::read(&package.path).at("reading", &package.path)?;
                self.store(Method::PUT, &key, content, &[200]).await?;
            }
        }
        Ok(())
    }

    /// One call to the packages' bucket. Says which of the expected statuses came.
    async fn store(&self, method: Method, key: &str, body: Vec<u8>, expected: &[u16]) -> Result<u16> {
        let url = format!("{}/{}/{key}", self.endpoint, self.bucket());
        let answer = self.http.send(method, &url, &[("authorization", &authorization("s3"))], body).await?;
        let status = answer.status.as_u16();
        if expected.contains(&status) {
            return Ok(status);
        }
        Err(Error::Deploy(format!("{url}: {status} {}", answer.text())))
    }

    /// Keeps the functions' secrets where they read them. They are outside the template, as on AWS.
    pub async fn keep_secrets(&self, documents: &BTreeMap<String, serde_json::Value>) -> Result<()> {
        let ssm = aws_sdk_ssm::Client::new(&sdk_config(&self.endpoint));
        for (name, document) in documents {
            let put = ssm.put_parameter().name(name).value(document.to_string());
            let put = put.r#type(aws_sdk_ssm::types::ParameterType::SecureString).overwrite(true).send().await;
            put.map_err(|e| Error::Deploy(format!("keeping {name}: {}", DisplayErrorContext(&e))))?;
        }
        Ok(())
    }

    /// Creates the stack or brings it up to date.
    pub async fn deploy(&self, template: &str, parameters: &BTreeMap<String, String>) -> Result<Change> {
        let exists = match self.status().await? {
            None | Some(StackStatus::ReviewInProgress) => false,
            // Nothing can be deployed onto a stack whose creation failed.
            Some(StackStatus::RollbackComplete | StackStatus::CreateFailed | StackStatus::RollbackFailed) => {
                self.delete().await?;
                false
            }
            Some(_) => true,
        };
        // Longer templates than 51,200 bytes have to come from a bucket; so they all do.
        self.store(Method::PUT, "template.json", template.as_bytes().to_vec(), &[200]).await?;
        let name = format!("deploy-{}", epoch_millis());
        self.client
            .create_change_set()
            .stack_name(self.stack)
            .change_set_name(&name)
            .change_set_type(if exists { ChangeSetType::Update } else { ChangeSetType::Create })
            .template_url(format!("{}/{}/template.json", self.endpoint, self.bucket()))
            .capabilities(Capability::CapabilityIam)
            .capabilities(Capability::CapabilityNamedIam)
            .capabilities(Capability::CapabilityAutoExpand)
            .set_parameters(Some(
                parameters
                    .iter()
                    .map(|(key, value)| Parameter::builder().parameter_key(key).parameter_value(value).build())
                    .collect(),
            ))
            .send()
            .await
            .map_err(|e| failed("making the change set", e))?;
        let Some(changes) = self.change_set(&name).await? else {
            let deleted = self.client.delete_change_set().stack_name(self.stack).change_set_name(&name).send().await;
            deleted.map_err(|e| failed("removing the empty change set", e))?;
            return Ok(Change::None);
        };
        (self.progress)(&format!("deploying {} ({changes} changes)", self.stack));
        self.client
            .execute_change_set()
            .stack_name(self.stack)
            .change_set_name(&name)
            .send()
            .await
            .map_err(|e| failed("executing the change set", e))?;
        let end = self.end().await?;
        match end {
            StackStatus::CreateComplete => Ok(Change::Created),
            StackStatus::UpdateComplete => Ok(Change::Updated),
            other => Err(Error::Deploy(format!("the stack {} is {other}:\n{}", self.stack, self.reasons().await?))),
        }
    }

    /// Waits for a change set to be ready. `None`: it holds no changes.
    async fn change_set(&self, name: &str) -> Result<Option<usize>> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let set = self.client.describe_change_set().stack_name(self.stack).change_set_name(name).send().await;
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
            self.pause(deadline, "the change set").await?;
        }
    }

    /// Waits for the stack to come to rest.
    async fn end(&self) -> Result<StackStatus> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.status().await?
                && !status.as_str().ends_with("_IN_PROGRESS")
            {
                return Ok(status);
            }
            self.pause(deadline, "the deployment").await?;
        }
    }

    async fn pause(&self, deadline: Instant, what: &str) -> Result<()> {
        if Instant::now() > deadline {
            let reasons = self.reasons().await?;
            return Err(Error::Deploy(format!("{what} took longer than {} s:\n{reasons}", DEADLINE.as_secs())));
        }
        sleep(POLL).await;
        Ok(())
    }

    /// The stack's status, `None` when there is no such stack.
    async fn status(&self) -> Result<Option<StackStatus>> {
        match self.client.describe_stacks().stack_name(self.stack).send().await {
            Ok(answer) => Ok(answer.stacks().first().and_then(|stack| stack.stack_status().cloned())),
            Err(error) if error.code() == Some("ValidationError") => Ok(None),
            Err(error) => Err(failed("reading the stack", error)),
        }
    }

    async fn delete(&self) -> Result<()> {
        let deleted = self.client.delete_stack().stack_name(self.stack).send().await;
        deleted.map_err(|e| failed("removing the failed stack", e))?;
        let deadline = Instant::now() + DEADLINE;
        while !matches!(self.status().await?, None | Some(StackStatus::DeleteComplete)) {
            self.pause(deadline, "removing the failed stack").await?;
        }
        Ok(())
    }

    /// What went wrong in the stack, from its events, first things first.
    async fn reasons(&self) -> Result<String> {
        let mut lines: Vec<String> = self
            .events()
            .await?
            .iter()
            .filter(|event| {
                let status = event.resource_status().map(ResourceStatus::as_str).unwrap_or_default();
                status.ends_with("FAILED") || status.contains("ROLLBACK_IN_PROGRESS")
            })
            .map(line)
            .collect();
        lines.reverse();
        Ok(if lines.is_empty() { "  (no event says why)".to_owned() } else { lines.join("\n") })
    }

    /// The stack's events, newest first.
    async fn events(&self) -> Result<Vec<StackEvent>> {
        let mut events = Vec::new();
        let mut pages = self.client.describe_stack_events().stack_name(self.stack).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("reading the stack's events", e))?;
            events.extend(page.stack_events.unwrap_or_default());
        }
        Ok(events)
    }

    /// Where everything is.
    pub async fn describe(&self, engine: &Engine, sink_url: &str, deployed: String) -> Result<StackInfo> {
        let mut resources = Vec::new();
        let mut pages = self.client.list_stack_resources().stack_name(self.stack).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| failed("listing the stack's resources", e))?;
            resources.extend(page.stack_resource_summaries.unwrap_or_default());
        }
        let pretended = pretended(&self.events().await?, &resources);
        if !pretended.is_empty() {
            let pretended = pretended.join("\n");
            return Err(Error::Deploy(format!("the engine only pretends to have deployed:\n{pretended}")));
        }
        let stacks = self.client.describe_stacks().stack_name(self.stack).send().await;
        let stacks = stacks.map_err(|e| failed("reading the stack", e))?;
        // arn:aws:cloudformation:<region>:<account>:stack/...
        let account = stacks.stacks().first().and_then(|stack| stack.stack_id()?.split(':').nth(4)).unwrap_or_default();
        let named = |kind: &str| by_name(&resources, kind, self.stack);
        Ok(StackInfo {
            engine: engine.kind,
            endpoint_url: self.endpoint.clone(),
            api_url: api_url(&self.endpoint, &resources),
            sink_url: sink_url.to_owned(),
            region: REGION.to_owned(),
            account_id: account.to_owned(),
            stack: self.stack.to_owned(),
            pid: engine.pid(),
            tables: named("AWS::DynamoDB::Table"),
            queues: named("AWS::SQS::Queue"),
            state_machines: named("AWS::StepFunctions::StateMachine"),
            functions: named("AWS::Lambda::Function"),
            issuer: ISSUER.to_owned(),
            deployed,
        })
    }
}

/// What the stack has of resources whose type the engine does not know: LocalStack reports them as complete, and says
/// only in an event that it made nothing.
fn pretended(events: &[StackEvent], resources: &[StackResourceSummary]) -> Vec<String> {
    let still_there = |event: &StackEvent| {
        resources.iter().any(|resource| resource.logical_resource_id() == event.logical_resource_id())
    };
    let says_so = |event: &&StackEvent| event.resource_status_reason().is_some_and(|why| why.contains("as a fallback"));
    let mut lines: Vec<String> = events.iter().filter(says_so).filter(|event| still_there(event)).map(line).collect();
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

/// The resources of a type: name without the stack's prefix -> physical id.
fn by_name(resources: &[StackResourceSummary], kind: &str, stack: &str) -> BTreeMap<String, String> {
    resources
        .iter()
        .filter(|resource| resource.resource_type() == Some(kind))
        .filter_map(|resource| resource.physical_resource_id())
        .map(|id| (short_name(id, stack), id.to_owned()))
        .collect()
}

/// A physical id (a name, a URL or an ARN) without what leads to the name and without the stack's prefix.
fn short_name(id: &str, stack: &str) -> String {
    let name = id.rsplit([':', '/']).next().unwrap_or(id);
    name.strip_prefix(stack).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name).to_owned()
}

/// The API's root, a path of the engine, so that no host name has to resolve. Empty when there is no API.
fn api_url(endpoint: &str, resources: &[StackResourceSummary]) -> String {
    let ids = |kind: &'static str| {
        resources.iter().filter(move |r| r.resource_type() == Some(kind)).filter_map(|r| r.physical_resource_id())
    };
    let Some(api) = ids("AWS::ApiGateway::RestApi").next() else { return String::new() };
    // SAM may add a stage of its own, named `Stage`.
    let stages: Vec<&str> = ids("AWS::ApiGateway::Stage").collect();
    let stage = stages.iter().find(|stage| **stage != "Stage").or(stages.first()).copied().unwrap_or_default();
    format!("{endpoint}/_aws/execute-api/{api}/{stage}")
}

/// Not a signature, which a local engine does not check, but the place from which it takes the region and the account.
pub fn authorization(service: &str) -> String {
    format!(
        "AWS4-HMAC-SHA256 Credential=test/20260101/{REGION}/{service}/aws4_request, SignedHeaders=host, Signature=0"
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

    fn resource(kind: &str, id: &str) -> StackResourceSummary {
        StackResourceSummary::builder().resource_type(kind).physical_resource_id(id).build()
    }

    #[test]
    fn names_lose_their_place_and_prefix() {
        assert_eq!(short_name("encore-waiting-room", "encore"), "waiting-room");
        assert_eq!(short_name("http://127.0.0.1:1/000000000000/encore-hold-expiry", "encore"), "hold-expiry");
        assert_eq!(short_name("arn:aws:states:us-east-1:0:stateMachine:encore-payment-saga", "encore"), "payment-saga");
        assert_eq!(short_name("encored", "encore"), "encored");
    }

    #[test]
    fn what_was_deployed_as_a_fallback_is_named_while_the_stack_has_it() {
        let event = |name: &str, why: &str| {
            let event = StackEvent::builder().logical_resource_id(name).resource_type("AWS::X::Y");
            event.resource_status(ResourceStatus::CreateComplete).resource_status_reason(why).build()
        };
        let why = "Resource type AWS::X::Y is not supported but was deployed as a fallback";
        let events = [event("Kept", why), event("Kept", why), event("Removed", why), event("Good", "")];
        let there = |name: &str| StackResourceSummary::builder().logical_resource_id(name).build();
        assert_eq!(pretended(&events, &[there("Kept"), there("Good")]), [format!("  Kept (AWS::X::Y): {why}")]);
    }

    #[test]
    fn the_api_is_reached_by_path() {
        let resources = [
            resource("AWS::ApiGateway::RestApi", "abc"),
            resource("AWS::ApiGateway::Stage", "Stage"),
            resource("AWS::ApiGateway::Stage", "v1"),
        ];
        assert_eq!(api_url("http://127.0.0.1:1", &resources), "http://127.0.0.1:1/_aws/execute-api/abc/v1");
        assert_eq!(api_url("http://127.0.0.1:1", &[]), "");
    }
}
