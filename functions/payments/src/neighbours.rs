//! What payments asks of other contexts.

use crate::charge::CreditPoints;
use crate::ports::AskQuote;
use contracts::steps::{ChargeCredit, CreditCharge, Quote, QuoteReservation};
use kit::Fault;
use kit::invoke::Step;

impl AskQuote for Step {
    async fn quote(&self, ask: &QuoteReservation) -> Result<Quote, Fault> {
        self.ask("asking for a quote", ask).await
    }
}

impl CreditPoints for Step {
    async fn credit_points(&self, ask: &CreditCharge) -> Result<ChargeCredit, Fault> {
        self.ask("having a charge credited", ask).await
    }
}
