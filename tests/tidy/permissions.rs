//! Each function may do exactly what its code does, to exactly its context's table.
//!
//! What the code does is read from it: from the handler through the ports its use case calls to the SDK calls of their
//! implementation ([`Program`]). So neither a permission nor a call can be added or dropped alone.

use crate::code::{Arm, Main, OF_A_CONSUMER, Program};
use crate::none;
use crate::queues::last_resorts;
use crate::template::{Function, Stacks, Template, each, grants, is_tracing, logical_id, logical_ids};
use crate::workspace::{contexts, pascal};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What a function needs: `(action, resource)`, and the call that needs it.
type Needs = BTreeMap<(String, String), String>;

fn needs(template: &Template, function: &Function<'_>, program: &Program, arm: &Arm) -> Needs {
    let table = format!("{}Table", pascal(function.context()));
    let variables = function.variables();
    // Other resources are those given to it, by a setting that its main names.
    let of_kind = |kind: &str| -> Vec<String> {
        let given = variables.iter().filter(|(name, _)| arm.named.contains(*name) || *name == "EVENT_BUS");
        given.flat_map(|(_, value)| logical_ids(value)).filter(|id| template.kind_of(id) == kind).collect()
    };
    let mut needs = Needs::new();
    let mut need = |action: &str, resources: Vec<String>, caller: &str| {
        let unknown = resources.is_empty().then(|| "a resource it is not told of".to_owned());
        for resource in resources.into_iter().chain(unknown) {
            needs.insert((action.to_owned(), resource), caller.to_owned());
        }
    };
    for ((action, index), caller) in program.aws_calls(&arm.serves) {
        let resources = match action.split(':').next() {
            Some("dynamodb") => vec![index.map_or_else(|| table.clone(), |index| format!("{table}/index/{index}"))],
            Some("lambda") => of_kind("AWS::Serverless::Function"),
            Some("sqs") => of_kind("AWS::SQS::Queue"),
            Some("events") => of_kind("AWS::Events::EventBus"),
            Some("states") => of_kind("AWS::Serverless::StateMachine"),
            Some("ssm") => of_kind("AWS::SSM::Parameter"),
            _ => Vec::new(),
        };
        need(action, resources, &caller);
    }
    if ["queue", "batch"].contains(&arm.kind.as_str()) {
        for (path, setting) in OF_A_CONSUMER {
            let queue: Vec<String> = variables.get(setting).map(logical_ids).unwrap_or_default();
            for ((action, _), caller) in program.aws_calls(path) {
                need(action, queue.clone(), &caller);
            }
        }
    }
    if let Some(kept_in) = function.on_failure() {
        need("sqs:SendMessage", vec![kept_in], "its on-failure destination");
    }
    needs
}

fn wrong_grants(function: &str, needs: &Needs, granted: &[(String, String)]) -> Vec<String> {
    let granted: BTreeSet<&(String, String)> = granted.iter().collect();
    let missing = needs.iter().filter(|(need, _)| !granted.contains(need)).map(|((action, resource), caller)| {
        format!("{function} is not granted {action} on {resource}, which it needs ({caller})")
    });
    let surplus = granted.iter().filter(|grant| !needs.contains_key(**grant)).map(|(action, resource)| {
        format!("{function} is granted {action} on {resource}, which nothing of its code needs")
    });
    missing.chain(surplus).collect()
}

#[test]
fn a_function_is_granted_exactly_the_calls_its_code_makes() {
    let template = Template::read();
    let mut violations = Vec::new();
    for context in contexts() {
        let program = Program::of(&context);
        for (handler, arm) in Main::of(&context).arms {
            let functions = template.functions();
            let Some(function) = functions.iter().find(|function| function.handler() == handler) else { continue };
            match function.grants() {
                Ok(granted) => {
                    let needs = needs(&template, function, &program, &arm);
                    violations.extend(wrong_grants(function.id, &needs, &granted));
                }
                Err(why) => violations.push(format!("{} has {why}", function.id)),
            }
        }
    }
    none(violations);
}

