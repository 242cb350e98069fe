//! A stack's template, assembled: the common header, the parameters, rules and conditions that it uses, its resources.

use crate::blocks::{Block, blocks, inside};
use crate::context;
use crate::edge;
use crate::fragment::Reserved;
use crate::platform;
use crate::shapes::fill;
use crate::system::{Context, System};
use minijinja::context as holes;
use std::collections::BTreeSet;

/// Every parameter, rule and condition that a stack may have. Each stack has those it uses.
const SHARED: &str = include_str!("../shapes/parameters.yaml");
const GLOBALS: &str = include_str!("../shapes/globals.yaml");
const OUTPUTS: &str = include_str!("../shapes/outputs.yaml");

/// The stack that all others depend on.
pub const PLATFORM: &str = "platform";
/// The stack that depends on all others.
pub const EDGE: &str = "edge";

/// The templates: name of the stack, text.
pub fn all(system: &System) -> Vec<(String, String)> {
    let contexts = system.contexts.iter().map(|context| (context.name.clone(), of_context(system, context)));
    let mut stacks = vec![(PLATFORM.to_owned(), of_platform(system))];
    stacks.extend(contexts);
    stacks.push((EDGE.to_owned(), of_edge(system)));
    stacks
}

fn of_platform(system: &System) -> String {
    let head = fill(
        "header",
        holes! {
            sources => "functions/*/stack.yaml and infra/generator/shapes",
            description => "Encore, what every stack uses. Bus, alarm topic, permissions boundary, dashboard and stack-wide alarms.",
            stack => PLATFORM, needs => Vec::<&str>::new(), after => Vec::<&str>::new(),
        },
    );
    put_together(system, head, None, &platform::resources(system), None)
}

fn of_context(system: &System, context: &Context) -> String {
    let streams = context.functions().filter_map(|placed| placed.function.stream.as_ref());
    let needs = streams.filter(|stream| stream.of != context.name).map(|stream| stream.of.as_str());
    let needs: Vec<&str> = [PLATFORM].into_iter().chain(needs).collect();
    let head = fill(
        "header",
        holes! {
            sources => format!("{} and infra/generator/shapes", context.file()),
            description => format!("Encore, the context {}. One function per use case.", context.name),
            stack => context.name, needs, after => system.called_by(context),
        },
    );
    put_together(system, head, Some(GLOBALS), &context::resources(system, context), None)
}

fn of_edge(system: &System) -> String {
    let after: Vec<&str> = edge::contexts(system).map(|context| context.name.as_str()).collect();
    let head = fill(
        "header",
        holes! {
            sources => "functions/*/openapi.yaml, functions/*/stack.yaml and infra/generator/shapes",
            description => "Encore, the API with its firewall and trace sampling.",
            stack => EDGE, needs => [PLATFORM], after,
        },
    );
    put_together(system, head, None, &edge::resources(system), Some(OUTPUTS))
}

fn put_together(
    system: &System,
    head: String,
    globals: Option<&str>,
    resources: &[String],
    outputs: Option<&str>,
) -> String {
    let resources: Vec<&str> = resources.iter().map(|text| text.trim_end()).collect();
    let resources = format!("Resources:\n{}\n", resources.join("\n\n"));
    let body: Vec<&str> = globals.into_iter().chain([resources.as_str()]).chain(outputs).collect();
    let used = Used::by(&body.join("\n"));
    let mut parts = vec![head];
    parts.extend(used.sections(system));
    parts.extend(body.into_iter().map(str::to_owned));
    parts.join("\n")
}

/// What a template uses of the shared parameters, rules and conditions.
struct Used(BTreeSet<String>);

impl Used {
    /// What a text uses, and what that uses in turn.
    fn by(text: &str) -> Self {
        let shared: Vec<Block> = sections().iter().flat_map(|section| blocks(&inside(section), 2)).collect();
        let mut used = BTreeSet::from(["System".to_owned()]);
        let mut open = vec![text.to_owned()];
        while let Some(text) = open.pop() {
            for block in &shared {
                if !used.contains(&block.key) && names(&text, &block.key) {
                    used.insert(block.key.clone());
                    open.push(block.text.clone());
                }
            }
        }
        // A rule belongs to what it compares: it is included if all of that is.
        let rules = sections().into_iter().filter(|section| section.key == "Rules");
        for rule in rules.flat_map(|section| blocks(&inside(&section), 2)) {
            let compares: Vec<&Block> = shared.iter().filter(|block| names(&rule.text, &block.key)).collect();
            if compares.iter().all(|block| used.contains(&block.key)) {
                used.insert(rule.key);
            }
        }
        Self(used)
    }

    fn sections(&self, system: &System) -> Vec<String> {
        let reserving = system.functions().filter(|placed| placed.function.reserved == Reserved::Share(true)).count();
        let mut texts = Vec::new();
        for section in sections() {
            let kept = blocks(&inside(&section), 2).into_iter().filter(|block| self.0.contains(&block.key));
            let kept: Vec<String> =
                kept.map(|block| block.text.replace("<reserving>", &reserving.to_string())).collect();
            if !kept.is_empty() {
                let space = if section.key == "Rules" { "\n\n" } else { "\n" };
                texts.push(format!("{}:\n{}\n", section.key, kept.join(space)));
            }
        }
        texts
    }
}

fn sections() -> Vec<Block> {
    blocks(SHARED, 0)
}

/// Whether a text refers to a parameter or a condition.
fn names(text: &str, name: &str) -> bool {
    [
        format!("!Ref {name}"),
        format!("${{{name}}}"),
        format!("!If [{name},"),
        format!("Condition: {name}"),
        format!("!Condition {name}"),
    ]
    .iter()
    .any(|form| {
        text.match_indices(form.as_str()).any(|(at, found)| {
            let after = text[at + found.len()..].chars().next();
            found.ends_with([',', '}']) || after.is_none_or(|c| !c.is_alphanumeric() && c != '.')
        })
    })
}

/// Whether there is such a parameter or condition (`section` is `Parameters` or `Conditions`).
pub fn has(section: &str, name: &str) -> bool {
    let of_it = sections().into_iter().filter(|block| block.key == section);
    of_it.flat_map(|section| blocks(&inside(&section), 2)).any(|block| block.key == name)
}
