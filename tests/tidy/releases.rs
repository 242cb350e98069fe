//! The functions between a buyer's click and a ticket change together with their configuration, for a few calls first.
//! Refunds are not among them: there are so few that a tenth of them, in five minutes, is none.

use crate::none;
use crate::template::{Template, logical_id, logical_ids};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The functions that buyers call to get seats and to pay.
const DOORS: [&str; 3] = ["reserve-seats", "start-payment", "charge-points"];
/// The saga of a sale.
const SAGA: &str = "PaymentSaga";
/// Types of what calls functions: the API in its role, others by themselves.
const CALLERS: [&str; 4] =
    ["AWS::IAM::Role", "AWS::Serverless::Api", "AWS::Serverless::Function", "AWS::Serverless::StateMachine"];

/// The templates' functions by how they are called.
struct Calls<'a> {
    template: &'a Template,
}

impl Calls<'_> {
    fn functions(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.template.resources("AWS::Serverless::Function")
    }

    /// Those that run a published version.
    fn released(&self) -> BTreeSet<String> {
        let released = self.functions().filter(|(_, function)| !function["AutoPublishAlias"].is_null());
        released.map(|(id, _)| id.to_owned()).collect()
    }

    /// The functions that a function is given.
    fn called_by(&self, id: &str) -> Vec<String> {
        let variables = self.template.properties(id)["Environment"]["Variables"].as_object().into_iter().flatten();
        let named_by = variables.flat_map(|(_, value)| logical_ids(value));
        named_by.filter(|id| self.template.kind_of(id) == "AWS::Serverless::Function").collect()
    }

    /// The saga's steps, the doors, and the functions they call.
    fn on_the_money_path(&self) -> BTreeSet<String> {
        let steps = self.template.properties(SAGA)["DefinitionSubstitutions"].as_object().into_iter().flatten();
        let steps = steps.filter_map(|(_, value)| logical_id(value));
        let mut found: BTreeSet<String> =
            steps.filter(|id| self.template.kind_of(id) == "AWS::Serverless::Function").collect();
        let doors = self.functions().filter(|(_, function)| DOORS.iter().any(|door| function["Handler"] == *door));
        found.extend(doors.map(|(id, _)| id.to_owned()));
        let mut asking: Vec<String> = found.iter().cloned().collect();
        while let Some(id) = asking.pop() {
            for asked in self.called_by(&id) {
                if found.insert(asked.clone()) {
                    asking.push(asked);
                }
            }
        }
        found
    }
}

/// Every way in which a value names a function: the function itself, or its published version.
fn named<'a>(value: &'a Value, found: &mut Vec<(&'a str, bool)>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let text = value.as_str().filter(|_| key == "Ref" || key == "Fn::GetAtt");
                match text.map(|text| text.split_once('.').unwrap_or((text, ""))) {
                    Some((id, part)) => found.push((id, part == "Alias")),
                    None => named(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| named(item, found)),
        _ => {}
    }
}

/// The alarms that roll gradual deployments back.
pub fn watched_by_canaries(template: &Template) -> BTreeSet<String> {
    let functions = template.resources("AWS::Serverless::Function");
    let alarms = functions.flat_map(|(_, function)| function["DeploymentPreference"]["Alarms"].as_array());
    alarms.flatten().filter_map(logical_id).collect()
}

fn wrong(template: &Template) -> Vec<String> {
    let calls = Calls { template };
    let (released, money) = (calls.released(), calls.on_the_money_path());
    let mut violations: Vec<String> = money
        .symmetric_difference(&released)
        .map(|id| format!("{id} is on the money path and publishes no versions, or the other way round"))
        .collect();
    for id in &released {
        let function = template.properties(id);
        if function["AutoPublishCodeSha256"] != json!({"Ref": "Release"}) {
            violations.push(format!("{id}: another configuration publishes no other version"));
        }
        let gradual = &function["DeploymentPreference"];
        if gradual["Enabled"] != json!({"Ref": "GradualDeployments"}) {
            violations.push(format!("{id} is not deployed gradually"));
        }
        // SAM's own role for it may repoint any alias of the account.
        if logical_id(&gradual["Role"]).is_none_or(|role| template.kind_of(&role) != "AWS::IAM::Role") {
            violations.push(format!("{id} is deployed by a role that AWS writes"));
        }
        let alarms: Vec<String> = gradual["Alarms"].as_array().into_iter().flatten().filter_map(logical_id).collect();
        if alarms.is_empty() || alarms.iter().any(|alarm| template.kind_of(alarm) != "AWS::CloudWatch::Alarm") {
            violations.push(format!("{id}: no alarm stops a deployment"));
        }
    }
    for kind in CALLERS {
        for (id, properties) in template.resources(kind) {
            let mut functions = Vec::new();
            named(properties, &mut functions);
            functions.retain(|(named, _)| template.kind_of(named) == "AWS::Serverless::Function");
            for (named, by_version) in functions.into_iter().filter(|(named, by)| released.contains(*named) != *by) {
                let how = if by_version { "by a version it does not publish" } else { "past its published version" };
                violations.push(format!("{id} calls {named} {how}"));
            }
        }
    }
    violations
}

#[test]
fn the_money_path_runs_published_versions_and_is_deployed_gradually() {
    let template = Template::read();
    assert!(Calls { template: &template }.on_the_money_path().len() >= 14, "the money path got lost");
    none(wrong(&template));
}

#[test]
fn what_goes_past_a_published_version_or_is_deployed_at_once_is_found() {
    let whole = r#"
Resources:
  Alarm: { Type: "AWS::CloudWatch::Alarm" }
  PaymentSaga:
    Type: AWS::Serverless::StateMachine
    Properties: { DefinitionSubstitutions: { Pay: !Ref Pay.Alias } }
  Pay:
    Type: AWS::Serverless::Function
    Properties:
      Handler: pay
      AutoPublishAlias: live
      AutoPublishCodeSha256: !Ref Release
      DeploymentPreference: { Enabled: !Ref GradualDeployments, Alarms: [!Ref Alarm], Role: !GetAtt Role.Arn }
  Role: { Type: "AWS::IAM::Role" }
  Look:
    Type: AWS::Serverless::Function
    Properties: { Handler: look, Environment: { Variables: { PAY: !Ref Pay.Alias, OTHER: !Ref Other } } }
  Other: { Type: "AWS::Serverless::Function", Properties: { Handler: other } }
"#;
    let wrong = |part: &str, broken: &str| wrong(&Template::parse(&whole.replace(part, broken))).len();
    assert_eq!(wrong("", ""), 0);
    for (part, broken, found) in [
        ("Pay: !Ref Pay.Alias", "Pay: !GetAtt Pay.Arn", 1),
        ("PAY: !Ref Pay.Alias", "PAY: !Ref Pay", 1),
        ("OTHER: !Ref Other", "OTHER: !Ref Other.Alias", 1),
        ("      AutoPublishAlias: live\n", "", 3),
        ("!Ref Release", "abc", 1),
        ("!Ref GradualDeployments", "true", 1),
        ("[!Ref Alarm]", "[]", 1),
        (", Role: !GetAtt Role.Arn", "", 1),
        ("Handler: other", "Handler: other, AutoPublishAlias: live", 6),
    ] {
        assert_ne!(whole.replace(part, broken), whole, "{part}");
        assert_eq!(wrong(part, broken), found, "{part}");
    }
}
