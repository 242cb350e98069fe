//! Turns a SAM template into what the local cloud takes: plain JSON, packages in place of paths, and state machines
//! in place.
//!
//! Short forms of functions (`!Sub`, `!Ref`, ...) are YAML tags; everything here works on the long forms.

use crate::Result;
use crate::error::{AtPath, Error};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where packages are expected, relative to the template: `../../target/lambda/<context>/`.
const PACKAGE_PARENT: &str = "lambda";

/// The parameter that names the system a stack is of.
pub const SYSTEM: &str = "System";

/// A template, parsed.
#[derive(Clone, Debug)]
pub struct Template {
    body: Value,
    path: PathBuf,
}

/// A stack's place among the others, as `Metadata.Encore` states it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub struct Place {
    pub stack: String,
    /// The stacks it needs: they have to be deployed before it.
    pub needs: Vec<String>,
    /// The stacks it comes after, if they are deployed with it.
    pub after: Vec<String>,
}

impl Template {
    /// Reads a template file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).at("reading", path)?;
        let wrong = |why: String| Error::Template(format!("{}: {why}", path.display()));
        let body = parse(&text).map_err(wrong)?;
        Ok(Self { body, path: path.to_owned() })
    }

    /// Its place among the stacks of a system.
    pub fn place(&self) -> Result<Place> {
        let stated = self.body.pointer("/Metadata/Encore").ok_or("it is not there".to_owned());
        let place = stated.and_then(|stated| Place::deserialize(stated).map_err(|e| e.to_string()));
        let says = "Metadata.Encore has to say Stack, Needs and After";
        place.map_err(|why| Error::Template(format!("{}: {says}: {why}", self.path.display())))
    }

    /// Removes the API's operations of contexts that are not deployed, since their functions are missing. A path
    /// without operations is removed, too.
    pub fn without_operations(mut self, is_missing: impl Fn(&str) -> bool) -> Self {
        let of_missing = |operation: &Value| {
            let tags = operation.get("tags").and_then(Value::as_array);
            tags.into_iter().flatten().filter_map(Value::as_str).any(&is_missing)
        };
        let resources = self.body.get_mut("Resources").and_then(Value::as_object_mut);
        for (_, resource) in resources.into_iter().flatten() {
            let paths = resource.pointer_mut("/Properties/DefinitionBody/paths").and_then(Value::as_object_mut);
            let Some(paths) = paths else { continue };
            paths.retain(|_, path| {
                let Some(operations) = path.as_object_mut() else { return true };
                let before = operations.len();
                operations.retain(|_, operation| !of_missing(operation));
                operations.len() == before || operations.values().any(|operation| operation.get("tags").is_some())
            });
        }
        self
    }

    /// The contexts whose programs the functions run.
    pub fn contexts(&self) -> Vec<String> {
        let named: BTreeSet<String> = self
            .resources("AWS::Serverless::Function")
            .filter_map(|(_, properties)| context(properties.get("CodeUri")?))
            .collect();
        named.into_iter().collect()
    }

    /// The names of the declared parameters.
    pub fn parameters(&self) -> BTreeSet<String> {
        let declared = self.body.get("Parameters").and_then(Value::as_object);
        declared.map(|all| all.keys().cloned().collect()).unwrap_or_default()
    }

    /// Replaces each function's path by the package of its context, and each state machine's file by its content.
    pub fn deployable(mut self, bucket: &str, keys: &BTreeMap<String, String>) -> Result<String> {
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        let resources = self.body.get_mut("Resources").and_then(Value::as_object_mut);
        for (name, resource) in resources.into_iter().flatten() {
            let kind = resource.get("Type").and_then(Value::as_str).unwrap_or_default().to_owned();
            let Some(properties) = resource.get_mut("Properties").and_then(Value::as_object_mut) else { continue };
            match kind.as_str() {
                "AWS::Serverless::Function" => place_package(name, properties, bucket, keys)?,
                "AWS::Serverless::StateMachine" => place_definition(name, properties, &dir)?,
                _ => {}
            }
        }
        Ok(self.body.to_string())
    }

    /// The same template, naming what is deployed where it asks for it: as a default, because engines expand a template
    /// without the values of its parameters.
    pub fn of_release(mut self, release: &str) -> Self {
        if let Some(default) = self.body.pointer_mut("/Parameters/Release/Default") {
            *default = release.into();
        }
        self
    }

    fn resources(&self, kind: &str) -> impl Iterator<Item = (&String, &Map<String, Value>)> {
        let all = self.body.get("Resources").and_then(Value::as_object);
        let kind = kind.to_owned();
        all.into_iter().flatten().filter_map(move |(name, resource)| {
            (resource.get("Type")? == &Value::String(kind.clone()))
                .then(|| Some((name, resource.get("Properties")?.as_object()?)))?
        })
    }
}

