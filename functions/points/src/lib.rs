//! Points: what a user's balance is and every movement that made it so.
//!
//! Owns accounts and their ledger. Knows nothing of tickets, payments or goods: a movement has an amount, a kind and a
//! reference, an id of another context. Where charges are paid for, payments handles that; events of orders are
//! consumed, and answered with events.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
