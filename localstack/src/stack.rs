//! A stack's life: up, what it is, down.

use crate::deploy::{Change, Deployer};
use crate::engine::{self, Engine, Start};
use crate::error::{AtPath, Error};
use crate::files::{self, CargoTarget, Lock};
use crate::info::{EngineKind, StackInfo};
use crate::sink::{self, Secrets};
use crate::template::Template;
use crate::tokens::{self, Tokens};
use crate::{ISSUER, Result, python};
use crate::{artifacts, docker};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{self, Child};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Told, one short line each, what is being done.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// Progress as lines on standard error.
pub fn stderr_progress() -> Progress {
    Arc::new(|line| eprintln!("local: {line}"))
}

/// The template's parameters for the world outside, and where the sink plays it.
const OUTSIDE: [(&str, &str); 6] = [
    ("DataPlatformUrl", "{sink}/data-platform"),
    ("PartnerUrl", "{sink}/partner"),
    ("AlimTalkUrl", "{sink}/alimtalk"),
    ("CashReceiptUrl", "{sink}/toss"),
    ("NotionUrl", "{sink}/notion"),
    ("UserDirectoryUrl", "{sink}/directory"),
];

/// How long an attached engine may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What to bring up, and where.
#[derive(Clone)]
pub struct Options {
    /// The stack's directory. Everything of it lives there.
    pub dir: PathBuf,
    /// The directory is of no use to anybody afterwards: it goes with the (attached) stack.
    pub ephemeral: bool,
    /// The engine's port, any free one when `None`.
    pub port: Option<u16>,
    /// The stack's name.
    pub stack: String,
    /// The engine.
    pub engine: EngineKind,
    /// Whether the engine is in Docker, which LocalStack can be.
    pub docker: bool,
    /// Template parameters. Kept in the directory; an empty value goes back to the template's default.
    pub parameters: BTreeMap<String, String>,
    /// The SAM template.
    pub template: PathBuf,
    /// Whether to build the programs first.
    pub build: bool,
    /// Who is told what is being done.
    pub progress: Progress,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("dir", &self.dir).field("stack", &self.stack).finish_non_exhaustive()
    }
}

impl Options {
    /// The stack `encore` in `dir`, on any free port, with the repository's template, built first, in silence.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            ephemeral: false,
            port: None,
            stack: "encore".to_owned(),
            engine: EngineKind::Ministack,
            docker: false,
            parameters: BTreeMap::new(),
            template: files::workspace().join("infra").join("template.yaml"),
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

    /// Where `cargo local` keeps its stack when not told otherwise.
    pub fn default_dir() -> PathBuf {
        files::workspace().join("target").join("local")
    }

    /// With a template parameter.
    #[must_use]
    pub fn parameter(mut self, key: &str, value: &str) -> Self {
        self.parameters.insert(key.to_owned(), value.to_owned());
        self
    }

