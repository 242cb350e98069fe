//! What every function binary shares, so that a context holds only its own business.
//!
//! - [`boot`]: configuration and clients. `loops`: the loop each kind of function runs in.
//! - [`http`]: a parsed request in, a reply or a problem (RFC 9457) out.
//! - [`auth`]: user tokens and queue tokens. [`idempotency`]: keys and stored answers.
//! - [`step`]: saga steps. [`queue`]: SQS batches. [`stream`]: table streams. [`outbox`]: events that cannot be lost.
//! - [`service`]: AWS services of which a call or two is needed.
//! - [`outgoing`]: calls to providers outside. [`secrets`]: what they are signed with. [`logs`]: log lines as events.
//! - [`metrics`]: what happened, in numbers, without a call.
//! - [`dynamo`]: transactions and readers. [`invoke`]: asking another context for a step.
//! - [`fault`]: failures named for who must act; one classification of AWS's.

pub mod auth;
pub mod aws;
pub mod boot;
pub mod dynamo;
pub mod fault;
pub mod http;
pub mod idempotency;
pub mod ids;
pub mod invoke;
pub mod logs;
mod loops;
pub mod metrics;
pub mod outbox;
pub mod outgoing;
pub mod queue;
pub mod secrets;
pub mod service;
pub mod step;
pub mod stream;
pub mod telemetry;

pub use boot::Boot;
pub use fault::Fault;
pub use http::{Call, Problem, Reply};
pub use step::{StepCall, StepError};

/// What a binary's `main` returns.
pub type MainResult = Result<(), lambda_runtime::Error>;

/// The wall clock. Use cases never read it: they get the moment their call was received.
pub fn now() -> contracts::Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    contracts::Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
