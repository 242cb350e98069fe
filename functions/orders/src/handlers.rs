//! HTTP and events in, answers out.

use crate::domain::{
    Answer, CANCELLABLE_SECONDS, CartOrder, Order, PriceBefore, PriceChange, Refusal, ShownCart, Status, Wanted,
    WantedLine,
};
use crate::ports::{
    BalanceClient, CancelOrder, ChangeCart, EndOrder, FindBuyer, FindCart, FindOrder, KeepAnswers, KeepCart,
    ListOrders, OpenOrder, QuoteClient, Republish, SettleOrder,
};
use crate::usecases::cancel_order::{self, CancelAsk, CancelError, Cancellation};
use crate::usecases::place_order::{self, PlaceError, PlaceOrder, Placed};
use crate::usecases::put_cart_item::{self, PutCartItem, PutError};
pub use crate::usecases::sweep_orders::{SweepDeps, sweep_orders};
use crate::usecases::{clear_cart, get_cart, track_order};
use contracts::orders::{MAX_LINES, OrderLine, Pieces, Quantity};
use contracts::{ItemId, OrderId, Timestamp, Won};
use kit::auth::UserTokens;
use kit::http::{Cursor, ListBody, StatusCode};
use kit::idempotency::{self, IdempotencyKey, StoredAnswer};
use kit::ids::Mint;
use kit::queue::{Message, OrderMessage};
use kit::{Call, Fault, Problem, Reply};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The dependencies of the handlers that call no other context.
#[derive(Debug)]
pub struct Deps<S> {
    /// Where carts and orders are.
    pub store: S,
    pub users: UserTokens,
}

/// The dependencies of the handlers of the cart that ask items.
#[derive(Debug)]
pub struct CartDeps<S, I> {
    /// Where carts are.
    pub store: S,
    /// The client that knows what is sold, and at which price.
    pub items: I,
    pub users: UserTokens,
}

/// The dependencies of `place-order`.
#[derive(Debug)]
pub struct PlaceDeps<S, I, P> {
    /// Where carts and orders are.
    pub store: S,
    /// The client that knows the prices.
    pub items: I,
    /// The client that knows the balance.
    pub points: P,
    /// How many orders of a user may be pending.
    pub most_pending: u32,
    pub users: UserTokens,
}

