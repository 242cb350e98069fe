//! A function is given the settings it reads, and no others.

use crate::code::{Arm, Main};
use crate::none;
use crate::template::Template;
use crate::workspace::contexts;
use std::collections::{BTreeMap, BTreeSet};

/// Violations in the variables `given` to the function of an arm.
///
/// A setting with a default that is read before the handler is chosen may be left out where the handler does not need
/// it.
fn wrong_settings(handler: &str, arm: &Arm, always: &BTreeMap<String, bool>, given: &BTreeSet<String>) -> Vec<String> {
    let mut violations = Vec::new();
    let required = always.iter().filter(|(_, has_default)| !**has_default).chain(&arm.settings);
    for name in required.map(|(name, _)| name).collect::<BTreeSet<_>>() {
        if !given.contains(name) {
            violations.push(format!("{handler} reads {name}, which its stack does not give"));
        }
    }
    for name in given {
        if !arm.settings.contains_key(name) && !always.contains_key(name) {
            violations.push(format!("{handler} is given {name}, which it does not read"));
        }
    }
    violations
}

#[test]
fn a_function_is_given_the_settings_it_reads_and_no_others() {
    let template = Template::read();
    let functions = template.functions();
    let mut violations = Vec::new();
    for context in contexts() {
        let main = Main::of(&context);
        let mut given_to_any = BTreeSet::new();
        for (handler, arm) in &main.arms {
            let Some(function) = functions.iter().find(|f| f.handler() == handler) else { continue };
            let given: BTreeSet<String> = function.variables().keys().cloned().collect();
            violations.extend(wrong_settings(handler, arm, &main.always, &given));
            given_to_any.extend(given);
        }
        let forgotten = main.always.keys().filter(|name| !given_to_any.contains(*name));
        violations.extend(forgotten.map(|name| format!("{context} reads {name}, which no function is given")));
    }
    none(violations);
}

#[test]
fn a_forgotten_and_an_unread_setting_are_found() {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let all = |given: &[(&str, bool)]| given.iter().map(|(n, d)| ((*n).to_owned(), *d)).collect::<BTreeMap<_, _>>();
    let settings = all(&[("BUS", false), ("MODE", true)]);
    let arm = Arm { kind: "http".into(), serves: "x".into(), settings, named: names(&["BUS", "MODE"]) };
    let wrong =
        |given: &[&str]| wrong_settings("x", &arm, &all(&[("TABLE", false), ("SHARDS", true)]), &names(given)).len();
    assert_eq!(wrong(&["TABLE", "BUS", "MODE"]), 0);
    assert_eq!(wrong(&["TABLE", "BUS", "MODE", "SHARDS"]), 0);
    assert_eq!(wrong(&["BUS", "MODE"]), 1);
    assert_eq!(wrong(&["TABLE", "BUS"]), 1);
    assert_eq!(wrong(&["TABLE", "BUS", "MODE", "OTHER"]), 1);
}
