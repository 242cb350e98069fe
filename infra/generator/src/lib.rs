//! Generates the stacks' templates from the contexts' fragments.
//!
//! A fragment, `functions/<context>/stack.yaml`, states what cannot be derived: the table's indexes and, for each
//! function, what starts it, what it may do, and its own settings. Queues, dead letters, rules, policies, logs, alarms,
//! canaries, the dashboard and the API are derived. `cargo stacks` writes ordinary SAM templates into `infra/stacks`:
//! without this crate, they can be maintained by hand.
//!
//! Start reading at [`fragment`], the input; then [`context`], what is derived from it; the resources are in `shapes/`.

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

/// The files generated from the sources below `root`: path from there, text.
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
