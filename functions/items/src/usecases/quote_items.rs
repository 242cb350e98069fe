//! Step called by orders: what items are called and cost now.

use crate::ports::FindItems;
use contracts::ItemId;
use contracts::steps::{ItemsQuote, QuotedItem};
use kit::Fault;

/// Quotes those of the items that can be ordered. The stock is not checked here: that is decided when the order takes
/// its units.
pub async fn quote_items(items: &impl FindItems, mut wanted: Vec<ItemId>) -> Result<ItemsQuote, Fault> {
    wanted.sort_unstable();
    wanted.dedup();
    let found = items.find_items(&wanted).await?.into_iter();
    let quoted = found.map(|item| QuotedItem {
        item_id: item.id,
        name: item.label.name,
        price: item.label.price,
        paused: item.is_paused,
    });
    Ok(ItemsQuote { items: quoted.collect() })
}
