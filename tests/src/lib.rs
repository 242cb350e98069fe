//! What the tests share: an embedded DynamoDB with the stacks' own tables, a proxy that counts and breaks, a bus that
//! records, and calls made by hand.
//!
//! Nothing here imitates a store: tests run the contexts' real stores against a real endpoint.

// Support of tests may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod bus;
pub mod calls;
pub mod cloud;
pub mod dynamo;
pub mod fixture;
pub mod functions;
pub mod machine;
pub mod outside;
pub mod proxy;
pub mod steps;

use std::path::{Path, PathBuf};

/// A path in the workspace.
pub fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
