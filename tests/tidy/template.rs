//! The stacks' templates as one, with CloudFormation's short forms written out (`!Ref X` as `{"Ref": "X"}`) and with
//! references in place of the names by which stacks know each other ([`crate::named`]).
//!
//! So a check sees what depends on what, in whichever stack; [`Template::stack_of`] tells which one.

use crate::named::{Catalogue, Naming};
use crate::workspace::{entries, file_name, pascal, read, root};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

/// The stacks' templates as they are written, by the stacks' names.
#[derive(Clone)]
pub struct Stacks(BTreeMap<String, Arc<Written>>);

/// A template's text and content.
struct Written {
    text: String,
    document: Value,
}

/// The templates.
pub struct Template {
    stacks: BTreeMap<String, Value>,
    /// Of all stacks, with references in place of names.
    resources: Map<String, Value>,
    /// What all functions of a stack have in common, the same way.
    globals: BTreeMap<String, Value>,
    placed: BTreeMap<String, String>,
    catalogue: Catalogue,
    twice: Vec<String>,
}

/// A function of the templates.
pub struct Function<'a> {
    pub id: &'a str,
    properties: &'a Value,
    globals: &'a Value,
    routes: Vec<Route<'a>>,
}

/// An operation of the API.
pub struct Route<'a> {
    /// `GET`, `POST`, ...
    pub method: String,
    /// `/orders/{order_id}`.
    pub path: &'a str,
    /// Its `operationId`, tags and integration.
    pub operation: &'a Value,
}

/// Something that starts a function.
pub struct Trigger<'a> {
    /// `Api`, `SQS`, `DynamoDB` or `Schedule`.
    pub kind: &'a str,
    pub properties: &'a Value,
}

impl Written {
    fn new(text: String) -> Arc<Self> {
        let document = long_form(serde_norway::from_str(&text).expect("a template is no YAML"));
        Arc::new(Self { text, document })
    }
}

impl Stacks {
    /// The project's.
    pub fn read() -> Self {
        // Most tests break a line or two of them: what stays the same is parsed once.
        static READ: LazyLock<Stacks> = LazyLock::new(|| {
            let files = entries(&root().join("infra/stacks"));
            let name = |path: &PathBuf| file_name(path).trim_end_matches(".yaml").to_owned();
            Stacks(files.iter().map(|path| (name(path), Written::new(read(path)))).collect())
        });
        READ.clone()
    }

    /// These, with the first occurrence of `part` replaced.
    pub fn edited(&self, part: &str, broken: &str) -> Self {
        let has = self.0.iter().find(|(_, written)| written.text.contains(part));
        let (name, written) = has.unwrap_or_else(|| panic!("no {part}"));
        self.with(name, written.text.replacen(part, broken, 1))
    }

    /// These, with every occurrence of `part` replaced.
    pub fn edited_everywhere(&self, part: &str, broken: &str) -> Self {
        let have = self.0.iter().filter(|(_, written)| written.text.contains(part));
        let edited = have.map(|(name, written)| (name, written.text.replace(part, broken)));
        let edited: Vec<(&String, String)> = edited.collect();
        assert!(!edited.is_empty(), "no {part}");
        edited.into_iter().fold(self.clone(), |stacks, (name, text)| stacks.with(name, text))
    }

    fn with(&self, name: &str, text: String) -> Self {
        assert_ne!(text, self.0[name].text, "{name} is as it was");
        let mut stacks = self.clone();
        stacks.0.insert(name.to_owned(), Written::new(text));
        stacks
    }

    /// As one.
    pub fn template(&self) -> Template {
        Template::of(self.0.iter().map(|(name, written)| (name.clone(), written.document.clone())).collect())
    }
}

impl Template {
    /// The project's.
    pub fn read() -> Self {
        let template = Stacks::read().template();
        assert!(template.stacks.len() >= 10, "stacks went missing: {:?}", template.stacks.keys());
        template
    }

    /// Of one stack, from YAML.
    pub fn parse(yaml: &str) -> Self {
        Stacks(BTreeMap::from([("one".to_owned(), Written::new(yaml.to_owned()))])).template()
    }

