//! Every metric is used, and everything used is a metric that exists.

use crate::code::{Source, path_text};
use crate::none;
use crate::template::{Stacks, Template, logical_id};
use crate::workspace::{contexts, crate_dir, rust_files};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, Lit};

/// The metrics that code emits, with the dimensions each has.
fn emitted(sources: &[Source]) -> BTreeMap<String, BTreeSet<Vec<String>>> {
    #[derive(Default)]
    struct Emitted(BTreeMap<String, BTreeSet<Vec<String>>>);
    impl<'ast> Visit<'ast> for Emitted {
        fn visit_expr_call(&mut self, call: &'ast ExprCall) {
            let dimensions: &[&str] = match call.func.as_ref() {
                Expr::Path(function) => match path_text(&function.path).rsplit_once("metrics::") {
                    Some((_, "count" | "waited")) => &["Stage"],
                    Some((_, "gauge")) => &["Stage", "Context"],
                    _ => &[],
                },
                _ => &[],
            };
            if !dimensions.is_empty() {
                let Some(Expr::Lit(syn::ExprLit { lit: Lit::Str(name), .. })) = call.args.first() else {
                    panic!("a metric is not named where it is said");
                };
                let dimensions = dimensions.iter().map(|&name| name.to_owned()).collect();
                self.0.entry(name.value()).or_default().insert(dimensions);
            }
            visit::visit_expr_call(self, call);
        }
    }
    let mut emitted = Emitted::default();
    sources.iter().for_each(|source| emitted.visit_file(&source.production().file));
    emitted.0
}

fn sources() -> Vec<Source> {
    let crates = contexts().into_iter().chain(["kit".to_owned()]);
    let files = crates.flat_map(|name| rust_files(&crate_dir(&name).join("src")));
    files.map(|path| Source::read(&path)).collect()
}

/// A metric that a widget or an alarm uses: namespace, name, and its dimensions' names and values as the template
/// writes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Metric {
    namespace: String,
    name: String,
    dimensions: Vec<(String, String)>,
}

impl Metric {
    fn names(&self) -> Vec<String> {
        self.dimensions.iter().map(|(name, _)| name.clone()).collect()
    }

    fn value(&self, dimension: &str) -> &str {
        let found = self.dimensions.iter().find(|(name, _)| name == dimension);
        found.map_or("", |(_, value)| value)
    }
}

/// The body of the dashboard.
pub fn dashboard(template: &Template) -> Value {
    let (_, dashboard) = template.resources("AWS::CloudWatch::Dashboard").next().expect("there is a dashboard");
    serde_json::from_str(dashboard["DashboardBody"]["Fn::Sub"].as_str().expect("a body")).expect("a body is JSON")
}

/// The metrics of a widget. A dot stands for the value in the same place of the line before.
fn shown(widget: &Value) -> Vec<Metric> {
    let mut before: Vec<String> = Vec::new();
    let mut metrics = Vec::new();
    for line in widget["properties"]["metrics"].as_array().into_iter().flatten() {
        let words = line.as_array().into_iter().flatten().filter_map(Value::as_str).enumerate();
        before = words.map(|(place, word)| if word == "." { before[place].clone() } else { word.to_owned() }).collect();
        let [namespace, name, dimensions @ ..] = before.as_slice() else { panic!("{line} names no metric") };
        let dimensions = dimensions.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        metrics.push(Metric { namespace: namespace.clone(), name: name.clone(), dimensions });
    }
    metrics
}

fn on_dashboard(template: &Template) -> BTreeSet<Metric> {
    let body = dashboard(template);
    body["widgets"].as_array().into_iter().flatten().flat_map(shown).collect()
}

/// The metrics of the alarms.
fn alarmed(template: &Template) -> Vec<(String, Metric)> {
    let written = |value: &Value| match (value.as_str(), value["Ref"].as_str(), value["Fn::Sub"].as_str()) {
        (Some(text), ..) | (.., Some(text)) => text.to_owned(),
        (_, Some(name), _) => format!("${{{name}}}"),
        _ => value["Fn::GetAtt"].as_str().unwrap_or_default().to_owned(),
    };
    let of = |alarm: &Value| Metric {
        namespace: written(&alarm["Namespace"]),
        name: written(&alarm["MetricName"]),
        dimensions: {
            let dimensions = alarm["Dimensions"].as_array().into_iter().flatten();
            dimensions.map(|dimension| (written(&dimension["Name"]), written(&dimension["Value"]))).collect()
        },
    };
    template.resources("AWS::CloudWatch::Alarm").map(|(id, alarm)| (id.to_owned(), of(alarm))).collect()
}

