//! Notifications: who outside hears of what happened, and exactly once.
//!
//! Owns what was delivered to whom, the receipts issued for payments, and the faults administrators were told of. It
//! decides nothing of the business: it hears events and calls providers, and no publisher knows of it.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
