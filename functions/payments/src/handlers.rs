//! HTTP and steps in, answers out.

use crate::domain::charges::Intent;
use crate::domain::withdrawals::{DAY_MILLIS, Payout, Withdrawal, WithdrawalState};
use crate::domain::{Choices, Payment, Status};
use crate::ports::charges::{
    CreditPoints, FindIntent, MoveCharge, OpenIntent, OpenedIntent, PaymentProvider, RecordCharge,
};
use crate::ports::withdrawals::{DebitPoints, FindPayouts, FindWithdrawal, MoveWithdrawal, RecordWithdrawal};
use crate::ports::{
    FindPayment, HoldClient, ListPayments, OpenPayment, OpenRefund, QuoteClient, RecallAnswer, RefundQuoteClient,
    SettlePayment, SettleRefund, StartSaga,
};
use crate::usecases::pay_charge::{self, PayCharges};
use crate::usecases::record_payout::{self, PayoutError};
use crate::usecases::request_extension::{self, ExtensionError};
use crate::usecases::start_payment::{self, StartError, StartPayment, Started};
use crate::usecases::start_refund::{self, RefundError, StartRefund};
use crate::usecases::withdraw_points::{self, WithdrawError, WithdrawPoints};
use crate::usecases::{cancel_refund, complete_payment, complete_refund, fail_payment};
use contracts::saga::{CancelRefund, Done, FailedPayment, PaymentSaga, RefundSaga, TokenExpiry};
use contracts::steps::{ChargePaid, PayCharge};
use contracts::{ChargeAmount, PaymentId, ReservationId, Timestamp, UserId, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody, StatusCode};
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::ids::Mint;
use kit::{Call, Fault, Problem, Reply, StepCall, StepError, ids};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;
use tokio::time::Instant;

/// How often a waiting request checks whether its payment is final.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The dependencies of `get-payment`.
#[derive(Debug)]
pub struct Deps<P> {
    /// Where the payments are.
    pub payments: P,
    pub users: UserTokens,
}

/// The dependencies of `start-payment`.
#[derive(Debug)]
pub struct StartDeps<P, Q, S> {
    /// Where the payments are.
    pub payments: P,
    pub users: UserTokens,
    /// The client that quotes the price.
    pub quotes: Q,
    /// The state machine of payments.
    pub sagas: S,
    /// How this stage expires queue tokens.
    pub token_expiry: TokenExpiry,
}

/// The dependencies of `open-charge-intent`.
#[derive(Debug)]
pub struct IntentDeps<C> {
    /// Where the intents are.
    pub charges: C,
    pub users: UserTokens,
    /// Whether there is a provider to pay.
    pub has_provider: bool,
}

/// The dependencies of `request-extension`.
#[derive(Debug)]
pub struct ExtensionDeps<C, H> {
    /// Where the intents are.
    pub charges: C,
    pub users: UserTokens,
    /// The client that extends holds.
    pub holds: H,
}

/// The dependencies of the handlers of withdrawals that only read or record.
#[derive(Debug)]
pub struct WithdrawalDeps<W> {
    /// Where the withdrawals are.
    pub withdrawals: W,
    pub users: UserTokens,
}

/// The dependencies of `withdraw-points`.
#[derive(Debug)]
pub struct WithdrawDeps<W, A> {
    /// Where the withdrawals are.
    pub withdrawals: W,
    pub users: UserTokens,
    /// The client of points.
    pub points: A,
}

/// The dependencies of `start-refund`.
#[derive(Debug)]
pub struct RefundDeps<P, Q, S> {
    /// Where the payments are.
    pub payments: P,
    pub users: UserTokens,
    /// The client that quotes refunds.
    pub quotes: Q,
    /// The state machine of refunds.
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

/// The answer to a request that was accepted.
fn accepted(payment: &Payment) -> StoredAnswer {
    StoredAnswer::accepted(&PaymentBody::from(payment), format!("/payments/{}", payment.saga.payment_id))
}

/// `POST /payments`
pub async fn start_payment<P, Q, S>(deps: &StartDeps<P, Q, S>, call: Call) -> Result<Reply, Problem>
where
    P: OpenPayment + FindPayment + RecallAnswer,
    Q: QuoteClient,
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
    let at_most = Duration::from_secs(call.prefer_wait_seconds());
    match id {
        Some(id) if !at_most.is_zero() => {
            match wait_until_final(&deps.payments, &user, &id, at_most).await {
                Ok(Some(payment)) => Reply::ok(PaymentBody::from(&payment)),
                Ok(None) => Ok(reply),
                // The payment is accepted, whatever prevents watching it.
                Err(fault) => {
                    tracing::warn!(payment = %id, error = fault.chain(), "a payment cannot be watched");
                    Ok(reply)
                }
            }
        }
        _ => Ok(reply),
    }
}

