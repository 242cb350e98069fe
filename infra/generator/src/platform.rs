//! What all stacks depend on, and the dashboard, which shows all of them.

use crate::alarm::Alarm;
use crate::context::{all_functions, indexes, last_resorts, queues};
use crate::names::arn;
use crate::shapes::fill;
use crate::system::{Context, System};
use minijinja::context as holes;
use std::fmt::Write;

/// The resources of the stack `platform`.
pub fn resources(system: &System) -> Vec<String> {
    let parked = system.contexts.iter().flat_map(|context| &context.fragment.parked);
    let parked: Vec<String> = parked
        .map(|(name, because)| Alarm::not_empty(name, because, name, &format!("!Sub \"${{System}}-{name}\"")).text())
        .collect();
    vec![fill("platform", holes! { dashboard => dashboard(system), parked => parked.join("\n") })]
}

/// A widget: its position, its title, the statistic and the metrics.
struct Widget {
    at: [u32; 4],
    title: String,
    stat: &'static str,
    metrics: Vec<String>,
}

/// One metric by the values of one dimension.
fn each(namespace: &str, metric: &str, dimension: &str, values: impl IntoIterator<Item = String>) -> Vec<String> {
    values.into_iter().map(|value| line(&[namespace, metric, dimension, &value])).collect()
}

/// One of Encore's own metrics, of the whole stage.
fn ours(names: &[&str]) -> Vec<String> {
    each_metric("Encore", names, &["Stage", "${Stage}"])
}

fn each_metric(namespace: &str, names: &[&str], dimensions: &[&str]) -> Vec<String> {
    names.iter().map(|name| line(&[&[namespace, name], dimensions].concat())).collect()
}

fn line(words: &[&str]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    format!("[{}]", words.join(", "))
}

/// The same line with display options.
fn shown(line: String, how: &str) -> String {
    format!("{}, {{{how}}}]", line.trim_end_matches(']'))
}

fn dashboard(system: &System) -> String {
    let widgets: Vec<Widget> =
        [sale(), sagas(system), messages(system), api(system), functions(system)].into_iter().flatten().collect();
    let mut text = String::from(
        "  Dashboard:\n    Type: AWS::CloudWatch::Dashboard\n    Properties:\n      DashboardName: !Ref System\n      \
         DashboardBody: !Sub |\n        {\n          \"start\": \"-PT3H\",\n          \"widgets\": [\n",
    );
    for (number, widget) in widgets.iter().enumerate() {
        let [x, y, width, height] = widget.at;
        let Widget { title, stat, metrics, .. } = widget;
        let metrics = metrics.join(",\n                  ");
        let end = if number + 1 < widgets.len() { "," } else { "" };
        // Writing into a `String` cannot fail.
        let written = write!(
            text,
            "            {{\n              \"type\": \"metric\", \"x\": {x}, \"y\": {y}, \"width\": {width}, \"height\": {height},\n              \
             \"properties\": {{\n                \"title\": \"{title}\", \"region\": \"${{AWS::Region}}\", \"stat\": \"{stat}\", \"period\": 60,\n                \
             \"metrics\": [\n                  {metrics}\n                ]\n              }}\n            }}{end}\n"
        );
        debug_assert!(written.is_ok());
    }
    text + "          ]\n        }\n"
}

fn sale() -> Vec<Widget> {
    let parked = line(&["Encore", "Parked", "Stage", "${Stage}", "Context", "payments"]);
    vec![
        Widget {
            at: [0, 0, 12, 6],
            title: "The sale".to_owned(),
            stat: "Sum",
            metrics: ours(&[
                "Joined",
                "Admitted",
                "Held",
                "Extended",
                "Sold",
                "Charged",
                "OrdersPlaced",
                "OrdersCompleted",
            ]),
        },
        Widget {
            at: [12, 0, 6, 6],
            title: "What did not come about or was undone".to_owned(),
            stat: "Sum",
            metrics: ours(&[
                "Rejected",
                "Expired",
                "Cancelled",
                "Compensated",
                "Refunded",
                "Withdrawn",
                "OrdersFailed",
                "OrdersCancelled",
            ]),
        },
        Widget {
            at: [18, 0, 6, 6],
            title: "What waits for a person".to_owned(),
            stat: "Sum",
            metrics: [ours(&["DeadLettered", "Broken"]), vec![shown(parked, "\"stat\": \"Maximum\"")]].concat(),
        },
    ]
}

