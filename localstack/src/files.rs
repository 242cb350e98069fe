//! Where things are, and writing them so that no reader gets half a file.

use crate::error::{AtPath, Error};
use crate::{Progress, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::env;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

/// The workspace this crate was built in.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// Where cargo put the running program: target directory and profile directory name.
pub struct CargoTarget {
    pub dir: PathBuf,
    /// `debug`, `release` or a profile's name.
    pub profile: String,
}

impl CargoTarget {
    /// From the path of the running program, which is right however cargo was configured. A program that was moved
    /// elsewhere falls back on the workspace's default.
    pub fn of_this_program() -> Self {
        env::current_exe()
            .ok()
            .and_then(|exe| Self::of(&exe))
            .unwrap_or_else(|| Self { dir: workspace().join("target"), profile: "debug".to_owned() })
    }

    fn of(exe: &Path) -> Option<Self> {
        let mut profile = exe.parent()?;
        // Test programs are one deeper.
        if profile.file_name()? == "deps" {
            profile = profile.parent()?;
        }
        let dir = profile.parent()?;
        // Cargo marks its target directories, older ones with their compiler's description only.
        let cargos = dir.join("CACHEDIR.TAG").exists() || dir.join(".rustc_info.json").exists();
        cargos.then(|| Self { dir: dir.to_owned(), profile: profile.file_name()?.to_str()?.to_owned() }.into())?
    }

    /// The directory of the built programs.
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.join(&self.profile)
    }

    /// The profile as cargo's argument names it.
    pub fn profile_name(&self) -> &str {
        if self.profile == "debug" { "dev" } else { &self.profile }
    }
}

/// A lock between processes, held until it is dropped or the process ends.
pub struct Lock(#[expect(dead_code, reason = "holds the lock as long as it is open")] File);

impl Lock {
    /// Waits for the lock file at `path`.
    pub async fn take(path: &Path, progress: &Progress) -> Result<Self> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).at("creating", dir)?;
        }
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path).at("opening", path)?;
        match file.try_lock() {
            Ok(()) => return Ok(Self(file)),
            Err(TryLockError::WouldBlock) => progress("waiting for another process to finish"),
            Err(TryLockError::Error(error)) => return Err(Error::io("locking", path, error)),
        }
        let waited = tokio::task::spawn_blocking(move || file.lock().map(|()| file)).await;
        match waited {
            Ok(locked) => Ok(Self(locked.at("locking", path)?)),
            Err(error) => Err(Error::Engine(format!("waiting for {} was interrupted: {error}", path.display()))),
        }
    }
}

/// A name beside `path` that no other process or thread uses.
fn beside(path: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{}.new", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

/// Writes a file in one step: readers see the old one or the new one.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let new = beside(path);
    fs::write(&new, content).at("writing", &new)?;
    fs::rename(&new, path).at("writing", path)
}

/// Writes a value as JSON, in one step.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|e| Error::Damaged(format!("{}: {e}", path.display())))?;
    text.push(b'\n');
    write_atomically(path, &text)
}

/// Reads a JSON file, `None` when there is none.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|e| Error::Damaged(format!("{} is damaged ({e}); remove it and start again", path.display()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("reading", path, error)),
    }
}

/// Writes a file that only its owner may read, unless it exists already. Of several processes that try at once one
/// wins, and none ever reads half a file.
pub fn write_secret_once(path: &Path, content: &[u8]) -> Result<()> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).at("creating", dir)?;
    }
    let new = beside(path);
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new).at("creating", &new)?;
    file.write_all(content).at("writing", &new)?;
    // A hard link, unlike a rename, refuses to replace what is there.
    let linked = match fs::hard_link(&new, path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(Error::io("creating", path, error)),
        _ => Ok(()),
    };
    fs::remove_file(&new).at("removing", &new)?;
    linked
}

/// Removes a file or directory. A missing one is success.
pub fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("removing", path, error)),
        _ => Ok(()),
    }
}

/// The last lines of a text file, or why it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read_to_string(path) {
        Ok(text) => tail_of(&text, lines),
        Err(error) => format!("({} cannot be read: {error})", path.display()),
    }
}

/// The last lines of a text.
fn tail_of(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// A program that failed. All its output is kept in `log`; the most telling line is shown.
pub fn failed(what: &str, printed: &str, log: &Path) -> Error {
    let line = telling_line(printed);
    let kept = match write_atomically(log, printed.as_bytes()) {
        Ok(()) => format!("all it said is in {}", log.display()),
        Err(error) => format!("all it said is lost ({})", error.chain()),
    };
    Error::Command { what: what.to_owned(), why: format!("{line}; {kept}") }
}

/// The most telling line of a log: the last one that calls itself an error, or the last one.
pub fn telling_line(log: &str) -> String {
    let lines = || log.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let error = |line: &&str| line.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("error"));
    let line = lines().find(error).or_else(|| lines().next()).unwrap_or("it printed nothing");
    line.chars().take(400).collect()
}

/// The first `digits` hexadecimal digits of a SHA-256 sum.
pub fn short_hash(parts: &[&[u8]], digits: usize) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        // The length keeps ("ab", "c") and ("a", "bc") apart.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    let mut text: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tells_where_one_part_ends() {
        assert_ne!(short_hash(&[b"ab", b"c"], 12), short_hash(&[b"a", b"bc"], 12));
        assert_eq!(short_hash(&[b"ab", b"c"], 12), short_hash(&[b"ab", b"c"], 12));
        assert_eq!(short_hash(&[b"x"], 12).len(), 12);
    }

    #[test]
    fn a_secret_is_written_once_and_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = CargoTarget::of_this_program().dir.join(format!("test-files-{}", process::id()));
        let path = dir.join("secret");
        write_secret_once(&path, b"first").unwrap();
        write_secret_once(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
        remove(&dir).unwrap();
        remove(&dir).unwrap();
    }

    #[test]
    fn a_tail_is_the_end() {
        assert_eq!(tail_of("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail_of("a", 5), "a");
    }

    #[test]
    fn the_most_telling_line_of_a_log_is_shown() {
        let traceback =
            "Traceback (most recent call last):\n  File \"x\"\nModuleNotFoundError: No module named 'x'\n\n";
        assert_eq!(telling_line(traceback), "ModuleNotFoundError: No module named 'x'");
        assert_eq!(telling_line("ERROR: no such package\nWARNING: newer pip\n"), "ERROR: no such package");
        assert_eq!(telling_line(" \n"), "it printed nothing");
    }
}
