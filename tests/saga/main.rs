//! The sagas under every fault: the real state machine definitions, walked by a small interpreter, calling the real
//! steps on real tables (an embedded engine per run).
//!
//! The matrices are generated from the definitions: a new state is covered without touching a test.

// A panic is how a test fails.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod faults;
mod payments;
mod refunds;
mod world;
