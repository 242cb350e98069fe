//! The choreography of an order, in every order of delivery and under every fault.
//!
//! The participants' real functions run on real tables (an embedded engine); the bus's rules are read from the stacks.
//! Of the messages that wait, each is delivered next, and from each state that this leads to again, until nothing is on
//! the way and nothing is due: every delivery order is walked, not a sample of them. Two things make that possible. A
//! state that is reached on several ways is one state. And what a function does follows from its message and the rows of
//! its own part, which every request is checked for: it is run once for each such pair, for real, whatever the rest of
//! the world looks like at that moment.
//!
//! Faults are not listed. Wherever a message can be handled, it is also lost, handled twice, handled by a process that
//! dies before or after any of its writes, by one that never hears of a write's success, by two processes at once, and
//! by one whose events stay in the outbox ([`explorer::Mishap`]).

// A panic is how a test says no.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explorer;
mod orders;
mod picture;
mod routes;
mod world;
