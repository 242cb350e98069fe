//! The engine's virtual environment: pinned, with hashes, and shared by all stacks of a target directory.

use crate::error::{AtPath, Error};
use crate::files::{self, Lock};
use crate::{Progress, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The oldest Python that the pinned packages run on.
const OLDEST: (u32, u32) = (3, 11);

/// The environment's interpreter. Makes the environment on first need; of several processes that want to, one does and
/// the others wait.
pub async fn environment(cargo_target: &Path, requirements: &Path, progress: &Progress) -> Result<PathBuf> {
    let pins = fs::read(requirements).at("reading", requirements)?;
    let dir = cargo_target.join(format!("venv-{}", files::short_hash(&[&pins], 12)));
    if is_complete(&dir) {
        return Ok(interpreter(&dir));
    }
    let _lock = Lock::take(&dir.with_extension("lock"), progress).await?;
    if is_complete(&dir) {
        return Ok(interpreter(&dir));
    }
    let (python, version) = find().await?;
    progress(&format!("installing the engine for Python {version} (once)"));
    // Whatever is there is unfinished, or its Python is gone.
    files::remove(&dir)?;
    run(Command::new(&python).args(["-m", "venv"]).arg(&dir), "making the virtual environment").await?;
    run(
        Command::new(interpreter(&dir))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--require-hashes", "--requirement"])
            .arg(requirements),
        "installing the engine's packages",
    )
    .await?;
    files::write_atomically(&marker(&dir), version.as_bytes())?;
    Ok(interpreter(&dir))
}

fn interpreter(dir: &Path) -> PathBuf {
    dir.join("bin").join("python")
}

fn marker(dir: &Path) -> PathBuf {
    dir.join("complete")
}

/// Whether the installation ran to its end, and its Python, a symbolic link, still exists.
fn is_complete(dir: &Path) -> bool {
    marker(dir).exists() && interpreter(dir).exists()
}

/// A Python that is new enough and can make virtual environments: its command and version.
async fn find() -> Result<(String, String)> {
    let mut too_old = Vec::new();
    let mut without_venv = None;
    for name in ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"] {
        let script = "import sys; print('%d.%d' % sys.version_info[:2])\nimport ensurepip, venv\nprint('venv')";
        let Ok(output) = Command::new(name).args(["-c", script]).output().await else { continue };
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut lines = printed.lines();
        let Some(version) = lines.next() else { continue };
        match parse_version(version) {
            Some(found) if found >= OLDEST => {}
            Some(_) => {
                too_old.push(format!("{name} is {version}"));
                continue;
            }
            None => continue,
        }
        if lines.next() == Some("venv") {
            return Ok((name.to_owned(), version.to_owned()));
        }
        without_venv.get_or_insert((name, version.to_owned()));
    }
    Err(Error::Missing(match without_venv {
        Some((name, version)) => format!(
            "{name} ({version}) lacks the modules venv and ensurepip, which the local cloud is installed with; \
             on Debian and Ubuntu: apt install python3-venv"
        ),
        None => format!(
            "Python {}.{} or newer is needed for the local cloud, as python3 in PATH{}",
            OLDEST.0,
            OLDEST.1,
            if too_old.is_empty() { String::new() } else { format!(" ({})", too_old.join(", ")) }
        ),
    }))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn run(command: &mut Command, what: &str) -> Result<()> {
    let output = command
        .output()
        .await
        .map_err(|source| Error::Io { what: format!("{what}: the program could not be run"), source })?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    Err(Error::Command { what: what.to_owned(), output: files::tail_of(&printed, 30) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(parse_version("3.9").unwrap() < OLDEST);
        assert!(parse_version("3.11\n").unwrap() >= OLDEST);
        assert_eq!(parse_version("Python"), None);
    }
}
