//! The choreography of an order under every fault and in every order of delivery.
//!
//! The participants' real functions run on real tables (an embedded engine); the bus's rules are read from the template.
//! Where messages wait, each of them is delivered next, and from each state that this leads to again, until nothing is on
//! the way: every delivery order is walked, not a sample of them. Two things make that possible. States that are reached
//! on several ways are one state. And a function sees nothing but its own table, so what it does follows from that
//! table's rows and its message: it is run once for each such pair, for real, whatever the rest of the world looks like.
//!
//! Faults are not listed: wherever a message can be handled, it is also lost, handled twice, handled by a process that
//! dies before any of its writes, by one that never hears of its write's success, and by two processes at once.

// A panic is how a test says no.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explorer;
mod orders;
mod picture;
mod routes;
mod world;
