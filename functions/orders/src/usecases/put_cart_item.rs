//! Puts an item into a cart, at today's price.

use crate::domain::{Cart, CartLine};
use crate::ports::{ChangeCart, QuoteClient};
use contracts::orders::{OrderLine, Quantity};
use contracts::steps::QuoteItems;
use contracts::{ItemId, Timestamp, UserId};
use kit::Fault;

/// A request to put an item into a cart.
#[derive(Debug, Clone)]
pub struct PutCartItem {
    pub user: UserId,
    pub item: ItemId,
    /// The quantity of the line from now on.
    pub quantity: Quantity,
    /// When it was requested.
    pub now: Timestamp,
}

/// Why the item is not in the cart.
#[derive(Debug)]
pub enum PutError {
    /// The item is unknown, or not sold any more.
    NotFound,
    /// The cart has as many lines as it can.
    CartFull,
    /// The system failed.
    Fault(Fault),
}

impl From<Fault> for PutError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Sets the item's line: the requested quantity, name and price as they are now. Returns the whole cart after it.
pub async fn put_cart_item(
    carts: &impl ChangeCart,
    items: &impl QuoteClient,
    ask: PutCartItem,
) -> Result<Cart, PutError> {
    let PutCartItem { user, item, quantity, now } = ask;
    let quote = items.quote(&QuoteItems { items: vec![item.clone()] }).await?;
    let quoted = quote.items.into_iter().find(|quoted| quoted.item_id == item).ok_or(PutError::NotFound)?;
    let line = OrderLine { item_id: item, name: quoted.name, price: quoted.price, quantity };
    carts.put_line(&user, &CartLine { line, put_at: now }).await?.ok_or(PutError::CartFull)
}
