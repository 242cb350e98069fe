//! A context's stack: its log, table and functions, what starts them, and the alarms on their failures.

use crate::alarm::Alarm;
use crate::fragment::{Fragment, Function, Reserved};
use crate::names::{arn, called, function_arn, pascal, setting, singular, told};
use crate::shapes::fill;
use crate::system::{Context, Placed, System};
use minijinja::context as holes;
use serde::Serialize;

/// The alarms that roll a gradual deployment back. They are all in `platform`, so that they exist before it begins.
pub const WATCHED: [&str; 4] = ["broken", "crashes", "api-errors", "parked-payments"];

/// The part of a queue's URL before its name.
const QUEUE_URL_PREFIX: &str = "https://sqs.${AWS::Region}.${AWS::URLSuffix}/${AWS::AccountId}/${System}-";

/// What a function may do, as a statement of its policy.
#[derive(Debug, Serialize)]
struct May {
    actions: Vec<String>,
    resources: Vec<String>,
}

impl May {
    fn new(actions: &[&str], resources: impl IntoIterator<Item = String>) -> Self {
        let actions = actions.iter().map(|&action| action.to_owned()).collect();
        Self { actions, resources: resources.into_iter().collect() }
    }

    fn calls(calls: &[String], resource: String) -> Self {
        Self { actions: calls.iter().map(|call| format!("dynamodb:{call}")).collect(), resources: vec![resource] }
    }
}

/// The resources of a context's stack.
pub fn resources(system: &System, context: &Context) -> Vec<String> {
    let writer = Writer { system, context, id: pascal(&context.name) };
    let mut all = vec![writer.log(&writer.id, &format!("/${{System}}/{}", context.name)), writer.table()];
    if !system.stream_readers(&context.name).is_empty() {
        all.push(fill("stream", holes! { id => writer.id, name => context.name }));
    }
    for placed in context.functions() {
        all.extend(writer.with_function(placed));
    }
    all.extend(writer.outbox());
    for name in context.fragment.sagas.keys() {
        all.extend(writer.saga(name));
    }
    for name in context.fragment.parked.keys() {
        all.push(fill("dead_letters", holes! { id => format!("{}Queue", pascal(name)), name, fifo => "" }));
    }
    for (name, age) in &context.fragment.ages {
        all.push(Alarm::aged(name, &age.because, &age.metric, &context.name, age.after).text());
    }
    all
}

/// The functions that relay a context's events and sweep the rest, for a context with an outbox.
pub fn of_outbox(context: &str) -> [(String, Function); 2] {
    let relay = Function { table: vec!["UpdateItem".to_owned()], says: true, timeout: Some(30), ..Function::default() };
    let sweep = Function {
        table: vec!["UpdateItem".to_owned()],
        index: [("unpublished".to_owned(), vec!["Query".to_owned()])].into(),
        says: true,
        every_minute: Some(format!("Overdue events of {context} could not be published")),
        see: Some("outboxes".to_owned()),
        ..Function::default()
    };
    [(format!("relay-{context}"), relay), (format!("sweep-{}-outbox", singular(context)), sweep)]
}

/// The functions of a context, including the derived ones, in the order of its stack.
pub fn all_functions(context: &Context) -> Vec<String> {
    let own = context.fragment.functions.keys().cloned();
    let derived = of_outbox(&context.name).map(|(name, _)| name).into_iter().filter(|_| context.fragment.outbox);
    own.chain(derived).collect()
}

/// The indexes of a context's table: name, hash, range.
pub fn indexes(fragment: &Fragment) -> Vec<(&str, &str, &str)> {
    let own = fragment.table.iter().map(|(name, (hash, range))| (name.as_str(), hash.as_str(), range.as_str()));
    own.chain(fragment.outbox.then_some(("unpublished", "unpublished_shard", "created_at"))).collect()
}

/// The queues of a context that have consumers, with the suffix that FIFO queues must have.
pub fn queues(context: &Context) -> Vec<String> {
    let consumed =
        context.functions().filter_map(|placed| Some((placed.function.queue.as_ref()?, placed.function.fifo)));
    consumed.map(|(queue, fifo)| format!("{queue}{}", ending(fifo))).collect()
}

/// The queues of a context that should be empty.
pub fn last_resorts(context: &Context) -> Vec<String> {
    let mut found = Vec::new();
    for placed in context.functions() {
        if let Some(queue) = &placed.function.queue {
            found.push(format!("{queue}-dead-letters{}", ending(placed.function.fifo)));
        }
        if let Some(logs) = &placed.function.logs {
            found.push(format!("{}-dead-letters", logs.dead_letters));
        }
        if let Some(stream) = &placed.function.stream {
            found.push(format!("{}-dead-letters", stream.dead_letters));
        }
    }
    found.extend(context.fragment.parked.keys().cloned());
    found
}

