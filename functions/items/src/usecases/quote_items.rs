//! Step asked by orders: what items are called and cost now.

use crate::ports::FindItems;
use contracts::steps::{ItemsQuote, QuoteItems, QuotedItem};
use kit::{StepCall, StepError};

/// Quotes those of the items that can be ordered. How many pieces there are is not looked at: that is decided when the
/// order takes them.
pub async fn quote_items(items: &impl FindItems, call: StepCall<QuoteItems>) -> Result<ItemsQuote, StepError> {
    let mut wanted = call.input.items;
    wanted.sort_unstable();
    wanted.dedup();
    let found = items.find_items(&wanted).await?.into_iter();
    let quoted = found.map(|item| QuotedItem { item_id: item.id, name: item.label.name, price: item.label.price });
    Ok(ItemsQuote { items: quoted.collect() })
}