/// The payment once it is final, or `None` when `at_most` ends first.
async fn wait_until_final(
    payments: &impl FindPayment,
    user: &UserId,
    id: &PaymentId,
    at_most: Duration,
) -> Result<Option<Payment>, Fault> {
    let deadline = Instant::now() + at_most;
    loop {
        let found = payments.find(user, id).await?.filter(|payment| payment.status.is_final());
        if found.is_some() || Instant::now() + POLL_INTERVAL > deadline {
            return Ok(found);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

impl From<StartError> for Problem {
    fn from(error: StartError) -> Self {
        match error {
            StartError::NotFound => Problem::not_found("no such reservation"),
            StartError::NotPayable => Problem::conflict("reservation_not_payable", "Only a running hold can be paid"),
            StartError::UnderWay(payment) => {
                Problem::conflict("payment_under_way", "Another payment of this reservation is not decided yet")
                    .detail("wait for that payment; if it fails, the reservation can be paid again while its hold runs")
                    .member("payment_id", payment.to_string())
            }
            StartError::KeyReused => idempotency::reused(),
            StartError::Fault(fault) => fault.into(),
        }
    }
}

/// `POST /payments/{payment_id}/refund`
pub async fn start_refund<P, Q, S>(deps: &RefundDeps<P, Q, S>, call: Call) -> Result<Reply, Problem>
where
    P: FindPayment + OpenRefund + RecallAnswer,
    Q: RefundQuoteClient,
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

/// What is specified by its path: its body is empty or `{}`, and both are the same request.
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

/// `GET /payments`
pub async fn list_payments(deps: &Deps<impl ListPayments>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let page = call.page_behind(|key| key.starts_with("PAY#"))?;
    let (payments, next) = deps.payments.list(&user, &page).await?;
    Reply::ok(ListBody {
        items: payments.iter().map(PaymentBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// Saga step: the payment is complete.
pub async fn complete_payment(payments: &impl SettlePayment, call: StepCall<PaymentSaga>) -> Result<Done, StepError> {
    Ok(complete_payment::complete_payment(payments, &call.input, call.now).await?)
}

/// Saga's last compensation: the payment failed.
pub async fn fail_payment(payments: &impl SettlePayment, call: StepCall<FailedPayment>) -> Result<Done, StepError> {
    Ok(fail_payment::fail_payment(payments, &call.input.saga, call.input.failure.failure(), call.now).await?)
}

/// Refund saga's last step: the payment is paid back.
pub async fn complete_refund(payments: &impl SettleRefund, call: StepCall<RefundSaga>) -> Result<Done, StepError> {
    Ok(complete_refund::complete_refund(payments, &call.input, call.now).await?)
}

/// Refund saga's compensation: the sale stands.
pub async fn cancel_refund(payments: &impl SettleRefund, call: StepCall<CancelRefund>) -> Result<Done, StepError> {
    Ok(cancel_refund::cancel_refund(payments, &call.input.saga, &call.input.failure, call.now).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IntentBody {
    amount: i64,
}

#[derive(Debug, Serialize)]
struct IntentView {
    order_id: String,
    amount: Won,
    #[serde(with = "contracts::time::rfc3339")]
    expires_at: Timestamp,
}

fn too_many_charges(until: Timestamp, now: Timestamp) -> Problem {
    let seconds = (until.millis_since(now) / 1_000).max(1);
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_charges", "Too many charges were begun within an hour")
        .retry_after(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// `POST /points/charge-intents`
pub async fn open_charge_intent<C: OpenIntent>(deps: &IntentDeps<C>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let body: IntentBody = call.json()?;
    let amount = ChargeAmount::new(body.amount)?;
    if !deps.has_provider {
        return Err(Problem::invalid("points are not paid for here: no payment provider is configured"));
    }
    let new = Intent::new(user, ids::ulid(call.now), amount, call.now);
    let view = |Intent { order_id, amount, expires_at, .. }| IntentView { order_id, amount, expires_at };
    match deps.charges.open_intent(&new, call.now).await? {
        OpenedIntent::Now => Reply::created(view(new)),
        OpenedIntent::Before(open) => Reply::ok(view(open)),
        OpenedIntent::TooMany { until } => Err(too_many_charges(until, call.now)),
    }
}

#[derive(Debug, Serialize)]
struct ExtensionBody {
    reservation_id: ReservationId,
    #[serde(with = "contracts::time::rfc3339")]
    hold_expires_at: Timestamp,
}

/// `POST /reservations/{reservation_id}/extension`
pub async fn request_extension<C, H>(deps: &ExtensionDeps<C, H>, call: Call) -> Result<Reply, Problem>
where
    C: FindIntent,
    H: HoldClient,
{
    let user = deps.users.user(&call)?.user;
    let reservation: ReservationId = call.path_id("reservation_id")?;
    let call = without_body(call)?;
    let asked = request_extension::request_extension(&deps.charges, &deps.holds, user, reservation.clone(), call.now);
    Reply::ok(ExtensionBody { hold_expires_at: asked.await?, reservation_id: reservation })
}

impl From<ExtensionError> for Problem {
    fn from(error: ExtensionError) -> Self {
        match error {
            ExtensionError::NotFound => Problem::not_found("no such reservation"),
            ExtensionError::NotExtendable => Problem::conflict("hold_not_extendable", "This hold cannot be extended")
                .detail("only a running hold can be extended, where holds are extended at all"),
            ExtensionError::NoIntent => Problem::conflict("charge_intent_not_open", "There is no open charge intent")
                .detail("a hold is extended for who has opened a charge intent that is not paid yet"),
            ExtensionError::Fault(fault) => fault.into(),
        }
    }
}

/// Step called by points: ensure that a charge is paid for, or that it never will be.
pub async fn pay_charge<C, P, A>(deps: &PayCharges<C, P, A>, call: StepCall<PayCharge>) -> Result<ChargePaid, StepError>
where
    C: RecordCharge + MoveCharge,
    P: PaymentProvider,
    A: CreditPoints,
{
    Ok(pay_charge::pay_charge(deps, call.input, call.now).await?)
}

/// How many withdrawals are listed for operators at once.
const LISTED: u32 = 100;
/// The longest reference of a payout, in characters.
const MAX_REFERENCE: usize = 64;

#[derive(Debug, Serialize)]
struct WithdrawalBody {
    withdrawal_id: PaymentId,
    status: &'static str,
    amount: Won,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(with = "contracts::time::rfc3339")]
    requested_at: Timestamp,
}

impl From<&Withdrawal> for WithdrawalBody {
    fn from(withdrawal: &Withdrawal) -> Self {
        let failure = match &withdrawal.state {
            WithdrawalState::Returned(reason) => Some(reason.clone()),
            _ => None,
        };
        Self {
            withdrawal_id: withdrawal.id.clone(),
            status: withdrawal.state.seen(),
            amount: withdrawal.amount,
            failure,
            requested_at: withdrawal.requested_at,
        }
    }
}

fn accepted_withdrawal(withdrawal: &Withdrawal) -> StoredAnswer {
    StoredAnswer::accepted(&WithdrawalBody::from(withdrawal), format!("/points/withdrawals/{}", withdrawal.id))
}

/// `POST /points/withdrawals`
pub async fn withdraw_points<W, A>(deps: &WithdrawDeps<W, A>, call: Call) -> Result<Reply, Problem>
where
    W: RecordWithdrawal + FindWithdrawal + MoveWithdrawal,
    A: DebitPoints,
{
    let user = deps.users.user(&call)?.user;
    let key = IdempotencyKey::required(&call, "POST /points/withdrawals")?;
    let body: IntentBody = call.json()?;
    let ask = WithdrawPoints {
        user,
        amount: ChargeAmount::new(body.amount)?,
        key,
        id: PaymentId::mint(call.now),
        correlation_id: call.request_id.clone(),
        now: call.now,
    };
    match withdraw_points::withdraw_points(&deps.withdrawals, &deps.points, ask, accepted_withdrawal).await {
        Ok(withdrawal) => Ok(accepted_withdrawal(&withdrawal).into_reply()),
        Err(WithdrawError::TooMany) => {
            let seconds = (DAY_MILLIS - call.now.millis().rem_euclid(DAY_MILLIS)) / 1_000 + 1;
            let title = "Too many withdrawals were asked for today";
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_withdrawals", title)
                .retry_after(u32::try_from(seconds).unwrap_or(u32::MAX)))
        }
        Err(WithdrawError::Insufficient) => {
            Err(Problem::conflict("insufficient_points", "The balance is below the amount"))
        }
        Err(WithdrawError::KeyReused) => Err(idempotency::reused()),
        Err(WithdrawError::Fault(fault)) => Err(fault.into()),
    }
}

/// `GET /points/withdrawals/{withdrawal_id}`
pub async fn get_withdrawal(deps: &WithdrawalDeps<impl FindWithdrawal>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let id: PaymentId = call.path_id("withdrawal_id")?;
    let found = deps.withdrawals.find_withdrawal(&user, &id).await?;
    let found = found.ok_or_else(|| Problem::not_found("no such withdrawal"))?;
    Reply::ok(WithdrawalBody::from(&found))
}

#[derive(Debug, Serialize)]
struct PayoutView {
    withdrawal_id: PaymentId,
    user_id: UserId,
    amount: Won,
    #[serde(with = "contracts::time::rfc3339")]
    requested_at: Timestamp,
}

/// `GET /admin/points/withdrawals`
pub async fn list_payouts(deps: &WithdrawalDeps<impl FindPayouts>, call: Call) -> Result<Reply, Problem> {
    deps.users.operator(&call)?;
    let found = deps.withdrawals.payouts(LISTED).await?;
    let view = |one: Withdrawal| PayoutView {
        withdrawal_id: one.id,
        user_id: one.user,
        amount: one.amount,
        requested_at: one.requested_at,
    };
    Reply::ok(ListBody { items: found.into_iter().map(view).collect(), next_cursor: None })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PayoutBody {
    reference: String,
}

/// `POST /admin/points/withdrawals/{withdrawal_id}/payout`
pub async fn record_payout(
    deps: &WithdrawalDeps<impl FindPayouts + FindWithdrawal + MoveWithdrawal>,
    call: Call,
) -> Result<Reply, Problem> {
    let by = deps.users.operator(&call)?.user;
    let id: PaymentId = call.path_id("withdrawal_id")?;
    let PayoutBody { reference } = call.json()?;
    let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_graphic());
    if !(1..=MAX_REFERENCE).contains(&reference.len()) || !is_name(&reference) {
        return Err(Problem::invalid("reference: must be 1 to 64 printable ASCII characters without spaces"));
    }
    let (actor, transfer) = (by.to_string(), reference.clone());
    let recorded = record_payout::record_payout(&deps.withdrawals, &id, Payout { by, reference }, call.now).await?;
    // Who repeats it is not who paid.
    let paid_by = match &recorded.state {
        WithdrawalState::PaidOut(made) => made.by.to_string(),
        _ => actor.clone(),
    };
    tracing::info!(actor, paid_by, withdrawal = id.as_str(), transfer, "the payout of a withdrawal is recorded");
    Reply::ok(WithdrawalBody::from(&recorded))
}

impl From<PayoutError> for Problem {
    fn from(error: PayoutError) -> Self {
        match error {
            PayoutError::NotFound => Problem::not_found("no such withdrawal is to be paid out"),
            PayoutError::NotPayable => {
                Problem::conflict("withdrawal_not_payable", "It does not wait for a payout, or was paid out otherwise")
            }
            PayoutError::Fault(fault) => fault.into(),
        }
    }
}
