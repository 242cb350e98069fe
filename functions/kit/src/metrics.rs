//! Metrics as CloudWatch's embedded metric format: one line in the log, no call.
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>

use contracts::Timestamp;
use serde_json::{Value, json};
use std::io::Write;

/// The namespace of our own metrics. They have the dimension `Stage`, those of one context also `Context`.
pub const NAMESPACE: &str = "Encore";

/// Counts occurrences: `Joined`, `Held`, `Sold`, ...
pub fn count(name: &'static str, amount: u64) {
    say(name, "Count", &[], amount);
}

/// How long something has waited, in seconds, without the dimension `Context`.
pub fn waited(name: &'static str, seconds: u64) {
    say(name, "Seconds", &[], seconds);
}

/// A measured value of one context, for example the age of its oldest unpublished event in seconds.
pub fn gauge(name: &'static str, unit: &'static str, context: &str, value: u64) {
    say(name, unit, &[("Context", context)], value);
}

/// How long the oldest has waited, in seconds; zero when nothing waits.
pub fn oldest(since: impl Iterator<Item = Timestamp>, now: Timestamp) -> u64 {
    let oldest = since.fold(now, Timestamp::min);
    u64::try_from(now.millis_since(oldest) / 1000).unwrap_or(0)
}

fn say(name: &str, unit: &str, dimensions: &[(&str, &str)], value: u64) {
    // Set for every function; anything else has no metrics.
    let Ok(stage) = std::env::var("STAGE") else { return };
    let line = line(name, unit, &stage, dimensions, value, crate::now().millis());
    // A metric that cannot be written must not fail the operation it counts.
    if let Err(error) = writeln!(std::io::stdout().lock(), "{line}") {
        tracing::debug!(%error, "a metric was lost");
    }
}

fn line(name: &str, unit: &str, stage: &str, more: &[(&str, &str)], value: u64, now_millis: i64) -> Value {
    let mut names = vec!["Stage"];
    names.extend(more.iter().map(|(dimension, _)| *dimension));
    let mut line = json!({
        "_aws": {
            "Timestamp": now_millis,
            "CloudWatchMetrics": [
                {"Namespace": NAMESPACE, "Dimensions": [names], "Metrics": [{"Name": name, "Unit": unit}]}
            ],
        },
        "Stage": stage,
        name: value,
    });
    for (dimension, value) in more {
        line[*dimension] = (*value).into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_that_of_the_oldest_and_never_below_zero() {
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1000);
        assert_eq!(oldest([at(40), at(10), at(90)].into_iter(), at(60)), 50);
        assert_eq!(oldest([at(90)].into_iter(), at(60)), 0);
        assert_eq!(oldest(std::iter::empty(), at(60)), 0);
    }

    #[test]
    fn a_line_names_its_metric_its_dimensions_and_its_value() {
        let line = line("Held", "Count", "prod", &[("Context", "reservations")], 2, 1_000);
        let metric = &line["_aws"]["CloudWatchMetrics"][0];
        assert_eq!(metric["Dimensions"], json!([["Stage", "Context"]]));
        assert_eq!(metric["Metrics"], json!([{"Name": "Held", "Unit": "Count"}]));
        assert_eq!(
            (&line["Held"], &line["Stage"], &line["Context"]),
            (&2.into(), &"prod".into(), &"reservations".into())
        );
    }
}