#[test]
fn every_call_to_aws_is_made_for_some_handler() {
    let orphans = |context: &String| {
        let serves: Vec<String> = Main::of(context).arms.into_values().map(|arm| arm.serves).collect();
        Program::of(context).orphans(&serves)
    };
    none(contexts().iter().flat_map(orphans).collect());
}

#[test]
fn every_call_to_aws_that_kit_makes_is_made_for_some_handler() {
    let mut of_kit = BTreeMap::new();
    for context in contexts() {
        let serves = Main::of(&context).arms.into_values().map(|arm| arm.serves);
        let paths: Vec<String> = serves.chain(OF_A_CONSUMER.map(|(path, _)| path.to_owned())).collect();
        for (function, reached) in Program::of(&context).of_kit(&paths) {
            *of_kit.entry(function).or_insert(false) |= reached;
        }
    }
    assert!(of_kit.len() > 5, "{of_kit:?}");
    let never = of_kit.into_iter().filter(|(_, reached)| !reached);
    none(never.map(|(function, _)| format!("{function} calls AWS, but for no handler")).collect());
}

#[test]
fn a_missing_and_a_surplus_grant_are_found() {
    let pair = |action: &str| (action.to_owned(), "PointsTable".to_owned());
    let needs = Needs::from([(pair("dynamodb:GetItem"), "find".to_owned())]);
    assert_eq!(wrong_grants("F", &needs, &[pair("dynamodb:GetItem")]).len(), 0);
    assert_eq!(wrong_grants("F", &needs, &[]).len(), 1);
    assert_eq!(wrong_grants("F", &needs, &[pair("dynamodb:GetItem"), pair("dynamodb:Scan")]).len(), 1);
    let another_table = ("dynamodb:GetItem".to_owned(), "PaymentsTable".to_owned());
    assert_eq!(wrong_grants("F", &needs, &[another_table]).len(), 2);
}

#[test]
fn a_function_is_given_its_contexts_table_and_no_other() {
    let template = Template::read();
    let mut violations = Vec::new();
    for function in template.functions() {
        let own = format!("{}Table", pascal(function.context()));
        let variables = function.variables();
        let tables = variables.iter().filter_map(|(name, value)| Some((name.as_str(), logical_id(value)?)));
        let tables = tables.filter(|(_, id)| template.kind_of(id) == "AWS::DynamoDB::Table");
        // A function without use for a table is given none.
        if tables.clone().any(|(name, id)| name != "TABLE" || id != own) {
            violations.push(format!(
                "{} is told of {:?}; its context's table is {own}",
                function.id,
                tables.collect::<Vec<_>>()
            ));
        }
    }
    none(violations);
}

#[test]
fn a_state_machine_may_do_exactly_what_its_states_do() {
    let template = Template::read();
    let mut violations = Vec::new();
    for (id, properties) in template.resources("AWS::Serverless::StateMachine") {
        let mut needs = Needs::new();
        for value in properties["DefinitionSubstitutions"].as_object().into_iter().flatten().map(|(_, value)| value) {
            let resource = logical_id(value).expect("a substitution names a resource");
            let action = match template.kind_of(&resource) {
                "AWS::Serverless::Function" => "lambda:InvokeFunction",
                "AWS::SQS::Queue" => "sqs:SendMessage",
                other => panic!("{id}: no action is known for {other}"),
            };
            needs.insert((action.to_owned(), resource), "its definition".to_owned());
        }
        match grants(properties["Policies"].as_array().into_iter().flatten()) {
            Ok(granted) => violations.extend(wrong_grants(id, &needs, &granted)),
            Err(why) => violations.push(format!("{id} has {why}")),
        }
    }
    none(violations);
}