fn sagas(system: &System) -> Vec<Widget> {
    let machine = |name: &str| arn("states", &format!("stateMachine:${{System}}-{name}"));
    let names: Vec<&String> = system.contexts.iter().flat_map(|context| context.fragment.sagas.keys()).collect();
    let counts = ["ExecutionsStarted", "ExecutionsSucceeded", "ExecutionsFailed", "ExecutionsTimedOut"];
    // They share half of the width.
    let width = 12 / u32::try_from(names.len()).unwrap_or(1).max(1);
    let executions = names.iter().zip(0..).map(|(name, place)| Widget {
        at: [place * width, 6, width, 6],
        title: format!("Executions of the {}", name.replace('-', " ")),
        stat: "Sum",
        metrics: each_metric("AWS/States", &counts, &["StateMachineArn", &machine(name)]),
    });
    let aged = system.contexts.iter().flat_map(|context| {
        let of_it = context.fragment.ages.values();
        of_it.map(|age| line(&["Encore", &age.metric, "Stage", "${Stage}", "Context", &context.name]))
    });
    let durations = [
        Widget {
            at: [12, 6, 6, 6],
            title: "How long a saga takes, p99, in ms".to_owned(),
            stat: "p99",
            metrics: each("AWS/States", "ExecutionTime", "StateMachineArn", names.iter().map(|name| machine(name))),
        },
        Widget {
            at: [18, 6, 6, 6],
            title: "Age of the oldest payment, charge, withdrawal and order not at its end, in s".to_owned(),
            stat: "Maximum",
            metrics: aged.collect(),
        },
    ];
    executions.chain(durations).collect()
}

fn messages(system: &System) -> Vec<Widget> {
    let named = |of: fn(&Context) -> Vec<String>| -> Vec<String> {
        system.contexts.iter().flat_map(of).map(|queue| format!("${{System}}-{queue}")).collect()
    };
    let ages = each("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", named(queues));
    let waiting = "ApproximateNumberOfMessagesVisible";
    vec![
        Widget {
            at: [0, 12, 8, 7],
            title: "Messages that wait to be handled".to_owned(),
            stat: "Maximum",
            metrics: each("AWS/SQS", waiting, "QueueName", named(queues)),
        },
        Widget {
            at: [8, 12, 8, 7],
            title: "Age of the oldest message, in s".to_owned(),
            stat: "Maximum",
            metrics: [ages, ours(&["RetryAge"])].concat(),
        },
        Widget {
            at: [16, 12, 8, 7],
            title: "Dead letters and parked work".to_owned(),
            stat: "Maximum",
            metrics: each("AWS/SQS", waiting, "QueueName", named(last_resorts)),
        },
    ]
}

fn api(system: &System) -> Vec<Widget> {
    let outboxes = system.contexts.iter().filter(|context| context.fragment.outbox);
    let outboxes =
        outboxes.map(|context| line(&["Encore", "OutboxAge", "Stage", "${Stage}", "Context", &context.name]));
    let of_api = ["ApiName", "${System}-api", "Stage", "${Stage}"];
    let latency = |stat: &str| {
        let metric = each_metric("AWS/ApiGateway", &["Latency"], &of_api).remove(0);
        shown(metric, &format!("\"stat\": \"{stat}\", \"label\": \"{stat}\""))
    };
    let runs = system.contexts.iter().filter(|context| context.fragment.outbox);
    let left = runs.map(|context| line(&["Encore", "ShardsLeft", "Stage", "${Stage}", "Context", &context.name]));
    vec![
        Widget {
            at: [0, 19, 6, 6],
            title: "Age of the oldest event not published, in s".to_owned(),
            stat: "Maximum",
            metrics: outboxes.collect(),
        },
        Widget {
            at: [6, 19, 6, 6],
            title: "Shards that a run of a sweep did not come to the end of".to_owned(),
            stat: "Maximum",
            metrics: left.collect(),
        },
        Widget {
            at: [12, 19, 6, 6],
            title: "How long the API takes, in ms".to_owned(),
            stat: "p50",
            metrics: vec![latency("p50"), latency("p99")],
        },
        Widget {
            at: [18, 19, 6, 6],
            title: "Requests, and those refused or failed".to_owned(),
            stat: "Sum",
            metrics: each_metric("AWS/ApiGateway", &["Count", "4XXError", "5XXError"], &of_api),
        },
    ]
}

fn functions(system: &System) -> Vec<Widget> {
    let names = system.contexts.iter().flat_map(all_functions).map(|name| format!("${{System}}-{name}"));
    let throttled = |metric: &str| {
        let tables = system.contexts.iter().map(|context| format!("${{System}}-{}", context.name));
        let mut lines = each("AWS/DynamoDB", metric, "TableName", tables);
        for context in &system.contexts {
            for (index, ..) in indexes(&context.fragment) {
                let table = format!("${{System}}-{}", context.name);
                lines.push(line(&["AWS/DynamoDB", metric, "TableName", &table, "GlobalSecondaryIndexName", index]));
            }
        }
        lines
    };
    let running = shown(line(&["AWS/Lambda", "ConcurrentExecutions"]), "\"stat\": \"Maximum\"");
    vec![
        Widget {
            at: [0, 25, 10, 8],
            title: "Errors of functions".to_owned(),
            stat: "Sum",
            metrics: each("AWS/Lambda", "Errors", "FunctionName", names),
        },
        Widget {
            at: [10, 25, 4, 8],
            title: "Lambda's limits, of the whole account".to_owned(),
            stat: "Sum",
            metrics: [vec![line(&["AWS/Lambda", "Throttles"]), running], ours(&["Throttled"])].concat(),
        },
        Widget {
            at: [14, 25, 10, 8],
            title: "Throttled reads and writes of tables and indexes".to_owned(),
            stat: "Sum",
            metrics: [throttled("ReadThrottleEvents"), throttled("WriteThrottleEvents")].concat(),
        },
    ]
}