fn place_package(
    name: &str,
    properties: &mut Map<String, Value>,
    bucket: &str,
    keys: &BTreeMap<String, String>,
) -> Result<()> {
    let code = properties.get("CodeUri").unwrap_or(&Value::Null);
    let Some(context) = context(code) else {
        return Err(Error::Template(format!(
            "the function {name} has no CodeUri of the form ../../target/lambda/<context>/ but {code}"
        )));
    };
    let key = keys
        .get(&context)
        .ok_or_else(|| Error::Template(format!("the function {name} is of `{context}`, which was not packed")))?;
    properties.insert("CodeUri".to_owned(), json!({"Bucket": bucket, "Key": key}));
    Ok(())
}

fn place_definition(name: &str, properties: &mut Map<String, Value>, dir: &Path) -> Result<()> {
    let Some(file) = properties.get("DefinitionUri").and_then(Value::as_str) else { return Ok(()) };
    let path = dir.join(file);
    let text = fs::read_to_string(&path).at(&format!("reading the definition of {name},"), &path)?;
    let definition: Value =
        serde_json::from_str(&text).map_err(|e| Error::Template(format!("{}: {e}", path.display())))?;
    properties.remove("DefinitionUri");
    properties.insert("Definition".to_owned(), definition);
    Ok(())
}

/// The context a `CodeUri` names, if it is a path to one's package.
fn context(code_uri: &Value) -> Option<String> {
    let mut parts = code_uri.as_str()?.trim_end_matches('/').rsplit('/');
    let context = parts.next()?;
    (parts.next()? == PACKAGE_PARENT).then(|| context.to_owned())
}

/// YAML with CloudFormation's short forms to JSON with the long ones.
fn parse(text: &str) -> Result<Value, String> {
    let mut yaml: serde_norway::Value = serde_norway::from_str(text).map_err(|e| e.to_string())?;
    yaml.apply_merge().map_err(|e| e.to_string())?;
    long_form(yaml)
}

