//! Failures of the system, as opposed to refusals by a business rule, named for who must act, and the one
//! classification of AWS errors.

use crate::metrics;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// A failure of the system, not a refusal by a business rule.
///
/// The cause stays in `source`; the chain is logged once, at the edge.
#[derive(Debug)]
pub enum Fault {
    /// Other writers are writing the same item: retry soon, jittered.
    Contended(Cause),
    /// A dependency does not answer: retry with backoff.
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
    /// Other writers were in the way of `doing`.
    pub fn contended(doing: &'static str) -> Self {
        Self::Contended(Cause { doing, source: None, retry_after: None })
    }

    /// A dependency of `doing` does not answer.
    pub fn unavailable(doing: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Unavailable(Cause { doing, source: Some(source.into()), retry_after: None })
    }

    /// `doing` met a bug or corrupt data.
    pub fn broken(doing: &'static str, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Broken(Cause { doing, source: Some(source.into()), retry_after: None })
    }

    /// The same with the wait that the called system asks for (`Retry-After`).
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        match &mut self {
            Self::Contended(cause) | Self::Unavailable(cause) | Self::Broken(cause) => cause.retry_after = wait,
        }
        self
    }

    /// How long to wait before a retry, if the called system asks for it.
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

    /// Counts it if it is broken: a healthy system has no such faults, so a single one pages the on-call and stops a
    /// deployment.
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

/// Whether AWS rejected a call because of a limit: of a table, a partition, a function or the account.
pub(crate) fn is_throttling(code: &str) -> bool {
    matches!(
        code,
        "ProvisionedThroughputExceededException"
            | "ThrottlingException"
            | "RequestLimitExceeded"
            | "TooManyRequestsException"
            // As they appear in a transaction's cancellation reasons.
            | "ProvisionedThroughputExceeded"
            | "ThrottlingError"
    )
}

/// Whether a write of one item was not made because its condition does not hold, which is no fault.
pub fn is_condition_failed<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> bool {
    error.code() == Some("ConditionalCheckFailedException")
}

/// Classifies a failed call. A failed condition is not a fault: handle it before ([`is_condition_failed`]).
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
            // Retried here and by the caller: nothing is lost, but it should be visible.
            metrics::count("Throttled", 1);
            Fault::contended(doing)
        }
        "TransactionConflictException" | "TransactionInProgressException" => Fault::contended(doing),
        "ValidationException" | "SerializationException" | "IdempotentParameterMismatchException" => {
            Fault::broken(doing, error)
        }
        code => {
            // Everything else is fixed by time or by an operator. What only an operator can fix counts as broken.
            if matches!(code, "AccessDeniedException" | "ResourceNotFoundException") {
                metrics::count("Broken", 1);
            }
            Fault::unavailable(doing, error)
        }
    }
}
