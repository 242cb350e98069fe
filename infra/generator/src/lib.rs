//! Makes the stacks' templates of what contexts say of themselves.
//!
//! A context says in `functions/<context>/stack.yaml` what only a person can know: its table's indexes and, for each function,
//! what starts it, what it may do, and what is its own. Queues, dead letters, rules, policies, logs, alarms, canaries, the
//! dashboard and the API follow. `cargo stacks` writes ordinary SAM templates into `infra/stacks`, and whoever dislikes this
//! crate deletes it and goes on with them by hand.
//!
//! Start reading at [`fragment`], what is said; then [`context`], what becomes of it; the resources stand in `shapes/`.

pub mod alarm;
pub mod blocks;
pub mod check;
pub mod context;
pub mod edge;
pub mod fragment;
pub mod limits;
pub mod mistake;
pub mod names;
pub mod openapi;
pub mod platform;
pub mod shapes;
pub mod system;
pub mod template;

use mistake::Mistake;
use std::path::Path;
use system::System;

/// The files that the sources below `root` make: path from there, text.
pub fn make(root: &Path) -> Result<Vec<(String, String)>, Vec<Mistake>> {
    let system = System::read(root)?;
    let mut mistakes = check::mistakes(&system);
    if !mistakes.is_empty() {
        mistakes.sort();
        return Err(mistakes);
    }
    let stacks = template::all(&system).into_iter();
    let mut files: Vec<(String, String)> =
        stacks.map(|(name, text)| (format!("infra/stacks/{name}.yaml"), text)).collect();
    files.push(("infra/openapi.yaml".to_owned(), openapi::bundle(&system)));
    Ok(files)
}
