//! What payments asks of other contexts, of the payment provider and of Step Functions.

pub mod provider;
pub mod sagas;

use crate::ports::charges::CreditPoints;
use crate::ports::{AskQuote, AskRefundQuote};
use contracts::steps::{ChargeCredit, CreditCharge, Quote, QuoteRefund, QuoteReservation, RefundQuote};
use kit::Fault;
use kit::invoke::Step;

impl AskQuote for Step {
    async fn quote(&self, ask: &QuoteReservation) -> Result<Quote, Fault> {
        self.ask("asking for a quote", ask).await
    }
}

impl AskRefundQuote for Step {
    async fn quote_refund(&self, ask: &QuoteRefund) -> Result<RefundQuote, Fault> {
        self.ask("asking whether a refund is possible", ask).await
    }
}

impl CreditPoints for Step {
    async fn credit_points(&self, ask: &CreditCharge) -> Result<ChargeCredit, Fault> {
        self.ask("having a charge credited", ask).await
    }
}
