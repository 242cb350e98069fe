//! One module per use case that decides something. Plain reads and writes go from handler to port.

pub mod charge_points;
pub mod credit_charge;
pub mod debit_withdrawal;
pub mod return_points;
pub mod return_withdrawal;
pub mod use_order_points;
pub mod use_points;
