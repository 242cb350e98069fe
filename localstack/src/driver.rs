//! The driver: builds the programs, starts an engine and a sink, deploys the templates, and records where everything
//! is.

pub mod arguments;
pub(crate) mod artifacts;
pub(crate) mod bucket;
pub(crate) mod cloudformation;
pub(crate) mod deploy;
pub(crate) mod inventory;
pub(crate) mod parameters;
pub mod query;
pub(crate) mod ready;
pub(crate) mod stack;
pub(crate) mod stacks;
pub(crate) mod template;
