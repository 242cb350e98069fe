//! `cargo stacks`: writes the stacks' templates and the API's description; with `--check` only lists those that are out
//! of date.

use std::env;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let only_check = match env::args().nth(1).as_deref() {
        None => false,
        Some("--check") => true,
        Some(other) => {
            eprintln!("stacks: {other} is no option; there is --check");
            return ExitCode::from(2);
        }
    };
    match run(&programs::root(), only_check) {
        Ok(()) => ExitCode::SUCCESS,
        Err(lines) => {
            lines.iter().for_each(|line| eprintln!("stacks: {line}"));
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, only_check: bool) -> Result<(), Vec<String>> {
    let files = stacks::make(root).map_err(|mistakes| mistakes.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    let differs = |(path, text): &&(String, String)| fs::read_to_string(root.join(path)).ok().as_deref() != Some(text);
    let stale: Vec<&(String, String)> = files.iter().filter(differs).collect();
    let orphans = orphans(root, &files);
    if only_check {
        let stale = stale.iter().map(|(path, _)| path).chain(&orphans);
        let lines: Vec<String> =
            stale.map(|path| format!("{path} is not what its sources say: run cargo stacks")).collect();
        return if lines.is_empty() { Ok(()) } else { Err(lines) };
    }
    for path in orphans {
        fs::remove_file(root.join(&path)).map_err(|error| vec![format!("{path} cannot be removed: {error}")])?;
        println!("{path} removed: no source makes it any more");
    }
    for (path, text) in stale {
        let to = root.join(path);
        let made = to.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&to, text));
        made.map_err(|error| vec![format!("{path} cannot be written: {error}")])?;
        println!("{path}");
    }
    Ok(())
}

/// Stacks of contexts that no longer exist.
fn orphans(root: &Path, made: &[(String, String)]) -> Vec<String> {
    let entries = fs::read_dir(root.join("infra/stacks")).into_iter().flatten().flatten();
    let paths = entries.map(|entry| format!("infra/stacks/{}", entry.file_name().to_string_lossy()));
    paths.filter(|path| !made.iter().any(|(made, _)| made == path)).collect()
}