/// The dependencies of `cancel-order`.
#[derive(Debug)]
pub struct CancelDeps<S> {
    /// Where orders are.
    pub store: S,
    /// How long after it was placed its user can cancel an order, in seconds.
    pub within_seconds: i64,
    /// How many orders a user can cancel on a day.
    pub most: u32,
    pub users: UserTokens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PutCartItemBody {
    quantity: Quantity,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaceBody {
    lines: Vec<WantedBody>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedBody {
    item_id: ItemId,
    quantity: Quantity,
    #[serde(default)]
    price_seen: Option<Won>,
}

impl From<WantedBody> for WantedLine {
    fn from(WantedBody { item_id, quantity, price_seen }: WantedBody) -> Self {
        Self { pieces: Pieces { item_id, quantity }, price_seen }
    }
}

#[derive(Debug, Serialize)]
struct CartBody {
    lines: Vec<CartLineBody>,
    total_price: Won,
}

#[derive(Debug, Serialize)]
struct CartLineBody {
    item_id: ItemId,
    name: String,
    price: Won,
    quantity: Quantity,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn: Option<bool>,
}

impl CartBody {
    fn of(ShownCart { cart, withdrawn }: ShownCart) -> Result<Self, Fault> {
        let total_price =
            cart.total().ok_or_else(|| Fault::broken("adding up a cart", "it costs more than there is"))?;
        let line = |OrderLine { item_id, name, price, quantity }| {
            let withdrawn = withdrawn.contains(&item_id).then_some(true);
            CartLineBody { item_id, name, price, quantity, withdrawn }
        };
        Ok(Self { lines: cart.lines.into_iter().map(|put| line(put.line)).collect(), total_price })
    }
}

#[derive(Debug, Serialize)]
struct OrderBody {
    order_id: OrderId,
    status: &'static str,
    lines: Vec<OrderLine>,
    total_price: Won,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    items: Vec<ItemId>,
    #[serde(with = "contracts::time::rfc3339")]
    placed_at: Timestamp,
}

impl From<&Order> for OrderBody {
    fn from(order: &Order) -> Self {
        let is_cancelled = order.status.is_cancelled();
        let failure = match &order.status {
            Status::Failed(failure) if !is_cancelled => Some(failure),
            Status::Pending | Status::Completed | Status::Failed(_) => None,
        };
        Self {
            order_id: order.id.clone(),
            status: if is_cancelled { "cancelled" } else { order.status.as_str() },
            lines: order.lines.clone(),
            total_price: order.total_price,
            failure: failure.map(|failure| failure.reason.as_str()),
            items: failure.map(|failure| failure.items.clone()).unwrap_or_default(),
            placed_at: order.placed_at,
        }
    }
}

/// `GET /cart`
pub async fn get_cart(deps: &CartDeps<impl FindCart, impl QuoteClient>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    Reply::ok(CartBody::of(get_cart::get_cart(&deps.store, &deps.items, &user).await?)?)
}

/// `PUT /cart/items/{item_id}`
pub async fn put_cart_item(deps: &CartDeps<impl ChangeCart, impl QuoteClient>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let item = call.path_id("item_id")?;
    let PutCartItemBody { quantity } = call.json()?;
    let ask = PutCartItem { user, item, quantity, now: call.now };
    let cart = put_cart_item::put_cart_item(&deps.store, &deps.items, ask).await?;
    Reply::ok(CartBody::of(ShownCart::from(cart))?)
}

impl From<PutError> for Problem {
    fn from(error: PutError) -> Self {
        match error {
            PutError::NotFound => Problem::not_found("no such item"),
            PutError::CartFull => Problem::conflict("cart_full", "The cart is full")
                .detail(format!("a cart has at most {MAX_LINES} lines")),
            PutError::Fault(fault) => fault.into(),
        }
    }
}

/// `DELETE /cart/items/{item_id}`
pub async fn remove_cart_item(deps: &Deps<impl ChangeCart>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let item: ItemId = call.path_id("item_id")?;
    deps.store.remove_line(&user, &item).await?;
    Ok(Reply::no_content())
}

/// The answer to an order that was accepted.
fn accepted(order: &Order) -> StoredAnswer {
    StoredAnswer::accepted(&OrderBody::from(order), format!("/orders/{}", order.id))
}

/// `POST /orders`
pub async fn place_order(
    deps: &PlaceDeps<impl OpenOrder, impl QuoteClient, impl BalanceClient>,
    call: Call,
) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let key = IdempotencyKey::required(&call, "POST /orders")?;
    let PlaceBody { lines } = call.json()?;
    let ask = PlaceOrder {
        user,
        wanted: Wanted::new(lines.into_iter().map(WantedLine::from).collect())?,
        key,
        order: OrderId::mint(call.now),
        correlation_id: call.request_id,
        most_pending: deps.most_pending,
        now: call.now,
    };
    match place_order::place_order(&deps.store, &deps.items, &deps.points, ask, accepted).await? {
        Placed::Now(order) => Ok(accepted(&order).into_reply()),
        Placed::AsBefore(answer) => Ok(answer.into_reply()),
    }
}

impl From<PlaceError> for Problem {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Refused(refusal) => refused(refusal),
            PlaceError::KeyReused => idempotency::reused(),
            PlaceError::Fault(fault) => fault.into(),
        }
    }
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::ItemsNotFound(items) => {
            Problem::new(StatusCode::NOT_FOUND, "item_not_found", "No such item").member("items", json!(items))
        }
        Refusal::SalePaused(items) => {
            Problem::conflict("sale_paused", "The sale of an item is paused").member("items", json!(items))
        }
        Refusal::OutOfStock(items) => {
            Problem::conflict("out_of_stock", "An item is sold out").member("items", json!(items))
        }
        Refusal::ItemLimitExceeded(items) => {
            Problem::conflict("item_limit_exceeded", "These are more units of an item than a user may have")
                .member("items", json!(items))
        }
        Refusal::PriceChanged(changes) => {
            let line = |PriceChange { item, before, price }| match before {
                PriceBefore::Seen(seen) => json!({"item_id": item, "price_seen": seen, "price": price}),
                PriceBefore::InCart(put) => json!({"item_id": item, "price_in_cart": put, "price": price}),
            };
            let lines: Vec<Value> = changes.into_iter().map(line).collect();
            Problem::conflict("price_changed", "A price has changed").member("lines", lines)
        }
        Refusal::TooExpensive => Problem::invalid("lines: together they cost more than can be paid"),
        Refusal::InsufficientPoints => Problem::conflict("insufficient_points", "The balance is below the price"),
        Refusal::TooManyPending => Problem::conflict("too_many_pending_orders", "Too many orders are pending")
            .detail("wait until one of them is completed or failed"),
    }
}