/// Differences between the metrics that code emits and those that are used.
fn wrong(emitted: &BTreeMap<String, BTreeSet<Vec<String>>>, template: &Template) -> Vec<String> {
    let shown = on_dashboard(template);
    let looked_at = shown.iter().map(|metric| ("the dashboard".to_owned(), metric.clone())).chain(alarmed(template));
    let mut violations = Vec::new();
    for (place, metric) in looked_at.filter(|(_, metric)| metric.namespace == "Encore") {
        let exists = emitted.get(&metric.name).is_some_and(|dimensions| dimensions.contains(&metric.names()));
        if !exists || metric.value("Stage") != "${Stage}" {
            violations.push(format!("{place} looks at {metric:?}, which nobody says"));
        }
    }
    for (name, dimensions) in emitted {
        for dimensions in dimensions {
            let is_shown = |metric: &&Metric| {
                metric.namespace == "Encore" && metric.name == *name && metric.names() == *dimensions
            };
            if shown.iter().find(is_shown).is_none() {
                violations.push(format!("the dashboard does not show {name} by {dimensions:?}"));
            }
        }
    }
    violations
}

#[test]
fn every_metric_of_ours_that_is_used_is_emitted_and_every_emitted_one_is_on_the_dashboard() {
    let emitted = emitted(&sources());
    assert!(emitted.len() > 10, "metrics went missing: {emitted:?}");
    none(wrong(&emitted, &Template::read()));
}

