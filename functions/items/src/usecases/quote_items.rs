//! Step called by orders: what items are called and cost now.

use crate::ports::FindItems;
use contracts::ItemId;
use contracts::orders::Quantity;
use contracts::steps::{ItemsQuote, QuotedItem};
use kit::Fault;

/// Quotes those of the items that are sold. The stock is what it is at the moment: an order's units are had when it has
/// taken them.
pub async fn quote_items(items: &impl FindItems, mut wanted: Vec<ItemId>) -> Result<ItemsQuote, Fault> {
    wanted.sort_unstable();
    wanted.dedup();
    let found = items.find_items(&wanted).await?.into_iter();
    let quoted = found.map(|item| QuotedItem {
        item_id: item.id,
        name: item.label.name,
        price: item.label.price,
        paused: item.is_paused,
        stock: Some(item.stock.get()),
        max_per_user: item.label.max_per_user.map(Quantity::get),
    });
    Ok(ItemsQuote { items: quoted.collect() })
}
