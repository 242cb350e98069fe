//! What is needed before an engine: interpreter, programs, templates; and the deployment made of it.

use crate::driver::artifacts;
use crate::driver::bucket::Bucket;
use crate::driver::cloudformation::{CloudFormation, Wanted};
use crate::driver::deploy;
use crate::driver::inventory;
use crate::driver::parameters;
use crate::driver::stacks::Stacks;
use crate::driver::template::{SYSTEM, Template};
use crate::engine::docker;
use crate::engine::info::StackInfo;
use crate::engine::{Engine, START_DEADLINE, Start};
use crate::error::Error;
use crate::files::{self, CargoTarget, Lock};
use crate::sink::{self, Secrets};
use crate::{Options, Outcome, Result, interpreter};
use artifacts::Package;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Child;

/// All that is needed before an engine.
pub struct Ready {
    /// Of the stack's directory, held until the stack is up.
    _lock: Lock,
    /// What runs the engine, outside Docker.
    python: Option<PathBuf>,
    target: CargoTarget,
    stacks: Stacks,
}

/// What a deployment takes.
pub struct Plan {
    /// Stack -> fingerprint, as it was left by the last deployment.
    known: BTreeMap<String, String>,
    /// The stacks.
    chosen: BTreeSet<String>,
    /// The programs of their functions.
    packages: Vec<Package>,
}

/// The stacks of a plan as they should be.
struct Goal {
    /// Stack -> fingerprint.
    fingerprints: BTreeMap<String, String>,
    /// Those that differ from that.
    changed: BTreeMap<String, Wanted>,
}

/// The contexts whose programs are in these templates.
fn contexts<'a>(templates: impl Iterator<Item = &'a Template>) -> Vec<String> {
    let contexts: BTreeSet<String> = templates.flat_map(Template::contexts).collect();
    contexts.into_iter().collect()
}

impl Ready {
    /// Makes it. Refuses unknown stack names before anything is built.
    pub async fn make(options: &Options) -> Result<Self> {
        options.check()?;
        fs::create_dir_all(&options.dir).map_err(|e| Error::io("creating", &options.dir, e))?;
        let lock = Lock::take(&options.dir.join("lock"), &options.progress).await?;
        let stacks = Stacks::read(&options.template, &options.stack)?;
        stacks.order().check(&options.stacks)?;
        parameters::check(&options.parameters, &stacks.parameters())?;
        // Obstacles are reported before anything is built.
        Engine::remembered(&options.dir)?;
        StackInfo::read(&options.dir)?;
        if let Some(port) = options.port {
            Engine::check_port(&options.dir, port).await?;
        }
        let target = CargoTarget::of_this_program();
        let python = if options.docker {
            docker::check().await?;
            None
        } else {
            let contexts = contexts(stacks.templates().map(|(_, template)| template));
            let build = async {
                if options.build { artifacts::build(&target, &contexts, &options.progress).await } else { Ok(()) }
            };
            Some(tokio::try_join!(interpreter(options.engine, &options.progress), build)?.0)
        };
        Ok(Self { _lock: lock, python, target, stacks })
    }

    /// Determines what a deployment takes beside what is deployed already, and packs its programs.
    pub async fn plan(&self, options: &Options, known: Option<&StackInfo>) -> Result<Plan> {
        let mut known = known.map(|known| known.deployed.clone()).unwrap_or_default();
        known.retain(|stack, _| self.stacks.templates().any(|(name, _)| name == stack));
        let there: BTreeSet<String> = known.keys().cloned().collect();
        let chosen = self.stacks.order().chosen(&options.stacks, &there);
        let templates = self.stacks.templates().filter(|(stack, _)| chosen.contains(*stack));
        let contexts = contexts(templates.map(|(_, template)| template));
        let packages = if options.docker {
            artifacts::pack_for_docker(&self.target, &contexts, options.build, &options.progress).await?
        } else {
            artifacts::pack(&self.target, &contexts).await?
        };
        Ok(Plan { known, chosen, packages })
    }

    /// Starts the sink of a detached stack in a process of its own; returns its URL. Templates that name no external
    /// system need none.
    pub async fn sink_beside(&self, dir: &Path) -> Result<String> {
        if parameters::name_the_outside(&self.stacks.parameters()) {
            return Ok(sink::Detached::start(dir).await?.url().to_owned());
        }
        Ok(String::new())
    }

