//! All sources together: the contexts' fragments, their HTTP operations, their programs' handlers, the catalogue of
//! events and the state machines.

use crate::blocks::{blocks, inside, line_of};
use crate::fragment::{Fragment, Function};
use crate::mistake::Mistake;
use crate::names::pascal;
use programs::Main;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// An HTTP operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// `get`, `post`, ...
    pub method: String,
    /// `/orders/{order_id}`.
    pub path: String,
    /// The function that handles it.
    pub id: String,
}

/// A context: a folder of `functions/` with a `stack.yaml`.
pub struct Context {
    pub name: String,
    /// The text of its `stack.yaml`.
    pub text: String,
    pub fragment: Fragment,
    /// The text of its `openapi.yaml`, if it serves HTTP.
    pub openapi: Option<String>,
    pub operations: Vec<Operation>,
    /// The handlers of its program, and how each is served.
    pub main: Main,
}

/// All sources.
pub struct System {
    pub root: PathBuf,
    /// The contexts, by name.
    pub contexts: Vec<Context>,
    /// The types of events, each with the context that publishes it, where there is only one.
    pub events: BTreeMap<String, Option<String>>,
    /// The substitutions of each state machine's definition: by machine, the names of functions and queues in Pascal
    /// case.
    pub machines: BTreeMap<String, Vec<String>>,
    /// The shared part of the API's description.
    pub openapi: String,
}

/// A function with its context.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    pub context: &'a Context,
    pub name: &'a str,
    /// Its description in the fragment.
    pub function: &'a Function,
}

impl Context {
    /// The file of its fragment, from the root.
    pub fn file(&self) -> String {
        format!("functions/{}/stack.yaml", self.name)
    }

    /// A mistake in its fragment, under a function (or another key), on the line with a word.
    pub fn mistake(&self, key: &str, word: &str, what: impl Into<String>) -> Mistake {
        let of_functions = blocks(&self.text, 2).into_iter().find(|block| block.key == key);
        let block = of_functions.or_else(|| blocks(&self.text, 0).into_iter().find(|block| block.key == key));
        let line = block.map_or(0, |block| line_of(&self.text, block.line, word));
        Mistake { file: self.file(), line, key: key.to_owned(), what: what.into() }
    }

    /// Whether it publishes events to the bus.
    pub fn says(&self) -> bool {
        self.fragment.outbox || self.fragment.functions.values().any(|function| function.says)
    }

    /// Its functions.
    pub fn functions(&self) -> impl Iterator<Item = Placed<'_>> {
        self.fragment.functions.iter().map(|(name, function)| Placed { context: self, name, function })
    }

    fn read(root: &Path, name: &str) -> Result<Self, Vec<Mistake>> {
        let dir = root.join("functions").join(name);
        let file = format!("functions/{name}/stack.yaml");
        let text = read(&dir.join("stack.yaml"), &file)?;
        // A `Value` rejects a key that occurs twice; a map would take the last.
        let fragment = serde_norway::from_str::<serde_norway::Value>(&text).and_then(|_| serde_norway::from_str(&text));
        let fragment = fragment.map_err(|error| vec![unreadable(&file, &text, &error)])?;
        let described = dir.join("openapi.yaml");
        let openapi = match described.is_file() {
            true => Some(read(&described, &format!("functions/{name}/openapi.yaml"))?),
            false => None,
        };
        let operations = openapi.as_deref().map(operations).unwrap_or_default();
        let main = Main::below(root, name);
        let main = main.map_err(|why| vec![whole(&format!("functions/{name}/src/main.rs"), &why)])?;
        Ok(Self { name: name.to_owned(), text, fragment, openapi, operations, main })
    }
}

impl System {
    /// Reads the sources below the project's root.
    pub fn read(root: &Path) -> Result<Self, Vec<Mistake>> {
        let mut contexts = Vec::new();
        let mut mistakes = Vec::new();
        for dir in entries(&root.join("functions")) {
            if dir.join("stack.yaml").is_file() {
                match Context::read(root, &file_name(&dir)) {
                    Ok(context) => contexts.push(context),
                    Err(found) => mistakes.extend(found),
                }
            }
        }
        if !mistakes.is_empty() {
            return Err(mistakes);
        }
        let events = files_of(root, "functions/contracts/events", ".v1.json", |schema, _| {
            let source = schema["properties"]["source"]["const"].as_str();
            source.and_then(|source| source.strip_prefix("encore/")).map(str::to_owned)
        })?;
        let machines = files_of(root, "infra/statemachines", ".asl.json", |_, text| substitutions(text))?;
        let openapi = read(&root.join("functions/contracts/openapi.yaml"), "functions/contracts/openapi.yaml")?;
        Ok(Self { root: root.to_owned(), contexts, events, machines, openapi })
    }