/// `GET /orders`
pub async fn list_orders(deps: &Deps<impl ListOrders>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let page = call.page_behind(|key| key.starts_with("ORDER#"))?;
    let (orders, next) = deps.store.list_orders(&user, &page).await?;
    Reply::ok(ListBody {
        items: orders.iter().map(OrderBody::from).collect(),
        next_cursor: next.map(|key| Cursor::seal(&key)),
    })
}

/// `GET /orders/{order_id}`
pub async fn get_order(deps: &Deps<impl FindOrder>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let id: OrderId = call.path_id("order_id")?;
    let found = deps.store.find_order(&user, &id).await?.ok_or_else(|| Problem::not_found("no such order"))?;
    Reply::ok(OrderBody::from(&found))
}

/// `DELETE /orders/{order_id}`
pub async fn cancel_order(deps: &CancelDeps<impl FindOrder + CancelOrder>, call: Call) -> Result<Reply, Problem> {
    let user = deps.users.user(&call)?.user;
    let order: OrderId = call.path_id("order_id")?;
    let (within_seconds, most, now) = (deps.within_seconds, Some(deps.most), call.now);
    let ask = CancelAsk { order, buyer: user.clone(), by: user, within_seconds, most, now };
    Ok(accepted(cancel_order::cancel_order(&deps.store, ask).await?.order()).into_reply())
}

/// `DELETE /admin/orders/{order_id}`
pub async fn cancel_any_order(
    deps: &Deps<impl FindBuyer + FindOrder + CancelOrder>,
    call: Call,
) -> Result<Reply, Problem> {
    let by = deps.users.operator(&call)?.user;
    let order: OrderId = call.path_id("order_id")?;
    let buyer = deps.store.find_buyer(&order).await?.ok_or(CancelError::NotFound)?;
    let (actor, id) = (by.to_string(), order.to_string());
    let ask = CancelAsk { order, buyer, by, within_seconds: CANCELLABLE_SECONDS, most: None, now: call.now };
    let cancellation = cancel_order::cancel_order(&deps.store, ask).await?;
    match &cancellation {
        Cancellation::Now(_) => tracing::info!(actor, order = id, "an order was cancelled"),
        Cancellation::Before(_) => tracing::info!(actor, order = id, "an order had been cancelled before"),
    }
    Ok(accepted(cancellation.order()).into_reply())
}

impl From<CancelError> for Problem {
    fn from(error: CancelError) -> Self {
        match error {
            CancelError::NotFound => Problem::not_found("no such order"),
            CancelError::NotCancellable => {
                Problem::conflict("order_not_cancellable", "The order failed, or its time to be cancelled is over")
            }
            CancelError::TooMany => {
                Problem::conflict("cancellation_limit_exceeded", "No more orders can be cancelled today")
            }
            CancelError::Fault(fault) => fault.into(),
        }
    }
}

/// Consumes `order.placed` and `order.failed`.
pub async fn clear_cart(store: &(impl KeepCart + Republish), message: Message) -> Result<(), Fault> {
    let Some(OrderMessage { signal, order, time, correlation_id }) = message.order_signal("clearing a cart")? else {
        return Ok(());
    };
    let order =
        CartOrder { id: order.order_id, user: order.user_id, lines: order.lines, said_at: time, correlation_id };
    clear_cart::clear_cart(store, signal, &order, message.now).await
}

/// Consumes the answers of stock, points, cart and the report.
pub async fn track_order(store: &(impl KeepAnswers + EndOrder + SettleOrder), message: Message) -> Result<(), Fault> {
    let answer = Answer::of(&message.event()?.body)
        .ok_or_else(|| Fault::broken("tracking an order", "the message is no answer to one"))?;
    track_order::track_order(store, &answer, message.now).await
}
