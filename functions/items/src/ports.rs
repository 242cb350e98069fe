//! What items needs from other components, one narrow trait per capability.

use crate::domain::{Item, Job, Label, NotReceived, Order, Portion, Received, Refusal, Shelf};
use contracts::choreography::ParticipantState;
use contracts::{ItemId, OrderId, Timestamp};
use kit::Fault;
use kit::http::Page;
use kit::idempotency::{Memo, Outcome, StoredAnswer};

/// Puts items into the catalogue.
pub trait AddItem: Send + Sync {
    /// Writes an item together with the idempotency key of its request. From here on it is visible to all.
    fn add_item(
        &self,
        item: &Item,
        memo: Option<&Memo>,
        now: Timestamp,
    ) -> impl Future<Output = Result<Outcome<StoredAnswer>, Fault>> + Send;
}

/// Changes items. `None` where there is no such item, or none any more.
pub trait ChangeItem: Send + Sync {
    /// Gives an item another name, price and limit. What was ordered before keeps its price, and counts.
    fn relabel(&self, item: &ItemId, label: &Label) -> impl Future<Output = Result<Option<Item>, Fault>> + Send;
}

/// Pauses sales.
pub trait PauseItem: Send + Sync {
    /// Keeps an item from being ordered, or no longer. What was ordered before is not affected. `None` where there is no
    /// such item, or none any more.
    fn pause(
        &self,
        item: &ItemId,
        is_paused: bool,
        now: Timestamp,
    ) -> impl Future<Output = Result<Option<Item>, Fault>> + Send;
}

/// Adds to stocks.
pub trait ReceiveStock: Send + Sync {
    /// Adds units to an item's stock, together with the idempotency key of its request.
    fn receive(
        &self,
        item: &ItemId,
        units: Received,
        memo: &Memo,
        now: Timestamp,
    ) -> impl Future<Output = Result<Result<Outcome<StoredAnswer>, NotReceived>, Fault>> + Send;
}

/// Withdraws items.
pub trait WithdrawItem: Send + Sync {
    /// From here on it is neither visible nor can it be ordered. `false` where there never was such an item.
    fn withdraw(&self, item: &ItemId, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// Reads one item.
pub trait FindItem: Send + Sync {
    /// The item, if it is sold.
    fn find_item(&self, item: &ItemId) -> impl Future<Output = Result<Option<Item>, Fault>> + Send;
}

/// Reads the catalogue.
pub trait ListItems: Send + Sync {
    /// Items that are sold, newest first, and the cursor behind the last if there are more.
    fn list_items(&self, page: &Page) -> impl Future<Output = Result<(Vec<Item>, Option<String>), Fault>> + Send;
}

/// Reads some items.
pub trait FindItems: Send + Sync {
    /// Those of them that are sold, in no order. `items` may be a hundred at most.
    fn find_items(&self, items: &[ItemId]) -> impl Future<Output = Result<Vec<Item>, Fault>> + Send;
}

/// The result of taking an order's units.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// All were taken.
    All,
    /// None was taken, for this reason.
    None(Refusal),
    /// None was taken: another event of the order was handled meanwhile, or an item got another limit.
    Crossed,
}

/// Does and undoes what orders require of the stock. Each write is one transaction with its answer in the outbox, on
/// the condition that the order's work is still as it was read: otherwise `false` (or [`Taken::Crossed`]), and nothing
/// is written.
pub trait KeepStock: Send + Sync {
    /// What was done for an order so far.
    fn job(&self, order: &OrderId) -> impl Future<Output = Result<Job, Fault>> + Send;

    /// The same, and what it finds now, in one read.
    fn job_and_shelf(&self, order: &Order) -> impl Future<Output = Result<(Job, Shelf), Fault>> + Send;

    /// Takes all of an order's portions, and counts those that are limited, or does neither. Nothing was done for it yet.
    fn take(
        &self,
        order: &Order,
        portions: &[Portion],
        now: Timestamp,
    ) -> impl Future<Output = Result<Taken, Fault>> + Send;

    /// Records the refusal of an order for which nothing was done yet.
    fn refuse(
        &self,
        order: &Order,
        refusal: &Refusal,
        now: Timestamp,
    ) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Puts back what `job` took for an order, and ensures that nothing will be taken for it, however late
    /// `order.placed` arrives.
    fn restore(&self, order: &Order, job: &Job, now: Timestamp) -> impl Future<Output = Result<bool, Fault>> + Send;

    /// Has the answer to an order, by the state of its work, published again.
    fn republish(
        &self,
        order: &OrderId,
        work: ParticipantState,
        now: Timestamp,
    ) -> impl Future<Output = Result<(), Fault>> + Send;
}
