//! What every function binary shares, so that a context contains only its own business logic.
//!
//! - [`boot`]: configuration and clients. `loops`: the loop each kind of function runs in.
//! - [`http`]: a parsed request in, a reply or a problem (RFC 9457) out.
//! - [`auth`]: user tokens and queue tokens. [`idempotency`]: keys and stored answers.
//! - [`step`]: saga steps. [`queue`]: SQS batches. [`stream`]: table streams. [`outbox`]: events that cannot be lost.
//! - [`sweep`]: scheduled runs over what is due, within their time.
//! - [`service`]: AWS services of which only one or two calls are needed.
//! - [`outgoing`]: calls to external providers. [`secrets`]: their credentials. [`logs`]: log lines as events.
//! - [`metrics`]: metrics, written as log lines.
//! - [`dynamo`]: transactions and readers. [`invoke`]: calling a step of another context.
//! - [`fault`]: kinds of failure, named for who must act; one classification of AWS errors.

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
pub mod sweep;
pub mod telemetry;

pub use boot::Boot;
pub use fault::Fault;
pub use http::{Call, Problem, Reply};
pub use step::{StepCall, StepError};
pub use sweep::Tick;

/// What a binary's `main` returns.
pub type MainResult = Result<(), lambda_runtime::Error>;

/// The wall clock. Use cases never read it: they are given the time at which their call was received.
pub fn now() -> contracts::Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    contracts::Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}
