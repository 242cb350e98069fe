//! `cargo local`: see [`local::cli`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    local::cli::run().await
}
