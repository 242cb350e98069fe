//! A system is several stacks: which of them a deployment takes, in which order, and what becomes of the others.

use crate::stages::{self, tools};
use crate::{Account, ISSUER, JWKS, Said, Scratch, block_on, run};
use http::Method;
use local::http::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Whether the parts are said one after the other.
pub fn in_order(said: &Said, parts: &[&str]) {
    let mut rest = said.text.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("`{part}` is not said in its turn: {}", said.text) };
        rest = &rest[at + part.len()..];
    }
}

impl Account {
    /// Everything that CloudFormation has to tell of each stack of the stage `dev`.
    async fn events(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        for stack in self.statuses().await.into_keys() {
            let events = self.cloudformation().describe_stack_events().stack_name(format!("encore-dev-{stack}"));
            let events = events.into_paginator().items().send().try_collect().await.unwrap();
            found.insert(stack, events.iter().map(|event| event.event_id().unwrap().to_owned()).collect());
        }
        found
    }

    /// The stacks of which there is something new to tell.
    async fn touched(&self, before: &BTreeMap<String, Vec<String>>) -> Vec<String> {
        let now = self.events().await;
        now.into_iter().filter(|(stack, events)| before.get(stack) != Some(events)).map(|(stack, _)| stack).collect()
    }

    /// What the API of the stage `dev` answers a `GET`, status and problem code.
    async fn get(&self, path: &str) -> (u16, Value) {
        let api = self.scratch.json("deploy/dev.json")["outputs"]["ApiId"].as_str().unwrap().to_owned();
        let url = format!("{}/_aws/execute-api/{api}/dev/{path}", self.stack.info().endpoint_url);
        let answer = Client::new().send(Method::GET, &url, &[], Vec::new()).await.unwrap();
        (answer.status.as_u16(), answer.json()["code"].clone())
    }
}

/// Which stacks a deployment takes of those of the workspace.
fn chosen(named: &[&str], deployed: &[&str], served: &[&str]) -> Vec<String> {
    let call = format!("System.read().chosen({}, {}, lambda: {})", json!(named), json!(deployed), json!(served));
    let found = tools(&format!("from delivery.system import System\nprint(json.dumps({call}))"));
    serde_json::from_value(found).unwrap()
}

#[test]
fn a_deployment_takes_what_is_named_what_that_needs_and_the_api_for_new_routes() {
    let every: Vec<String> = stages::stacks().into_iter().collect();
    let every: Vec<&str> = every.iter().map(String::as_str).collect();
    let all = chosen(&[], &[], &[]);
    assert_eq!(all.len(), every.len());
    assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), ("platform", "edge"));
    assert_eq!(chosen(&[], &every, &every), all);

    assert_eq!(chosen(&["items"], &every, &every), ["items"]);
    assert_eq!(chosen(&["waiting-room"], &[], &[]), ["platform", "waiting-room", "edge"]);
    assert_eq!(chosen(&["points"], &["platform", "waiting-room", "edge"], &["waiting-room"]), ["points", "edge"]);
    // It reads the stream of the other's table.
    assert_eq!(chosen(&["concerts"], &["platform", "edge"], &[]), ["reservations", "concerts", "edge"]);
    assert_eq!(chosen(&["edge"], &[], &[]), ["platform", "edge"]);
    assert_eq!(chosen(&["platform"], &[], &[]), ["platform"]);
    // A deployment before this one made the context and did not come to the API.
    assert_eq!(chosen(&["points"], &["platform", "points", "items", "edge"], &["items"]), ["points", "edge"]);
    assert_eq!(chosen(&["points"], &["platform", "points"], &[]), ["points", "edge"]);
    // Nobody asks it anything.
    assert_eq!(chosen(&["notifications"], &every, &["items"]), ["notifications"]);
}