    /// All functions, without the derived ones.
    pub fn functions(&self) -> impl Iterator<Item = Placed<'_>> {
        self.contexts.iter().flat_map(Context::functions)
    }

    /// The other contexts whose functions a context calls, as steps of its sagas or directly. They are deployed before
    /// it, so that a new function exists before it is called. Where two contexts call each other, sagas count: a direct
    /// call is retried, but a missing step ends a sale.
    pub fn called_by(&self, context: &Context) -> Vec<&str> {
        let steps = self.called_by_sagas(context);
        let asks = |other: &Context| self.asked_by(other).any(|placed| placed.context.name == context.name);
        let asked = self.asked_by(context).map(|placed| placed.context).filter(|other| {
            let calls_back = asks(other) || self.called_by_sagas(other).contains(context.name.as_str());
            other.name != context.name && !calls_back
        });
        let all: BTreeSet<&str> = steps.into_iter().chain(asked.map(|other| other.name.as_str())).collect();
        all.into_iter().collect()
    }

    /// The functions that a context's functions call directly.
    fn asked_by<'a>(&'a self, context: &Context) -> impl Iterator<Item = Placed<'a>> {
        let asked = context.functions().flat_map(|placed| placed.function.asks.names());
        asked.filter_map(move |name| self.function(name))
    }

    fn called_by_sagas(&self, context: &Context) -> BTreeSet<&str> {
        let machines = context.fragment.sagas.keys().filter_map(|name| self.machines.get(name)).flatten();
        let steps = machines.filter_map(|id| self.function_of_id(id)).map(|step| step.context.name.as_str());
        steps.filter(|name| *name != context.name).collect()
    }

    /// The function of that name.
    pub fn function(&self, name: &str) -> Option<Placed<'_>> {
        self.functions().find(|placed| placed.name == name)
    }

    /// The function with that name in Pascal case.
    pub fn function_of_id(&self, id: &str) -> Option<Placed<'_>> {
        self.functions().find(|placed| pascal(placed.name) == id)
    }

    /// The context of that name.
    pub fn context(&self, name: &str) -> Option<&Context> {
        self.contexts.iter().find(|context| context.name == name)
    }

    /// The functions that read the stream of a context's table, without its own relay.
    pub fn stream_readers(&self, of: &str) -> Vec<Placed<'_>> {
        let reads = |placed: &Placed<'_>| placed.function.stream.as_ref().is_some_and(|stream| stream.of == of);
        self.functions().filter(reads).collect()
    }

    /// The types of events that are published and match a pattern: a type, or the prefix of types (`payment.*`).
    pub fn heard(&self, pattern: &str) -> Vec<&str> {
        let fits = |event: &str| match pattern.strip_suffix('*') {
            Some(prefix) => event.starts_with(prefix),
            None => event == pattern,
        };
        let is_published =
            |by: &Option<String>| by.as_ref().is_none_or(|name| self.context(name).is_some_and(Context::says));
        self.events
            .iter()
            .filter(|(event, by)| fits(event) && is_published(by))
            .map(|(event, _)| event.as_str())
            .collect()
    }
}

/// Something of each JSON file of a folder, by its name without the suffix.
fn files_of<T>(
    root: &Path,
    dir: &str,
    ending: &str,
    take: impl Fn(&serde_json::Value, &str) -> T,
) -> Result<BTreeMap<String, T>, Vec<Mistake>> {
    let mut found = BTreeMap::new();
    for path in entries(&root.join(dir)) {
        let file = file_name(&path);
        let Some(name) = file.strip_suffix(ending) else { continue };
        let shown = format!("{dir}/{file}");
        let text = read(&path, &shown)?;
        let json = serde_json::from_str(&text).map_err(|error| vec![whole(&shown, &error.to_string())])?;
        found.insert(name.to_owned(), take(&json, &text));
    }
    Ok(found)
}

/// A mistake in a file as a whole.
fn whole(file: &str, why: &str) -> Mistake {
    Mistake { file: file.to_owned(), line: 0, key: "-".to_owned(), what: format!("cannot be read: {why}") }
}

fn read(path: &Path, shown: &str) -> Result<String, Vec<Mistake>> {
    fs::read_to_string(path).map_err(|error| vec![whole(shown, &error.to_string())])
}

/// Serde's error about a fragment, as a mistake of the key where it occurs.
fn unreadable(file: &str, text: &str, error: &serde_norway::Error) -> Mistake {
    let line = error.location().map_or(0, |location| location.line());
    let what = error.to_string();
    // `functions.join-queue: unknown field ...` or `table: ...`: the path within the document comes first.
    let (place, what) = what.split_once(": ").filter(|(place, _)| !place.contains(' ')).unwrap_or(("", &what));
    let what = what.split(" at line ").next().unwrap_or(what);
    let of_place = place.rsplit('.').next().filter(|key| !key.is_empty());
    let named = what.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let key = named.or(of_place).unwrap_or("-");
    let found = of_place.map(|_| place.split('.').nth(1).unwrap_or(place)).and_then(|outer| {
        let all = blocks(text, 2).into_iter().chain(blocks(text, 0));
        all.into_iter().find(|block| block.key == outer).map(|block| line_of(text, block.line, key))
    });
    let at = if place.is_empty() { String::new() } else { format!(" (in {place})") };
    Mistake { file: file.to_owned(), line: found.unwrap_or(line), key: key.to_owned(), what: format!("{what}{at}") }
}

/// The operations of a description: each path's methods.
fn operations(text: &str) -> Vec<Operation> {
    let mut found = Vec::new();
    for section in blocks(text, 0).iter().filter(|block| block.key == "paths") {
        for path in blocks(&inside(section), 2) {
            for method in blocks(&inside(&path), 4).iter().filter(|block| block.key != "parameters") {
                let id = method.text.lines().find_map(|line| line.trim().strip_prefix("operationId: "));
                found.push(Operation {
                    method: method.key.clone(),
                    path: path.key.clone(),
                    id: id.unwrap_or_default().trim().to_owned(),
                });
            }
        }
    }
    found
}

/// The substitutions that a definition needs: `${Name}`, each once, in order.
fn substitutions(definition: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in definition.split("${").skip(1) {
        let name = part.split('}').next().unwrap_or_default().to_owned();
        if !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