/// The policy that bounds all others.
const BOUNDARY: &str = "Boundary";

/// What AWS's own policies allow functions on every resource of the account: to consume queues and streams, to write
/// logs and traces, and to read what SSM has encrypted.
const OF_AWS: [&str; 15] = [
    "dynamodb:DescribeStream",
    "dynamodb:GetRecords",
    "dynamodb:GetShardIterator",
    "dynamodb:ListStreams",
    "kms:Decrypt",
    "logs:CreateLogStream",
    "logs:PutLogEvents",
    "sqs:DeleteMessage",
    "sqs:GetQueueAttributes",
    "sqs:ReceiveMessage",
    "xray:GetSamplingRules",
    "xray:GetSamplingStatisticSummaries",
    "xray:GetSamplingTargets",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
];

/// Those of them that do not support resources.
const WITHOUT_RESOURCES: [&str; 1] = ["dynamodb:ListStreams"];

/// Acts on what it deploys, and not on what runs: it has no boundary.
const UNBOUNDED: [&str; 1] = ["DeploymentRole"];

fn policies(properties: &Value) -> Vec<&Value> {
    properties["Policies"].as_array().into_iter().flatten().collect()
}

/// The roles that act while the system runs, with their policies and boundary: functions, sagas, and the API in its
/// role.
fn acting(template: &Template) -> Vec<(&str, Vec<&Value>, &Value)> {
    let machines = template.resources("AWS::Serverless::StateMachine");
    let machines = machines.map(|(id, properties)| (id, policies(properties), &properties["PermissionsBoundary"]));
    let functions = template.resources("AWS::Serverless::Function");
    let functions =
        functions.map(|(id, properties)| (id, policies(properties), &template.globals_of(id)["PermissionsBoundary"]));
    let roles = template.resources("AWS::IAM::Role").filter(|(id, _)| !UNBOUNDED.contains(id));
    let roles = roles.map(|(id, properties)| {
        let documents = policies(properties).into_iter().map(|policy| &policy["PolicyDocument"]).collect();
        (id, documents, &properties["PermissionsBoundary"])
    });
    machines.chain(functions).chain(roles).collect()
}

/// Violations in the boundary of the acting roles.
fn wrong_boundary(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    let mut bounded = BTreeSet::new();
    let mut denied = Vec::new();
    for statement in template.properties(BOUNDARY)["PolicyDocument"]["Statement"].as_array().into_iter().flatten() {
        let texts = |value: &Value| -> Vec<String> {
            let mut texts = Vec::new();
            each(value, &mut |value| texts.extend(value.as_str().map(str::to_owned)));
            texts
        };
        let actions = texts(&statement["Action"]);
        if statement["Effect"] == "Deny" {
            denied.push((actions, texts(&statement["Resource"])));
            continue;
        }
        let may_be_any = |action: &String| action.starts_with("xray:") || WITHOUT_RESOURCES.contains(&action.as_str());
        for resource in texts(&statement["Resource"]) {
            let is_of_the_system = ["/${System}/*", "/${System}-*", ":${System}-*"];
            let is_of_the_system = is_of_the_system.iter().any(|end| resource.ends_with(end));
            let may_be_all = resource == "*" && actions.iter().all(may_be_any);
            // No template names the key; the condition names its owner.
            let is_a_key = actions == ["kms:Decrypt"] && resource.ends_with(":${AWS::AccountId}:key/*");
            if !(is_of_the_system || may_be_all || is_a_key) {
                violations.push(format!("{actions:?} on {resource} goes beyond the system"));
            }
        }
        let condition = &statement["Condition"];
        let of_a_function = &condition["StringLike"]["kms:EncryptionContext:aws:lambda:FunctionArn"];
        let is_of_somebody = !condition["StringEquals"]["kms:ViaService"].is_null() || !of_a_function.is_null();
        if actions.iter().any(|action| action == "kms:Decrypt") && !is_of_somebody {
            violations.push("whatever is encrypted in the account may be read".to_owned());
        }
        bounded.extend(actions);
    }
    // What waits for the on-call is the only record of what is open.
    let kept = |queue: &str, name: &str| {
        denied.iter().any(|(actions, resources)| {
            let are_it = |resource: &String| match resource.rsplit_once("${AWS::AccountId}:") {
                Some((_, "${System}-*-dead-letters*")) => name.contains("-dead-letters"),
                _ => *resource == format!("{queue}.Arn"),
            };
            actions == &["sqs:DeleteMessage", "sqs:ReceiveMessage"] && resources.iter().any(are_it)
        })
    };
    for queue in last_resorts(template) {
        let name = template.properties(&queue)["QueueName"]["Fn::Sub"].as_str().unwrap_or_default();
        if !kept(&queue, name) {
            violations.push(format!("any function that consumes a queue may empty {queue}"));
        }
    }
    let mut granted: BTreeSet<String> = OF_AWS.map(str::to_owned).into();
    for (id, policies, boundary) in acting(template) {
        if logical_id(boundary).as_deref() != Some(BOUNDARY) {
            violations.push(format!("{id} is not bounded"));
        }
        granted.extend(grants(policies).unwrap_or_default().into_iter().map(|(action, _)| action));
    }
    let missing =
        granted.difference(&bounded).map(|action| format!("{action} is granted in vain: it is out of bounds"));
    let surplus = bounded.difference(&granted).map(|action| format!("{action} is within bounds, and nobody needs it"));
    violations.extend(missing.chain(surplus));
    violations
}