fn long_form(yaml: serde_norway::Value) -> Result<Value, String> {
    use serde_norway::Value as Yaml;
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::String(value) => Value::String(value),
        Yaml::Number(value) => serde_json::to_value(&value).map_err(|e| e.to_string())?,
        Yaml::Sequence(values) => Value::Array(values.into_iter().map(long_form).collect::<Result<_, _>>()?),
        Yaml::Mapping(pairs) => {
            let mut map = Map::new();
            for (key, value) in pairs {
                let key = match key {
                    Yaml::String(key) => key,
                    Yaml::Number(key) => key.to_string(),
                    Yaml::Bool(key) => key.to_string(),
                    other => return Err(format!("a key that is no text: {other:?}")),
                };
                map.insert(key, long_form(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => {
            let tag = tagged.tag.to_string();
            let tag = tag.trim_start_matches('!');
            let value = long_form(tagged.value)?;
            match tag {
                "Ref" | "Condition" => json!({ tag: value }),
                "GetAtt" => json!({ "Fn::GetAtt": attribute(value) }),
                _ => json!({ format!("Fn::{tag}"): value }),
            }
        }
    })
}

/// `!GetAtt Name.Attribute.Part` is `["Name", "Attribute.Part"]` in the long form.
fn attribute(value: Value) -> Value {
    match value.as_str().and_then(|text| text.split_once('.')) {
        Some((name, attribute)) => json!([name, attribute]),
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
AWSTemplateFormatVersion: 2010-09-09
Transform: AWS::Serverless-2016-10-31
Parameters:
  Stage: {Type: String}
  Release: {Type: String, Default: local}
Resources:
  JoinQueue:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: !Sub ${AWS::StackName}-join-queue
      CodeUri: ../../target/lambda/waiting-room/
      Environment: {Variables: {TABLE: !Ref Table, ARN: !GetAtt Table.Arn, X: !GetAtt [Nested, Outputs.X]}}
  GetPoints:
    Type: AWS::Serverless::Function
    Properties: {CodeUri: ../../target/lambda/points}
  Table: {Type: AWS::DynamoDB::Table, Condition: Always, Properties: {Name: !If [Always, a, !Join ['-', [b, c]]]}}
";

    fn template() -> Template {
        Template { body: parse(TEXT).unwrap(), path: PathBuf::from("stack.yaml") }
    }

    fn deployed(keys: &[(&str, &str)]) -> Result<Value> {
        let keys = keys.iter().map(|(context, key)| ((*context).to_owned(), (*key).to_owned())).collect();
        Ok(serde_json::from_str(&template().deployable("packages", &keys)?).unwrap())
    }

    #[test]
    fn a_release_is_named_where_the_template_wants_to_know() {
        assert_eq!(template().of_release("abc").body["Parameters"]["Release"]["Default"], "abc");
        let without = Template { body: json!({"Resources": {}}), path: PathBuf::from("stack.yaml") };
        assert_eq!(without.of_release("abc").body, json!({"Resources": {}}));
    }

    #[test]
    fn short_forms_become_long_ones() {
        let body = template().body;
        assert_eq!(body["AWSTemplateFormatVersion"], "2010-09-09");
        let variables = &body["Resources"]["JoinQueue"]["Properties"]["Environment"]["Variables"];
        assert_eq!(variables["TABLE"], json!({"Ref": "Table"}));
        assert_eq!(variables["ARN"], json!({"Fn::GetAtt": ["Table", "Arn"]}));
        assert_eq!(variables["X"], json!({"Fn::GetAtt": ["Nested", "Outputs.X"]}));
        assert_eq!(
            body["Resources"]["Table"]["Properties"]["Name"],
            json!({"Fn::If": ["Always", "a", {"Fn::Join": ["-", ["b", "c"]]}]})
        );
        assert_eq!(
            body["Resources"]["JoinQueue"]["Properties"]["FunctionName"],
            json!({"Fn::Sub": "${AWS::StackName}-join-queue"})
        );
    }

    const API: &str = "
Metadata: {Encore: {Stack: edge, Needs: [platform], After: [items, orders]}}
Resources:
  Api:
    Type: AWS::Serverless::Api
    Properties:
      DefinitionBody:
        paths:
          /items:
            get: {tags: [items], operationId: list-items}
            options: {operationId: preflight}
          /orders:
            post: {tags: [orders], operationId: place-order}
            options: {operationId: preflight}
          /cart/{item}:
            parameters: [{name: item, in: path}]
            put: {tags: [orders], operationId: put-in-cart}
            get: {tags: [items], operationId: get-in-cart}
";

    #[test]
    fn operations_of_contexts_that_are_not_there_are_left_out() {
        let template = Template { body: parse(API).unwrap(), path: PathBuf::from("edge.yaml") };
        let whole = template.clone().without_operations(|_| false);
        assert_eq!(whole.body, template.body);
        let body = template.without_operations(|context| context == "orders").body;
        let paths = &body["Resources"]["Api"]["Properties"]["DefinitionBody"]["paths"];
        let expected = json!({
            "/items": {"get": {"tags": ["items"], "operationId": "list-items"}, "options": {"operationId": "preflight"}},
            "/cart/{item}": {
                "parameters": [{"name": "item", "in": "path"}],
                "get": {"tags": ["items"], "operationId": "get-in-cart"},
            },
        });
        assert_eq!(*paths, expected);
    }

    #[test]
    fn a_stack_states_its_place() {
        let place = |text: &str| Template { body: parse(text).unwrap(), path: PathBuf::from("x.yaml") }.place();
        let (needs, after) = (vec!["platform".to_owned()], vec!["items".to_owned(), "orders".to_owned()]);
        assert_eq!(place(API).unwrap(), Place { stack: "edge".to_owned(), needs, after });
        let refused = place("Metadata: {Encore: {Stack: edge, Needs: []}}").unwrap_err().to_string();
        assert!(refused.starts_with("x.yaml: Metadata.Encore") && refused.contains("After"), "{refused}");
    }

    #[test]
    fn contexts_and_parameters_are_found() {
        assert_eq!(template().contexts(), ["points", "waiting-room"]);
        assert!(template().parameters().contains("Stage"));
    }

    #[test]
    fn paths_become_packages() {
        let body = deployed(&[("points", "points-1.zip"), ("waiting-room", "waiting-room-2.zip")]).unwrap();
        assert_eq!(
            body["Resources"]["JoinQueue"]["Properties"]["CodeUri"],
            json!({"Bucket": "packages", "Key": "waiting-room-2.zip"})
        );
    }

    #[test]
    fn a_function_without_a_package_is_named() {
        let error = deployed(&[("points", "points-1.zip")]).unwrap_err().to_string();
        assert!(error.contains("JoinQueue") && error.contains("waiting-room"), "{error}");
    }

    #[test]
    fn a_state_machine_file_is_put_in_place_and_keeps_its_substitutions() {
        let dir = crate::files::CargoTarget::of_this_program().dir.join(format!("test-asl-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("saga.asl.json"), r#"{"StartAt": "${First}"}"#).unwrap();
        let text = "
Resources:
  Saga:
    Type: AWS::Serverless::StateMachine
    Properties: {DefinitionUri: saga.asl.json, DefinitionSubstitutions: {First: !GetAtt F.Arn}}
";
        let template = Template { body: parse(text).unwrap(), path: dir.join("stack.yaml") };
        let body: Value = serde_json::from_str(&template.deployable("b", &BTreeMap::new()).unwrap()).unwrap();
        let properties = &body["Resources"]["Saga"]["Properties"];
        assert_eq!(properties["Definition"], json!({"StartAt": "${First}"}));
        assert_eq!(properties["DefinitionSubstitutions"], json!({"First": {"Fn::GetAtt": ["F", "Arn"]}}));
        assert!(properties.get("DefinitionUri").is_none());
        fs::remove_dir_all(&dir).unwrap();
    }
}
