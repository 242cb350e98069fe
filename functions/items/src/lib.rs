//! Items: merchandise, what it costs and how many pieces there are.
//!
//! Owns the catalogue and the stock. Knows nothing of carts, points or why an order wants what it wants: it takes an
//! order's pieces, all or none, and puts them back when the order fails.

pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
