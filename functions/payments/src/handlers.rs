//! HTTP in and out. The steps need no translation: their input is the published saga.

use crate::domain::{Choices, Payment, Status};
use crate::ports::{AskQuote, AskRefundQuote, FindPayment, OpenPayment, OpenRefund, RecallAnswer, StartSaga};
use crate::usecases::start_payment::{self, StartError, StartPayment, Started};
use crate::usecases::start_refund::{self, RefundError, StartRefund};
use contracts::saga::{PaymentSaga, RefundSaga, TokenExpiry};
use contracts::{PaymentId, ReservationId, Timestamp, UserId, Won};
use kit::auth::UserTokens;
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::ids::Mint;
use kit::{Call, Fault, Problem, Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// How often a waiting request looks whether its payment is final.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// What `get-payment` is wired with.
#[derive(Debug)]
pub struct Deps<P> {
    /// Where the payments are.
    pub payments: P,
    /// Who calls.
    pub users: UserTokens,
}

/// What `start-payment` is wired with.
#[derive(Debug)]
pub struct StartDeps<P, Q, S> {
    /// Where the payments are.
    pub payments: P,
    /// Who calls.
    pub users: UserTokens,
    /// Who knows the price.
    pub quotes: Q,
    /// Where the sagas run.
    pub sagas: S,
    /// How this stage expires queue tokens.
    pub token_expiry: TokenExpiry,
}

/// What `start-refund` is wired with.
#[derive(Debug)]
pub struct RefundDeps<P, Q, S> {
    /// Where the payments are.
    pub payments: P,
    /// Who calls.
    pub users: UserTokens,
    /// Who knows what can be refunded.
    pub quotes: Q,
    /// Where the refund sagas run.
    pub sagas: S,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayBody {
    reservation_id: ReservationId,
}

#[derive(Debug, Serialize)]
struct PaymentBody {
    payment_id: PaymentId,
    status: &'static str,
    reservation_id: ReservationId,
    amount: Won,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(with = "contracts::time::rfc3339")]
    requested_at: Timestamp,
}

impl From<&Payment> for PaymentBody {
    fn from(payment: &Payment) -> Self {
        let failure = match payment.status {
            Status::Failed(failure) => Some(failure.as_str()),
            _ => None,
        };
        Self {
            payment_id: payment.saga.payment_id.clone(),
            status: payment.status.as_str(),
            reservation_id: payment.saga.reservation_id.clone(),
            amount: payment.saga.amount,
            failure,
            requested_at: payment.saga.requested_at,
        }
    }
}

/// The answer to a request that was taken on.
fn accepted(payment: &Payment) -> StoredAnswer {
    StoredAnswer::accepted(&PaymentBody::from(payment), format!("/payments/{}", payment.saga.payment_id))
}

/// `POST /payments`
pub async fn start_payment<P, Q, S>(deps: &StartDeps<P, Q, S>, call: Call) -> Result<Reply, Problem>
where
    P: OpenPayment + FindPayment + RecallAnswer,
    Q: AskQuote,
    S: StartSaga<PaymentSaga>,
{
    let user = deps.users.user(&call)?.user;
    let key = IdempotencyKey::required(&call, "POST /payments")?;
    let body: PayBody = call.json()?;
    let ask = StartPayment {
        user: user.clone(),
        reservation: body.reservation_id,
        key,
        payment: PaymentId::mint(call.now),
        choices: Choices { token_expiry: deps.token_expiry, correlation_id: call.request_id.clone() },
        now: call.now,
    };
    let started = start_payment::start_payment(&deps.payments, &deps.quotes, &deps.sagas, ask, accepted).await?;
    let (id, reply) = match started {
        Started::Now(payment) => (Some(payment.saga.payment_id.clone()), accepted(&payment).into_reply()),
        Started::AsBefore { payment, answer } => (payment, answer.into_reply()),
    };
    let patience = Duration::from_secs(call.prefer_wait_seconds());
    match id {
        Some(id) if !patience.is_zero() => {
            match wait_until_final(&deps.payments, &user, &id, patience).await {
                Ok(Some(payment)) => Reply::ok(PaymentBody::from(&payment)),
                Ok(None) => Ok(reply),
                // The payment is accepted, whatever keeps us from watching it.
                Err(fault) => {
                    tracing::warn!(payment = %id, error = fault.chain(), "a payment cannot be watched");
                    Ok(reply)
                }
            }
        }
        _ => Ok(reply),
    }
}

/// The payment once it is final, or nothing when `patience` ends first.
async fn wait_until_final(
    payments: &impl FindPayment,
    user: &UserId,
    id: &PaymentId,
    patience: Duration,
) -> Result<Option<Payment>, Fault> {
    let deadline = Instant::now() + patience;
    loop {
        let found = payments.find(user, id).await?.filter(|payment| payment.status.is_final());
        if found.is_some() || Instant::now() + LOOK_EVERY > deadline {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotFound => Problem::not_found("no such reservation"),
            StartError::NotPayable => Problem::conflict("reservation_not_payable", "Only a running hold can be paid"),
            StartError::KeyReused => idempotency::reused(),
            StartError::Fault(fault) => fault.into(),
        }
    }
}

/// `POST /payments/{payment_id}/refund`
pub async fn start_refund<P, Q, S>(deps: &RefundDeps<P, Q, S>, call: Call) -> Result<Reply, Problem>
where
    P: FindPayment + OpenRefund + RecallAnswer,
    Q: AskRefundQuote,
    S: StartSaga<RefundSaga>,
{
    let user = deps.users.user(&call)?.user;
    let payment: PaymentId = call.path_id("payment_id")?;
    let call = without_body(call)?;
    // The payment is a part of the request: a key is for one of them.
    let key = IdempotencyKey::required(&call, &format!("POST /payments/{payment}/refund"))?;
    let ask = StartRefund { user, payment, key, correlation_id: call.request_id.clone(), now: call.now };
    let answer = start_refund::start_refund(&deps.payments, &deps.quotes, &deps.sagas, ask, accepted).await?;
    Ok(answer.into_reply())
}

/// A refund says everything in its path: its body is empty or `{}`, and both are the same request.
fn without_body(call: Call) -> Result<Call, Problem> {
    if !call.body.trim_ascii().is_empty() && !call.json::<Map<String, Value>>()?.is_empty() {
        return Err(Problem::invalid("the body must be empty"));
    }
    Ok(Call { body: b"{}".to_vec(), ..call })
}

impl From<RefundError> for Problem {
    fn from(error: RefundError) -> Self {
        let not_refundable = || {
            Problem::conflict("payment_not_refundable", "Only a completed payment can be refunded, once and in time")
        };
        match error {
            RefundError::NotFound => Problem::not_found("no such payment"),
            RefundError::NotRefundable => not_refundable(),
            RefundError::TooLate(until) => {
                not_refundable().detail(format!("It could be refunded until {}", until.rfc3339()))
            }
            RefundError::KeyReused => idempotency::reused(),
            RefundError::Fault(fault) => fault.into(),
        }
    }
}

/// `GET /payments/{payment_id}`
pub async fn get_payment(deps: &Deps<impl FindPayment>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let id: PaymentId = call.path_id("payment_id")?;
    let found = deps.payments.find(&user, &id).await?.ok_or_else(|| Problem::not_found("no such payment"))?;
    Reply::ok(PaymentBody::from(&found))
}
