//! A user pays for a reservation: everything is fixed, recorded, and handed to the saga.

use crate::domain::{Choices, Payment, Status};
use crate::ports::{AskQuote, FindPayment, OpenPayment, Opened, RecallAnswer, StartSaga};
use contracts::saga::PaymentSaga;
use contracts::steps::{Quote, QuoteReservation};
use contracts::{PaymentId, ReservationId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, StoredAnswer};

/// What is asked.
#[derive(Debug)]
pub struct StartPayment {
    /// Who pays.
    pub user: UserId,
    /// For what.
    pub reservation: ReservationId,
    /// The caller's idempotency key.
    pub key: IdempotencyKey,
    /// The id of the payment, if it comes to one.
    pub payment: PaymentId,
    /// The other choices of its saga.
    pub choices: Choices,
    /// When it was asked.
    pub now: Timestamp,
}

/// What it came to.
#[derive(Debug)]
pub enum Started {
    /// A payment now pending.
    Now(Box<Payment>),
    /// The same request was answered before.
    AsBefore(StoredAnswer),
}

/// Why not.
#[derive(Debug)]
pub enum StartError {
    /// This user has no such reservation.
    NotFound,
    /// It cannot be paid: not held, or its hold is over.
    NotPayable,
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for StartError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Quotes, records, starts: two database round trips. A payment that was recorded and not started is started by the
/// same request repeated, or by the recovery.
pub async fn start_payment<P, Q, S>(
    payments: &P,
    quotes: &Q,
    sagas: &S,
    ask: StartPayment,
    answer: impl Fn(&Payment) -> StoredAnswer + Send,
) -> Result<Started, StartError>
where
    P: OpenPayment + FindPayment + RecallAnswer,
    Q: AskQuote,
    S: StartSaga<PaymentSaga>,
{
    let wanted = QuoteReservation { user_id: ask.user.clone(), reservation_id: ask.reservation.clone() };
    let refusal = match quotes.quote(&wanted).await? {
        Quote::Payable(quote) => {
            let payment = Payment::of(ask.payment, ask.user.clone(), ask.reservation, quote, ask.choices, ask.now);
            let opened = payments.open(&payment, &ask.key, &answer(&payment), ask.now).await?;
            if matches!(opened, Opened::Now) {
                sagas.start(&payment.execution_name(), &payment.saga).await?;
                return Ok(Started::Now(Box::new(payment)));
            }
            return as_before(payments, sagas, &ask.user, opened).await;
        }
        Quote::NotPayable => StartError::NotPayable,
        Quote::NotFound => StartError::NotFound,
    };
    // It may be this very payment that made the reservation unpayable.
    match payments.recall(&ask.user, &ask.key, ask.now).await? {
        Some(opened) => as_before(payments, sagas, &ask.user, opened).await,
        None => Err(refusal),
    }
}

async fn as_before<P: FindPayment, S: StartSaga<PaymentSaga>>(
    payments: &P,
    sagas: &S,
    user: &UserId,
    opened: Opened,
) -> Result<Started, StartError> {
    let Opened::Before(answer) = opened else { return Err(StartError::KeyReused) };
    // The first request may have recorded the payment and died before starting it.
    if let Some(id) = payment_in(&answer)
        && let Some(payment) = payments.find(user, &id).await?
        && payment.status == Status::Pending
    {
        sagas.start(&payment.execution_name(), &payment.saga).await?;
    }
    Ok(Started::AsBefore(answer))
}

/// The payment a remembered answer speaks of.
pub fn payment_in(answer: &StoredAnswer) -> Option<PaymentId> {
    answer.body.get("payment_id").and_then(|id| id.as_str()).and_then(|id| PaymentId::parse(id).ok())
}
