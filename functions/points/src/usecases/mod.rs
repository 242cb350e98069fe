//! One module per use case.

pub mod charge_points;
pub mod credit_charge;
pub mod return_points;
pub mod use_order_points;
pub mod use_points;
