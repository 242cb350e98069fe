//! Concerts: the catalogue, its dates, and the map of which seats are free.
//!
//! Owns what is played when and where, and a read model of the seats. Knows nothing of holds, users or payments: who
//! has a seat is decided elsewhere, and the map follows the news of it. Nothing here may be used to decide a sale.

pub mod clients;
pub mod domain;
pub mod dynamo;
pub mod handlers;
pub mod ports;
pub mod usecases;
