//! Saga step: paid -> refunded, the seats free and sellable again. The refund's point of no return.

use crate::ports::{Transition, WriteRefund};
use contracts::Timestamp;
use contracts::saga::{Done, RefundSaga};
use kit::{StepError, metrics};

/// Why a refund is refused: the reservation is not paid by this payment.
pub const NOT_REFUNDABLE: &str = "reservation_not_refundable";

/// Frees the seats, once. A later repeat does not touch seats that another user has by then.
pub async fn refund_reservation(
    store: &impl WriteRefund,
    saga: &RefundSaga,
    now: Timestamp,
) -> Result<Done, StepError> {
    match store.refund(saga, now).await? {
        Transition::Made => {
            metrics::count("Refunded", saga.payment.seats.len() as u64);
            Ok(Done { already: false })
        }
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(_) => Err(StepError::Refused(NOT_REFUNDABLE)),
    }
}