    fn of(stacks: BTreeMap<String, Value>) -> Self {
        let (mut resources, mut placed, mut twice) = (Map::new(), BTreeMap::new(), Vec::new());
        for (stack, document) in &stacks {
            for (id, resource) in members(&document["Resources"]) {
                if let Some(other) = placed.insert(id.to_owned(), stack.clone()) {
                    twice.push(format!("{id} is in {other} and in {stack}"));
                }
                resources.insert(id.to_owned(), resource.clone());
            }
        }
        let mut catalogue = Catalogue::of(resources.iter().map(|(id, resource)| (id.as_str(), resource)));
        twice.extend(catalogue.twice());
        for (id, resource) in &mut resources {
            let kind = resource["Type"].as_str().unwrap_or_default().to_owned();
            catalogue.resolve(id, &kind, &mut resource["Properties"]);
        }
        let mut globals = BTreeMap::new();
        for (stack, document) in &stacks {
            let mut of_functions = document["Globals"]["Function"].clone();
            catalogue.resolve(&format!("all functions of {stack}"), "", &mut of_functions);
            globals.insert(stack.clone(), of_functions);
        }
        Self { stacks, resources, globals, placed, catalogue, twice }
    }

    /// The stacks as they are written, by name.
    pub fn stacks(&self) -> &BTreeMap<String, Value> {
        &self.stacks
    }

    /// The stack that a resource is in.
    pub fn stack_of(&self, id: &str) -> &str {
        self.placed.get(id).map(String::as_str).unwrap_or_default()
    }

    /// Which resources name which.
    pub fn namings(&self) -> &[Naming] {
        &self.catalogue.namings
    }

    /// Uses of names that do not exist.
    pub fn unknown(&self) -> &[String] {
        &self.catalogue.unknown
    }

    /// Duplicates: ids, and names of one type.
    pub fn twice(&self) -> &[String] {
        &self.twice
    }

    /// The names of the stacks' parameters.
    pub fn parameters(&self) -> Vec<&str> {
        let all = self.stacks.values().flat_map(|stack| members(&stack["Parameters"]).map(|(name, _)| name));
        all.collect::<BTreeSet<&str>>().into_iter().collect()
    }

    /// A parameter, of the first stack that has it.
    pub fn parameter(&self, name: &str) -> &Value {
        self.declared("Parameters", name)
    }

    fn declared(&self, section: &str, name: &str) -> &Value {
        self.stacks.values().map(|stack| &stack[section][name]).find(|found| !found.is_null()).unwrap_or(&Value::Null)
    }

    /// The parameters that a condition requires not to be empty.
    pub fn wanted_by(&self, condition: &str) -> BTreeSet<String> {
        self.wanted_in(self.declared("Conditions", condition))
    }

    fn wanted_in(&self, condition: &Value) -> BTreeSet<String> {
        if let Some(other) = condition["Fn::Condition"].as_str().or(condition["Condition"].as_str()) {
            return self.wanted_by(other);
        }
        if let Some(all) = condition["Fn::And"].as_array() {
            return all.iter().flat_map(|part| self.wanted_in(part)).collect();
        }
        let not_empty = &condition["Fn::Not"][0]["Fn::Equals"];
        let parameter = not_empty[0]["Ref"].as_str().filter(|_| not_empty[1] == "");
        parameter.map(str::to_owned).into_iter().collect()
    }

    /// All resources, whole.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.resources.iter().map(|(id, resource)| (id.as_str(), resource))
    }

    /// What all functions of the stack that a resource is in have in common.
    pub fn globals_of(&self, id: &str) -> &Value {
        self.globals.get(self.stack_of(id)).unwrap_or(&Value::Null)
    }

    /// All resources of a type: logical id and properties.
    pub fn resources<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let of_kind = self.all().filter(move |(_, resource)| resource["Type"] == kind);
        of_kind.map(|(id, resource)| (id, &resource["Properties"]))
    }

    /// The type of a resource.
    pub fn kind_of(&self, id: &str) -> &str {
        if id.starts_with("parameter/") {
            return "AWS::SSM::Parameter";
        }
        self.resource(id)["Type"].as_str().unwrap_or_default()
    }

    /// The properties of a resource.
    pub fn properties(&self, id: &str) -> &Value {
        &self.resource(id)["Properties"]
    }

    /// A resource whole: type, conditions, policies and properties.
    pub fn resource(&self, id: &str) -> &Value {
        self.resources.get(id).unwrap_or(&Value::Null)
    }

    /// The names of the stacks' outputs.
    pub fn outputs(&self) -> Vec<&str> {
        self.stacks.values().flat_map(|stack| members(&stack["Outputs"]).map(|(name, _)| name)).collect()
    }

    /// All functions.
    pub fn functions(&self) -> Vec<Function<'_>> {
        let mut routes: BTreeMap<String, Vec<Route<'_>>> = BTreeMap::new();
        for route in self.routes() {
            routes.entry(route.function().unwrap_or_default()).or_default().push(route);
        }
        let functions = self.resources("AWS::Serverless::Function");
        let of = |(id, properties)| Function {
            id,
            properties,
            globals: self.globals_of(id),
            routes: routes.remove(id).unwrap_or_default(),
        };
        functions.map(of).collect()
    }

    /// The operations of the API.
    pub fn routes(&self) -> Vec<Route<'_>> {
        let mut routes = Vec::new();
        for (_, api) in self.resources("AWS::Serverless::Api") {
            for (path, item) in members(&api["DefinitionBody"]["paths"]) {
                let operations = members(item);
                routes.extend(operations.map(|(method, operation)| Route {
                    method: method.to_uppercase(),
                    path,
                    operation,
                }));
            }
        }
        routes
    }
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

