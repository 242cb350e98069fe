//! Reservations: who holds which seat, until when, and who has bought it.
//!
//! Owns seat inventory, holds and the per-user limits. Knows the terms a date is sold under and the admission plan in
//! force, because it was told; knows nothing of titles, venues, points or how a payment works.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
