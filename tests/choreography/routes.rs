//! Which functions consume what, and which ones run on a schedule, according to the stacks.

use serde_json::Value;
use std::collections::BTreeMap;
use tests::dynamo::resources;

/// A function and the context whose table it works on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Function {
    pub name: String,
    pub context: String,
}

/// The rules, queues and schedules of all stacks.
#[derive(Debug)]
pub struct Routes {
    /// Event pattern of each rule, and the reader of the queue it leads to.
    rules: Vec<(Value, Function)>,
    schedules: Vec<Function>,
}

impl Routes {
    pub fn read() -> Self {
        let all = |kind: &'static str| {
            let found = resources().iter().filter(move |resource| resource.definition["Type"] == kind);
            found.map(|resource| (resource.stack.as_str(), &resource.definition["Properties"]))
        };
        let mut readers = BTreeMap::new();
        let mut schedules = Vec::new();
        for (stack, properties) in all("AWS::Serverless::Function") {
            let context = properties["CodeUri"].as_str().unwrap().trim_end_matches('/').rsplit('/').next().unwrap();
            let name = properties["Handler"].as_str().unwrap().to_owned();
            let function = Function { name, context: context.to_owned() };
            for (_, event) in properties["Events"].as_object().into_iter().flatten() {
                match event["Type"].as_str().unwrap() {
                    "SQS" => drop(readers.insert((stack, target(&event["Properties"]["Queue"])), function.clone())),
                    "Schedule" => schedules.push(function.clone()),
                    _ => {}
                }
            }
        }
        let rules = all("AWS::Events::Rule").filter(|(_, rule)| rule.get("EventBusName").is_some());
        let rules = rules.flat_map(|(stack, rule)| {
            let queues = rule["Targets"].as_array().unwrap().iter().map(|to| (stack, target(&to["Arn"])));
            queues.map(|queue| (rule["EventPattern"].clone(), readers[&queue].clone())).collect::<Vec<_>>()
        });
        Self { rules: rules.collect(), schedules }
    }

    /// The readers of queues that get events of this type.
    pub fn listeners<'a>(&'a self, event_type: &'a str) -> impl Iterator<Item = &'a Function> {
        self.rules.iter().filter(move |(pattern, _)| matches(pattern, event_type)).map(|(_, function)| function)
    }

    /// The function with this in its name that a context runs on a schedule.
    pub fn scheduled(&self, context: &str, part: &str) -> &Function {
        let found = self.schedules.iter().find(|function| function.context == context && function.name.contains(part));
        found.unwrap_or_else(|| panic!("{context} has no schedule for {part}"))
    }
}

/// The logical id in what is left of `!GetAtt Id.Arn`.
fn target(arn: &Value) -> String {
    arn.as_str().and_then(|arn| arn.strip_suffix(".Arn")).unwrap_or_else(|| panic!("{arn} is no resource")).to_owned()
}

/// Whether a rule is about events of a type. Patterns that read more than the type are not supported.
fn matches(pattern: &Value, event_type: &str) -> bool {
    let parts = pattern.as_object().unwrap();
    assert!(parts.keys().eq(["detail-type"]), "a pattern that looks at more than the type: {pattern}");
    parts["detail-type"].as_array().unwrap().iter().any(|wanted| match wanted {
        Value::String(exactly) => exactly == event_type,
        other => event_type.starts_with(other["prefix"].as_str().unwrap_or_else(|| panic!("not understood: {other}"))),
    })
}

#[test]
fn the_rules_lead_orders_to_their_participants_and_answers_back() {
    let routes = Routes::read();
    let consumers_of = |event_type: &str| {
        let mut names: Vec<String> = routes.listeners(event_type).map(|function| function.name.clone()).collect();
        names.sort_unstable();
        names
    };
    let participants = ["clear-cart", "deduct-stock", "deliver-to-data-platform", "use-order-points"];
    assert_eq!(consumers_of("order.placed"), participants);
    assert!(participants.iter().all(|name| consumers_of("order.failed").contains(&(*name).to_owned())));
    for answer in contracts::events::EventBody::TYPES.iter().filter(|name| {
        let of = |context| name.starts_with(context);
        of("stock.") || of("points.") || of("cart.") || **name == "order.reported"
    }) {
        assert_eq!(consumers_of(answer), ["track-order"], "{answer}");
    }
    assert_eq!(routes.scheduled("orders", "sweep-orders").name, "sweep-orders");
    assert_eq!(routes.scheduled("items", "outbox").context, "items");
}
