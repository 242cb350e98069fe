//! No message is lost silently: partial failures are reported, dead letters kept, and the on-call is paged.

use crate::code::Source;
use crate::none;
use crate::template::{Stacks, Template, logical_id, logical_ids};
use crate::workspace::{contexts, crate_dir, pascal, rust_files};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// How long a message is kept: as long as SQS can.
const FOURTEEN_DAYS: u64 = 14 * 86_400;

fn reports_item_failures(trigger: &Value) -> bool {
    trigger["FunctionResponseTypes"].as_array().is_some_and(|types| types.contains(&"ReportBatchItemFailures".into()))
}

/// Violations in the queues that functions consume.
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
            let set = |setting: &str| function.variables().get(setting).and_then(logical_id).unwrap_or_default();
            if set("QUEUE") != queue {
                violations.push(format!("{id} consumes {queue} and is told of {} as its queue", set("QUEUE")));
            }
            let redrive = &properties["RedrivePolicy"];
            if Some(set("DEAD_LETTERS")) != logical_id(&redrive["deadLetterTargetArn"]) {
                violations.push(format!("the dead letters of {id} go elsewhere than those of {queue}"));
            }
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
    let name = &template.properties(queue)["QueueName"]["Fn::Sub"];
    let name = name.as_str().unwrap_or_default().trim_end_matches(".fifo");
    template.resources("AWS::CloudWatch::Alarm").any(|(_, alarm)| {
        alarm["AlarmName"]["Fn::Sub"] == name
            && alarm["Namespace"] == "AWS/SQS"
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
      Environment: { Variables: { QUEUE: !Ref Work, DEAD_LETTERS: !Ref Dead } }
      Events:
        Queue:
          Type: SQS
          Properties: { Queue: !GetAtt Work.Arn, FunctionResponseTypes: [ReportBatchItemFailures] }
  Work:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: 20
      RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 5 }
  Dead:
    Type: AWS::SQS::Queue
    Properties: { QueueName: !Sub "${System}-dead" }
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      AlarmName: !Sub "${System}-dead"
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
        ("Timeout: 20\n      Env", "Timeout: 21\n      Env"),
        ("QUEUE: !Ref Work", "QUEUE: !Ref Dead"),
        ("DEAD_LETTERS: !Ref Dead", "DEAD_LETTERS: !Ref Work"),
        ("AlarmName: !Sub \"${System}-dead\"", "AlarmName: !Sub \"${System}-work\""),
        ("VisibilityTimeout: 20", "DelaySeconds: 20"),
        (", maxReceiveCount: 5", ""),
        ("Dead.QueueName", "Work.QueueName"),
        ("[!Ref Topic]", "[]"),
    ] {
        assert_ne!(whole.replace(part, broken), whole, "{part}");
        // A visibility timeout that is not given is 30 seconds.
        let expected = usize::from(part != "VisibilityTimeout: 20");
        assert_eq!(wrong_queues(&Template::parse(&whole.replace(part, broken))).len(), expected, "without {part}");
    }
    let bare = Template::parse(&whole.replace("RedrivePolicy", "RedriveAllowPolicy"));
    assert!(wrong_queues(&bare).contains(&"Work has no dead-letter queue".to_owned()));
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
            if !trigger.properties["MaximumRetryAttempts"].is_u64() {
                violations.push(format!("{} tries a batch until its records are gone", function.id));
            }
            // What a relay does not publish, its outbox's sweep does.
            let is_kept = function.on_failure().is_some_and(|kept| has_alarm(&template, &kept));
            if !function.handler().starts_with("relay-") && !is_kept {
                violations.push(format!("nobody is called when {} gives up a batch", function.id));
            }
        }
    }
    none(violations);
}

/// The queues that no function consumes: their messages wait for the on-call.
pub fn last_resorts(template: &Template) -> BTreeSet<String> {
    let functions = template.functions();
    let triggers = functions.iter().flat_map(|function| function.triggers());
    let consumed: BTreeSet<String> = triggers.filter_map(|trigger| logical_id(&trigger.properties["Queue"])).collect();
    let all = template.resources("AWS::SQS::Queue").map(|(id, _)| id.to_owned());
    all.filter(|id| !consumed.contains(id)).collect()
}