impl Route<'_> {
    /// What it calls.
    pub fn integration(&self) -> &Value {
        &self.operation["x-amazon-apigateway-integration"]
    }

    /// The function that it calls.
    pub fn function(&self) -> Option<String> {
        logical_id(&self.integration()["uri"])
    }
}

impl<'a> Function<'a> {
    /// `_HANDLER`.
    pub fn handler(&self) -> &'a str {
        self.properties["Handler"].as_str().unwrap_or_default()
    }

    /// The context whose program it runs.
    pub fn context(&self) -> &'a str {
        let uri = self.properties["CodeUri"].as_str().unwrap_or_default();
        uri.strip_prefix("../../target/lambda/").and_then(|rest| rest.strip_suffix('/')).unwrap_or_default()
    }

    /// Its name, as written.
    pub fn name(&self) -> &'a str {
        self.properties["FunctionName"]["Fn::Sub"].as_str().unwrap_or_default()
    }

    /// Its timeout, in seconds.
    pub fn timeout(&self) -> u64 {
        self.properties["Timeout"].as_u64().or(self.globals["Timeout"].as_u64()).expect("a function has a timeout")
    }

    /// The log that it writes into, if it is not the one of its name.
    pub fn log(&self) -> Option<String> {
        logical_id(&self.properties["LoggingConfig"]["LogGroup"])
    }

    /// Its own environment variables.
    pub fn variables(&self) -> Map<String, Value> {
        self.properties["Environment"]["Variables"].as_object().cloned().unwrap_or_default()
    }

    /// What starts it.
    pub fn triggers(&self) -> Vec<Trigger<'a>> {
        let events = members(&self.properties["Events"]);
        let events = events.map(|(_, event)| Trigger {
            kind: event["Type"].as_str().unwrap_or_default(),
            properties: &event["Properties"],
        });
        let routes = self.routes.iter().map(|route| Trigger { kind: "Api", properties: route.operation });
        events.chain(routes).collect()
    }

    /// Where failed asynchronous calls, or failed batches of a stream, are kept.
    pub fn on_failure(&self) -> Option<String> {
        let kept_in = |of: &Value| logical_id(&of["DestinationConfig"]["OnFailure"]["Destination"]);
        let calls = kept_in(&self.properties["EventInvokeConfig"]);
        calls.or_else(|| members(&self.properties["Events"]).find_map(|(_, event)| kept_in(&event["Properties"])))
    }

    /// Its permissions.
    pub fn grants(&self) -> Result<Vec<(String, String)>, String> {
        grants(self.properties["Policies"].as_array().into_iter().flatten())
    }
}

/// `(action, resource)` for each pair of a list of policy documents. A resource is named by its logical id, an index by
/// `<table>/index/<name>`.
pub fn grants<'a>(policies: impl IntoIterator<Item = &'a Value>) -> Result<Vec<(String, String)>, String> {
    let mut granted = Vec::new();
    for policy in policies.into_iter().filter(|policy| !is_tracing(policy)) {
        let Some(statements) = policy["Statement"].as_array() else {
            return Err(format!("a policy that is no document: {policy}"));
        };
        for statement in statements {
            if statement["Effect"] != "Allow" {
                return Err(format!("a statement that does not allow: {statement}"));
            }
            for resource in one_or_more(&statement["Resource"]) {
                let named = logical_id(resource).ok_or_else(|| format!("a resource that names none: {resource}"))?;
                for action in one_or_more(&statement["Action"]) {
                    let action = action.as_str().filter(|action| !action.contains('*'));
                    let action = action.ok_or_else(|| format!("an action that is no single one: {statement}"))?;
                    granted.push((action.to_owned(), named.clone()));
                }
            }
        }
    }
    Ok(granted)
}

