//! The payment saga under every fault: the real state machine definition, walked by a small interpreter, calling the
//! real steps on real tables (an embedded engine per run).
//!
//! The matrix is generated from the definition: a new state is covered without touching a test.

// A panic is how a test says no.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

mod machine;
mod matrix;
mod world;
