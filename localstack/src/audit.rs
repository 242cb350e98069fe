//! `cargo local audit`.

use crate::cli::Common;
use crate::{Error, Result};
use std::process::ExitCode;

/// Options of the audit.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Audits the tables of the running stack.
pub async fn run(_args: Args) -> Result<ExitCode> {
    Err(Error::Usage("there is no audit yet".to_owned()))
}