fn ending(fifo: bool) -> &'static str {
    if fifo { ".fifo" } else { "" }
}

struct Writer<'a> {
    system: &'a System,
    context: &'a Context,
    id: String,
}

impl Writer<'_> {
    fn log(&self, id: &str, group: &str) -> String {
        fill("log", holes! { id, group })
    }

    fn table(&self) -> String {
        #[derive(Serialize)]
        struct Index<'a> {
            name: &'a str,
            hash: &'a str,
            range: &'a str,
        }
        let indexes = indexes(&self.context.fragment).into_iter();
        let indexes: Vec<Index<'_>> = indexes.map(|(name, hash, range)| Index { name, hash, range }).collect();
        fill("table", holes! { id => self.id, name => self.context.name, indexes })
    }

    /// A function and all resources that exist for it alone.
    fn with_function(&self, placed: Placed<'_>) -> Vec<String> {
        let mut all = Vec::new();
        if let Some(queue) = &placed.function.queue {
            all.extend(self.queue(queue, placed.function));
        }
        all.push(self.function(placed));
        if let Some(because) = &placed.function.every_minute {
            let section = placed.function.see.as_deref().unwrap_or("recoveries");
            all.push(Alarm::failing(placed.name, because, section, placed.function.patient).text());
        }
        if let Some(stream) = &placed.function.stream {
            all.push(Alarm::behind(&stream.lag, &stream.because, &stream.see, placed.name).text());
            let because = format!("{} gave up batches of its stream", placed.name);
            all.extend(self.dead_letters(&stream.dead_letters, &because, false));
        }
        if let Some(logs) = &placed.function.logs {
            all.extend(self.dead_letters(&logs.dead_letters, &logs.because, false));
            for name in &logs.of {
                let id = pascal(name);
                all.push(self.log(&id, &format!("/aws/lambda/${{System}}-{name}")));
                all.push(fill("log_reader", holes! { id, reader => pascal(placed.name), with => logs.with }));
            }
        }
        all
    }

    fn queue(&self, name: &str, function: &Function) -> Vec<String> {
        let id = pascal(name);
        let mut all = vec![fill("queue", holes! { id, name, fifo => ending(function.fifo) })];
        let because = format!("Messages of {name} could not be handled");
        all.extend(self.dead_letters(name, &because, function.fifo));
        if !function.of.is_empty() {
            let pattern = |pattern: &String| match pattern.strip_suffix('*') {
                Some(prefix) => format!("{{ prefix: {prefix} }}"),
                None => pattern.clone(),
            };
            let patterns: Vec<String> = function.of.iter().map(pattern).collect();
            all.push(fill("rule", holes! { id, name, when => function.when, patterns }));
            if function.alarms {
                all.push(fill("alarms_rule", holes! { id, when => function.when }));
            }
            for queue in [format!("{id}Queue"), format!("{id}DeadLetters")] {
                let rule = format!("{id}Rule");
                all.push(fill("queue_policy", holes! { queue, rule, alarms => function.alarms }));
            }
        }
        if let Some(late) = &function.late {
            let section = if function.outside.is_empty() { "late-queues" } else { "the-outside" };
            let queue = format!("!GetAtt {id}Queue.QueueName");
            all.push(Alarm::late(&format!("{name}-age"), &late.because, section, &queue, late.after).text());
        }
        all
    }

    fn dead_letters(&self, of: &str, because: &str, fifo: bool) -> [String; 2] {
        let (id, name) = (format!("{}DeadLetters", pascal(of)), format!("{of}-dead-letters"));
        let queue = format!("!GetAtt {id}.QueueName");
        [
            fill("dead_letters", holes! { id, name, fifo => ending(fifo) }),
            Alarm::not_empty(&name, because, "dead-letters", &queue).text(),
        ]
    }

    fn function(&self, placed: Placed<'_>) -> String {
        let Placed { name, function, .. } = placed;
        let queue = function.queue.as_ref().map(|queue| {
            let batch = function.batch.unwrap_or(10);
            // SQS requires a batching window for more than ten.
            holes! { id => pascal(queue), batch, window => (batch > 10).then_some(5), at_once => function.at_once }
        });
        let stream = function.stream.as_ref().map(|stream| {
            let image = |which: &str| format!(r#"{{"dynamodb":{{"{which}":{{"kind":{{"S":["{}"]}}}}}}}}"#, stream.kind);
            let arn = match stream.of == self.context.name {
                true => format!("!GetAtt {}Table.StreamArn", self.id),
                false => format!(r#"!Sub "{{{{resolve:ssm:/${{System}}/streams/{}}}}}""#, stream.of),
            };
            let dead_letters = format!("{}DeadLetters", pascal(&stream.dead_letters));
            holes! { arn, batch => stream.batch, filters => [image("NewImage"), image("OldImage")], dead_letters }
        });
        self.write_function(placed, queue, stream, self.log_of(name))
    }

    fn write_function(
        &self,
        placed: Placed<'_>,
        queue: Option<minijinja::Value>,
        stream: Option<minijinja::Value>,
        log: Option<String>,
    ) -> String {
        let Placed { name, function, .. } = placed;
        let reserved = match function.reserved {
            Reserved::Share(false) => None,
            Reserved::Share(true) => {
                Some(r#"!If [IsReserved, !Ref ReservedConcurrency, !Ref "AWS::NoValue"]"#.to_owned())
            }
            Reserved::InProduction(count) => Some(format!(r#"!If [IsProduction, {count}, !Ref "AWS::NoValue"]"#)),
        };
        fill(
            "function",
            holes! {
                id => pascal(name), name, context => self.context.name, reserved, log, queue, stream,
                canary => function.canary, watched => WATCHED,
                timeout => function.own_timeout(), memory => function.memory,
                variables => self.variables(function), may => self.may(function),
                on_failure => function.logs.as_ref().map(|logs| format!("{}DeadLetters", pascal(&logs.dead_letters))),
                every_minute => function.every_minute.is_some(),
            },
        )
    }

    /// The log group of a function: the context's, or, for a function whose log is read, `None`: Lambda gives it its
    /// own.
    fn log_of(&self, name: &str) -> Option<String> {
        let mut read =
            self.context.functions().filter_map(|placed| placed.function.logs.as_ref()).flat_map(|logs| &logs.of);
        (!read.any(|read| read == name)).then(|| format!("{}Logs", self.id))
    }

    /// A function's environment variables: `(setting, value)`.
    fn variables(&self, function: &Function) -> Vec<(String, String)> {
        let mut variables = vec![("TABLE".to_owned(), format!("!Ref {}Table", self.id))];
        let mut set = |name: &str, value: String| variables.push((name.to_owned(), value));
        if let Some(queue) = &function.queue {
            set("QUEUE", format!("!Ref {}Queue", pascal(queue)));
            set("DEAD_LETTERS", format!("!Ref {}DeadLetters", pascal(queue)));
        }
        if function.users {
            set("USER_JWKS", "!Ref UserJwks".to_owned());
            set("USER_TOKEN_ISSUER", "!Ref UserTokenIssuer".to_owned());
        }
        if function.says {
            set("EVENT_BUS", "!Sub ${System}-bus".to_owned());
        }
        for (name, parameter) in &function.settings {
            set(name, format!("!Ref {parameter}"));
        }
        if let Some(queue) = &function.sends {
            set(&setting(queue), format!("!Ref {}Queue", pascal(queue)));
        }
        for asked in function.asks.names().iter().filter_map(|name| self.system.function(name)) {
            set(&format!("{}_FUNCTION", setting(asked.name)), told(&self.context.name, asked));
        }
        for saga in &function.starts {
            set(&setting(saga), format!("!Ref {}", pascal(saga)));
        }
        for (secret, url) in &function.outside {
            set(&format!("{}_URL", setting(secret)), format!("!Ref {url}"));
            set(&format!("{}_SECRET", setting(secret)), format!("!Sub /${{System}}/{secret}"));
        }
        if function.watches_dead_letters {
            let queues: Vec<String> = self.system.contexts.iter().flat_map(last_resorts).collect();
            // The names alone fit into a function's settings, many times over; so their common prefix is set once.
            set("QUEUE_URL_PREFIX", format!("!Sub {QUEUE_URL_PREFIX}"));
            set("DEAD_LETTER_QUEUES", queues.join(","));
        }
        variables
    }

    /// A function's permissions: exactly those of its fragment.
    fn may(&self, function: &Function) -> Vec<May> {
        let mut may = Vec::new();
        if !function.table.is_empty() {
            may.push(May::calls(&function.table, format!("!GetAtt {}Table.Arn", self.id)));
        }
        for (index, calls) in &function.index {
            may.push(May::calls(calls, format!("!Sub ${{{}Table.Arn}}/index/{index}", self.id)));
        }
        if let Some(queue) = &function.queue {
            let own: &[&str] = if function.postpones {
                &["sqs:SendMessage", "sqs:ChangeMessageVisibility"]
            } else {
                &["sqs:ChangeMessageVisibility"]
            };
            may.push(May::new(own, [format!("!GetAtt {}Queue.Arn", pascal(queue))]));
            may.push(May::new(&["sqs:SendMessage"], [format!("!GetAtt {}DeadLetters.Arn", pascal(queue))]));
        }
        if function.says {
            may.push(May::new(&["events:PutEvents"], [format!("!Sub {}", arn("events", "event-bus/${System}-bus"))]));
        }
        if let Some(queue) = &function.sends {
            may.push(May::new(&["sqs:SendMessage"], [format!("!GetAtt {}Queue.Arn", pascal(queue))]));
        }
        let asked = function.asks.names().iter().filter_map(|name| self.system.function(name));
        let asked: Vec<String> = asked.map(|asked| called(&self.context.name, asked)).collect();
        if !asked.is_empty() {
            may.push(May::new(&["lambda:InvokeFunction"], asked));
        }
        if !function.starts.is_empty() {
            let sagas = function.starts.iter().map(|saga| format!("!Ref {}", pascal(saga)));
            may.push(May::new(&["states:StartExecution"], sagas));
        }
        if !function.looks_at.is_empty() {
            let executions = function.looks_at.iter();
            let executions = executions
                .map(|saga| format!("!Sub {}", arn("states", &format!("execution:${{{}.Name}}:*", pascal(saga)))));
            may.push(May::new(&["states:DescribeExecution"], executions));
        }
        if !function.outside.is_empty() {
            let secrets = function.outside.keys();
            let secrets =
                secrets.map(|secret| format!("!Sub {}", arn("ssm", &format!("parameter/${{System}}/{secret}"))));
            may.push(May::new(&["ssm:GetParameter"], secrets));
        }
        let streams = function.stream.iter().map(|stream| &stream.dead_letters);
        for queue in function.logs.iter().map(|logs| &logs.dead_letters).chain(streams) {
            may.push(May::new(&["sqs:SendMessage"], [format!("!GetAtt {}DeadLetters.Arn", pascal(queue))]));
        }
        if function.watches_dead_letters {
            let queues = self.system.contexts.iter().flat_map(last_resorts);
            let queues = queues.map(|queue| format!("!Sub {}", arn("sqs", &format!("${{System}}-{queue}"))));
            may.push(May::new(&["sqs:GetQueueAttributes"], queues));
        }
        may
    }

    /// The resources that publish a context's events to the bus.
    fn outbox(&self) -> Vec<String> {
        let context = self.context;
        if !context.fragment.outbox {
            return Vec::new();
        }
        let [(relay, relaying), (sweep, sweeping)] = of_outbox(&context.name);
        let filter = r#"{"eventName":["INSERT"],"dynamodb":{"NewImage":{"kind":{"S":["outbox"]}}}}"#;
        let arn = format!("!GetAtt {}Table.StreamArn", self.id);
        // What it gives up, the sweep publishes.
        let stream = holes! { arn, batch => 100, filters => [filter], dead_letters => None::<String> };
        let placed = Placed { context, name: &relay, function: &relaying };
        let lag = context.fragment.relay_lag.clone().unwrap_or_else(|| format!("{relay}-lag"));
        let because = format!("Events of {} have waited for more than a minute", context.name);
        let mut all = vec![self.write_function(placed, None, Some(stream), self.log_of(&relay))];
        all.push(Alarm::behind(&lag, &because, "outboxes", &relay).text());
        all.extend(self.with_function(Placed { context, name: &sweep, function: &sweeping }));
        all.push(Alarm::unpublished(&context.name).text());
        all
    }

    /// A state machine, which calls functions of all contexts by their names.
    fn saga(&self, name: &str) -> Vec<String> {
        let Some(saga) = self.context.fragment.sagas.get(name) else { return Vec::new() };
        let parked = format!("{}Queue", pascal(&saga.parks));
        let mut substitutions = Vec::new();
        let mut steps = Vec::new();
        for given in self.system.machines.get(name).into_iter().flatten() {
            if *given == parked {
                substitutions.push((given.clone(), format!("!Ref {parked}")));
            } else if let Some(step) = self.system.function_of_id(given) {
                let called = match step.context.name == self.context.name {
                    true => called(&self.context.name, step),
                    false => format!("!Sub {}", function_arn(step)),
                };
                substitutions.push((given.clone(), called.clone()));
                steps.push(called);
            }
        }
        vec![
            fill("saga", holes! { id => pascal(name), name, parked, substitutions, steps }),
            Alarm::executions(&format!("{name}-failed"), &saga.failed, "ExecutionsFailed", name).text(),
            Alarm::executions(&format!("{name}-timed-out"), &saga.timed_out, "ExecutionsTimedOut", name).text(),
        ]
    }
}
