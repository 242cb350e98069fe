//! The options that every command of `cargo local` has.

use crate::Result;
use crate::driver::stack::{self, Options};
use crate::engine::info::EngineKind;
use crate::error::Error;
use clap::Args;
use std::path::PathBuf;

/// The options that every verb has.
#[derive(Clone, Debug, Args)]
pub struct Common {
    /// Where the stack lives [default: target/local]
    #[arg(long, value_name = "DIR")]
    pub target_dir: Option<PathBuf>,
    /// The engine's port [default: any free one]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// The system's name
    #[arg(long, value_name = "NAME", default_value = "encore")]
    pub stack: String,
    /// The engine
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineKind,
    /// The engine, LocalStack, and the functions in containers instead of processes
    #[arg(long)]
    pub docker: bool,
    /// A template parameter, kept for later; `Key=` goes back to the default
    #[arg(long, value_name = "Key=Value", value_parser = key_value)]
    pub parameter: Vec<(String, String)>,
}

impl Common {
    /// The stack's directory, absolute.
    pub fn dir(&self) -> Result<PathBuf> {
        match &self.target_dir {
            None => Ok(Options::default_dir()),
            Some(dir) => std::path::absolute(dir).map_err(|e| Error::io("finding", dir, e)),
        }
    }

    /// As the library takes them, with progress on standard error.
    pub fn options(&self) -> Result<Options> {
        Ok(Options {
            port: self.port,
            stack: self.stack.clone(),
            engine: self.engine,
            docker: self.docker,
            parameters: self.parameter.iter().cloned().collect(),
            progress: stack::stderr_progress(),
            ..Options::new(self.dir()?)
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected Key=Value".to_owned()),
    }
}
