//! Cancels an order, pending or completed: to the participants it has failed, and they undo their parts.

use crate::domain::{Cancel, Order, Status, decide_cancel};
use crate::ports::{CancelOrder, FindOrder};
use contracts::orders::OrderFailure;
use contracts::{OrderId, Timestamp, UserId};
use kit::{Fault, metrics};

/// How often it is decided again after the order ended in between. It does so once.
const ATTEMPTS: u32 = 3;

/// A request to cancel an order.
#[derive(Debug, Clone)]
pub struct CancelAsk {
    pub order: OrderId,
    /// Whose order it is.
    pub buyer: UserId,
    /// Who cancels it: the buyer, or an operator.
    pub by: UserId,
    /// How long after it was placed they can, in seconds.
    pub within_seconds: i64,
    /// When it was requested.
    pub now: Timestamp,
}

/// Why an order was not cancelled.
#[derive(Debug)]
pub enum CancelError {
    /// The buyer has no such order.
    NotFound,
    /// It failed, or it was placed too long ago.
    NotCancellable,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for CancelError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Returns the cancelled order, also if it was cancelled before.
pub async fn cancel_order(orders: &(impl FindOrder + CancelOrder), ask: CancelAsk) -> Result<Order, CancelError> {
    for _ in 0..ATTEMPTS {
        let order = orders.find_order(&ask.buyer, &ask.order).await?.ok_or(CancelError::NotFound)?;
        match decide_cancel(&order, ask.within_seconds, ask.now) {
            Cancel::Before => return Ok(order),
            Cancel::Refused => return Err(CancelError::NotCancellable),
            Cancel::Now => {}
        }
        if orders.cancel(&order, &ask.by, ask.now).await? {
            metrics::count("OrdersCancelled", 1);
            return Ok(Order { status: Status::Failed(OrderFailure::Cancelled.into()), ..order });
        }
    }
    Err(Fault::contended("cancelling an order").into())
}
