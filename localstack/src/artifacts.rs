//! Builds the contexts' programs and packs them the way Lambda wants them.

use crate::error::{AtPath, Error};
use crate::files::{self, CargoTarget};
use crate::{Progress, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};
use tokio::process::Command;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

/// A packed `bootstrap`.
#[derive(Clone, Debug)]
pub struct Package {
    /// The context, which is the program's name.
    pub context: String,
    /// Hash of the program. The same program gives the same package.
    pub hash: String,
    /// The zip file.
    pub path: PathBuf,
}

impl Package {
    /// Its key in the packages' bucket.
    pub fn key(&self) -> String {
        format!("{}-{}.zip", self.context, self.hash)
    }
}

/// What a package of infra/package is, as its manifest says.
#[derive(Deserialize)]
struct Packed {
    file: String,
    program_sha256: String,
}

/// Builds every program of the workspace, in the profile and the target directory of the running one.
pub async fn build(target: &CargoTarget, progress: &Progress) -> Result<()> {
    progress("building");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--workspace", "--bins", "--profile", target.profile_name(), "--target-dir"])
        .arg(&target.dir)
        .current_dir(files::workspace());
    run("cargo build", &mut command).await
}

/// Builds and packs the programs for Lambda's own image, whose C library may be older than this machine's.
pub async fn pack_for_docker(
    target: &CargoTarget,
    contexts: &[String],
    build: bool,
    progress: &Progress,
) -> Result<Vec<Package>> {
    if contexts.is_empty() {
        return Ok(Vec::new());
    }
    progress("building for containers");
    let out = target.dir.join("docker");
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { std::env::consts::ARCH };
    let mut command = Command::new(files::workspace().join("infra").join("package"));
    command.args(["--arch", arch, "--out-dir"]).arg(&out).args((!build).then_some("--no-build")).args(contexts);
    run("infra/package", command.stdout(Stdio::null())).await?;
    let store = out.join("package");
    let mut manifest: BTreeMap<String, Packed> = files::read_json(&store.join("manifest.json"))?.unwrap_or_default();
    let package = |context: &String| {
        let Packed { file, program_sha256 } =
            manifest.remove(context).ok_or_else(|| Error::Template(format!("{context} is not packaged")))?;
        let hash = program_sha256.chars().take(16).collect();
        Ok(Package { context: context.clone(), hash, path: store.join(file) })
    };
    contexts.iter().map(package).collect()
}

/// Runs what builds: in a terminal it shows what it does, elsewhere only why it failed.
async fn run(what: &str, command: &mut Command) -> Result<()> {
    command.stdin(Stdio::null());
    // What cargo tells the program that it runs is no business of another cargo.
    for (name, _) in std::env::vars_os() {
        let told = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p))
        });
        if told {
            command.env_remove(name);
        }
    }
    let could_not = |source| Error::Io { what: format!("{what} could not be run"), source };
    if std::io::stderr().is_terminal() {
        let status = command.status().await.map_err(could_not)?;
        return if status.success() {
            Ok(())
        } else {
            Err(Error::Command { what: what.to_owned(), output: "see above".to_owned() })
        };
    }
    let output = command.output().await.map_err(could_not)?;
    if output.status.success() {
        return Ok(());
    }
    let printed = String::from_utf8_lossy(&output.stderr);
    Err(Error::Command { what: what.to_owned(), output: files::tail_of(&printed, 80) })
}

/// Packs the program of each context. Packages are kept under the target directory by the hash of their program, so
/// that the next stack finds them ready.
pub async fn pack(target: &CargoTarget, contexts: &[String]) -> Result<Vec<Package>> {
    let store = target.dir.join("lambda");
    fs::create_dir_all(&store).at("creating", &store)?;
    let mut tasks = Vec::new();
    for context in contexts {
        let (context, program, store) = (context.clone(), target.bin_dir().join(context), store.clone());
        tasks.push(tokio::task::spawn_blocking(move || pack_one(context, &program, &store)));
    }
    let mut packages = Vec::new();
    for task in tasks {
        packages.push(task.await.map_err(|e| Error::Engine(format!("packing was interrupted: {e}")))??);
    }
    forget_old(&store)?;
    Ok(packages)
}

fn pack_one(context: String, program: &Path, store: &Path) -> Result<Package> {
    if !program.exists() {
        return Err(Error::Template(format!(
            "a stack names the context `{context}`, but there is no program {}",
            program.display()
        )));
    }
    let mut bytes = Vec::new();
    File::open(program).and_then(|mut file| file.read_to_end(&mut bytes)).at("reading", program)?;
    let hash = files::short_hash(&[&bytes], 16);
    let path = store.join(format!("{context}-{hash}.zip"));
    if !path.exists() {
        let zipped = zip(&bytes).map_err(|source| Error::Io { what: format!("packing {context}"), source })?;
        files::write_atomically(&path, &zipped)?;
    } else {
        // In use, see `forget_old`.
        File::options()
            .append(true)
            .open(&path)
            .and_then(|f| f.set_modified(SystemTime::now()))
            .at("touching", &path)?;
    }
    Ok(Package { context, hash, path })
}

/// A zip with the program as `bootstrap`. The same bytes in give the same bytes out: no clock, no user.
fn zip(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::with_capacity(program.len() / 2)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        // It travels as far as the next process.
        .compression_level(Some(1))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    archive.start_file("bootstrap", options)?;
    archive.write_all(program)?;
    Ok(archive.finish()?.into_inner())
}

/// Removes packages that nobody has used for an hour. Younger ones may be about to be uploaded by somebody else.
fn forget_old(store: &Path) -> Result<()> {
    let old = SystemTime::now().checked_sub(Duration::from_secs(3_600));
    for entry in fs::read_dir(store).at("reading", store)? {
        let entry = entry.at("reading", store)?;
        let modified = entry.metadata().and_then(|meta| meta.modified()).ok();
        if old.zip(modified).is_some_and(|(old, modified)| modified < old) {
            files::remove(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_package() {
        let program = vec![7; 100_000];
        assert_eq!(zip(&program).unwrap(), zip(&program).unwrap());
        assert_ne!(zip(&program).unwrap(), zip(b"another").unwrap());
    }

    #[test]
    fn a_package_holds_an_executable_bootstrap() {
        let mut archive = zip::ZipArchive::new(Cursor::new(zip(b"#!/bin/sh\n").unwrap())).unwrap();
        let file = archive.by_name("bootstrap").unwrap();
        assert_eq!(file.unix_mode().unwrap() & 0o777, 0o755);
    }
}
