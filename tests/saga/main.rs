//! The payment saga under every fault: the real state machine definition, walked by a small interpreter, calling the
//! real steps on real tables (an embedded engine per run).
//!
//! The matrix is generated from the definition: a new state is covered without touching a test.

#![allow(missing_docs)]

mod machine;
mod matrix;
mod world;
