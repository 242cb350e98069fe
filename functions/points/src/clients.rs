//! What points asks of other contexts.

use crate::ports::AskPayment;
use contracts::steps::{ChargePaid, PayCharge};
use kit::Fault;
use kit::invoke::Step;

impl AskPayment for Step {
    async fn pay_charge(&self, ask: &PayCharge) -> Result<ChargePaid, Fault> {
        self.ask("having a charge paid for", ask).await
    }
}
