//! The engine's process: starting it, knowing it again, ending it.

use crate::error::{AtPath, Error};
use crate::http::Client;
use crate::info::EngineKind;
use crate::python::Requirements;
use crate::{Progress, Result, docker, files};
use ::http::Method;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the engine may take to answer. It needs a second; a machine busy with a build needs more.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long the engine may take to end before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// Attempts with another free port when the chosen one was taken meanwhile.
const PORT_ATTEMPTS: u32 = 5;

impl EngineKind {
    /// What it is installed from.
    pub fn requirements(self) -> Requirements {
        let dir = files::workspace().join("localstack");
        match self {
            Self::Ministack => Requirements { file: dir.join("requirements.txt"), oldest: (3, 11), before: None },
            Self::Localstack => {
                let file = dir.join("requirements-localstack.txt");
                // 4.14.0 does not load on 3.12 (`Lock | None`), and is not released for 3.14.
                Requirements { file, oldest: (3, 13), before: Some((3, 14)) }
            }
        }
    }

    fn launcher(self) -> PathBuf {
        files::workspace().join("localstack").join(format!("{self}_launcher.py"))
    }
}

/// How to start an engine.
pub struct Start<'a> {
    /// Which one.
    pub kind: EngineKind,
    /// The interpreter of its virtual environment.
    pub python: &'a Path,
    /// This crate's program, which serves an engine's database where it has none of its own.
    pub program: &'a Path,
    /// The stack's directory.
    pub dir: &'a Path,
    /// The port, or any free one.
    pub port: Option<u16>,
    /// It ends with this process.
    pub attached: bool,
    /// Directories that it removes when it ends.
    pub remove: &'a [PathBuf],
}

/// As what an engine runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RunsAs {
    /// A process.
    Pid(u32),
    /// A project of Docker Compose.
    Project(String),
}

/// A started engine, as `engine.json` remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    /// Which one.
    #[serde(default)]
    pub kind: EngineKind,
    /// As what it runs.
    #[serde(flatten)]
    runs_as: RunsAs,
    /// What it answers when asked who it is.
    pub nonce: String,
    /// Its port.
    pub port: u16,
}

impl Engine {
    fn path(dir: &Path) -> PathBuf {
        dir.join("engine.json")
    }

    /// Where AWS clients go.
    pub fn endpoint_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its process, unless it is in Docker.
    pub fn pid(&self) -> Option<u32> {
        match self.runs_as {
            RunsAs::Pid(pid) => Some(pid),
            RunsAs::Project(_) => None,
        }
    }

    /// Whether it, and its functions, are containers.
    pub fn in_docker(&self) -> bool {
        matches!(self.runs_as, RunsAs::Project(_))
    }

    /// Where functions find what this machine has at `url`.
    pub fn seen_by_functions(&self, url: &str) -> String {
        if self.in_docker() { url.replace("//127.0.0.1:", "//host.docker.internal:") } else { url.to_owned() }
    }

    /// The engine last started in `dir`, whether or not it still runs.
    pub fn remembered(dir: &Path) -> Result<Option<Self>> {
        files::read_json(&Self::path(dir))
    }