#[test]
fn every_queue_without_a_consumer_has_an_alarm_of_its_name_and_is_watched() {
    let template = Template::read();
    let functions = template.functions();
    let watch = functions.iter().find(|function| function.handler() == "watch-dead-letters").unwrap();
    let watched: BTreeSet<String> = logical_ids(&watch.variables()["DEAD_LETTER_QUEUES"]).into_iter().collect();
    let waiting = last_resorts(&template);
    assert!(waiting.len() > 8, "{waiting:?}");
    let unseen = waiting.iter().filter(|queue| !has_alarm(&template, queue));
    let unseen = unseen.map(|queue| format!("nobody is called when {queue} holds a message"));
    let unwatched = waiting.difference(&watched).map(|queue| format!("watch-dead-letters does not look at {queue}"));
    let surplus =
        watched.difference(&waiting).map(|queue| format!("watch-dead-letters looks at {queue}, which is consumed"));
    none(unseen.chain(unwatched).chain(surplus).collect());
}

#[test]
fn a_message_is_kept_encrypted_and_as_long_as_can_be() {
    let template = Template::read();
    let wrong = template
        .resources("AWS::SQS::Queue")
        .filter(|(_, queue)| queue["MessageRetentionPeriod"] != FOURTEEN_DAYS || queue["SqsManagedSseEnabled"] != true);
    none(wrong.map(|(id, _)| format!("{id} does not keep messages encrypted for fourteen days")).collect());
}

/// Violations in where a rule sends events.
fn wrong_rules(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, rule) in template.resources("AWS::Events::Rule") {
        for target in rule["Targets"].as_array().into_iter().flatten() {
            let queue = logical_id(&target["Arn"]).unwrap_or_default();
            let dead = logical_id(&target["DeadLetterConfig"]["Arn"]).unwrap_or_default();
            let own_dead = logical_id(&template.properties(&queue)["RedrivePolicy"]["deadLetterTargetArn"]);
            if own_dead.as_deref() != Some(&dead) {
                violations.push(format!("{id} keeps what it could not deliver elsewhere than {queue} does"));
            }
            for queue in [queue, dead] {
                if !may_send(template, id, &queue) {
                    violations.push(format!("{id} may not send to {queue}"));
                }
            }
        }
    }
    violations
}

fn may_send(template: &Template, rule: &str, queue: &str) -> bool {
    let list = |value: &Value| -> Vec<String> {
        let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        values.iter().filter_map(logical_id).collect()
    };
    // SQS accepts one resource for a statement: the queue that the policy is set on.
    let only = |value: &Value| logical_id(value).as_deref() == Some(queue);
    template.resources("AWS::SQS::QueuePolicy").any(|(_, policy)| {
        let statements = policy["PolicyDocument"]["Statement"].as_array().into_iter().flatten();
        list(&policy["Queues"]) == [queue]
            && statements.into_iter().any(|statement| {
                statement["Effect"] == "Allow"
                    && statement["Action"] == "sqs:SendMessage"
                    && statement["Principal"] == json!({"Service": "events.amazonaws.com"})
                    && only(&statement["Resource"])
                    && list(&statement["Condition"]["ArnEquals"]["aws:SourceArn"]).iter().any(|id| id == rule)
            })
    })
}

#[test]
fn a_rule_may_send_to_its_queue_and_dead_letters_and_no_other_rule_may() {
    let template = Template::read();
    none(wrong_rules(&template));
    // A policy may not outlive what it was for.
    let mut violations = Vec::new();
    for (id, policy) in template.resources("AWS::SQS::QueuePolicy") {
        for statement in policy["PolicyDocument"]["Statement"].as_array().into_iter().flatten() {
            let sources = &statement["Condition"]["ArnEquals"]["aws:SourceArn"];
            let sources = sources.as_array().cloned().unwrap_or_else(|| vec![sources.clone()]);
            for rule in sources.iter().map(|source| logical_id(source).unwrap_or_default()) {
                let targets = template.properties(&rule)["Targets"].as_array().into_iter().flatten();
                let queues =
                    policy["Queues"].as_array().into_iter().flatten().filter_map(logical_id).collect::<Vec<_>>();
                let sends_to = |target: &Value| {
                    let (work, dead) = (logical_id(&target["Arn"]), logical_id(&target["DeadLetterConfig"]["Arn"]));
                    work.into_iter().chain(dead).any(|queue| queues.contains(&queue))
                };
                if !targets.into_iter().any(sends_to) {
                    violations.push(format!("{id} lets {rule} send, which does not"));
                }
            }
        }
    }
    none(violations);
}

