//! The limits of AWS: sizes, ranges and names. It would refuse the rest at the deployment, or silently do something
//! else.

use crate::context::all_functions;
use crate::fragment::{Function, Reserved};
use crate::mistake::Mistake;
use crate::system::{Context, Operation, Placed, System};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The longest name of a system, and the `-` after it.
const PREFIX: usize = 25;
/// The longest names of a Lambda function and of an SQS queue.
const LONGEST_FUNCTION: usize = 64;
const LONGEST_QUEUE: usize = 80;
/// After so many seconds API Gateway gives up.
const LONGEST_ANSWER: u32 = 29;
/// How long, in seconds, a message is hidden from others while it is handled.
const VISIBILITY: u32 = 360;
/// The settings that are derived.
const DERIVED: [&str; 10] = [
    "DEAD_LETTERS",
    "DEAD_LETTER_QUEUES",
    "EVENT_BUS",
    "LOG_LEVEL",
    "QUEUE",
    "QUEUE_URL_PREFIX",
    "STAGE",
    "TABLE",
    "USER_JWKS",
    "USER_TOKEN_ISSUER",
];

/// All mistakes.
pub fn mistakes(system: &System) -> Vec<Mistake> {
    let mut found: Vec<Mistake> = system.contexts.iter().flat_map(names).collect();
    for placed in system.functions() {
        let mut wrong = |key: &str, what: String| found.push(placed.context.mistake(placed.name, key, what));
        ranges(placed, &mut wrong);
        of_queue(placed.function, &mut wrong);
        settings(placed.function, &mut wrong);
    }
    found.extend(columns(system));
    found.extend(routes(system));
    found
}

/// Names are lower case, with `-` between words, and leave room for that of the system.
fn names(context: &Context) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut check = |key: &str, name: &str, longest: usize| {
        let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let is_good = letters && name.starts_with(|c: char| c.is_ascii_lowercase()) && !name.ends_with('-');
        if !is_good {
            found.push(context.mistake(key, name, format!("`{name}` is no name: use lower case, digits and `-`")));
        }
        if name.len() + PREFIX > longest {
            let most = longest - PREFIX;
            found.push(context.mistake(key, name, format!("{name} has {} letters: {most} at most", name.len())));
        }
    };
    for name in all_functions(context) {
        check(&name, &name, LONGEST_FUNCTION);
    }
    let ending = "-dead-letters.fifo".len();
    for placed in context.functions() {
        let logs = placed.function.logs.iter().map(|logs| &logs.dead_letters);
        placed.function.queue.iter().chain(logs).for_each(|name| check(placed.name, name, LONGEST_QUEUE - ending));
    }
    context.fragment.parked.keys().for_each(|name| check("parked", name, LONGEST_QUEUE));
    context.fragment.sagas.keys().for_each(|name| check("sagas", name, LONGEST_QUEUE));
    context.fragment.ages.keys().for_each(|name| check("ages", name, LONGEST_QUEUE));
    found
}

fn within(key: &str, value: Option<u32>, range: RangeInclusive<u32>, wrong: &mut impl FnMut(&str, String)) {
    if let Some(value) = value.filter(|value| !range.contains(value)) {
        wrong(key, format!("{key}: {value} is out of {} to {}", range.start(), range.end()));
    }
}

fn ranges(placed: Placed<'_>, wrong: &mut impl FnMut(&str, String)) {
    let function = placed.function;
    let longest = match function.triggers().first() {
        Some(&"http") => LONGEST_ANSWER,
        Some(&"queue") => VISIBILITY,
        _ => 900,
    };
    within("timeout", function.timeout, 1..=longest, wrong);
    within("memory", function.memory, 128..=10_240, wrong);
    within("after", function.late.as_ref().map(|late| late.after), 1..=1_209_600, wrong);
    if let Reserved::InProduction(count) = function.reserved {
        within("reserved", Some(count), 1..=1_000, wrong);
    }
    if let Some(stream) = &function.stream {
        within("batch", Some(stream.batch), 1..=10_000, wrong);
    }
    if function.users && !function.http {
        wrong("users", "only what HTTP starts has users: remove it".to_owned());
    }
}

