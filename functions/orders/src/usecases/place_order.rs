//! Places an order: its prices are fixed, it is written together with its event, and everything else is up to the
//! consumers of that event.

use crate::domain::{Order, Priced, Refusal, Status, Wanted, fix_prices};
use crate::ports::{BalanceClient, OpenOrder, QuoteClient, TooManyPending};
use contracts::steps::{BalanceQuote, QuoteBalance, QuoteItems};
use contracts::{OrderId, Timestamp, UserId};
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::{Fault, metrics};

/// A request to place an order.
#[derive(Debug, Clone)]
pub struct PlaceOrder {
    pub user: UserId,
    pub wanted: Wanted,
    pub key: IdempotencyKey,
    /// The id of the new order.
    pub order: OrderId,
    pub correlation_id: String,
    /// How many orders of the user may be pending, with this one.
    pub most_pending: u32,
    /// When it was requested.
    pub now: Timestamp,
}

/// The result of placing an order.
#[derive(Debug)]
pub enum Placed {
    /// The new order, now pending.
    Now(Order),
    /// The same request was answered before.
    AsBefore(StoredAnswer),
}

/// Why an order was not placed.
#[derive(Debug)]
pub enum PlaceError {
    /// It would be in vain, or is not what the user goes by.
    Refused(Refusal),
    /// The key was used for another request.
    KeyReused,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for PlaceError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Reads and calls at the same time, then writes: two round trips. A request that was answered before gets the same
/// answer, whatever became of the items since.
pub async fn place_order(
    orders: &impl OpenOrder,
    items: &impl QuoteClient,
    points: &impl BalanceClient,
    ask: PlaceOrder,
    answer: impl Fn(&Order) -> StoredAnswer + Send,
) -> Result<Placed, PlaceError> {
    let (items_wanted, payer) = (QuoteItems { items: ask.wanted.items() }, QuoteBalance { user_id: ask.user.clone() });
    let checkout = orders.checkout(&ask.user, &ask.key, ask.now);
    let (quote, balance, checkout) = tokio::join!(items.quote(&items_wanted), points.balance(&payer), checkout);
    let (remembered, cart) = checkout?;
    if let Some(before) = as_before(remembered) {
        return before;
    }
    let priced = fix_prices(&ask.wanted, quote?.items, &cart).and_then(|priced| payable(priced, balance));
    let Priced { lines, total } = match priced {
        Ok(priced) => priced,
        Err(refusal) => {
            // The same request may have been accepted meanwhile, before the reason for this refusal arose.
            let (remembered, _) = orders.checkout(&ask.user, &ask.key, ask.now).await?;
            return as_before(remembered).unwrap_or(Err(PlaceError::Refused(refusal)));
        }
    };
    let order = Order {
        id: ask.order,
        user: ask.user,
        lines,
        total_price: total,
        placed_at: ask.now,
        correlation_id: ask.correlation_id,
        status: Status::Pending,
    };
    let memo = Memo { user: order.user.clone(), key: ask.key, about: order.id.to_string(), answer: answer(&order) };
    let remembered = match orders.open_order(&order, &memo, ask.most_pending).await? {
        Ok(remembered) => remembered,
        Err(TooManyPending) => return Err(PlaceError::Refused(Refusal::TooManyPending)),
    };
    if let Some(before) = as_before(remembered) {
        return before;
    }
    metrics::count("OrdersPlaced", 1);
    Ok(Placed::Now(order))
}

/// Refuses what its user could not pay now, before anything is taken from the stock for it. If points does not answer,
/// the order is placed: whether it is paid is decided there.
fn payable(priced: Priced, balance: Result<BalanceQuote, Fault>) -> Result<Priced, Refusal> {
    match balance {
        Ok(BalanceQuote { balance }) if balance < priced.total => Err(Refusal::InsufficientPoints),
        Ok(_) => Ok(priced),
        Err(fault) => {
            tracing::warn!(error = fault.chain(), "an order is placed by somebody whose balance is not known");
            Ok(priced)
        }
    }
}

fn as_before(remembered: Outcome<StoredAnswer>) -> Option<Result<Placed, PlaceError>> {
    match remembered {
        Outcome::First => None,
        Outcome::Replay(answer) => Some(Ok(Placed::AsBefore(answer))),
        Outcome::Mismatch => Some(Err(PlaceError::KeyReused)),
    }
}
