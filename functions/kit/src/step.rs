//! Saga steps: typed input, typed answer, and failures under the names on which the state machine routes.

use crate::Fault;
use contracts::Timestamp;
use contracts::saga::error_name;
use lambda_runtime::{Diagnostic, LambdaEvent};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One call of a step.
#[derive(Debug, Clone)]
pub struct StepCall<T> {
    /// What the step needs.
    pub input: T,
    /// When it was received.
    pub now: Timestamp,
}

/// Why a step did not take effect.
#[derive(Debug)]
pub enum StepError {
    /// A business rule refuses it; with the reason's stable name. Never retried.
    Refused(&'static str),
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for StepError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StepError> for Diagnostic {
    fn from(error: StepError) -> Self {
        match error {
            StepError::Refused(reason) => {
                Diagnostic { error_type: error_name::REFUSED.to_owned(), error_message: reason.to_owned() }
            }
            // The chain is in the log; the caller gets only the kind of failure and the operation.
            StepError::Fault(fault) => {
                Diagnostic { error_type: fault.name().to_owned(), error_message: fault.to_string() }
            }
        }
    }
}

/// Runs one event through a step and logs its outcome.
pub(crate) async fn run<I, O, Fut>(
    name: &str,
    event: LambdaEvent<Value>,
    handle: impl FnOnce(StepCall<I>) -> Fut,
) -> Result<O, StepError>
where
    I: DeserializeOwned,
    O: Serialize,
    Fut: Future<Output = Result<O, StepError>>,
{
    let now = crate::now();
    let correlation = correlation_of(&event.payload);
    let outcome = match serde_json::from_value(event.payload) {
        Ok(input) => handle(StepCall { input, now }).await,
        Err(error) => Err(StepError::Fault(Fault::broken("reading a step's input", error))),
    };
    let millis = crate::now().millis_since(now);
    match &outcome {
        Ok(_) => tracing::info!(step = name, outcome = "done", correlation, millis),
        Err(StepError::Refused(reason)) => {
            tracing::info!(step = name, outcome = "refused", reason, correlation, millis);
        }
        Err(StepError::Fault(fault)) => {
            fault.count();
            tracing::error!(step = name, outcome = fault.name(), error = fault.chain(), correlation, millis);
        }
    }
    outcome
}

fn correlation_of(payload: &Value) -> String {
    let named = |name| payload.get(name).and_then(Value::as_str);
    named("correlation_id").or_else(|| named("payment_id")).unwrap_or_default().to_owned()
}
