//! What orders needs from outside, one narrow trait per capability.

use crate::domain::{Answer, Cart, CartLine, CartOrder, CartWork, DueOrder, Order, WorkState};
use contracts::orders::OrderFailure;
use contracts::steps::{ItemsQuote, QuoteItems};
use contracts::{ItemId, OrderId, Timestamp, UserId};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{IdempotencyKey, Memo, Outcome, StoredAnswer};

/// Asks what items are called and cost now.
pub trait AskItems: Send + Sync {
    /// Those that can be ordered.
    fn quote(&self, ask: &QuoteItems) -> impl Future<Output = Result<ItemsQuote, Fault>> + Send;
}

/// Reads a cart.
pub trait FindCart: Send + Sync {
    /// A user's cart; one that nothing was ever put in is empty.
    fn find_cart(&self, user: &UserId) -> impl Future<Output = Result<Cart, Fault>> + Send;
}

/// Changes a cart, as its user wants it.
pub trait ChangeCart: Send + Sync {
    /// Puts a line in, in place of the one its item had. The cart after it; `None` when the cart is full.
    fn put_line(&self, user: &UserId, line: &CartLine) -> impl Future<Output = Result<Option<Cart>, Fault>> + Send;
    /// Takes an item's line out, if there is one.
    fn remove_line(&self, user: &UserId, item: &ItemId) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Opens orders.
pub trait OpenOrder: Send + Sync {
    /// What the key remembers, and the user's cart.
    fn checkout(
        &self,
        user: &UserId,
        key: &IdempotencyKey,
        now: Timestamp,
    ) -> impl Future<Output = Result<(Outcome<StoredAnswer>, Cart), Fault>> + Send;
    /// The order, the event that it was placed, and the remembered answer: all or nothing. Anything remembered before
    /// means that nothing was written.
    fn open_order(
        &self,
        order: &Order,
        memo: &Memo,
    ) -> impl Future<Output = Result<Outcome<StoredAnswer>, Fault>> + Send;
}

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

/// Does and undoes what an order wants of a cart. Each write is one transaction with its answer in the outbox, guarded by
/// what was read: `false`, and nothing written, if that is not so any more.
pub trait KeepCart: Send + Sync {
    /// What was done for an order so far, and the cart.
    fn cart_work(&self, order: &CartOrder) -> impl Future<Output = Result<(CartWork, Cart), Fault>> + Send;
    /// Takes lines out of the cart, for an order that nothing was done for.
    fn take_lines(
        &self,
        order: &CartOrder,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
    /// Puts lines back into the cart, and sees to it that none is ever taken out for the order again.
    fn put_lines_back(
        &self,
        order: &CartOrder,
        before: &CartWork,
        cart: &Cart,
        lines: &[CartLine],
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Has something said once more.
pub trait Republish: Send + Sync {
    /// Has the order's event of this type published again.
    fn republish(
        &self,
        order: &OrderId,
        event_type: &str,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Keeps what the participants answered.
pub trait KeepAnswers: Send + Sync {
    /// Notes an answer, unless the participant has said something later before. The order as it was placed, and where
    /// everybody stands now; `None` when the order's event is not in the outbox any more.
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
        reason: OrderFailure,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Closes the book on failed orders.
pub trait SettleOrder: Send + Sync {
    /// A failed order is not looked after any more: everybody has undone their part.
    fn settle(&self, order: &Order, now: Timestamp) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// Finds orders that somebody owes something.
pub trait FindDue: Send + Sync {
    /// Those of one of [`DUE_SHARDS`](crate::domain::DUE_SHARDS) due for a look at `now`, oldest first.
    fn due_orders(&self, shard: u64, now: Timestamp) -> impl Future<Output = Result<Vec<DueOrder>, Fault>> + Send;
    /// Puts the next look off, from `due` as it was found, unless somebody else did or it has ended.
    fn put_off(
        &self,
        due: &DueOrder,
        put_off: PutOff,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}

/// How the next look at an order is put off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PutOff {
    /// Until when.
    pub until: Timestamp,
    /// How often it was said again that it failed, by now.
    pub nudges: u32,
    /// Whether the on-call is paged, with it, that the order does not come to an end.
    pub tell: bool,
}
