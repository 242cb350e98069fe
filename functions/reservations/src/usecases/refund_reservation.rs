//! Saga step: paid -> refunded, the seats free and sellable again. The refund's point of no return.

use crate::ports::{Transition, WriteRefund};
use contracts::saga::{Done, RefundSaga};
use kit::{StepCall, StepError, metrics};

/// Why a refund is refused: the reservation is not paid by this payment.
pub const NOT_REFUNDABLE: &str = "reservation_not_refundable";

/// Gives the seats back, once. Repeated later it touches nobody who has them by then.
pub async fn refund_reservation(store: &impl WriteRefund, call: StepCall<RefundSaga>) -> Result<Done, StepError> {
    match store.refund(&call.input, call.now).await? {
        Transition::Made => {
            metrics::count("Refunded", call.input.payment.seats.len() as u64);
            Ok(Done { already: false })
        }
        Transition::Already => Ok(Done { already: true }),
        Transition::Impossible(_) => Err(StepError::Refused(NOT_REFUNDABLE)),
    }
}
