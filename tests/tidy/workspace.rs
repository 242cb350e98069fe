//! Paths of the workspace, and their text.

use std::fs;
use std::path::{Path, PathBuf};

/// The crates in `functions/` that are no context.
const SHARED: [&str; 2] = ["contracts", "kit"];

/// The repository's root.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the root").to_owned()
}

/// The names of the contexts: the folders of `functions/` besides the shared crates.
pub fn contexts() -> Vec<String> {
    let mut names: Vec<String> = entries(&root().join("functions"))
        .iter()
        .filter(|path| path.join("Cargo.toml").is_file())
        .map(|path| file_name(path))
        .filter(|name| !SHARED.contains(&name.as_str()))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "contexts went missing: {names:?}");
    names
}

/// The folder of a context, or of another crate in `functions/`.
pub fn crate_dir(name: &str) -> PathBuf {
    root().join("functions").join(name)
}

/// A file's text.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The text of a file given from the root.
pub fn text(path: &str) -> String {
    read(&root().join(path))
}

/// A path as people write it: from the root.
pub fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What is in a folder, in order.
pub fn entries(dir: &Path) -> Vec<PathBuf> {
    let read = fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = read.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// All files below a folder, without build output and without what tools keep in hidden folders.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in entries(dir) {
        let name = file_name(&path);
        let left_out = name == "target" || (name.starts_with('.') && ![".cargo", ".github"].contains(&name.as_str()));
        match path.is_dir() {
            true if !left_out => found.extend(files(&path)),
            true => {}
            false => found.push(path),
        }
    }
    found
}

/// All Rust files below a folder.
pub fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let found: Vec<PathBuf> =
        files(dir).into_iter().filter(|path| path.extension().is_some_and(|end| end == "rs")).collect();
    assert!(!found.is_empty(), "no Rust below {}", dir.display());
    found
}

/// `reserve-seats` as `ReserveSeats`.
pub fn pascal(kebab: &str) -> String {
    kebab
        .split('-')
        .map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
        })
        .collect()
}

/// `reserve_seats` as `reserve-seats`.
pub fn kebab(snake: &str) -> String {
    snake.replace('_', "-")
}
