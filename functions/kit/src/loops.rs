//! The loop of each kind of function: passes Lambda's events to a handler and its outcomes back.
//!
//! Nothing here is generic, and every future is boxed, so that all of it is compiled once, in this crate. Otherwise the
//! runtime below it would be compiled again for each handler of each program.

use crate::http::{Call, Problem, Reply};
use crate::logs::{self, Line, LogsEvent};
use crate::queue::{self, Message, Queue};
use crate::step::StepError;
use crate::stream::{self, Record, StreamEvent};
use crate::sweep::{Budget, RESERVED, Tick};
use crate::{Fault, MainResult};
use aws_lambda_events::sqs::SqsEvent;
use futures_util::future::{BoxFuture, LocalBoxFuture};
use lambda_http::http::Response;
use lambda_http::{Body, Request, RequestExt};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

/// How much of Lambda's time is reserved for answering that the time is up, in milliseconds.
const MARGIN_MILLIS: i64 = 500;
/// How much of a consumer's time is reserved besides, for returning messages or moving them to the dead letters.
const SETTLING: Duration = Duration::from_secs(3);

/// A handler, whatever it depends on.
pub(crate) type Handler<I, O> = Arc<dyn Fn(I) -> BoxFuture<'static, O> + Send + Sync>;

type Ended = LocalBoxFuture<'static, MainResult>;

/// HTTP requests.
pub(crate) fn http(name: &'static str, handle: Handler<Call, Result<Reply, Problem>>) -> Ended {
    Box::pin(lambda_http::run(service_fn(move |request: Request| {
        let handle = Arc::clone(&handle);
        async move { Ok::<_, Infallible>(answer(name, request, &handle).await) }
    })))
}

/// Steps of a saga.
pub(crate) fn step(handle: Handler<LambdaEvent<Value>, Result<Value, StepError>>) -> Ended {
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let outcome = handle(event);
        async move { outcome.await.map_err(Diagnostic::from) }
    })))
}

/// Messages of a queue, one by one.
pub(crate) fn queue(name: &'static str, queue: Queue, handle: Handler<Message, Result<(), Fault>>) -> Ended {
    let queue = Arc::new(queue);
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| {
        let (queue, handle) = (Arc::clone(&queue), Arc::clone(&handle));
        async move {
            let time_limit = time_to_settle(event.context.deadline, crate::now());
            Ok::<_, Infallible>(queue::run(&queue, name, event.payload, time_limit, &*handle).await)
        }
    })))
}

/// Messages of a queue, a batch at a time.
pub(crate) fn batch(name: &'static str, queue: Queue, handle: Handler<Vec<Message>, Vec<Result<(), Fault>>>) -> Ended {
    let queue = Arc::new(queue);
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<SqsEvent>| {
        let (queue, handle) = (Arc::clone(&queue), Arc::clone(&handle));
        async move {
            let time_limit = time_to_settle(event.context.deadline, crate::now());
            Ok::<_, Infallible>(queue::run_whole(&queue, name, event.payload, time_limit, &*handle).await)
        }
    })))
}

/// Lines of log groups.
pub(crate) fn logs(name: &'static str, handle: Handler<Vec<Line>, Result<(), Fault>>) -> Ended {
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<LogsEvent>| {
        let handle = Arc::clone(&handle);
        async move {
            let started = crate::now();
            let outcome = match logs::lines(&event.payload) {
                Ok(lines) => handle(lines).await,
                Err(fault) => Err(fault),
            };
            let millis = crate::now().millis_since(started);
            match &outcome {
                Ok(()) => tracing::info!(subscriber = name, outcome = "done", millis),
                Err(fault) => {
                    tracing::error!(subscriber = name, outcome = fault.name(), error = fault.chain(), millis);
                }
            }
            outcome.map_err(|fault| Diagnostic::from(StepError::Fault(fault)))
        }
    })))
}

/// Batches of a table's stream.
pub(crate) fn stream(name: &'static str, handle: Handler<Vec<Record>, Result<(), Fault>>) -> Ended {
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<StreamEvent>| {
        let handle = Arc::clone(&handle);
        async move { Ok::<_, Infallible>(stream::run(name, event.payload, &*handle).await) }
    })))
}

/// Ticks of a schedule.
pub(crate) fn schedule(name: &'static str, handle: Handler<Tick, Result<(), Fault>>) -> Ended {
    Box::pin(lambda_runtime::run(service_fn(move |event: LambdaEvent<Value>| {
        let handle = Arc::clone(&handle);
        async move {
            let now = crate::now();
            let budget = Budget::of(time_of_run(event.context.deadline, now));
            let outcome = handle(Tick { now, budget }).await;
            let millis = crate::now().millis_since(now);
            match &outcome {
                Ok(()) => tracing::info!(schedule = name, outcome = "done", millis),
                Err(fault) => {
                    fault.count();
                    tracing::error!(schedule = name, outcome = fault.name(), error = fault.chain(), millis);
                }
            }
            outcome.map_err(|fault| Diagnostic::from(StepError::Fault(fault)))
        }
    })))
}

/// How long an answer may take: a little less than Lambda's time, so that the caller gets a 503 that asks for a retry
/// instead of the gateway's error.
fn time_limit(request: &Request, now: contracts::Timestamp) -> Duration {
    time_left(request.lambda_context_ref().map_or(0, |context| context.deadline), now)
}

/// How long messages may take, so that there is time to settle those that took too long.
fn time_to_settle(deadline: u64, now: contracts::Timestamp) -> Duration {
    time_left(deadline, now).saturating_sub(SETTLING).max(Duration::from_millis(100))
}

/// How long a run may begin new work.
fn time_of_run(deadline: u64, now: contracts::Timestamp) -> Duration {
    let margin = Duration::from_millis(MARGIN_MILLIS.unsigned_abs());
    time_left(deadline, now).saturating_add(margin).saturating_sub(RESERVED)
}

/// Lambda's time until `deadline` (epoch milliseconds), less the margin; without a deadline, unlimited.
fn time_left(deadline: u64, now: contracts::Timestamp) -> Duration {
    let left = i64::try_from(deadline).unwrap_or(i64::MAX).saturating_sub(now.millis()).saturating_sub(MARGIN_MILLIS);
    if deadline == 0 { Duration::MAX } else { Duration::from_millis(u64::try_from(left).unwrap_or(0).max(100)) }
}

async fn answer(name: &str, request: Request, handle: &Handler<Call, Result<Reply, Problem>>) -> Response<Body> {
    let now = crate::now();
    let time_limit = time_limit(&request, now);
    let call = Call::from_lambda(request, now);
    let request_id = call.request_id.clone();
    let outcome = match tokio::time::timeout(time_limit, handle(call)).await {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_stops_five_seconds_before_its_function_is_stopped() {
        let now = contracts::Timestamp::from_millis(1_000_000);
        assert_eq!(time_of_run(1_050_000, now), Duration::from_secs(45));
        assert_eq!(time_of_run(1_004_000, now), Duration::ZERO, "a late start does nothing");
        assert!(time_of_run(0, now) > Duration::from_secs(1 << 40), "without a deadline there is no end");
    }
}
