//! A system is several stacks: which of them a deployment takes, in which order, and what happens to the others.

use crate::stages::{self, tools};
use crate::{Account, ISSUER, JWKS, Run, Scratch, block_on, run};
use http::Method;
use local::http::Client;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// For a waiting room without reservations.
const NOBODY: &str = "AdmissionEnforcedBy=nobody";

/// Asserts that the parts are printed one after the other.
pub fn in_order(output: &Run, parts: &[&str]) {
    let mut rest = output.text.as_str();
    for part in parts {
        let Some(at) = rest.find(part) else { panic!("`{part}` is not said in its turn: {}", output.text) };
        rest = &rest[at + part.len()..];
    }
}

impl Account {
    /// All events that CloudFormation has of each stack of the stage `dev`.
    async fn events(&self) -> BTreeMap<String, Vec<String>> {
        let mut found = BTreeMap::new();
        for stack in self.statuses().await.into_keys() {
            let name = format!("encore-dev-{stack}");
            let events = self.cloudformation().list("DescribeStackEvents", &name, "StackEvents").await.unwrap();
            let id = |event: &Value| event["EventId"].as_str().unwrap().to_owned();
            found.insert(stack, events.iter().map(id).collect());
        }
        found
    }

    /// The stacks with new events.
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

/// Which stacks of the workspace a deployment takes, whose API has the routes of `served` as they are now.
fn chosen(named: &[&str], deployed: &[&str], served: &[&str]) -> Vec<String> {
    let routes = format!("{{name: of for name, of in system.routes().items() if name in {}}}", json!(served));
    serde_json::from_value(choice(named, deployed, &routes)).unwrap()
}

/// The same, with the deployed API's routes as Python writes them; the refusal, otherwise.
fn choice(named: &[&str], deployed: &[&str], routes: &str) -> Value {
    tools(&format!(
        "from delivery.environment import Refused
from delivery.system import System
system, deployed = System.read(), {}
routes = {routes}
try:
    chosen = system.chosen({}, deployed, lambda: routes)
    system.refuse_routes(chosen, deployed, routes)
    print(json.dumps(chosen))
except Refused as refused:
    print(json.dumps(str(refused)))",
        json!(deployed),
        json!(named),
    ))
}

#[test]
fn a_deployment_takes_what_is_named_what_that_needs_the_platform_and_the_api_for_new_routes() {
    let every: Vec<String> = stages::stacks().into_iter().collect();
    let every: Vec<&str> = every.iter().map(String::as_str).collect();
    let all = chosen(&[], &[], &[]);
    assert_eq!(all.len(), every.len());
    assert_eq!((all[0].as_str(), all[all.len() - 1].as_str()), ("platform", "edge"));
    assert_eq!(chosen(&[], &every, &every), all);

    // The boundary covers each context, and the alarms that canaries watch exist.
    assert_eq!(chosen(&["items"], &every, &every), ["platform", "items"]);
    assert_eq!(chosen(&["waiting-room"], &[], &[]), ["platform", "waiting-room", "edge"]);
    let there = ["platform", "waiting-room", "edge"];
    assert_eq!(chosen(&["points"], &there, &["waiting-room"]), ["platform", "points", "edge"]);
    // It reads the stream of the other's table.
    let with_its_need = ["platform", "reservations", "concerts", "edge"];
    assert_eq!(chosen(&["concerts"], &["platform", "edge"], &[]), with_its_need);
    assert_eq!(chosen(&["edge"], &["platform", "items"], &["items"]), ["edge"]);
    assert_eq!(chosen(&["platform"], &[], &[]), ["platform"]);
    assert_eq!(chosen(&["platform"], &every, &[]), ["platform"]);
    // A deployment before this one made the context and did not get to the API.
    let there = ["platform", "points", "items", "edge"];
    assert_eq!(chosen(&["points"], &there, &["items"]), ["platform", "points", "edge"]);
    assert_eq!(chosen(&["points"], &["platform", "points"], &[]), ["platform", "points", "edge"]);
    // The API calls none of its functions.
    assert_eq!(chosen(&["notifications"], &every, &["items"]), ["platform", "notifications"]);
}

#[test]
fn the_api_goes_along_when_routes_changed_and_never_changes_those_of_a_context_that_does_not() {
    let every = json!(stages::stacks());
    let every: Vec<&str> = every.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    let with = |context: &str, routes: &str| format!("{{**system.routes(), '{context}': {routes}}}");
    let less = |context: &str| with(context, &format!("{{*sorted(system.routes()['{context}'])[1:]}}"));
    // A new route; and one that has called a function of another name until now.
    assert_eq!(choice(&["items"], &every, &less("items")), json!(["platform", "items", "edge"]));
    let renamed = "{(method, path, uri.replace('get-item', 'show-item'))
        for method, path, uri in system.routes()['items']}";
    assert_eq!(choice(&["items"], &every, &with("items", renamed)), json!(["platform", "items", "edge"]));
    // Of a context that is not named, and that the sources do not have any more.
    assert_eq!(choice(&["items"], &every, &less("orders")), json!(["platform", "items"]));
    assert_eq!(choice(&["edge"], &every, &with("cellar", "{('get', '/cellar', '')}")), json!(["edge"]));

