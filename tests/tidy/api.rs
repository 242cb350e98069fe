//! The API: its role, its routes and its description agree. LocalStack does not check that role.

use crate::none;
use crate::template::{Route, Stacks, Template, logical_id};
use crate::workspace::{contexts, crate_dir, read};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The role that API Gateway assumes.
const ROLE: &str = "ApiRole";

/// What the role allows, against what routes call: the same functions, by the same alias.
fn wrong_role(template: &Template) -> Vec<String> {
    let mut allowed = BTreeSet::new();
    let role = template.properties(ROLE);
    let mut violations = Vec::new();
    for policy in role["Policies"].as_array().into_iter().flatten() {
        for statement in policy["PolicyDocument"]["Statement"].as_array().into_iter().flatten() {
            if statement["Effect"] != "Allow" || statement["Action"] != json!(["lambda:InvokeFunction"]) {
                violations.push(format!("{ROLE} does more than call functions: {statement}"));
            }
            let resources = statement["Resource"].as_array().into_iter().flatten();
            allowed.extend(resources.map(Value::to_string));
        }
    }
    let assumed = &role["AssumeRolePolicyDocument"]["Statement"];
    if assumed[0]["Principal"] != json!({"Service": "apigateway.amazonaws.com"}) || !assumed[1].is_null() {
        violations.push(format!("{ROLE} is taken by others than API Gateway"));
    }
    let called: BTreeSet<String> =
        template.routes().iter().map(|route| route.integration()["uri"].to_string()).collect();
    violations.extend(called.difference(&allowed).map(|function| format!("the API may not call {function}")));
    violations.extend(allowed.difference(&called).map(|function| format!("the API may call {function}, for no route")));
    violations
}

/// Violations in how routes call functions.
fn wrong_routes(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    let functions = template.functions();
    for route in template.routes() {
        let Route { method, path, operation } = &route;
        let integration = route.integration();
        if logical_id(&integration["credentials"]).as_deref() != Some(ROLE) {
            violations.push(format!("{method} {path} is not called in {ROLE}"));
        }
        // Lambda accepts only POST, whatever the route's method is.
        if integration["type"] != "aws_proxy" || integration["httpMethod"] != "POST" {
            violations.push(format!("{method} {path} is no proxy of a function"));
        }
        let id = route.function().unwrap_or_default();
        let Some(function) = functions.iter().find(|function| function.id == id) else {
            violations.push(format!("{method} {path} calls {id}, which is no function"));
            continue;
        };
        if operation["operationId"] != function.handler() {
            violations.push(format!("{method} {path} is {} and calls {id}", operation["operationId"]));
        }
        // Tools use it to leave out the routes of contexts that are not deployed.
        if operation["tags"] != json!([function.context()]) {
            violations.push(format!("{method} {path} is of {}, and {id} of {}", operation["tags"], function.context()));
        }
    }
    // Permissions on the function itself would need the API's id, which is made last.
    for (id, permission) in template.resources("AWS::Lambda::Permission") {
        if permission["Principal"] == "apigateway.amazonaws.com" {
            violations.push(format!("{id} lets an API call past {ROLE}"));
        }
    }
    violations
}

/// Operations of contexts' descriptions that are no routes of theirs, and routes that no context describes.
fn undescribed(template: &Template) -> Vec<String> {
    let mut described = BTreeSet::new();
    for context in contexts() {
        let path = crate_dir(&context).join("openapi.yaml");
        if !path.is_file() {
            continue;
        }
        let api: Value = serde_norway::from_str(&read(&path)).expect("a description is YAML");
        for (path, item) in api["paths"].as_object().into_iter().flatten() {
            for (method, operation) in item.as_object().into_iter().flatten() {
                if let Some(id) = operation["operationId"].as_str() {
                    described.insert([method.to_uppercase(), path.clone(), id.to_owned(), context.clone()]);
                }
            }
        }
    }
    let functions = template.functions();
    let of = |route: Route<'_>| {
        let id = route.function()?;
        let function = functions.iter().find(|function| function.id == id)?;
        let (handler, context) = (function.handler().to_owned(), function.context().to_owned());
        Some([route.method, route.path.to_owned(), handler, context])
    };
    let served: BTreeSet<[String; 4]> = template.routes().into_iter().filter_map(of).collect();
    let unserved = described.difference(&served).map(|operation| format!("{operation:?} is described and not served"));
    unserved
        .chain(served.difference(&described).map(|route| format!("{route:?} is served and not described")))
        .collect()
}

#[test]
fn the_api_calls_the_functions_of_its_routes_in_a_role_that_may_call_exactly_them() {
    let template = Template::read();
    assert!(template.routes().len() > 30, "routes went missing");
    none([wrong_role(&template), wrong_routes(&template), undescribed(&template)].concat());
}

