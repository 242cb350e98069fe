//! A user pays for a reservation: everything is fixed, recorded, and handed to the saga.

use crate::domain::{Choices, Payment, Status};
use crate::ports::{FindPayment, OpenPayment, QuoteClient, RecallAnswer, StartSaga, UnderWay};
use contracts::saga::PaymentSaga;
use contracts::steps::{Quote, QuoteReservation};
use contracts::{PaymentId, ReservationId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, Recalled, StoredAnswer};

/// After how long a payment that is pending may not have been started. One that was is decided in a second; to start it
/// again does nothing, but each start counts towards a quota.
const LATE_MILLIS: i64 = 3_000;

/// A request to pay for a reservation.
#[derive(Debug)]
pub struct StartPayment {
    pub user: UserId,
    pub reservation: ReservationId,
    /// The caller's idempotency key.
    pub key: IdempotencyKey,
    /// The id of the payment, if one is created.
    pub payment: PaymentId,
    /// The other choices for its saga.
    pub choices: Choices,
    /// When it was requested.
    pub now: Timestamp,
}

/// The result of starting a payment.
#[derive(Debug)]
pub enum Started {
    /// A payment now pending.
    Now(Box<Payment>),
    /// The same request was answered before, with this payment.
    AsBefore {
        /// Its id; unknown if the previous release answered the request.
        payment: Option<PaymentId>,
        answer: StoredAnswer,
    },
}

/// Why no payment was started.
#[derive(Debug)]
pub enum StartError {
    /// This user has no such reservation.
    NotFound,
    /// It cannot be paid: it is not held, or its hold has expired.
    NotPayable,
    /// Another payment of it is undecided.
    UnderWay(PaymentId),
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

/// Quotes, records, starts: two database round trips, and two more for each earlier payment of the reservation that
/// failed since its claim was last replaced. Of a reservation one payment is undecided at a time. One that was recorded and
/// not started is started by a repetition of the request, by another request that it is in the way of, or by the recovery.
pub async fn start_payment<P, Q, S>(
    payments: &P,
    quotes: &Q,
    sagas: &S,
    ask: StartPayment,
    answer: impl Fn(&Payment) -> StoredAnswer + Send,
) -> Result<Started, StartError>
where
    P: OpenPayment + FindPayment + RecallAnswer,
    Q: QuoteClient,
    S: StartSaga<PaymentSaga>,
{
    let wanted = QuoteReservation { user_id: ask.user.clone(), reservation_id: ask.reservation.clone() };
    let refusal = match quotes.quote(&wanted).await? {
        Quote::Payable(quote) => {
            let payment = Payment::of(ask.payment, ask.user.clone(), ask.reservation, quote, ask.choices, ask.now);
            let memo = Memo {
                user: ask.user.clone(),
                key: ask.key,
                about: payment.saga.payment_id.to_string(),
                answer: answer(&payment),
            };
            return match payments.open(&payment, &memo, ask.now).await? {
                Ok(Outcome::First) => {
                    sagas.start(&payment.execution_name(), &payment.saga).await?;
                    Ok(Started::Now(Box::new(payment)))
                }
                Ok(Outcome::Replay(first)) => as_before(payments, sagas, &ask.user, first).await,
                Ok(Outcome::Mismatch) => Err(StartError::KeyReused),
                Err(UnderWay(other)) => {
                    start_late(payments, sagas, &ask.user, &other, ask.now).await?;
                    Err(StartError::UnderWay(other))
                }
            };
        }
        Quote::NotPayable => StartError::NotPayable,
        Quote::NotFound => StartError::NotFound,
    };
    // It may be this very request, at an earlier attempt, that made the reservation unpayable.
    match payments.recall(&ask.user, &ask.key, ask.now).await? {
        Outcome::First => Err(refusal),
        Outcome::Replay(first) => as_before(payments, sagas, &ask.user, first).await,
        Outcome::Mismatch => Err(StartError::KeyReused),
    }
}

/// Starts the saga of a payment that stands in the way and should have ended by now: its start was lost, or throttled in
/// the rush. The recovery would come when the hold is half over.
async fn start_late<P: FindPayment, S: StartSaga<PaymentSaga>>(
    payments: &P,
    sagas: &S,
    user: &UserId,
    id: &PaymentId,
    now: Timestamp,
) -> Result<(), Fault> {
    if let Some(payment) = payments.find(user, id).await?
        && payment.status == Status::Pending
        && now.millis_since(payment.saga.requested_at) >= LATE_MILLIS
    {
        sagas.start(&payment.execution_name(), &payment.saga).await?;
    }
    Ok(())
}

async fn as_before<P: FindPayment, S: StartSaga<PaymentSaga>>(
    payments: &P,
    sagas: &S,
    user: &UserId,
    first: Recalled,
) -> Result<Started, StartError> {
    let id = first.about.and_then(|about| PaymentId::parse(about).ok());
    // The first attempt may have recorded the payment and died before starting it.
    if let Some(id) = &id
        && let Some(payment) = payments.find(user, id).await?
        && payment.status == Status::Pending
    {
        sagas.start(&payment.execution_name(), &payment.saga).await?;
    }
    Ok(Started::AsBefore { payment: id, answer: first.answer })
}
