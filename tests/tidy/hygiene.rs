//! Nothing unfinished, nothing skipped, nothing forgotten, nothing of the machine it was written on.

use crate::code::{Source, is_cfg_test, path_text};
use crate::none;
use crate::workspace::{files, read, root, rust_files, shown};
use std::fs;
use std::path::{Path, PathBuf};
use syn::visit::{self, Visit};
use syn::{
    Attribute, ExprCall, Ident, ImplItem, ItemConst, ItemEnum, ItemFn, ItemImpl, ItemMod, ItemStruct, ItemTrait,
    ItemType, Local, Macro, Pat, TraitItem, Visibility,
};

/// Where a test may sleep: the support library waits for things on behalf of tests in `tests/`, and crates that cannot
/// use it may do so in a loop.
#[derive(Clone, Copy, PartialEq)]
enum Sleep {
    Anywhere,
    InLoops,
    Nowhere,
}

/// What is searched for in a file.
struct Slips {
    sleep: Sleep,
    in_loop: bool,
    found: Vec<String>,
}

impl Slips {
    fn of(source: &Source, sleep: Sleep) -> Vec<String> {
        let mut slips = Self { sleep, in_loop: false, found: Vec::new() };
        slips.visit_file(&source.file);
        slips.found.into_iter().map(|slip| format!("{} has {slip}", source.path)).collect()
    }

    fn within(&mut self, test: bool, look: impl FnOnce(&mut Self)) {
        let before = self.sleep;
        if test && before == Sleep::Anywhere {
            self.sleep = Sleep::InLoops;
        }
        look(self);
        self.sleep = before;
    }

    fn looping(&mut self, in_loop: bool, look: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.in_loop, in_loop);
        look(self);
        self.in_loop = before;
    }
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|a| is_cfg_test(a) || a.path().segments.last().is_some_and(|name| name.ident == "test"))
}

impl<'ast> Visit<'ast> for Slips {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.within(is_test(&module.attrs), |slips| visit::visit_item_mod(slips, module));
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        self.within(is_test(&function.attrs), |slips| visit::visit_item_fn(slips, function));
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("ignore") {
            self.found.push("an ignored test".to_owned());
        }
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        let name = path_text(&call.path);
        if ["todo", "unimplemented", "dbg"].contains(&name.as_str()) {
            self.found.push(format!("{name}!"));
        }
    }

    fn visit_local(&mut self, local: &'ast Local) {
        // Only the compiler knows whether it drops a Result; `drop` and `map(drop)` are explicit.
        if matches!(local.pat, Pat::Wild(_)) {
            self.found.push("a value dropped by `let _ =`".to_owned());
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_for_loop(&mut self, expr: &'ast syn::ExprForLoop) {
        self.looping(true, |slips| visit::visit_expr_for_loop(slips, expr));
    }

    fn visit_expr_loop(&mut self, expr: &'ast syn::ExprLoop) {
        self.looping(true, |slips| visit::visit_expr_loop(slips, expr));
    }

    fn visit_expr_while(&mut self, expr: &'ast syn::ExprWhile) {
        self.looping(true, |slips| visit::visit_expr_while(slips, expr));
    }

    fn visit_expr_async(&mut self, expr: &'ast syn::ExprAsync) {
        self.looping(false, |slips| visit::visit_expr_async(slips, expr));
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let syn::Expr::Path(path) = call.func.as_ref()
            && path.path.segments.last().is_some_and(|name| name.ident == "sleep")
            && !(self.sleep == Sleep::Anywhere || self.sleep == Sleep::InLoops && self.in_loop)
        {
            self.found.push("a test that sleeps; wait for what you expect instead".to_owned());
        }
        visit::visit_expr_call(self, call);
    }
}

/// All Rust of the project, and where it may sleep.
fn sources() -> Vec<(PathBuf, Sleep)> {
    let tests = root().join("tests");
    let of = |dir: &str| rust_files(&root().join(dir));
    let all = ["functions", "infra", "localstack", "tests"].into_iter().flat_map(of);
    all.map(|path| {
        let in_tests = path.starts_with(&tests) && !path.starts_with(tests.join("src"));
        (path, if in_tests { Sleep::Nowhere } else { Sleep::Anywhere })
    })
    .collect()
}

#[test]
fn nothing_is_unfinished_ignored_or_dropped_and_no_test_sleeps() {
    none(sources().iter().flat_map(|(path, sleep)| Slips::of(&Source::read(path), *sleep)).collect());
}

#[test]
fn every_slip_is_found() {
    let slips = |text: &str, sleep| Slips::of(&Source::parse("x.rs", text), sleep).len();
    for slip in [
        "fn f() { todo!() }",
        "fn f() { g(|| unimplemented!(\"later\")) }",
        "#[test] #[ignore] fn f() {}",
        "#[tokio::test] #[ignore = \"slow\"] async fn f() {}",
        "fn f() { let _ = g(); }",
        "#[tokio::test] async fn f() { tokio::time::sleep(SECOND).await }",
        "#[cfg(test)] mod tests { fn f() { sleep(SECOND) } }",
    ] {
        assert_eq!(slips(slip, Sleep::Anywhere), 1, "{slip}");
    }
    let polling = "#[cfg(test)] mod tests { fn f() { while g() { sleep(SECOND) } } }";
    assert_eq!((slips(polling, Sleep::Anywhere), slips(polling, Sleep::Nowhere)), (0, 1));
    let helper = "async fn f() { tokio::time::sleep(SECOND).await; let _guard = g(); }";
    assert_eq!((slips(helper, Sleep::Anywhere), slips(helper, Sleep::Nowhere)), (0, 1));
}

#[test]
fn every_test_name_reads_as_a_sentence() {
    let mut names = Vec::new();
    for (path, _) in sources() {
        let mut tests = Tests(Vec::new());
        tests.visit_file(&Source::read(&path).file);
        names.extend(tests.0.into_iter().map(|name| (shown(&path), name)));
    }
    assert!(names.len() > 50, "tests went missing");
    let short = names.iter().filter(|(_, name)| name.starts_with("test_") || name.split('_').count() < 3);
    none(short.map(|(path, name)| format!("{path}: {name} says nothing about behaviour")).collect());
}

struct Tests(Vec<String>);

impl<'ast> Visit<'ast> for Tests {
    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if is_test(&function.attrs) {
            self.0.push(function.sig.ident.to_string());
        }
    }
}

