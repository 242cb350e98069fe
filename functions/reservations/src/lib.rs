//! Reservations: which user holds or has bought which seat, and until when a hold lasts.
//!
//! Owns seat inventory, holds and the per-user limits. Keeps copies of the terms a date is sold under and of the
//! admission plan in force, sent by their owners; knows nothing about titles, venues, points or how a payment works.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
