//! One module per use case that decides something. Plain reads and writes go from handler to port.

pub mod cancel_refund;
pub mod complete_payment;
pub mod complete_refund;
pub mod fail_payment;
pub mod pay_charge;
pub mod record_payout;
pub mod recover_charges;
pub mod recover_payments;
pub mod request_extension;
pub mod settle_withdrawals;
pub mod start_payment;
pub mod start_refund;
pub mod withdraw_points;
