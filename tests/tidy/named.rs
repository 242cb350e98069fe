//! References between stacks by name, resolved: `!Sub arn:...:function:${System}-pay` is the function `Pay`.
//!
//! In one stack one would write `!Ref Pay`, and CloudFormation would refuse what does not exist. It does not follow
//! names, so here each is resolved: to the one resource of that name, or to the violation that there is none.

use crate::none;
use crate::template::{Stacks, Template};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The property with the name of resources of a type.
pub const NAMES: [(&str, &str); 15] = [
    ("AWS::CloudWatch::Alarm", "AlarmName"),
    ("AWS::CloudWatch::Dashboard", "DashboardName"),
    ("AWS::DynamoDB::Table", "TableName"),
    ("AWS::Events::EventBus", "Name"),
    ("AWS::Events::Rule", "Name"),
    ("AWS::IAM::ManagedPolicy", "ManagedPolicyName"),
    ("AWS::IAM::Role", "RoleName"),
    ("AWS::Logs::LogGroup", "LogGroupName"),
    ("AWS::SNS::Topic", "TopicName"),
    ("AWS::SQS::Queue", "QueueName"),
    ("AWS::SSM::Parameter", "Name"),
    ("AWS::Serverless::Api", "Name"),
    ("AWS::Serverless::Function", "FunctionName"),
    ("AWS::Serverless::StateMachine", "Name"),
    ("AWS::WAFv2::WebACL", "Name"),
];

/// The part of the ARN of something of a type before its name.
const ARNS: [(&str, &str); 8] = [
    ("AWS::DynamoDB::Table", "dynamodb:${AWS::Region}:${AWS::AccountId}:table/"),
    ("AWS::Events::EventBus", "events:${AWS::Region}:${AWS::AccountId}:event-bus/"),
    ("AWS::IAM::ManagedPolicy", "iam::${AWS::AccountId}:policy/"),
    ("AWS::IAM::Role", "iam::${AWS::AccountId}:role/"),
    ("AWS::SNS::Topic", "sns:${AWS::Region}:${AWS::AccountId}:"),
    ("AWS::SQS::Queue", "sqs:${AWS::Region}:${AWS::AccountId}:"),
    ("AWS::Serverless::Function", "lambda:${AWS::Region}:${AWS::AccountId}:function:"),
    ("AWS::Serverless::StateMachine", "states:${AWS::Region}:${AWS::AccountId}:stateMachine:"),
];

/// `!Ref` of these gives their ARN.
const ARN_BY_REF: [&str; 3] = ["AWS::IAM::ManagedPolicy", "AWS::SNS::Topic", "AWS::Serverless::StateMachine"];

/// The text that API Gateway needs before and after the ARN of a function that it calls.
const INTEGRATION: (&str, &str) =
    ("arn:${AWS::Partition}:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/", "/invocations");

/// The part before the name of each of the system's queues in its URL.
const QUEUE_URLS: &str = "https://sqs.${AWS::Region}.${AWS::URLSuffix}/${AWS::AccountId}/${System}-";

/// Names that are given, not used: by type and the last key of their path. What a metric, a title or a filter has
/// refers to nothing that must exist.
const LABELS: [(&str, &str); 6] = [
    ("AWS::CloudWatch::Alarm", "MetricName"),
    ("AWS::CloudWatch::Dashboard", "DashboardBody"),
    ("AWS::Events::Rule", "prefix"),
    ("AWS::Logs::MetricFilter", "MetricName"),
    ("AWS::Serverless::Api", "title"),
    ("AWS::WAFv2::WebACL", "MetricName"),
];

/// One resource that names another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Naming {
    pub from: String,
    pub to: String,
}

/// Everything with a name, by type and name.
#[derive(Default)]
pub struct Catalogue {
    named: BTreeMap<(String, String), Vec<String>>,
    aliases: BTreeMap<String, String>,
    /// The values of the SSM parameters that stacks write, by name.
    held: BTreeMap<String, Value>,
    pub namings: Vec<Naming>,
    /// Uses of names that do not exist.
    pub unknown: Vec<String>,
}