#[test]
fn nothing_goes_beyond_the_system_not_even_with_the_policies_that_aws_writes() {
    none(wrong_boundary(&Template::read()));
}

#[test]
fn a_boundary_that_is_too_narrow_too_wide_or_not_there_is_found() {
    let stacks = Stacks::read();
    let bound = "PermissionsBoundary: !Sub arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/${System}-boundary\n";
    for (part, broken) in [
        ("- states:StartExecution", "- states:StopExecution"),
        ("- sqs:ReceiveMessage\n", ""),
        ("table/${System}-*", "table/*"),
        ("parameter/${System}/*", "parameter/*"),
        ("- dynamodb:ListStreams\n", "- dynamodb:ListStreams\n              - dynamodb:Scan\n"),
        // Of functions, of a saga, and of the role that the API takes.
        (&format!("Tracing: !Ref Tracing\n    {bound}"), "Tracing: !Ref Tracing\n"),
        (&format!("payment-saga.asl.json\n      {bound}"), "payment-saga.asl.json\n"),
        (&format!("RoleName: !Sub ${{System}}-api\n      {bound}"), "RoleName: !Sub ${System}-api\n"),
        ("policy/${System}-boundary", "policy/${System}-bounds"),
        ("kms:ViaService", "kms:CallerAccount"),
        ("kms:EncryptionContext:aws:lambda:FunctionArn", "kms:CallerAccount"),
        ("${System}-*-dead-letters*", "${System}-order-*-dead-letters*"),
        ("${System}-parked-payments\n          - Effect", "${System}-parked\n          - Effect"),
    ] {
        assert!(!wrong_boundary(&stacks.edited(part, broken).template()).is_empty(), "{part}");
    }
}

/// Resources that end in `*`, and why they may.
const OPEN_ENDS: [(&str, &str, &str); 2] = [
    // An execution gets its name when it starts. Its saga is named here.
    ("states:DescribeExecution", ":execution:${", "}:*"),
    // Named one by one, functions and the role that repoints their aliases would wait for each other.
    ("lambda:UpdateAlias", ":function:${", "System}-*"),
];

