//! The hand-written description of a context's stack, `functions/<context>/stack.yaml`. Everything else is derived.

use indexmap::IndexMap;
use serde::Deserialize;

/// A context's stack.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fragment {
    /// The context's table: the indexes it has beside `pk` and `sk`, each with its hash (a text) and range (a number).
    pub table: IndexMap<String, (String, String)>,
    /// Whether it publishes events: an index of the unpublished ones, a relay, a sweep and their alarms.
    #[serde(default)]
    pub outbox: bool,
    /// The name of the alarm on the relay's lag, if not `relay-<context>-lag`.
    pub relay_lag: Option<String>,
    /// Its state machines. `infra/statemachines/<name>.asl.json` is the definition.
    #[serde(default)]
    pub sagas: IndexMap<String, Saga>,
    /// Queues without a consumer, each with the text of its alarm.
    #[serde(default)]
    pub parked: IndexMap<String, String>,
    /// Alarms on the age of something that does not end.
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
    /// The text of the alarm on failed executions.
    pub failed: String,
    /// The text of the alarm on executions that took too long.
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
    /// The text of the alarm.
    pub because: String,
}

/// A function: what starts it, what it may do, and its own settings.
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
    /// A schedule, every minute. The text is that of its alarm when it fails.
    pub every_minute: Option<String>,
    /// Lines of functions' logs.
    pub logs: Option<Logs>,

    // For a queue.
    /// The events that come into the queue: types, or prefixes of types (`payment.*`). Without them, functions send to
    /// it.
    pub of: Vec<String>,
    /// Whether messages of a group keep their order.
    pub fifo: bool,
    /// How many messages it takes at a time, 10 by default.
    pub batch: Option<u32>,
    /// How many instances of it may run at once.
    pub at_once: Option<u32>,
    /// Whether it sends messages back into its queue, with a delay.
    pub postpones: bool,
    /// The condition under which it receives events.
    pub when: Option<String>,
    /// Whether it receives the system's alarms, too.
    pub alarms: bool,
    /// When the on-call is paged because messages wait.
    pub late: Option<Late>,

    // For a schedule.
    /// The section of the runbook that its alarm names, `recoveries` by default.
    pub see: Option<String>,
    /// Whether its alarm waits for five minutes of failures instead of one.
    pub patient: bool,

    // What it may do.
    /// Calls on the context's table.
    pub table: Vec<String>,
    /// Calls on indexes of the table.
    pub index: IndexMap<String, Vec<String>>,
    /// Whether it takes users' tokens.
    pub users: bool,
    /// Whether it puts events on the bus itself; other functions leave that to the outbox.
    pub says: bool,
    /// The queue that it sends to.
    pub sends: Option<String>,
    /// The functions that it calls.
    pub asks: OneOrMore,
    /// The state machines that it starts.
    pub starts: Vec<String>,
    /// The state machines whose executions it describes.
    pub looks_at: Vec<String>,
    /// The providers that it calls: the name of the secret of each, and the parameter with its URL.
    pub outside: IndexMap<String, String>,
    /// Whether it checks every queue that should be empty.
    pub watches_dead_letters: bool,

    // Its own settings.
    /// Settings that are parameters of the stack.
    pub settings: IndexMap<String, String>,
    /// Whether a new version gets a tenth of its calls first.
    pub canary: bool,
    /// Whether concurrency is reserved for it: `true` is the stage's share, a number is that many in production.
    pub reserved: Reserved,
    /// Its time-out in seconds: 10 by default, 60 for a queue, 50 for a schedule.
    pub timeout: Option<u32>,
    /// In MB, 256 by default.
    pub memory: Option<u32>,
}

/// When the on-call is paged because messages wait.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Late {
    /// The age from which on, in seconds.
    pub after: u32,
    /// The text of the alarm.
    pub because: String,
}

/// The changes of a table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Stream {
    /// The context that owns the table.
    pub of: String,
    /// The `kind` of the items.
    pub kind: String,
    /// How many changes at a time.
    pub batch: u32,
    /// The name of the alarm on its lag.
    pub lag: String,
    pub because: String,
    /// The section of the runbook that the alarm names.
    pub see: String,
    /// The queue for batches that could not be handled: `<name>-dead-letters`.
    pub dead_letters: String,
}

/// Lines of functions' logs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Logs {
    pub of: Vec<String>,
    /// What the lines hold.
    pub with: String,
    /// The queue for lines that could not be handled: `<name>-dead-letters`.
    pub dead_letters: String,
    /// The text of the alarm on them.
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

/// Concurrency that is reserved for a function, and limits it.
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
    /// What starts it, as keys of the fragment. Exactly one is right.
    pub fn triggers(&self) -> Vec<&'static str> {
        let given = [
            (self.http, "http"),
            (!self.step.names().is_empty(), "step"),
            (self.asked, "asked"),
            (self.queue.is_some(), "queue"),
            (self.stream.is_some(), "stream"),
            (self.every_minute.is_some(), "every-minute"),
            (self.logs.is_some(), "logs"),
        ];
        given.into_iter().filter(|(is, _)| *is).map(|(_, name)| name).collect()
    }

    /// Its time-out in seconds, if it is not the common one.
    pub fn own_timeout(&self) -> Option<u32> {
        let by_trigger = match self.triggers().first() {
            Some(&"queue") => Some(60),
            Some(&"every-minute") => Some(50),
            _ => None,
        };
        self.timeout.or(by_trigger)
    }
}
