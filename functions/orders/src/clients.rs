//! The functions of other contexts that orders calls.

use crate::ports::{BalanceClient, QuoteClient};
use contracts::steps::{BalanceQuote, ItemsQuote, QuoteBalance, QuoteItems};
use kit::Fault;
use kit::invoke::Function;

impl QuoteClient for Function {
    async fn quote(&self, ask: &QuoteItems) -> Result<ItemsQuote, Fault> {
        self.call_function("asking what items cost", ask).await
    }
}

impl BalanceClient for Function {
    async fn balance(&self, ask: &QuoteBalance) -> Result<BalanceQuote, Fault> {
        self.call_function("asking what a user can pay", ask).await
    }
}
