//! HTTP, messages and steps in, answers out.

use crate::domain::{Item, Label, NotReceived, Order, Received, Stock};
use crate::ports::{
    AddItem, ChangeItem, FindItem, FindItems, KeepStock, ListItems, PauseItem, ReceiveStock, WithdrawItem,
};
use crate::usecases::{deduct_stock, quote_items};
use contracts::events::OrderEvent;
use contracts::orders::Quantity;
use contracts::steps::{ItemsQuote, QuoteItems};
use contracts::{ItemId, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody};
use kit::idempotency::{self, IdempotencyKey, Memo, Outcome, StoredAnswer};
use kit::ids::Mint;
use kit::queue::{Message, OrderMessage};
use kit::{Call, Fault, Problem, Reply, StepCall, StepError};
use serde::{Deserialize, Serialize};

/// The dependencies of the handlers for operators. The others get the store alone: they need no token.
#[derive(Debug)]
pub struct Deps<S> {
    /// Where the items are.
    pub store: S,
    pub users: UserTokens,
}

#[derive(Debug, Serialize)]
struct ItemBody {
    item_id: ItemId,
    name: String,
    price: Won,
    stock: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_per_user: Option<Quantity>,
    paused: bool,
}

impl From<Item> for ItemBody {
    fn from(item: Item) -> Self {
        let Item { id, label: Label { name, price, max_per_user }, stock, is_paused, .. } = item;
        Self { item_id: id, name, price, stock: stock.get(), max_per_user, paused: is_paused }
    }
}

fn no_such_item() -> Problem {
    Problem::not_found("no such item")
}

