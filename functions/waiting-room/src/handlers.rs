//! Handlers: translate HTTP requests, messages, steps and log lines into use cases, and their outcomes into answers.

use crate::activity::{self, Kind};
use crate::domain::{CALM_POLL_MILLIS, CheckBudget, CheckLimit, Place, Spent, plan_change};
use crate::ports::{
    ApplyPlan, Backoff, ClaimPlace, Clock, Count, CountEach, EndVisit, FillGap, FindGated, GiveUpPlace, IssuePlace,
    NoteTurn, OpenLine, Publish, ReadPlan, ReadPlanNow, ReadUse, ReadUsed, ReplacePlan, RestorePlace, SpendPlace,
    WriteWave,
};
use crate::usecases::admit_places::{self, Pace};
use crate::usecases::check_queue_status::{self, StatusError};
use crate::usecases::join_queue::{self, JoinError, JoinQueue};
use crate::usecases::leave_queue::{self, LeaveError};
use crate::usecases::open_waiting_room::{self, Opening};
use crate::usecases::set_admission::{self, SetAdmission, SetAdmissionError};
use crate::usecases::{expire_queue_token, restore_queue_token};
use contracts::events::EventBody;
use contracts::saga::{Done, PaymentSaga};
use contracts::steps::{Applied, OpenWaitingRoom};
use contracts::{ConcertId, Timestamp};
use kit::auth::{QueueTokens, UserTokens, invalid_queue_token};
use kit::http::StatusCode;
use kit::logs::Line;
use kit::queue::Message;
use kit::{Call, Fault, Problem, Reply, StepCall, StepError, Tick, ids, metrics};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Dependencies of joining.
#[derive(Debug)]
pub struct JoinDeps<L> {
    /// The store of lines.
    pub line: L,
    pub users: UserTokens,
    /// Signs queue tokens.
    pub queue_tokens: QueueTokens,
    /// Whether joining is possible before the sale opens.
    pub join_before_open: bool,
    pub budget: CheckBudget,
}

/// Dependencies of a status check.
#[derive(Debug)]
pub struct StatusDeps<L> {
    /// The store of lines.
    pub line: L,
    pub users: UserTokens,
    /// Verifies queue tokens.
    pub queue_tokens: QueueTokens,
    pub budget: CheckBudget,
    pub limit: Mutex<CheckLimit>,
}

/// The dependencies of leaving a line.
#[derive(Debug)]
pub struct LeaveDeps<L, R> {
    pub line: L,
    /// The context that enforces admission.
    pub reservations: R,
    pub users: UserTokens,
}

/// The dependencies of changing a plan.
#[derive(Debug)]
pub struct AdmissionDeps<L, R> {
    pub line: L,
    /// The context that enforces the plan.
    pub reservations: R,
    pub users: UserTokens,
    /// After how long every process knows of a plan, in milliseconds: how long one may be cached, and how late a read.
    pub lead_millis: i64,
}

#[derive(Debug, Serialize)]
struct PlaceBody {
    status: &'static str,
    position: u64,
    ahead: u64,
    #[serde(with = "contracts::time::rfc3339::option")]
    active_at: Option<Timestamp>,
    #[serde(with = "contracts::time::rfc3339::option")]
    expires_at: Option<Timestamp>,
    poll_after_ms: u64,
}

impl PlaceBody {
    fn of(place: &Place, poll_after_ms: u64) -> Self {
        Self {
            status: place.status.as_str(),
            position: place.position,
            ahead: place.ahead,
            active_at: place.active_at,
            expires_at: place.expires_at,
            poll_after_ms,
        }
    }
}

#[derive(Debug, Serialize)]
struct JoinedBody {
    token: String,
    #[serde(flatten)]
    place: PlaceBody,
}

