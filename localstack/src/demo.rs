//! `cargo local demo`.

use crate::cli::Common;
use crate::{Error, Result};
use std::process::ExitCode;

/// Options of the demo.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The options of every verb.
    #[command(flatten)]
    pub common: Common,
    /// How many buyers
    #[arg(long, default_value_t = 600)]
    pub buyers: u32,
    /// How many seats
    #[arg(long, default_value_t = 500)]
    pub seats: u32,
    /// Leave the stack running
    #[arg(long)]
    pub keep: bool,
    /// Play the same again
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Plays an on-sale and audits it.
pub async fn run(_args: Args) -> Result<ExitCode> {
    Err(Error::Usage("there is no demo yet".to_owned()))
}