    let orders = "edge would change the routes of orders, too: name it, too";
    assert_eq!(choice(&["edge"], &every, &less("orders")), orders);
    let both = "{**system.routes(), 'items': set(), 'orders': set()}";
    assert_eq!(choice(&["items"], &every, both), orders);
    assert_eq!(choice(&["items", "orders"], &every, both), json!(["platform", "items", "orders", "edge"]));
    assert_eq!(choice(&["edge"], &every, both), "edge would change the routes of items, orders, too: name them, too");
    // The API has nothing to change for contexts that are not deployed.
    let part = ["platform", "items", "edge"];
    assert_eq!(choice(&["items"], &part, &less("items")), json!(["platform", "items", "edge"]));

    let none = "edge would be an API without routes, which API Gateway refuses: name a context that has some, too";
    assert_eq!(choice(&["edge"], &[], "{}"), none);
    assert_eq!(choice(&["edge", "notifications"], &["platform"], "{}"), none);
    assert_eq!(choice(&["edge", "items"], &[], "{}"), json!(["platform", "items", "edge"]));
}

#[test]
fn a_context_may_have_a_digit_in_its_name() {
    let packages = tools(
        "from delivery.template import Template
uri = 's3://encore-packages/box2-0123456789abcdef.zip'
print(json.dumps(Template('Resources: {F: {Type: T, Properties: {CodeUri: ' + uri + '}}}').packages()))",
    );
    assert_eq!(packages, json!({ "box2": "box2-0123456789abcdef.zip" }));
}

