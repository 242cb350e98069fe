//! The engine's process: starting, recognising and ending it.

pub mod database;
pub(crate) mod docker;
pub(crate) mod info;
pub(crate) mod python;

use crate::engine::info::EngineKind;
use crate::engine::python::Requirements;
use crate::error::{AtPath, Error};
use crate::http::{Answer, Client};
use crate::{Progress, Result, files};
use ::http::Method;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the engine may take to answer. It needs a second; a machine busy with a build needs more.
pub const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long the engine may take to end before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);
/// How long to wait for an engine that exists and does not answer.
const BUSY_DEADLINE: Duration = Duration::from_secs(30);
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
    pub kind: EngineKind,
    /// The interpreter of its virtual environment.
    pub python: &'a Path,
    /// This crate's program, which serves an engine's database where it has none of its own.
    pub program: &'a Path,
    pub dir: &'a Path,
    /// The port, or any free one.
    pub port: Option<u16>,
    /// It ends with this process.
    pub attached: bool,
    /// How long it may take to answer: [`START_DEADLINE`].
    pub deadline_in: Duration,
    /// Directories that it removes when it ends.
    pub remove: &'a [PathBuf],
}

/// How an engine runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RunsAs {
    /// A process.
    Pid(u32),
    /// A project of Docker Compose.
    Project(String),
}

/// How an attempt to start an engine ended.
enum Attempt {
    /// It answers.
    Up(Engine, Child),
    /// It ended before it answered, and left this log.
    Ended(String),
}

