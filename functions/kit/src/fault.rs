//! Failures that are nobody's business decision, named for who must act.

use crate::metrics;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A failure of the system, not a refusal of the business.
///
/// The cause stays in `source`; the chain is logged once, at the edge.
#[derive(Debug)]
pub enum Fault {
    /// Others are writing the same thing: retry soon, jittered.
    Contended(Cause),
    /// Something needed does not answer: retry with backoff.
    Unavailable(Cause),
    /// A bug or corrupt data: stop and alert.
    Broken(Cause),
}

/// What was being done, and why it failed.
#[derive(Debug)]
pub struct Cause {
    doing: &'static str,
    source: Option<Box<dyn StdError + Send + Sync>>,
    retry_after: Option<Duration>,
}

impl Fault {
    /// Others were writing while `doing`.
    pub fn contended(doing: &'static str) -> Self {
        Self::Contended(Cause { doing, source: None, retry_after: None })
    }

    /// What is needed for `doing` does not answer.
    pub fn unavailable(doing: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable(Cause { doing, source: Some(source.into()), retry_after: None })
    }

    /// `doing` met what must not be.
    pub fn broken(doing: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken(Cause { doing, source: Some(source.into()), retry_after: None })
    }

    /// The same, knowing when whoever was asked wants to be asked again (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        match &mut self {
            Self::Contended(cause) | Self::Unavailable(cause) | Self::Broken(cause) => cause.retry_after = wait,
        }
        self
    }

    /// When to try again, if whoever was asked said so.
    pub fn wait(&self) -> Option<Duration> {
        self.cause().retry_after
    }

    /// Its name for Step Functions and logs: one of [`contracts::saga::error_name`].
    pub const fn name(&self) -> &'static str {
        use contracts::saga::error_name;
        match self {
            Self::Contended(_) => error_name::CONTENDED,
            Self::Unavailable(_) => error_name::UNAVAILABLE,
            Self::Broken(_) => error_name::BROKEN,
        }
    }

    fn cause(&self) -> &Cause {
        match self {
            Self::Contended(cause) | Self::Unavailable(cause) | Self::Broken(cause) => cause,
        }
    }

    /// Counts it, if no retry will help: such a fault has no place in a healthy system, so one alone calls somebody, and
    /// stops a deployment.
    pub(crate) fn count(&self) {
        if matches!(self, Self::Broken(_)) {
            metrics::count("Broken", 1);
        }
    }

    /// The whole chain in one line, for the log.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = self.source();
        while let Some(cause) = next {
            line.push_str(": ");
            line.push_str(&cause.to_string());
            next = cause.source();
        }
        line
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} while {}", self.name(), self.cause().doing)
    }
}

impl StdError for Fault {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause().source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}
