//! Where a stack's sink runs: inside the process that owns an attached stack, or as a process beside a detached one.

use super::{Client, Secrets, Server, now_ms};
use crate::engine::{self, Engine};
use crate::error::{AtPath, Error};
use crate::{Result, files};
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long a sink may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a sink may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a detached sink checks whether its engine is there.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many checks in a row must find the engine gone.
const GONE_LOOKS: u32 = 3;

/// A listener on a free port of this address, and its URL on this machine.
async fn listen(address: Ipv4Addr) -> Result<(TcpListener, String)> {
    let failed = |source| Error::Io { what: "opening a port for the sink".to_owned(), source };
    let listener = TcpListener::bind((address, 0)).await.map_err(failed)?;
    let url = format!("http://127.0.0.1:{}", listener.local_addr().map_err(failed)?.port());
    Ok((listener, url))
}

fn nonce() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// A sink that ends with its owner.
#[derive(Debug)]
pub struct Attached {
    url: String,
    task: JoinHandle<()>,
}

impl Attached {
    /// Starts one on the runtime of the caller.
    pub async fn start(secrets: Secrets) -> Result<Self> {
        let (listener, url) = listen(Ipv4Addr::LOCALHOST).await?;
        let task = tokio::spawn(Server::new(secrets, nonce()).serve(listener));
        Ok(Self { url, task })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A sink in a process of its own, as `sink.json` remembers it. It ends on request, or when its engine is gone; its
/// log, `sink.log`, states which.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Detached {
    url: String,
    nonce: String,
}

impl Detached {
    fn path(dir: &Path) -> PathBuf {
        dir.join("sink.json")
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The sink of the stack in `dir`, if it answers under its name.
    async fn running(dir: &Path) -> Result<Option<Self>> {
        let known = match files::read_json::<Self>(&Self::path(dir)) {
            Ok(Some(known)) => known,
            // A sink whose name is lost cannot be found. It ends with its engine.
            Ok(None) | Err(Error::Damaged(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok((Client::new(&known.url).nonce().await.as_ref() == Some(&known.nonce)).then_some(known))
    }

    /// The sink of the stack in `dir`, started from this program if it does not run.
    pub async fn start(dir: &Path) -> Result<Self> {
        if let Some(running) = Self::running(dir).await? {
            return Ok(running);
        }
        files::remove(&Self::path(dir))?;
        let log_path = dir.join("sink.log");
        // The last messages of the previous one stay.
        let log = OpenOptions::new().create(true).append(true).open(&log_path).at("opening", &log_path)?;
        let log_too = log.try_clone().at("opening", &log_path)?;
        let this = std::env::current_exe().at("finding", Path::new("this program"))?;
        let mut child = Command::new(&this)
            .args(["sink", "--target-dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .at("starting the sink with", &this)?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(running) = Self::running(dir).await? {
                return Ok(running);
            }
            let ended = child.try_wait().at("waiting for", &this)?.is_some();
            if ended || Instant::now() > deadline {
                let (line, path) = (files::telling_line(&files::tail(&log_path, 20)), log_path.display());
                return Err(Error::Engine(format!("the sink did not start: {line}; its log is {path}")));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Runs as the sink of the stack in `dir`, until it is ended or its engine is gone.
    pub async fn be(dir: &Path) -> Result<()> {
        // Of its own session: a Ctrl-C in the terminal that started it is not meant for it.
        if let Err(error) = rustix::process::setsid() {
            say(&format!("it stays in its caller's session: {error}"));
        }
        let mut signals = Signals::taken()?;
        let engine = Engine::remembered(dir)?
            .ok_or_else(|| Error::Usage(format!("a sink runs beside an engine, and {} has none", dir.display())))?;
        // Containers come from another address than this machine's own.
        let address = if engine.in_docker() { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        let (listener, url) = listen(address).await?;
        let me = Self { url, nonce: nonce() };
        let server = Server::new(Secrets::open(dir)?, me.nonce.clone());
        files::write_json(&Self::path(dir), &me)?;
        say(&format!("it is at {}, beside {engine} of {}", me.url, dir.display()));
        let mut watch = Watch { dir, engine, gone: 0 };
        let why = tokio::select! {
            () = Arc::clone(&server).serve(listener) => "it was told to, over HTTP".to_owned(),
            name = signals.next() => format!("it was told to, by {name}"),
            why = watch.until_gone(&server) => why,
        };
        say(&format!("it ends: {why}"));
        Ok(())
    }

    /// Ends the sink of the stack in `dir`, if there is one.
    pub async fn stop(dir: &Path) -> Result<()> {
        if let Some(running) = Self::running(dir).await? {
            let client = Client::new(&running.url);
            let deadline = Instant::now() + STOP_DEADLINE;
            let ended = client.end(&running.nonce).await;
            // It may have ended before its answer was out: what counts is whether it is gone.
            while client.nonce().await.as_ref() == Some(&running.nonce) {
                if Instant::now() > deadline {
                    let url = &running.url;
                    return Err(ended
                        .err()
                        .unwrap_or_else(|| Error::Engine(format!("the sink at {url} does not end"))));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        files::remove(&Self::path(dir))
    }
}

/// A line in the sink's log.
fn say(what: &str) {
    let now = OffsetDateTime::from_unix_timestamp(now_ms() / 1_000).ok();
    let now = now.and_then(|now| now.format(&Rfc3339).ok()).unwrap_or_default();
    // Where the log cannot be written the line is lost, which is no reason to end.
    writeln!(std::io::stderr(), "{now} sink: {what}").ok();
}

/// The signals that would end it without a log line.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn taken() -> Result<Self> {
        let take = |kind| signal(kind).at("listening for signals of", Path::new("this process"));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            hang_up: take(SignalKind::hangup())?,
        })
    }

    /// The next one's name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
        }
    }
}

/// Checks whether the sink's engine is there.
struct Watch<'a> {
    dir: &'a Path,
    engine: Engine,
    /// How many checks in a row found it gone.
    gone: u32,
}

impl Watch<'_> {
    /// Waits until it is gone for good, and returns why. The number of checks can be read from the server.
    async fn until_gone(&mut self, server: &Server) -> String {
        loop {
            sleep(POLL_INTERVAL).await;
            let gone = self.look().await;
            server.looks.fetch_add(1, Ordering::Relaxed);
            self.gone = if gone.is_some() { self.gone + 1 } else { 0 };
            if let Some(why) = gone.filter(|_| self.gone == GONE_LOOKS) {
                return why;
            }
        }
    }

    /// One check: why there is no engine to run beside, if so. Whether it answers does not count: it may be stopped or
    /// overloaded, and goes on later. Nor does a check that failed.
    async fn look(&self) -> Option<String> {
        let (dir, mine) = (self.dir.display(), &self.engine);
        match Engine::remembered(self.dir) {
            Ok(None) => return Some(format!("no engine is up in {dir} any more")),
            Ok(Some(other)) if other.nonce != mine.nonce => {
                return Some(format!("{dir} has another engine now, {other} instead of {mine}"));
            }
            // Half-written, or unreadable at the moment.
            Ok(Some(_)) | Err(_) => {}
        }
        match mine.is_there().await {
            Ok(false) => Some(format!("{mine} is gone; see {}", engine::log_path(self.dir).display())),
            Ok(true) | Err(_) => None,
        }
    }
}
