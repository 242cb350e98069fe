//! Failures that are nobody's business decision, named for who must act, and the one classification of AWS's.

use crate::metrics;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
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

    /// Counts it, if no retry will help: such a fault has no place in a healthy system, so one alone pages the on-call, and
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

/// Whether AWS refused a call for a limit: of a table, a partition, a function or the account.
pub(crate) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            // As a transaction's reasons have them.
            | "ProvisionedThroughputExceeded"
            | "ThrottlingError"
    )
}

/// Says who must act on a failed call. A failed condition is not a fault: handle it before.
pub fn classify<E, R>(doing: &'static str, error: SdkError<E, R>) -> Fault
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    R: fmt::Debug + Send + Sync + 'static,
{
    match &error {
        SdkError::ConstructionFailure(_) => return Fault::broken(doing, error),
        SdkError::ServiceError(_) => {}
        // No usable answer: it may or may not have been carried out.
        _ => return Fault::unavailable(doing, error),
    }
    match error.code().unwrap_or_default() {
        code if is_throttling(code) => {
            // Tried again, here and by whoever asked: nothing is lost, but somebody should know.
            metrics::count("Throttled", 1);
            Fault::contended(doing)
        }
        "TransactionConflictException" | "TransactionInProgressException" => Fault::contended(doing),
        "ValidationException" | "SerializationException" | "IdempotentParameterMismatchException" => {
            Fault::broken(doing, error)
        }
        code => {
            // Everything else an operator or time can mend. What only an operator can is no passing trouble.
            if matches!(code, "AccessDeniedException" | "ResourceNotFoundException") {
                metrics::count("Broken", 1);
            }
            Fault::unavailable(doing, error)
        }
    }
}
