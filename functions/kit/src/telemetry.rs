//! One structured log line per outcome.

use tracing_subscriber::EnvFilter;

/// Starts JSON logs on stdout, at the level of `LOG_LEVEL` (default `info`). Called once, by [`crate::Boot`].
pub fn start() {
    let filter = EnvFilter::try_from_env("LOG_LEVEL").unwrap_or_else(|_| EnvFilter::new("info"));
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
