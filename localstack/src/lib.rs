//! The local cloud: starts an engine that speaks AWS's APIs, deploys the templates into it, and says where everything is.
//!
//! `cargo local up` uses it for a stack that stays, tests and the demo use [`Stack::start`] for one that ends with them.
//! Everything of a stack lives in one directory ([`Options::dir`]), on a free port, so that any number run side by side.
//!
//! Invariants:
//! - Nothing here listens on anything but 127.0.0.1, and no port is fixed.
//! - An attached stack ends with its owner, even when the owner is killed: the engine watches a pipe.
//! - No process is signalled unless it has shown that it is the engine that was started here.

mod artifacts;
pub mod audit;
mod bucket;
pub mod cli;
mod cloudformation;
pub mod database;
pub mod dead_letters;
pub mod demo;
mod deploy;
mod docker;
mod engine;
mod error;
mod files;
pub mod http;
mod info;
mod inventory;
mod logs;
mod parameters;
mod python;
pub mod query;
mod ready;
pub mod sink;
mod stack;
mod stacks;
mod template;
mod tokens;
mod trace;

pub use error::Error;
pub use info::{EngineKind, StackInfo};
pub use logs::{LogLine, Logs};
pub use stack::{Options, Outcome, Progress, Stack, build, down, interpreter, stderr_progress, up};
pub use tokens::{ISSUER, TokenRequest, Tokens};

/// The region of every local stack.
pub const REGION: &str = "us-east-1";

/// The result of what can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;
