//! A stack's life cycle: up, its state, down.

use crate::Result;
use crate::driver::artifacts;
use crate::driver::ready::Ready;
use crate::engine::info::{EngineKind, StackInfo};
use crate::engine::python;
use crate::engine::{self, Engine};
use crate::error::Error;
use crate::files::{self, CargoTarget, Lock};
use crate::sink::{self, Secrets};
use crate::tokens::Tokens;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{self, Child};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Receives progress, one short line each.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Progress as lines on standard error.
pub fn stderr_progress() -> Progress {
    Arc::new(|line| eprintln!("local: {line}"))
}

/// How long an attached engine may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What to bring up, and where.
#[derive(Clone)]
pub struct Options {
    /// The stack's directory. Everything of it lives there.
    pub dir: PathBuf,
    /// The directory is not needed afterwards: it goes with the (attached) stack.
    pub ephemeral: bool,
    /// The engine's port, any free one when `None`.
    pub port: Option<u16>,
    /// The system's name, which all its names begin with.
    pub stack: String,
    /// Which of its stacks to deploy, with dependencies that are not deployed yet; all when none is named.
    pub stacks: Vec<String>,
    pub engine: EngineKind,
    /// Whether the engine is in Docker, which LocalStack can be.
    pub docker: bool,
    /// Template parameters. Kept in the directory; an empty value goes back to the template's default.
    pub parameters: BTreeMap<String, String>,
    /// The directory of the stacks' SAM templates; or one template, for a stack that has the system's name.
    pub template: PathBuf,
    /// Whether to build the programs first.
    pub build: bool,
    /// Receives progress.
    pub progress: Progress,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).field("stack", &self.stack).finish_non_exhaustive()
    }
}

impl Options {
    /// The system `encore` in `dir`, on any free port, with the repository's stacks, built first, in silence.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            ephemeral: false,
            port: None,
            stack: "encore".to_owned(),
            stacks: Vec::new(),
            engine: EngineKind::Ministack,
            docker: false,
            parameters: BTreeMap::new(),
            template: files::workspace().join("infra").join("stacks"),
            build: true,
            progress: Arc::new(|_| {}),
        }
    }

    /// As [`Options::new`], in a directory of its own under cargo's target directory, which goes with the stack.
    pub fn ephemeral(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("{name}-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self { ephemeral: true, ..Self::new(CargoTarget::of_this_program().dir.join("stacks").join(unique)) }
    }

    /// Where `cargo local` keeps its stack by default.
    pub fn default_dir() -> PathBuf {
        files::workspace().join("target").join("local")
    }

    /// With a template parameter.
    #[must_use]
    pub fn parameter(mut self, key: &str, value: &str) -> Self {
        self.parameters.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With these stacks only.
    #[must_use]
    pub fn stacks(mut self, names: &[&str]) -> Self {
        self.stacks = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.docker && self.engine != EngineKind::Localstack {
            return Err(Error::Usage(format!("{} does not run in Docker; say --engine localstack", self.engine)));
        }
        let mut letters = self.stack.chars();
        let good = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
            && letters.all(|c| c.is_ascii_alphanumeric() || c == '-')
            && self.stack.len() <= 24;
        if good {
            return Ok(());
        }
        Err(Error::Usage(format!(
            "`{}` is no stack name: a letter, then letters, digits and `-`, 24 at most",
            self.stack
        )))
    }
}

/// What [`up`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The stack was made, in a new or a running engine.
    Created,
    /// What had changed was deployed.
    Updated,
    /// Nothing had changed.
    Unchanged,
}

/// A stack that ends with its owner: when this is stopped or dropped, and when this process ends, however it ends.
#[derive(Debug)]
pub struct Stack {
    info: StackInfo,
    tokens: Tokens,
    options: Options,
    engine: Engine,
    /// The engine ends when its standard input closes.
    child: Child,
    /// Plays the external systems.
    sink: sink::Attached,
}

impl Stack {
    /// Brings a stack up in an engine of its own.
    pub async fn start(options: Options) -> Result<Self> {
        if options.docker {
            return Err(Error::Usage("an engine in Docker does not end with its owner; use cargo local up".to_owned()));
        }
        let ready = Ready::make(&options).await?;
        if let Some(engine) = Engine::remembered(&options.dir)?
            && engine.is_there().await?
        {
            return Err(Error::Usage(format!(
                "a stack is up in {}: choose another directory, or end it: cargo local down",
                options.dir.display()
            )));
        }
        clean(&options.dir)?;
        let plan = ready.plan(&options, None).await?;
        let (engine, child) = ready.start(&options, true).await?;
        let sink = sink::Attached::start(Secrets::open(&options.dir)?).await?;
        let mut stack = Self {
            info: ready.deploy(&options, plan, &engine, sink.url(), None).await?.0,
            tokens: Tokens::open(&options.dir)?,
            options,
            engine,
            child,
            sink,
        };
        stack.options.build = false;
        Ok(stack)
    }

