//! The stages of `infra/samconfig.toml` and the template they deploy.

use crate::workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

/// What only the deployment or its operator knows: no file under version control has it.
const GIVEN: [&str; 4] = ["QueueTokenKeys", "Release", "UserJwks", "UserTokenIssuer"];

/// A stage.
pub struct Stage {
    /// Its name.
    pub name: String,
    /// The parameters it sets.
    pub parameters: BTreeMap<String, String>,
}

/// What a line of Python says, with the deployment's modules at hand.
pub fn python(line: &str) -> Value {
    let script = format!("import json\nfrom delivery import keys, stages\n{line}");
    let mut command = Command::new("python3");
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

/// The template's parameters: name -> whether it has a default.
fn declared() -> BTreeMap<String, bool> {
    let text = fs::read_to_string(workspace("infra/template.yaml")).unwrap();
    let template: serde_norway::Value = serde_norway::from_str(&text).unwrap();
    let parameters = template["Parameters"].as_mapping().unwrap().iter();
    parameters.map(|(name, it)| (name.as_str().unwrap().to_owned(), it.get("Default").is_some())).collect()
}

#[test]
fn the_stages_set_what_the_template_has_and_the_template_has_nothing_that_nobody_gives() {
    let declared = declared();
    for stage in all() {
        let set: BTreeSet<&String> = stage.parameters.keys().collect();
        let unknown: Vec<_> = set.iter().filter(|name| !declared.contains_key(**name)).collect();
        assert!(unknown.is_empty(), "{} sets {unknown:?}, which the template does not have", stage.name);
        let made: Vec<_> = set.iter().filter(|name| GIVEN.contains(&name.as_str())).collect();
        assert!(made.is_empty(), "{} sets {made:?}, which belong in no file", stage.name);
        assert_eq!(stage.parameters["Stage"], stage.name);
        for (name, has_default) in &declared {
            let known = *has_default || set.contains(name) || GIVEN.contains(&name.as_str());
            assert!(known, "nobody gives {name} to {}", stage.name);
        }
    }
    for name in GIVEN {
        assert!(declared.contains_key(name), "the template does not have {name}");
    }
}

#[test]
fn a_rehearsal_is_as_production_is() {
    let all = all();
    let of = |name: &str| &all.iter().find(|stage| stage.name == name).unwrap().parameters;
    // What tells production from a rehearsal of it.
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
    // What was named so runs now: nothing changes, whatever was tried since.
    assert_eq!(named(&again, "UPDATE_COMPLETE"), again);
    assert_eq!(named("abc", "UPDATE_ROLLBACK_COMPLETE"), "abc");
}