#[test]
fn a_rule_that_may_not_send_and_one_that_keeps_elsewhere_are_found() {
    let whole = r#"
Resources:
  Work:
    Type: AWS::SQS::Queue
    Properties: { RedrivePolicy: { deadLetterTargetArn: !GetAtt Dead.Arn } }
  Rule:
    Type: AWS::Events::Rule
    Properties:
      Targets: [{ Arn: !GetAtt Work.Arn, DeadLetterConfig: { Arn: !GetAtt Dead.Arn } }]
  PolicyOfWork:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Work]
      PolicyDocument:
        Statement:
          - Effect: Allow
            Principal: { Service: events.amazonaws.com }
            Action: sqs:SendMessage
            Resource: !GetAtt Work.Arn
            Condition: { ArnEquals: { aws:SourceArn: !GetAtt Rule.Arn } }
  PolicyOfDead:
    Type: AWS::SQS::QueuePolicy
    Properties:
      Queues: [!Ref Dead]
      PolicyDocument:
        Statement:
          - Effect: Allow
            Principal: { Service: events.amazonaws.com }
            Action: sqs:SendMessage
            Resource: !GetAtt Dead.Arn
            Condition: { ArnEquals: { aws:SourceArn: !GetAtt Rule.Arn } }
"#;
    assert_eq!(wrong_rules(&Template::parse(whole)), Vec::<String>::new());
    for (part, broken, found) in [
        ("DeadLetterConfig: { Arn: !GetAtt Dead.Arn }", "DeadLetterConfig: { Arn: !GetAtt Work.Arn }", 1),
        ("[!Ref Work]", "[!Ref Work, !Ref Dead]", 1),
        ("Resource: !GetAtt Work.Arn", "Resource: [!GetAtt Work.Arn, !GetAtt Dead.Arn]", 1),
        ("Resource: !GetAtt Dead.Arn", "Resource: !GetAtt Work.Arn", 1),
        ("Rule.Arn }", "Other.Arn }", 2),
        ("events.amazonaws.com", "sns.amazonaws.com", 2),
    ] {
        assert_ne!(whole.replace(part, broken), whole, "{part}");
        assert_eq!(wrong_rules(&Template::parse(&whole.replace(part, broken))).len(), found, "without {part}");
    }
}

/// Violations in when rules are enabled: events for a provider that is not configured must not pile up.
fn wrong_states(template: &Template) -> Vec<String> {
    let functions = template.functions();
    let mut violations = Vec::new();
    for (id, rule) in template.resources("AWS::Events::Rule") {
        let targets = rule["Targets"].as_array().into_iter().flatten();
        let queues: Vec<String> = targets.into_iter().filter_map(|target| logical_id(&target["Arn"])).collect();
        let consumers = functions.iter().filter(|function| {
            function
                .triggers()
                .iter()
                .any(|trigger| logical_id(&trigger.properties["Queue"]).is_some_and(|q| queues.contains(&q)))
        });
        // The providers that the consumers call, where a stage may have none.
        let others: BTreeSet<String> = consumers
            .flat_map(|function| function.variables())
            .filter(|(name, _)| name.ends_with("_URL"))
            .filter_map(|(_, value)| logical_id(&value))
            .filter(|parameter| template.parameter(parameter)["Default"] == "")
            .collect();
        let on_with: BTreeSet<String> = match rule["State"]["Fn::If"].as_array().map(Vec::as_slice) {
            Some([condition, on, off]) if on == "ENABLED" && off == "DISABLED" => {
                template.wanted_by(condition.as_str().unwrap_or_default())
            }
            _ => BTreeSet::new(),
        };
        if on_with != others {
            violations.push(format!("{id} is on with {on_with:?}; who consumes it needs {others:?}"));
        }
        if rule["State"].is_string() {
            violations.push(format!("{id} is always {}", rule["State"]));
        }
    }
    violations
}

#[test]
fn a_rule_is_on_exactly_where_its_consumer_has_a_provider_to_call() {
    let template = Template::read();
    let with_state = template.resources("AWS::Events::Rule").filter(|(_, rule)| rule["State"].is_object()).count();
    assert!(with_state >= 5, "rules went missing");
    none(wrong_states(&template));
}