#[test]
fn stacks_that_cannot_be_put_in_an_order_are_refused_with_their_names() {
    let scratch = Scratch::new();
    let needs = |before: &'static str, after: &'static str| move |text: String| text.replace(before, after);
    let refused = |why: &[&str]| run("deploy", &scratch, &["dev", "--dry-run"]).has(false, why);
    scratch.change("stacks/items.yaml", needs("Needs: [platform]", "Needs: [platform, edge]"));
    refused(&["waits for", "items", "edge"]);
    scratch.change("stacks/items.yaml", needs("Needs: [platform, edge]", "Needs: [cellar]"));
    refused(&["infra/stacks/items.yaml", "cellar"]);
    scratch.change("stacks/items.yaml", needs("Stack: items", "Stack: points"));
    refused(&["infra/stacks/items.yaml", "points"]);
    run("deploy", &Scratch::new(), &["dev", "item", "--dry-run"]).has(false, &["no stack item; there are platform, "]);
}

#[test]
fn a_template_that_cloudformation_would_refuse_is_refused_before_anybody_is_asked() {
    let scratch = Scratch::new();
    let broken = "\n  Broken:\n    Type: AWS::SSM::Parameter\n    Properties: { Type: String, Value: !Ref Nothing }\n";
    scratch.change("stacks/items.yaml", |text| text + broken);
    run("deploy", &scratch, &["dev", "--dry-run"]).has(false, &["items", "Nothing", "the templates are not valid"]);
}