/// The place of a value.
struct Place<'a> {
    id: &'a str,
    kind: &'a str,
    key: String,
    /// The dimension of a metric whose value it is.
    dimension: Option<String>,
}

/// The text of a name, as `!Sub` writes it.
pub fn name_text(value: &Value) -> Option<String> {
    let of_system = value["Ref"].as_str().filter(|name| *name == "System").map(|_| "${System}".to_owned());
    of_system.or_else(|| value["Fn::Sub"].as_str().map(str::to_owned))
}

/// The name of a resource.
pub fn name_of(resource: &Value) -> Option<String> {
    let kind = resource["Type"].as_str()?;
    let (_, property) = NAMES.iter().find(|(of, _)| *of == kind)?;
    name_text(&resource["Properties"][property])
}

impl Catalogue {
    /// Of resources, by their ids.
    pub fn of<'a>(resources: impl Iterator<Item = (&'a str, &'a Value)>) -> Self {
        let mut catalogue = Self::default();
        for (id, resource) in resources {
            let kind = resource["Type"].as_str().unwrap_or_default().to_owned();
            let Some(name) = name_of(resource) else { continue };
            if let Some(alias) = resource["Properties"]["AutoPublishAlias"].as_str() {
                catalogue.aliases.insert(id.to_owned(), alias.to_owned());
            }
            if kind == "AWS::SSM::Parameter" {
                catalogue.held.insert(name.clone(), resource["Properties"]["Value"].clone());
            }
            catalogue.named.entry((kind, name)).or_default().push(id.to_owned());
        }
        catalogue
    }

    /// Types and names that more than one resource has.
    pub fn twice(&self) -> Vec<String> {
        let twice = self.named.iter().filter(|(_, ids)| ids.len() > 1);
        twice.map(|((kind, name), ids)| format!("{} are all the {kind} {name}", ids.join(", "))).collect()
    }

    /// Writes a resource, or a stack's globals, with references in place of names.
    pub fn resolve(&mut self, id: &str, kind: &str, value: &mut Value) {
        self.walk(&Place { id, kind, key: String::new(), dimension: None }, value);
    }

    fn walk(&mut self, place: &Place<'_>, value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(|value| self.walk(place, value)),
            Value::Object(fields) => match fields.get("Fn::Sub").map(|sub| sub.as_str().map(str::to_owned)) {
                Some(Some(text)) if text.contains("${System}") => {
                    if let Some(found) = self.found(place, &text) {
                        *value = found;
                    }
                }
                Some(None) => self.unknown.push(format!("{}: {}: a Sub of more than a text", place.id, place.key)),
                Some(Some(_)) => {}
                None => self.walk_fields(place, fields),
            },
            Value::String(text) if text.contains("${System}") => {
                self.unknown.push(format!("{}: {} is never substituted in {text:?}", place.id, place.key));
            }
            _ => {}
        }
    }

    fn walk_fields(&mut self, place: &Place<'_>, fields: &mut Map<String, Value>) {
        let list = fields.get("DEAD_LETTER_QUEUES").and_then(Value::as_str).map(str::to_owned);
        if let Some(list) = list {
            let prefix = fields.get("QUEUE_URL_PREFIX").and_then(|queues| queues["Fn::Sub"].as_str());
            let joined = self.listed(place.id, &list, prefix);
            fields.insert("DEAD_LETTER_QUEUES".to_owned(), joined);
        }
        let dimension = fields.get("Name").and_then(Value::as_str).map(str::to_owned);
        for (key, value) in fields {
            let dimension = dimension.clone().filter(|_| key == "Value");
            self.walk(&Place { id: place.id, kind: place.kind, key: key.clone(), dimension }, value);
        }
    }

    /// A list of queues' names, in the setting of those that a function watches.
    fn listed(&mut self, id: &str, list: &str, prefix: Option<&str>) -> Value {
        if prefix != Some(QUEUE_URLS) {
            self.unknown.push(format!(
                "{id}: QUEUE_URL_PREFIX is no beginning of the URLs of this system's queues: {prefix:?}"
            ));
        }
        let mut queues = Vec::new();
        for name in list.split(',') {
            let name = format!("${{System}}-{name}");
            queues.extend(self.look_up(id, "AWS::SQS::Queue", &name).map(|queue| json!({ "Ref": queue })));
        }
        json!({"Fn::Join": [",", queues]})
    }

    /// The resource that a text with the system's name in it stands for, if any.
    fn found(&mut self, place: &Place<'_>, text: &str) -> Option<Value> {
        let is_own = NAMES.contains(&(place.kind, place.key.as_str()));
        let is_secret = text.starts_with("/${System}/") || text.contains(":parameter/${System}/");
        let is_label = LABELS.contains(&(place.kind, place.key.as_str())) || place.key == "QUEUE_URL_PREFIX";
        // An open end names nothing; which are allowed is another test's.
        if is_own || is_label || is_secret || text.ends_with('*') {
            return None;
        }
        if let Some(name) = text.strip_prefix("{{resolve:ssm:").and_then(|rest| rest.strip_suffix("}}")) {
            return self.look_up(place.id, "AWS::SSM::Parameter", name).and_then(|_| self.held.get(name).cloned());
        }
        let call = text.strip_prefix(INTEGRATION.0).and_then(|rest| rest.strip_suffix(INTEGRATION.1));
        if let Some(arn) = call.unwrap_or(text).strip_prefix("arn:${AWS::Partition}:") {
            return self.of_arn(place, arn);
        }
        let kind = match (place.dimension.as_deref(), place.key.as_str()) {
            (Some("QueueName"), _) => "AWS::SQS::Queue",
            (Some("ApiName"), _) => "AWS::Serverless::Api",
            (_, "EventBusName" | "EVENT_BUS") => "AWS::Events::EventBus",
            (_, "Alarms") => "AWS::CloudWatch::Alarm",
            (_, setting) if setting.ends_with("_FUNCTION") => "AWS::Serverless::Function",
            _ => {
                self.unknown.push(format!("{}: {}: of what kind is {text}?", place.id, place.key));
                return None;
            }
        };
        let id = self.look_up(place.id, kind, text)?;
        Some(if kind == "AWS::SQS::Queue" {
            json!({"Fn::GetAtt": format!("{id}.QueueName")})
        } else {
            json!({"Ref": id})
        })
    }

    fn of_arn(&mut self, place: &Place<'_>, arn: &str) -> Option<Value> {
        let Some((kind, name)) = ARNS.iter().find_map(|(kind, before)| Some((*kind, arn.strip_prefix(before)?))) else {
            self.unknown.push(format!("{}: {}: an ARN of what? {arn}", place.id, place.key));
            return None;
        };
        let (name, alias) = name.split_once(':').map_or((name, None), |(name, alias)| (name, Some(alias)));
        let id = self.look_up(place.id, kind, name)?;
        match alias {
            Some(alias) if self.aliases.get(&id).is_none_or(|own| own != alias) => {
                self.unknown.push(format!("{}: {id} has no alias {alias}", place.id));
                None
            }
            Some(_) => Some(json!({"Ref": format!("{id}.Alias")})),
            None if ARN_BY_REF.contains(&kind) => Some(json!({"Ref": id})),
            None => Some(json!({"Fn::GetAtt": format!("{id}.Arn")})),
        }
    }

    fn look_up(&mut self, from: &str, kind: &str, name: &str) -> Option<String> {
        let found = self.named.get(&(kind.to_owned(), name.to_owned())).and_then(|ids| ids.first()).cloned();
        match &found {
            Some(to) => self.namings.push(Naming { from: from.to_owned(), to: to.clone() }),
            None => self.unknown.push(format!("{from} names the {kind} {name}, which no stack has")),
        }
        found
    }
}