    /// Forgets an engine that has ended and removes what it kept. Functions that outlived it, because it was killed,
    /// are ended: they run from its directory.
    pub fn forget(dir: &Path) -> Result<()> {
        let temp = temp_dir(dir);
        for pid in processes_under(&temp) {
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(other) => {
                    return Err(Error::Engine(format!("a function, process {pid:?}, cannot be ended: {other}")));
                }
            }
        }
        files::remove(&temp)?;
        files::remove(&Self::path(dir))
    }

    /// Whether this engine answers under its name.
    pub async fn answers(&self) -> bool {
        let client = Client::new().with_timeout(Duration::from_secs(5));
        let url = format!("{}/_encore/engine", self.endpoint_url());
        match client.send(Method::GET, &url, &[], "").await {
            Ok(answer) => answer.json().get("nonce").and_then(Value::as_str) == Some(&self.nonce),
            Err(_) => false,
        }
    }

    /// Starts LocalStack in Docker and waits until it answers. When that fails, nothing stays behind.
    pub async fn start_in_docker(dir: &Path, stack: &str, port: Option<u16>, progress: &Progress) -> Result<Self> {
        progress("starting localstack in Docker; the first time, its image is fetched");
        let project = docker::project(stack, dir);
        let port = port.map_or_else(free_port, Ok)?;
        let runs_as = RunsAs::Project(project.clone());
        let engine = Self { kind: EngineKind::Localstack, runs_as, nonce: fresh_nonce(), port };
        // Before it is there, so that an interrupted start leaves something to stop.
        files::write_json(&Self::path(dir), &engine)?;
        let started = match docker::up(&project, port, &engine.nonce).await {
            Ok(()) if engine.answers().await => return Ok(engine),
            Ok(()) => Error::Engine(format!("Docker has it up, but it does not answer at {}", engine.endpoint_url())),
            Err(error) => error,
        };
        // Where this fails, too, there is no Docker that could have anything of it.
        docker::down(&project).await.ok();
        Self::forget(dir)?;
        Err(started)
    }

    /// Starts an engine as a process and waits until it answers.
    pub async fn start(options: &Start<'_>, progress: &Progress) -> Result<(Self, Child)> {
        progress(&format!("starting {}", options.kind));
        let mut attempt = 1;
        loop {
            let port = match options.port {
                Some(port) => port,
                None => free_port()?,
            };
            match Self::start_at(port, options).await? {
                Ok(started) => return Ok(started),
                Err(log) => {
                    let taken = log.contains("address already in use") || log.contains("Address already in use");
                    if taken && options.port.is_some() {
                        return Err(Error::Usage(format!("the port {port} is taken by another program")));
                    }
                    if !taken || attempt == PORT_ATTEMPTS {
                        return Err(Error::Engine(format!("the engine ended at once:\n{log}")));
                    }
                    attempt += 1;
                }
            }
        }
    }

    /// One attempt. The inner error is the log of an engine that ended before it answered.
    async fn start_at(port: u16, options: &Start<'_>) -> Result<std::result::Result<(Self, Child), String>> {
        let dir = options.dir;
        let temp = temp_dir(dir);
        files::remove(&temp)?;
        fs::create_dir_all(&temp).at("creating", &temp)?;
        let log_path = log_path(dir);
        let log = File::create(&log_path).at("creating", &log_path)?;
        let log_too = log.try_clone().at("opening", &log_path)?;
        let nonce = fresh_nonce();
        let endpoint = format!("http://127.0.0.1:{port}");

        let mut command = Command::new(options.python);
        command
            .arg(options.kind.launcher())
            .args(["--port", &port.to_string(), "--nonce", &nonce])
            .stdout(log)
            .stderr(log_too)
            .current_dir(dir)
            // Functions inherit the engine's environment: nothing of the developer's belongs there, least of all
            // credentials and profiles of a real account.
            .env_clear()
            .env("TMPDIR", &temp)
            .env("AWS_ENDPOINT_URL", &endpoint)
            .env("AWS_REGION", crate::REGION)
            .env("AWS_DEFAULT_REGION", crate::REGION)
            .env("MINISTACK_REGION", crate::REGION)
            .env("LANG", "C.UTF-8")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("LOG_LEVEL", std::env::var("ENCORE_ENGINE_LOG_LEVEL").unwrap_or_else(|_| "WARNING".to_owned()));
        for name in ["PATH", "HOME", "ENCORE_FUNCTION_CONCURRENCY", "RUST_BACKTRACE"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if options.attached {
            command.arg("--attached").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        if options.kind == EngineKind::Localstack {
            command.arg("--database").arg(options.program);
        }
        command.arg("--remove").arg(&temp);
        for path in options.remove {
            command.arg("--remove").arg(path);
        }
        let mut child = command.spawn().at("starting the engine with", options.python)?;
        let engine = Self { kind: options.kind, runs_as: RunsAs::Pid(child.id()), nonce, port };
        // Before it answers, so that an interrupted start leaves something to stop.
        files::write_json(&Self::path(dir), &engine)?;

        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if child.try_wait().at("waiting for", options.python)?.is_some() {
                return Ok(Err(files::tail(&log_path, 20)));
            }
            if engine.answers().await {
                return Ok(Ok((engine, child)));
            }
            if Instant::now() > deadline {
                child.kill().at("stopping", options.python)?;
                child.wait().at("stopping", options.python)?;
                return Err(Error::Engine(format!(
                    "the engine did not answer within {} s:\n{}",
                    START_DEADLINE.as_secs(),
                    files::tail(&log_path, 20)
                )));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Ends the engine and, by that, its functions. Says whether there was anything to end.
    pub async fn stop(&self) -> Result<bool> {
        let number = match &self.runs_as {
            RunsAs::Pid(number) => *number,
            RunsAs::Project(project) => return docker::down(project).await.map(|()| true),
        };
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else { return Ok(false) };
        // The number alone proves nothing: it may be another process's by now.
        if !(self.is_command_of(pid) || self.answers().await) {
            return Ok(false);
        }
        for (signal, patience) in [(Signal::TERM, STOP_DEADLINE), (Signal::KILL, STOP_DEADLINE)] {
            if let Err(error) = kill_process(pid, signal) {
                return match error {
                    rustix::io::Errno::SRCH => Ok(true),
                    other => Err(Error::Engine(format!("the engine, process {number}, cannot be ended: {other}"))),
                };
            }
            let deadline = Instant::now() + patience;
            while Instant::now() < deadline {
                if test_kill_process(pid).is_err() || !self.is_command_of(pid) {
                    return Ok(true);
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Err(Error::Engine(format!("the engine, process {number}, does not end")))
    }

    /// Whether the process was started with this engine's nonce.
    fn is_command_of(&self, pid: Pid) -> bool {
        commands().iter().any(|(other, command)| *other == pid && command.contains(&self.nonce))
    }
}

/// The processes whose program lies under a directory.
fn processes_under(dir: &Path) -> Vec<Pid> {
    let Some(start) = dir.to_str().map(|dir| format!("{dir}/")) else { return Vec::new() };
    commands().into_iter().filter(|(_, command)| command.starts_with(&start)).map(|(pid, _)| pid).collect()
}

/// Every process with its command line, as far as they can be seen.
fn commands() -> Vec<(Pid, String)> {
    let pid = |text: &str| text.parse().ok().and_then(Pid::from_raw);
    if let Ok(entries) = fs::read_dir("/proc") {
        let read = |entry: fs::DirEntry| {
            let pid = pid(entry.file_name().to_str()?)?;
            let line = fs::read(entry.path().join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        };
        return entries.filter_map(|entry| read(entry.ok()?)).collect();
    }
    // Where there is no /proc (macOS).
    let Ok(listed) = Command::new("ps").args(["-ax", "-ww", "-o", "pid=,command="]).output() else { return Vec::new() };
    String::from_utf8_lossy(&listed.stdout)
        .lines()
        .filter_map(|line| {
            let (number, command) = line.trim_start().split_once(' ')?;
            Some((pid(number)?, command.to_owned()))
        })
        .collect()
}

/// The engine's log.
pub fn log_path(dir: &Path) -> PathBuf {
    dir.join("engine.log")
}

fn temp_dir(dir: &Path) -> PathBuf {
    dir.join("tmp")
}

fn fresh_nonce() -> String {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}

/// A port that nobody listens on right now.
fn free_port() -> Result<u16> {
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|source| Error::Io { what: "finding a free port".to_owned(), source })
}
