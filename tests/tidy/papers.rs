//! The documents: a short first page, and no dead references.

use crate::none;
use crate::workspace::{contexts, file_name, files, read, root, shown, text};
use std::collections::BTreeSet;
use std::path::Path;

/// The most lines of the first page.
const FIRST_PAGE: usize = 120;
/// The page that explains the marks.
const MARKS: &str = "tests/README.md";

#[test]
fn the_readme_is_short_and_names_every_crate() {
    let readme = text("README.md");
    let lines = readme.lines().count();
    assert!(lines <= FIRST_PAGE, "README.md has {lines} lines: what is not for everybody goes to where it is used");
    let others = ["contracts", "kit", "generator", "programs", "localstack", "tests"].map(str::to_owned);
    let names = contexts().into_iter().chain(others);
    none(names.filter(|name| !readme.contains(name)).map(|name| format!("README.md does not name {name}")).collect());
}

#[test]
fn links_and_paths_in_the_papers_lead_somewhere() {
    let papers = files(&root()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    none(papers.flat_map(|path| lost(&shown(&path), &read(&path))).collect());
}

#[test]
fn what_leads_nowhere_is_found() {
    for broken in [
        "[a](nothing.md)",
        "[a](RUNBOOK.md#no-such-part)",
        "[a](#no-such-part)",
        "[a](../no/such.rs)",
        "see `tests/none.rs`",
        "see `functions/<context>/none.yaml`",
    ] {
        assert_eq!(lost("infra/X.md", broken).len(), 1, "{broken}");
    }
    for fine in [
        "[a](RUNBOOK.md), [b](https://example.com/x.md), `functions/<context>/stack.yaml`, `tests/store`",
        "# The end\n[a](#the-end)\n```sh\nx](y)\n```",
    ] {
        assert_eq!(lost("infra/X.md", fine), Vec::<String>::new());
    }
}

#[test]
fn every_mark_in_the_code_is_explained_and_what_shows_a_requirement_is_there() {
    let page = text(MARKS);
    let rows: Vec<Vec<&str>> = page.lines().filter_map(|line| line.strip_prefix("| ")).map(cells).collect();
    let explained: BTreeSet<&str> = rows.iter().map(|row| row[0]).filter(|cell| is_mark(cell)).collect();
    assert!(explained.len() > 30, "the tables of marks in {MARKS} are not where they were");
    let ends = ["rs", "yaml", "md", "json", "py"];
    let sources =
        files(&root()).into_iter().filter(|path| path.extension().is_some_and(|end| ends.iter().any(|e| end == *e)));
    let mut violations: Vec<String> = sources
        .flat_map(|path| {
            let text = read(&path);
            let marks = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| is_mark(word));
            let unknown: BTreeSet<String> = marks.filter(|mark| !explained.contains(mark)).map(str::to_owned).collect();
            unknown.into_iter().map(move |mark| format!("{}: {MARKS} does not explain {mark}", shown(&path)))
        })
        .collect();
    for row in rows.iter().filter(|row| row.len() == 3 && row[0].starts_with('R') && is_mark(row[0])) {
        violations.extend(not_there(row[2]).map(|suite| format!("{MARKS}, {}: there is no {suite}", row[0])));
    }
    none(violations);
}

/// `R07`, `I3`, `I10`.
fn is_mark(word: &str) -> bool {
    let digits = |text: &str, counts: &[usize]| {
        counts.contains(&text.len()) && !text.starts_with("00") && text.bytes().all(|b| b.is_ascii_digit())
    };
    word.strip_prefix('R').is_some_and(|rest| digits(rest, &[2]))
        || word.strip_prefix('I').is_some_and(|rest| digits(rest, &[1, 2]))
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_end_matches('|').split('|').map(str::trim).collect()
}

/// Of suites and their modules, as in `` `saga` `payments`, `faults`; `outages` ``, those that are not in `tests`. A
/// word is a suite if there is one of that name, and a module of the last suite otherwise.
fn not_there(shown_by: &str) -> impl Iterator<Item = String> {
    let mut suite = String::new();
    shown_by
        .split('`')
        .skip(1)
        .step_by(2)
        .filter_map(|word| {
            if root().join("tests").join(word).join("main.rs").is_file() {
                suite = word.to_owned();
                return None;
            }
            let module = format!("tests/{suite}/{word}.rs");
            (!root().join(&module).is_file()).then_some(module)
        })
        .collect::<Vec<_>>()
        .into_iter()
}

/// Links and paths of a page that do not exist.
fn lost(page: &str, text: &str) -> Vec<String> {
    let here = root().join(page);
    let dir = here.parent().unwrap_or(&here);
    let prose = prose(text);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
    let links = targets.filter(|target| !target.starts_with("http")).filter(|target| {
        let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
        let there = if file.is_empty() { None } else { Some(dir.join(file)) };
        if there.as_ref().is_some_and(|path| !path.exists()) {
            return true;
        }
        !anchor.is_empty() && !anchors(&there.map_or_else(|| text.to_owned(), |path| read(&path))).contains(anchor)
    });
    let paths = prose.split('`').skip(1).step_by(2).filter(|word| {
        let ours = ["functions/", "infra/", "localstack/", "tests/"].iter().any(|dir| word.starts_with(dir));
        ours && !word.contains([' ', '*', '…']) && !of_all_contexts(word).iter().any(|path| root().join(path).exists())
    });
    links.chain(paths).map(|target| format!("{page} leads to {target}, which is not there")).collect()
}

/// A path; with `<context>` in it, that of each context.
fn of_all_contexts(path: &str) -> Vec<String> {
    contexts().iter().map(|context| path.replace("<context>", context)).collect()
}

/// A page without its blocks of code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// As GitHub makes them of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings =
        headings.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.to_lowercase().replace(' ', "-");
            kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
        })
        .collect()
}

#[test]
fn pages_have_one_name_each_and_stand_where_they_are_used() {
    for page in [
        "README.md",
        ".github/CONTRIBUTING.md",
        "functions/README.md",
        "functions/DECISIONS.md",
        "functions/GLOSSARY.md",
        "localstack/README.md",
        "tests/README.md",
        "infra/DEPLOY.md",
        "infra/RUNBOOK.md",
    ] {
        assert!(Path::new(&root()).join(page).is_file(), "{page} is missing");
    }
    let strays = files(&root()).into_iter().filter(|path| {
        let known = ["README.md", "CONTRIBUTING.md", "DECISIONS.md", "GLOSSARY.md", "DEPLOY.md", "RUNBOOK.md"];
        path.extension().is_some_and(|end| end == "md") && !known.contains(&file_name(path).as_str())
    });
    none(strays.map(|path| format!("{} is a page of no known kind", shown(&path))).collect());
}
