//! The stacks of a system: which there are, what has to come before what, and which of them a deployment takes.
//!
//! A directory holds a template for each. Stacks refer to each other by name only; each template states under
//! `Metadata.Encore` which stacks it needs and which it comes after. This is all that defines the order.

use crate::Result;
use crate::driver::template::{Place, Template};
use crate::error::{AtPath, Error};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The templates of a system, by their stacks' names.
#[derive(Clone, Debug)]
pub struct Stacks {
    templates: BTreeMap<String, Template>,
    order: Order,
    /// A single stack has the system's name.
    alone: bool,
}

impl Stacks {
    /// Reads every template of a directory. A single file is a system of one stack, named as the system.
    pub fn read(path: &Path, system: &str) -> Result<Self> {
        if !path.is_dir() {
            let templates = BTreeMap::from([(system.to_owned(), Template::read(path)?)]);
            return Ok(Self { order: Order::of([(system.to_owned(), Place::default())])?, templates, alone: true });
        }
        let mut templates = BTreeMap::new();
        let mut places = Vec::new();
        for file in templates_in(path)? {
            let template = Template::read(&file)?;
            let place = template.place()?;
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if place.stack != name {
                let stated = &place.stack;
                return Err(Error::Template(format!("{}: Metadata.Encore.Stack says `{stated}`", file.display())));
            }
            places.push((name.clone(), place));
            templates.insert(name, template);
        }
        let wrong = |error: Error| Error::Template(format!("{}: {error}", path.display()));
        Ok(Self { order: Order::of(places).map_err(wrong)?, templates, alone: false })
    }

    /// The order of the stacks.
    pub fn order(&self) -> &Order {
        &self.order
    }

    /// Every stack with its template.
    pub fn templates(&self) -> impl Iterator<Item = (&str, &Template)> {
        self.templates.iter().map(|(name, template)| (name.as_str(), template))
    }

    /// The CloudFormation name of a stack of the system of that name.
    pub fn name_in(&self, system: &str, stack: &str) -> String {
        if self.alone { system.to_owned() } else { format!("{system}-{stack}") }
    }

    /// The parameters that can be set: those of all stacks, except the system's name.
    pub fn parameters(&self) -> BTreeSet<String> {
        let declared = self.templates.values().flat_map(Template::parameters);
        declared.filter(|name| name != crate::driver::template::SYSTEM).collect()
    }

    /// A stack's template as it is deployed when these stacks are there: without the API's operations of the others.
    pub fn template_beside(&self, stack: &str, there: &BTreeSet<String>) -> Option<Template> {
        let template = self.templates.get(stack)?.clone();
        Some(if self.alone { template } else { template.without_operations(|context| !there.contains(context)) })
    }
}

/// The templates of a directory, in the order of their names.
fn templates_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).at("reading", dir)? {
        let path = entry.at("reading", dir)?.path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(Error::Template(format!("{} holds no template (*.yaml)", dir.display())));
    }
    Ok(files)
}

/// The stack that all others need.
const PLATFORM: &str = "platform";
/// The stack that is in front of all others.
const EDGE: &str = "edge";

/// The order of the stacks.
#[derive(Clone, Debug)]
pub struct Order {
    places: BTreeMap<String, Place>,
}

impl Order {
    /// Refuses unknown names and cycles.
    fn of(places: impl IntoIterator<Item = (String, Place)>) -> Result<Self> {
        let order = Self { places: places.into_iter().collect() };
        for (stack, place) in &order.places {
            for (key, names) in [("Needs", &place.needs), ("After", &place.after)] {
                if let Some(unknown) = names.iter().find(|name| !order.places.contains_key(*name)) {
                    let known = order.known();
                    let what = format!("{stack}: Metadata.Encore.{key} names {unknown}, which is none of {known}");
                    return Err(Error::Template(what));
                }
            }
        }
        let mut waiting: BTreeSet<String> = order.places.keys().cloned().collect();
        while !waiting.is_empty() {
            let next = order.ready(&waiting, &BTreeSet::new());
            if next.is_empty() {
                let circle: Vec<&str> = waiting.iter().map(String::as_str).collect();
                return Err(Error::Template(format!("these stacks wait for each other: {}", circle.join(", "))));
            }
            waiting.retain(|stack| !next.contains(stack));
        }
        Ok(order)
    }

