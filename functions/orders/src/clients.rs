//! What orders asks of other contexts.

use crate::ports::AskItems;
use contracts::steps::{ItemsQuote, QuoteItems};
use kit::Fault;
use kit::invoke::Step;

impl AskItems for Step {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        self.ask("asking what items cost", ask).await
    }
}
