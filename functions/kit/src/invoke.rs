//! Calls steps of other contexts within an HTTP request: a synchronous Lambda invocation.

use crate::fault::classify;
use crate::service::{Request, Service};
use crate::{Fault, dynamo};
use contracts::saga::error_name;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a step is called before its failure is ours.
const ATTEMPTS: u32 = 3;
/// How long all tries together may take: below the timeout of the calling function.
const DEADLINE: Duration = Duration::from_secs(7);

/// One step of another context.
#[derive(Debug, Clone)]
pub struct Function {
    lambda: Service,
    function: String,
    deadline: Duration,
    attempts: u32,
}

#[derive(Deserialize)]
struct StepFailure {
    #[serde(rename = "errorType", default)]
    error_type: String,
    #[serde(rename = "errorMessage", default)]
    message: String,
}

impl Function {
    /// The step of a function, by its name.
    pub fn new(lambda: Service, function: String) -> Self {
        Self { lambda, function, deadline: DEADLINE, attempts: ATTEMPTS }
    }

    /// The same with one try that may take longer: for a step that waits for an external system and retries itself.
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, attempts: 1, ..self }
    }

    /// Calls the step. Steps are idempotent, so contention and unavailability are retried, jittered and bounded.
    pub async fn call_function<I: Serialize, O: DeserializeOwned>(
        &self,
        doing: &'static str,
        input: &I,
    ) -> Result<O, Fault> {
        let payload = serde_json::to_vec(input).map_err(|error| Fault::broken(doing, error))?;
        let tries = async {
            let mut attempt = 0;
            loop {
                let outcome = self.ask_once(doing, &payload).await;
                attempt += 1;
                match outcome {
                    Err(Fault::Contended(_) | Fault::Unavailable(_)) if attempt < self.attempts => {
                        tokio::time::sleep(dynamo::jitter(attempt)).await;
                    }
                    outcome => return outcome,
                }
            }
        };
        tokio::time::timeout(self.deadline, tries).await.unwrap_or_else(|late| Err(Fault::unavailable(doing, late)))
    }

    async fn ask_once<O: DeserializeOwned>(&self, doing: &'static str, payload: &[u8]) -> Result<O, Fault> {
        let answer = self.lambda.send(Request::invocation(&self.function, payload)).await;
        let answer = answer.map_err(|error| classify(doing, error))?;
        let body = answer.body.as_slice();
        if answer.header("x-amz-function-error").is_none() {
            return serde_json::from_slice(body).map_err(|error| Fault::broken(doing, error));
        }
        let failure: StepFailure = serde_json::from_slice(body).map_err(|error| Fault::unavailable(doing, error))?;
        let answered = format!("{} answered {}: {}", self.function, failure.error_type, failure.message);
        Err(match failure.error_type.as_str() {
            error_name::CONTENDED => Fault::contended(doing),
            error_name::BROKEN | error_name::REFUSED => Fault::broken(doing, answered),
            _ => Fault::unavailable(doing, answered),
        })
    }
}
