//! What is wrong with the fragments, each mistake in a line that names file, key and what to do.
//!
//! The permissions in a fragment and the calls in the code are compared both ways: a call that the code does not make
//! may not be granted, and one that it makes must be.

use crate::context::{WATCHED, all_functions, of_outbox};
use crate::limits;
use crate::mistake::Mistake;
use crate::system::{Context, Placed, System};
use programs::{Arm, Program};
use std::collections::{BTreeMap, BTreeSet};

/// How many consumers a table's stream may have: more slow each other down.
const MOST_READERS: usize = 2;

/// The alarms that are in `platform` whatever the fragments are.
const OF_PLATFORM: [&str; 7] =
    ["api-errors", "api-latency", "broken", "crashes", "functions-throttled", "retries", "throttled"];

/// All mistakes.
pub fn mistakes(system: &System) -> Vec<Mistake> {
    let mut found: Vec<Mistake> = system.contexts.iter().flat_map(handlers).collect();
    found.extend(names(system));
    for placed in system.functions() {
        found.extend(trigger(system, placed));
        found.extend(reaches(system, placed));
    }
    found.extend(system.contexts.iter().flat_map(operations));
    found.extend(system.contexts.iter().flat_map(|context| sagas(system, context)));
    found.extend(streams(system));
    found.extend(circles(system));
    found.extend(limits::mistakes(system));
    found.extend(watched(system));
    // The calls of a program can be read only if every function has its handler.
    if found.is_empty() {
        found.extend(system.contexts.iter().flat_map(|context| calls(system, context)));
    }
    found
}

fn of(placed: Placed<'_>, word: &str, what: impl Into<String>) -> Mistake {
    placed.context.mistake(placed.name, word, what)
}

/// A function is a handler of its context's program, and each handler is a function.
fn handlers(context: &Context) -> Vec<Mistake> {
    let functions: BTreeSet<String> = all_functions(context).into_iter().collect();
    let handlers: BTreeSet<String> = context.main.arms.keys().cloned().collect();
    let main = format!("functions/{}/src/main.rs", context.name);
    let without = functions.difference(&handlers).map(|name| {
        context.mistake(
            name,
            name,
            format!("no handler of {main} has this name: add \"{name}\" => ... there, or remove it here"),
        )
    });
    let undescribed = handlers.difference(&functions).map(|name| {
        context.mistake("functions", "functions", format!("{main} has the handler {name}: say here what starts it"))
    });
    without.chain(undescribed).collect()
}

/// Names are physical names, with the system's before them: each may occur once.
fn names(system: &System) -> Vec<Mistake> {
    let mut found = Vec::new();
    let of_platform =
        OF_PLATFORM.map(|name| (("alarm", name.to_owned()), "infra/generator/shapes/platform.yaml".to_owned()));
    let mut taken: BTreeMap<(&str, String), String> = of_platform.into();
    let mut take = |kind, name: &str, context: &Context, key: &str| {
        let what = |other: &String| format!("the {kind} {name} is of {other} already: choose another name");
        match taken.get(&(kind, name.to_owned())) {
            Some(other) => found.push(context.mistake(key, name, what(other))),
            None => drop(taken.insert((kind, name.to_owned()), format!("{} ({key})", context.file()))),
        }
    };
    for context in &system.contexts {
        for name in all_functions(context) {
            take("function", &name, context, &name);
        }
        for (kind, name, key) in physical_names(context) {
            take(kind, &name, context, &key);
        }
    }
    found
}