    /// Starts the engine as a process.
    pub async fn start(&self, options: &Options, attached: bool) -> Result<(Engine, Child)> {
        let Some(python) = &self.python else { return Err(Error::Engine("there is no process in Docker".to_owned())) };
        let remove = if options.ephemeral { vec![options.dir.clone()] } else { Vec::new() };
        let start = Start {
            kind: options.engine,
            python,
            program: &self.target.bin_dir().join("local"),
            dir: &options.dir,
            port: options.port,
            attached,
            deadline_in: START_DEADLINE,
            remove: &remove,
        };
        Engine::start(&start, &options.progress).await
    }

    /// Deploys what of the plan is not up to date according to `known`, and writes `stack.json`, also with the failed
    /// stacks, so that the next deployment goes on from there.
    pub async fn deploy(
        &self,
        options: &Options,
        plan: Plan,
        engine: &Engine,
        sink_url: &str,
        known: Option<&StackInfo>,
    ) -> Result<(StackInfo, Outcome)> {
        let goal = self.goal(options, &plan, &engine.seen_by_functions(sink_url))?;
        if let Some(known) = known.filter(|_| goal.changed.is_empty()) {
            (options.progress)("nothing changed");
            return Ok((known.clone(), Outcome::Unchanged));
        }
        let endpoint = engine.endpoint_url();
        let bucket = Bucket::new(&endpoint, &options.stack);
        bucket.upload(&plan.packages).await?;
        deploy::keep_secrets(&endpoint, &Secrets::open(&options.dir)?.documents(&options.stack)).await?;
        let cloudformation = CloudFormation::new(&endpoint, bucket, options.progress.clone());
        let report = deploy::in_order(self.stacks.order(), goal.changed, |wanted| {
            let cloudformation = cloudformation.clone();
            async move { cloudformation.deploy(&wanted).await }
        });
        let report = report.await?;
        let deployed = report.deployed(plan.known, &goal.fingerprints);
        let outcome = report.outcome(known.is_some());
        if deployed.is_empty() {
            return Err(outcome.err().unwrap_or_else(|| Error::Deploy("there is nothing to deploy".to_owned())));
        }
        let names = deployed.keys().map(|stack| self.stacks.name_in(&options.stack, stack)).collect();
        let info = inventory::read(&cloudformation, names, engine, &options.stack, sink_url, deployed).await?;
        files::write_json(&StackInfo::path(&options.dir), &info)?;
        Ok((info, outcome?))
    }

    /// What the stacks should be, and which of them differ.
    fn goal(&self, options: &Options, plan: &Plan, sink_url: &str) -> Result<Goal> {
        let mut chosen = parameters::all(options, &self.stacks.parameters(), sink_url)?;
        chosen.insert(SYSTEM.to_owned(), options.stack.clone());
        let bucket = Bucket::name(&options.stack);
        let keys = plan.packages.iter().map(|package| (package.context.clone(), package.key())).collect();
        let there = plan.known.keys().chain(&plan.chosen).cloned().collect();
        let mut goal = Goal { fingerprints: BTreeMap::new(), changed: BTreeMap::new() };
        for stack in &plan.chosen {
            let Some(template) = self.stacks.template_beside(stack, &there) else { continue };
            let declared = template.parameters();
            let mut parameters = chosen.clone();
            parameters.retain(|name, _| declared.contains(name));
            let text = serde_json::to_vec(&parameters).map_err(|e| Error::Template(e.to_string()))?;
            let body = template.clone().deployable(&bucket, &keys)?;
            let fingerprint = files::short_hash(&[body.as_bytes(), &text], 32);
            if plan.known.get(stack) != Some(&fingerprint) {
                // As infra/deploy does: published versions follow what changed.
                let template = template.of_release(&fingerprint).deployable(&bucket, &keys)?;
                let name = self.stacks.name_in(&options.stack, stack);
                goal.changed.insert(stack.clone(), Wanted { name, template, parameters });
            }
            goal.fingerprints.insert(stack.clone(), fingerprint);
        }
        Ok(goal)
    }
}
