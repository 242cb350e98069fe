//! The functions of other contexts that points calls.

use crate::ports::PayClient;
use contracts::steps::{ChargePaid, PayCharge};
use kit::Fault;
use kit::invoke::Function;

impl PayClient for Function {
    async fn pay_charge(&self, ask: &PayCharge) -> Result<ChargePaid, Fault> {
        self.call_function("having a charge paid for", ask).await
    }
}