/// Test files of a package that no test binary contains.
fn forgotten_tests(dir: &Path) -> Vec<String> {
    let manifest = read(&dir.join("Cargo.toml"));
    let value = |line: &str| line.split('"').nth(1).map(|path| dir.join(path));
    let declared = manifest.lines().filter(|line| line.trim_start().starts_with("path =")).filter_map(value);
    let mut open: Vec<PathBuf> = declared.chain([dir.join("src/lib.rs")]).collect();
    let mut compiled = Vec::new();
    while let Some(path) = open.pop() {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let within = path.parent().unwrap_or(dir);
        // The modules of a.rs are in a/, those of mod.rs, main.rs and lib.rs beside it.
        let within =
            if ["main", "lib", "mod"].contains(&stem.as_str()) { within.to_owned() } else { within.join(&stem) };
        for module in Source::read(&path).modules() {
            let files = [within.join(format!("{module}.rs")), within.join(&module).join("mod.rs")];
            open.extend(files.into_iter().filter(|file| file.is_file()));
        }
        compiled.push(path);
    }
    let forgotten = rust_files(dir).into_iter().filter(|path| !compiled.contains(path));
    forgotten.map(|path| format!("{} is in no test binary", shown(&path))).collect()
}

#[test]
fn no_test_file_is_forgotten() {
    none(forgotten_tests(&root().join("tests")));
}

#[test]
fn a_forgotten_test_file_is_found() {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("tidy-{}", std::process::id()));
    let write = |path: &str, text: &str| {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("Cargo.toml", "[[test]]\nname = \"a\"\npath = \"a/main.rs\"\n");
    write("src/lib.rs", "mod support;");
    write("src/support.rs", "");
    write("a/main.rs", "mod holds;");
    write("a/holds.rs", "mod late;");
    write("a/holds/late.rs", "");
    assert_eq!(forgotten_tests(&dir).len(), 0);
    write("a/lost.rs", "");
    write("b/main.rs", "");
    assert_eq!(forgotten_tests(&dir).len(), 2);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn no_file_names_a_place_of_one_machine() {
    // Spelled so that this file does not contain them.
    let places = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/tmp/bash", "_jobs")];
    let mut violations = Vec::new();
    for path in files(&root()) {
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for place in places.iter().filter(|place| text.contains(*place)) {
            violations.push(format!("{} contains {place}", shown(&path)));
        }
    }
    none(violations);
}

/// The most lines of a function, from its name to its end.
const LONGEST: usize = 70;

#[test]
fn every_file_and_public_item_says_what_it_is() {
    let dirs = ["functions", "infra", "localstack", "tests/src"];
    let paths = dirs.iter().flat_map(|dir| rust_files(&root().join(dir)));
    none(paths.flat_map(|path| Unexplained::of(&Source::read(&path).production())).collect());

    let of = |text: &str| Unexplained::of(&Source::parse("x.rs", text));
    for broken in [
        "pub fn f() {}",
        "/// It.\npub struct S; impl S { pub fn f() {} }",
        "mod m { pub struct S; }",
        "pub enum E {}",
        "pub const C: u8 = 1;",
        "/// It.\npub trait T { fn f(); }",
    ] {
        assert_eq!(of(&format!("//! It.\n{broken}")).len(), 1, "{broken}");
    }
    assert_eq!(of("fn f() {}").len(), 1);
    assert_eq!(of("//! It.\n/// It.\npub struct S { pub id: u8 } impl T for S { fn f() {} }").len(), 0);
}

/// Public items without a doc comment. A field or a variant needs none where its name and type suffice, which is why
/// this is no lint of the compiler.
struct Unexplained(Vec<String>);

impl Unexplained {
    fn of(source: &Source) -> Vec<String> {
        let mut all = Self(Vec::new());
        if !is_explained(&source.file.attrs) {
            all.0.push("the file".to_owned());
        }
        all.visit_file(&source.file);
        all.0.into_iter().map(|what| format!("{}: {what} does not say what it is", source.path)).collect()
    }

    fn see(&mut self, vis: &Visibility, attributes: &[Attribute], name: &Ident) {
        if matches!(vis, Visibility::Public(_)) && !is_explained(attributes) {
            self.0.push(name.to_string());
        }
    }
}

fn is_explained(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.path().is_ident("doc"))
}

