//! The generator's output for a small project, file by file, and its mistakes for one that is wrong.
//!
//! After an intended change: `GOLDEN=write cargo test -p stacks --test golden`, and read the difference.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The sources: two contexts with every key that a fragment can have.
const SOURCES: [(&str, &str); 12] = [
    ("functions/box-office/stack.yaml", include_str!("project/box-office.stack.yaml")),
    ("functions/box-office/openapi.yaml", include_str!("project/box-office.openapi.yaml")),
    ("functions/box-office/src/main.rs", include_str!("project/box-office.main.txt")),
    ("functions/box-office/src/handlers.rs", include_str!("project/box-office.handlers.txt")),
    ("functions/audience/stack.yaml", include_str!("project/audience.stack.yaml")),
    ("functions/audience/src/main.rs", include_str!("project/audience.main.txt")),
    ("functions/audience/src/handlers.rs", include_str!("project/audience.handlers.txt")),
    ("functions/contracts/openapi.yaml", include_str!("project/base.openapi.yaml")),
    ("functions/contracts/events/ticket.sold.v1.json", r#"{"properties": {"source": {"const": "encore/box-office"}}}"#),
    ("functions/contracts/events/seat.lost.v1.json", r#"{"properties": {"source": {"const": "encore/usher"}}}"#),
    ("functions/contracts/events/fault.detected.v1.json", r#"{"properties": {"source": {"type": "string"}}}"#),
    ("infra/statemachines/sell-saga.asl.json", r#"{"States": ["${Book}", "${ParkedPaymentsQueue}"]}"#),
];

/// A project of its own, which is removed when it is dropped.
struct Project(PathBuf);

impl Project {
    /// A project with one place of one file changed.
    fn new(file: &str, part: &str, broken: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("stacks-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(unique);
        for (path, text) in SOURCES {
            let to = root.join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let edited = if path == file { text.replacen(part, broken, 1) } else { text.to_owned() };
            assert!(path != file || part.is_empty() || edited != text, "{path} has no {part}");
            fs::write(to, edited).unwrap();
        }
        Self(root)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn every_key_of_a_fragment_makes_the_expected_output() {
    let project = Project::new("", "", "");
    let made = stacks::make(&project.0).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"));
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut differing = Vec::new();
    for (path, text) in made {
        let golden = golden.join(Path::new(&path).file_name().unwrap());
        if std::env::var_os("GOLDEN").is_some() {
            fs::write(&golden, &text).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != text {
            differing.push(golden.display().to_string());
        }
    }
    assert!(differing.is_empty(), "other than before, see the head of this file: {differing:#?}");
}

const OFFICE: &str = "functions/box-office/stack.yaml";
const AUDIENCE: &str = "functions/audience/stack.yaml";

/// What may be wrong: the file, what it has, what replaces that, and the mistake.
const WRONG: &[(&str, &str, &str, &str)] = &[
    (OFFICE, "canary: true", "canery: true", "functions/box-office/stack.yaml:16: canery: unknown field `canery`"),
    (OFFICE, "outbox: true", "outbux: true", "functions/box-office/stack.yaml:4: outbux: unknown field `outbux`"),
    (
        OFFICE,
        "  book:",
        "  boook:",
        "functions/box-office/stack.yaml:20: boook: no handler of functions/box-office/src/main.rs",
    ),
    (OFFICE, "after: 60,", "after: soon,", "functions/box-office/stack.yaml:23: after: invalid type"),
    (OFFICE, "of: [ticket.sold]", "of: [ticket.sould]", "print-ticket: no event ticket.sould is ever said"),
    (OFFICE, "of: [ticket.sold]", "of: [seat.lost]", "print-ticket: no event seat.lost is ever said"),
    (OFFICE, "table: [PutItem]", "table: [PutItem, Scan]", "sell: its code does not make the call dynamodb:Scan"),
    (OFFICE, "table: [PutItem]", "table: []", "sell: its code makes the call dynamodb:PutItem, which it may not"),
    (OFFICE, "index: { due: [Query] }", "index: { dew: [Query] }", "sweep: the table has no index dew"),
    (OFFICE, "asks: quote", "asks: quoth", "sell: there is no function quoth"),
    (OFFICE, "starts: [sell-saga]", "starts: [cell-saga]", "sell: box-office has no saga cell-saga"),
    (OFFICE, "step: sell-saga", "asked: true", "sell-saga.asl.json calls ${Book}"),
    (OFFICE, "asked: true", "http: true", "quote: functions/box-office/openapi.yaml has no operation"),
    (OFFICE, "asked: true", "asked: true, queue: x", "quote: asked and queue start it: keep one"),
    (OFFICE, "{ asked: true,", "{", "quote: nothing starts it"),
    (OFFICE, "TOKENS: QueueTokenKeys", "TOKENS: Keys", "sell: there is no parameter Keys"),
    (OFFICE, "parked-payments: Nobody", "parked-sales: Nobody", "no context has parked-payments under parked"),
    (OFFICE, "batch: 50", "fifo: true", "print-ticket: events come into no FIFO queue"),
    (OFFICE, "batch: 50", "batch: 0", "print-ticket: batch: 0 is out of 1 to 10000"),
    (OFFICE, "at-once: 5", "at-once: 1", "print-ticket: at-once: 1 is out of 2 to 1000"),
    (OFFICE, "at-once: 5", "at-once: 5, reserved: true", "print-ticket: what is reserved says how many run at once"),
    (OFFICE, "at-once: 5", "reserved: 5", "print-ticket: of a queue's function the stage's share is reserved"),
    (OFFICE, "timeout: 20", "timeout: 60", "sell: timeout: 60 is out of 1 to 29"),
    (OFFICE, "reserved: 100", "reserved: 0", "sell: reserved: 0 is out of 1 to 1000"),
    (OFFICE, "memory: 512", "memory: 64", "quote: memory: 64 is out of 128 to 10240"),
    (OFFICE, "asked: true, memory", "asked: true, users: true, memory", "quote: only what HTTP starts has users"),
    (OFFICE, "TOKENS: QueueTokenKeys", "TABLE: QueueTokenKeys", "sell: TABLE is no setting of one's own"),
    (OFFICE, "of: [ticket.sold]", "of: ['*']", "print-ticket: nobody hears everything"),
    (OFFICE, "queue: printing", "queue: Print_Shop", "`Print_Shop` is no name"),
    (
        OFFICE,
        "queue: printing",
        "queue: a-very-long-name-for-a-queue-in-which-tickets",
        "print-ticket: a-very-long-name",
    ),
    (OFFICE, "due: [due_shard, due_at]", "due: [due_at, due_at]", "table: due_at or due_at is a text here"),
    (AUDIENCE, "of: [hand-out], with", "of: [], with", "listen: say each function whose log it reads"),
    (AUDIENCE, "with: applause", "with: a-b", "listen: one word that the lines hold"),
    (AUDIENCE, "notion: NotionUrl", "notion: LogLevel", "hand-out: LogLevel is no URL of notion"),
    (
        "functions/box-office/openapi.yaml",
        "  /tickets/{ticket_id}:",
        "  /tickets/{id}/copy:\n    get:\n      operationId: look-up\n  /tickets/{ticket_id}:",
        "{ticket_id} is called {id} elsewhere below /tickets/",
    ),
    (
        AUDIENCE,
        "queue: programmes",
        "queue: printing",
        "print-ticket: the queue printing is of functions/audience/stack.yaml",
    ),
    (AUDIENCE, "when: HasNotion", "when: HasPigeons", "hand-out: there is no condition HasPigeons"),
    (AUDIENCE, "lag: count-lag", "lag: retries", "the alarm retries is of infra/generator/shapes/platform.yaml"),
    (AUDIENCE, "of: box-office", "of: cloakroom", "count: there is no context cloakroom"),
    (
        "functions/box-office/openapi.yaml",
        "operationId: sell",
        "operationId: cell",
        "POST /tickets: operationId `cell` is no function",
    ),
    ("functions/audience/src/main.rs", "boot.stream", "boot.step", "count: main.rs serves it by boot.step"),
    ("functions/audience/src/main.rs", "boot.stream", "serve", "functions/audience/src/main.rs: -: cannot be read"),
    (
        "functions/audience/src/handlers.rs",
        "pub async fn count()",
        "pub async fn count(",
        "functions: the program cannot be read",
    ),
    (
        "functions/audience/src/handlers.rs",
        "fn count()",
        "fn tally()",
        "count: main.rs serves it by handlers::count, which is no function",
    ),
    (
        "functions/contracts/events/ticket.sold.v1.json",
        "{",
        "[",
        "functions/contracts/events/ticket.sold.v1.json: -: cannot be read",
    ),
    ("infra/statemachines/sell-saga.asl.json", "{", "[", "infra/statemachines/sell-saga.asl.json: -: cannot be read"),
];

#[test]
fn a_mistake_is_one_line_that_names_file_key_and_what_to_do() {
    for &(file, part, broken, expected) in WRONG {
        let project = Project::new(file, part, broken);
        let lines: Vec<String> = stacks::make(&project.0).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(lines.iter().any(|line| line.contains(expected)), "{broken}: {lines:#?}");
        assert!(lines.iter().all(|line| !line.contains('\n')), "{lines:#?}");
    }
}

#[test]
fn a_stream_has_two_readers_at_most() {
    let one_more = "  count-again:\n    { stream: { of: box-office, kind: seat, batch: 1, lag: x, because: y, see: z, dead-letters: d }, table: [] }\n";
    let project = Project::new("functions/audience/stack.yaml", "functions:\n", &format!("functions:\n{one_more}"));
    let mistakes = stacks::make(&project.0).unwrap_err();
    assert!(mistakes.iter().any(|mistake| mistake.what.contains("has 2 readers already")), "{mistakes:#?}");
}
