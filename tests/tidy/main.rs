//! The invariants of the structure, each a test: what no compiler, `cfn-lint` or reviewer sees for sure.
//!
//! A check reads sources, the stacks' templates, state machines and API description, and returns what it finds wrong as sentences.
//! Where a check could pass by finding nothing to look at, a second test shows it something broken.

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
