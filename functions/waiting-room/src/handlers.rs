//! Handlers: translate HTTP requests, messages, steps and log lines into use cases, and their outcomes into answers.

use crate::activity::{self, Kind};
use crate::domain::{Place, Spent, plan_change};
use crate::ports::{
    ApplyPlan, IssuePosition, OpenLine, Publish, ReadLine, ReadPlan, ReadUse, RememberAnswer, ReplacePlan,
    RestorePlace, SpendPlace,
};
use crate::usecases::check_queue_status::{self, StatusError};
use crate::usecases::join_queue::{self, JoinError, JoinQueue};
use crate::usecases::open_waiting_room::{self, Opening};
use crate::usecases::set_admission::{self, SetAdmission, SetAdmissionError};
use crate::usecases::{expire_queue_token, restore_queue_token};
use contracts::events::EventBody;
use contracts::saga::{Done, PaymentSaga};
use contracts::steps::{OpenWaitingRoom, Opened};
use contracts::{ConcertId, Timestamp};
use kit::auth::{QueueTokens, UserTokens, invalid_queue_token};
use kit::idempotency::{self, IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::logs::Line;
use kit::queue::Message;
use kit::{Call, Fault, Problem, Reply, StepCall, StepError, metrics};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

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
}

/// Dependencies of a status check.
#[derive(Debug)]
pub struct StatusDeps<L> {
    /// The store of lines.
    pub line: L,
    pub users: UserTokens,
    /// Verifies queue tokens.
    pub queue_tokens: QueueTokens,
}

/// Dependencies of changing the plan.
#[derive(Debug)]
pub struct AdmissionDeps<L, R> {
    /// The store of lines.
    pub line: L,
    /// Enforces the plan.
    pub reservations: R,
    pub users: UserTokens,
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

impl From<Place> for PlaceBody {
    fn from(place: Place) -> Self {
        Self {
            status: place.status.as_str(),
            position: place.position,
            ahead: place.ahead,
            active_at: place.active_at,
            expires_at: place.expires_at,
            poll_after_ms: place.poll_after_millis,
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
pub async fn join_queue(deps: &JoinDeps<impl IssuePosition + RememberAnswer>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.user(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    let call = without_body(call)?;
    let key = IdempotencyKey::of(&call, &format!("POST /concerts/{concert}/queue-tokens"))?;
    let ask = JoinQueue { user: caller.user.clone(), concert, before_open: deps.join_before_open, now: call.now };
    let joined = join_queue::join_queue(&deps.line, ask).await?;
    let token = deps.queue_tokens.sign(&joined.claims)?;
    let place = joined.place;
    let reply = Reply::created(JoinedBody { token, place: place.into() })?;
    if let Some(key) = key {
        let memo = Memo {
            user: caller.user.clone(),
            key,
            about: place.position.to_string(),
            answer: StoredAnswer::of(&reply),
        };
        match deps.line.remember(&memo, call.now).await? {
            Outcome::First => {}
            // The place just taken stays unused: the first answer already gave this user theirs, and was logged.
            Outcome::Replay(first) => return Ok(first.into_reply()),
            Outcome::Mismatch => return Err(idempotency::reused()),
        }
    }
    metrics::count("Joined", 1);
    activity::say(Kind::Joined, &call.request_id, &caller.user, &joined.claims.concert_id, &place);
    Ok(reply)
}

/// A join request has no body: it is empty or `{}`, and both count as the same request.
fn without_body(call: Call) -> Result<Call, Problem> {
    if !call.body.trim_ascii().is_empty() && !call.json::<Map<String, Value>>()?.is_empty() {
        return Err(Problem::invalid("the body must be empty"));
    }
    Ok(Call { body: b"{}".to_vec(), ..call })
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
    let place = check_queue_status::check_queue_status(&deps.line, &claims, call.now).await?;
    activity::say(Kind::Checked, &call.request_id, &caller.user, &claims.concert_id, &place);
    Reply::ok(PlaceBody::from(place))
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
}

#[derive(Debug, Serialize)]
struct AdmissionSetBody {
    concert_id: ConcertId,
    version: u64,
    #[serde(with = "contracts::time::rfc3339")]
    opens_at: Timestamp,
    rate_per_minute: u32,
    active_seconds: u32,
    admitted: u64,
    issued: u64,
}

/// `PUT /admin/concerts/{concert_id}/admission`
pub async fn set_admission(
    deps: &AdmissionDeps<impl ReadLine + ReplacePlan, impl ApplyPlan>,
    call: Call,
) -> Result<Reply, Problem> {
    deps.users.operator(&call)?;
    let concert: ConcertId = call.path_id("concert_id")?;
    let body: AdmissionBody = call.json()?;
    let change = plan_change(body.opens_at, body.rate_per_minute, body.active_seconds)?;
    let ask = SetAdmission { concert: concert.clone(), change, now: call.now, correlation_id: call.request_id.clone() };
    let admission = set_admission::set_admission(&deps.line, &deps.reservations, ask).await?;
    Reply::ok(AdmissionSetBody {
        concert_id: concert,
        version: admission.plan.version,
        opens_at: change.opens_at,
        rate_per_minute: change.rate_per_minute,
        active_seconds: change.active_seconds,
        admitted: admission.admitted,
        issued: admission.issued,
    })
}

impl From<SetAdmissionError> for Problem {
    fn from(error: SetAdmissionError) -> Self {
        match error {
            SetAdmissionError::UnknownConcert => Problem::not_found("no such concert"),
            SetAdmissionError::Fault(fault) => fault.into(),
        }
    }
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
) -> Result<Opened, StepError> {
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
            assert_eq!(without_body(call(none)).unwrap().body, b"{}", "{none:?}");
        }
        for some in ["[]", "null", "{", r#"{"position":1}"#, "1"] {
            let problem = without_body(call(some)).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (400, "invalid_request"), "{some}");
        }
    }
}
