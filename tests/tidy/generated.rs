//! The committed stacks and API description match their sources.

use crate::none;
use crate::workspace::{entries, root, shown};
use std::collections::BTreeMap;
use std::fs;

/// The outputs of `cargo stacks` that were edited by hand, forgotten, or have no source. Texts by path, from the root.
fn stale(made: &BTreeMap<String, String>, there: &BTreeMap<String, String>) -> Vec<String> {
    let differs = made.iter().filter(|(path, text)| there.get(*path) != Some(text));
    let differs = differs.map(|(path, _)| format!("{path} is not what its sources say: run `cargo stacks`"));
    let surplus = there.keys().filter(|path| !made.contains_key(*path));
    differs
        .chain(surplus.map(|path| format!("{path} is made of nothing: remove it, or say it in a stack.yaml")))
        .collect()
}

fn made() -> BTreeMap<String, String> {
    let made = stacks::make(&root()).unwrap_or_else(|mistakes| {
        let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        panic!("\n  {}\n", lines.join("\n  "))
    });
    made.into_iter().collect()
}

fn committed() -> BTreeMap<String, String> {
    let paths = entries(&root().join("infra/stacks")).into_iter().chain([root().join("infra/openapi.yaml")]);
    paths.map(|path| (shown(&path), fs::read_to_string(&path).unwrap())).collect()
}

#[test]
fn the_stacks_and_the_description_of_the_api_are_what_their_sources_say() {
    let (made, committed) = (made(), committed());
    none(stale(&made, &committed));
    for (path, text) in &made {
        let first = text.lines().next().unwrap_or_default();
        let says =
            first.starts_with("# ") && first.contains("`cargo stacks`") && first.ends_with("Change those, not this.");
        assert!(says, "{path} does not begin with what it is made of: {first}");
    }
}

#[test]
fn a_stack_that_was_changed_forgotten_or_left_behind_is_found() {
    let made = made();
    assert!(made.len() >= 11, "{:?}", made.keys());
    for path in made.keys() {
        let mut there = made.clone();
        there.get_mut(path).unwrap().push_str("# By hand.\n");
        assert_eq!(stale(&made, &there).len(), 1, "{path} changed");
        there.remove(path);
        assert_eq!(stale(&made, &there).len(), 1, "{path} forgotten");
    }
    let mut there = made.clone();
    there.insert("infra/stacks/refunds.yaml".to_owned(), String::new());
    assert_eq!(stale(&made, &there).len(), 1);
}