    fn known(&self) -> String {
        self.places.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Refuses an unknown stack name.
    pub fn check(&self, named: &[String]) -> Result<()> {
        match named.iter().find(|name| !self.places.contains_key(*name)) {
            None => Ok(()),
            Some(unknown) => Err(Error::Usage(format!("there is no stack {unknown}; there are {}", self.known()))),
        }
    }

    /// The stacks that a deployment takes: all when none is named; otherwise those that are named, their dependencies
    /// that are not deployed yet, the platform, which bounds what they may do, and the edge, which has their routes.
    /// The deployment leaves alone what of these is up to date.
    pub fn chosen(&self, named: &[String], there: &BTreeSet<String>) -> BTreeSet<String> {
        if named.is_empty() {
            return self.places.keys().cloned().collect();
        }
        let mut chosen = BTreeSet::new();
        let mut wanted: Vec<String> = named.to_vec();
        while let Some(stack) = wanted.pop() {
            let Some(place) = self.places.get(&stack).filter(|_| !chosen.contains(&stack)) else { continue };
            let needs = place.needs.iter().filter(|need| *need == PLATFORM || !there.contains(*need));
            wanted.extend(needs.cloned());
            let is_routed = self.places.get(EDGE).is_some_and(|edge| edge.after.contains(&stack));
            wanted.extend(is_routed.then(|| EDGE.to_owned()));
            chosen.insert(stack);
        }
        chosen
    }

    /// The waiting stacks that have nothing to wait for.
    pub fn ready(&self, waiting: &BTreeSet<String>, running: &BTreeSet<String>) -> Vec<String> {
        let free =
            |stack: &&String| self.before(stack).all(|other| !waiting.contains(other) && !running.contains(other));
        waiting.iter().filter(free).cloned().collect()
    }

    /// The waiting stacks that cannot begin any more after `failed` has failed: those behind it, directly or
    /// indirectly.
    pub fn held_up(&self, waiting: &BTreeSet<String>, failed: &str) -> Vec<String> {
        let mut held_up: Vec<String> = Vec::new();
        let mut causes = vec![failed.to_owned()];
        while let Some(cause) = causes.pop() {
            let behind = waiting.iter().filter(|stack| self.before(stack).any(|other| *other == cause));
            for stack in behind {
                if !held_up.contains(stack) {
                    held_up.push(stack.clone());
                    causes.push(stack.clone());
                }
            }
        }
        held_up
    }

    fn before(&self, stack: &str) -> impl Iterator<Item = &String> {
        self.places.get(stack).into_iter().flat_map(|place| place.needs.iter().chain(&place.after))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    pub(crate) fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn place(stack: &str, needs: &[&str], after: &[&str]) -> (String, Place) {
        (stack.to_owned(), Place { stack: stack.to_owned(), needs: names(needs), after: names(after) })
    }

    /// A small system of the shape of the whole one.
    pub(crate) fn order() -> Order {
        let contexts = ["concerts", "items", "orders", "reservations"];
        Order::of([
            place("platform", &[], &[]),
            place("reservations", &["platform"], &[]),
            place("concerts", &["platform", "reservations"], &[]),
            place("items", &["platform"], &[]),
            place("orders", &["platform"], &[]),
            place("edge", &["platform"], &contexts),
        ])
        .unwrap()
    }

    fn chosen(named: &[&str], there: &[&str]) -> BTreeSet<String> {
        order().chosen(&names(named), &set(there))
    }

    const ALL: [&str; 6] = ["concerts", "edge", "items", "orders", "platform", "reservations"];

    #[test]
    fn without_a_name_all_are_taken() {
        assert_eq!(chosen(&[], &[]), set(&ALL));
        assert_eq!(chosen(&[], &ALL), set(&ALL));
    }

    #[test]
    fn a_stack_brings_what_it_needs_and_is_not_there_and_what_bounds_it_and_has_its_routes() {
        assert_eq!(chosen(&["items"], &[]), set(&["edge", "items", "platform"]));
        assert_eq!(chosen(&["items"], &ALL), set(&["edge", "items", "platform"]));
        assert_eq!(chosen(&["concerts"], &[]), set(&["concerts", "edge", "platform", "reservations"]));
        assert_eq!(chosen(&["concerts"], &ALL), set(&["concerts", "edge", "platform"]));
        assert_eq!(chosen(&["platform"], &[]), set(&["platform"]));
        assert_eq!(chosen(&["edge"], &ALL), set(&["edge", "platform"]));
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        order().check(&names(&["items", "edge"])).unwrap();
        let refused = order().check(&names(&["items", "itmes"])).unwrap_err().to_string();
        let known = "concerts, edge, items, orders, platform, reservations";
        assert_eq!(refused, format!("there is no stack itmes; there are {known}"));
    }

    /// Which stacks begin in which round, if everything that begins ends.
    fn rounds(taken: &[&str]) -> Vec<Vec<String>> {
        let (order, mut waiting, mut rounds) = (order(), set(taken), Vec::new());
        while !waiting.is_empty() {
            let round = order.ready(&waiting, &BTreeSet::new());
            waiting.retain(|stack| !round.contains(stack));
            rounds.push(round);
        }
        rounds
    }

    #[test]
    fn contexts_go_side_by_side_after_the_platform_and_before_the_edge() {
        assert_eq!(
            rounds(&ALL),
            [names(&["platform"]), names(&["items", "orders", "reservations"]), names(&["concerts"]), names(&["edge"])]
        );
        assert_eq!(rounds(&["edge", "items"]), [names(&["items"]), names(&["edge"])]);
    }

    #[test]
    fn what_runs_is_waited_for() {
        let order = order();
        assert_eq!(order.ready(&set(&["concerts", "edge"]), &set(&["reservations"])), names(&[]));
        assert_eq!(order.ready(&set(&["concerts", "edge"]), &set(&["items"])), names(&["concerts"]));
    }

    #[test]
    fn a_stack_that_fails_holds_up_those_behind_it_and_no_others() {
        let held_up = |waiting: &[&str], failed: &str| order().held_up(&set(waiting), failed);
        assert_eq!(held_up(&["concerts", "edge", "items"], "reservations"), names(&["concerts", "edge"]));
        assert_eq!(held_up(&["concerts", "items"], "orders"), names(&[]));
        assert_eq!(held_up(&ALL[..4], "platform").len(), 4);
    }

    #[test]
    fn a_stack_that_names_an_unknown_one_or_waits_for_itself_is_refused() {
        let refused = |places: Vec<(String, Place)>| Order::of(places).unwrap_err().to_string();
        let unknown = refused(vec![place("items", &["platfrom"], &[]), place("platform", &[], &[])]);
        assert_eq!(unknown, "items: Metadata.Encore.Needs names platfrom, which is none of items, platform");
        let circle = refused(vec![place("a", &["b"], &[]), place("b", &[], &["a"]), place("c", &[], &[])]);
        assert_eq!(circle, "these stacks wait for each other: a, b");
    }

    /// A directory with these files, removed when dropped.
    struct Dir(PathBuf);

    impl Dir {
        fn of(name: &str, files: &[(&str, &str)]) -> Self {
            let unique = format!("test-stacks-{name}-{}", std::process::id());
            let dir = crate::files::CargoTarget::of_this_program().dir.join(unique);
            fs::create_dir_all(&dir).unwrap();
            for (file, text) in files {
                fs::write(dir.join(file), text).unwrap();
            }
            Self(dir)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    const PLATFORM: &str = "
Metadata: {Encore: {Stack: platform, Needs: [], After: []}}
Parameters: {System: {Type: String}, Stage: {Type: String}}
";
    const ITEMS: &str = "
Metadata: {Encore: {Stack: items, Needs: [platform], After: []}}
Parameters: {System: {Type: String}, LogLevel: {Type: String}}
";

    #[test]
    fn a_directory_is_a_system_of_its_templates() {
        let dir = Dir::of("all", &[("platform.yaml", PLATFORM), ("items.yaml", ITEMS), ("README.md", "#")]);
        let stacks = Stacks::read(&dir.0, "encore").unwrap();
        let found: Vec<&str> = stacks.templates().map(|(name, _)| name).collect();
        assert_eq!(found, ["items", "platform"]);
        assert_eq!(stacks.parameters(), set(&["LogLevel", "Stage"]), "the system's name is nobody's choice");
        assert_eq!(stacks.name_in("encore", "items"), "encore-items");
    }

    #[test]
    fn a_file_is_a_system_of_one_stack_with_its_name() {
        let dir = Dir::of("one", &[("any.yaml", "Resources: {}")]);
        let stacks = Stacks::read(&dir.0.join("any.yaml"), "encore").unwrap();
        assert_eq!(stacks.order().chosen(&[], &BTreeSet::new()), set(&["encore"]));
        assert_eq!(stacks.name_in("encore", "encore"), "encore");
    }

    #[test]
    fn a_directory_that_is_no_system_is_refused_by_name_and_key() {
        let refused = |name: &str, files: &[(&str, &str)]| {
            let dir = Dir::of(name, files);
            Stacks::read(&dir.0, "encore").unwrap_err().to_string()
        };
        assert!(refused("empty", &[]).ends_with("holds no template (*.yaml)"));
        let without = refused("without", &[("items.yaml", "Resources: {}")]);
        assert!(without.contains("items.yaml") && without.contains("Metadata.Encore"), "{without}");
        let other = refused("other", &[("orders.yaml", ITEMS)]);
        assert!(other.ends_with("orders.yaml: Metadata.Encore.Stack says `items`"), "{other}");
        let alone = refused("alone", &[("items.yaml", ITEMS)]);
        assert!(alone.ends_with("items: Metadata.Encore.Needs names platform, which is none of items"), "{alone}");
        let unknown = refused("unknown", &[("items.yaml", "Metadata: {Encore: {Stack: items, Neds: []}}")]);
        assert!(unknown.contains("items.yaml") && unknown.contains("Neds"), "{unknown}");
    }
}
