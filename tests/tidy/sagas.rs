//! The state machines: `cfn-lint` and `sam validate` do not look inside them.

use crate::none;
use crate::template::{Template, logical_id};
use crate::workspace::{contexts, entries, file_name, pascal, root, text};
use contracts::saga::error_name;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// How many transitions the happy path may take, from start to end. Each one is paid for.
const MOST_TRANSITIONS: usize = 8;
/// Where a payment stops being undone.
const NO_RETURN: &str = "point of no return";
/// Why a step has no compensation, in its comment's words.
const NEEDS_NO_UNDO: [&str; 4] = [NO_RETURN, "The sale stands", "Everything before is undone", "by hand"];

/// What each substitution stands for: the handler of a function, or nothing for another resource.
type Substitutions = BTreeMap<String, Option<String>>;

fn states(machine: &Value) -> &Map<String, Value> {
    machine["States"].as_object().expect("a state machine has states")
}

fn is(state: &Value, kind: &str) -> bool {
    state["Type"] == kind
}

fn comment(state: &Value) -> &str {
    state["Comment"].as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Where a state goes when all is well.
fn forward(state: &Value) -> Vec<&str> {
    let choices = list(&state["Choices"]).iter().map(|choice| &choice["Next"]);
    [&state["Next"], &state["Default"]].into_iter().chain(choices).filter_map(Value::as_str).collect()
}

/// Where a state goes when it fails.
fn back(state: &Value) -> Vec<&str> {
    list(&state["Catch"]).iter().filter_map(|caught| caught["Next"].as_str()).collect()
}

/// The states reached from one by some of their transitions.
fn reached<'a>(machine: &'a Value, from: &'a str, ways: impl Fn(&'a Value) -> Vec<&'a str>) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open = vec![from];
    while let Some(name) = open.pop() {
        if let Some(state) = states(machine).get(name)
            && found.insert(name)
        {
            open.extend(ways(state));
        }
    }
    found
}

fn wrong_ways(machine: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    let start = machine["StartAt"].as_str().unwrap_or_default();
    if !states(machine).contains_key(start) {
        violations.push(format!("it starts at {start:?}, which is no state"));
    }
    for (name, state) in states(machine) {
        for target in forward(state).into_iter().chain(back(state)) {
            if !states(machine).contains_key(target) {
                violations.push(format!("{name} goes to {target}, which is no state"));
            }
        }
        let ends = is(state, "Fail") || is(state, "Succeed") || state["End"] == true;
        if ends != forward(state).is_empty() {
            violations.push(format!("{name} must either end or go on"));
        }
        if is(state, "Choice") && !state["Default"].is_string() {
            violations.push(format!("{name} has no default"));
        }
    }
    let reachable = reached(machine, start, |state| forward(state).into_iter().chain(back(state)).collect());
    let lost = states(machine).keys().filter(|name| !reachable.contains(name.as_str()));
    violations.extend(lost.map(|name| format!("{name} is never reached")));
    violations
}

/// Timeouts, retries and catches of tasks, and the errors they name.
fn wrong_guards(machine: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, state) in states(machine).iter().filter(|(_, state)| is(state, "Task")) {
        if !state["TimeoutSeconds"].is_u64() {
            violations.push(format!("{name} may take forever"));
        }
        for guard in ["Retry", "Catch"] {
            let guards = list(&state[guard]);
            let errors = |guard: &Value| -> Vec<String> {
                list(&guard["ErrorEquals"]).iter().map(|error| error.as_str().unwrap_or_default().to_owned()).collect()
            };
            // Step Functions takes States.ALL only alone and last.
            if guards.last().map(errors) != Some(vec!["States.ALL".to_owned()]) {
                violations.push(format!("{name} has no {guard} of everything else"));
            }
            for error in guards.iter().flat_map(errors) {
                if !error_name::ALL.contains(&error.as_str()) && !error.starts_with("States.") {
                    violations.push(format!("{name} has a {guard} of {error}, which no step fails with"));
                }
            }
        }
        for retry in list(&state["Retry"]) {
            let never = retry["MaxAttempts"] == 0;
            if !never && (retry["JitterStrategy"] != "FULL" || !retry["MaxDelaySeconds"].is_u64()) {
                violations.push(format!("{name} retries without jitter or without a longest delay"));
            }
        }
    }
    violations
}