#[test]
fn everything_that_a_stack_names_of_another_is_there() {
    let template = Template::read();
    assert!(template.namings().len() > 200, "names went missing: {}", template.namings().len());
    none(template.unknown().to_vec());
}

#[test]
fn whatever_a_stack_names_that_is_not_there_is_found() {
    let stacks = Stacks::read();
    for (part, broken) in [
        ("function:${System}-apply-admission\n", "function:${System}-apply-admittance\n"),
        ("APPLY_ADMISSION_FUNCTION: !Sub ${System}-apply-admission", "APPLY_ADMISSION_FUNCTION: !Sub ${System}-admit"),
        // The alias of a function that has none, and an alias that does not exist.
        ("function:${System}-refund-reservation\n", "function:${System}-refund-reservation:live\n"),
        ("function:${System}-use-points:live\n", "function:${System}-use-points:new\n"),
        ("function:${System}-start-payment:live/invocations", "function:${System}-begin-payment:now/invocations"),
        ("EVENT_BUS: !Sub ${System}-bus", "EVENT_BUS: !Sub ${System}-buses"),
        ("EventBusName: !Sub ${System}-bus", "EventBusName: !Sub ${System}-rules"),
        ("event-bus/${System}-bus", "event-bus/${System}-van"),
        (":${System}-alarms\"", ":${System}-alarm\""),
        ("- !Sub ${System}-api-errors", "- !Sub ${System}-api-mistakes"),
        ("role/${System}-deployment", "role/${System}-deployments"),
        ("policy/${System}-boundary", "policy/${System}-bounds"),
        ("ssm:/${System}/streams/reservations", "ssm:/${System}/streams/seats"),
        ("Value: !Sub \"${System}-parked-payments\"", "Value: !Sub \"${System}-parked\""),
        ("Value: !Sub \"${System}-api\"", "Value: !Sub \"${System}-gate\""),
        ("order-cart-dead-letters,", "order-trolley-dead-letters,"),
        (
            "sqs:${AWS::Region}:${AWS::AccountId}:${System}-order-cart-dead-letters",
            "sqs:::${System}-order-cart-dead-letters",
        ),
        ("QUEUE_URL_PREFIX: !Sub https://sqs.", "QUEUE_URL_PREFIX: !Sub http://sqs."),
        ("QueueName: !Sub ${System}-parked-payments", "QueueName: !Sub ${System}-parked"),
        // Names in an unforeseen place, and one that stays as it is written.
        ("Handler: use-points", "Handler: !Sub ${System}-use-points"),
        ("EVENT_BUS: !Sub ${System}-bus", "EVENT_BUS: ${System}-bus"),
    ] {
        let unknown = stacks.edited(part, broken).template().unknown().to_vec();
        assert!(!unknown.is_empty(), "{part}");
    }
}