/// Policies that allow more than they name: any resource's policy, also those of queues and of types that no test knows
/// yet.
fn too_wide(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    // The boundary allows nothing; its width has a test of its own.
    for (id, resource) in template.all().filter(|(id, _)| *id != BOUNDARY) {
        each(&resource["Properties"], &mut |value| {
            let texts = |value: &Value| {
                let mut texts = Vec::new();
                each(value, &mut |value| texts.extend(value.as_str().map(str::to_owned)));
                texts
            };
            if !value["Effect"].is_null() {
                let actions = texts(&value["Action"]);
                let may_end_open = |text: &String| {
                    let of_one = |(action, part, end): &(&str, &str, &str)| {
                        let is_its = actions.last().is_some_and(|last| last == action);
                        is_its && text.contains(part) && text.ends_with(end)
                    };
                    let looks = text == "*" && actions == ["cloudwatch:DescribeAlarms"];
                    looks || OPEN_ENDS.iter().any(of_one)
                };
                let wide =
                    texts(&value["Resource"]).into_iter().filter(|text| text.contains('*') && !may_end_open(text));
                let wide = wide.chain(actions.iter().filter(|action| action.contains('*')).cloned());
                let wide = wide.chain(texts(&value["Principal"]).into_iter().filter(|who| who.contains('*')));
                violations.extend(wide.map(|text| format!("{id} allows {text}")));
                let turned = ["NotAction", "NotResource", "NotPrincipal"].into_iter().filter(|no| !value[no].is_null());
                violations.extend(turned.map(|no| format!("{id} allows all but something: {no}")));
            }
            let ready_made = value["Policies"].as_array().into_iter().flatten().filter(|policy| !is_tracing(policy));
            let ready_made =
                ready_made.filter(|policy| policy["Statement"].is_null() && policy["PolicyDocument"].is_null());
            let managed = value["ManagedPolicyArns"].as_array().into_iter().flatten();
            violations
                .extend(ready_made.chain(managed).map(|policy| format!("{id} has a policy that AWS writes: {policy}")));
        });
    }
    violations
}

#[test]
fn no_policy_allows_more_than_it_names() {
    none(too_wide(&Template::read()));
}

#[test]
fn a_policy_that_allows_more_than_it_names_is_found() {
    let whole = r#"
Resources:
  Look:
    Type: AWS::Serverless::Function
    Properties:
      Policies:
        - Statement:
            - Effect: Allow
              Action: [states:DescribeExecution]
              Resource: !Sub arn:${AWS::Partition}:states:${AWS::Region}:execution:${Saga.Name}:*
            - { Effect: Allow, Action: sqs:SendMessage, Resource: !GetAtt Work.Arn }
  Policy:
    Type: AWS::SQS::QueuePolicy
    Properties:
      PolicyDocument:
        Statement:
          - { Effect: Allow, Principal: { Service: events.amazonaws.com }, Action: sqs:SendMessage, Resource: [!GetAtt Work.Arn] }
"#;
    let wide = |part: &str, broken: &str| too_wide(&Template::parse(&whole.replacen(part, broken, 1)));
    assert_eq!(wide("", ""), Vec::<String>::new());
    for (part, broken) in [
        ("Action: sqs:SendMessage", "Action: sqs:*"),
        ("Resource: !GetAtt Work.Arn", "Resource: '*'"),
        ("Resource: !GetAtt Work.Arn", "Resource: !Sub 'arn:${AWS::Partition}:sqs:::${System}-*'"),
        ("${Saga.Name}:*", "*"),
        ("[states:DescribeExecution]", "[states:StopExecution]"),
        ("Service: events.amazonaws.com", "AWS: '*'"),
        ("Resource: !GetAtt Work.Arn", "NotResource: !GetAtt Work.Arn"),
        ("- Statement:", "- AmazonSQSFullAccess\n        - Statement:"),
    ] {
        assert_ne!(whole.replacen(part, broken, 1), whole, "{part}");
        assert_eq!(wide(part, broken).len(), 1, "{broken}");
    }
}