/// `${X}` in the definition against the substitutions, and the names of states against the handlers they call.
fn wrong_substitutions(machine: &Value, given: &Substitutions) -> Vec<String> {
    let mut violations = Vec::new();
    let text = machine.to_string();
    let used: BTreeSet<&str> =
        text.split("${").skip(1).filter_map(|rest| rest.split_once('}').map(|(name, _)| name)).collect();
    violations.extend(
        used.iter().filter(|name| !given.contains_key(**name)).map(|name| format!("${{{name}}} is given nowhere")),
    );
    violations.extend(
        given.keys().filter(|name| !used.contains(name.as_str())).map(|name| format!("${{{name}}} is used nowhere")),
    );
    for (name, state) in states(machine).iter().filter(|(_, state)| is(state, "Task")) {
        let resource = state["Resource"].as_str().unwrap_or_default();
        let Some(substitution) = resource.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) else { continue };
        match given.get(substitution) {
            Some(Some(handler)) if pascal(handler) == *name => {}
            Some(handler) => violations.push(format!("{name} calls {handler:?}")),
            None => {}
        }
    }
    violations
}

/// A step that changes something names its compensation, or states why it has none; and the compensation is on the way
/// back from every step where it is needed.
fn wrong_compensations(machine: &Value) -> Vec<String> {
    let mut violations = Vec::new();
    for (name, state) in states(machine).iter().filter(|(_, state)| is(state, "Task")) {
        let says = |words: &str| word_after(comment(state), words);
        if let Some(undo) = says("Undone by ") {
            let tells_back = states(machine).get(undo).and_then(|undo| word_after(comment(undo), "Compensates "));
            if tells_back != Some(name) {
                violations.push(format!("{name} says it is undone by {undo}, which does not say so"));
            }
            for later in until_no_return(machine, name) {
                let all_else =
                    list(&states(machine)[later]["Catch"]).iter().rfind(|c| c["ErrorEquals"][0] == "States.ALL");
                let way_back = all_else.and_then(|caught| caught["Next"].as_str()).unwrap_or_default();
                if !reached(machine, way_back, forward).contains(undo) {
                    violations.push(format!("when {later} fails, {undo} does not undo {name}"));
                }
            }
        } else if let Some(done) = says("Compensates ") {
            let tells_back = states(machine).get(done).and_then(|done| word_after(comment(done), "Undone by "));
            if tells_back != Some(name) {
                violations.push(format!("{name} says it compensates {done}, which does not say so"));
            }
        } else if !NEEDS_NO_UNDO.iter().any(|reason| comment(state).contains(reason)) {
            violations.push(format!("{name} names no compensation and does not say why"));
        }
    }
    violations
}

fn word_after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(words)?;
    Some(rest.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default())
}

/// The tasks from one on, itself included, up to the point of no return.
fn until_no_return<'a>(machine: &'a Value, from: &'a str) -> Vec<&'a str> {
    let ways = |state: &'a Value| if comment(state).contains(NO_RETURN) { Vec::new() } else { forward(state) };
    reached(machine, from, ways).into_iter().filter(|name| is(&states(machine)[*name], "Task")).collect()
}

/// The states of the happy path, for an input, when every step succeeds.
fn happy_path(machine: &Value, input: &Value) -> Vec<String> {
    let mut path = Vec::new();
    let mut next = machine["StartAt"].as_str();
    while let Some(name) = next {
        assert!(path.len() < 100, "the happy path goes in circles: {path:?}");
        path.push(name.to_owned());
        let state = &states(machine)[name];
        let chosen = list(&state["Choices"]).iter().find(|choice| {
            let variable = choice["Variable"].as_str().and_then(|path| path.strip_prefix("$."));
            variable.is_some_and(|name| input[name] == choice["StringEquals"])
        });
        next = chosen.map(|choice| &choice["Next"]).or(Some(&state["Default"])).and_then(Value::as_str);
        next = next.or(state["Next"].as_str());
    }
    path
}