impl<'ast> Visit<'ast> for Unexplained {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.see(&item.vis, &item.attrs, &item.sig.ident);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.see(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.see(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_const(&mut self, item: &'ast ItemConst) {
        self.see(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.see(&item.vis, &item.attrs, &item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.see(&item.vis, &item.attrs, &item.ident);
        for function in &item.items {
            if let TraitItem::Fn(function) = function {
                self.see(&item.vis, &function.attrs, &function.sig.ident);
            }
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        for function in item.items.iter().filter(|_| item.trait_.is_none()) {
            match function {
                ImplItem::Fn(function) => self.see(&function.vis, &function.attrs, &function.sig.ident),
                ImplItem::Const(constant) => self.see(&constant.vis, &constant.attrs, &constant.ident),
                _ => {}
            }
        }
    }
}

#[test]
fn no_function_of_what_runs_is_longer_than_a_screen() {
    let mut violations = Vec::new();
    for path in ["functions", "infra", "localstack"].iter().flat_map(|dir| files(&root().join(dir))) {
        let language = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if ["rs", "py"].contains(&language.as_str()) {
            violations.extend(too_long(&read(&path), &language).map(|name| format!("{}: {name}", shown(&path))));
        }
    }
    none(violations);
    let long = |line: &str| format!("{}\n", line).repeat(LONGEST);
    assert_eq!(too_long(&format!("    fn a() {{\n{}    }}\n", long("        b();")), "rs").count(), 1);
    assert_eq!(too_long(&format!("def a(b):\n{}\nc = 1\n", long("    b()")), "py").count(), 1);
    assert_eq!(too_long(&format!("fn a();\n{}fn b() {{}}\n", long("// c")), "rs").count(), 0);
}

/// The functions of a formatted source that are too long. Rust's end with a brace under their first letter, Python's
/// before the next line that is not indented deeper.
fn too_long(text: &str, language: &str) -> impl Iterator<Item = String> {
    let lines: Vec<&str> = text.lines().collect();
    let depth = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let words = line.trim_start();
        let begins = match language {
            "rs" => words.split_once("fn ").is_some_and(|(before, _)| {
                before.split_whitespace().all(|word| word.starts_with("pub") || ["async", "const"].contains(&word))
            }),
            _ => words.starts_with("def ") || words.starts_with("async def "),
        };
        let ends = |(_, after): &(usize, &&str)| match language {
            "rs" => **after == format!("{}}}", " ".repeat(depth(line))) || after.trim_end().ends_with("{}"),
            _ => !after.trim().is_empty() && depth(after) <= depth(line) && !after.trim_start().starts_with(')'),
        };
        let declared = language == "rs" && line.trim_end().ends_with(';');
        if !begins || declared {
            continue;
        }
        let rest = lines.iter().enumerate().skip(first + 1);
        // A declaration in a trait over several lines has no body.
        let body = rest.clone().find(|(_, after)| after.trim_end().ends_with(['{', ';']));
        if language == "rs"
            && !line.trim_end().ends_with('{')
            && body.is_some_and(|(_, after)| after.trim_end().ends_with(';'))
        {
            continue;
        }
        let last = rest.clone().find(ends).map_or(lines.len(), |(index, _)| index);
        let length = if language == "rs" { last + 1 - first } else { last - first };
        if length > LONGEST {
            found.push(format!(
                "{} has {length} lines, more than {LONGEST}",
                words.split(['(', '{']).next().unwrap_or_default()
            ));
        }
    }
    found.into_iter()
}
