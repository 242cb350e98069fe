//! A system of several stacks: each is deployed alone, and what is not named is left alone.

use contracts::steps::OpenWaitingRoom;
use contracts::{ConcertId, Timestamp};
use http::Method;
use local::http::{Answer, Client};
use local::query::Query;
use local::{Options, Outcome, Stack};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use tests::cloud::{block_on, code, engine, text};
use tests::functions::Functions;

/// A stack of one table, in a system of the shape of the whole one.
fn table(stack: &str, needs: &str, after: &str, name: &str) -> String {
    format!(
        "
Metadata: {{Encore: {{Stack: {stack}, Needs: [{needs}], After: [{after}]}}}}
Parameters: {{System: {{Type: String}}}}
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !Sub ${{System}}-{name}
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{{AttributeName: PK, AttributeType: S}}]
      KeySchema: [{{AttributeName: PK, KeyType: HASH}}]
"
    )
}

/// A queue to add to it, which changes it.
const QUEUE: &str = "
  Queue: {Type: AWS::SQS::Queue, Properties: {QueueName: !Sub '${System}-more-of-it'}}
";

/// The directory of a small system's templates, and how to deploy it.
struct System {
    options: Options,
    dir: PathBuf,
}

impl System {
    fn new() -> Self {
        let mut options = Options::ephemeral("test-stacks");
        options.engine = engine();
        options.build = false;
        options.progress = local::stderr_progress();
        let dir = options.dir.join("stacks");
        options.template.clone_from(&dir);
        fs::create_dir_all(&dir).unwrap();
        let system = Self { options, dir };
        system.write("platform", &table("platform", "", "", "table-of-platform"));
        system.write("items", &table("items", "platform", "", "table-of-items"));
        system.write("orders", &table("orders", "platform", "", "table-of-orders"));
        system.write("edge", &table("edge", "platform", "items, orders", "table-of-edge"));
        system
    }

    fn write(&self, stack: &str, template: &str) {
        fs::write(self.dir.join(stack).with_extension("yaml"), template).unwrap();
    }

    async fn start(&self) -> Stack {
        Stack::start(self.options.clone()).await.unwrap()
    }
}

/// All events that CloudFormation has of these stacks of the system.
async fn events(stack: &Stack, names: &[&str]) -> Vec<Value> {
    let cloudformation = Query::new(&stack.info().sdk_config());
    let mut all = Vec::new();
    for name in names {
        let name = format!("{}-{name}", stack.info().stack);
        all.extend(cloudformation.list("DescribeStackEvents", &name, "StackEvents").await.unwrap());
    }
    all
}

#[test]
fn a_stack_is_deployed_alone_and_the_others_stay_untouched() {
    let system = System::new();
    block_on(async {
        let mut stack = system.start().await;
        let others = ["edge", "orders", "platform"];
        let (before, untouched) = (stack.info().clone(), events(&stack, &others).await);
        assert_eq!(before.tables.len(), 4, "{:?}", before.tables);

        // Changed, too, but not named.
        system.write("orders", &format!("{}{QUEUE}", table("orders", "platform", "", "table-of-orders")));
        system.write("items", &format!("{}{QUEUE}", table("items", "platform", "", "table-of-items")));
        assert_eq!(stack.update_stacks(&["items"], &system.dir).await.unwrap(), Outcome::Updated);
        let after = stack.info();
        assert_eq!(after.queues.keys().collect::<Vec<_>>(), ["more-of-it"]);
        for other in others {
            assert_eq!(after.deployed[other], before.deployed[other], "{other}");
        }
        assert_ne!(after.deployed["items"], before.deployed["items"]);
        assert_eq!(events(&stack, &others).await, untouched);

        assert_eq!(stack.update_stacks(&["items"], &system.dir).await.unwrap(), Outcome::Unchanged);
        stack.stop().await.unwrap();
    });
}

#[test]
fn a_stack_that_fails_is_named_the_others_finish_and_the_next_deployment_goes_on_from_there() {
    let system = System::new();
    block_on(async {
        let mut stack = system.start().await;
        let platform = events(&stack, &["platform"]).await;

        let of_nothing = "table-of-{{resolve:ssm:/encore/no-such-parameter}}";
        system.write("cart", &table("cart", "platform", "", of_nothing));
        system.write("edge", &table("edge", "platform", "cart, items, orders", "table-of-edge"));
        system.write("items", &format!("{}{QUEUE}", table("items", "platform", "", "table-of-items")));
        let failed = stack.update_stacks(&[], &system.dir).await.unwrap_err().to_string();
        assert!(failed.starts_with("encore-cart: ") && failed.contains("no-such-parameter"), "{failed}");
        assert!(failed.ends_with("\nedge was not deployed: it comes after cart"), "{failed}");
        assert!(!failed.contains("encore-items"), "{failed}");
        assert!(!stack.info().deployed.contains_key("cart"));
        assert!(stack.info().queues.contains_key("more-of-it"), "the others finish");

        let items = events(&stack, &["items"]).await;
        system.write("cart", &table("cart", "platform", "", "table-of-cart"));
        stack.update_stacks(&[], &system.dir).await.unwrap();
        assert!(stack.info().tables.contains_key("table-of-cart"));
        assert_eq!(events(&stack, &["items"]).await, items, "what is done is not done again");
        assert_eq!(events(&stack, &["platform"]).await, platform, "nor what never changed");
        stack.stop().await.unwrap();
    });
}

