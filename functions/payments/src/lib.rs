//! Payments: what was requested to be paid, and what became of it.
//!
//! Owns the payment record, starts the payment saga and completes what got stuck. Knows nothing of seats or balances:
//! reservations quotes the price, points moves the points, the state machine calls them.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
