//! One use case, one verb-noun name: in `main`, templates, API description and module.

use crate::code::{Main, Source};
use crate::none;
use crate::template::Template;
use crate::workspace::{contexts, crate_dir, kebab, pascal, text};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Method, path and operationId of every operation that is described.
fn described() -> BTreeMap<(String, String), String> {
    let api: Value = serde_norway::from_str(&text("infra/openapi.yaml")).expect("the API description is no YAML");
    let mut operations = BTreeMap::new();
    for (path, item) in api["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("a path item") {
            if let Some(id) = operation["operationId"].as_str() {
                operations.insert((method.to_uppercase(), path.clone()), id.to_owned());
            }
        }
    }
    operations
}

/// Use cases that are another way of a handler: what it does when it is to answer before the decision.
const OTHER_WAYS: [(&str, &str); 1] = [("request_reservation", "reserve-seats")];

fn in_one_but_not_the_other<T: Ord + std::fmt::Debug>(
    (a, these): (&str, &BTreeSet<T>),
    (b, those): (&str, &BTreeSet<T>),
) -> Vec<String> {
    let only_a = these.difference(those).map(|name| format!("{name:?} is in {a} and not in {b}"));
    only_a.chain(those.difference(these).map(|name| format!("{name:?} is in {b} and not in {a}"))).collect()
}

#[test]
fn every_handler_is_a_function_of_the_templates_and_every_function_a_handler() {
    let template = Template::read();
    let mut in_main = BTreeSet::new();
    for context in contexts() {
        in_main.extend(Main::of(&context).arms.into_keys().map(|handler| (context.clone(), handler)));
    }
    let in_template: BTreeSet<_> =
        template.functions().iter().map(|f| (f.context().to_owned(), f.handler().to_owned())).collect();
    none(in_one_but_not_the_other(("a main.rs", &in_main), ("a template", &in_template)));
}

#[test]
fn a_function_is_named_after_its_handler() {
    let mut violations = Vec::new();
    for function in Template::read().functions() {
        let (id, handler) = (function.id, function.handler());
        if id != pascal(handler) {
            violations.push(format!("{id} has the handler {handler}; its logical id would be {}", pascal(handler)));
        }
        if function.name() != format!("${{System}}-{handler}") {
            violations.push(format!("{id} has the handler {handler} and the name {}", function.name()));
        }
    }
    none(violations);
}

#[test]
fn a_function_is_started_by_what_its_handler_serves() {
    let template = Template::read();
    let mut violations = Vec::new();
    for context in contexts() {
        for (handler, arm) in Main::of(&context).arms {
            let Some(function) = template.functions().into_iter().find(|f| f.handler() == handler) else { continue };
            let triggers: Vec<&str> = function.triggers().iter().map(|trigger| trigger.kind).collect();
            let expected: &[&str] = match arm.kind.as_str() {
                "http" => &["Api"],
                "queue" | "batch" => &["SQS"],
                "stream" => &["DynamoDB"],
                "schedule" => &["Schedule"],
                _ => &[],
            };
            if triggers != expected {
                violations.push(format!("{handler} serves {}, but is started by {triggers:?}", arm.kind));
            }
        }
    }
    none(violations);
}

#[test]
fn every_described_operation_is_served_and_every_route_described() {
    let template = Template::read();
    let functions = template.functions();
    let handler = |id: String| functions.iter().find(|function| function.id == id).map(|function| function.handler());
    let routes = template.routes().into_iter().map(|route| {
        let handler = route.function().and_then(handler).unwrap_or_default().to_owned();
        ((route.method, route.path.to_owned()), handler)
    });
    let routes = routes.collect();
    none(in_one_but_not_the_other(
        ("the API description", &described().into_iter().collect()),
        ("a template", &routes),
    ));
}

#[test]
fn every_use_case_is_named_like_its_handler() {
    let mut violations = Vec::new();
    for context in contexts() {
        let handlers = Main::of(&context).arms;
        let modules = Source::read(&crate_dir(&context).join("src/usecases/mod.rs")).modules();
        let is_way = |module: &String| OTHER_WAYS.iter().any(|(way, of)| way == module && handlers.contains_key(*of));
        let nameless = modules.iter().filter(|module| !handlers.contains_key(&kebab(module)) && !is_way(module));
        for module in nameless {
            violations.push(format!("{context}: the use case {module} is the name of no handler"));
        }
        for (handler, arm) in &handlers {
            // A use case with a module of its own is served by a function of its name.
            let verb_noun = handler.replace('-', "_");
            let serves = arm.serves.rsplit("::").next().unwrap_or_default();
            if serves != verb_noun && modules.contains(&verb_noun) {
                violations.push(format!("{context}: {handler} is served by {}", arm.serves));
            }
        }
    }
    none(violations);
}
