//! What a cold start costs: each handler's release binary from spawn to its first `/next`, against a Runtime API of our
//! own, beside a bare `lambda_http` hello world in the same run.
//!
//!     cargo bench -p tests --bench cold_start
//!
//! CPU is read from the scheduler's account of the process (nanoseconds, Linux), memory from its resident set at that
//! moment. Clients are built for AWS over TLS, as in production. Targets: at most three times hello world, under 30 MB.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs};

const RUNS: usize = 31;
const CONTEXTS: [&str; 8] =
    ["waiting-room", "concerts", "reservations", "points", "payments", "items", "orders", "notifications"];

const QUEUE: &str = "https://sqs.us-east-1.amazonaws.com/000000000000/queue";
const PROVIDER: &str = "https://provider.example";

/// One start.
#[derive(Debug, Clone, Copy)]
struct Start {
    wall: Duration,
    cpu: Duration,
    resident_kb: u64,
}

fn main() {
    let bins = build();
    println!("median of {RUNS} starts; ratio is CPU against hello world\n");
    println!("{:<28} {:>9} {:>9} {:>7} {:>9} {:>9}", "handler", "wall ms", "CPU ms", "ratio", "MB", "binary MB");
    let hello = measure(&bins.join("hello-world"), "hello");
    let show = |name: &str, start: Start, binary: &Path| {
        let ratio = start.cpu.as_secs_f64() / hello.cpu.as_secs_f64();
        println!(
            "{name:<28} {:>9.2} {:>9.2} {ratio:>7.2} {:>9.1} {:>9.1}",
            start.wall.as_secs_f64() * 1e3,
            start.cpu.as_secs_f64() * 1e3,
            start.resident_kb as f64 / 1024.0,
            fs::metadata(binary).unwrap().len() as f64 / 1e6,
        );
        (ratio, start.resident_kb)
    };
    show("(hello world)", hello, &bins.join("hello-world"));
    let mut worst = (0.0_f64, 0);
    for context in CONTEXTS {
        let binary = bins.join(context);
        for handler in handlers(context) {
            let (ratio, resident) = show(&handler, measure(&binary, &handler), &binary);
            worst = (worst.0.max(ratio), worst.1.max(resident));
        }
    }
    println!("\nworst ratio {:.2} (target 3), largest {:.1} MB (target 30)", worst.0, worst.1 as f64 / 1024.0);
}

fn build() -> PathBuf {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--workspace", "--quiet", "--bin", "hello-world"])
        .args(CONTEXTS.iter().flat_map(|context| ["--bin", context]))
        .current_dir(tests::workspace("."))
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the release build failed");
    // target/release/deps/cold_start-... -> target/release
    env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// The handlers of a context: the arms of its main.
fn handlers(context: &str) -> Vec<String> {
    let main = fs::read_to_string(tests::workspace(&format!("functions/{context}/src/main.rs"))).unwrap();
    let arms = main.lines().filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"));
    arms.map(|(handler, _)| handler.to_owned()).collect()
}

fn measure(binary: &Path, handler: &str) -> Start {
    let mut starts: Vec<Start> = (0..RUNS).map(|_| start(binary, handler)).collect();
    let middle = RUNS / 2;
    let wall = *starts.select_nth_unstable_by_key(middle, |start| start.wall).1;
    let cpu = *starts.select_nth_unstable_by_key(middle, |start| start.cpu).1;
    let resident = *starts.select_nth_unstable_by_key(middle, |start| start.resident_kb).1;
    Start { wall: wall.wall, cpu: cpu.cpu, resident_kb: resident.resident_kb }
}

fn start(binary: &Path, handler: &str) -> Start {
    let runtime_api = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = Command::new(binary);
    command.env_clear().envs(environment(handler, &runtime_api.local_addr().unwrap().to_string()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let (asked, _) = runtime_api.accept().unwrap();
    let mut line = String::new();
    // Kept open: a function whose runtime hangs up, ends.
    let mut asked = BufReader::new(asked);
    asked.read_line(&mut line).unwrap();
    let wall = began.elapsed();
    assert!(line.contains("/runtime/invocation/next"), "{handler}: {line}");
    let (cpu, resident_kb) = (cpu_of(child.id()), resident_of(child.id()));
    child.kill().unwrap();
    child.wait().unwrap();
    Start { wall, cpu, resident_kb }
}

fn cpu_of(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let nanos = threads.map(|thread| {
        let account = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
        account.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanos.sum())
}

fn resident_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn environment(handler: &str, runtime_api: &str) -> BTreeMap<String, String> {
    let queue_keys = serde_json::json!({"current": "k", "keys": [{"kid": "k", "secret": "A".repeat(43)}]}).to_string();
    [
        ("AWS_LAMBDA_RUNTIME_API", runtime_api),
        ("AWS_LAMBDA_FUNCTION_NAME", handler),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("_HANDLER", handler),
        ("TABLE", "a-table-name"),
        ("USER_JWKS", tests::calls::jwks()),
        ("USER_TOKEN_ISSUER", "https://issuer.example"),
        ("QUEUE_TOKEN_KEYS", &queue_keys),
        ("EVENT_BUS", "bus"),
        ("PAYMENT_SAGA", "arn:aws:states:us-east-1:000000000000:stateMachine:payment-saga"),
        ("REFUND_SAGA", "arn:aws:states:us-east-1:000000000000:stateMachine:refund-saga"),
        ("QUEUE_URL_PREFIX", "https://sqs.us-east-1.amazonaws.com/000000000000/encore-"),
        ("DEAD_LETTER_QUEUES", "work-dead-letters"),
        ("DEAD_LETTERS", QUEUE),
        ("QUEUE", QUEUE),
        ("RESERVATION_REQUESTS", QUEUE),
        ("APPLY_ADMISSION_FUNCTION", "function"),
        ("CREDIT_CHARGE_FUNCTION", "function"),
        ("OPEN_SCHEDULE_FUNCTION", "function"),
        ("OPEN_WAITING_ROOM_FUNCTION", "function"),
        ("PAY_CHARGE_FUNCTION", "function"),
        ("QUOTE_ITEMS_FUNCTION", "function"),
        ("QUOTE_BALANCE_FUNCTION", "function"),
        ("QUOTE_REFUND_FUNCTION", "function"),
        ("QUOTE_RESERVATION_FUNCTION", "function"),
        ("ALIMTALK_URL", PROVIDER),
        ("CASH_RECEIPT_URL", PROVIDER),
        ("DATA_PLATFORM_URL", PROVIDER),
        ("NOTION_URL", PROVIDER),
        ("PARTNER_URL", PROVIDER),
        ("PAYMENT_PROVIDER_URL", PROVIDER),
        ("USER_DIRECTORY_URL", PROVIDER),
        ("ALIMTALK_SECRET", "/secret"),
        ("CASH_RECEIPT_SECRET", "/secret"),
        ("DATA_PLATFORM_SECRET", "/secret"),
        ("NOTION_SECRET", "/secret"),
        ("PARTNER_SECRET", "/secret"),
        ("PAYMENT_PROVIDER_SECRET", "/secret"),
        ("USER_DIRECTORY_SECRET", "/secret"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}