/// The names that a context gives to its queues, state machines and alarms: kind, name, and the key where it is given.
fn physical_names(context: &Context) -> Vec<(&'static str, String, String)> {
    let mut names = Vec::new();
    let mut add = |kind, name: String, key: &str| names.push((kind, name, key.to_owned()));
    for placed in context.functions() {
        let streams = placed.function.stream.iter().map(|stream| &stream.dead_letters);
        let logs = placed.function.logs.iter().map(|logs| &logs.dead_letters);
        let dead_letters = placed.function.queue.iter().chain(streams).chain(logs);
        for queue in dead_letters.map(|queue| format!("{queue}-dead-letters")) {
            add("queue", queue.clone(), placed.name);
            add("alarm", queue, placed.name);
        }
        if let Some(queue) = &placed.function.queue {
            add("queue", queue.clone(), placed.name);
            if placed.function.late.is_some() {
                add("alarm", format!("{queue}-age"), placed.name);
            }
        }
        if placed.function.every_minute.is_some() {
            add("alarm", placed.name.to_owned(), placed.name);
        }
        if let Some(stream) = &placed.function.stream {
            add("alarm", stream.lag.clone(), placed.name);
        }
    }
    if context.fragment.outbox {
        let [(relay, _), (sweep, _)] = of_outbox(&context.name);
        add("alarm", context.fragment.relay_lag.clone().unwrap_or_else(|| format!("{relay}-lag")), "relay-lag");
        add("alarm", format!("outbox-age-{}", context.name), "outbox");
        add("alarm", sweep, "outbox");
    }
    for name in context.fragment.parked.keys() {
        add("queue", name.clone(), "parked");
        add("alarm", name.clone(), "parked");
    }
    for name in context.fragment.sagas.keys() {
        add("state machine", name.clone(), "sagas");
        add("alarm", format!("{name}-failed"), "sagas");
        add("alarm", format!("{name}-timed-out"), "sagas");
    }
    for name in context.fragment.ages.keys() {
        add("alarm", name.clone(), "ages");
    }
    names
}

/// Exactly one thing starts a function, and its other keys fit that.
fn trigger(system: &System, placed: Placed<'_>) -> Vec<Mistake> {
    let Placed { name, function, .. } = placed;
    let triggers = function.triggers();
    let all = "http, step, asked, queue, stream, every-minute, logs";
    let mut found = Vec::new();
    match triggers.as_slice() {
        [] => found.push(of(placed, name, format!("nothing starts it: say one of {all}"))),
        [_] => {}
        [_, second, ..] => found.push(of(placed, second, format!("{} start it: keep one", triggers.join(" and ")))),
    }
    let of_queues = [
        (!function.of.is_empty(), "of"),
        (function.fifo, "fifo"),
        (function.batch.is_some(), "batch"),
        (function.at_once.is_some(), "at-once"),
        (function.postpones, "postpones"),
        (function.when.is_some(), "when"),
        (function.alarms, "alarms"),
        (function.late.is_some(), "late"),
    ];
    if function.queue.is_none() {
        let stray = of_queues.into_iter().filter(|(is, _)| *is);
        found.extend(stray.map(|(_, key)| of(placed, key, format!("{key} is of a queue: say which, or remove it"))));
    }
    if function.every_minute.is_none() && (function.see.is_some() || function.patient) {
        found.push(of(placed, "see", "see and patient are of what runs every minute: remove them"));
    }
    for pattern in &function.of {
        if system.heard(pattern).is_empty() {
            let what =
                format!("no event {pattern} is ever said: see functions/contracts/events/README.md for those that are");
            found.push(of(placed, pattern, what));
        }
    }
    if let Some(queue) = function.queue.as_ref().filter(|_| function.of.is_empty()) {
        let sends = |other: &Placed<'_>| {
            other.context.name == placed.context.name && other.function.sends.as_ref() == Some(queue)
        };
        if !system.functions().any(|other| sends(&other)) {
            found.push(of(
                placed,
                queue,
                format!("nothing comes into {queue}: say the events it is of, or which function sends to it"),
            ));
        }
    }
    let asks = |other: &Placed<'_>| other.function.asks.names().iter().any(|asked| asked == name);
    if function.asked && !system.functions().any(|other| asks(&other)) {
        found.push(of(
            placed,
            "asked",
            format!("no function asks it: say `asks: {name}` where one does, or remove it"),
        ));
    }
    found
}