#[test]
fn a_rule_that_is_on_without_a_provider_is_found() {
    let whole = r#"
Parameters:
  Url: { Type: String, Default: "" }
  Other: { Type: String, Default: "" }
Conditions:
  HasUrl: !Not [!Equals [!Ref Url, ""]]
  HasBoth: !And [!Condition HasUrl, !Not [!Equals [!Ref Other, ""]]]
Resources:
  Tell:
    Type: AWS::Serverless::Function
    Properties:
      Environment: { Variables: { ITS_URL: !Ref Url } }
      Events: { Queue: { Type: SQS, Properties: { Queue: !GetAtt Work.Arn } } }
  Rule:
    Type: AWS::Events::Rule
    Properties:
      State: !If [HasUrl, ENABLED, DISABLED]
      Targets: [{ Arn: !GetAtt Work.Arn }]
"#;
    let wrong = |text: &str| wrong_states(&Template::parse(text)).len();
    assert_eq!(wrong(whole), 0);
    assert_eq!(wrong(&whole.replace("ENABLED, DISABLED", "DISABLED, ENABLED")), 1);
    assert_eq!(wrong(&whole.replace("!If [HasUrl, ENABLED, DISABLED]", "ENABLED")), 2);
    assert_eq!(wrong(&whole.replace("!If [HasUrl,", "!If [HasBoth,")), 1);
    let both = whole.replace("ITS_URL: !Ref Url", "ITS_URL: !Ref Url, MORE_URL: !Ref Other");
    assert_eq!(wrong(&both), 1);
    assert_eq!(wrong(&both.replace("!If [HasUrl,", "!If [HasBoth,")), 0);
}

/// Violations in how events leave the contexts' tables.
fn wrong_outboxes(template: &Template, contexts: &[String]) -> Vec<String> {
    let functions = template.functions();
    let mut violations = Vec::new();
    for context in contexts {
        let table = format!("{}Table", pascal(context));
        let indexes = template.properties(&table)["GlobalSecondaryIndexes"].as_array().into_iter().flatten();
        let has_outbox = indexes.into_iter().any(|index| index["IndexName"] == "unpublished");
        let publishes = |kind: &str| {
            functions.iter().find(|function| {
                function.context() == context
                    && function.variables().contains_key("EVENT_BUS")
                    && function.triggers().iter().any(|trigger| trigger.kind == kind)
            })
        };
        let (relay, sweep) = (publishes("DynamoDB"), publishes("Schedule"));
        match (has_outbox, relay, sweep) {
            (false, None, None) => {}
            (true, Some(relay), Some(sweep)) => {
                let trigger = &relay.triggers()[0];
                if logical_id(&trigger.properties["Stream"]).as_deref() != Some(&table) {
                    violations.push(format!("{} does not relay from {table}", relay.id));
                }
                // Without it every write of the context would start the relay.
                if !trigger.properties["FilterCriteria"].to_string().contains("outbox") {
                    violations.push(format!("{} is called for more than events", relay.id));
                }
                if !calls_for_errors(template, sweep.id) {
                    violations.push(format!("nobody is called when {} fails", sweep.id));
                }
            }
            _ => violations.push(format!("{context} needs an outbox, a relay and a sweep, or none of them")),
        }
    }
    violations
}

fn calls_for_errors(template: &Template, function: &str) -> bool {
    template.resources("AWS::CloudWatch::Alarm").any(|(_, alarm)| {
        alarm["Namespace"] == "AWS/Lambda"
            && alarm["MetricName"] == "Errors"
            && logical_id(&alarm["Dimensions"][0]["Value"]).as_deref() == Some(function)
            && alarm["AlarmActions"].as_array().is_some_and(|actions| !actions.is_empty())
    })
}

#[test]
fn every_context_with_an_outbox_has_a_relay_and_a_sweep_with_an_alarm() {
    let template = Template::read();
    none(wrong_outboxes(&template, &contexts()));
    // It has one exactly where its code writes into it.
    let mut violations = Vec::new();
    for context in contexts() {
        let files = rust_files(&crate_dir(&context).join("src"));
        let writes = |path: &PathBuf| Source::read(path).production().paths().iter().any(|path| path == "outbox::row");
        let table = template.properties(&format!("{}Table", pascal(&context)));
        let has_outbox = table["GlobalSecondaryIndexes"].to_string().contains("\"unpublished\"");
        if files.iter().any(writes) != has_outbox {
            violations.push(format!("{context} writes events without an outbox in its table, or has one for nothing"));
        }
    }
    none(violations);
}

