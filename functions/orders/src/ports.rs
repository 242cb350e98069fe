//! What orders needs from other components, one narrow trait per capability.

use crate::domain::{Answer, Cart, CartLine, CartOrder, CartWork, DueOrder, Failure, Order, WorkState};
use contracts::steps::{BalanceQuote, ItemsQuote, QuoteBalance, QuoteItems};
use contracts::{ItemId, OrderId, Timestamp, UserId};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::sweep::{Cursor, Part};

/// Returns what items are called and cost now.
pub trait QuoteClient: Send + Sync {
    /// Those that can be ordered.
    fn quote(&self, ask: &QuoteItems) -> impl Future<Output = Result<ItemsQuote, Fault>> + Send;
}

/// Returns what a user could pay now.
pub trait BalanceClient: Send + Sync {
    /// Their balance.
    fn balance(&self, ask: &QuoteBalance) -> impl Future<Output = Result<BalanceQuote, Fault>> + Send;
}

/// Reads a cart.
pub trait FindCart: Send + Sync {
    /// A user's cart; one that nothing was ever put in is empty.
    fn find_cart(&self, user: &UserId) -> impl Future<Output = Result<Cart, Fault>> + Send;
}

/// Changes a cart, as its user wants it.
pub trait ChangeCart: Send + Sync {
    /// Puts a line in, in place of the one its item had. Returns the cart after it; `None` when the cart is full.
    fn put_line(&self, user: &UserId, line: &CartLine) -> impl Future<Output = Result<Option<Cart>, Fault>> + Send;
    /// Takes an item's line out, if there is one.
    fn remove_line(&self, user: &UserId, item: &ItemId) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Opens orders.
pub trait OpenOrder: Send + Sync {
    /// The remembered answer to the key, and the user's cart.
    fn checkout(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<(Outcome<StoredAnswer>, Cart), Fault>> + Send;
    /// Writes the order, its `order.placed` and the remembered answer, all or nothing. If an answer is remembered
    /// already, or its user has `most_pending` pending orders, nothing was written.
    fn open_order(
        &self,
        order: &Order,
        memo: &Memo,
        most_pending: u32,
    ) -> impl Future<Output = Result<Result<Outcome<StoredAnswer>, TooManyPending>, Fault>> + Send;
}

/// A user has as many pending orders as they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyPending;

/// Reads one order of a user.
pub trait FindOrder: Send + Sync {
    /// The order, if this user has it.
    fn find_order(&self, user: &UserId, id: &OrderId) -> impl Future<Output = Result<Option<Order>, Fault>> + Send;
}

/// Lists a user's orders.
pub trait ListOrders: Send + Sync {
    /// A page, newest first, and the key to go on behind, if there is more.
    fn list_orders(
        &self,
        user: &UserId,
        page: &Page,
    ) -> impl Future<Output = Result<(Vec<Order>, Option<String>), Fault>> + Send;
}

/// Does and undoes what an order requires of a cart. Each write is one transaction with its answer in the outbox, on
/// the condition that all is still as it was read: otherwise `false`, and nothing is written.
pub trait KeepCart: Send + Sync {
    /// What was done for an order so far, and the cart.
    fn cart_work(&self, order: &CartOrder) -> impl Future<Output = Result<(CartWork, Cart), Fault>> + Send;
    /// Takes lines out of the cart, for an order for which nothing was done yet.
    fn take_lines(
        &self,
        order: &CartOrder,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
    /// Puts lines back into the cart, and ensures that none is ever taken out for the order again.
    fn put_lines_back(
        &self,
        order: &CartOrder,
        before: &CartWork,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Republishes events.
pub trait Republish: Send + Sync {
    /// Has the order's event of this type published again.
    fn republish(
        &self,
        order: &OrderId,
        event_type: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Records the participants' answers.
pub trait KeepAnswers: Send + Sync {
    /// Records an answer, unless a later one of the participant is recorded. Returns the order as it was placed, and
    /// the work state now; `None` when the order's event is not in the outbox any more.
    fn note_answer(&self, answer: &Answer) -> impl Future<Output = Result<Option<(Order, WorkState)>, Fault>> + Send;
}

/// Ends orders.
pub trait EndOrder: Send + Sync {
    /// pending -> completed, with its event. `false` when it had ended.
    fn complete(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;
    /// pending -> failed, with its event. `false` when it had ended.
    fn fail(
        &self,
        order: &Order,
        failure: &Failure,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// The result of cancelling an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cancelled {
    /// It is cancelled.
    Now,
    /// It had failed.
    Crossed,
    /// Its user has cancelled as many on that day as they can.
    TooMany,
}

/// Cancels orders.
pub trait CancelOrder: Send + Sync {
    /// pending or completed -> failed, because somebody cancelled it, with its event. Counted among the orders that its user
    /// cancels on that day, if these have a limit.
    fn cancel(
        &self,
        order: &Order,
        by: &UserId,
        most: Option<u32>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Cancelled, Fault>> + Send;
}

/// Finds out whose an order is.
pub trait FindBuyer: Send + Sync {
    /// The user who placed it; `None` if nobody did, or more than seven days ago.
    fn find_buyer(&self, id: &OrderId) -> impl Future<Output = Result<Option<UserId>, Fault>> + Send;
}

/// Settles failed orders.
pub trait SettleOrder: Send + Sync {
    /// A failed order is not checked any more: all participants have undone their part.
    fn settle(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Finds orders that wait for answers.
pub trait FindDue: Send + Sync {
    /// A page of those of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) due for a check at `now`, oldest first.
    fn due_orders(
        &self,
        shard: u64,
        now: Timestamp,
        after: Option<Cursor>,
    ) -> impl Future<Output = Result<Part<DueOrder>, Fault>> + Send;
    /// Postpones the next check, from `due` as it was found, unless another run did or the order has ended.
    fn put_off(
        &self,
        due: &DueOrder,
        put_off: PutOff,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// How the next check of an order is postponed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOff {
    /// The time of the next check.
    pub until: Timestamp,
    /// How often its failure was published again, including this time.
    pub nudges: u32,
    /// Whether the on-call is paged about it, in the same write.
    pub alert: bool,
}
