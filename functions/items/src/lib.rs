//! Items: merchandise, what it costs and how many units there are.
//!
//! Owns the catalogue and the stock. Knows nothing of carts or points: it takes an order's units, all or none, and puts
//! them back when the order fails.

pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