#[test]
fn an_outbox_without_a_relay_and_a_relay_without_an_outbox_are_found() {
    let stacks = Stacks::read();
    let contexts = contexts();
    for (part, broken) in [
        ("IndexName: unpublished", "IndexName: another"),
        ("EVENT_BUS: !Sub ${System}-bus", "ANOTHER_BUS: !Sub ${System}-bus"),
        ("Stream: !GetAtt WaitingRoomTable.StreamArn", "Stream: !GetAtt PointsTable.StreamArn"),
        ("[\"outbox\"]", "[\"anything\"]"),
    ] {
        let template = stacks.edited(part, broken).template();
        assert!(!wrong_outboxes(&template, &contexts).is_empty(), "{part}");
    }
}

#[test]
fn the_on_call_is_paged_when_what_runs_every_minute_fails() {
    let template = Template::read();
    let mut violations = Vec::new();
    for function in template.functions() {
        let ticks = function.triggers().iter().any(|trigger| trigger.kind == "Schedule");
        if ticks && !calls_for_errors(&template, function.id) {
            violations.push(format!("nobody is called when {} fails", function.id));
        }
    }
    none(violations);
}

/// Violations in who reads whose log.
fn wrong_subscriptions(template: &Template, subscribers: &BTreeSet<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let mut subscribed = BTreeSet::new();
    for (id, filter) in template.resources("AWS::Logs::SubscriptionFilter") {
        let reader = logical_id(&filter["DestinationArn"]).unwrap_or_default();
        let group = logical_id(&filter["LogGroupName"]).unwrap_or_default();
        let may = template.resources("AWS::Lambda::Permission").any(|(_, permission)| {
            logical_id(&permission["FunctionName"]).as_deref() == Some(&reader)
                && permission["Principal"] == "logs.amazonaws.com"
                && logical_id(&permission["SourceArn"]).as_deref() == Some(&group)
        });
        if !may {
            violations.push(format!("{id}: the log may not call {reader}"));
        }
        let group = template.properties(&group)["LogGroupName"]["Fn::Sub"].as_str().unwrap_or_default();
        if !template.functions().iter().any(|function| group == format!("/aws/lambda/{}", function.name())) {
            violations.push(format!("{id} reads {group:?}, which is no function's log"));
        }
        subscribed.insert(reader);
    }
    violations.extend(
        subscribers
            .symmetric_difference(&subscribed)
            .map(|id| format!("{id} serves logs and reads none, or reads and serves none")),
    );
    for id in subscribers {
        let function = template.functions().into_iter().find(|function| function.id == id);
        // CloudWatch delivers lines once; those that cannot be processed then must not be lost.
        match function.and_then(|function| function.on_failure()) {
            Some(kept) if has_alarm(template, &kept) => {}
            _ => violations.push(format!("{id} forgets what it could not do")),
        }
    }
    violations
}

#[test]
fn who_serves_logs_reads_functions_logs_and_forgets_no_line() {
    let template = Template::read();
    let serve = |context: &String| crate::code::Main::of(context).arms;
    let arms = contexts().iter().flat_map(serve).collect::<Vec<_>>();
    let subscribers = arms.iter().filter(|(_, arm)| arm.kind == "logs").map(|(handler, _)| pascal(handler));
    let subscribers: BTreeSet<String> = subscribers.collect();
    assert!(!subscribers.is_empty());
    none(wrong_subscriptions(&template, &subscribers));
    assert_eq!(wrong_subscriptions(&template, &BTreeSet::new()).len(), subscribers.len());
}

#[test]
fn functions_that_wait_for_providers_take_a_bounded_share_of_the_concurrency() {
    let template = Template::read();
    let mut unbounded = Vec::new();
    for function in template.functions().iter().filter(|function| function.context() == "notifications") {
        for trigger in function.triggers().iter().filter(|trigger| trigger.kind == "SQS") {
            if !trigger.properties["ScalingConfig"]["MaximumConcurrency"].is_u64() {
                unbounded.push(format!("{} may take all of the account's concurrency", function.id));
            }
        }
    }
    none(unbounded);
}