/// A started engine, as `engine.json` remembers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Engine {
    /// Which one.
    #[serde(default)]
    pub kind: EngineKind,
    /// How it runs.
    #[serde(flatten)]
    runs_as: RunsAs,
    /// What it answers when asked who it is.
    pub nonce: String,
    pub port: u16,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.runs_as {
            RunsAs::Pid(pid) => write!(f, "{}, process {pid},", self.kind),
            RunsAs::Project(project) => write!(f, "{}, in Docker as {project},", self.kind),
        }
    }
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

    /// The URL at which functions reach `url` of this machine.
    pub fn seen_by_functions(&self, url: &str) -> String {
        if self.in_docker() { url.replace("//127.0.0.1:", "//host.docker.internal:") } else { url.to_owned() }
    }

    /// The engine last started in `dir`, whether or not it still runs.
    pub fn remembered(dir: &Path) -> Result<Option<Self>> {
        files::read_json(&Self::path(dir)).map_err(|error| match error {
            Error::Damaged(_) => Error::Damaged(format!(
                "{} is damaged: end what there is of the stack, cargo local down --target-dir {}, and start again",
                Self::path(dir).display(),
                dir.display()
            )),
            other => other,
        })
    }

    /// Ends the process of the engine of `dir` when `engine.json` does not tell which it is: found by its arguments.
    /// Returns whether there was one.
    pub fn end_unremembered(dir: &Path) -> Result<bool> {
        let directory = format!(" --remove {} ", temp_dir(dir).display());
        let of_dir = |command: &str| {
            let command = format!("{} ", command.trim_end());
            command.contains("_launcher.py --port ") && command.contains(&directory)
        };
        let mut ended = false;
        for (pid, _) in commands().into_iter().filter(|(_, command)| of_dir(command)) {
            end(pid, "the engine")?;
            ended = true;
        }
        Ok(ended)
    }

    /// Forgets an engine that has ended and removes what it kept. Functions that outlived it, because it was killed,
    /// are ended: they run from its directory.
    pub fn forget(dir: &Path) -> Result<()> {
        let temp = temp_dir(dir);
        for pid in processes_under(&temp) {
            end(pid, "a function")?;
        }
        files::remove(&temp)?;
        files::remove(&Self::path(dir))
    }

    /// Whether this engine answers under its name.
    pub async fn answers(&self) -> bool {
        let answer = who_is_at(self.port).await;
        answer.is_some_and(|answer| answer.json().get("nonce").and_then(Value::as_str) == Some(&self.nonce))
    }

    /// Whether this engine exists, answering or not: a stopped or overloaded one does. An error means that this could
    /// not be determined.
    pub async fn is_there(&self) -> Result<bool> {
        match &self.runs_as {
            RunsAs::Pid(number) => pid_of(*number).map_or(Ok(false), |pid| self.is_command_of(pid)),
            RunsAs::Project(_) if self.answers().await => Ok(true),
            RunsAs::Project(project) => docker::is_up(project).await,
        }
    }

    /// The engine of the stack in `dir`, if there is one. It holds data, so one that does not answer is waited for,
    /// never taken for one that is gone.
    pub async fn running(dir: &Path) -> Result<Option<Self>> {
        Self::running_within(BUSY_DEADLINE, dir).await
    }

    async fn running_within(deadline_in: Duration, dir: &Path) -> Result<Option<Self>> {
        let Some(engine) = Self::remembered(dir)? else { return Ok(None) };
        let deadline = Instant::now() + deadline_in;
        while !engine.answers().await {
            if !engine.is_there().await? {
                return Ok(None);
            }
            if Instant::now() > deadline {
                return Err(Error::Engine(format!(
                    "{engine} is there and does not answer: wait until it has less to do, or end it and its data: \
                     cargo local down --target-dir {}",
                    dir.display()
                )));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(Some(engine))
    }

    /// Refuses a port that is in use by another process, before anything is built for an engine there.
    pub async fn check_port(dir: &Path, port: u16) -> Result<()> {
        match Self::remembered(dir)? {
            Some(engine) if engine.port == port && engine.is_there().await? => Ok(()),
            _ => port_that_is_free(port).await.map(drop),
        }
    }

    /// Starts LocalStack in Docker and waits until it answers. When that fails, nothing stays behind.
    pub async fn start_in_docker(dir: &Path, stack: &str, port: Option<u16>, progress: &Progress) -> Result<Self> {
        progress("starting localstack in Docker; the first time, its image is fetched");
        let project = docker::project(stack, dir);
        let port = match port {
            Some(port) => port_that_is_free(port).await?,
            None => free_port()?,
        };
        let runs_as = RunsAs::Project(project.clone());
        let engine = Self { kind: EngineKind::Localstack, runs_as, nonce: fresh_nonce(), port };
        // Before it is there, so that an interrupted start leaves something to stop.
        files::write_json(&Self::path(dir), &engine)?;
        let started = match docker::up(&project, port, &engine.nonce, &log_path(dir)).await {
            Ok(()) if engine.answers().await => return Ok(engine),
            Ok(()) => Error::Engine(format!(
                "Docker has localstack up, but it does not answer at {}: does anything else listen there?",
                engine.endpoint_url()
            )),
            Err(error) => error,
        };
        // If this fails too, there is no Docker, and so nothing of it to remove.
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
                Some(port) => port_that_is_free(port).await?,
                None => free_port()?,
            };
            let log = match Self::start_at(port, options).await? {
                Attempt::Up(engine, child) => return Ok((engine, child)),
                Attempt::Ended(log) => log,
            };
            // Another process was given the same free port.
            let taken = log.contains("address already in use") || log.contains("Address already in use");
            if !taken || attempt == PORT_ATTEMPTS {
                return Err(Error::Engine(format!("{} ended at once: {}", options.kind, options.what_to_do(&log))));
            }
            attempt += 1;
        }
    }

    /// One attempt.
    async fn start_at(port: u16, options: &Start<'_>) -> Result<Attempt> {
        let dir = options.dir;
        let temp = temp_dir(dir);
        files::remove(&temp)?;
        fs::create_dir_all(&temp).at("creating", &temp)?;
        let log_path = log_path(dir);
        let log = File::create(&log_path).at("creating", &log_path)?;
        let log_too = log.try_clone().at("opening", &log_path)?;
        let nonce = fresh_nonce();
        let mut command = options.command(port, &nonce, &temp);
        let mut child = command.stdout(log).stderr(log_too).spawn().at("starting the engine with", options.python)?;
        let engine = Self { kind: options.kind, runs_as: RunsAs::Pid(child.id()), nonce, port };
        // Before it answers, so that an interrupted start leaves something to stop.
        files::write_json(&Self::path(dir), &engine)?;

        let deadline = Instant::now() + options.deadline_in;
        loop {
            if child.try_wait().at("waiting for", options.python)?.is_some() {
                return Ok(Attempt::Ended(files::tail(&log_path, 200)));
            }
            if engine.answers().await {
                return Ok(Attempt::Up(engine, child));
            }
            if Instant::now() > deadline {
                child.kill().at("stopping", options.python)?;
                child.wait().at("stopping", options.python)?;
                return Err(Error::Engine(format!(
                    "{} does not answer after {} s, so it was ended; try again when this machine has less to do: {}",
                    options.kind,
                    options.deadline_in.as_secs(),
                    options.what_to_do(&files::tail(&log_path, 200))
                )));
            }
            sleep(Duration::from_millis(25)).await;
        }
    }

    /// Ends the engine and, by that, its functions. Returns whether there was anything to end.
    pub async fn stop(&self) -> Result<bool> {
        let number = match &self.runs_as {
            RunsAs::Pid(number) => *number,
            RunsAs::Project(project) => return docker::down(project).await.map(|()| true),
        };
        let Some(pid) = pid_of(number) else { return Ok(false) };
        // The number alone proves nothing: it may be another process's by now.
        if !self.is_command_of(pid)? {
            return Ok(false);
        }
        for (signal, deadline_in) in [(Signal::TERM, STOP_DEADLINE), (Signal::KILL, STOP_DEADLINE)] {
            if let Err(error) = kill_process(pid, signal) {
                return match error {
                    rustix::io::Errno::SRCH => Ok(true),
                    other => Err(Error::Engine(format!("the engine, process {number}, cannot be ended: {other}"))),
                };
            }
            let deadline = Instant::now() + deadline_in;
            while Instant::now() < deadline {
                if test_kill_process(pid).is_err() || !self.is_command_of(pid)? {
                    return Ok(true);
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Err(Error::Engine(format!("the engine, process {number}, does not end")))
    }

    /// Whether the process was started with this engine's nonce.
    fn is_command_of(&self, pid: Pid) -> Result<bool> {
        Ok(command_of(pid)?.is_some_and(|command| command.contains(&self.nonce)))
    }
}

impl Start<'_> {
    /// The command that starts it on a port, with its temporary files in `temp`.
    fn command(&self, port: u16, nonce: &str, temp: &Path) -> Command {
        let mut command = Command::new(self.python);
        command
            .arg(self.kind.launcher())
            .args(["--port", &port.to_string(), "--nonce", nonce])
            .current_dir(self.dir)
            // Functions inherit the engine's environment: nothing of the developer's belongs there, least of all
            // credentials and profiles of a real account.
            .env_clear()
            .env("TMPDIR", temp)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
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
        if self.attached {
            command.arg("--attached").stdin(Stdio::piped());
        } else {
            command.stdin(Stdio::null());
        }
        if self.kind == EngineKind::Localstack {
            command.arg("--database").arg(self.program);
        }
        command.arg("--remove").arg(temp);
        for path in self.remove {
            command.arg("--remove").arg(path);
        }
        command
    }

    /// What is known, from its log, of an engine that did not start, and what helps.
    fn what_to_do(&self, log: &str) -> String {
        let (line, path) = (files::telling_line(log), log_path(self.dir));
        let environment = self.python.ancestors().nth(2).unwrap_or(self.python).display();
        format!("{line}; its log is {}; to have it installed anew, remove {environment}", path.display())
    }
}

/// The answer of the engine at a port to the question which one it is.
async fn who_is_at(port: u16) -> Option<Answer> {
    let client = Client::new().with_timeout(Duration::from_secs(5));
    client.send(Method::GET, &format!("http://127.0.0.1:{port}/_encore/engine"), &[], "").await.ok()
}

fn pid_of(number: u32) -> Option<Pid> {
    i32::try_from(number).ok().and_then(Pid::from_raw)
}

/// The command line of a process, `None` when there is no such process. A zombie has an empty one.
fn command_of(pid: Pid) -> Result<Option<String>> {
    let number = pid.as_raw_nonzero();
    if Path::new("/proc/self/cmdline").exists() {
        let path = PathBuf::from(format!("/proc/{number}/cmdline"));
        return match fs::read(&path) {
            Ok(line) => Ok(Some(in_words(&line))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            // It ended between the opening and the reading.
            Err(error) if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => Err(Error::io("reading", &path, error)),
        };
    }
    // Where there is no /proc (macOS). No output means that there is no such process.
    let ps = Command::new("ps").args(["-ww", "-o", "command=", "-p", &number.to_string()]).output();
    let line = ps.at("asking", Path::new("ps"))?.stdout;
    Ok((!line.is_empty()).then(|| in_words(&line)))
}

/// A command line as text.
fn in_words(line: &[u8]) -> String {
    String::from_utf8_lossy(line).replace('\0', " ")
}

/// Kills a process.
fn end(pid: Pid, what: &str) -> Result<()> {
    match kill_process(pid, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(other) => {
            let number = pid.as_raw_nonzero();
            Err(Error::Engine(format!("{what}, process {number}, cannot be ended: {other}")))
        }
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
            Some((pid, in_words(&line)))
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

/// The requested port, unless it is in use.
async fn port_that_is_free(port: u16) -> Result<u16> {
    let Err(source) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) else { return Ok(port) };
    if source.kind() != ErrorKind::AddrInUse {
        let why = format!("the port {port} cannot be had ({source})");
        return Err(Error::Usage(format!("{why}: say another --port, above 1023, or none for any free one")));
    }
    let other = who_is_at(port).await.and_then(|answer| answer.json().get("pid").and_then(Value::as_u64));
    let (who, way_out) = match other {
        Some(pid) => (format!("another local stack (its engine is process {pid})"), ", or end that one first"),
        None => ("another program".to_owned(), ""),
    };
    Err(Error::Usage(format!(
        "the port {port} is taken by {who}: say another --port, or none for any free one{way_out}"
    )))
}

/// A port that is free right now.
fn free_port() -> Result<u16> {
    let found = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    found.map(|address| address.port()).map_err(|source| Error::Io { what: "finding a free port".to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::CargoTarget;
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    /// A stack's directory of a test.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = CargoTarget::of_this_program().dir.join(format!("test-{name}-{}", std::process::id()));
            fs::create_dir_all(&dir).unwrap();
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[tokio::test]
    async fn an_engine_that_never_answers_is_ended_and_named_with_its_log() {
        let dir = Dir::new("engine-hangs");
        let python = dir.0.join("python");
        fs::write(&python, "#!/bin/sh\necho 'waiting for Godot'\nexec sleep 600\n").unwrap();
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
        let start = Start {
            kind: EngineKind::Ministack,
            python: &python,
            program: &python,
            dir: &dir.0,
            port: None,
            attached: false,
            deadline_in: Duration::from_millis(300),
            remove: &[],
        };
        let silent: Progress = Arc::new(|_| {});
        let line = Engine::start(&start, &silent).await.unwrap_err().chain();
        let parts = ["ministack does not answer after", "try again", "waiting for Godot; its log is", "engine.log"];
        assert!(parts.iter().all(|part| line.contains(part)) && !line.contains('\n'), "{line}");
        assert!(!Engine::remembered(&dir.0).unwrap().unwrap().is_there().await.unwrap(), "it was left behind");
    }

    #[tokio::test]
    async fn an_engine_that_does_not_answer_is_not_taken_for_one_that_is_gone() {
        let dir = Dir::new("engine-is-busy");
        let mut child = Command::new("sh").args(["-c", "read line", "its-name"]).stdin(Stdio::piped()).spawn().unwrap();
        let runs_as = RunsAs::Pid(child.id());
        // Nothing answers at that port.
        let engine = Engine { kind: EngineKind::Ministack, runs_as, nonce: "its-name".to_owned(), port: 1 };
        files::write_json(&Engine::path(&dir.0), &engine).unwrap();
        // A process that has just begun has no command line for a moment.
        while !engine.is_there().await.unwrap() {
            sleep(Duration::from_millis(1)).await;
        }
        let look = async || Engine::running_within(Duration::from_millis(300), &dir.0).await;
        let line = look().await.unwrap_err().chain();
        assert!(line.contains("is there and does not answer") && line.contains("cargo local down"), "{line}");
        child.kill().unwrap();
        // A zombie: its parent has not waited for it.
        assert!(look().await.unwrap().is_none());
        child.wait().unwrap();
        assert!(look().await.unwrap().is_none());
    }
}
