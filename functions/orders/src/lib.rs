//! Orders: carts, and orders that several contexts complete together.
//!
//! Owns carts and orders. Takes neither stock nor points: it publishes that an order was placed, and consumes the
//! answers of the others.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
