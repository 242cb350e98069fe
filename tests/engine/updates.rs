//! Changes of a stack: on AWS an update takes effect, or it fails and leaves everything as it was. So it is on either
//! engine, whatever the engine would do by itself.

use crate::{TEMPLATE, with_template};
use kit::service::{EVENTS, SSM, Service};
use local::{Options, Outcome, Stack};
use serde_json::json;
use std::fs;
use tests::cloud::{Ability, block_on, engine, skipped};

/// What is added to a table, to be changed: a rule and a parameter.
const CHANGING: &str = r#"
  Bus: {Type: AWS::Events::EventBus, Properties: {Name: !Sub "${AWS::StackName}-bus"}}
  Rule:
    Type: AWS::Events::Rule
    Properties:
      Name: !Sub ${AWS::StackName}-rule
      EventBusName: !Ref Bus
      EventPattern: {detail-type: [payment.completed]}
  Told: {Type: AWS::SSM::Parameter, Properties: {Name: /told, Type: String, Value: first}}
"#;
/// A boundary, and a role that it bounds.
const BOUNDED: &str = r#"
  Role:
    Type: AWS::IAM::Role
    Properties:
      PermissionsBoundary: !Sub arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/no-such-boundary
      AssumeRolePolicyDocument:
        Statement: [{Effect: Allow, Principal: {Service: lambda.amazonaws.com}, Action: sts:AssumeRole}]
"#;

fn whole() -> String {
    format!("{TEMPLATE}{CHANGING}")
}

fn with(text: &str) -> Options {
    let mut options = with_template(text);
    options.engine = engine();
    options
}

async fn update(stack: &mut Stack, text: &str) -> Result<Outcome, local::Error> {
    let template = stack.dir().join("template.yaml");
    fs::write(&template, text).unwrap();
    stack.update_stacks(&[], &template).await
}

async fn pattern(stack: &Stack) -> String {
    let events = Service::new(EVENTS, &stack.info().sdk_config());
    let rule = json!({ "Name": "encore-rule", "EventBusName": "encore-bus" });
    events.call("DescribeRule", &rule).await.unwrap()["EventPattern"].as_str().unwrap().to_owned()
}

async fn parameter(stack: &Stack) -> String {
    let ssm = Service::new(SSM, &stack.info().sdk_config());
    let answer = ssm.call("GetParameter", &json!({ "Name": "/told" })).await.unwrap();
    answer["Parameter"]["Value"].as_str().unwrap().to_owned()
}

#[test]
fn what_changes_in_a_stack_changes_in_the_engine() {
    block_on(async {
        let mut stack = Stack::start(with(&whole())).await.unwrap();
        assert!(pattern(&stack).await.contains("payment.completed"));
        let changed = whole().replace("payment.completed", "payment.failed").replace("Value: first", "Value: second");
        assert_eq!(update(&mut stack, &changed).await.unwrap(), Outcome::Updated);
        assert!(pattern(&stack).await.contains("payment.failed"), "{}", pattern(&stack).await);
        assert_eq!(parameter(&stack).await, "second");
        stack.stop().await.unwrap();
    });
}

#[test]
fn an_update_that_localstack_cannot_make_fails_by_name_and_is_taken_back() {
    if skipped(Ability::LocalStack) {
        return;
    }
    block_on(async {
        let mut stack = Stack::start(with(&whole())).await.unwrap();
        let other_key =
            TEMPLATE.replace("AttributeName: PK", "AttributeName: ID").replace("Value: first", "Value: second");
        let failed = update(&mut stack, &other_key).await.unwrap_err().to_string();
        assert!(failed.contains("Table") && failed.contains("cannot change its"), "{failed}");
        assert!(failed.contains("cargo local down"), "{failed}");
        assert_eq!(parameter(&stack).await, "first", "what had changed already is changed back");
        let changed = whole().replace("Value: first", "Value: third");
        assert_eq!(update(&mut stack, &changed).await.unwrap(), Outcome::Updated);
        assert_eq!(parameter(&stack).await, "third");
        stack.stop().await.unwrap();
    });
}

#[test]
fn a_role_whose_boundary_is_not_there_fails_the_deployment() {
    if skipped(Ability::Policies) {
        return;
    }
    let failed = block_on(Stack::start(with(&format!("{TEMPLATE}{BOUNDED}")))).unwrap_err().to_string();
    assert!(failed.contains("no-such-boundary"), "{failed}");
}
