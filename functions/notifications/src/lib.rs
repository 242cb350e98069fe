//! Notifications: delivers events to external systems, exactly once.
//!
//! Owns what was delivered to whom, the receipts issued for payments, and the faults that administrators were notified
//! of. It makes no business decisions: it consumes events and calls providers, and no publisher knows of it.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
