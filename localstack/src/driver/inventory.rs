//! Where everything is, read from the resources of a system's stacks.

use crate::driver::cloudformation::{CloudFormation, StackResource};
use crate::engine::Engine;
use crate::engine::info::StackInfo;
use crate::error::Error;
use crate::{ISSUER, REGION, Result};
use std::collections::BTreeMap;
use tokio::task::JoinSet;

/// The content of `stack.json` for a system that consists of these stacks of CloudFormation.
pub async fn read(
    cloudformation: &CloudFormation,
    names: Vec<String>,
    engine: &Engine,
    system: &str,
    sink_url: &str,
    deployed: BTreeMap<String, String>,
) -> Result<StackInfo> {
    let account_id = cloudformation.account(names.first().map_or("", String::as_str)).await?;
    let resources = resources(cloudformation, names).await?;
    let endpoint_url = engine.endpoint_url();
    let named = |kind: &str| by_name(&resources, kind, system);
    Ok(StackInfo {
        engine: engine.kind,
        api_url: api_url(&endpoint_url, &resources),
        endpoint_url,
        sink_url: sink_url.to_owned(),
        region: REGION.to_owned(),
        account_id,
        stack: system.to_owned(),
        pid: engine.pid(),
        tables: named("AWS::DynamoDB::Table"),
        queues: named("AWS::SQS::Queue"),
        state_machines: named("AWS::StepFunctions::StateMachine"),
        functions: named("AWS::Lambda::Function"),
        issuer: ISSUER.to_owned(),
        deployed,
    })
}

/// The resources of the stacks, read side by side.
async fn resources(cloudformation: &CloudFormation, names: Vec<String>) -> Result<Vec<StackResource>> {
    let mut tasks = JoinSet::new();
    for name in names {
        let cloudformation = cloudformation.clone();
        tasks.spawn(async move { cloudformation.resources(&name).await });
    }
    let mut all = Vec::new();
    while let Some(read) = tasks.join_next().await {
        all.extend(read.map_err(|e| Error::Engine(format!("reading the stacks was interrupted: {e}")))??);
    }
    Ok(all)
}

/// The resources of a type: name without the system's prefix -> physical id.
fn by_name(resources: &[StackResource], kind: &str, system: &str) -> BTreeMap<String, String> {
    resources
        .iter()
        .filter(|resource| resource.resource_type == kind)
        .map(|resource| &resource.physical_resource_id)
        .filter(|id| !id.is_empty())
        .map(|id| (short_name(id, system), id.clone()))
        .collect()
}

/// A physical id (a name, a URL or an ARN) without what leads to the name and without the system's prefix.
fn short_name(id: &str, system: &str) -> String {
    let name = id.rsplit([':', '/']).next().unwrap_or(id);
    name.strip_prefix(system).and_then(|rest| rest.strip_prefix('-')).unwrap_or(name).to_owned()
}

/// The API's root, a path of the engine, so that no host name has to resolve. Empty when there is no API.
fn api_url(endpoint: &str, resources: &[StackResource]) -> String {
    let ids = |kind: &'static str| {
        resources
            .iter()
            .filter(move |r| r.resource_type == kind)
            .map(|r| r.physical_resource_id.as_str())
            .filter(|id| !id.is_empty())
    };
    let Some(api) = ids("AWS::ApiGateway::RestApi").next() else { return String::new() };
    // SAM may add a stage of its own, named `Stage`.
    let stages: Vec<&str> = ids("AWS::ApiGateway::Stage").collect();
    let stage = stages.iter().find(|stage| **stage != "Stage").or(stages.first()).copied().unwrap_or_default();
    format!("{endpoint}/_aws/execute-api/{api}/{stage}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: &str, id: &str) -> StackResource {
        let (resource_type, physical_resource_id) = (kind.to_owned(), id.to_owned());
        StackResource { resource_type, physical_resource_id, ..Default::default() }
    }

    #[test]
    fn names_lose_their_place_and_prefix() {
        assert_eq!(short_name("encore-waiting-room", "encore"), "waiting-room");
        assert_eq!(short_name("http://127.0.0.1:1/000000000000/encore-hold-expiry", "encore"), "hold-expiry");
        assert_eq!(short_name("arn:aws:states:us-east-1:0:stateMachine:encore-payment-saga", "encore"), "payment-saga");
        assert_eq!(short_name("encored", "encore"), "encored");
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
