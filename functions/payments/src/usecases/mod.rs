//! One module per use case.

pub mod complete_payment;
pub mod fail_payment;
pub mod pay_charge;
pub mod recover_charges;
pub mod recover_payments;
pub mod start_payment;