#[test]
fn a_context_is_deployed_alone_and_a_new_alarm_text_publishes_nothing_elsewhere() {
    block_on(async {
        let account = Account::open().await;
        account.deploy(&["--yes", "--parameter", JWKS, "--parameter", ISSUER]).has(true, &[]);

        let before = account.events().await;
        account
            .scratch
            .change("stacks/items.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        // Changed, too, but not asked for.
        account
            .scratch
            .change("stacks/orders.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        account.deploy(&["items", "--yes"]).has(true, &["items: 1 to modify", "AWS::CloudWatch::Alarm"]);
        assert_eq!(account.touched(&before).await, ["items"]);

        // Asked for all, those change that have something to change: no other runs another version, or a canary for it.
        let before = account.events().await;
        let said = account.deploy(&["--yes"]);
        said.has(true, &["orders: 1 to modify", "unchanged: platform, items, notifications, payments, points"]);
        assert_eq!(account.touched(&before).await, ["orders"]);

        // Where the money is, a new text is another release, of that stack alone.
        let releases = async || {
            let of = async |stack| account.parameter(stack, "Release").await;
            (of("points").await, of("payments").await)
        };
        let (points, payments) = releases().await;
        account
            .scratch
            .change("stacks/points.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        account.deploy(&["--yes"]).has(true, &["points: "]);
        let (new, same) = releases().await;
        assert!(new != points && same == payments);

        account
            .deploy(&["items", "--yes", "--parameter", "LogLevel=warn"])
            .has(true, &["LogLevel changes in the named stacks only", "orders, ", "would go on with the old value"]);
        account.stack.stop().await.unwrap();
    });
}

#[test]
fn the_waiting_room_is_deployed_alone_and_others_join_it_later() {
    block_on(async {
        let account = Account::open().await;
        let first = ["waiting-room", "--yes", "--parameter", JWKS, "--parameter", ISSUER];
        let said = account.deploy(&first);
        said.has(true, &["made /encore-dev/queue-token-keys", "edge: new stack", "NotionUrl is given, and no stack"]);
        // What takes no part asks for nothing.
        assert!(!said.text.contains("/encore-dev/notion"), "{}", said.text);
        let there = account.statuses().await.into_keys().collect::<Vec<_>>();
        assert_eq!(there, ["edge", "platform", "waiting-room"]);
        assert_eq!(account.scratch.json("deploy/dev.json")["tables"], json!(["encore-dev-waiting-room"]));
        // The programs are stand-ins that nothing comes of: a route is there when it is not unknown.
        let unknown = (404, json!("not_found"));
        let queue = "queue-status";
        assert_eq!(account.get("orders").await, unknown);
        assert_eq!(account.get("points").await, unknown);
        assert_ne!(account.get(queue).await, unknown);

        // What was given once is the same for whoever joins, and what is served stays so.
        account.deploy(&["points", "--yes"]).has(true, &["points: new stack", "edge: ", "to modify"]);
        let jwks = JWKS.strip_prefix("UserJwks=").unwrap();
        assert_eq!(account.parameter("points", "UserJwks").await, jwks);
        assert_ne!(account.get("points").await, unknown);
        assert_ne!(account.get(queue).await, unknown);
        assert_eq!(account.get("orders").await, unknown);

        let rotate = ["--yes", "--rotate-queue-token-keys", "add"];
        account.deploy(&[&["waiting-room"], &rotate[..]].concat()).has(true, &["changed /encore-dev/queue-token-keys"]);
        account.deploy(&["reservations", "--yes"]).has(true, &["reservations: new stack"]);
        account.deploy(&[&["waiting-room"], &rotate[..]].concat()).has(false, &["together: name reservations, too"]);
        let keys = r#"QueueTokenKeys={"current":"a","keys":[]}"#;
        account.deploy(&["reservations", "--yes", "--parameter", keys]).has(false, &["name waiting-room, too"]);
        account
            .deploy(&[&["waiting-room", "reservations"], &rotate[..]].concat())
            .has(true, &["changed /encore-dev/queue"]);

        let other = r#"UserJwks={"keys":[{"kid":"k2","alg":"RS256"}]}"#;
        account
            .deploy(&["points", "--yes", "--parameter", other])
            .has(true, &["UserJwks changes in the named stacks only; reservations, waiting-room"]);
        account.deploy(&["points", "waiting-room", "--yes"]).has(false, &["UserJwks is not the same in"]);

        account.run("destroy", &["dev", "--confirm", "dev"]).has(true, &["deleting encore-dev-edge"]);
        assert!(account.statuses().await.is_empty());
        account.stack.stop().await.unwrap();
    });
}

#[test]
fn a_stack_that_fails_is_named_the_others_come_to_their_end_and_the_same_command_goes_on() {
    block_on(async {
        let account = Account::open().await;
        let broken = "
  Broken:
    Type: AWS::SSM::Parameter
    Properties: { Type: String, Value: \"{{resolve:ssm:/encore-dev/nothing}}\" }
";
        account.scratch.change("stacks/items.yaml", |text| text + broken);
        let said = account.deploy(&["items", "points", "--yes", "--parameter", JWKS, "--parameter", ISSUER]);
        let told = [
            "1 of 4 stacks failed",
            "platform: done",
            "items: failed: the stack encore-dev-items is ROLLBACK_COMPLETE",
        ];
        said.has(false, &[&told[..], &["Broken (AWS::SSM::Parameter)", "points: done", "edge: not begun"]].concat());
        assert_eq!(account.statuses().await["points"], "CREATE_COMPLETE");
        assert!(!account.statuses().await.contains_key("edge"));

        let nothing = account.ssm().put_parameter().name("/encore-dev/nothing").value("something");
        nothing.r#type(aws_sdk_ssm::types::ParameterType::String).send().await.unwrap();
        let before = account.events().await;
        let said = account.deploy(&["items", "points", "--yes"]);
        said.has(true, &["items: new stack", "unchanged: points", "edge: new stack"]);
        assert_eq!(account.touched(&before).await, ["edge", "items"]);

        // The same on the way from one version to the next: what would have come after is not begun, and forgotten.
        account.scratch.change("stacks/platform.yaml", |text| text + &broken.replace("nothing", "nowhere"));
        account
            .scratch
            .change("stacks/points.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        let said = account.deploy(&["platform", "points", "--yes"]);
        said.has(
            false,
            &["platform: failed: the stack encore-dev-platform is UPDATE_ROLLBACK_COMPLETE", "points: not begun"],
        );
        assert!(account.change_sets("points").await.is_empty(), "a change set is left");
        account.stack.stop().await.unwrap();
    });
}