/// A call of the API as a fan.
async fn ask(stack: &Stack, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let token = format!("Bearer {}", stack.tokens().user("fan").unwrap());
    let headers: Vec<_> = headers.iter().copied().chain([("authorization", token.as_str())]).collect();
    let url = format!("{}{path}", stack.info().api_url);
    Client::new().send(method.parse().unwrap(), &url, &headers, "").await.unwrap()
}

/// Opens a line for a concert, as the context of concerts requests it.
async fn open_line(stack: &Stack, concert: &str) {
    let concert_id = ConcertId::parse(concert).unwrap();
    let ask = OpenWaitingRoom { concert_id, created_at: Timestamp::from_millis(0) };
    let ask = serde_json::to_vec(&ask).unwrap();
    let function = &stack.info().functions["open-waiting-room"];
    assert_eq!(Functions::of(stack.info()).invoke(function, ask).await, ("{}".to_owned(), false));
}

fn stacks(stack: &Stack) -> Vec<&str> {
    stack.info().deployed.keys().map(String::as_str).collect()
}

#[test]
fn the_waiting_room_alone_is_a_system_that_lets_people_wait_and_grows_by_the_next_context() {
    let mut options = Options::ephemeral("test-waiting-room").stacks(&["waiting-room"]);
    options = options.parameter("AdmissionEnforcedBy", "nobody");
    options.engine = engine();
    options.progress = local::stderr_progress();
    let template = options.template.clone();
    block_on(async {
        let mut stack = Stack::start(options).await.unwrap();
        assert_eq!(stacks(&stack), ["edge", "platform", "waiting-room"]);
        let elsewhere = ask(&stack, "POST", "/orders", &[]).await;
        assert_eq!((elsewhere.status.as_u16(), code(&elsewhere).as_str()), (404, "not_found"));
        open_line(&stack, "c1").await;
        let joined = ask(&stack, "POST", "/concerts/c1/queue-tokens", &[]).await;
        assert_eq!(joined.status, 201, "{}", joined.text());
        let token = text(&joined.json(), "token");
        let waiting = ask(&stack, "GET", "/queue-status", &[("queue-token", &token)]).await;
        assert_eq!(
            (waiting.status.as_u16(), waiting.json()["position"].as_u64()),
            (200, Some(1)),
            "{}",
            waiting.text()
        );

        let paused = json!({"opens_at": "2026-01-01T00:00:00Z", "rate_per_minute": 0, "active_seconds": 60});
        let operator = format!("Bearer {}", stack.tokens().operator("op").unwrap());
        let url = format!("{}/admin/concerts/c1/admission", stack.info().api_url);
        let headers = [("authorization", operator.as_str()), ("content-type", "application/json")];
        let set = Client::new().send(Method::PUT, &url, &headers, paused.to_string()).await.unwrap();
        assert_eq!(set.status, 200, "{}", set.text());

        let untouched = events(&stack, &["platform", "waiting-room"]).await;
        assert_eq!(ask(&stack, "GET", "/points", &[]).await.status, 404);
        assert_eq!(stack.update_stacks(&["points"], &template).await.unwrap(), Outcome::Updated);
        assert_eq!(stacks(&stack), ["edge", "platform", "points", "waiting-room"]);
        assert_eq!(events(&stack, &["platform", "waiting-room"]).await, untouched);
        let points = ask(&stack, "GET", "/points", &[]).await;
        assert_eq!((points.status.as_u16(), points.json()["balance"].as_i64()), (200, Some(0)), "{}", points.text());
        let waiting = ask(&stack, "GET", "/queue-status", &[("queue-token", &token)]).await;
        assert_eq!(waiting.json()["position"], 1, "{}", waiting.text());
        stack.stop().await.unwrap();
    });
}

#[test]
fn an_unknown_stack_is_refused_with_the_known_ones() {
    let options = System::new().options.stacks(&["items", "itmes"]);
    let refused = block_on(Stack::start(options.clone())).unwrap_err().to_string();
    assert_eq!(refused, "there is no stack itmes; there are edge, items, orders, platform");
    assert!(!options.dir.join("engine.json").exists(), "no engine was started for it");
    fs::remove_dir_all(&options.dir).unwrap();
}
