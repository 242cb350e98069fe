//! The published language: all that contexts may know about each other.
//!
//! Ids, money and time; the seat address; the admission plan and the queue token's claims; the input and the error
//! names of saga steps; the events and the shape of a seat on the seat stream. Everything here is data and pure
//! functions of data, with few dependencies, so that every binary can afford it.

pub mod admission;
pub mod choreography;
pub mod events;
pub mod ids;
pub mod money;
pub mod orders;
pub mod saga;
pub mod seats;
pub mod steps;
pub mod time;

pub use ids::{ConcertId, EventId, ItemId, OrderId, PaymentId, ReservationId, ScheduleId, UserId};
pub use money::{ChargeAmount, MAX_CHARGE, Won};
pub use seats::{SeatId, SectionName};
pub use time::Timestamp;

/// An input value that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct Invalid {
    /// The name of the field or type, as the caller knows it.
    pub what: &'static str,
    /// What is wrong with it, without repeating the value.
    pub why: &'static str,
}

impl Invalid {
    /// An invalid value, by its name and what is wrong with it.
    pub const fn new(what: &'static str, why: &'static str) -> Self {
        Self { what, why }
    }
}
