//! The catalogue of events: which are published, their schemas, and who consumes them.

use crate::code::{Main, Source};
use crate::none;
use crate::template::{Template, logical_id};
use crate::workspace::{contexts, crate_dir, entries, file_name, pascal, read, root, rust_files, text};
use contracts::events::{Event, EventBody, schema_of};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Where the catalogue is explained.
const README: &str = "functions/contracts/events/README.md";

fn types() -> BTreeSet<String> {
    EventBody::TYPES.iter().map(|name| (*name).to_owned()).collect()
}

fn schema(event_type: &str) -> Value {
    serde_json::from_str(schema_of(event_type).expect("a type has a schema")).expect("a schema is JSON")
}

fn validator(schema: &Value) -> Result<jsonschema::Validator, String> {
    let options = jsonschema::draft202012::options().should_validate_formats(true);
    options.build(schema).map_err(|error| error.to_string())
}

/// Violations in the schema of a type and the example in it.
fn wrong_schema(event_type: &str, schema: &Value) -> Vec<String> {
    let validator = match validator(schema) {
        Ok(validator) => validator,
        Err(error) => return vec![format!("{event_type}: {error}")],
    };
    let mut violations = Vec::new();
    if schema["$id"] != format!("urn:encore:event:{event_type}:v1") || schema["title"] != event_type {
        violations.push(format!("{event_type}: the schema is called {} and {}", schema["$id"], schema["title"]));
    }
    let example = &schema["examples"][0];
    violations.extend(validator.iter_errors(example).map(|error| format!("{event_type}: its example: {error}")));
    match serde_json::from_value::<Event>(example.clone()) {
        Err(error) => violations.push(format!("{event_type}: its example is no event: {error}")),
        Ok(event) if event.body.event_type() != event_type || event.dataschema != event.body.schema() => {
            violations.push(format!("{event_type}: its example is of another type"));
        }
        Ok(event) if serde_json::to_value(&event).expect("an event is JSON") != *example => {
            violations.push(format!("{event_type}: its example is not what the type is written as"));
        }
        Ok(_) => {}
    }
    violations
}

#[test]
fn every_type_has_a_schema_whose_example_is_an_event_of_it() {
    assert!(types().len() >= 18, "types went missing");
    none(EventBody::TYPES.iter().flat_map(|event_type| wrong_schema(event_type, &schema(event_type))).collect());
}

#[test]
fn every_schema_is_of_a_type() {
    let files = entries(&crate_dir("contracts").join("events"));
    let names = files.iter().map(|path| file_name(path)).filter(|name| name != "README.md");
    let expected: BTreeSet<String> = types().into_iter().map(|name| format!("{name}.v1.json")).collect();
    assert_eq!(names.collect::<BTreeSet<_>>(), expected);
}

#[test]
fn a_schema_that_does_not_fit_its_type_is_found() {
    let whole = schema("payment.failed");
    let wrong = |pointer: &str, value: Value| {
        let mut broken = whole.clone();
        *broken.pointer_mut(pointer).unwrap() = value;
        wrong_schema("payment.failed", &broken).len()
    };
    for (pointer, value) in [
        ("/$id", "urn:encore:event:payment.completed:v1"),
        ("/type", "nothing"),
        ("/examples/0/time", "yesterday"),
        ("/examples/0/type", "payment.refunded"),
        ("/examples/0/dataschema", "urn:encore:event:payment.failed:v2"),
    ] {
        assert!(wrong(pointer, value.into()) > 0, "{pointer}");
    }
    assert!(wrong_schema("payment.completed", &whole).len() > 1);
}

/// A document with one thing changed, for each thing in it: left out, of another kind, or one too many.
fn changes(document: &Value) -> Vec<(String, Value)> {
    let Some(members) = document.as_object() else { return Vec::new() };
    let with = |name: &str, new: Option<Value>| {
        let mut changed = members.clone();
        match new {
            Some(new) => changed.insert(name.to_owned(), new),
            None => changed.remove(name),
        };
        Value::Object(changed)
    };
    let mut changed = vec![("with one more".to_owned(), with("telephone", Some("010-1234-5678".into())))];
    for (name, member) in members {
        changed.push((format!("without {name}"), with(name, None)));
        changed.push((format!("with {name} true"), with(name, Some(true.into()))));
        let within = changes(member).into_iter();
        changed.extend(within.map(|(what, inner)| (format!("with {name} {what}"), with(name, Some(inner)))));
    }
    changed
}