/// Whether a policy is the one that tracing needs, where the stage is traced: X-Ray has no resources that could be
/// named. SAM gives it to functions, but not to state machines.
pub fn is_tracing(policy: &Value) -> bool {
    let xray = json!({"Fn::Sub": "arn:${AWS::Partition}:iam::aws:policy/AWSXrayWriteOnlyAccess"});
    *policy == json!({"Fn::If": ["IsTraced", xray, {"Ref": "AWS::NoValue"}]})
}

fn one_or_more(value: &Value) -> Vec<&Value> {
    value.as_array().map_or_else(|| vec![value], |values| values.iter().collect())
}

/// The resources that a value names: one, or a list joined to a text.
pub fn logical_ids(value: &Value) -> Vec<String> {
    match value["Fn::Join"].get(1).and_then(Value::as_array) {
        Some(parts) => parts.iter().filter_map(logical_id).collect(),
        None => logical_id(value).into_iter().collect(),
    }
}

/// The name of an SSM parameter here: `parameter/<name>` of `/<system>/<name>` and of its ARN.
fn parameter(sub: &str) -> Option<String> {
    let arn = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter";
    let name = sub.strip_prefix(arn).unwrap_or(sub).strip_prefix("/${System}/")?;
    Some(format!("parameter/{name}"))
}

/// The resource that a `Ref`, a `GetAtt`, or the one reference in a `Sub` names; a function's alias is the function.
/// Parameters of SSM are no resources of the template, but named like some.
pub fn logical_id(value: &Value) -> Option<String> {
    if let Some(id) = value["Ref"].as_str() {
        return Some(id.strip_suffix(".Alias").unwrap_or(id).to_owned());
    }
    if let Some(path) = value["Fn::GetAtt"].as_str() {
        return path.split_once('.').map(|(id, _)| id.to_owned());
    }
    let text = value["Fn::Sub"].as_str()?;
    if let Some(parameter) = parameter(text) {
        return Some(parameter);
    }
    let (before, after) = text.rsplit_once("${")?;
    let (reference, rest) = after.split_once('}')?;
    let id = reference.split('.').next().filter(|id| !id.starts_with("AWS::") && *id != "System")?;
    let index = rest.starts_with("/index/") && before.is_empty();
    Some(if index { format!("{id}{rest}") } else { id.to_owned() })
}

fn long_form(yaml: serde_norway::Value) -> Value {
    use serde_norway::Value as Yaml;
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(yes) => yes.into(),
        Yaml::Number(number) => serde_json::to_value(number).expect("a number"),
        Yaml::String(text) => text.into(),
        Yaml::Sequence(items) => items.into_iter().map(long_form).collect(),
        Yaml::Mapping(pairs) => {
            let pairs = pairs.into_iter().map(|(key, value)| {
                let key = key.as_str().map(str::to_owned).unwrap_or_else(|| format!("{key:?}"));
                (key, long_form(value))
            });
            Value::Object(pairs.collect())
        }
        Yaml::Tagged(tagged) => {
            let name = tagged.tag.to_string();
            let name = name.trim_start_matches('!');
            let name = if name == "Ref" { name.to_owned() } else { format!("Fn::{name}") };
            json!({ name: long_form(tagged.value) })
        }
    }
}

#[test]
fn a_resource_is_found_behind_every_way_to_name_it() {
    let id = |yaml: &str| logical_id(&long_form(serde_norway::from_str(yaml).unwrap()));
    assert_eq!(id("!Ref Saga").as_deref(), Some("Saga"));
    assert_eq!(id("!Ref Step.Alias").as_deref(), Some("Step"));
    assert_eq!(id("!GetAtt Table.Arn").as_deref(), Some("Table"));
    assert_eq!(id("!Sub ${Table.Arn}/index/due").as_deref(), Some("Table/index/due"));
    assert_eq!(
        id("!Sub arn:${AWS::Partition}:states:${AWS::Region}:execution:${Saga.Name}:*").as_deref(),
        Some("Saga")
    );
    let arn = "!Sub arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/${System}/notion";
    assert_eq!(id(arn).as_deref(), Some("parameter/notion"));
    assert_eq!(id("!Sub /${System}/notion").as_deref(), Some("parameter/notion"));
    assert_eq!(id("'*'"), None);
    assert_eq!(id("!Sub ${System}-bus"), None, "a name is no reference, until it is resolved");
    assert_eq!(id("!Sub arn:${AWS::Partition}:dynamodb:*"), None);
}

