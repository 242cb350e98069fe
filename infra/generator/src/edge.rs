//! The API: each operation of the description calls the function of its name.

use crate::names::function_arn;
use crate::shapes::fill;
use crate::system::{Context, Placed, System};
use minijinja::context as holes;
use serde::Serialize;

#[derive(Serialize)]
struct Path<'a> {
    path: &'a str,
    operations: Vec<Operation<'a>>,
}

#[derive(Serialize)]
struct Operation<'a> {
    method: &'a str,
    id: &'a str,
    context: &'a str,
    arn: String,
}

/// The resources of the stack `edge`.
pub fn resources(system: &System) -> Vec<String> {
    let mut paths: Vec<Path<'_>> = Vec::new();
    for context in &system.contexts {
        for operation in &context.operations {
            let Some(function) = context.fragment.functions.get(&operation.id) else { continue };
            let arn = function_arn(Placed { context, name: &operation.id, function });
            let found = Operation { method: &operation.method, id: &operation.id, context: &context.name, arn };
            match paths.iter_mut().find(|path| path.path == operation.path) {
                Some(path) => path.operations.push(found),
                None => paths.push(Path { path: &operation.path, operations: vec![found] }),
            }
        }
    }
    vec![fill("edge", holes! { paths })]
}

/// The contexts that serve HTTP.
pub fn contexts(system: &System) -> impl Iterator<Item = &Context> {
    system.contexts.iter().filter(|context| !context.operations.is_empty())
}
