//! The engine's virtual environment: pinned, with hashes, and shared by all stacks of a target directory.

use crate::error::{AtPath, Error};
use crate::files::{self, Lock};
use crate::{Progress, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// A version, as two numbers.
type Version = (u32, u32);

/// Pinned packages.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// The file that pins them.
    pub file: PathBuf,
    /// The oldest Python that they run on.
    pub oldest: Version,
    /// The first Python that they do not run on, where there is one.
    pub before: Option<Version>,
}

/// The environment's interpreter. Makes the environment on first need; of several processes that need it, one makes it
/// and the others wait.
pub async fn environment(cargo_target: &Path, requirements: &Requirements, progress: &Progress) -> Result<PathBuf> {
    let pins = fs::read(&requirements.file).at("reading", &requirements.file)?;
    let dir = cargo_target.join(format!("venv-{}", files::short_hash(&[&pins], 12)));
    if is_complete(&dir) {
        return Ok(interpreter(&dir));
    }
    let _lock = Lock::take(&dir.with_extension("lock"), progress).await?;
    if is_complete(&dir) {
        return Ok(interpreter(&dir));
    }
    let (python, version) = find(requirements).await?;
    progress(&format!("installing the engine for Python {version} (once)"));
    // What exists is unfinished, or its Python is gone.
    files::remove(&dir)?;
    let log = dir.with_extension("log");
    run(Command::new(&python).args(["-m", "venv"]).arg(&dir), "making the virtual environment", &log).await?;
    run(
        Command::new(interpreter(&dir))
            .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
            .args(["--require-hashes", "--requirement"])
            .arg(&requirements.file),
        "installing the engine's packages, for which PyPI has to be reached,",
        &log,
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

/// A Python that is new enough and can make virtual environments: its command and version. What is in PATH comes first,
/// then what pyenv keeps, in PATH or not.
async fn find(requirements: &Requirements) -> Result<(PathBuf, String)> {
    let in_path = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"].map(PathBuf::from);
    let mut unfit = Vec::new();
    let mut without_venv = None;
    for python in in_path.into_iter().chain(of_pyenv()) {
        let script = "import sys; print('%d.%d' % sys.version_info[:2])\nimport ensurepip, venv\nprint('venv')";
        let Ok(output) = Command::new(&python).args(["-c", script]).output().await else { continue };
        let printed = String::from_utf8_lossy(&output.stdout);
        let mut lines = printed.lines();
        let Some(version) = lines.next() else { continue };
        match parse_version(version) {
            Some(found) if requirements.fit(found) => {}
            Some(_) => {
                unfit.push(format!("{} is {version}", python.display()));
                continue;
            }
            None => continue,
        }
        if lines.next() == Some("venv") {
            return Ok((python, version.to_owned()));
        }
        without_venv.get_or_insert((python, version.to_owned()));
    }
    Err(Error::Missing(match without_venv {
        Some((python, version)) => format!(
            "{} ({version}) lacks the modules venv and ensurepip, which the local cloud is installed with; \
             on Debian and Ubuntu: apt install python3-venv",
            python.display()
        ),
        None => requirements.missing(&unfit),
    }))
}

impl Requirements {
    fn fit(&self, version: Version) -> bool {
        version >= self.oldest && self.before.is_none_or(|before| version < before)
    }

    fn missing(&self, unfit: &[String]) -> String {
        let (major, minor) = self.oldest;
        let wanted = match self.before {
            None => format!("Python {major}.{minor} or newer"),
            Some((next_major, next_minor)) => {
                format!("Python {major}.{minor} or newer, older than {next_major}.{next_minor},")
            }
        };
        let found = if unfit.is_empty() { String::new() } else { format!(" ({})", unfit.join(", ")) };
        format!(
            "{wanted} is needed for the local cloud: install one, in PATH or by pyenv (pyenv install {major}.{minor}){found}"
        )
    }
}

/// The interpreters that pyenv installed.
fn of_pyenv() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".pyenv"));
    let Some(root) = env::var_os("PYENV_ROOT").map(PathBuf::from).or(home) else { return Vec::new() };
    let Ok(versions) = fs::read_dir(root.join("versions")) else { return Vec::new() };
    let mut found: Vec<PathBuf> =
        versions.filter_map(|version| Some(version.ok()?.path().join("bin").join("python"))).collect();
    found.sort();
    found
}

fn parse_version(text: &str) -> Option<Version> {
    let (major, minor) = text.trim().split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn run(command: &mut Command, what: &str, log: &Path) -> Result<()> {
    let output = command
        .output()
        .await
        .map_err(|source| Error::Io { what: format!("{what}: the program could not be run"), source })?;
    if output.status.success() {
        return Ok(());
    }
    let printed = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].concat();
    Err(files::failed(what, &printed, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirements(oldest: Version, before: Option<Version>) -> Requirements {
        Requirements { file: PathBuf::from("requirements.txt"), oldest, before }
    }

    #[test]
    fn versions_compare_by_number() {
        let newer = requirements((3, 11), None);
        assert!(!newer.fit(parse_version("3.9").unwrap()));
        assert!(newer.fit(parse_version("3.11\n").unwrap()));
        assert!(!requirements((3, 12), Some((3, 14))).fit(parse_version("3.14").unwrap()));
        assert_eq!(parse_version("Python"), None);
    }

    #[test]
    fn what_is_missing_is_named_with_what_was_found() {
        let text = requirements((3, 12), Some((3, 14))).missing(&["python3 is 3.11".to_owned()]);
        assert!(text.contains("3.12 or newer, older than 3.14") && text.contains("python3 is 3.11"), "{text}");
    }
}
