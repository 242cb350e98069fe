//! Contexts meet only through events, saga steps and HTTP, and their inner modules know nothing of infrastructure.

use crate::code::Source;
use crate::none;
use crate::workspace::{contexts, crate_dir, file_name, read, rust_files, shown};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The files every context has.
const FILES: [&str; 9] = [
    "Cargo.toml",
    "README.md",
    "src/domain.rs",
    "src/dynamo.rs",
    "src/handlers.rs",
    "src/lib.rs",
    "src/main.rs",
    "src/ports.rs",
    "src/usecases/mod.rs",
];
/// Files a context has only where it needs them: its clients of other contexts, queues and providers; what it logs for
/// others.
const OPTIONAL_FILES: [&str; 2] = ["src/clients.rs", "src/activity.rs"];
/// Modules that are split by aggregate, or by what they talk to, once they get large.
const FOLDERS: [&str; 4] = ["domain", "ports", "dynamo", "clients"];

#[test]
fn a_context_depends_on_contracts_and_kit_and_never_on_another_context() {
    let all = contexts();
    let manifests = all
        .iter()
        .flat_map(|context| foreign_dependencies(context, &read(&crate_dir(context).join("Cargo.toml")), &all));
    let sources = all.iter().flat_map(|context| {
        rust_files(&crate_dir(context)).into_iter().flat_map(|path| foreign_paths(context, &Source::read(&path), &all))
    });
    none(manifests.chain(sources).collect());
}

#[test]
fn a_dependency_on_another_context_is_found_however_it_is_written() {
    let all = ["points".to_owned(), "payments".to_owned(), "waiting-room".to_owned()];
    for broken in [
        "[dependencies]\npoints.workspace = true",
        "[dependencies]\nkit.workspace = true\nwaiting-room = { workspace = true }",
        "[dev-dependencies]\npoints = { path = \"../points\" }",
        "[dependencies.points]\nworkspace = true",
        "[dependencies]\nledger = { package = \"points\", path = \"../ledger\" }",
        "[dependencies]\nledger = { path = \"../points\" }",
        "[target.'cfg(unix)'.dependencies]\npoints.workspace = true",
    ] {
        assert_eq!(foreign_dependencies("payments", broken, &all).len(), 1, "{broken}");
    }
    let fine = "[package]\nname = \"payments\"\n[dependencies]\ncontracts.workspace = true\nkit.workspace = true";
    assert_eq!(foreign_dependencies("payments", fine, &all), Vec::<String>::new());

    for broken in ["use points::domain::Kind;", "use {points::domain, kit::Fault};", "fn f() { waiting_room::x() }"] {
        assert_eq!(foreign_paths("payments", &Source::parse("x.rs", broken), &all).len(), 1, "{broken}");
    }
    let fine = "use payments::x; use crate::points::y; fn f(points: u8) -> u8 { points }";
    assert_eq!(foreign_paths("payments", &Source::parse("x.rs", fine), &all), Vec::<String>::new());
}

fn foreign_dependencies(context: &str, manifest: &str, contexts: &[String]) -> Vec<String> {
    let mut depends_on = BTreeSet::new();
    let mut in_dependencies = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            in_dependencies = header.ends_with("dependencies");
            if let Some((section, name)) = header.rsplit_once('.')
                && section.ends_with("dependencies")
            {
                depends_on.insert(name.to_owned());
            }
        } else if in_dependencies {
            depends_on.extend(line.split(['.', '=', ' ']).next().map(str::to_owned));
            let quoted = |key: &str| line.split_once(key)?.1.split('"').nth(1)?.rsplit('/').next().map(str::to_owned);
            // A renamed dependency has its true name in one or the other.
            depends_on.extend(quoted("package").or_else(|| quoted("path")));
        }
    }
    let foreign = contexts.iter().filter(|other| *other != context && depends_on.contains(*other));
    foreign.map(|other| format!("{context}/Cargo.toml depends on the context {other}")).collect()
}

fn foreign_paths(context: &str, source: &Source, contexts: &[String]) -> Vec<String> {
    let others: Vec<String> =
        contexts.iter().filter(|other| *other != context).map(|other| other.replace('-', "_")).collect();
    source
        .paths()
        .into_iter()
        .filter(|path| path.split_once("::").is_some_and(|(first, _)| others.iter().any(|other| other == first)))
        .map(|path| format!("{} names {path}", source.path))
        .collect()
}

/// The consumers, in the words that would name them.
const CONSUMERS: [&str; 6] = ["notion", "alimtalk", "kakao", "partner", "cashreceipt", "dataplatform"];

/// The consumers that a text names, however it is spelt.
fn named_consumers(text: &str) -> Vec<&'static str> {
    let letters: String = text.chars().filter(|c| c.is_alphanumeric() || *c == '.').collect();
    let letters = letters.to_lowercase();
    CONSUMERS.into_iter().filter(|name| letters.contains(name)).collect()
}

#[test]
fn no_publisher_knows_its_consumers() {
    let mut violations = Vec::new();
    let publishers = contexts().into_iter().filter(|context| context != "notifications");
    for name in publishers.chain(["contracts".to_owned(), "kit".to_owned()]) {
        for path in rust_files(&crate_dir(&name).join("src")) {
            let names = named_consumers(&read(&path));
            violations.extend(names.into_iter().map(|consumer| format!("{} names {consumer}", shown(&path))));
        }
    }
    none(violations);
    let consumer = read(&crate_dir("notifications").join("src/clients.rs"));
    assert!(named_consumers(&consumer).len() > 3);
    assert_eq!(named_consumers("fn to_data_platform() { CashReceipts }"), ["cashreceipt", "dataplatform"]);
}