#[test]
fn a_name_is_of_the_system_and_of_no_other() {
    let wrong = |stacks: &Stacks| {
        let template = stacks.template();
        let mut violations = template.twice().to_vec();
        for (id, resource) in template.all() {
            let kind = resource["Type"].as_str().unwrap_or_default();
            let is_nameless = NAMELESS.contains(&kind);
            let starts = ["${System}-", "/${System}/", "/aws/lambda/${System}-"];
            let is_of_system =
                |name: &String| name == "${System}" || starts.iter().any(|start| name.starts_with(start));
            match name_of(resource) {
                Some(name) if !is_of_system(&name) => violations.push(format!("{id} is called {name}")),
                None if !is_nameless => violations.push(format!("{id} has no name; a {kind} should have one")),
                _ => {}
            }
        }
        violations
    };
    let stacks = Stacks::read();
    none(wrong(&stacks));
    for (part, broken, found) in [
        ("QueueName: !Sub ${System}-order-cart\n", "QueueName: !Sub ${System}-order-stock\n", 1),
        ("TableName: !Sub ${System}-items", "TableName: items", 1),
        ("AlarmName: !Sub ${System}-throttled", "AlarmName: !Sub throttled-${System}", 1),
        ("      Name: !Sub ${System}-bus\n", "", 1),
        // The same logical id in two stacks.
        ("\n  UsePoints:\n", "\n  BeginPayment:\n", 1),
    ] {
        let violations = wrong(&stacks.edited(part, broken));
        assert!(violations.len() >= found, "{part}: {violations:?}");
    }
}

/// Types whose resources have no name of their own, or none that is used.
const NAMELESS: [&str; 7] = [
    "AWS::Lambda::Permission",
    "AWS::Logs::MetricFilter",
    "AWS::Logs::SubscriptionFilter",
    "AWS::SNS::Subscription",
    "AWS::SQS::QueuePolicy",
    "AWS::WAFv2::WebACLAssociation",
    "AWS::XRay::SamplingRule",
];
