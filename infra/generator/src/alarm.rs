//! Alarms: every one notifies the same topic, and states the problem and the section of the runbook.

use crate::names::{pascal, scalar};
use crate::shapes::fill;
use serde::Serialize;

/// Missing data is no breach.
const QUIET: &str = "notBreaching";
/// Missing data breaches, except on a local stage, whose engine records neither metrics from logs nor zero errors.
const LOUD: &str = "!If [IsLocal, notBreaching, breaching]";

/// An alarm.
#[derive(Debug, Clone, Serialize)]
pub struct Alarm {
    id: String,
    name: String,
    text: String,
    namespace: &'static str,
    metric: String,
    dimensions: String,
    statistic: &'static str,
    period: u32,
    periods: u32,
    of_them: Option<u32>,
    threshold: u32,
    missing: &'static str,
}

impl Alarm {
    fn new(name: &str, because: &str, section: &str) -> Self {
        Self {
            id: pascal(name),
            name: name.to_owned(),
            text: scalar(&format!("{because}. See infra/RUNBOOK.md#{section}")),
            namespace: "Encore",
            metric: String::new(),
            dimensions: String::new(),
            statistic: "Maximum",
            period: 60,
            periods: 1,
            of_them: None,
            threshold: 0,
            missing: QUIET,
        }
    }

    fn on(mut self, namespace: &'static str, metric: &str, dimension: &str, value: &str) -> Self {
        self.namespace = namespace;
        metric.clone_into(&mut self.metric);
        self.dimensions = format!("{{ Name: {dimension}, Value: {value} }}");
        self
    }

    fn on_own(mut self, metric: &str, context: &str) -> Self {
        metric.clone_into(&mut self.metric);
        self.dimensions = format!("{{ Name: Stage, Value: !Ref Stage }}, {{ Name: Context, Value: {context} }}");
        self
    }

    /// A queue that should be empty is not.
    pub fn not_empty(name: &str, because: &str, section: &str, queue: &str) -> Self {
        Self::new(name, because, section).on("AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", queue)
    }

    /// Messages wait for too long.
    pub fn late(name: &str, because: &str, section: &str, queue: &str, after: u32) -> Self {
        let alarm = Self::new(name, because, section);
        Self { threshold: after, ..alarm.on("AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue) }
    }

    /// A function that runs every minute fails, or does not run.
    pub fn failing(handler: &str, because: &str, section: &str, patient: bool) -> Self {
        let alarm = Self::new(handler, because, section);
        let alarm = alarm.on("AWS/Lambda", "Errors", "FunctionName", &format!("!Ref {}", pascal(handler)));
        Self { statistic: "Sum", periods: 5, of_them: (!patient).then_some(1), missing: LOUD, ..alarm }
    }

    /// A function is behind the stream that it reads.
    pub fn behind(name: &str, because: &str, section: &str, handler: &str) -> Self {
        let alarm = Self::new(name, because, section);
        let alarm = alarm.on("AWS/Lambda", "IteratorAge", "FunctionName", &format!("!Ref {}", pascal(handler)));
        Self { threshold: 60_000, ..alarm }
    }

    /// Events of a context wait to be published.
    pub fn unpublished(context: &str) -> Self {
        let because = format!("Events of {context} wait for more than five minutes to be published");
        let alarm = Self::new(&format!("outbox-age-{context}"), &because, "outboxes").on_own("OutboxAge", context);
        Self { id: format!("{}OutboxAge", pascal(context)), periods: 3, threshold: 300, missing: LOUD, ..alarm }
    }

    /// Something does not end. Whatever takes long is checked less and less often, once an hour at least.
    pub fn aged(name: &str, because: &str, metric: &str, context: &str, after: u32) -> Self {
        let alarm = Self::new(name, because, "sagas").on_own(metric, context);
        Self { period: 300, periods: 14, of_them: Some(1), threshold: after, ..alarm }
    }

    /// Executions of a state machine ended unsuccessfully.
    pub fn executions(name: &str, because: &str, metric: &str, saga: &str) -> Self {
        let machine = format!("!Ref {}", pascal(saga));
        Self {
            statistic: "Sum",
            ..Self::new(name, because, "sagas").on("AWS/States", metric, "StateMachineArn", &machine)
        }
    }

    /// The alarm as a resource.
    pub fn text(&self) -> String {
        fill("alarm", self)
    }
}