fn wrong(machine: &Value, given: &Substitutions) -> Vec<String> {
    let checks = [wrong_ways(machine), wrong_guards(machine), wrong_compensations(machine)];
    checks.into_iter().flatten().chain(wrong_substitutions(machine, given)).collect()
}

/// Every state machine: its file's name, its definition, and the template's substitutions.
fn machines() -> Vec<(String, Value, Substitutions)> {
    let template = Template::read();
    let handlers: BTreeMap<&str, &str> = template.functions().iter().map(|f| (f.id, f.handler())).collect();
    let mut found = Vec::new();
    for (_, properties) in template.resources("AWS::Serverless::StateMachine") {
        let uri = properties["DefinitionUri"].as_str().and_then(|uri| uri.strip_prefix("../"));
        let file = uri.expect("a definition beside the stacks").to_owned();
        let definition = serde_json::from_str(&text(&format!("infra/{file}"))).expect("a definition is JSON");
        let substitutions = properties["DefinitionSubstitutions"].as_object().into_iter().flatten();
        let given = substitutions.map(|(name, value)| {
            let handler =
                logical_id(value).and_then(|id| handlers.get(id.as_str()).map(|handler| (*handler).to_owned()));
            (name.clone(), handler)
        });
        let given = given.collect();
        found.push((file, definition, given));
    }
    found
}

#[test]
fn every_state_is_reachable_guarded_named_after_its_handler_and_compensated() {
    let found = machines();
    assert!(found.len() >= 2, "state machines went missing");
    let violations = found.iter().flat_map(|(file, machine, given)| {
        wrong(machine, given).into_iter().map(move |violation| format!("{file}: {violation}"))
    });
    none(violations.collect());
}

#[test]
fn every_state_machine_is_deployed() {
    let deployed: BTreeSet<String> = machines().into_iter().map(|(file, ..)| file).collect();
    let files = entries(&root().join("infra/statemachines"));
    let forgotten = files.iter().map(|path| format!("statemachines/{}", file_name(path)));
    none(forgotten.filter(|file| !deployed.contains(file)).collect());
}

#[test]
fn the_happy_path_takes_few_transitions() {
    for (file, machine, _) in machines() {
        let path = happy_path(&machine, &json!({"token_expiry": "event"}));
        // Entering the first state and leaving the last are counted too.
        assert!(path.len() < MOST_TRANSITIONS, "{file}: {path:?}");
        // Where a token expires as a step, that is one more.
        let strict = happy_path(&machine, &json!({"token_expiry": "strict"}));
        assert_eq!(strict.len() > path.len(), machine.to_string().contains("token_expiry"), "{file}: {strict:?}");
    }
}

#[test]
fn a_step_that_the_saga_calls_is_a_step_of_its_context() {
    let steps: BTreeSet<String> = contexts()
        .iter()
        .flat_map(|context| crate::code::Main::of(context).arms)
        .filter(|(_, arm)| arm.kind == "step")
        .map(|(handler, _)| handler)
        .collect();
    let called = machines().into_iter().flat_map(|(.., given)| given.into_values().flatten());
    none(
        called.filter(|handler| !steps.contains(handler)).map(|handler| format!("{handler} serves no step")).collect(),
    );
}

