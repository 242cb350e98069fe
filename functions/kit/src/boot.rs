//! From environment to a running function: configuration, the clients a handler needs, and the loop of its kind.

use crate::auth::{QueueTokens, UserTokens};
use crate::dynamo::Table;
use crate::http::{Call, Problem, Reply};
use crate::invoke::Function;
use crate::logs::Line;
use crate::loops::{self, Handler};
use crate::outbox::{Bus, Relay};
use crate::queue::{Message, Queue};
use crate::secrets::Secret;
use crate::service::{EVENTS, LAMBDA, SSM, STATES, Service};
use crate::step::{self, StepCall, StepError};
use crate::stream::Record;
use crate::sweep::Tick;
use crate::{Fault, MainResult, aws, metrics, telemetry};
use aws_smithy_types::timeout::TimeoutConfig;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::env;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// The time limit of a step that waits for an external system. The API's own is 29 s.
const SLOW_STEP: Duration = Duration::from_secs(22);

/// Starts a function: its settings, its clients and its loop.
///
/// One binary serves all handlers of a context; `_HANDLER` (the template's `Handler:`) names the one to run. A wrong or
/// missing setting ends the process at once, which fails the first call after a deployment loudly instead of every
/// call.
#[derive(Debug)]
pub struct Boot {
    handler: String,
}

/// A setting is missing or wrong.
#[derive(Debug, thiserror::Error)]
#[error("setting {name}: {why}")]
pub struct BadSetting {
    name: String,
    why: String,
}

impl BadSetting {
    fn new(name: impl Into<String>, why: impl Into<String>) -> Self {
        // The process ends before it can answer anything: this metric is how the deployment's alarms notice it.
        metrics::count("Broken", 1);
        let bad = Self { name: name.into(), why: why.into() };
        tracing::error!(error = %bad, "a function cannot start");
        bad
    }
}

impl Boot {
    /// Reads `_HANDLER` and starts the logs.
    pub fn start() -> Result<Self, BadSetting> {
        let boot = Self { handler: env::var("_HANDLER").unwrap_or_default() };
        telemetry::start(&boot.handler);
        boot.setting("_HANDLER")?;
        Ok(boot)
    }

    /// The handler to run.
    pub fn handler(&self) -> &str {
        &self.handler
    }

    /// The last arm of `main`'s match: no such handler.
    pub fn unknown_handler(&self) -> MainResult {
        Err(BadSetting::new("_HANDLER", format!("{} is no handler of this binary", self.handler)).into())
    }