/// `POST /concerts/{concert_id}/queue-tokens`
pub async fn join_queue<L>(deps: &JoinDeps<L>, call: Call) -> Result<Reply, Problem>
where
    L: ReadPlan + ReadUse + ClaimPlace + IssuePlace + NoteTurn + Backoff,
{
    let caller = deps.users.user(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    without_body(&call)?;
    let ask = JoinQueue {
        user: caller.user.clone(),
        concert,
        claim: ids::ulid(call.now),
        before_open: deps.join_before_open,
        now: call.now,
    };
    let joined = join_queue::join_queue(&deps.line, ask).await?;
    let poll_after_ms = deps.budget.poll_after_millis(&joined.place, joined.crowd, call.now);
    let place = PlaceBody::of(&joined.place, poll_after_ms);
    let body = JoinedBody { token: deps.queue_tokens.sign(&joined.claims)?, place };
    if !joined.is_new {
        return Reply::ok(body);
    }
    metrics::count("Joined", 1);
    activity::say(Kind::Joined, &call.request_id, &caller.user, &joined.claims.concert_id, &joined.place);
    Reply::created(body)
}

/// `DELETE /concerts/{concert_id}/queue-tokens`
pub async fn leave_queue(
    deps: &LeaveDeps<impl ReadPlan + ReadUse + ClaimPlace + GiveUpPlace, impl EndVisit>,
    call: Call,
) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    leave_queue::leave_queue(&deps.line, &deps.reservations, &caller.user, &concert, call.now).await?;
    Ok(Reply::no_content())
}

impl From<LeaveError> for Problem {
    fn from(error: LeaveError) -> Self {
        match error {
            LeaveError::UnknownConcert => Problem::not_found("no such concert"),
            LeaveError::TooMany => {
                Problem::conflict("place_kept", "Too many places were given up in this line; this one is kept")
            }
            LeaveError::Fault(fault) => fault.into(),
        }
    }
}

/// Joining has no parameters besides its path: the body is empty or `{}`.
fn without_body(call: &Call) -> Result<(), Problem> {
    if !call.body.trim_ascii().is_empty() && !call.json::<Map<String, Value>>()?.is_empty() {
        return Err(Problem::invalid("the body must be empty"));
    }
    Ok(())
}

impl From<JoinError> for Problem {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::UnknownConcert => Problem::not_found("no such concert"),
            JoinError::SaleNotOpen { opens_at } => {
                Problem::conflict("sale_not_open", "The sale is not open yet").member("opens_at", opens_at.rfc3339())
            }
            JoinError::Fault(fault) => fault.into(),
        }
    }
}

/// `GET /queue-status`
pub async fn check_queue_status(deps: &StatusDeps<impl ReadPlan + ReadUse>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let claims = deps.queue_tokens.of(&call, &caller.user)?;
    let allowed = deps.limit.lock().unwrap_or_else(PoisonError::into_inner).check(&claims, call.now);
    allowed.map_err(|seconds| {
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "checked_too_often", "The status was checked far too often")
            .retry_after(seconds)
    })?;
    let checked = check_queue_status::check_queue_status(&deps.line, &claims, call.now).await?;
    activity::say(Kind::Checked, &call.request_id, &caller.user, &claims.concert_id, &checked.place);
    let poll_after_ms =
        checked.crowd.map_or(CALM_POLL_MILLIS, |crowd| deps.budget.poll_after_millis(&checked.place, crowd, call.now));
    Reply::ok(PlaceBody::of(&checked.place, poll_after_ms))
}

impl From<StatusError> for Problem {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::Gone => invalid_queue_token(),
            StatusError::Fault(fault) => fault.into(),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AdmissionBody {
    #[serde(with = "contracts::time::rfc3339")]
    opens_at: Timestamp,
    rate_per_minute: i64,
    active_seconds: i64,
    #[serde(default)]
    max_active: Option<i64>,
}

#[derive(Debug, Serialize)]
struct AdmissionSetBody {
    concert_id: ConcertId,
    version: u64,
    #[serde(with = "contracts::time::rfc3339")]
    opens_at: Timestamp,
    rate_per_minute: u32,
    active_seconds: u32,
    max_active: Option<u32>,
    admitted: Option<u64>,
    issued: Option<u64>,
}

/// The time of a call, which goes on while it is answered.
struct CallClock {
    called_at: Timestamp,
    begun: Instant,
}

impl Clock for CallClock {
    fn now(&self) -> Timestamp {
        self.called_at.plus_millis(i64::try_from(self.begun.elapsed().as_millis()).unwrap_or(i64::MAX))
    }

