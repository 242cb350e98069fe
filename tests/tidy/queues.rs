//! No message is lost quietly: partial failures are reported, dead letters kept, and somebody is called.

use crate::none;
use crate::template::{Template, logical_id};
use serde_json::Value;

fn reports_item_failures(trigger: &Value) -> bool {
    trigger["FunctionResponseTypes"].as_array().is_some_and(|types| types.contains(&"ReportBatchItemFailures".into()))
}

/// What is wrong with the queues that functions consume.
fn wrong_queues(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    for function in template.functions() {
        for trigger in function.triggers().iter().filter(|trigger| trigger.kind == "SQS") {
            let id = function.id;
            if !reports_item_failures(trigger.properties) {
                violations.push(format!("{id} does not report partial batch failures"));
            }
            let queue = logical_id(&trigger.properties["Queue"]).unwrap_or_default();
            let properties = template.properties(&queue);
            if properties["VisibilityTimeout"].as_u64().unwrap_or(30) < function.timeout() {
                violations.push(format!("a message of {queue} comes back while {id} may still be at it"));
            }
            let redrive = &properties["RedrivePolicy"];
            match logical_id(&redrive["deadLetterTargetArn"]).filter(|_| redrive["maxReceiveCount"].is_u64()) {
                Some(dead) if has_alarm(template, &dead) => {}
                Some(dead) => violations.push(format!("nobody is called when {dead} holds a message")),
                None => violations.push(format!("{queue} has no dead-letter queue")),
            }
        }
    }
    violations
}

fn has_alarm(template: &Template, queue: &str) -> bool {
    template.resources("AWS::CloudWatch::Alarm").any(|(_, alarm)| {
        alarm["Namespace"] == "AWS/SQS"
            && alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
            && alarm["Threshold"] == 0
            && alarm["ComparisonOperator"] == "GreaterThanThreshold"
            && logical_id(&alarm["Dimensions"][0]["Value"]).as_deref() == Some(queue)
            && alarm["AlarmActions"].as_array().is_some_and(|actions| !actions.is_empty())
    })
}

#[test]
fn a_consumed_queue_reports_partial_failures_and_has_dead_letters_with_an_alarm() {
    let template = Template::read();
    let consumers = template.functions().iter().flat_map(|f| f.triggers()).filter(|t| t.kind == "SQS").count();
    assert!(consumers >= 2, "queues went missing");
    none(wrong_queues(&template));
}

#[test]
fn whatever_a_queue_lacks_is_found() {
    let whole = r#"
Resources:
  Consume:
    Type: AWS::Serverless::Function
    Properties:
      Timeout: 20
      Events:
        Queue:
          Type: SQS
          Properties: { Queue: !GetAtt Work.Arn, FunctionResponseTypes: [ReportBatchItemFailures] }
  Work:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 20
      RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 5 }
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: AWS/SQS
      MetricName: ApproximateNumberOfMessagesVisible
      Dimensions: [{ Name: QueueName, Value: !GetAtt Dead.QueueName }]
      Threshold: 0
      ComparisonOperator: GreaterThanThreshold
      AlarmActions: [!Ref Topic]
"#;
    assert_eq!(wrong_queues(&Template::parse(whole)), Vec::<String>::new());
    for (part, broken) in [
        ("ReportBatchItemFailures", ""),
        ("Timeout: 20\n      Events", "Timeout: 21\n      Events"),
        ("VisibilityTimeout: 20", "DelaySeconds: 20"),
        ("RedrivePolicy", "RedriveAllowPolicy"),
        (", maxReceiveCount: 5", ""),
        ("Dead.QueueName", "Work.QueueName"),
        ("[!Ref Topic]", "[]"),
    ] {
        assert_ne!(whole.replace(part, broken), whole, "{part}");
        // A visibility timeout that is not given is 30 seconds.
        let expected = usize::from(part != "VisibilityTimeout: 20");
        assert_eq!(wrong_queues(&Template::parse(&whole.replace(part, broken))).len(), expected, "without {part}");
    }
}

#[test]
fn a_rule_keeps_what_it_could_not_deliver() {
    let template = Template::read();
    let mut violations = Vec::new();
    for (id, rule) in template.resources("AWS::Events::Rule") {
        for target in rule["Targets"].as_array().into_iter().flatten() {
            match logical_id(&target["DeadLetterConfig"]["Arn"]) {
                Some(dead) if has_alarm(&template, &dead) => {}
                _ => violations.push(format!("{id} has a target without a dead-letter queue that has an alarm")),
            }
        }
    }
    none(violations);
}

#[test]
fn one_bad_record_does_not_hold_up_a_stream_unseen() {
    let template = Template::read();
    let mut violations = Vec::new();
    for function in template.functions() {
        for trigger in function.triggers().iter().filter(|trigger| trigger.kind == "DynamoDB") {
            if !reports_item_failures(trigger.properties) {
                violations.push(format!("{} does not report from which record on it failed", function.id));
            }
            let lag_alarm = template.resources("AWS::CloudWatch::Alarm").any(|(_, alarm)| {
                alarm["MetricName"] == "IteratorAge"
                    && logical_id(&alarm["Dimensions"][0]["Value"]).as_deref() == Some(function.id)
            });
            if !lag_alarm {
                violations.push(format!("nobody is called when {} falls behind its stream", function.id));
            }
        }
    }
    none(violations);
}
