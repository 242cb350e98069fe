//! One structured log line per outcome.

use crate::metrics;
use std::io::{self, Write};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The target of lines that a log subscription consumes: written at every level.
pub const SAID: &str = "said";

/// Starts JSON logs on stdout, at the level of `LOG_LEVEL` (default `info`), each line with the `handler` that wrote
/// it: a context's functions share a log. Called once, by [`crate::Boot`].
pub fn start(handler: &str) {
    let filter = filter(&std::env::var("LOG_LEVEL").unwrap_or_default());
    let started = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_target(false)
        // CloudWatch adds a timestamp to every line; formatting another one costs CPU on each call.
        .without_time()
        .with_env_filter(filter)
        .with_writer(Named::new(handler))
        .try_init();
    if let Err(error) = started {
        tracing::debug!(%error, "logs were started before");
    }
    std::panic::set_hook(Box::new(|panic| {
        metrics::count("Broken", 1);
        // Not the panic's message, which may contain personal data.
        tracing::error!(at = panic.location().map(ToString::to_string), "a function panicked");
    }));
}

fn filter(level: &str) -> EnvFilter {
    let level = if level.is_empty() { "info" } else { level };
    let said = format!("{SAID}=info");
    EnvFilter::try_new(format!("{level},{said}")).unwrap_or_else(|_| EnvFilter::new(format!("info,{said}")))
}

/// Writes lines to stdout with the handler's name in front.
#[derive(Clone, Copy)]
struct Named {
    /// `{"handler":"...",`: replaces a line's first brace.
    start: &'static [u8],
}

impl Named {
    fn new(handler: &str) -> Self {
        let start = format!("{{\"handler\":{},", serde_json::Value::from(handler));
        Self { start: start.leak().as_bytes() }
    }

    fn line(&self, line: &[u8]) -> Vec<u8> {
        match line {
            [b'{', rest @ ..] => [self.start, rest].concat(),
            other => other.to_vec(),
        }
    }
}

impl Write for Named {
    /// Takes whole lines, which is how the subscriber writes.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        io::stdout().lock().write_all(&self.line(line))?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush()
    }
}

impl MakeWriter<'_> for Named {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_handler() {
        let named = Named::new("use-points").line(br#"{"level":"INFO"}"#);
        assert_eq!(named, br#"{"handler":"use-points","level":"INFO"}"#);
    }

    #[test]
    fn lines_for_subscriptions_are_written_at_every_level() {
        for level in ["", "error", "warn", "info", "debug", "no such level!"] {
            assert!(filter(level).to_string().contains("said=info"), "{level}");
        }
    }
}