#[test]
fn a_route_that_may_not_be_called_or_calls_another_function_is_found() {
    let stacks = Stacks::read();
    let granted = |name: &str| {
        format!(
            "- !Sub arn:${{AWS::Partition}}:lambda:${{AWS::Region}}:${{AWS::AccountId}}:function:${{System}}-{name}\n"
        )
    };
    let call = "functions/arn:${AWS::Partition}:lambda:${AWS::Region}:${AWS::AccountId}:function:${System}";
    for (part, broken) in [
        (granted("get-cart"), "# None.\n".to_owned()),
        (granted("get-cart"), granted("get-cart") + "                  " + &granted("clear-cart")),
        (granted("get-cart"), granted("track-order")),
        (granted("reserve-seats:live"), granted("reserve-seats")),
        (format!("{call}-get-cart/"), format!("{call}-get-order/")),
        (format!("{call}-start-payment:live/"), format!("{call}-start-payment/")),
        (format!("{call}-get-cart/"), format!("{call}-get-trolley/")),
        ("Action: [lambda:InvokeFunction]\n                Resource:\n                  - !Sub".to_owned(),
         "Action: [lambda:InvokeFunction, lambda:DeleteFunction]\n                Resource:\n                  - !Sub".to_owned()),
        ("Service: apigateway.amazonaws.com".to_owned(), "Service: lambda.amazonaws.com".to_owned()),
        ("credentials: !GetAtt ApiRole.Arn".to_owned(), "credentials: !GetAtt Firewall.Arn".to_owned()),
        ("type: aws_proxy".to_owned(), "type: mock".to_owned()),
        ("httpMethod: POST".to_owned(), "httpMethod: GET".to_owned()),
        ("tags: [orders]".to_owned(), "tags: [items]".to_owned()),
        ("operationId: get-cart".to_owned(), "operationId: get-carts".to_owned()),
        ("          /queue-status:\n            get:".to_owned(), "          /queue-status:\n            post:".to_owned()),
        ("          /queue-status:\n".to_owned(), "          /status:\n".to_owned()),
        ("Principal: logs.amazonaws.com".to_owned(), "Principal: apigateway.amazonaws.com".to_owned()),
    ] {
        let template = stacks.edited(&part, &broken).template();
        let found = [wrong_role(&template), wrong_routes(&template), undescribed(&template)].concat();
        assert!(!found.is_empty(), "{part}{broken}");
    }
}

/// Violations in what API Gateway answers by itself.
fn wrong_answers(template: &Template) -> Vec<String> {
    let mut violations = Vec::new();
    for (id, api) in template.resources("AWS::Serverless::Api") {
        let answers = &api["GatewayResponses"];
        let body = |kind: &str| -> Value {
            let text = answers[kind]["ResponseTemplates"]["application/json"].as_str().unwrap_or_default();
            let text = text.replace("$context.status", "400").replace("$context.error.messageString", "\"why\"");
            serde_json::from_str(&text).unwrap_or_default()
        };
        for kind in ["MISSING_AUTHENTICATION_TOKEN", "DEFAULT_4XX", "DEFAULT_5XX"] {
            let answer = body(kind);
            let is_problem = ["type", "title", "status", "detail", "code"].iter().all(|field| !answer[field].is_null());
            if !is_problem {
                violations.push(format!("{id} answers {kind} with no problem of ours: {answer}"));
            }
            if answers[kind]["ResponseParameters"]["Headers"]["X-Request-Id"] != "context.requestId" {
                violations.push(format!("{id} does not say which request it was: {kind}"));
            }
        }
        // For an unknown route, API Gateway reports a missing token, with 403.
        let unknown = &answers["MISSING_AUTHENTICATION_TOKEN"];
        let says = body("MISSING_AUTHENTICATION_TOKEN");
        if unknown["StatusCode"] != 404 || says["status"] != 404 || says["code"] != "not_found" {
            violations.push(format!("{id} answers an unknown route with {says}"));
        }
        if says["type"] != "urn:encore:problem:not_found" {
            violations.push(format!("{id} calls an unknown route {}", says["type"]));
        }
    }
    violations
}

#[test]
fn an_unknown_route_is_answered_404_as_everything_else_that_is_not_there() {
    let stacks = Stacks::read();
    none(wrong_answers(&stacks.template()));
    for (part, broken) in [
        ("MISSING_AUTHENTICATION_TOKEN:", "ACCESS_DENIED:"),
        ("StatusCode: 404", "StatusCode: 403"),
        ("problem:not_found\"", "problem:missing\""),
        ("\"status\":404", "\"status\":403"),
        ("\"code\":\"not_found\"", "\"code\":\"none\""),
        ("\"code\":\"gateway_refused\"", "\"kind\":\"gateway_refused\""),
        ("X-Request-Id: context.requestId", "X-Request-Id: \"'1'\""),
    ] {
        assert!(!wrong_answers(&stacks.edited(part, broken).template()).is_empty(), "{part}");
    }
}
