//! The choreography of an order, and a ticket that is paid for, in every order in which things can happen and under
//! every fault.
//!
//! Real functions run on real tables (an embedded engine). Each thing that can happen in a state happens next, and so on
//! from each state that this leads to, until nothing can: every order is walked, not a sample. Two things make that
//! possible. A state that is reached on several paths is one state ([`graph`]). And the result of a function depends
//! only on its message and the rows of its own part, which every request is checked for: it is run once for each such
//! pair, for real, whatever the rest of the world is at that moment ([`stage`]).
//!
//! [`orders`]: the bus's rules are read from the stacks, and each of the waiting messages is delivered next. Faults are
//! not listed: wherever a message can be handled, it is also lost, handled twice, handled by a process that dies before
//! or after any of its writes, by one that never gets a write's answer, by two processes at once, and by one whose events
//! stay in the outbox ([`explorer::Mishap`]).
//!
//! [`tickets`]: two payments, cancellation, refund, the hold's end and its takeover, each at any moment; the sagas go as
//! their definitions say, and wherever a function can be called, its call also dies, hangs until any later moment, is
//! crossed, loses an answer or meets another transaction.

// A panic is how a test fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod explorer;
mod graph;
mod orders;
mod picture;
mod routes;
mod stage;
mod tickets;
mod world;