#[test]
fn whatever_is_broken_in_a_state_machine_is_found() {
    let is_payments = |(file, ..): &(String, Value, Substitutions)| file.contains("payment-saga");
    let (_, machine, given) = machines().into_iter().find(is_payments).unwrap();
    assert_eq!(wrong(&machine, &given), Vec::<String>::new());
    type Break = fn(&mut Value);
    let breaks: [(&str, Break); 20] = [
        ("starts at", |m| m["StartAt"] = "Nowhere".into()),
        ("no state", |m| m["States"]["UsePoints"]["Next"] = "Nowhere".into()),
        ("no state", |m| m["States"]["UsePoints"]["Catch"][0]["Next"] = "Nowhere".into()),
        ("no state", |m| m["States"]["ChooseTokenExpiry"]["Choices"][0]["Next"] = "Nowhere".into()),
        ("no state", |m| m["States"]["ChooseTokenExpiry"]["Default"] = "Nowhere".into()),
        ("no default", |m| drop(m["States"]["ChooseWayBack"].as_object_mut().unwrap().remove("Default"))),
        ("end or go on", |m| m["States"]["UsePoints"]["End"] = true.into()),
        ("never reached", |m| m["States"]["ChooseTokenExpiry"]["Choices"] = json!([])),
        ("take forever", |m| drop(m["States"]["ReturnPoints"].as_object_mut().unwrap().remove("TimeoutSeconds"))),
        ("no Retry", |m| drop(m["States"]["ReturnPoints"].as_object_mut().unwrap().remove("Retry"))),
        ("no Catch", |m| m["States"]["ParkPayment"]["Catch"] = json!([])),
        ("no Catch of everything", |m| m["States"]["FailPayment"]["Catch"][0]["ErrorEquals"] = json!(["Broken"])),
        ("no step fails with", |m| m["States"]["BeginPayment"]["Retry"][1]["ErrorEquals"] = json!(["Contention"])),
        ("without jitter", |m| {
            drop(m["States"]["UsePoints"]["Retry"][1].as_object_mut().unwrap().remove("JitterStrategy"))
        }),
        ("is given nowhere", |m| m["States"]["UsePoints"]["Resource"] = "${SpendPoints}".into()),
        ("is used nowhere", |m| m["States"]["UsePoints"]["Resource"] = "arn:aws:states:::sqs:sendMessage".into()),
        ("calls", |m| m["States"]["UsePoints"]["Resource"] = "${ReturnPoints}".into()),
        ("names no compensation", |m| m["States"]["UsePoints"]["Comment"] = "Takes the price.".into()),
        ("does not say so", |m| m["States"]["ReturnPoints"]["Comment"] = "Compensates BeginPayment.".into()),
        ("does not undo UsePoints", |m| {
            m["States"]["ConfirmReservation"]["Catch"][0]["Next"] = "FailPayment".into();
        }),
    ];
    for (number, (expected, break_it)) in breaks.into_iter().enumerate() {
        let mut broken = machine.clone();
        break_it(&mut broken);
        assert_ne!(broken, machine, "{number}: {expected}");
        let found = wrong(&broken, &given);
        assert!(found.iter().any(|violation| violation.contains(expected)), "{number}: {expected:?} not in {found:?}");
    }
}

#[test]
fn the_on_call_is_paged_when_an_execution_fails_or_takes_longer_than_it_may() {
    let template = Template::read();
    let mut violations = Vec::new();
    for (id, _) in template.resources("AWS::Serverless::StateMachine") {
        for metric in ["ExecutionsFailed", "ExecutionsTimedOut"] {
            let has_alarm = template.resources("AWS::CloudWatch::Alarm").any(|(_, alarm)| {
                alarm["Namespace"] == "AWS/States"
                    && alarm["MetricName"] == metric
                    && logical_id(&alarm["Dimensions"][0]["Value"]).as_deref() == Some(id)
            });
            if !has_alarm {
                violations.push(format!("nobody is called for {metric} of {id}"));
            }
        }
    }
    let endless = machines().into_iter().filter(|(_, machine, _)| !machine["TimeoutSeconds"].is_u64());
    none(violations.into_iter().chain(endless.map(|(file, ..)| format!("{file} may take forever"))).collect());
}

#[test]
fn no_state_machine_hides_a_broken_step() {
    type Break = fn(&mut Value);
    let breaks: [Break; 7] = [
        |task| drop(task.as_object_mut().unwrap().remove("TimeoutSeconds")),
        |task| drop(task.as_object_mut().unwrap().remove("Retry")),
        |task| drop(task.as_object_mut().unwrap().remove("Catch")),
        |task| drop(task.as_object_mut().unwrap().remove("Comment")),
        |task| task["Next"] = "Nowhere".into(),
        |task| task["Catch"][0]["Next"] = "Nowhere".into(),
        |task| task["Resource"] = "${Nothing}".into(),
    ];
    for (file, machine, given) in machines() {
        for (name, _) in states(&machine).iter().filter(|(_, state)| is(state, "Task")) {
            for (number, break_it) in breaks.iter().enumerate() {
                let mut broken = machine.clone();
                break_it(&mut broken["States"][name.as_str()]);
                assert!(!wrong(&broken, &given).is_empty(), "{file}: {name}, {number}");
            }
        }
    }
}