#[test]
fn a_changed_example_is_no_event_of_its_type() {
    let mut violations = Vec::new();
    for event_type in EventBody::TYPES {
        let schema = schema(event_type);
        let validator = validator(&schema).unwrap();
        let changes = changes(&schema["examples"][0]);
        assert!(changes.len() > 20, "{event_type}");
        let taken = changes.into_iter().filter(|(_, example)| validator.is_valid(example));
        violations.extend(taken.map(|(what, _)| format!("{event_type}: the schema takes an example {what}")));
    }
    none(violations);
}

#[test]
fn every_context_publishes_what_the_catalogue_assigns_to_it() {
    let mut violations = Vec::new();
    let mut published = BTreeSet::new();
    for context in contexts() {
        let files = rust_files(&crate_dir(&context).join("src"));
        let named: BTreeSet<String> = files.iter().flat_map(|path| Source::read(path).production().paths()).collect();
        for event_type in types() {
            let variant = format!("EventBody::{}", pascal(&event_type.replace(['.', '_'], "-")));
            let is_its_own = publishers_of(&event_type) == BTreeSet::from([context.clone()]);
            if named.contains(&variant) {
                published.insert(event_type);
            } else if is_its_own {
                violations.push(format!("{context} never says {event_type}"));
            }
        }
    }
    none(violations);
    assert_eq!(published, types());
}

/// The contexts that may publish a type according to its schema.
fn publishers_of(event_type: &str) -> BTreeSet<String> {
    let source = &schema(event_type)["properties"]["source"];
    match source["const"].as_str().and_then(|source| source.strip_prefix("encore/")) {
        Some(context) => BTreeSet::from([context.to_owned()]),
        None => contexts().into_iter().collect(),
    }
}

/// The types that a rule matches, and the parts of its pattern that match none.
fn matched(rule: &Value) -> (BTreeSet<String>, Vec<String>) {
    let (mut matched, mut wrong) = (BTreeSet::new(), Vec::new());
    for wanted in rule["EventPattern"]["detail-type"].as_array().into_iter().flatten() {
        let fits = |name: &String| match wanted["prefix"].as_str() {
            Some(prefix) => name.starts_with(prefix),
            None => *wanted == name.as_str(),
        };
        let found: BTreeSet<String> = types().into_iter().filter(fits).collect();
        if found.is_empty() {
            wrong.push(format!("{wanted} is no type of the catalogue"));
        }
        matched.extend(found);
    }
    (matched, wrong)
}

#[test]
fn a_rule_waits_for_types_of_the_catalogue_and_goes_by_nothing_else() {
    let template = Template::read();
    let mut violations = Vec::new();
    // The account's own bus has AWS's events.
    for (id, rule) in template.resources("AWS::Events::Rule").filter(|(_, rule)| rule["EventBusName"].is_object()) {
        if rule["EventPattern"].as_object().is_none_or(|pattern| pattern.keys().ne(["detail-type"])) {
            violations.push(format!("{id} goes by more than the type"));
        }
        violations.extend(matched(rule).1.into_iter().map(|wrong| format!("{id}: {wrong}")));
    }
    none(violations);
    let broken =
        json!({"EventPattern": {"detail-type": ["payment.complete", {"prefix": "refund."}, "payment.failed"]}});
    assert_eq!((matched(&broken).0.len(), matched(&broken).1.len()), (1, 2));
}

/// The handlers that consume a type, by type.
fn consumers_by_type(template: &Template) -> BTreeMap<String, BTreeSet<String>> {
    let functions = template.functions();
    let mut consumers_by_type: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, rule) in template.resources("AWS::Events::Rule").filter(|(_, rule)| rule["EventBusName"].is_object()) {
        let targets = rule["Targets"].as_array().into_iter().flatten().filter_map(|target| logical_id(&target["Arn"]));
        let targets: Vec<String> = targets.collect();
        let consumers = functions.iter().filter(|function| {
            let queues = function.triggers().into_iter().filter_map(|trigger| logical_id(&trigger.properties["Queue"]));
            queues.into_iter().any(|queue| targets.contains(&queue))
        });
        let handlers: BTreeSet<String> = consumers.map(|function| function.handler().to_owned()).collect();
        for name in matched(rule).0 {
            consumers_by_type.entry(name).or_default().extend(handlers.clone());
        }
    }
    consumers_by_type
}

