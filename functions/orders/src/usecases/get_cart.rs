//! Shows a cart, with what has become of its items.

use crate::domain::ShownCart;
use crate::ports::{FindCart, QuoteClient};
use contracts::steps::QuoteItems;
use contracts::{ItemId, UserId};
use kit::Fault;
use std::collections::HashSet;

/// Reads a cart, and then which of its items are still sold. The cart is shown without that if items does not answer.
pub async fn get_cart(carts: &impl FindCart, items: &impl QuoteClient, user: &UserId) -> Result<ShownCart, Fault> {
    let cart = carts.find_cart(user).await?;
    let listed: Vec<ItemId> = cart.lines.iter().map(|line| line.line.item_id.clone()).collect();
    if listed.is_empty() {
        return Ok(ShownCart::from(cart));
    }
    let mut withdrawn: HashSet<ItemId> = listed.iter().cloned().collect();
    match items.quote(&QuoteItems { items: listed }).await {
        // What was put into a cart was sold then: what is missing has been withdrawn.
        Ok(quote) => {
            let sold: HashSet<ItemId> = quote.items.into_iter().map(|item| item.item_id).collect();
            withdrawn.retain(|item| !sold.contains(item));
        }
        Err(fault) => {
            tracing::warn!(error = fault.chain(), "a cart is shown without what has become of its items");
            withdrawn.clear();
        }
    }
    Ok(ShownCart { cart, withdrawn })
}