#[test]
fn domain_ports_and_use_cases_know_neither_aws_nor_environment_nor_clock_nor_messages() {
    let mut looked_at = 0;
    let violations = inner_modules().into_iter().flat_map(|path| {
        looked_at += 1;
        outside_names(&Source::read(&path))
    });
    let violations = violations.collect();
    none(violations);
    assert!(looked_at > 30, "only {looked_at} files");
}

#[test]
fn the_outside_is_found_in_an_inner_module_however_it_is_named() {
    for broken in [
        "use aws_sdk_dynamodb::Client;",
        "fn f(event: lambda_runtime::LambdaEvent<()>) {}",
        "fn f() -> String { std::env::var(\"X\").unwrap() }",
        "use std::{env, fmt};",
        "use std::time::{Duration, SystemTime};",
        "fn f() { tokio::time::Instant::now(); }",
        "fn f() { g(kit::now()) }",
        "use kit::{Fault, now};",
        "use kit::queue::Message;",
        "use kit::{Fault, StepCall};",
        "fn f() { println!(\"{}\", kit::now()); }",
    ] {
        assert!(!outside_names(&Source::parse("x.rs", broken)).is_empty(), "{broken}");
    }
    let fine = "//! Not std::env.\nuse std::time::Duration;\nfn f(call: Call) { g(call.now); }\n\
                #[cfg(test)] mod tests { use std::env; }";
    assert_eq!(outside_names(&Source::parse("x.rs", fine)), Vec::<String>::new());
}

fn inner_modules() -> Vec<PathBuf> {
    contexts().iter().flat_map(|context| inner_modules_of(context)).collect()
}

fn inner_modules_of(context: &str) -> Vec<PathBuf> {
    let src = crate_dir(context).join("src");
    let mut paths = rust_files(&src.join("usecases"));
    for file in ["domain", "ports"] {
        paths.push(src.join(format!("{file}.rs")));
        paths.extend(Some(src.join(file)).filter(|dir| dir.is_dir()).iter().flat_map(|dir| rust_files(dir)));
    }
    paths
}

/// The environment, the clock, and calls that are not unpacked yet: messages, steps and requests.
const OUTSIDE: [&str; 6] = ["std::env", "env::", "kit::now", "kit::queue", "kit::StepCall", "kit::Call"];

fn outside_names(source: &Source) -> Vec<String> {
    let outside = |path: &str| {
        path.split("::").any(|name| {
            name.starts_with("aws_") || name.starts_with("lambda_") || ["SystemTime", "Instant"].contains(&name)
        }) || OUTSIDE.iter().any(|start| path.starts_with(start))
    };
    let found = source.production().paths().into_iter().filter(|path| outside(path));
    found.map(|path| format!("{} names {path}", source.path)).collect()
}

#[test]
fn every_context_has_the_same_files() {
    let mut violations = Vec::new();
    for context in contexts() {
        let dir = crate_dir(&context);
        let missing = FILES.iter().filter(|file| !dir.join(file).is_file());
        violations.extend(missing.map(|file| format!("{context} has no {file}")));
        for path in rust_files(&dir) {
            let file = path.strip_prefix(&dir).unwrap().display().to_string();
            let cut = FOLDERS.iter().any(|of| file.starts_with(&format!("src/{of}/")));
            let known = cut || FILES.contains(&file.as_str()) || OPTIONAL_FILES.contains(&file.as_str());
            if !known && !file.starts_with("src/usecases/") {
                violations
                    .push(format!("{} is a file no other context has; {OPTIONAL_FILES:?} are there", shown(&path)));
            }
        }
    }
    none(violations);
}

#[test]
fn what_comes_in_knows_nothing_of_what_goes_out() {
    let mut violations = Vec::new();
    for context in contexts() {
        let handlers = crate_dir(&context).join("src/handlers.rs");
        for path in inner_modules_of(&context).into_iter().chain([handlers]) {
            violations.extend(outbound_names(&Source::read(&path)));
        }
    }
    none(violations);
    for broken in
        ["use crate::dynamo::Store;", "use crate::{clients::Queue, ports::Send};", "fn f() { crate::dynamo::key() }"]
    {
        assert_eq!(outbound_names(&Source::parse("x.rs", broken)).len(), 1, "{broken}");
    }
}

fn outbound_names(source: &Source) -> Vec<String> {
    let outbound = |path: &String| ["crate::dynamo", "crate::clients"].iter().any(|file| path.starts_with(file));
    let found = source.production().paths().into_iter().filter(outbound);
    found.map(|path| format!("{} names {path}", source.path)).collect()
}

#[test]
fn every_use_case_is_a_module() {
    let mut violations = Vec::new();
    for context in contexts() {
        let dir = crate_dir(&context).join("src/usecases");
        let declared = Source::read(&dir.join("mod.rs")).modules();
        for path in rust_files(&dir) {
            let name = file_name(&path).trim_end_matches(".rs").to_owned();
            if name != "mod" && !declared.contains(&name) {
                violations.push(format!("{} is no module of usecases", shown(&path)));
            }
        }
    }
    none(violations);
}