#[test]
fn a_wildcard_is_no_grant() {
    let policies = |action: &str, resource: Value| {
        [json!({"Statement": [{"Effect": "Allow", "Action": [action], "Resource": resource}]})]
    };
    let table = json!({"Fn::GetAtt": "T.Arn"});
    assert_eq!(grants(&policies("dynamodb:GetItem", table.clone())).unwrap().len(), 1);
    assert!(grants(&policies("dynamodb:*", table)).is_err());
    assert!(grants(&policies("dynamodb:GetItem", json!("*"))).is_err());
    assert!(grants(&[json!("AdministratorAccess")]).is_err());
}

/// What a table lacks to keep its data safe.
fn unsafe_tables(template: &Template) -> Vec<String> {
    let by_stage = json!({"Fn::If": ["IsProduction", true, false]});
    let mut violations = Vec::new();
    for (id, table) in template.resources("AWS::DynamoDB::Table") {
        let mut lacks = |is: bool, what: &str| {
            if !is {
                violations.push(format!("{id} {what}"));
            }
        };
        lacks(table["SSESpecification"]["SSEEnabled"] == true, "is not encrypted with a key of the account");
        let recovery = &table["PointInTimeRecoverySpecification"]["PointInTimeRecoveryEnabled"];
        lacks(*recovery == true, "cannot be brought back to a moment");
        lacks(table["DeletionProtectionEnabled"] == by_stage, "is not protected exactly in production");
        let whole = template.resource(id);
        lacks(whole["UpdateReplacePolicy"] == "Retain", "loses its data when an update replaces it");
        // Explicit. In production the protection comes before it.
        lacks(whole["DeletionPolicy"].is_string(), "does not say what becomes of it with the stack");
    }
    violations
}

#[test]
fn a_table_is_encrypted_can_be_restored_and_is_protected_in_production() {
    let stacks = Stacks::read();
    let template = stacks.template();
    assert_eq!(unsafe_tables(&template), Vec::<String>::new());
    let tables = template.resources("AWS::DynamoDB::Table").count();
    for (part, broken) in [
        ("SSEEnabled: true", "SSEEnabled: false"),
        ("PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false"),
        ("DeletionProtectionEnabled: !If [IsProduction, true, false]", "DeletionProtectionEnabled: false"),
        ("UpdateReplacePolicy: Retain", "UpdateReplacePolicy: Delete"),
        ("DeletionPolicy: Delete", "Comment: Delete"),
    ] {
        let edited = stacks.edited_everywhere(part, broken).template();
        assert_eq!(unsafe_tables(&edited).len(), tables, "{part}");
    }
}

/// Violations in where functions log, and how long the logs are kept.
fn wrong_logs(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    let groups: Vec<(&str, &Value)> = template.resources("AWS::Logs::LogGroup").collect();
    for (id, group) in &groups {
        if group["RetentionInDays"].is_null() {
            violations.push(format!("{id} is kept for ever"));
        }
    }
    for function in template.functions() {
        let of_context = format!("{}Logs", pascal(function.context()));
        let own = format!("/aws/lambda/{}", function.name());
        let has_own = groups.iter().any(|(_, group)| group["LogGroupName"]["Fn::Sub"] == own);
        match function.log() {
            Some(log) if log == of_context && template.kind_of(&log) == "AWS::Logs::LogGroup" => {}
            None if has_own => {}
            log => violations.push(format!("{} writes into {log:?}, not {of_context} or one of its own", function.id)),
        }
    }
    violations
}

#[test]
fn every_function_has_a_log_and_every_log_an_end() {
    let stacks = Stacks::read();
    assert_eq!(wrong_logs(&stacks.template()), Vec::<String>::new());
    for (part, broken) in [
        ("RetentionInDays: ", "Comment: "),
        ("LogGroup: !Ref PointsLogs", "LogGroup: !Ref PaymentsLogs"),
        ("LoggingConfig: { LogGroup: !Ref PaymentsLogs }", "MemorySize: 256"),
        ("/aws/lambda/${System}-join-queue", "/aws/lambda/${System}-join"),
    ] {
        assert!(!wrong_logs(&stacks.edited(part, broken).template()).is_empty(), "{part}");
    }
}