/// The rows of the table below a heading of the README, cell by cell, without the marks of code.
fn rows<const CELLS: usize>(heading: &str) -> Vec<[String; CELLS]> {
    let text = text(README);
    let section = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}")).1;
    let lines = section.split("\n## ").next().unwrap_or_default().lines().filter(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect();
    let row = |line: &str| -> [String; CELLS] {
        Vec::try_into(cells(line)).unwrap_or_else(|cells| panic!("{cells:?} are not {CELLS} cells"))
    };
    lines.skip(2).map(row).collect()
}

fn listed(cell: &str) -> BTreeSet<String> {
    cell.split([',', ';']).map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

#[test]
fn the_catalogue_lists_every_type_with_its_publishers_and_consumers() {
    let consumers_by_type = consumers_by_type(&Template::read());
    let mut violations = Vec::new();
    let mut found = BTreeSet::new();
    for [name, publisher, when, consumers_listed, key] in rows("Catalogue") {
        if !types().contains(&name) {
            violations.push(format!("{name} is no type"));
            continue;
        }
        let may_publish = publishers_of(&name);
        if publisher != "any context" && listed(&publisher) != may_publish
            || publisher == "any context" && may_publish.len() == 1
        {
            violations.push(format!("{name} is said by {may_publish:?}, not by {publisher}"));
        }
        let expected = consumers_by_type.get(&name).cloned().unwrap_or_default();
        if listed(&consumers_listed) != expected {
            violations.push(format!("{name} is heard by {expected:?}, not by {consumers_listed}"));
        }
        if when.is_empty() || key.is_empty() {
            violations.push(format!("{name} lacks when or key"));
        }
        found.insert(name);
    }
    none(violations);
    assert_eq!(found, types());
}

/// The handlers that react to something: on a queue, on a table's stream, on a log.
fn consumers(template: &Template) -> BTreeSet<String> {
    let functions = template.functions();
    let triggered = functions
        .iter()
        .filter(|function| function.triggers().iter().any(|trigger| ["SQS", "DynamoDB"].contains(&trigger.kind)));
    let mut handlers: BTreeSet<String> = triggered.map(|function| function.handler().to_owned()).collect();
    let arms = contexts().into_iter().flat_map(|context| Main::of(&context).arms);
    handlers.extend(arms.filter(|(_, arm)| arm.kind == "logs").map(|(handler, _)| handler));
    assert!(handlers.len() >= 15, "consumers went missing: {handlers:?}");
    handlers
}

/// Whether `<folder>: <name>` is a test there.
fn is_test(named: &str) -> bool {
    let Some((place, name)) = named.split_once(": ") else { return false };
    let dir = root().join(place);
    let tests = if dir.is_dir() { rust_files(&dir) } else { vec![dir.with_extension("rs")] };
    // A test is a function, or a line of a table of controls.
    tests.iter().filter(|path| path.is_file()).any(|path| {
        let text = read(path);
        text.contains(&format!("fn {name}(")) || text.contains(&format!("\n    {name}: \""))
    })
}

#[test]
fn every_consumer_states_what_it_does_what_undoes_it_and_which_tests_show_both() {
    let rows = rows("Do and undo");
    let mut violations = Vec::new();
    let mut acting = BTreeSet::new();
    for [what, by, undo, once, tests] in rows {
        if [&what, &by, &undo, &once, &tests].into_iter().any(String::is_empty) {
            violations.push(format!("{what} ({by}) leaves something open"));
        }
        let unknown = listed(&tests).into_iter().filter(|test| !is_test(test));
        violations.extend(unknown.map(|test| format!("{what}: there is no test {test}")));
        acting.extend(listed(&by));
    }
    let consumers = consumers(&Template::read());
    violations
        .extend(consumers.difference(&acting).map(|handler| format!("{handler} acts on events and is not listed")));
    violations
        .extend(acting.difference(&consumers).map(|handler| format!("{handler} is listed and acts on no events")));
    none(violations);
    assert!(is_test("tests/tidy/events: every_schema_is_of_a_type"));
    assert!(!is_test("tests/tidy: no_test_has_this_name"));
}