#[test]
fn a_dry_run_prints_what_goes_along() {
    let scratch = Scratch::new();
    run("deploy", &scratch, &["dev", "items", "--dry-run"])
        .has(true, &["stacks: platform, items; if they are not there or routes change: edge"]);
    run("deploy", &scratch, &["dev", "waiting-room", "--dry-run", "--parameter", NOBODY]).has(true, &[]);
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
fn a_template_that_cloudformation_would_refuse_is_refused_before_any_call() {
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
        // Changed, too, but not named.
        account
            .scratch
            .change("stacks/orders.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        let output = account.deploy(&["items", "--yes"]);
        output.has(true, &["items: 1 to modify", "AWS::CloudWatch::Alarm", "unchanged: platform"]);
        assert_eq!(account.touched(&before).await, ["items"]);

        // All are named; those change that have something to change: no other runs another version, or a canary for it.
        let before = account.events().await;
        let output = account.deploy(&["--yes"]);
        output.has(true, &["orders: 1 to modify", "unchanged: platform, items, notifications, "]);
        assert_eq!(account.touched(&before).await, ["orders"]);

        // For the money path, a new text is another release, of that stack alone.
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
        account.deploy(&["edge", "--yes"]).has(false, &["edge would be an API without routes"]);
        let first = ["waiting-room", "--yes", "--parameter", JWKS, "--parameter", ISSUER, "--parameter", NOBODY];
        let output = account.deploy(&first);
        output.has(true, &["made /encore-dev/queue-token-keys", "edge: new stack", "NotionUrl is given, and no stack"]);
        // Stacks that are not deployed ask for no secrets.
        assert!(!output.text.contains("/encore-dev/notion"), "{}", output.text);
        let there = account.statuses().await.into_keys().collect::<Vec<_>>();
        assert_eq!(there, ["edge", "platform", "waiting-room"]);
        assert_eq!(account.scratch.json("deploy/dev.json")["tables"], json!(["encore-dev-waiting-room"]));
        // The stand-in programs answer nothing: a route exists when it is not unknown.
        let unknown = (404, json!("not_found"));
        let queue = "queue-status";
        assert_eq!(account.get("orders").await, unknown);
        assert_eq!(account.get("points").await, unknown);
        assert_ne!(account.get(queue).await, unknown);

        // A given value is the same for stacks that are added later, and what is served stays so.
        account.deploy(&["points", "--yes"]).has(true, &["points: new stack", "edge: ", "to modify"]);
        let jwks = JWKS.strip_prefix("UserJwks=").unwrap();
        assert_eq!(account.parameter("points", "UserJwks").await, jwks);
        assert_ne!(account.get("points").await, unknown);
        assert_ne!(account.get(queue).await, unknown);
        assert_eq!(account.get("orders").await, unknown);

        // Seats would be sold past the plan that the waiting room takes for enforced.
        account
            .deploy(&["reservations", "--yes"])
            .has(false, &["AdmissionEnforcedBy=nobody", "name waiting-room, too"]);
        let rotate = ["--yes", "--rotate-queue-token-keys", "add"];
        account.deploy(&[&["waiting-room"], &rotate[..]].concat()).has(true, &["changed /encore-dev/queue-token-keys"]);
        account.deploy(&["reservations", "--yes"]).has(true, &["reservations: new stack"]);
        account
            .deploy(&["waiting-room", "--yes", "--parameter", NOBODY])
            .has(false, &["AdmissionEnforcedBy=nobody is for a system without reservations"]);
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
        let output = account.deploy(&["items", "points", "--yes", "--parameter", JWKS, "--parameter", ISSUER]);
        let expected = [
            "1 of 4 stacks failed",
            "platform: done",
            "items: failed: the stack encore-dev-items is ROLLBACK_COMPLETE",
        ];
        output.has(
            false,
            &[&expected[..], &["Broken (AWS::SSM::Parameter)", "points: done", "edge: not begun"]].concat(),
        );
        assert_eq!(account.statuses().await["points"], "CREATE_COMPLETE");
        assert!(!account.statuses().await.contains_key("edge"));

        let nothing = json!({ "Name": "/encore-dev/nothing", "Value": "something", "Type": "String" });
        account.ssm().call("PutParameter", &nothing).await.unwrap();
        let before = account.events().await;
        let output = account.deploy(&["items", "points", "--yes"]);
        output.has(true, &["items: new stack", "unchanged: platform, points", "edge: new stack"]);
        assert_eq!(account.touched(&before).await, ["edge", "items"]);

        // The same from one version to the next: what would have come after is not begun, and discarded.
        account.scratch.change("stacks/platform.yaml", |text| text + &broken.replace("nothing", "nowhere"));
        account
            .scratch
            .change("stacks/points.yaml", |text| text.replacen("AlarmDescription: ", "AlarmDescription: New. ", 1));
        let output = account.deploy(&["platform", "points", "--yes"]);
        output.has(
            false,
            &["platform: failed: the stack encore-dev-platform is UPDATE_ROLLBACK_COMPLETE", "points: not begun"],
        );
        assert!(account.change_sets("points").await.is_empty(), "a change set is left");
        account.stack.stop().await.unwrap();
    });
}

