//! The clients of other contexts, of the payment provider and of Step Functions.

pub mod provider;
pub mod sagas;

use crate::ports::charges::CreditPoints;
use crate::ports::withdrawals::{DebitPoints, ReturnPoints};
use crate::ports::{HoldClient, QuoteClient, RefundQuoteClient};
use contracts::steps::{
    Applied, ChargeCredit, CreditCharge, DebitWithdrawal, ExtendHold, HoldExtension, Quote, QuoteRefund,
    QuoteReservation, RefundQuote, WithdrawalDebit,
};
use kit::Fault;
use kit::invoke::Function;

impl QuoteClient for Function {
    async fn quote(&self, ask: &QuoteReservation) -> Result<Quote, Fault> {
        self.call_function("asking for a quote", ask).await
    }
}

impl HoldClient for Function {
    async fn extend(&self, ask: &ExtendHold) -> Result<HoldExtension, Fault> {
        self.call_function("having a hold extended", ask).await
    }
}

impl RefundQuoteClient for Function {
    async fn quote_refund(&self, ask: &QuoteRefund) -> Result<RefundQuote, Fault> {
        self.call_function("asking whether a refund is possible", ask).await
    }
}

impl CreditPoints for Function {
    async fn credit_points(&self, ask: &CreditCharge) -> Result<ChargeCredit, Fault> {
        self.call_function("having a charge credited", ask).await
    }
}

impl DebitPoints for Function {
    async fn debit_points(&self, ask: &DebitWithdrawal) -> Result<WithdrawalDebit, Fault> {
        self.call_function("having points taken out", ask).await
    }
}

impl ReturnPoints for Function {
    async fn return_points(&self, ask: &DebitWithdrawal) -> Result<(), Fault> {
        self.call_function::<_, Applied>("having points returned", ask).await.map(drop)
    }
}