    async fn wait_until(&self, at: Timestamp) {
        tokio::time::sleep(Duration::from_millis(u64::try_from(at.millis_since(self.now())).unwrap_or(0))).await;
    }
}

/// `PUT /admin/concerts/{concert_id}/admission`
pub async fn set_admission(
    deps: &AdmissionDeps<impl ReadPlanNow + Count + ReplacePlan, impl ApplyPlan>,
    call: Call,
) -> Result<Reply, Problem> {
    let operator = deps.users.operator(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    let body: AdmissionBody = call.json()?;
    let change = plan_change(body.opens_at, body.rate_per_minute, body.active_seconds, body.max_active)?;
    let ask = SetAdmission {
        concert: concert.clone(),
        change,
        correlation_id: call.request_id.clone(),
        actor: operator.user.to_string(),
    };
    let clock = CallClock { called_at: call.now, begun: Instant::now() };
    let (line, reservations) = (&deps.line, &deps.reservations);
    let admission = set_admission::set_admission(line, reservations, &clock, deps.lead_millis, ask).await?;
    Reply::ok(AdmissionSetBody {
        concert_id: concert,
        version: admission.plan.version,
        opens_at: change.opens_at,
        rate_per_minute: change.rate_per_minute,
        active_seconds: change.active_seconds,
        max_active: change.max_active,
        admitted: admission.admitted,
        issued: admission.issued,
    })
}

impl From<SetAdmissionError> for Problem {
    fn from(error: SetAdmissionError) -> Self {
        match error {
            SetAdmissionError::UnknownConcert => Problem::not_found("no such concert"),
            SetAdmissionError::TooManyChanges => Problem::conflict(
                "too_many_changes",
                "The plan has changed too often within the time that an admitted place lasts",
            ),
            SetAdmissionError::Fault(fault) => fault.into(),
        }
    }
}

/// The dependencies of letting in under a cap.
#[derive(Debug)]
pub struct GateDeps<L, R> {
    pub line: L,
    /// The context that enforces the plan.
    pub reservations: R,
    pub pace: Pace,
}

/// Every minute, for almost a minute: lets places in where an operator has set a cap.
pub async fn admit_places<L>(deps: &GateDeps<L, impl ApplyPlan>, tick: Tick) -> Result<(), Fault>
where
    L: FindGated + ReadPlanNow + CountEach + ReadUsed + WriteWave + FillGap + GiveUpPlace,
{
    let clock = CallClock { called_at: tick.now, begun: Instant::now() };
    admit_places::admit_places(&tick, &deps.line, &deps.reservations, &clock, deps.pace).await
}

/// Publishes the log lines of joins and status checks after the fact (R17). If the bus rejects any, the batch is
/// retried.
pub async fn report_queue_activity(bus: &impl Publish, lines: Vec<Line>) -> Result<(), Fault> {
    bus.publish(&lines.iter().filter_map(activity::heard).collect::<Vec<_>>()).await
}

/// Consumes `payment.completed`: spends the place the payment was made from. A redelivery, or an event of a payment
/// that was undone, changes nothing.
pub async fn expire_queue_tokens(line: &impl SpendPlace, message: Message) -> Result<(), Fault> {
    let event = message.event()?;
    let EventBody::PaymentCompleted(paid) = event.body else {
        return Err(Fault::broken("expiring queue tokens", "the event is no payment.completed"));
    };
    if line.spend(&paid.concert_id, paid.queue_position, &paid.payment_id).await? == Spent::Undone {
        tracing::warn!(event = %event.id, "the place of an undone payment stays unspent");
    }
    Ok(())
}

/// Step called by `create-concert`: opens a line for a new concert.
pub async fn open_waiting_room(
    deps: &Opening<impl OpenLine, impl ApplyPlan>,
    call: StepCall<OpenWaitingRoom>,
) -> Result<Applied, StepError> {
    Ok(open_waiting_room::open_waiting_room(deps, &call.input.concert_id, call.input.created_at).await?)
}

/// Saga step, in strict mode: spends the place that a payment was made from.
pub async fn expire_queue_token(line: &impl SpendPlace, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    expire_queue_token::expire_queue_token(line, &call.input).await
}

/// Saga compensation: gives back the place that `expire-queue-token` spent.
pub async fn restore_queue_token(line: &impl RestorePlace, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    Ok(restore_queue_token::restore_queue_token(line, &call.input).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(body: &str) -> Call {
        Call {
            headers: Default::default(),
            path: Default::default(),
            query: Default::default(),
            body: body.into(),
            request_id: "r1".into(),
            now: Timestamp::from_millis(0),
        }
    }

    #[test]
    fn joining_takes_no_body_and_all_forms_of_no_body_are_the_same_request() {
        for none in ["", " \n", "{}", "{ }"] {
            without_body(&call(none)).unwrap_or_else(|problem| panic!("{none:?}: {problem:?}"));
        }
        for some in ["[]", "null", "{", r#"{"position":1}"#, "1"] {
            let problem = without_body(&call(some)).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (400, "invalid_request"), "{some}");
        }
    }
}
