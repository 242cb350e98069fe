//! What payments asks of other contexts.

use crate::ports::AskQuote;
use contracts::steps::{Quote, QuoteReservation};
use kit::Fault;
use kit::invoke::Step;

impl AskQuote for Step {
    async fn quote(&self, ask: &QuoteReservation) -> Result<Quote, Fault> {
        self.ask("asking for a quote", ask).await
    }
}
