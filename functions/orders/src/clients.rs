//! The functions of other contexts that orders calls.

use crate::ports::QuoteClient;
use contracts::steps::{ItemsQuote, QuoteItems};
use kit::Fault;
use kit::invoke::Function;

impl QuoteClient for Function {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        self.call_function("asking what items cost", ask).await
    }
}