#[test]
fn what_changes_with_a_context_elsewhere_changes_with_it() {
    block_on(async {
        let account = Account::open().await;
        account.deploy(&["items", "orders", "--yes", "--parameter", JWKS, "--parameter", ISSUER]).has(true, &[]);
        let calls = |of: &str, other: &str| {
            let of = [of, other].map(|name| format!("function:${{System}}-{name}/invocations"));
            move |text: String| text.replace(&of[0], &of[1])
        };

        let before = account.events().await;
        account.scratch.change("stacks/edge.yaml", calls("get-item", "list-items"));
        let action = "              - dynamodb:Query\n";
        account.scratch.change("stacks/platform.yaml", |text| {
            text.replacen(action, &format!("{action}              - dynamodb:Scan\n"), 1)
        });
        let output = account.deploy(&["items", "--yes"]);
        output.has(true, &["platform: 1 to modify", "edge: ", "unchanged: items"]);
        assert_eq!(account.touched(&before).await, ["edge", "platform"]);

        let before = account.events().await;
        account.scratch.change("stacks/edge.yaml", calls("get-order", "list-orders"));
        account.deploy(&["items", "--yes"]).has(true, &["nothing changed"]);
        account.scratch.change("stacks/edge.yaml", calls("put-cart-item", "get-cart"));
        account.deploy(&["items", "--yes"]).has(true, &["nothing changed"]);
        account.scratch.change("stacks/edge.yaml", calls("create-item", "list-items"));
        let refused = "edge would change the routes of orders, too: name it, too";
        account.deploy(&["items", "--yes"]).has(false, &[refused]);
        account.deploy(&["edge", "--yes"]).has(false, &["edge would change the routes of items, orders, too"]);
        assert!(account.touched(&before).await.is_empty());
        account.deploy(&["items", "orders", "--yes"]).has(true, &["edge: "]);
        assert_eq!(account.touched(&before).await, ["edge"]);
        account.stack.stop().await.unwrap();
    });
}

#[test]
fn a_stack_that_the_sources_no_longer_know_is_reported_and_its_system_is_not_destroyed() {
    block_on(async {
        let account = Account::open().await;
        let cloudformation = account.cloudformation();
        for (stack, system) in [("encore-dev-cellar", "encore-dev"), ("encore-dev-2-items", "encore-dev-2")] {
            let template = "Parameters: {System: {Type: String}}\nResources: {Queue: {Type: AWS::SQS::Queue}}";
            cloudformation.create(stack, template, &[("System", system)]).await.unwrap();
            let done = async || (account.status_of(stack).await? == "CREATE_COMPLETE").then_some(());
            tests::cloud::eventually("the stack is there", done).await;
        }
        let output = account.deploy(&["notifications", "--yes"]);
        output.has(true, &["mind: no template is known of the stack encore-dev-cellar", "notifications: done"]);
        assert!(!output.text.contains("encore-dev-2"), "{}", output.text);

        let destroy = ["dev", "--confirm", "dev"];
        let output = account.run("destroy", &destroy);
        output.has(false, &["no template is known of encore-dev-cellar, and nothing was destroyed"]);
        assert_eq!(account.statuses().await.into_keys().collect::<Vec<_>>(), ["notifications", "platform"]);

        cloudformation.call("DeleteStack", &[("StackName", "encore-dev-cellar")]).await.unwrap();
        let gone = async || account.status_of("encore-dev-cellar").await.is_none().then_some(());
        tests::cloud::eventually("the stack is gone", gone).await;
        account.run("destroy", &destroy).has(true, &["deleting encore-dev-platform"]);
        assert!(account.status_of("encore-dev-2-items").await.is_some());
        account.stack.stop().await.unwrap();
    });
}
