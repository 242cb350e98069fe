//! Step Functions: where the sagas run.

use crate::domain::Execution;
use crate::ports::{EnsureSaga, StartSaga};
use kit::Fault;
use kit::fault::classify;
use kit::service::{ProvideErrorMetadata as _, Service};
use serde::Serialize;
use serde_json::json;

/// One saga's state machine.
#[derive(Debug, Clone)]
pub struct StateMachine {
    states: Service,
    state_machine_arn: String,
}

impl StateMachine {
    /// The state machine with this ARN.
    pub fn new(states: Service, state_machine_arn: String) -> Self {
        Self { states, state_machine_arn }
    }
}

impl StateMachine {
    /// Starts an execution, if there was none under its name. Whether it is known to run: a start under the name of one
    /// that runs, with its input, is answered like the first; under that of any other, with a refusal.
    async fn start_once(&self, name: &str, saga: &(impl Serialize + Sync)) -> Result<bool, Fault> {
        let input = serde_json::to_string(saga).map_err(|error| Fault::broken("starting a saga", error))?;
        let start = json!({ "stateMachineArn": self.state_machine_arn, "name": name, "input": input });
        match self.states.call("StartExecution", &start).await {
            Ok(_) => Ok(true),
            // It is running, or was: a name belongs to one payment or refund, so it can only be this saga.
            Err(error) if error.code() == Some("ExecutionAlreadyExists") => Ok(false),
            Err(error) => Err(classify("starting a saga", error)),
        }
    }

    async fn execution(&self, name: &str) -> Result<Execution, Fault> {
        let arn = format!("{}:{name}", self.state_machine_arn.replacen(":stateMachine:", ":execution:", 1));
        match self.states.call("DescribeExecution", &json!({ "executionArn": arn })).await {
            Ok(execution) if execution["status"] == "RUNNING" => Ok(Execution::Running),
            Ok(execution) if execution["status"].is_string() => Ok(Execution::Over),
            Ok(_) => Err(Fault::unavailable("looking at a saga", "it has no status")),
            Err(error) => Err(classify("looking at a saga", error)),
        }
    }
}

impl<I: Serialize + Sync> StartSaga<I> for StateMachine {
    async fn start(&self, name: &str, saga: &I) -> Result<(), Fault> {
        self.start_once(name, saga).await.map(drop)
    }
}

/// Starting comes first: it is answered for the many that never ran or run, at 150 a second by default in Seoul, where
/// `DescribeExecution` has 10 (<https://docs.aws.amazon.com/step-functions/latest/dg/service-quotas.html>).
impl<I: Serialize + Sync> EnsureSaga<I> for StateMachine {
    async fn ensure(&self, name: &str, saga: &I) -> Result<Execution, Fault> {
        if self.start_once(name, saga).await? { Ok(Execution::Running) } else { self.execution(name).await }
    }
}
