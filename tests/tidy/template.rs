//! The SAM template, with CloudFormation's short forms written out (`!Ref X` as `{"Ref": "X"}`).

use crate::workspace::text;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// The template.
pub struct Template(Value);

/// A function of the template.
pub struct Function<'a> {
    /// Its logical id.
    pub id: &'a str,
    properties: &'a Value,
    globals: &'a Value,
}

/// Something that starts a function.
pub struct Trigger<'a> {
    /// `Api`, `SQS`, `DynamoDB` or `Schedule`.
    pub kind: &'a str,
    /// Its properties.
    pub properties: &'a Value,
}

impl Template {
    /// The project's.
    pub fn read() -> Self {
        Self::parse(&text("infra/template.yaml"))
    }

    /// From YAML.
    pub fn parse(yaml: &str) -> Self {
        let yaml: serde_norway::Value = serde_norway::from_str(yaml).expect("the template is no YAML");
        Self(long_form(yaml))
    }

    /// The names of its parameters.
    pub fn parameters(&self) -> Vec<&str> {
        self.0["Parameters"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// A parameter.
    pub fn parameter(&self, name: &str) -> &Value {
        &self.0["Parameters"][name]
    }

    /// The parameters that a condition wants not to be empty.
    pub fn wanted_by(&self, condition: &str) -> BTreeSet<String> {
        self.wanted_in(&self.0["Conditions"][condition])
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
        self.0["Resources"].as_object().into_iter().flatten().map(|(id, resource)| (id.as_str(), resource))
    }

    /// What all functions have.
    pub fn globals(&self) -> &Value {
        &self.0["Globals"]["Function"]
    }

    /// All resources of a type: logical id and properties.
    pub fn resources<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let all = self.0["Resources"].as_object().expect("a template has resources");
        all.iter()
            .filter(move |(_, resource)| resource["Type"] == kind)
            .map(|(id, resource)| (id.as_str(), &resource["Properties"]))
    }

    /// The type of a resource.
    pub fn kind_of(&self, id: &str) -> &str {
        if id.starts_with("parameter/") {
            return "AWS::SSM::Parameter";
        }
        self.0["Resources"][id]["Type"].as_str().unwrap_or_default()
    }

    /// The properties of a resource.
    pub fn properties(&self, id: &str) -> &Value {
        &self.0["Resources"][id]["Properties"]
    }

    /// A resource whole: type, conditions, policies and properties.
    pub fn resource(&self, id: &str) -> &Value {
        &self.0["Resources"][id]
    }

    /// The names of its outputs.
    pub fn outputs(&self) -> Vec<&str> {
        self.0["Outputs"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
    }

    /// All functions.
    pub fn functions(&self) -> Vec<Function<'_>> {
        let globals = self.globals();
        self.resources("AWS::Serverless::Function")
            .map(|(id, properties)| Function { id, properties, globals })
            .collect()
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
        uri.strip_prefix("../target/lambda/").and_then(|rest| rest.strip_suffix('/')).unwrap_or_default()
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
        let events = self.properties["Events"].as_object().into_iter().flatten();
        events
            .map(|(_, event)| Trigger {
                kind: event["Type"].as_str().unwrap_or_default(),
                properties: &event["Properties"],
            })
            .collect()
    }

    /// Method and path of its route, if it has one.
    pub fn route(&self) -> Option<(String, String)> {
        let triggers = self.triggers();
        let api = triggers.iter().find(|trigger| trigger.kind == "Api")?;
        let part = |name: &str| api.properties[name].as_str().unwrap_or_default().to_owned();
        Some((part("Method").to_uppercase(), part("Path")))
    }

    /// Where what it was asked asynchronously and could not do is kept.
    pub fn on_failure(&self) -> Option<String> {
        logical_id(&self.properties["EventInvokeConfig"]["DestinationConfig"]["OnFailure"]["Destination"])
    }

    /// What it may do.
    pub fn grants(&self) -> Result<Vec<(String, String)>, String> {
        grants(&self.properties["Policies"])
    }
}

/// `(action, resource)` for each pair of a list of policy documents. A resource is named by its logical id, an index by
/// `<table>/index/<name>`.
pub fn grants(policies: &Value) -> Result<Vec<(String, String)>, String> {
    let mut granted = Vec::new();
    for policy in policies.as_array().into_iter().flatten().filter(|policy| !is_tracing(policy)) {
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

/// Whether a policy is the one that tracing needs, where the stage is traced: X-Ray has no resources that could be named.
/// SAM gives it to functions, but not to state machines.
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

/// What a parameter of SSM is called here: `parameter/<name>` of `/<stack>/<name>` and of its ARN.
fn parameter(sub: &str) -> Option<String> {
    let arn = "arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter";
    let name = sub.strip_prefix(arn).unwrap_or(sub).strip_prefix("/${AWS::StackName}/")?;
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
    let id = reference.split('.').next().filter(|id| !id.starts_with("AWS::"))?;
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
    let arn = "!Sub arn:${AWS::Partition}:ssm:${AWS::Region}:${AWS::AccountId}:parameter/${AWS::StackName}/notion";
    assert_eq!(id(arn).as_deref(), Some("parameter/notion"));
    assert_eq!(id("!Sub /${AWS::StackName}/notion").as_deref(), Some("parameter/notion"));
    assert_eq!(id("'*'"), None);
    assert_eq!(id("!Sub arn:${AWS::Partition}:dynamodb:*"), None);
}

#[test]
fn a_wildcard_is_no_grant() {
    let policies = |action: &str, resource: Value| {
        json!([{"Statement": [
            {"Effect": "Allow", "Action": [action], "Resource": resource}
        ]}])
    };
    let table = json!({"Fn::GetAtt": "T.Arn"});
    assert_eq!(grants(&policies("dynamodb:GetItem", table.clone())).unwrap().len(), 1);
    assert!(grants(&policies("dynamodb:*", table)).is_err());
    assert!(grants(&policies("dynamodb:GetItem", json!("*"))).is_err());
    assert!(grants(&json!(["AdministratorAccess"])).is_err());
}

/// What a table lacks of what keeps its data.
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
        // Said aloud. In production the protection stands before it.
        lacks(whole["DeletionPolicy"].is_string(), "does not say what becomes of it with the stack");
    }
    violations
}

#[test]
fn a_table_is_encrypted_can_be_restored_and_is_protected_in_production() {
    let yaml = text("infra/template.yaml");
    let template = Template::parse(&yaml);
    assert_eq!(unsafe_tables(&template), Vec::<String>::new());
    let tables = template.resources("AWS::DynamoDB::Table").count();
    for (part, broken) in [
        ("SSEEnabled: true", "SSEEnabled: false"),
        ("PointInTimeRecoveryEnabled: true", "PointInTimeRecoveryEnabled: false"),
        ("DeletionProtectionEnabled: !If [IsProduction, true, false]", "DeletionProtectionEnabled: false"),
        ("UpdateReplacePolicy: Retain", "UpdateReplacePolicy: Delete"),
        ("DeletionPolicy: Delete", "Comment: Delete"),
    ] {
        assert_eq!(unsafe_tables(&Template::parse(&yaml.replace(part, broken))).len(), tables, "{part}");
    }
}

/// What is wrong with where functions write what they say, and how long it is kept.
fn wrong_logs(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    let groups: Vec<(&str, &Value)> = template.resources("AWS::Logs::LogGroup").collect();
    for (id, group) in &groups {
        if group["RetentionInDays"].is_null() {
            violations.push(format!("{id} is kept for ever"));
        }
    }
    for function in template.functions() {
        let of_context = format!("{}Logs", crate::workspace::pascal(function.context()));
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
    let yaml = text("infra/template.yaml");
    assert_eq!(wrong_logs(&Template::parse(&yaml)), Vec::<String>::new());
    for (part, broken) in [
        ("RetentionInDays: ", "Comment: "),
        ("LogGroup: !Ref PointsLogs", "LogGroup: !Ref PaymentsLogs"),
        ("LoggingConfig: { LogGroup: !Ref PaymentsLogs }", "MemorySize: 256"),
        ("/aws/lambda/${AWS::StackName}-join-queue", "/aws/lambda/${AWS::StackName}-join"),
    ] {
        assert!(!wrong_logs(&Template::parse(&yaml.replacen(part, broken, 1))).is_empty(), "{part}");
    }
}

/// Looks at a value and everything in it.
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
    let globals = &template.0["Globals"]["Function"];
    assert_eq!(globals["Tracing"], json!({"Ref": "Tracing"}));
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
        // In production a firewall stands before it that knows how much one user, one address and one body may be.
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
fn somebody_is_called_for_a_payment_a_charge_and_an_order_that_do_not_end() {
    let template = Template::read();
    let alarms: Vec<&Value> = template.resources("AWS::CloudWatch::Alarm").map(|(_, alarm)| alarm).collect();
    for (age, context) in [("SagaAge", "payments"), ("ChargeAge", "payments"), ("OrderAge", "orders")] {
        let dimensions = json!([{"Name": "Stage", "Value": {"Ref": "Stage"}}, {"Name": "Context", "Value": context}]);
        let calls = |alarm: &&&Value| {
            alarm["Namespace"] == "Encore" && alarm["MetricName"] == age && alarm["Dimensions"] == dimensions
        };
        assert!(alarms.iter().find(calls).is_some(), "nobody is called for {age}");
    }
}

#[test]
fn a_stage_is_told_how_many_functions_reserve_concurrency() {
    let template = Template::read();
    let reserves = |function: &Function<'_>| {
        function.properties["ReservedConcurrentExecutions"]["Fn::If"][1] == json!({"Ref": "ReservedConcurrency"})
    };
    let count = template.functions().iter().filter(|function| reserves(function)).count();
    let told = template.parameter("ReservedConcurrency")["Description"].as_str().expect("a description");
    assert!(told.contains(&format!(" {count} functions reserve it")), "{count} functions; {told}");
}