    /// Where everything is.
    pub fn info(&self) -> &StackInfo {
        &self.info
    }

    /// The issuer of user tokens.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The stack's directory.
    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// The end of the engine's log, for a test that failed.
    pub fn engine_log(&self, lines: usize) -> String {
        files::tail(&engine::log_path(&self.options.dir), lines)
    }

    /// Deploys again with these parameters beside those it has. Data stays.
    pub async fn update(&mut self, parameters: &BTreeMap<String, String>) -> Result<Outcome> {
        let options = Options { parameters: parameters.clone(), ..self.options.clone() };
        self.deploy(&options).await
    }

    /// Deploys some of its stacks again, from these templates.
    pub async fn update_stacks(&mut self, names: &[&str], template: &Path) -> Result<Outcome> {
        let options = Options { template: template.to_owned(), ..self.options.clone() }.stacks(names);
        self.deploy(&options).await
    }

    async fn deploy(&mut self, options: &Options) -> Result<Outcome> {
        let ready = Ready::make(options).await?;
        let plan = ready.plan(options, Some(&self.info)).await?;
        let deployed = ready.deploy(options, plan, &self.engine, self.sink.url(), Some(&self.info)).await;
        // What is deployed after a failure is in the file.
        self.info = StackInfo::of_running(&options.dir)?;
        Ok(deployed?.1)
    }

    /// Ends the engine and its functions, and removes what they left.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.child.stdin.take());
        let process = self.child.id();
        let waiting = || Error::Engine(format!("waiting for the engine, process {process}"));
        let deadline = Instant::now() + STOP_DEADLINE;
        while self.child.try_wait().map_err(|_| waiting())?.is_none() {
            if Instant::now() > deadline {
                self.child.kill().map_err(|_| waiting())?;
                self.child.wait().map_err(|_| waiting())?;
                break;
            }
            sleep(Duration::from_millis(10)).await;
        }
        clean(&self.options.dir)?;
        if self.options.ephemeral { files::remove(&self.options.dir) } else { Ok(()) }
    }
}

/// Brings the stack of a directory up and leaves it running. Does only what is not done yet.
pub async fn up(options: &Options) -> Result<(StackInfo, Outcome)> {
    let ready = Ready::make(options).await?;
    let known = StackInfo::read(&options.dir)?;
    let Some(engine) = Engine::running(&options.dir).await? else {
        // An engine that ended by itself in Docker leaves its container.
        if let Some(ended) = Engine::remembered(&options.dir)? {
            ended.stop().await?;
        }
        // A sink that outlived its engine is about to notice.
        sink::Detached::stop(&options.dir).await?;
        clean(&options.dir)?;
        let plan = ready.plan(options, None).await?;
        let engine = if options.docker {
            Engine::start_in_docker(&options.dir, &options.stack, options.port, &options.progress).await?
        } else {
            ready.start(options, false).await?.0
        };
        let sink_url = ready.sink_beside(&options.dir).await?;
        return ready.deploy(options, plan, &engine, &sink_url, None).await;
    };
    let named = |kind: EngineKind, docker| format!("{kind}{}", if docker { " in Docker" } else { "" });
    let (runs, asked) = (named(engine.kind, engine.in_docker()), named(options.engine, options.docker));
    if runs != asked {
        return Err(Error::Usage(format!(
            "the stack in {} runs on {runs}, not {asked}; end it first: cargo local down",
            options.dir.display(),
        )));
    }
    if let Some(port) = options.port.filter(|port| *port != engine.port) {
        return Err(Error::Usage(format!(
            "the stack in {} runs on port {}, not {port}; end it first: cargo local down",
            options.dir.display(),
            engine.port
        )));
    }
    if let Some(known) = known.as_ref().filter(|known| known.stack != options.stack) {
        return Err(Error::Usage(format!(
            "the stack in {} is called {}; for another one choose another --target-dir",
            options.dir.display(),
            known.stack
        )));
    }
    let plan = ready.plan(options, known.as_ref()).await?;
    let sink_url = ready.sink_beside(&options.dir).await?;
    ready.deploy(options, plan, &engine, &sink_url, known.as_ref()).await
}

