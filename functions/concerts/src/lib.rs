//! Concerts: the catalogue, its dates, and the seat map of each date.
//!
//! Owns what is played when and where, and a read model of the seats. Knows nothing about holds, users or payments:
//! reservations decides who has a seat, and the map follows its table's stream. Nothing here may be used to decide a
//! sale.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
