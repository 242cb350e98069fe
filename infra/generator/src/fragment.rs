//! What a person says of a context's stack, in `functions/<context>/stack.yaml`. Everything else is derived.

use indexmap::IndexMap;
use serde::Deserialize;

/// A context's stack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fragment {
    /// The context's table: the indexes it has beside `pk` and `sk`, each with its hash (a text) and range (a number).
    pub table: IndexMap<String, (String, String)>,
    /// Whether it says things: an index of what is unpublished, a relay, a sweep and their alarms.
    #[serde(default)]
    pub outbox: bool,
    /// What the alarm on the relay's lag is called, if not `relay-<context>-lag`.
    pub relay_lag: Option<String>,
    /// Its state machines. `infra/statemachines/<name>.asl.json` is the definition.
    #[serde(default)]
    pub sagas: IndexMap<String, Saga>,
    /// Queues that nobody consumes, each with what its alarm says.
    #[serde(default)]
    pub parked: IndexMap<String, String>,
    /// Alarms on the age of something that has not come to its end.
    #[serde(default)]
    pub ages: IndexMap<String, Age>,
    /// Its functions, by the name of their use case.
    pub functions: IndexMap<String, Function>,
}

/// A state machine.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Saga {
    /// The queue that takes what cannot be finished.
    pub parks: String,
    /// What the alarm on failed executions says.
    pub failed: String,
    /// What the alarm on executions that took too long says.
    pub timed_out: String,
}

/// An alarm on a metric of the context that is an age.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Age {
    /// The metric, in seconds.
    pub metric: String,
    /// From how many seconds on the on-call is paged.
    pub after: u32,
    /// What the alarm says.
    pub because: String,
}

/// A function: what starts it, what it may do, and what is its own.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Function {
    // What starts it: exactly one of these.
    /// The HTTP operation of its name in the context's `openapi.yaml`.
    pub http: bool,
    /// A state of these state machines.
    pub step: OneOrMore,
    /// Another function, which waits for its answer.
    pub asked: bool,
    /// The messages of a queue.
    pub queue: Option<String>,
    /// The changes of a table.
    pub stream: Option<Stream>,
    /// The clock. The text is what its alarm says when it fails.
    pub every_minute: Option<String>,
    /// Lines of functions' logs.
    pub logs: Option<Logs>,

    // Of a queue.
    /// The events that come into the queue: types, or all that begin with something (`payment.*`). Without, functions send.
    pub of: Vec<String>,
    /// Whether messages of a group keep their order.
    pub fifo: bool,
    /// How many messages it takes at a time, 10 unless said.
    pub batch: Option<u32>,
    /// How many of it may run at once.
    pub at_once: Option<u32>,
    /// Whether it sends messages back into its queue, to come later.
    pub postpones: bool,
    /// The condition under which events come.
    pub when: Option<String>,
    /// Whether the system's alarms come, too.
    pub alarms: bool,
    /// When the on-call is paged because messages wait.
    pub late: Option<Late>,

    // Of the clock.
    /// The section of the runbook that its alarm names, `recoveries` unless said.
    pub see: Option<String>,
    /// Whether its alarm waits for five minutes of failures, not for one.
    pub patient: bool,

    // What it may do.
    /// Calls on the context's table.
    pub table: Vec<String>,
    /// Calls on indexes of the table.
    pub index: IndexMap<String, Vec<String>>,
    /// Whether it takes users' tokens.
    pub users: bool,
    /// Whether it puts events on the bus itself; others leave that to the outbox.
    pub says: bool,
    /// The queue that it sends to.
    pub sends: Option<String>,
    /// The function that it asks.
    pub asks: Option<String>,
    /// The state machines that it starts.
    pub starts: Vec<String>,
    /// The state machines whose executions it looks at.
    pub looks_at: Vec<String>,
    /// Whom it calls outside: the name of their secret, and the parameter that is their URL.
    pub outside: IndexMap<String, String>,
    /// Whether it looks at every queue that should be empty.
    pub watches_dead_letters: bool,

    // What is its own.
    /// Settings that are parameters of the stack.
    pub settings: IndexMap<String, String>,
    /// Whether it changes for a tenth of its calls first.
    pub canary: bool,
    /// Whether concurrency is reserved for it: `true` is the stage's share, a number is that many in production.
    pub reserved: Reserved,
    /// How long it may take, in seconds: 10 unless said, 60 for a queue, 50 for the clock.
    pub timeout: Option<u32>,
    /// In MB, 256 unless said.
    pub memory: Option<u32>,
}

/// When the on-call is paged because messages wait.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Late {
    /// From how many seconds on.
    pub after: u32,
    /// What the alarm says.
    pub because: String,
}

/// The changes of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// The context whose table it is.
    pub of: String,
    /// The `kind` of the items.
    pub kind: String,
    /// How many changes at a time.
    pub batch: u32,
    /// What the alarm on its lag is called.
    pub lag: String,
    /// What that says.
    pub because: String,
    /// The section of the runbook that it names.
    pub see: String,
}

/// Lines of functions' logs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Logs {
    /// The functions.
    pub of: Vec<String>,
    /// What the lines hold.
    pub with: String,
    /// Where lines go that could not be handled: `<name>-dead-letters`.
    pub dead_letters: String,
    /// What the alarm on them says.
    pub because: String,
}

/// One name or a list of them.
#[derive(Debug, Default, Deserialize)]
#[serde(untagged, expecting = "a name, or a list of names")]
pub enum OneOrMore {
    /// None.
    #[default]
    None,
    /// One.
    One(String),
    /// A list.
    More(Vec<String>),
}

impl OneOrMore {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::None => &[],
            Self::One(name) => std::slice::from_ref(name),
            Self::More(names) => names,
        }
    }
}

/// Concurrency that is kept for a function, and bounds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "true, or how many in production")]
pub enum Reserved {
    /// As much as the stage gives each step (`ReservedConcurrency`), or none.
    Share(bool),
    /// That many in production.
    InProduction(u32),
}

impl Default for Reserved {
    fn default() -> Self {
        Self::Share(false)
    }
}

impl Function {
    /// What starts it, in the fragment's words. Exactly one is right.
    pub fn triggers(&self) -> Vec<&'static str> {
        let said = [
            (self.http, "http"),
            (!self.step.names().is_empty(), "step"),
            (self.asked, "asked"),
            (self.queue.is_some(), "queue"),
            (self.stream.is_some(), "stream"),
            (self.every_minute.is_some(), "every-minute"),
            (self.logs.is_some(), "logs"),
        ];
        said.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
    }

    /// How long it may take, in seconds, if that is not what all may.
    pub fn own_timeout(&self) -> Option<u32> {
        let by_trigger = match self.triggers().first() {
            Some(&"queue") => Some(60),
            Some(&"every-minute") => Some(50),
            _ => None,
        };
        self.timeout.or(by_trigger)
    }
}
