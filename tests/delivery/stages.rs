//! The stages of `infra/samconfig.toml` and the parameters of the stacks they deploy.

use crate::workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// Known only to the deployment or its operator: in no file under version control.
const GIVEN: [&str; 4] = ["QueueTokenKeys", "Release", "UserJwks", "UserTokenIssuer"];

/// A stage.
pub struct Stage {
    pub name: String,
    /// The parameters it sets.
    pub parameters: BTreeMap<String, String>,
}

/// The value of a line of Python, with the deployment's modules at hand.
pub fn python(line: &str) -> Value {
    by("python3", &format!("from delivery import keys, stages\n{line}"))
}

/// The same for what needs the deployment's tools.
pub fn tools(line: &str) -> Value {
    let interpreter = python("from delivery import environment\nprint(json.dumps(str(environment.make())))");
    by(interpreter.as_str().unwrap(), line)
}

fn by(interpreter: &str, line: &str) -> Value {
    let script = format!("import json\n{line}");
    let mut command = Command::new(interpreter);
    command.args(["-B", "-c", &script]).env("PYTHONPATH", workspace("infra"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All of them.
pub fn all() -> Vec<Stage> {
    let config = python("import tomllib\nprint(json.dumps(tomllib.loads(stages.PATH.read_text())))");
    let sections = config.as_object().unwrap().iter().filter(|(_, section)| section.is_object());
    sections
        .map(|(name, section)| {
            let pairs = section["deploy"]["parameters"]["parameter_overrides"].as_array().unwrap();
            let pairs = pairs.iter().map(|pair| pair.as_str().unwrap().split_once('=').unwrap());
            let parameters = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            Stage { name: name.clone(), parameters }
        })
        .collect()
}

/// The stacks that have templates.
pub fn stacks() -> BTreeSet<String> {
    let files = fs::read_dir(workspace("infra/stacks")).unwrap().map(|entry| entry.unwrap().path());
    files.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

/// A stack's declarations of its parameters.
fn parameters(stack: &str) -> BTreeMap<String, serde_norway::Value> {
    let text = fs::read_to_string(workspace(&format!("infra/stacks/{stack}.yaml"))).unwrap();
    let template: serde_norway::Value = serde_norway::from_str(&text).unwrap();
    serde_norway::from_value(template["Parameters"].clone()).unwrap()
}

#[test]
fn the_stages_set_what_some_stack_has_and_no_stack_has_a_parameter_that_is_never_given() {
    let parameters_of_all = stacks().into_iter().flat_map(|stack| parameters(&stack));
    let declared: BTreeMap<String, bool> =
        parameters_of_all.map(|(name, it)| (name, it.get("Default").is_some())).collect();
    for stage in all() {
        let set: BTreeSet<&String> = stage.parameters.keys().collect();
        let unknown: Vec<_> = set.iter().filter(|name| !declared.contains_key(**name)).collect();
        assert!(unknown.is_empty(), "{} sets {unknown:?}, which no stack has", stage.name);
        let made: Vec<_> = set.iter().filter(|name| GIVEN.contains(&name.as_str())).collect();
        assert!(made.is_empty(), "{} sets {made:?}, which belong in no file", stage.name);
        assert_eq!(stage.parameters["Stage"], stage.name);
        for (name, has_default) in &declared {
            let known = *has_default || set.contains(name) || GIVEN.contains(&name.as_str());
            assert!(known, "nobody gives {name} to {}", stage.name);
        }
    }
    for name in GIVEN {
        assert!(declared.contains_key(name), "no stack has {name}");
    }
}

#[test]
fn every_stack_declares_a_parameter_alike() {
    let mut declared = BTreeMap::new();
    for stack in stacks() {
        for (name, it) in parameters(&stack) {
            let (first, of_first) = declared.entry(name.clone()).or_insert_with(|| (stack.clone(), it.clone()));
            assert_eq!(it, *of_first, "{name} in {first} and in {stack}");
        }
    }
}

#[test]
fn a_rehearsal_is_as_production_is() {
    let all = all();
    let of = |name: &str| &all.iter().find(|stage| stage.name == name).unwrap().parameters;
    // The differences between production and a rehearsal of it.
    let differ = ["NotionUrl", "Stage"];
    let without = |name: &str| -> BTreeMap<&String, &String> {
        of(name).iter().filter(|(key, _)| !differ.contains(&key.as_str())).collect()
    };
    assert_eq!(without("prod"), without("staging"));
}

#[test]
fn a_release_that_was_rolled_back_is_another_one_and_one_that_runs_stays_the_same() {
    let named = |running: &str, status: &str| {
        let call = format!("stages.next_release('abc', '{running}', '{status}', datetime.datetime(2026, 11, 21))");
        let name = python(&format!("import datetime\nprint(json.dumps({call}))"));
        name.as_str().unwrap().to_owned()
    };
    assert_eq!(named("", ""), "abc");
    assert_eq!(named("before", "UPDATE_COMPLETE"), "abc");
    let again = named("before", "UPDATE_ROLLBACK_COMPLETE");
    assert!(again.ends_with("abc") && again.len() > 8 && again.chars().all(|c| c.is_ascii_alphanumeric()), "{again}");
    // The release of this name runs now: nothing changes, whatever was tried since.
    assert_eq!(named(&again, "UPDATE_COMPLETE"), again);
    assert_eq!(named("abc", "UPDATE_ROLLBACK_COMPLETE"), "abc");
}