/// The Python that an engine runs on, with its packages. Installs them on first need.
pub async fn interpreter(engine: EngineKind, progress: &Progress) -> Result<PathBuf> {
    python::environment(&CargoTarget::of_this_program().dir, &engine.requirements(), progress).await
}

/// Builds `cargo local`, for callers that run it.
pub async fn build(progress: &Progress) -> Result<()> {
    artifacts::build(&CargoTarget::of_this_program(), &[], progress).await
}

/// Ends the stack of a directory. Returns whether there was one.
pub async fn down(dir: &Path, progress: &Progress) -> Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    let _lock = Lock::take(&dir.join("lock"), progress).await?;
    sink::Detached::stop(dir).await?;
    let stopped = match Engine::remembered(dir) {
        Ok(Some(engine)) => engine.stop().await?,
        Ok(None) => false,
        Err(Error::Damaged(_)) => Engine::end_unremembered(dir)?,
        Err(error) => return Err(error),
    };
    clean(dir)?;
    Ok(stopped)
}

/// Removes the files about a running engine. Keys, parameters and the log stay.
fn clean(dir: &Path) -> Result<()> {
    files::remove(&StackInfo::path(dir))?;
    Engine::forget(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_stack_name_has_to_fit_the_names_made_of_it() {
        for (name, good) in [("encore", true), ("a-2", true), ("2a", false), ("", false), ("a_b", false)] {
            let options = Options { stack: name.to_owned(), ..Options::new("x") };
            assert_eq!(options.check().is_ok(), good, "{name}");
        }
    }

    /// A stack of one table, without programs.
    fn one_table(name: &str) -> Options {
        let mut options = Options::ephemeral(name);
        fs::create_dir_all(&options.dir).unwrap();
        options.template = options.dir.join("template.yaml");
        options.build = false;
        let text = "
Parameters: {Stage: {Type: String}}
Resources:
  Table:
    Type: AWS::DynamoDB::Table
    Properties:
      TableName: !Sub ${AWS::StackName}-things-of-${Stage}
      BillingMode: PAY_PER_REQUEST
      AttributeDefinitions: [{AttributeName: PK, AttributeType: S}]
      KeySchema: [{AttributeName: PK, KeyType: HASH}]
";
        fs::write(&options.template, text).unwrap();
        options
    }

    async fn gone(engine: &Engine, dir: &Path) -> bool {
        for _ in 0..500 {
            if !engine.answers().await && !dir.exists() {
                return true;
            }
            sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn attached_stacks_run_side_by_side_and_leave_nothing() {
        let (one, other) =
            tokio::try_join!(Stack::start(one_table("test-one")), Stack::start(one_table("test-other"))).unwrap();
        assert_ne!(one.info().endpoint_url, other.info().endpoint_url);
        assert_eq!(one.info().tables, map(&[("things-of-local", "encore-things-of-local")]));
        let (engine, dir) = (other.engine.clone(), other.dir().to_owned());

        one.stop().await.unwrap();
        assert!(engine.answers().await, "the other one is not concerned");

        // What is left of a process that is killed: its end of the pipe closes.
        drop(other);
        assert!(gone(&engine, &dir).await);
    }

    #[tokio::test]
    async fn up_and_down_do_what_is_not_done_yet() {
        let options = Options { ephemeral: false, ..one_table("test-up") };
        let silent: Progress = Arc::new(|_| {});
        let play = async || -> Result<_> {
            let (first, again) = (up(&options).await?, up(&options).await?);
            let stopped = (down(&options.dir, &silent).await?, down(&options.dir, &silent).await?);
            Ok((first, again, stopped))
        };
        let played = play().await;
        // Whatever happened, no engine stays behind.
        down(&options.dir, &silent).await.unwrap();
        let ((info, first), (same, again), stopped) = played.unwrap();
        assert_eq!((first, again, stopped), (Outcome::Created, Outcome::Unchanged, (true, false)));
        assert_eq!(info, same);
        assert!(crate::http::Client::new().send(http::Method::GET, &info.endpoint_url, &[], "").await.is_err());
        assert!(StackInfo::read(&options.dir).unwrap().is_none());
        files::remove(&options.dir).unwrap();
    }

    #[test]
    fn two_stacks_of_one_process_live_apart() {
        assert_ne!(Options::ephemeral("test").dir, Options::ephemeral("test").dir);
    }
}
