//! `stack.json`: where everything of a running stack is.

use crate::Result;
use crate::error::Error;
use crate::files;
use aws_types::SdkConfig;
use aws_types::sdk_config::TimeoutConfig;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

/// Which engine plays the cloud.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// ministack, in a virtual environment of Python. Needs no Docker.
    #[default]
    Ministack,
    /// LocalStack, in a virtual environment of Python, or in Docker (`--docker`).
    Localstack,
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        <Self as ValueEnum>::from_str(name, false)
            .map_err(|_| format!("`{name}` is no engine; there are ministack and localstack"))
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ministack => "ministack",
            Self::Localstack => "localstack",
        })
    }
}

/// A deployed system. Names are without its prefix: `encore-points` is the table `points`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackInfo {
    /// The engine that runs it.
    pub engine: EngineKind,
    /// Where AWS clients go.
    pub endpoint_url: String,
    /// The root of the REST API, without a slash at the end.
    pub api_url: String,
    /// The URL of the sink that plays the external systems: [`crate::sink`]. Empty when no template names any.
    pub sink_url: String,
    /// The region, [`crate::REGION`].
    pub region: String,
    /// The fictional account.
    pub account_id: String,
    /// The system's name, the prefix of every name in it.
    pub stack: String,
    /// The engine's process; `None` in Docker.
    pub pid: Option<u32>,
    /// Context -> table name.
    pub tables: BTreeMap<String, String>,
    /// Queue -> URL. Dead-letter queues are among them.
    pub queues: BTreeMap<String, String>,
    /// State machine -> ARN.
    pub state_machines: BTreeMap<String, String>,
    /// Handler name -> function name.
    pub functions: BTreeMap<String, String>,
    /// The issuer of user tokens.
    pub issuer: String,
    /// Stack of the system -> hash of the template, programs and parameters it was deployed with; empty where the last
    /// deployment failed or did not get to it.
    pub deployed: BTreeMap<String, String>,
}

impl StackInfo {
    /// The file in a stack's directory.
    pub fn path(dir: &Path) -> PathBuf {
        dir.join("stack.json")
    }

    /// Of the stack in `dir`, `None` when none is up there.
    pub fn read(dir: &Path) -> Result<Option<Self>> {
        files::read_json(&Self::path(dir))
    }

    /// Of the stack in `dir`, which has to be up.
    pub fn of_running(dir: &Path) -> Result<Self> {
        Self::read(dir)?
            .ok_or_else(|| Error::Usage(format!("no stack is up in {}; start it: cargo local up", dir.display())))
    }

    /// The configuration of AWS clients towards this stack: its endpoint, test credentials, long timeouts.
    pub fn sdk_config(&self) -> SdkConfig {
        sdk_config(&self.endpoint_url)
    }
}

/// See [`StackInfo::sdk_config`].
pub fn sdk_config(endpoint_url: &str) -> SdkConfig {
    // A change set of some eighty resources, or a scan beside a load, takes seconds: no reason to retry.
    let patient = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(5))
        .operation_attempt_timeout(Duration::from_secs(60))
        .operation_timeout(Duration::from_secs(120))
        .build();
    kit::aws::local_config(endpoint_url, crate::REGION).into_builder().timeout_config(patient).build()
}