fn of_queue(function: &Function, wrong: &mut impl FnMut(&str, String)) {
    // Messages from the bus have no group, which a FIFO queue requires.
    if function.fifo && !function.of.is_empty() {
        wrong("fifo", "events come into no FIFO queue: remove fifo, or let a function send".to_owned());
    }
    within("batch", function.batch, 1..=if function.fifo { 10 } else { 10_000 }, wrong);
    // SQS accepts no fewer than two.
    within("at-once", function.at_once, 2..=1_000, wrong);
    if function.queue.is_some() && matches!(function.reserved, Reserved::InProduction(_)) {
        wrong("reserved", "of a queue's function the stage's share is reserved: say true, or at-once".to_owned());
    }
    if function.at_once.is_some() && function.reserved != Reserved::default() {
        wrong("at-once", "what is reserved says how many run at once: keep one".to_owned());
    }
    if function.of.iter().any(|pattern| pattern == "*") {
        wrong("of", "nobody hears everything: say the beginnings of types (payment.*)".to_owned());
    }
}

fn settings(function: &Function, wrong: &mut impl FnMut(&str, String)) {
    for name in function.settings.keys() {
        let is_name = name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
        if !is_name || DERIVED.contains(&name.as_str()) {
            wrong(
                name,
                format!("{name} is no setting of one's own: those are in upper case, and none that is derived"),
            );
        }
    }
    for (secret, parameter) in function.outside.iter().filter(|(_, parameter)| !parameter.ends_with("Url")) {
        wrong(secret, format!("{parameter} is no URL of {secret}: name a parameter that ends in Url"));
    }
    if let Some(logs) = &function.logs {
        let mut names = logs.of.clone();
        names.sort();
        names.dedup();
        if names.is_empty() || names.len() < logs.of.len() {
            wrong("of", "say each function whose log it reads, once".to_owned());
        }
        if !logs.with.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            wrong("with", "one word that the lines hold: letters, digits and `_`".to_owned());
        }
    }
}

/// An index has a text as its hash and a number as its range; a name is never used as both.
fn columns(system: &System) -> Vec<Mistake> {
    let mut found = Vec::new();
    for context in &system.contexts {
        let indexes = &context.fragment.table;
        for (name, (hash, range)) in indexes {
            let is_other = |(_, (other, number)): (&String, &(String, String))| other == range || number == hash;
            if hash == range || indexes.iter().any(is_other) {
                found.push(context.mistake(
                    "table",
                    name,
                    format!("{hash} or {range} is a text here and a number there"),
                ));
            }
        }
    }
    found
}

/// API Gateway accepts a path once, and one name for a variable at each position.
fn routes(system: &System) -> Vec<Mistake> {
    let mut found = Vec::new();
    let mut methods: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut variables: BTreeMap<String, &str> = BTreeMap::new();
    for context in &system.contexts {
        let mut wrong = |operation: &Operation, what: String| {
            let key = format!("{} {}", operation.method.to_uppercase(), operation.path);
            found.push(Mistake { file: format!("functions/{}/openapi.yaml", context.name), line: 0, key, what });
        };
        for operation in &context.operations {
            if let Some(other) = methods.insert((&operation.path, &operation.method), &operation.id) {
                wrong(operation, format!("is served by {other} already: choose another path"));
            }
            let mut before = String::new();
            for part in operation.path.split('/').filter(|part| !part.is_empty()) {
                if part.starts_with('{')
                    && let Some(other) = variables.insert(before.clone(), part).filter(|other| *other != part)
                {
                    wrong(operation, format!("{part} is called {other} elsewhere below /{before}: use one name"));
                }
                before.push_str(if part.starts_with('{') { "{}" } else { part });
                before.push('/');
            }
        }
    }
    found
}
