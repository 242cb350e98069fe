//! The modules of the local cloud: each imports only those below it.

use crate::code::Source;
use crate::none;
use crate::workspace::{root, rust_files};
use std::path::Path;

/// From the ground up. `lib.rs` is above all of them, and `main.rs` starts the last.
const MODULES: [&str; 12] =
    ["error", "files", "console", "http", "tokens", "engine", "sink", "driver", "tools", "audit", "demo", "cli"];

#[test]
fn no_module_of_the_local_cloud_imports_one_above_it() {
    let src = root().join("localstack/src");
    let sources: Vec<Source> = rust_files(&src).iter().map(|path| Source::read(path)).collect();
    none(sources.iter().flat_map(upward).collect());
    for (file, broken) in [
        ("engine/info.rs", "use crate::sink::Target;"),
        ("files.rs", "use crate::{Result, driver::stack};"),
        ("audit/checks.rs", "fn f() { crate::cli::run() }"),
        ("stray.rs", "fn f() {}"),
    ] {
        assert_eq!(upward(&Source::parse(&format!("localstack/src/{file}"), broken)).len(), 1, "{broken}");
    }
    let fine = "use crate::Result; use crate::files::Lock; use crate::error::{AtPath, Error};";
    assert_eq!(upward(&Source::parse("localstack/src/driver/stack.rs", fine)), Vec::<String>::new());
}

fn upward(source: &Source) -> Vec<String> {
    let inside = Path::new(&source.path).strip_prefix("localstack/src").unwrap();
    let name = inside.iter().next().unwrap_or_default().to_string_lossy();
    let name = name.trim_end_matches(".rs");
    if ["lib", "main"].contains(&name) {
        return Vec::new();
    }
    let Some(floor) = MODULES.iter().position(|module| *module == name) else {
        return vec![format!("{} is in no module of the order", source.path)];
    };
    let above = |path: &String| {
        let named = path.strip_prefix("crate::")?.split("::").next()?;
        (MODULES.iter().position(|module| *module == named)? > floor).then(|| format!("{} imports {path}", source.path))
    };
    source.production().paths().iter().filter_map(above).collect()
}
