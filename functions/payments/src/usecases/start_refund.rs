//! A user wants a refund of a completed payment: it is recorded, and handed to the refund saga.

use crate::domain::{Payment, Refund, Status};
use crate::ports::{FindPayment, OpenRefund, RecallAnswer, RefundQuoteClient, StartSaga};
use contracts::saga::RefundSaga;
use contracts::steps::{QuoteRefund, RefundQuote};
use contracts::{PaymentId, Timestamp, UserId};
use kit::Fault;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};

/// A request for a refund.
#[derive(Debug)]
pub struct StartRefund {
    /// The user who requests it; another user's payment does not exist for them.
    pub user: UserId,
    pub payment: PaymentId,
    /// The caller's idempotency key.
    pub key: IdempotencyKey,
    pub correlation_id: String,
    /// When it was requested.
    pub now: Timestamp,
}

/// Why no refund was started.
#[derive(Debug)]
pub enum RefundError {
    /// This user has no such payment.
    NotFound,
    /// It is not completed, or its reservation is not refundable.
    NotRefundable,
    /// It is too late: the refund was possible until then.
    TooLate(Timestamp),
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for RefundError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Reads, quotes, records, starts: two round trips to payments' own table. A refund that was recorded and not started
/// is started by a repetition of the request, or by the recovery.
pub async fn start_refund<P, Q, S>(
    payments: &P,
    quotes: &Q,
    sagas: &S,
    ask: StartRefund,
    answer: impl Fn(&Payment) -> StoredAnswer + Send,
) -> Result<StoredAnswer, RefundError>
where
    P: FindPayment + OpenRefund + RecallAnswer,
    Q: RefundQuoteClient,
    S: StartSaga<RefundSaga>,
{
    let payment = payments.find(&ask.user, &ask.payment).await?.ok_or(RefundError::NotFound)?;
    let Err(refusal) = refundable(quotes, &payment).await? else {
        let refund = Refund { requested_at: ask.now, correlation_id: ask.correlation_id };
        let payment = payment.refunding(refund);
        let about = ask.payment.to_string();
        let memo = Memo { user: ask.user.clone(), key: ask.key, about, answer: answer(&payment) };
        return match payments.open_refund(&payment, &memo, ask.now).await? {
            Some(Outcome::First) => {
                start(sagas, &payment).await?;
                Ok(memo.answer)
            }
            // Another request was faster: the payment is not as it was read.
            Some(Outcome::Replay(first)) => {
                let payment = payments.find(&ask.user, &ask.payment).await?.ok_or(RefundError::NotFound)?;
                as_before(sagas, &payment, first.answer).await
            }
            Some(Outcome::Mismatch) => Err(RefundError::KeyReused),
            None => Err(RefundError::NotRefundable),
        };
    };
    // It may be this very request, at an earlier attempt, that made the payment unrefundable.
    match payments.recall(&ask.user, &ask.key, ask.now).await? {
        Outcome::First => Err(refusal),
        Outcome::Replay(first) => as_before(sagas, &payment, first.answer).await,
        Outcome::Mismatch => Err(RefundError::KeyReused),
    }
}

async fn refundable(quotes: &impl RefundQuoteClient, payment: &Payment) -> Result<Result<(), RefundError>, Fault> {
    if payment.status != Status::Completed {
        return Ok(Err(RefundError::NotRefundable));
    }
    let ask = QuoteRefund {
        user_id: payment.saga.user_id.clone(),
        reservation_id: payment.saga.reservation_id.clone(),
        payment_id: payment.saga.payment_id.clone(),
    };
    Ok(match quotes.quote_refund(&ask).await? {
        RefundQuote::Refundable => Ok(()),
        RefundQuote::TooLate { until } => Err(RefundError::TooLate(until)),
        RefundQuote::NotRefundable => Err(RefundError::NotRefundable),
    })
}

async fn as_before(
    sagas: &impl StartSaga<RefundSaga>,
    payment: &Payment,
    answer: StoredAnswer,
) -> Result<StoredAnswer, RefundError> {
    // The first attempt may have recorded the refund and died before starting it.
    start(sagas, payment).await?;
    Ok(answer)
}

/// Starts the refund saga of a payment that is being refunded.
async fn start(sagas: &impl StartSaga<RefundSaga>, payment: &Payment) -> Result<(), Fault> {
    match payment.refund_saga() {
        Some(saga) => sagas.start(&payment.execution_name(), &saga).await,
        None => Ok(()),
    }
}
