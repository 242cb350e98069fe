//! Negative controls: what each condition expression prevents does happen without it.
//!
//! A control plays one scene twice, each time on tables of its own: as it is, where nothing may go wrong, and with one
//! condition replaced by a tautology on its way through the proxy, where it must. A condition without a control is
//! found by reading the sources, and fails the last test here.

mod concerts;
mod items;
mod notifications;
mod orders;
mod payments;
mod points;
mod reservations;
mod shared;
mod waiting_room;

use crate::bench::Bench;
use kit::dynamo::{Item, s};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tests::dynamo::CONTEXTS;
use tests::workspace;

/// Plays a scene with the guard and without it.
pub async fn control(guard: &str, scene: impl AsyncFn(&Bench) -> bool) {
    let guarded = Bench::on_sale(4).await;
    assert!(!scene(&guarded).await, "it goes wrong with the guard in place");
    let bare = Bench::on_sale(4).await;
    let loosened = bare.proxy.loosen(guard);
    let wrong = scene(&bare).await;
    assert!(loosened.count() > 0, "no request has the condition {guard:?}");
    assert!(wrong, "nothing goes wrong without {guard:?}: it guards nothing, or the scene does not need it");
}

/// Each control: what it shows, the function that writes the condition, and the condition as it is sent. Where the
/// source puts the condition together, `from` is the source's expression.
macro_rules! controls {
    ($($name:ident: $function:literal guards $guard:literal $(from $source:literal)?, |$bench:ident| $scene:block)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::controls::control($guard, async |$bench: &$crate::bench::Bench| $scene).await;
            }
        )*

        /// (context/function, condition as the source has it), for every control.
        pub fn controlled() -> std::collections::BTreeSet<(String, String)> {
            [$(($function, $crate::controls::controls!(@source $guard $(, $source)?))),*]
                .map(|(function, source)| (function.to_owned(), $crate::controls::words(source)))
                .into()
        }
    };
    (@source $guard:literal) => { $guard };
    (@source $guard:literal, $source:literal) => { $source };
}
pub(crate) use controls;

/// Writes an item past the stores.
async fn put(bench: &Bench, context: &str, item: Item) {
    let table = bench.engine.table(context);
    table.client.put_item().table_name(&table.name).set_item(Some(item)).send().await.unwrap();
}

/// Deletes an item past the stores.
async fn remove(bench: &Bench, context: &str, pk: &str, sk: &str) {
    let table = bench.engine.table(context);
    table.client.delete_item().table_name(&table.name).key("pk", s(pk)).key("sk", s(sk)).send().await.unwrap();
}

/// Every condition in a context's or the kit's source, as (context/function, condition).
fn written() -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for context in CONTEXTS.into_iter().chain(["kit"]) {
        for file in sources(context) {
            let text = fs::read_to_string(&file).unwrap();
            for (start, call) in text.match_indices("condition_expression(") {
                // `key_condition_expression` belongs to reading, `return_values_on_...` is no condition.
                let before = &text[..start];
                if !(before.ends_with('.') || before.ends_with(".set_")) {
                    continue;
                }
                let function = before.rsplit("fn ").next().unwrap().split(['(', '<']).next().unwrap();
                let condition = argument(&text[start + call.len()..]);
                *found.entry((format!("{context}/{function}"), condition)).or_default() += 1;
            }
        }
    }
    found
}

fn sources(context: &str) -> Vec<PathBuf> {
    fn below(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { below(&path) } else { vec![path] }).collect()
    }
    let mut files = below(&workspace(&format!("functions/{context}/src")));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "rs"));
    files
}

/// The argument that starts a text: a string literal's value, or the expression.
fn argument(text: &str) -> String {
    let trimmed = text.trim_start();
    if let Some(literal) = trimmed.strip_prefix('"') {
        return words(&literal.split('"').next().unwrap().replace("\\\n", " "));
    }
    let mut depth = 1;
    let end = trimmed.find(|c| {
        depth += i32::from(c == '(') - i32::from(c == ')');
        depth == 0
    });
    words(&trimmed[..end.unwrap()])
}

pub fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_condition_expression_has_a_negative_control() {
    let written: BTreeSet<(String, String)> = written().into_keys().collect();
    assert!(written.len() > 30, "the search finds the conditions");
    let controlled: BTreeSet<(String, String)> = [
        concerts::controlled(),
        items::controlled(),
        notifications::controlled(),
        orders::controlled(),
        payments::controlled(),
        points::controlled(),
        reservations::controlled(),
        shared::controlled(),
        waiting_room::controlled(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let missing: Vec<_> = written.difference(&controlled).collect();
    let stale: Vec<_> = controlled.difference(&written).collect();
    assert!(missing.is_empty() && stale.is_empty(), "without a control: {missing:#?}\nno longer written: {stale:#?}");
}
