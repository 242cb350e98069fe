//! Orders: carts, and orders that several contexts bring to an end together.
//!
//! Owns carts and orders. Takes neither stock nor points: it says that an order was placed, and listens to what the
//! others say to it.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
