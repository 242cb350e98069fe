//! The invariants of the structure, each a test: what no compiler, `cfn-lint` or reviewer is sure to find.
//!
//! A check reads sources, the stacks' templates, state machines and API description, and returns its violations as
//! sentences. Where a check could pass by finding nothing to check, a second test gives it something broken.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod api;
mod code;
mod contexts;
mod dependencies;
mod events;
mod generated;
mod hygiene;
mod layout;
mod local;
mod metrics;
mod named;
mod names;
mod papers;
mod permissions;
mod queues;
mod releases;
mod runbook;
mod sagas;
mod settings;
mod template;
mod wire;
mod workspace;

/// Fails with everything a check found.
#[track_caller]
fn none(violations: Vec<String>) {
    assert!(violations.is_empty(), "\n  {}\n", violations.join("\n  "));
}