#[test]
fn a_metric_that_is_not_emitted_and_one_that_is_not_used_are_found() {
    let source = r#"
        fn f() { metrics::count("Held", 1); kit::metrics::gauge("Age", "Seconds", context, 7); }
        #[cfg(test)] mod tests { fn t() { metrics::count("Nothing", 1); } }
    "#;
    let whole = r#"
Resources:
  Dashboard:
    Type: AWS::CloudWatch::Dashboard
    Properties:
      DashboardBody: !Sub |
        {"widgets": [{"properties": {"metrics": [
          ["Encore", "Held", "Stage", "${Stage}"], ["Encore", "Age", "Stage", "${Stage}", "Context", "a"],
          [".", ".", ".", ".", ".", "b"]
        ]}}]}
  Alarm:
    Type: AWS::CloudWatch::Alarm
    Properties:
      Namespace: Encore
      MetricName: Age
      Dimensions: [{ Name: Stage, Value: !Ref Stage }, { Name: Context, Value: b }]
"#;
    let emitted = emitted(&[Source::parse("x.rs", source)]);
    let wrong = |part: &str, broken: &str| wrong(&emitted, &Template::parse(&whole.replace(part, broken))).len();
    assert_eq!(wrong("", ""), 0);
    for (part, broken, found) in [
        (r#""Held""#, r#""Sold""#, 2),
        (r#"["Encore", "Held", "Stage", "${Stage}"],"#, "", 1),
        ("MetricName: Age", "MetricName: Held", 1),
        ("!Ref Stage", "local", 1),
        (r#""Context", "a""#, r#""Consumer", "a""#, 3),
    ] {
        assert_ne!(whole.replace(part, broken), whole, "{part}");
        assert_eq!(wrong(part, broken), found, "{part}");
    }
}

/// The values that a dimension has on the dashboard for a metric.
fn values(shown: &BTreeSet<Metric>, name: &str, dimension: &str) -> BTreeSet<String> {
    let of_name = shown.iter().filter(|metric| metric.name == name);
    of_name.map(|metric| metric.value(dimension).to_owned()).filter(|value| !value.is_empty()).collect()
}

/// The names of resources of a type, as the template writes them.
fn called(template: &Template, kind: &str, name: &str) -> BTreeSet<String> {
    let text = |properties: &Value| properties[name]["Fn::Sub"].as_str().unwrap_or_default().to_owned();
    template.resources(kind).map(|(_, properties)| text(properties)).collect()
}

/// The part of a state machine's ARN before its name.
const SAGA_ARN: &str = "arn:${AWS::Partition}:states:${AWS::Region}:${AWS::AccountId}:stateMachine:";

#[test]
fn every_function_queue_table_and_saga_is_on_the_dashboard_and_nothing_that_is_no_more() {
    let template = Template::read();
    let shown = on_dashboard(&template);
    let sagas = called(&template, "AWS::Serverless::StateMachine", "Name").into_iter();
    let sagas: BTreeSet<String> = sagas.map(|name| format!("{SAGA_ARN}{name}")).collect();
    let functions = called(&template, "AWS::Serverless::Function", "FunctionName");
    let queues = called(&template, "AWS::SQS::Queue", "QueueName");
    let tables = called(&template, "AWS::DynamoDB::Table", "TableName");
    let mut violations = Vec::new();
    for (metric, dimension, there) in [
        ("Errors", "FunctionName", &functions),
        ("ApproximateNumberOfMessagesVisible", "QueueName", &queues),
        ("ReadThrottleEvents", "TableName", &tables),
        ("WriteThrottleEvents", "TableName", &tables),
        ("ExecutionsFailed", "StateMachineArn", &sagas),
        ("ExecutionsTimedOut", "StateMachineArn", &sagas),
    ] {
        let shown = values(&shown, metric, dimension);
        violations.extend(there.difference(&shown).map(|name| format!("the dashboard has no {metric} of {name}")));
        violations
            .extend(shown.difference(there).map(|name| format!("the dashboard has {metric} of {name}: of what?")));
    }
    none(violations);
}

#[test]
fn every_index_is_on_the_dashboard() {
    let template = Template::read();
    let shown = on_dashboard(&template);
    let mut violations = Vec::new();
    for (id, table) in template.resources("AWS::DynamoDB::Table") {
        for index in table["GlobalSecondaryIndexes"].as_array().into_iter().flatten() {
            for metric in ["ReadThrottleEvents", "WriteThrottleEvents"] {
                let is_shown = |shown: &&Metric| {
                    shown.name == metric
                        && index["IndexName"] == shown.value("GlobalSecondaryIndexName")
                        && table["TableName"]["Fn::Sub"] == shown.value("TableName")
                };
                if shown.iter().find(is_shown).is_none() {
                    violations.push(format!("the dashboard has no {metric} of {} of {id}", index["IndexName"]));
                }
            }
        }
    }
    none(violations);
}

#[test]
fn the_on_call_is_paged_when_the_events_of_a_context_are_not_published() {
    let template = Template::read();
    let functions = template.functions();
    let sweeps = functions.iter().filter(|function| {
        function.variables().contains_key("EVENT_BUS") && function.triggers().iter().any(|by| by.kind == "Schedule")
    });
    let publishing: BTreeSet<String> = sweeps.map(|function| function.context().to_owned()).collect();
    let alarmed = alarmed(&template).into_iter().filter(|(_, metric)| metric.name == "OutboxAge");
    let alarmed: BTreeSet<String> = alarmed.map(|(_, metric)| metric.value("Context").to_owned()).collect();
    assert!(publishing.len() >= 4, "outboxes went missing: {publishing:?}");
    assert_eq!(alarmed, publishing, "alarms on OutboxAge");
    assert_eq!(values(&on_dashboard(&template), "OutboxAge", "Context"), publishing, "on the dashboard");
}

/// Scheduled functions without an alarm for when they no longer run, and metrics whose absence would be noticed too
/// late.
fn unnoticed(template: &Template) -> Vec<String> {
    let silence_calls = |alarm: &Value, least: u64| {
        alarm["TreatMissingData"] == json!({"Fn::If": ["IsLocal", "notBreaching", "breaching"]})
            && alarm["EvaluationPeriods"].as_u64().is_some_and(|periods| periods >= least)
    };
    let alarms: Vec<&Value> = template.resources("AWS::CloudWatch::Alarm").map(|(_, alarm)| alarm).collect();
    let mut violations = Vec::new();
    for function in template.functions() {
        let of_it = |alarm: &&&Value| {
            alarm["MetricName"] == "Errors"
                && logical_id(&alarm["Dimensions"][0]["Value"]).as_deref() == Some(function.id)
        };
        let scheduled = function.triggers().iter().any(|trigger| trigger.kind == "Schedule");
        // A minute or two without data may be CloudWatch's delay.
        if scheduled && !alarms.iter().filter(of_it).any(|alarm| silence_calls(alarm, 5)) {
            violations.push(format!("nobody is called when {} does not run", function.id));
        }
    }
    // If logs no longer became metrics, no alarm on ours would ever fire.
    let ours = alarms.iter().filter(|alarm| alarm["MetricName"] == "OutboxAge");
    violations.extend(
        ours.filter(|alarm| !silence_calls(alarm, 3)).map(|alarm| format!("{} takes missing data", alarm["AlarmName"])),
    );
    violations
}

#[test]
fn the_on_call_is_paged_when_what_is_scheduled_does_not_run() {
    none(unnoticed(&Template::read()));
    let stacks = Stacks::read();
    for (part, broken) in [
        ("      EvaluationPeriods: 5\n      DatapointsToAlarm: 1\n", "      EvaluationPeriods: 1\n"),
        ("      EvaluationPeriods: 3\n", "      EvaluationPeriods: 1\n"),
        ("!If [IsLocal, notBreaching, breaching]", "notBreaching"),
        ("!If [IsLocal, notBreaching, breaching]", "!If [IsProduction, notBreaching, breaching]"),
    ] {
        assert_eq!(unnoticed(&stacks.edited(part, broken).template()).len(), 1, "{part}");
    }
}

/// Logs without an alarm for functions that Lambda ended, which cannot log that themselves.
fn unseen_crashes(template: &Template) -> Vec<String> {
    let alarm = template.properties("CrashesAlarm");
    let counts = |id: &str, filter: &Value| {
        let metric = &filter["MetricTransformations"][0];
        logical_id(&filter["LogGroupName"]).as_deref() == Some(id)
            && CRASHES.iter().all(|crash| filter["FilterPattern"].as_str().is_some_and(|all| all.contains(crash)))
            && metric["MetricNamespace"] == alarm["Namespace"]
            && metric["MetricName"] == alarm["MetricName"]
            && metric["MetricValue"] == "1"
    };
    let filters: Vec<&Value> = template.resources("AWS::Logs::MetricFilter").map(|(_, filter)| filter).collect();
    let groups = template.resources("AWS::Logs::LogGroup").map(|(id, _)| id);
    let unseen = groups.filter(|id| filters.iter().filter(|filter| counts(id, filter)).count() != 1);
    unseen.map(|id| format!("nobody is called when a function that writes into {id} is ended")).collect()
}

/// How Lambda logs that it ended a function.
const CRASHES: [&str; 4] =
    ["\"Task timed out\"", "\"Runtime.ExitError\"", "\"Runtime.OutOfMemory\"", "\"Runtime.InvalidEntrypoint\""];

#[test]
fn the_on_call_is_paged_when_lambda_ends_a_function_whichever_log_it_writes_into() {
    let stacks = Stacks::read();
    let template = stacks.template();
    none(unseen_crashes(&template));
    let logs = template.resources("AWS::Logs::LogGroup").count();
    assert!(logs >= contexts().len() + 2, "logs went missing");
    for (part, broken, found) in [
        // One that is not counted, and one that is counted twice.
        ("LogGroupName: !Ref PointsLogs", "LogGroupName: !Ref ItemsLogs", 2),
        (" ?\"Runtime.OutOfMemory\"", "", 1),
        ("MetricNamespace: Encore/Lambda", "MetricNamespace: Encore", 1),
        ("MetricName: !Sub \"${System}-crashes\"", "MetricName: !Sub \"${System}-ends\"", 1),
        ("MetricName: !Sub ${System}-crashes", "MetricName: !Sub ${System}-ends", logs),
    ] {
        assert_eq!(unseen_crashes(&stacks.edited(part, broken).template()).len(), found, "{part}");
    }
}

#[test]
fn every_alarm_pages_the_on_call_and_has_the_name_of_its_system() {
    let template = Template::read();
    let mut names = BTreeSet::new();
    let mut violations = Vec::new();
    for (id, alarm) in template.resources("AWS::CloudWatch::Alarm") {
        let name = alarm["AlarmName"]["Fn::Sub"].as_str().unwrap_or_default();
        // By this prefix the rule for administrators distinguishes our alarms from others of the account.
        if !name.starts_with("${System}-") || !names.insert(name) {
            violations.push(format!("{id} is called {name:?}"));
        }
        let topics = alarm["AlarmActions"].as_array().into_iter().flatten().filter_map(logical_id);
        if topics.filter(|topic| template.kind_of(topic) == "AWS::SNS::Topic").count() != 1 {
            violations.push(format!("{id} calls nobody"));
        }
        if alarm["TreatMissingData"].is_null() {
            violations.push(format!("{id} does not say what missing data means"));
        }
    }
    none(violations);
}
