//! From environment to a running function: configuration, the clients a handler asks for, and the loop of its kind.
//!
//! Handlers' futures are boxed once here: unboxed, their nesting passes the compiler's depth limit.

use crate::auth::{QueueTokens, UserTokens};
use crate::dynamo::Table;
use crate::http::{Call, Problem, Reply};
use crate::invoke::Step;
use crate::logs::{self, Line, LogsEvent};
use crate::outbox::{Bus, Relay};
use crate::queue::{self, Message, Queue};
use crate::secrets::Secret;
use crate::step::{self, StepCall, StepError};
use crate::stream::{self, Record, StreamEvent};
use crate::{Fault, MainResult, aws, metrics, telemetry};
use aws_lambda_events::sqs::SqsEvent;
use aws_smithy_types::timeout::TimeoutConfig;
use lambda_http::http::Response;
use lambda_http::{Body, Request, RequestExt};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::convert::Infallible;
use std::env;
use std::str::FromStr;
use std::time::Duration;

/// What is kept of Lambda's time to answer that the time is up, in milliseconds.
const MARGIN_MILLIS: i64 = 500;
/// What is kept besides, of a consumer's time, to put messages back or among the dead letters.
const SETTLING: Duration = Duration::from_secs(3);

/// How long a step that waits for somebody outside is waited for. The API's own patience is 29 s.
const SLOW_STEP: Duration = Duration::from_secs(22);

/// What a function is started with.
///
/// One binary serves all handlers of a context; `_HANDLER` (the template's `Handler:`) names the one to be. A wrong or
/// missing setting ends the process at once, which fails the deployment's first call loudly instead of every call.
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
        // The process ends before it could answer anything: whoever watches a deployment learns it from here.
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

    /// The handler to be.
    pub fn handler(&self) -> &str {
        &self.handler
    }

    /// The end of `main`'s match: no such handler.
    pub fn unknown_handler(&self) -> MainResult {
        Err(BadSetting::new("_HANDLER", format!("{} is no handler of this binary", self.handler)).into())
    }

    /// A required setting.
    pub fn setting(&self, name: &str) -> Result<String, BadSetting> {
        env::var(name).ok().filter(|value| !value.is_empty()).ok_or_else(|| BadSetting::new(name, "is not set"))
    }

    /// A setting that parses, or `default` when it is not set.
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
    pub fn sfn(&self) -> aws_sdk_sfn::Client {
        aws_sdk_sfn::Client::new(&aws::config("SFN"))
    }

    /// A step of another context; `setting` names the setting with its function's name.
    pub fn step_of(&self, setting: &str) -> Result<Step, BadSetting> {
        Ok(Step::new(aws_sdk_lambda::Client::new(&aws::config("LAMBDA")), self.setting(setting)?))
    }

    /// The same for a step that waits for somebody outside: it is given time instead of being asked again.
    pub fn slow_step_of(&self, setting: &str) -> Result<Step, BadSetting> {
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(SLOW_STEP).operation_timeout(SLOW_STEP);
        let config = aws_sdk_lambda::config::Builder::from(&aws::config("LAMBDA")).timeout_config(timeouts.build());
        Ok(Step::new(aws_sdk_lambda::Client::from_conf(config.build()), self.setting(setting)?).within(SLOW_STEP))
    }

    /// The relay of `context` from its table to the bus (`EVENT_BUS`).
    pub fn relay(&self, context: &'static str) -> Result<Relay, BadSetting> {
        Ok(Relay::new(context, self.table()?, self.bus()?))
    }

    /// The event bus (`EVENT_BUS`).
    pub fn bus(&self) -> Result<Bus, BadSetting> {
        let client = aws_sdk_eventbridge::Client::new(&aws::config("EVENTBRIDGE"));
        Ok(Bus::new(client, self.setting("EVENT_BUS")?))
    }

    /// A secret; `setting` names the setting with its parameter's name in SSM.
    pub fn secret<T: DeserializeOwned + Clone>(&self, setting: &str) -> Result<Secret<T>, BadSetting> {
        Ok(Secret::new(aws_sdk_ssm::Client::new(&aws::config("SSM")), self.setting(setting)?))
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
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        lambda_http::run(service_fn(move |request: Request| async move {
            Ok::<_, Infallible>(serve(name, request, |call| Box::pin(handle(deps, call))).await)
        }))
        .await
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
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| async move {
            let outcome = step::run(name, event, |call| Box::pin(handle(deps, call))).await;
            outcome.map_err(Diagnostic::from)
        }))
        .await
    }

    /// Serves an SQS queue (`QUEUE`), message by message; those that cannot be handled end in `DEAD_LETTERS`.
    pub async fn queue<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        let queue = keep(self.own_queue()?);
        lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
            let patience = time_to_settle(event.context.deadline, crate::now());
            let handle = |message| Box::pin(handle(deps, message));
            Ok::<_, Infallible>(queue::run(queue, name, event.payload, patience, handle).await)
        }))
        .await
    }

    /// Serves an SQS queue as [`Boot::queue`] does, a whole batch at a time: one outcome for each message, in order.
    pub async fn batch<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Message>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Result<(), Fault>>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        let queue = keep(self.own_queue()?);
        lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| async move {
            let patience = time_to_settle(event.context.deadline, crate::now());
            let handle = |messages| Box::pin(handle(deps, messages));
            Ok::<_, Infallible>(queue::run_whole(queue, name, event.payload, patience, handle).await)
        }))
        .await
    }

    fn own_queue(&self) -> Result<Queue, BadSetting> {
        Ok(Queue::new(self.sqs(), self.setting("QUEUE")?, self.setting("DEAD_LETTERS")?))
    }

    /// Serves a subscription to log groups. A failure is reported to Lambda, which tries again and then hands the
    /// lines to the function's on-failure destination.
    pub async fn logs<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Line>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        lambda_runtime::run(service_fn(move |event: LambdaEvent<LogsEvent>| async move {
            let started = crate::now();
            let outcome = match logs::lines(&event.payload) {
                Ok(lines) => Box::pin(handle(deps, lines)).await,
                Err(fault) => Err(fault),
            };
            let millis = crate::now().millis_since(started);
            match &outcome {
                Ok(()) => tracing::info!(subscriber = name.as_str(), outcome = "done", millis),
                Err(fault) => {
                    tracing::error!(subscriber = name.as_str(), outcome = fault.name(), error = fault.chain(), millis);
                }
            }
            outcome.map_err(|fault| Diagnostic::from(StepError::Fault(fault)))
        }))
        .await
    }

    /// Serves batches of a table's stream.
    pub async fn stream<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, Vec<Record>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        lambda_runtime::run(service_fn(move |event: LambdaEvent<StreamEvent>| async move {
            Ok::<_, Infallible>(stream::run(name, event.payload, |records| Box::pin(handle(deps, records))).await)
        }))
        .await
    }

    /// Serves a schedule: its tick carries nothing.
    pub async fn schedule<D, F, Fut>(&self, deps: D, handle: F) -> MainResult
    where
        D: Send + Sync + 'static,
        F: Fn(&'static D, contracts::Timestamp) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        let (deps, handle, name) = (keep(deps), keep(handle), keep(self.handler.clone()));
        lambda_runtime::run(service_fn(move |_: LambdaEvent<Value>| async move {
            let now = crate::now();
            let outcome = Box::pin(handle(deps, now)).await;
            let millis = crate::now().millis_since(now);
            match &outcome {
                Ok(()) => tracing::info!(schedule = name.as_str(), outcome = "done", millis),
                Err(fault) => {
                    fault.count();
                    tracing::error!(schedule = name.as_str(), outcome = fault.name(), error = fault.chain(), millis);
                }
            }
            outcome.map_err(|fault| Diagnostic::from(StepError::Fault(fault)))
        }))
        .await
    }
}

