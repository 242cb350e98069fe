//! The sagas' steps, called as their state machines call them: the context's real handler on its real table.

use crate::dynamo::Tables;
use crate::machine::{TaskError, TaskResult};
use contracts::Timestamp;
use contracts::saga::{CancelRefund, Done, FailedPayment, Release, error_name};
use kit::{StepCall, StepError};
use payments::dynamo::Payments;
use payments::handlers::{cancel_refund, complete_payment, complete_refund, fail_payment};
use points::dynamo::Accounts;
use points::handlers::{return_points, use_points};
use reservations::dynamo::Reservations;
use reservations::handlers::{begin_payment, confirm_reservation, refund_reservation, release_reservation};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use waiting_room::domain::ShardCount;
use waiting_room::dynamo::Lines;
use waiting_room::handlers::{expire_queue_token, restore_queue_token};

/// The tables that a sale touches.
#[derive(Debug)]
pub struct Steps {
    pub reservations: Reservations,
    pub accounts: Accounts,
    pub payments: Payments,
    lines: Lines,
}

impl Steps {
    /// On these tables.
    pub fn on(tables: &Tables) -> Self {
        Self {
            reservations: Reservations::new(tables.of("reservations")),
            accounts: Accounts::new(tables.of("points")),
            payments: Payments::new(tables.of("payments")),
            lines: Lines::new(tables.of("waiting-room"), ShardCount::ONE),
        }
    }

    /// Calls the function behind a state.
    pub async fn call(&self, state: &str, data: &Value, now: Timestamp) -> TaskResult {
        match state {
            "BeginPayment" => answered(begin_payment(&self.reservations, step(data, now)).await),
            "UsePoints" => answered(use_points(&self.accounts, step(data, now)).await),
            "ExpireQueueToken" => answered(expire_queue_token(&self.lines, step(data, now)).await),
            "ConfirmReservation" => answered(confirm_reservation(&self.reservations, step(data, now)).await),
            "CompletePayment" => answered(complete_payment(&self.payments, step(data, now)).await),
            "ReleaseReservation" => answered::<Release>(release_reservation(&self.reservations, step(data, now)).await),
            "RestoreQueueToken" => answered(restore_queue_token(&self.lines, step(data, now)).await),
            "ReturnPoints" => answered::<Done>(return_points(&self.accounts, step(data, now)).await),
            "FailPayment" => answered(fail_payment(&self.payments, step::<FailedPayment>(data, now)).await),
            "RefundReservation" => answered(refund_reservation(&self.reservations, step(data, now)).await),
            "CompleteRefund" => answered(complete_refund(&self.payments, step(data, now)).await),
            "CancelRefund" => answered(cancel_refund(&self.payments, step::<CancelRefund>(data, now)).await),
            other => panic!("no function behind {other}"),
        }
    }
}

fn step<I: DeserializeOwned>(data: &Value, now: Timestamp) -> StepCall<I> {
    StepCall { input: serde_json::from_value(data.clone()).unwrap(), now }
}

/// What the state machine gets of a step's outcome.
pub fn answered<O: Serialize>(outcome: Result<O, StepError>) -> TaskResult {
    match outcome {
        Ok(answer) => Ok(serde_json::to_value(answer).unwrap()),
        Err(StepError::Refused(reason)) => Err(TaskError { name: error_name::REFUSED, message: reason.to_owned() }),
        Err(StepError::Fault(fault)) => Err(TaskError { name: fault.name(), message: fault.chain() }),
    }
}