    /// A required setting.
    pub fn setting(&self, name: &str) -> Result<String, BadSetting> {
        env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| BadSetting::new(name, "is not set"))
    }

    /// A setting, parsed, or `default` when it is not set.
    pub fn setting_or<T>(&self, name: &str, default: T) -> Result<T, BadSetting>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        match env::var(name).ok().filter(|value| !value.is_empty()) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|error: T::Err| BadSetting::new(name, error.to_string())),
        }
    }

    /// The context's table (`TABLE`).
    pub fn table(&self) -> Result<Table, BadSetting> {
        Ok(Table::new(aws_sdk_dynamodb::Client::new(&aws::config("DYNAMODB")), self.setting("TABLE")?))
    }

    /// An SQS client.
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        aws_sdk_sqs::Client::new(&aws::config("SQS"))
    }

    /// A Step Functions client.
    pub fn sfn(&self) -> Service {
        Service::new(STATES, &aws::config("SFN"))
    }

    /// A step of another context; `setting` names the setting with its function's name.
    pub fn function(&self, setting: &str) -> Result<Function, BadSetting> {
        Ok(Function::new(Service::new(LAMBDA, &aws::config("LAMBDA")), self.setting(setting)?))
    }

    /// The same for a step that waits for an external system: it is given more time instead of retries.
    pub fn slow_function(&self, setting: &str) -> Result<Function, BadSetting> {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(SLOW_STEP).operation_timeout(SLOW_STEP);
        let config = aws::config("LAMBDA").into_builder().timeout_config(timeouts.build()).build();
        Ok(Function::new(Service::new(LAMBDA, &config), self.setting(setting)?).within(SLOW_STEP))
    }

    /// The relay of `context` from its table to the bus (`EVENT_BUS`).
    pub fn relay(&self, context: &'static str) -> Result<Relay, BadSetting> {
        Ok(Relay::new(context, self.table()?, self.bus()?))
    }

    /// The event bus (`EVENT_BUS`).
    pub fn bus(&self) -> Result<Bus, BadSetting> {
        let events = Service::new(EVENTS, &aws::config("EVENTBRIDGE"));
        Ok(Bus::new(events, self.setting("EVENT_BUS")?))
    }

    /// A secret; `setting` names the setting with its parameter's name in SSM.
    pub fn secret<T: DeserializeOwned + Clone>(&self, setting: &str) -> Result<Secret<T>, BadSetting> {
        Ok(Secret::new(Service::new(SSM, &aws::config("SSM")), self.setting(setting)?))
    }

    /// The verifier of user tokens (`USER_JWKS`, `USER_TOKEN_ISSUER`).
    pub fn user_tokens(&self) -> Result<UserTokens, BadSetting> {
        UserTokens::new(&self.setting("USER_JWKS")?, &self.setting("USER_TOKEN_ISSUER")?).map_err(bad_keys)
    }

    /// The signer and verifier of queue tokens (`QUEUE_TOKEN_KEYS`).
    pub fn queue_tokens(&self) -> Result<QueueTokens, BadSetting> {
        QueueTokens::new(&self.setting("QUEUE_TOKEN_KEYS")?).map_err(bad_keys)
    }

    /// Serves HTTP requests.
    pub async fn http<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Call) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Problem>> + Send + 'static,
    {
        loops::http(self.name(), handler(deps, handle)).await
    }

    /// Serves a saga step.
    pub async fn step<D, I, O, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        I: DeserializeOwned + Send + 'static,
        O: Serialize + Send + 'static,
        F: Fn(&'static D, StepCall<I>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, StepError>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), self.name());
        let run = move |event| -> BoxFuture<'static, _> {
            Box::pin(async move {
                let output = step::run(name, event, |call| handle(deps, call)).await?;
                serde_json::to_value(output)
                    .map_err(|error| StepError::Fault(Fault::broken("writing a step's output", error)))
            })
        };
        loops::step(Arc::new(run)).await
    }

    /// Serves an SQS queue (`QUEUE`), message by message; those that cannot be handled go to `DEAD_LETTERS`.
    pub async fn queue<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        loops::queue(self.name(), self.own_queue()?, handler(deps, handle)).await
    }

    /// Serves an SQS queue as [`Boot::queue`] does, a whole batch at a time: one outcome for each message, in order.
    pub async fn batch<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Message>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<(), Fault>>> + Send + 'static,
    {
        loops::batch(self.name(), self.own_queue()?, handler(deps, handle)).await
    }

    fn own_queue(&self) -> Result<Queue, BadSetting> {
        Ok(Queue::new(self.sqs(), self.setting("QUEUE")?, self.setting("DEAD_LETTERS")?))
    }

    /// Serves a subscription to log groups. A failure is reported to Lambda, which retries and then sends the lines to
    /// the function's on-failure destination.
    pub async fn logs<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Line>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        loops::logs(self.name(), handler(deps, handle)).await
    }

    /// Serves batches of a table's stream.
    pub async fn stream<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Record>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        loops::stream(self.name(), handler(deps, handle)).await
    }

    /// Serves a schedule; its tick has no payload.
    pub async fn schedule<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Tick) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        loops::schedule(self.name(), handler(deps, handle)).await
    }

    fn name(&self) -> &'static str {
        keep(self.handler.clone())
    }
}

/// A handler with its dependencies, which live as long as the process.
fn handler<D, I, O, F, Fut>(deps: D, handle: F) -> Handler<I, O>
where
    D: Send + Sync + 'static,
    F: Fn(&'static D, I) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = O> + Send + 'static,
{
    let deps = keep(deps);
    Arc::new(move |input| Box::pin(handle(deps, input)))
}

/// Keeps a value for as long as the process lives.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn bad_keys(invalid: contracts::Invalid) -> BadSetting {
    BadSetting::new(invalid.what, invalid.why)
}
