//! One structured log line per outcome.

use tracing_subscriber::EnvFilter;

/// The target of lines that something rests on (a subscription of the log reads them): written at every level.
pub const SAID: &str = "said";

/// Starts JSON logs on stdout, at the level of `LOG_LEVEL` (default `info`). Called once, by [`crate::Boot`].
pub fn start() {
    let filter = filter(&std::env::var("LOG_LEVEL").unwrap_or_default());
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        // CloudWatch stamps every line; formatting a second time costs CPU on each call.
        .without_time()
        .with_env_filter(filter)
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logs were started before");
    }
}

fn filter(level: &str) -> EnvFilter {
    let level = if level.is_empty() { "info" } else { level };
    let said = format!("{SAID}=info");
    EnvFilter::try_new(format!("{level},{said}")).unwrap_or_else(|_| EnvFilter::new(format!("info,{said}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_something_rests_on_is_written_at_every_level() {
        for level in ["", "error", "warn", "info", "debug", "no such level!"] {
            assert!(filter(level).to_string().contains("said=info"), "{level}");
        }
    }
}
