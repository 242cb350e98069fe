//! Cancels an order, pending or completed: to the participants it has failed, and they undo their parts.

use crate::domain::{Cancel, Order, Status, decide_cancel};
use crate::ports::{CancelOrder, Cancelled, FindOrder};
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
    /// How many orders a day they can; operators any number.
    pub most: Option<u32>,
    /// When it was requested.
    pub now: Timestamp,
}

/// An order that is cancelled.
#[derive(Debug)]
pub enum Cancellation {
    /// By this request.
    Now(Order),
    /// By an earlier one.
    Before(Order),
}

impl Cancellation {
    /// The order.
    pub const fn order(&self) -> &Order {
        match self {
            Self::Now(order) | Self::Before(order) => order,
        }
    }
}

/// Why an order was not cancelled.
#[derive(Debug)]
pub enum CancelError {
    /// The buyer has no such order.
    NotFound,
    /// It failed, or it was placed too long ago.
    NotCancellable,
    /// Its user has cancelled as many today as they can.
    TooMany,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for CancelError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Returns the cancelled order, also if it was cancelled before.
pub async fn cancel_order(
    orders: &(impl FindOrder + CancelOrder),
    ask: CancelAsk,
) -> Result<Cancellation, CancelError> {
    for _ in 0..ATTEMPTS {
        let order = orders.find_order(&ask.buyer, &ask.order).await?.ok_or(CancelError::NotFound)?;
        match decide_cancel(&order, ask.within_seconds, ask.now) {
            Cancel::Before => return Ok(Cancellation::Before(order)),
            Cancel::Refused => return Err(CancelError::NotCancellable),
            Cancel::Now => {}
        }
        match orders.cancel(&order, &ask.by, ask.most, ask.now).await? {
            Cancelled::Now => {
                metrics::count("OrdersCancelled", 1);
                let status = Status::Failed(OrderFailure::Cancelled.into());
                return Ok(Cancellation::Now(Order { status, ..order }));
            }
            Cancelled::TooMany => return Err(CancelError::TooMany),
            Cancelled::Crossed => {}
        }
    }
    Err(Fault::contended("cancelling an order").into())
}
