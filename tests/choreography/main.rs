//! The choreography of an order, in every order of delivery and under every fault.
//!
//! The participants' real functions run on real tables (an embedded engine); the bus's rules are read from the stacks.
//! Each of the waiting messages is delivered next, and so on from each state that this leads to, until nothing is in
//! flight and nothing is due: every delivery order is walked, not a sample. Two things make that possible. A state that
//! is reached on several paths is one state. And the result of a function depends only on its message and the rows of
//! its own part, which every request is checked for: it is run once for each such pair, for real, whatever the rest of
//! the world is at that moment.
//!
//! Faults are not listed. Wherever a message can be handled, it is also lost, handled twice, handled by a process that
//! dies before or after any of its writes, by one that never gets a write's answer, by two processes at once, and by
//! one whose events stay in the outbox ([`explorer::Mishap`]).

// A panic is how a test fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explorer;
mod graph;
mod orders;
mod picture;
mod routes;
mod stage;
mod world;