/// Whatever a function names exists.
fn reaches(system: &System, placed: Placed<'_>) -> Vec<Mistake> {
    let Placed { context, function, .. } = placed;
    let mut found = Vec::new();
    for asked in function.asks.names() {
        match system.function(asked) {
            None => found.push(of(placed, asked, format!("there is no function {asked}: name one that is asked"))),
            Some(to) if !to.function.asked => {
                found.push(of(placed, asked, format!("{asked} answers nobody: say `asked: true` of it")))
            }
            Some(_) => {}
        }
    }
    if let Some(queue) = &function.sends
        && !context.functions().any(|other| other.function.queue.as_ref() == Some(queue))
    {
        found.push(of(
            placed,
            queue,
            format!("no function of {} has the queue {queue}: a context sends to its own", context.name),
        ));
    }
    for saga in function.starts.iter().chain(&function.looks_at) {
        if !context.fragment.sagas.contains_key(saga) {
            found.push(of(
                placed,
                saga,
                format!("{} has no saga {saga}: add it under sagas, or name one of those", context.name),
            ));
        }
    }
    for index in function.index.keys() {
        let of_outbox = context.fragment.outbox && index == "unpublished";
        if !of_outbox && !context.fragment.table.contains_key(index) {
            found.push(of(placed, index, format!("the table has no index {index}: add it under table")));
        }
    }
    if let Some(logs) = &function.logs {
        for name in logs.of.iter().filter(|name| !context.fragment.functions.contains_key(*name)) {
            found.push(of(
                placed,
                name,
                format!("{} has no function {name}: a context reads its own logs", context.name),
            ));
        }
    }
    if let Some(stream) = &function.stream
        && system.context(&stream.of).is_none()
    {
        found.push(of(placed, &stream.of, format!("there is no context {}", stream.of)));
    }
    let parameters = function.settings.values().chain(function.outside.values());
    for parameter in parameters.filter(|name| !crate::template::has("Parameters", name)) {
        let what = format!("there is no parameter {parameter}: add it to infra/generator/shapes/parameters.yaml");
        found.push(of(placed, parameter, what));
    }
    if let Some(condition) = function.when.as_ref().filter(|name| !crate::template::has("Conditions", name)) {
        let what = format!("there is no condition {condition}: add it to infra/generator/shapes/parameters.yaml");
        found.push(of(placed, condition, what));
    }
    found
}

/// Each operation of the description is a function that HTTP starts, and the other way round.
fn operations(context: &Context) -> Vec<Mistake> {
    let file = format!("functions/{}/openapi.yaml", context.name);
    let mut found = Vec::new();
    for operation in &context.operations {
        let served = context.fragment.functions.get(&operation.id).is_some_and(|function| function.http);
        if !served {
            let key = format!("{} {}", operation.method.to_uppercase(), operation.path);
            let what = format!(
                "operationId `{}` is no function with `http: true` in {}: add it there",
                operation.id,
                context.file()
            );
            let line = context.openapi.as_deref().map_or(0, |text| {
                text.lines()
                    .position(|line| line.trim() == format!("operationId: {}", operation.id))
                    .map_or(0, |line| line + 1)
            });
            found.push(Mistake { file: file.clone(), line, key, what });
        }
    }
    let described = |name: &str| context.operations.iter().any(|operation| operation.id == name);
    for placed in context.functions().filter(|placed| placed.function.http && !described(placed.name)) {
        found.push(of(
            placed,
            "http",
            format!("{file} has no operation with operationId: {}: describe it there", placed.name),
        ));
    }
    found
}

