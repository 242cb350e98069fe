//! Where a stack's sink runs: inside the process that owns an attached stack, or as a process beside a detached one.

use super::{Client, Secrets, Server};
use crate::engine::Engine;
use crate::error::{AtPath, Error};
use crate::{Result, files};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long a sink may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// How long a sink may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How often a detached sink looks whether its engine still runs.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A port of its own at this address, and how this machine calls it.
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

/// A sink in a process of its own, as `sink.json` remembers it. It ends when it is told to, or when the engine beside
/// it is gone.
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
        let Some(known) = files::read_json::<Self>(&Self::path(dir))? else { return Ok(None) };
        Ok((Client::new(&known.url).nonce().await.as_ref() == Some(&known.nonce)).then_some(known))
    }

    /// The sink of the stack in `dir`, started if it does not run. This program is asked to be it.
    pub async fn start(dir: &Path) -> Result<Self> {
        if let Some(running) = Self::running(dir).await? {
            return Ok(running);
        }
        files::remove(&Self::path(dir))?;
        let log_path = dir.join("sink.log");
        let log = File::create(&log_path).at("creating", &log_path)?;
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
                return Err(Error::Engine(format!("the sink did not start:\n{}", files::tail(&log_path, 20))));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Is the sink of the stack in `dir`, until told to end or its engine is gone.
    pub async fn be(dir: &Path) -> Result<()> {
        // Of its own session: a Ctrl-C in the terminal that started it is not meant for it.
        if let Err(error) = rustix::process::setsid() {
            eprintln!("sink: it stays in its caller's session: {error}");
        }
        // Containers come from another address than this machine's own.
        let in_docker = Engine::remembered(dir)?.is_some_and(|engine| engine.in_docker());
        let (listener, url) = listen(if in_docker { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST }).await?;
        let me = Self { url, nonce: nonce() };
        let server = Server::new(Secrets::open(dir)?, me.nonce.clone());
        files::write_json(&Self::path(dir), &me)?;
        tokio::select! {
            () = server.serve(listener) => {}
            () = without_engine(dir) => {}
        }
        Ok(())
    }

    /// Ends the sink of the stack in `dir`, if there is one.
    pub async fn stop(dir: &Path) -> Result<()> {
        if let Some(running) = Self::running(dir).await? {
            let client = Client::new(&running.url);
            let deadline = Instant::now() + STOP_DEADLINE;
            let told = client.end(&running.nonce).await;
            // It may have ended before its answer was out: whether it is gone is what counts.
            while client.nonce().await.as_ref() == Some(&running.nonce) {
                if Instant::now() > deadline {
                    let url = &running.url;
                    return Err(told.err().unwrap_or_else(|| Error::Engine(format!("the sink at {url} does not end"))));
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        files::remove(&Self::path(dir))
    }
}

/// Waits until no engine runs in `dir` any more.
async fn without_engine(dir: &Path) {
    loop {
        sleep(LOOK_EVERY).await;
        match Engine::remembered(dir) {
            Ok(Some(engine)) if engine.answers().await => {}
            // Once more, for an engine that was too busy to answer.
            Ok(Some(engine)) if engine.answers().await => {}
            _ => return,
        }
    }
}
