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
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

/// A packed `bootstrap`.
#[derive(Clone, Debug)]
pub struct Package {
    /// The context, which is the program's name.
    pub context: String,
    /// Hash of the program. The same program gives the same package.
    pub hash: String,
    pub path: PathBuf,
}

impl Package {
    /// Its key in the packages' bucket.
    pub fn key(&self) -> String {
        format!("{}-{}.zip", self.context, self.hash)
    }
}

/// A package of infra/package, as its manifest describes it.
#[derive(Deserialize)]
struct Packed {
    file: String,
    program_sha256: String,
}

/// Builds the programs of the contexts, and this one, in the profile and the target directory of the running one.
/// Stacks do not need the other programs of the workspace, which take as long to build as all of these.
pub async fn build(target: &CargoTarget, contexts: &[String], progress: &Progress) -> Result<()> {
    progress("building");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--profile", target.profile_name(), "--target-dir"]).arg(&target.dir);
    // Cargo would refuse all of them because of a missing one; packing names that one.
    let there = |name: &&String| files::workspace().join("functions").join(name).exists();
    for program in contexts.iter().filter(there).map(String::as_str).chain(["local"]) {
        command.args(["--bin", program]);
    }
    command.current_dir(files::workspace());
    run("cargo build", &mut command, &target.dir.join("build.log")).await
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
    run("infra/package", command.stdout(Stdio::null()), &target.dir.join("package.log")).await?;
    let store = out.join("package");
    let mut manifest: BTreeMap<String, Packed> = files::read_json(&store.join("manifest.json"))?.unwrap_or_default();
    let package = |context: &String| {
        let Packed { file, program_sha256 } = manifest
            .remove(context)
            .ok_or_else(|| Error::Template(format!("{context} is not packaged; leave out --no-build")))?;
        let hash = program_sha256.chars().take(16).collect();
        Ok(Package { context: context.clone(), hash, path: store.join(file) })
    };
    contexts.iter().map(package).collect()
}

/// Runs a build command: in a terminal it shows its progress, elsewhere only why it failed, and keeps the rest in
/// `log`.
async fn run(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    command.stdin(Stdio::null());
    // What cargo sets for the program that it runs must not reach another cargo.
    for (name, _) in std::env::vars_os() {
        let is_cargos = name.to_str().is_some_and(|name| {
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|p| name.starts_with(p))
        });
        if is_cargos {
            command.env_remove(name);
        }
    }
    let could_not = |source| Error::Io { what: format!("{what} could not be run"), source };
    if std::io::stderr().is_terminal() {
        let status = command.status().await.map_err(could_not)?;
        return if status.success() {
            Ok(())
        } else {
            Err(Error::Command { what: what.to_owned(), why: "see above".to_owned() })
        };
    }
    let output = command.output().await.map_err(could_not)?;
    if output.status.success() {
        return Ok(());
    }
    Err(files::failed(what, &String::from_utf8_lossy(&output.stderr), log))
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
            "a stack names the context `{context}`, but there is no program {}: leave out --no-build to have it built",
            program.display()
        )));
    }
    let mut bytes = Vec::new();
    File::open(program).and_then(|mut file| file.read_to_end(&mut bytes)).at("reading", program)?;
    if !is_whole_program(&bytes) {
        return Err(Error::Damaged(format!(
            "the program {} is half-written, which cargo does not notice: cargo clean --package {context}, and start again",
            program.display()
        )));
    }
    let hash = files::short_hash(&[&bytes], 16);
    let path = store.join(format!("{context}-{hash}.zip"));
    if !is_whole_package(&path, bytes.len()) {
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

/// Whether a program is as long as its header states. An interrupted linker, or a full disk, leaves less.
fn is_whole_program(bytes: &[u8]) -> bool {
    // ELF, 64 bits, little-endian, as on Linux: the section table is the last thing in the file. Of other formats
    // (macOS) only an empty file is known to be too short.
    if !bytes.starts_with(b"\x7fELF\x02\x01") {
        return !(bytes.is_empty() || cfg!(target_os = "linux"));
    }
    let number = |at: usize, width: usize| {
        let field = bytes.get(at..at + width)?;
        Some(field.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)))
    };
    let end = || number(0x28, 8)?.checked_add(number(0x3A, 2)? * number(0x3C, 2)?);
    end().is_some_and(|end| end <= bytes.len() as u64)
}

/// Whether there is a complete package of a program of this size: the zip's directory is the last thing in the file.
fn is_whole_package(path: &Path, size: usize) -> bool {
    let Some(mut package) = File::open(path).ok().and_then(|file| ZipArchive::new(file).ok()) else { return false };
    package.by_name("bootstrap").is_ok_and(|program| program.size() == size as u64)
}

/// A zip with the program as `bootstrap`. The same bytes in give the same bytes out: no clock, no user.
fn zip(program: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::with_capacity(program.len() / 2)));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        // It only goes to a process on this machine.
        .compression_level(Some(1))
        .last_modified_time(DateTime::default())
        .unix_permissions(0o755);
    archive.start_file("bootstrap", options)?;
    archive.write_all(program)?;
    Ok(archive.finish()?.into_inner())
}

/// Removes packages that were not used for an hour. Younger ones may be about to be uploaded by another process.
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
    fn a_program_without_its_end_is_not_whole() {
        let program = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(is_whole_program(&program));
        assert!(!is_whole_program(&[]), "cargo made the file and was killed");
        if cfg!(target_os = "linux") {
            assert!(!is_whole_program(&program[..program.len() - 1]));
            assert!(!is_whole_program(&program[..0x30]), "not even the header");
            assert!(!is_whole_program(&vec![0; program.len()]), "space was made for it, and no more");
        }
    }

    #[test]
    fn a_package_without_its_end_is_made_again() {
        let dir = CargoTarget::of_this_program().dir.join(format!("test-packages-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("items");
        fs::write(&program, [b"\x7fELF\x02\x01".as_slice(), &[0; 1_000]].concat()).unwrap();
        let pack = || pack_one("items".to_owned(), &program, &dir).unwrap();
        let whole = fs::read(pack().path).unwrap();
        fs::write(pack().path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(fs::read(pack().path).unwrap().len(), whole.len());
        files::remove(&dir).unwrap();
    }

    #[test]
    fn a_package_holds_an_executable_bootstrap() {
        let mut archive = ZipArchive::new(Cursor::new(zip(b"#!/bin/sh\n").unwrap())).unwrap();
        let file = archive.by_name("bootstrap").unwrap();
        assert_eq!(file.unix_mode().unwrap() & 0o777, 0o755);
    }
}