/// A step is called by the machines that it names, and a machine calls steps that name it.
fn sagas(system: &System, context: &Context) -> Vec<Mistake> {
    let mut found = Vec::new();
    for (name, saga) in &context.fragment.sagas {
        let Some(given) = system.machines.get(name) else {
            found.push(context.mistake(
                "sagas",
                name,
                format!("infra/statemachines/{name}.asl.json is not there: add it"),
            ));
            continue;
        };
        if !context.fragment.parked.contains_key(&saga.parks) {
            found.push(context.mistake(
                "sagas",
                &saga.parks,
                format!("there is no queue {}: add it under parked", saga.parks),
            ));
        }
        let parked = format!("{}Queue", crate::names::pascal(&saga.parks));
        for id in given.iter().filter(|id| **id != parked) {
            let step = system.function_of_id(id).filter(|step| step.function.step.names().contains(name));
            if step.is_none() {
                let what = format!("{name}.asl.json calls ${{{id}}}: no function of that name says `step: {name}`");
                found.push(context.mistake("sagas", name, what));
            }
        }
    }
    for placed in context.functions() {
        for saga in placed.function.step.names() {
            let id = crate::names::pascal(placed.name);
            if !system.machines.get(saga).is_some_and(|given| given.contains(&id)) {
                let what = format!(
                    "infra/statemachines/{saga}.asl.json does not call ${{{id}}}: add the state, or remove the step"
                );
                found.push(of(placed, saga, what));
            }
        }
    }
    found
}

/// No context waits for its own deployment.
fn circles(system: &System) -> Vec<Mistake> {
    let waits = |context: &Context| -> Vec<&str> {
        let streams = context.functions().filter_map(|placed| placed.function.stream.as_ref());
        let of_others = streams.map(|stream| stream.of.as_str()).filter(|of| *of != context.name);
        let of_others: Vec<&str> = of_others.collect();
        let of_others = of_others.into_iter().filter_map(|name| Some(system.context(name)?.name.as_str()));
        system.called_by(context).into_iter().chain(of_others).collect()
    };
    let mut waiting: Vec<&Context> = system.contexts.iter().collect();
    loop {
        let is_free = |context: &&Context| !waiting.iter().any(|other| waits(context).contains(&other.name.as_str()));
        let left: Vec<&Context> = waiting.iter().copied().filter(|context| !is_free(context)).collect();
        if left.len() == waiting.len() {
            break;
        }
        waiting = left;
    }
    let names: Vec<&str> = waiting.iter().map(|context| context.name.as_str()).collect();
    let what = format!("{} wait for each other to be deployed: let one hear events instead", names.join(", "));
    waiting.first().map(|context| context.mistake("functions", "functions", what)).into_iter().collect()
}

/// The alarms that roll a gradual deployment back exist.
fn watched(system: &System) -> Vec<Mistake> {
    let is_there = |name: &&str| {
        OF_PLATFORM.contains(name) || system.contexts.iter().any(|context| context.fragment.parked.contains_key(*name))
    };
    let canaries = || system.functions().filter(|placed| placed.function.canary);
    let missing = WATCHED.iter().filter(|name| !is_there(name));
    missing
        .flat_map(|name| {
            let what = format!("its deployment watches the alarm {name}, and no context has {name} under parked");
            canaries().next().map(|placed| of(placed, "canary", what))
        })
        .collect()
}

/// A stream has few readers.
fn streams(system: &System) -> Vec<Mistake> {
    let mut found = Vec::new();
    for context in &system.contexts {
        let readers = system.stream_readers(&context.name);
        let relay = usize::from(context.fragment.outbox);
        for placed in readers.iter().skip(MOST_READERS - relay) {
            let what = format!(
                "the stream of {} has {MOST_READERS} readers already: hear its events by a queue",
                context.name
            );
            found.push(of(*placed, "stream", what));
        }
    }
    found
}

/// A function's permissions are the calls that its code makes.
fn calls(system: &System, context: &Context) -> Vec<Mistake> {
    let program = match Program::below(&system.root, &context.name) {
        Ok(program) => program,
        Err(why) => {
            return vec![context.mistake("functions", "functions", format!("the program cannot be read: {why}"))];
        }
    };
    let derived = of_outbox(&context.name);
    let derived = derived.iter().filter(|_| context.fragment.outbox);
    let derived = derived.map(|(name, function)| Placed { context, name, function });
    let own = context.functions().chain(derived);
    own.flat_map(|placed| {
        context.main.arms.get(placed.name).map(|arm| compared(placed, &program, arm)).unwrap_or_default()
    })
    .collect()
}