/// `GET /items`
pub async fn list_items(store: &impl ListItems, call: Call) -> Result<Reply, Problem> {
    let page = call.page_behind(|key| ItemId::parse(key).is_ok())?;
    let (items, next) = store.list_items(&page).await?;
    Reply::ok(ListBody {
        items: items.into_iter().map(ItemBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// `GET /items/{item_id}`
pub async fn get_item(store: &impl FindItem, call: Call) -> Result<Reply, Problem> {
    let id: ItemId = call.path_id("item_id")?;
    let item = store.find_item(&id).await?.ok_or_else(no_such_item)?;
    Reply::ok(ItemBody::from(item))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewItemBody {
    name: String,
    price: i64,
    #[serde(default)]
    stock: i64,
    #[serde(default)]
    max_per_user: Option<i64>,
}

/// `POST /admin/items`
pub async fn create_item(deps: &Deps<impl AddItem>, call: Call) -> Result<Reply, Problem> {
    let caller = deps.users.operator(&call)?;
    let key = IdempotencyKey::of(&call, "POST /admin/items")?;
    let body: NewItemBody = call.json()?;
    let label = Label::new(&body.name, body.price)?.limited(body.max_per_user)?;
    let (id, stock) = (ItemId::mint(call.now), Stock::new(body.stock)?);
    let item = Item { id, label, stock, is_paused: false, created_at: call.now };
    let mut reply = Reply::created(ItemBody::from(item.clone()))?;
    reply.location = Some(format!("/items/{}", item.id));
    let actor = caller.user.to_string();
    let memo =
        key.map(|key| Memo { user: caller.user, key, about: item.id.to_string(), answer: StoredAnswer::of(&reply) });
    match deps.store.add_item(&item, memo.as_ref(), call.now).await? {
        Outcome::First => {
            tracing::info!(actor, item = item.id.as_str(), "an item was put on sale");
            Ok(reply)
        }
        Outcome::Replay(first) => Ok(first.into_reply()),
        Outcome::Mismatch => Err(idempotency::reused()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeItemBody {
    name: String,
    price: i64,
    #[serde(default)]
    max_per_user: Option<i64>,
}

/// `PUT /admin/items/{item_id}`
pub async fn change_item(deps: &Deps<impl ChangeItem>, call: Call) -> Result<Reply, Problem> {
    let operator = deps.users.operator(&call)?;
    let id: ItemId = call.path_id("item_id")?;
    let body: ChangeItemBody = call.json()?;
    let label = Label::new(&body.name, body.price)?.limited(body.max_per_user)?;
    let item = deps.store.relabel(&id, &label).await?.ok_or_else(no_such_item)?;
    let (actor, price) = (operator.user.as_str(), label.price.get());
    tracing::info!(actor, item = id.as_str(), price, max_per_user = body.max_per_user, "an item was changed");
    Reply::ok(ItemBody::from(item))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PauseBody {
    paused: bool,
}

/// `PUT /admin/items/{item_id}/sale`
pub async fn pause_item(deps: &Deps<impl PauseItem>, call: Call) -> Result<Reply, Problem> {
    let operator = deps.users.operator(&call)?;
    let id: ItemId = call.path_id("item_id")?;
    let PauseBody { paused } = call.json()?;
    let item = deps.store.pause(&id, paused, call.now).await?.ok_or_else(no_such_item)?;
    tracing::info!(actor = operator.user.as_str(), item = id.as_str(), paused, "an item's sale was paused or resumed");
    Reply::ok(ItemBody::from(item))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReceiveBody {
    received: i64,
}

#[derive(Debug, Serialize)]
struct ReceivedBody {
    item_id: ItemId,
    received: i64,
}

/// `POST /admin/items/{item_id}/stock`
pub async fn receive_stock(deps: &Deps<impl ReceiveStock>, call: Call) -> Result<Reply, Problem> {
    let operator = deps.users.operator(&call)?;
    let id: ItemId = call.path_id("item_id")?;
    let key = IdempotencyKey::required(&call, &format!("POST /admin/items/{id}/stock"))?;
    let body: ReceiveBody = call.json()?;
    let units = Received::new(body.received)?;
    let reply = Reply::created(ReceivedBody { item_id: id.clone(), received: units.get() })?;
    let actor = operator.user.to_string();
    let memo = Memo { user: operator.user, key, about: id.to_string(), answer: StoredAnswer::of(&reply) };
    match deps.store.receive(&id, units, &memo, call.now).await? {
        Ok(Outcome::First) => {
            tracing::info!(actor, item = id.as_str(), units = units.get(), "stock was received");
            Ok(reply)
        }
        Ok(Outcome::Replay(first)) => Ok(first.into_reply()),
        Ok(Outcome::Mismatch) => Err(idempotency::reused()),
        Err(NotReceived::NoSuchItem) => Err(no_such_item()),
        Err(NotReceived::TooFew) => Err(Problem::conflict("stock_too_low", "Fewer units are left to sell")),
    }
}

/// `DELETE /admin/items/{item_id}`
pub async fn withdraw_item(deps: &Deps<impl WithdrawItem>, call: Call) -> Result<Reply, Problem> {
    let operator = deps.users.operator(&call)?;
    let id: ItemId = call.path_id("item_id")?;
    let is_withdrawn = deps.store.withdraw(&id, call.now).await?;
    if is_withdrawn {
        tracing::info!(actor = operator.user.as_str(), item = id.as_str(), "an item was withdrawn");
    }
    is_withdrawn.then(Reply::no_content).ok_or_else(no_such_item)
}

/// Consumes `order.placed` and `order.failed`.
pub async fn deduct_stock(store: &impl KeepStock, message: Message) -> Result<(), Fault> {
    let Some(OrderMessage { signal, order, correlation_id, .. }) = message.order_signal("deducting stock")? else {
        return Ok(());
    };
    let OrderEvent { order_id, user_id, lines, .. } = order;
    let order = Order::of(order_id, user_id, lines, correlation_id);
    deduct_stock::deduct_stock(store, signal, &order, message.now).await
}

/// Step called by orders: what items are called and cost now.
pub async fn quote_items(items: &impl FindItems, call: StepCall<QuoteItems>) -> Result<ItemsQuote, StepError> {
    Ok(quote_items::quote_items(items, call.input.items).await?)
}
