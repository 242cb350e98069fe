//! The local cloud: starts an engine that speaks AWS's APIs, deploys the templates into it, and records where
//! everything is.
//!
//! `cargo local up` uses it for a stack that stays, tests and the demo use [`Stack::start`] for one that ends with
//! them. Everything of a stack lives in one directory ([`Options::dir`]), on a free port, so that any number run side
//! by side.
//!
//! Invariants:
//! - Nothing here listens on anything but 127.0.0.1, except the sink of an engine in Docker; no port is fixed.
//! - An attached stack ends with its owner, even when the owner is killed: the engine watches a pipe.
//! - No process is signalled unless it has shown that it is the engine that was started here.

// Each imports only those that tests/tidy/local.rs names before it.
pub mod audit;
pub mod cli;
mod console;
pub mod demo;
mod driver;
mod engine;
mod error;
mod files;
pub mod http;
pub mod sink;
mod tokens;
mod tools;

pub use driver::query;
pub use driver::stack::{Options, Outcome, Progress, Stack, build, down, interpreter, stderr_progress, up};
pub use engine::database;
pub use engine::info::{EngineKind, StackInfo};
pub use error::Error;
pub use tokens::{ISSUER, TokenRequest, Tokens};
pub use tools::dead_letters;
pub use tools::logs::{LogLine, Logs};

/// The region of every local stack.
pub const REGION: &str = "us-east-1";

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