/// Visits a value and everything in it.
pub fn each<'a>(value: &'a Value, look: &mut impl FnMut(&'a Value)) {
    look(value);
    match value {
        Value::Array(values) => values.iter().for_each(|value| each(value, look)),
        Value::Object(values) => values.values().for_each(|value| each(value, look)),
        _ => {}
    }
}

#[test]
fn everything_is_traced_where_a_stage_is_and_may_say_so() {
    let template = Template::read();
    let traced = json!({"Fn::If": ["IsTraced", true, false]});
    for function in template.functions() {
        assert_eq!(function.globals["Tracing"], json!({"Ref": "Tracing"}), "{}", function.id);
    }
    for (id, api) in template.resources("AWS::Serverless::Api") {
        assert_eq!(api["TracingEnabled"], traced, "{id}");
    }
    for (id, saga) in template.resources("AWS::Serverless::StateMachine") {
        assert_eq!(saga["Tracing"]["Enabled"], traced, "{id}");
        let policies = saga["Policies"].as_array().into_iter().flatten();
        assert_eq!(policies.filter(|policy| is_tracing(policy)).count(), 1, "{id}");
    }
}

#[test]
fn the_api_takes_a_stages_requests_and_no_more() {
    let template = Template::read();
    for (id, api) in template.resources("AWS::Serverless::Api") {
        let all = &api["MethodSettings"][0];
        assert_eq!((&all["ResourcePath"], &all["HttpMethod"]), (&json!("/*"), &json!("*")), "{id}");
        for limit in ["ThrottlingRateLimit", "ThrottlingBurstLimit"] {
            assert_eq!(all[limit], json!({"Ref": "RequestsPerSecond"}), "{id}: {limit}");
        }
        // In production a firewall in front of it limits one user, one address and one body.
        let names_it = |(_, link): &(&str, &Value)| link["ResourceArn"].to_string().contains(&format!("${{{id}}}"));
        let link = template.resources("AWS::WAFv2::WebACLAssociation").find(names_it);
        let (link, firewall) = link.map(|(link, of)| (link, logical_id(&of["WebACLArn"]))).expect("a firewall");
        let firewall = firewall.expect("a firewall is named");
        assert_eq!(template.resource(link)["Condition"], "HasFirewall");
        assert_eq!(template.resource(&firewall)["Condition"], "HasFirewall");
        let rules = template.properties(&firewall)["Rules"].to_string();
        assert!(rules.contains("RateBasedStatement") && rules.contains("SizeConstraintStatement"), "{firewall}");
    }
}

#[test]
fn the_on_call_is_paged_for_a_payment_a_charge_a_withdrawal_and_an_order_that_do_not_end() {
    let template = Template::read();
    let alarms: Vec<&Value> = template.resources("AWS::CloudWatch::Alarm").map(|(_, alarm)| alarm).collect();
    for (age, context) in
        [("SagaAge", "payments"), ("ChargeAge", "payments"), ("WithdrawalAge", "payments"), ("OrderAge", "orders")]
    {
        let dimensions = json!([{"Name": "Stage", "Value": {"Ref": "Stage"}}, {"Name": "Context", "Value": context}]);
        let calls = |alarm: &&&Value| {
            alarm["Namespace"] == "Encore" && alarm["MetricName"] == age && alarm["Dimensions"] == dimensions
        };
        assert!(alarms.iter().find(calls).is_some(), "nobody is called for {age}");
    }
}

#[test]
fn a_stage_states_how_many_functions_reserve_concurrency() {
    let template = Template::read();
    let reserves = |function: &Function<'_>| {
        function.properties["ReservedConcurrentExecutions"]["Fn::If"][1] == json!({"Ref": "ReservedConcurrency"})
    };
    let count = template.functions().iter().filter(|function| reserves(function)).count();
    assert!(count > 10, "only {count}");
    // Each stack states the count of all: the account's concurrency is one.
    for (stack, document) in template.stacks() {
        let Some(text) = document["Parameters"]["ReservedConcurrency"]["Description"].as_str() else { continue };
        assert!(text.contains(&format!(" {count} functions reserve it")), "{stack}: {count} functions; {text}");
    }
}