    fn check(&self) -> Result<()> {
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
    /// Its standard input is the thread by which the engine's life hangs.
    child: Child,
    /// What plays the world outside.
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
            && engine.answers().await
        {
            return Err(Error::Usage(format!(
                "a stack is up in {}: choose another directory, or end it: cargo local down",
                options.dir.display()
            )));
        }
        clean(&options.dir)?;
        let (engine, child) = ready.start(&options, true).await?;
        let sink = sink::Attached::start(Secrets::open(&options.dir)?).await?;
        let mut stack = Self {
            info: ready.deploy(&options, &engine, sink.url(), None).await?.0,
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
        let mut options = self.options.clone();
        options.parameters = parameters.clone();
        let ready = Ready::make(&options).await?;
        let (info, outcome) = ready.deploy(&options, &self.engine, self.sink.url(), Some(&self.info)).await?;
        self.info = info;
        Ok(outcome)
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
    let running = match Engine::remembered(&options.dir)? {
        Some(engine) if engine.answers().await => Some(engine),
        Some(engine) => {
            // It may still be there and be stuck.
            engine.stop().await?;
            None
        }
        None => None,
    };
    let Some(engine) = running else {
        // One that outlived its engine is about to notice.
        sink::Detached::stop(&options.dir).await?;
        clean(&options.dir)?;
        let engine = if options.docker {
            Engine::start_in_docker(&options.dir, &options.stack, options.port, &options.progress).await?
        } else {
            ready.start(options, false).await?.0
        };
        let sink_url = ready.sink_beside(&options.dir).await?;
        return ready.deploy(options, &engine, &sink_url, None).await;
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
    let sink_url = ready.sink_beside(&options.dir).await?;
    ready.deploy(options, &engine, &sink_url, known.as_ref()).await
}

/// The Python that an engine runs on, with its packages. Installs them on first need.
pub async fn interpreter(engine: EngineKind, progress: &Progress) -> Result<PathBuf> {
    python::environment(&CargoTarget::of_this_program().dir, &engine.requirements(), progress).await
}

/// Ends the stack of a directory. Says whether there was one.
pub async fn down(dir: &Path, progress: &Progress) -> Result<bool> {
    if !dir.exists() {
        return Ok(false);
    }
    let _lock = Lock::take(&dir.join("lock"), progress).await?;
    sink::Detached::stop(dir).await?;
    let stopped = match Engine::remembered(dir)? {
        Some(engine) => engine.stop().await?,
        None => false,
    };
    clean(dir)?;
    Ok(stopped)
}

/// Removes what speaks of a running engine. Keys, parameters and the log stay.
fn clean(dir: &Path) -> Result<()> {
    files::remove(&StackInfo::path(dir))?;
    Engine::forget(dir)
}

/// All that is needed before an engine: interpreter, programs, template.
struct Ready {
    /// Of the stack's directory, held until the stack is up.
    _lock: Lock,
    /// What runs the engine, outside Docker.
    python: Option<PathBuf>,
    program: PathBuf,
    template: Template,
    packages: Vec<artifacts::Package>,
}

impl Ready {
    async fn make(options: &Options) -> Result<Self> {
        options.check()?;
        fs::create_dir_all(&options.dir).at("creating", &options.dir)?;
        let lock = Lock::take(&options.dir.join("lock"), &options.progress).await?;
        let target = CargoTarget::of_this_program();
        let template = Template::read(&options.template)?;
        let contexts = template.contexts();
        let (python, packages) = if options.docker {
            docker::check().await?;
            (None, artifacts::pack_for_docker(&target, &contexts, options.build, &options.progress).await?)
        } else {
            let build =
                async { if options.build { artifacts::build(&target, &options.progress).await } else { Ok(()) } };
            let (python, ()) = tokio::try_join!(interpreter(options.engine, &options.progress), build)?;
            (Some(python), artifacts::pack(&target, &contexts).await?)
        };
        let program = target.bin_dir().join("local");
        Ok(Self { _lock: lock, python, program, template, packages })
    }

    /// Has the sink of a stack that stays run in a process of its own; says where it is. A template that names nobody
    /// outside needs none.
    async fn sink_beside(&self, dir: &Path) -> Result<String> {
        if OUTSIDE.iter().any(|(name, _)| self.template.parameters().contains(*name)) {
            return Ok(sink::Detached::start(dir).await?.url().to_owned());
        }
        Ok(String::new())
    }

    /// Starts the engine as a process.
    async fn start(&self, options: &Options, attached: bool) -> Result<(Engine, Child)> {
        let Some(python) = &self.python else { return Err(Error::Engine("there is no process in Docker".to_owned())) };
        let remove = if options.ephemeral { vec![options.dir.clone()] } else { Vec::new() };
        let start = Start {
            kind: options.engine,
            python,
            program: &self.program,
            dir: &options.dir,
            port: options.port,
            attached,
            remove: &remove,
        };
        Engine::start(&start, &options.progress).await
    }

    /// Deploys, unless `known` says that this very thing is deployed already, and writes `stack.json`.
    async fn deploy(
        &self,
        options: &Options,
        engine: &Engine,
        sink_url: &str,
        known: Option<&StackInfo>,
    ) -> Result<(StackInfo, Outcome)> {
        let parameters = parameters(options, &self.template.parameters(), &engine.seen_by_functions(sink_url))?;
        let deployer = Deployer::new(engine.endpoint_url(), &options.stack, &options.progress);
        let keys = self.packages.iter().map(|package| (package.context.clone(), package.key())).collect();
        let template = self.template.clone().deployable(&deployer.bucket(), &keys)?;
        let text = serde_json::to_vec(&parameters).map_err(|e| Error::Template(e.to_string()))?;
        let deployed = files::short_hash(&[template.as_bytes(), &text], 32);
        if let Some(known) = known.filter(|known| known.deployed == deployed) {
            (options.progress)("nothing changed");
            return Ok((known.clone(), Outcome::Unchanged));
        }
        // As infra/deploy does: published versions follow what changed.
        let template = self.template.clone().of_release(&deployed).deployable(&deployer.bucket(), &keys)?;
        deployer.upload(&self.packages).await?;
        deployer.keep_secrets(&Secrets::open(&options.dir)?.documents(&options.stack)).await?;
        let change = deployer.deploy(&template, &parameters).await?;
        let info = deployer.describe(engine, sink_url, deployed).await?;
        files::write_json(&StackInfo::path(&options.dir), &info)?;
        Ok((
            info,
            match change {
                Change::Created => Outcome::Created,
                Change::Updated => Outcome::Updated,
                Change::None => Outcome::Unchanged,
            },
        ))
    }
}

/// The parameters to deploy with: those of the local cloud, then the remembered ones, then those asked for now.
///
/// `{sink}` in a value stands for the sink's URL, which is known only now.
fn parameters(options: &Options, declared: &BTreeSet<String>, sink_url: &str) -> Result<BTreeMap<String, String>> {
    let path = options.dir.join("parameters.json");
    let remembered: BTreeMap<String, String> = files::read_json(&path)?.unwrap_or_default();
    let chosen = merge(remembered.clone(), &options.parameters);
    if let Some(unknown) = options.parameters.keys().find(|key| !declared.contains(*key)) {
        let known: Vec<&str> = declared.iter().map(String::as_str).collect();
        return Err(Error::Usage(format!("the template has no parameter {unknown}; it has {}", known.join(", "))));
    }
    if chosen != remembered {
        files::write_json(&path, &chosen)?;
    }
    let tokens = Tokens::open(&options.dir)?;
    let mut all = BTreeMap::from([
        ("UserJwks".to_owned(), tokens.jwks().to_string()),
        ("UserTokenIssuer".to_owned(), ISSUER.to_owned()),
        ("QueueTokenKeys".to_owned(), tokens::queue_token_keys(&options.dir)?),
        ("Stage".to_owned(), "local".to_owned()),
        // Nobody pays here, unless a payment provider is asked for: `PaymentProviderUrl={sink}/toss`.
        ("OpenCharges".to_owned(), "true".to_owned()),
    ]);
    all.extend(OUTSIDE.map(|(name, url)| (name.to_owned(), url.to_owned())));
    all.extend(chosen);
    for value in all.values_mut() {
        *value = value.replace("{sink}", sink_url);
    }
    all.retain(|key, _| declared.contains(key));
    Ok(all)
}

/// What is asked for goes over what is remembered; an empty value forgets.
fn merge(mut remembered: BTreeMap<String, String>, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    remembered.extend(asked.clone());
    remembered.retain(|_, value| !value.is_empty());
    remembered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_are_remembered_until_told_otherwise() {
        let remembered = map(&[("TokenExpiry", "strict"), ("AdmissionDefault", "closed")]);
        assert_eq!(merge(remembered.clone(), &map(&[])), remembered);
        assert_eq!(
            merge(remembered, &map(&[("TokenExpiry", "event"), ("AdmissionDefault", "")])),
            map(&[("TokenExpiry", "event")])
        );
    }

    #[test]
    fn only_declared_parameters_are_passed_and_unknown_ones_refused() {
        let options = Options::ephemeral("test-parameters").parameter("TokenExpiry", "strict");
        fs::create_dir_all(&options.dir).unwrap();
        let declared = BTreeSet::from(["TokenExpiry".to_owned(), "Stage".to_owned()]);
        let passed = parameters(&options, &declared, "http://sink").unwrap();
        assert_eq!(passed, map(&[("Stage", "local"), ("TokenExpiry", "strict")]));
        let error =
            parameters(&options.clone().parameter("Tpyo", "1"), &declared, "http://sink").unwrap_err().to_string();
        assert!(error.contains("Tpyo") && error.contains("TokenExpiry"), "{error}");
        files::remove(&options.dir).unwrap();
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