fn compared(placed: Placed<'_>, program: &Program, arm: &Arm) -> Vec<Mistake> {
    let is = match (arm.kind.as_str(), placed.function.triggers().first().copied()) {
        ("http", trigger) => trigger == Some("http"),
        ("step", trigger) => matches!(trigger, Some("step" | "asked")),
        ("queue" | "batch", trigger) => trigger == Some("queue"),
        // A relay is derived, and has no entry in the fragment.
        ("stream", trigger) => matches!(trigger, Some("stream") | None),
        ("schedule", trigger) => trigger == Some("every-minute"),
        ("logs", trigger) => trigger == Some("logs"),
        _ => false,
    };
    if !is {
        return vec![of(
            placed,
            placed.name,
            format!("main.rs serves it by boot.{}: say what starts it accordingly", arm.kind),
        )];
    }
    if !program.has(&arm.serves) {
        return vec![of(
            placed,
            placed.name,
            format!("main.rs serves it by {}, which is no function of the context", arm.serves),
        )];
    }
    let made: BTreeSet<(String, String)> = program
        .aws_calls(&arm.serves)
        .into_keys()
        .map(|(action, index)| (action.to_owned(), index.unwrap_or_default()))
        .collect();
    let granted = said(placed);
    let surplus = granted.iter().filter(|(call, _)| !made.contains(call)).map(|((action, index), word)| {
        let on = if index.is_empty() { String::new() } else { format!(" on {index}") };
        of(placed, word, format!("its code does not make the call {action}{on}: remove `{word}`"))
    });
    let missing = made.iter().filter(|call| !granted.contains_key(*call)).map(|(action, index)| {
        let on = if index.is_empty() { String::new() } else { format!(" on {index}") };
        of(
            placed,
            placed.name,
            format!("its code makes the call {action}{on}, which it may not: say {}", grants(action)),
        )
    });
    surplus.chain(missing).collect()
}

/// The calls that a fragment grants to a function, each with the key or value that grants it.
fn said(placed: Placed<'_>) -> BTreeMap<(String, String), String> {
    let function = placed.function;
    let mut granted = BTreeMap::new();
    let mut grant = |action: &str, index: &str, word: &str| {
        granted.insert((action.to_owned(), index.to_owned()), word.to_owned());
    };
    function.table.iter().for_each(|call| grant(&format!("dynamodb:{call}"), "", call));
    for (index, calls) in &function.index {
        calls.iter().for_each(|call| grant(&format!("dynamodb:{call}"), index, call));
    }
    for (is, action, word) in [
        (function.postpones, "sqs:SendMessage", "postpones"),
        (function.sends.is_some(), "sqs:SendMessage", "sends"),
        (function.says, "events:PutEvents", "says"),
        (!function.asks.names().is_empty(), "lambda:InvokeFunction", "asks"),
        (!function.starts.is_empty(), "states:StartExecution", "starts"),
        (!function.looks_at.is_empty(), "states:DescribeExecution", "looks-at"),
        (!function.outside.is_empty(), "ssm:GetParameter", "outside"),
        (function.watches_dead_letters, "sqs:GetQueueAttributes", "watches-dead-letters"),
    ] {
        if is {
            grant(action, "", word);
        }
    }
    granted
}

/// How a fragment grants a call.
fn grants(action: &str) -> String {
    let key = match action {
        "sqs:SendMessage" => "sends: QUEUE, or postpones: true",
        "events:PutEvents" => "says: true",
        "lambda:InvokeFunction" => "asks: FUNCTION",
        "states:StartExecution" => "starts: [SAGA]",
        "states:DescribeExecution" => "looks-at: [SAGA]",
        "ssm:GetParameter" => "outside: { SECRET: UrlParameter }",
        "sqs:GetQueueAttributes" => "watches-dead-letters: true",
        of_table => return format!("table: [{}], or index", of_table.rsplit(':').next().unwrap_or_default()),
    };
    key.to_owned()
}
