//! Points: what a user's balance is and every movement that made it so.
//!
//! Owns accounts and their ledger. Knows nothing of tickets, payments or goods: a movement has an amount, a kind and a
//! reference that somebody else understands. Where charging is paid for, payments is asked to see to that; of orders it
//! hears by events, and answers by events.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