/// What a function keeps for as long as its process lives.
fn keep<T>(value: T) -> &'static T {
    Box::leak(Box::new(value))
}

fn bad_keys(invalid: contracts::Invalid) -> BadSetting {
    BadSetting::new(invalid.what, invalid.why)
}

/// How long an answer may take: a little less than Lambda gives, so that the caller gets a problem that says to try
/// again instead of the gateway's word that something broke.
fn patience(request: &Request, now: contracts::Timestamp) -> Duration {
    time_left(request.lambda_context_ref().map_or(0, |context| context.deadline), now)
}

/// How long messages may take, so that there is time to say what becomes of those that took too long.
fn time_to_settle(deadline: u64, now: contracts::Timestamp) -> Duration {
    time_left(deadline, now).saturating_sub(SETTLING).max(Duration::from_millis(100))
}

/// Lambda's time until `deadline` (epoch milliseconds), less the margin; without a deadline, as much as one likes.
fn time_left(deadline: u64, now: contracts::Timestamp) -> Duration {
    let left = i64::try_from(deadline).unwrap_or(i64::MAX).saturating_sub(now.millis()).saturating_sub(MARGIN_MILLIS);
    if deadline == 0 { Duration::MAX } else { Duration::from_millis(u64::try_from(left).unwrap_or(0).max(100)) }
}

async fn serve<Fut>(name: &str, request: Request, handle: impl FnOnce(Call) -> Fut) -> Response<Body>
where
    Fut: Future<Output = Result<Reply, Problem>>,
{
    let now = crate::now();
    let patience = patience(&request, now);
    let call = Call::from_lambda(request, now);
    let request_id = call.request_id.clone();
    let outcome = match tokio::time::timeout(patience, handle(call)).await {
        Ok(outcome) => outcome,
        Err(late) => Err(Fault::unavailable("answering in time", late).into()),
    };
    let millis = crate::now().millis_since(now);
    match outcome {
        Ok(reply) => {
            tracing::info!(http = name, status = reply.status.as_u16(), request = request_id, millis);
            reply.into_response(&request_id)
        }
        Err(problem) => {
            let status = problem.status.as_u16();
            match &problem.fault {
                Some(fault) => {
                    fault.count();
                    tracing::error!(
                        http = name,
                        status,
                        code = problem.code,
                        error = fault.chain(),
                        request = request_id,
                        millis
                    );
                }
                None => tracing::info!(http = name, status, code = problem.code, request = request_id, millis),
            }
            problem.into_response(&request_id)
        }
    }
}
