//! Step Functions: where the sagas run.

use crate::domain::Execution;
use crate::ports::{StartSaga, WatchSaga};
use aws_sdk_sfn::Client;
use aws_sdk_sfn::types::ExecutionStatus;
use kit::Fault;
use kit::dynamo::classify;
use serde::Serialize;

/// One saga's state machine.
#[derive(Debug, Clone)]
pub struct StateMachine {
    client: Client,
    state_machine_arn: String,
}

impl StateMachine {
    /// The one with this ARN.
    pub fn new(client: Client, state_machine_arn: String) -> Self {
        Self { client, state_machine_arn }
    }
}

impl<I: Serialize + Sync> StartSaga<I> for StateMachine {
    async fn start(&self, name: &str, saga: &I) -> Result<(), Fault> {
        let input = serde_json::to_string(saga).map_err(|error| Fault::broken("starting a saga", error))?;
        let started = self
            .client
            .start_execution()
            .state_machine_arn(&self.state_machine_arn)
            .name(name)
            .input(input)
            .send()
            .await;
        match started {
            Ok(_) => Ok(()),
            Err(error) => match error.as_service_error() {
                // It runs, or ran: a name belongs to one payment or refund, so it can only be this saga.
                Some(exists) if exists.is_execution_already_exists() => Ok(()),
                _ => Err(classify("starting a saga", error)),
            },
        }
    }
}

impl WatchSaga for StateMachine {
    async fn execution(&self, name: &str) -> Result<Execution, Fault> {
        let arn = format!("{}:{name}", self.state_machine_arn.replacen(":stateMachine:", ":execution:", 1));
        let found = self.client.describe_execution().execution_arn(arn).send().await;
        match found {
            Ok(execution) if execution.status == ExecutionStatus::Running => Ok(Execution::Running),
            Ok(_) => Ok(Execution::Over),
            Err(error) => match error.as_service_error() {
                Some(missing) if missing.is_execution_does_not_exist() => Ok(Execution::Missing),
                _ => Err(classify("looking at a saga", error)),
            },
        }
    }
}
