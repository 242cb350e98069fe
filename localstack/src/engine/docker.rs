//! LocalStack in Docker: `docker compose`, with compose.yaml.

use crate::error::Error;
use crate::{Result, files};
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Output, Stdio};
use tokio::process::Command;

/// The name of a stack's Compose project. It depends on the directory, too: stacks of one name run side by side.
pub fn project(stack: &str, dir: &Path) -> String {
    format!("{}-{}", stack.to_lowercase(), files::short_hash(&[dir.as_os_str().as_encoded_bytes()], 8))
}

/// Checks that Docker is there, before anything is built for it.
pub async fn check() -> Result<()> {
    run("docker compose version", Command::new("docker").args(["compose", "version"])).await.map(drop)
}

/// Starts the engine, and waits until Compose reports it healthy. On failure, `log` has the reason.
pub async fn up(project: &str, port: u16, nonce: &str, log: &Path) -> Result<()> {
    let mut command = compose(project);
    command.args(["up", "--detach", "--wait"]).env("ENCORE_PORT", port.to_string()).env("ENCORE_NONCE", nonce);
    let output = output(&mut command).await?;
    if output.status.success() {
        return Ok(());
    }
    // Of an unhealthy container Compose reports no more than that.
    let logs = run("docker compose logs", compose(project).args(["logs", "--no-color", "--tail", "200"])).await;
    let logs = logs.map_or_else(|error| error.chain(), |logs| String::from_utf8_lossy(&logs.stdout).into_owned());
    // Compose's own output comes last: a missing image, a daemon that does not answer.
    Err(files::failed("docker compose up", &format!("{logs}\n{}", String::from_utf8_lossy(&output.stderr)), log))
}

/// Whether any container of it runs.
pub async fn is_up(project: &str) -> Result<bool> {
    let listed = run("docker compose ps", compose(project).args(["ps", "--quiet"])).await?;
    Ok(!listed.stdout.trim_ascii().is_empty())
}

/// Ends the engine and removes what it kept.
pub async fn down(project: &str) -> Result<()> {
    run("docker compose down", compose(project).args(["down", "--volumes"])).await.map(drop)
}

fn compose(project: &str) -> Command {
    let mut command = Command::new("docker");
    command.args(["compose", "--project-name", project, "--file"]);
    command.arg(files::workspace().join("localstack").join("compose.yaml"));
    command
}

async fn output(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().await.map_err(|source| match source.kind() {
        ErrorKind::NotFound => {
            Error::Missing("docker is not in PATH; LocalStack runs without it, too: leave out --docker".to_owned())
        }
        _ => Error::Io { what: "docker could not be run".to_owned(), source },
    })
}

async fn run(what: &str, command: &mut Command) -> Result<Output> {
    let output = output(command).await?;
    if output.status.success() {
        return Ok(output);
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    let why = printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    Err(Error::Command { what: what.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacks_of_one_name_are_projects_of_their_own() {
        let (one, other) = (project("Encore", Path::new("/a")), project("Encore", Path::new("/b")));
        assert!(one != other && one.starts_with("encore-"), "{one} {other}");
    }
}
