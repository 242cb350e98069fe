//! Waiting room: decides who may enter the sale, and when.
//!
//! Owns the line of each concert: positions, the admission plan, and which places have been spent. Knows nothing about
//! seats, prices or payments: a payment is only an id that spends a place.

pub mod activity;
pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
