//! The protocol of CloudFormation, AWS Query: a form goes in, XML comes out, which is read here as JSON.
//! <https://docs.aws.amazon.com/AWSCloudFormation/latest/APIReference/making-api-requests.html>

use crate::Result;
use crate::error::Error;
use aws_types::SdkConfig;
use kit::service::{CLOUDFORMATION, Failure, ProvideErrorMetadata as _, Request, Service, why};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use roxmltree::{Document, Node};
use serde_json::{Map, Value};

/// The version of CloudFormation's API; there is one.
const VERSION: &str = "2010-05-15";

/// CloudFormation.
#[derive(Clone, Debug)]
pub struct Query(Service);

/// Why CloudFormation did not do something.
#[derive(Debug)]
pub struct Refused {
    /// The error's code. Empty where no answer came.
    pub code: String,
    why: String,
}

impl Refused {
    /// As the driver's error.
    pub fn doing(self, doing: &str) -> Error {
        Error::Deploy(format!("{doing}: {}", self.why))
    }
}

impl Query {
    /// With this configuration.
    pub fn new(config: &SdkConfig) -> Self {
        Self(Service::new(CLOUDFORMATION, config))
    }

    /// Calls an action. Its result: elements are objects, lists arrays, everything else text; so is an empty list,
    /// which looks the same.
    pub async fn call(&self, action: &str, parameters: &[(&str, &str)]) -> Result<Value, Refused> {
        let mut form = format!("Action={action}&Version={VERSION}");
        for (name, value) in parameters {
            form.push_str(&format!("&{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
        }
        let answer = self.0.send(Request::new(::http::Method::POST, "/").body(form)).await.map_err(refused)?;
        let unreadable = |why: String| Refused { code: String::new(), why };
        let text = String::from_utf8(answer.body).map_err(|error| unreadable(error.to_string()))?;
        let document = Document::parse(&text).map_err(|error| unreadable(format!("{error} in {text}")))?;
        let result = format!("{action}Result");
        let result = document.root_element().children().find(|child| child.has_tag_name(name_in(&document, &result)));
        Ok(result.map_or(Value::Null, value))
    }

    /// A stack as it is now.
    pub async fn stack(&self, name: &str) -> Result<Value, Refused> {
        let mut answer = self.call("DescribeStacks", &[("StackName", name)]).await?;
        Ok(answer.pointer_mut("/Stacks/0").map(Value::take).unwrap_or_default())
    }

    /// Begins to create a stack.
    pub async fn create(&self, name: &str, template: &str, parameters: &[(&str, &str)]) -> Result<(), Refused> {
        let mut form = vec![("StackName".to_owned(), name), ("TemplateBody".to_owned(), template)];
        form.extend(numbered(parameters));
        let form: Vec<(&str, &str)> = form.iter().map(|(field, value)| (field.as_str(), *value)).collect();
        self.call("CreateStack", &form).await.map(drop)
    }

    /// All pages of an action: the members of that list of its result.
    pub async fn list(&self, action: &str, stack: &str, list: &str) -> Result<Vec<Value>, Refused> {
        let mut all = Vec::new();
        let mut next = String::new();
        loop {
            let parameters = [("StackName", stack), ("NextToken", &next)];
            let given = if next.is_empty() { &parameters[..1] } else { &parameters[..] };
            let mut page = self.call(action, given).await?;
            if let Value::Array(members) = page[list].take() {
                all.extend(members);
            }
            match page["NextToken"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => next = token.to_owned(),
                None => return Ok(all),
            }
        }
    }
}

/// The parameters of a template as the fields of a form.
pub fn numbered<'a>(parameters: &[(&'a str, &'a str)]) -> Vec<(String, &'a str)> {
    let fields = |(index, (key, value)): (usize, &(&'a str, &'a str))| {
        let field = |name: &str| format!("Parameters.member.{}.{name}", index + 1);
        [(field("ParameterKey"), *key), (field("ParameterValue"), *value)]
    };
    parameters.iter().enumerate().flat_map(fields).collect()
}

/// An element's name in the namespace of the document.
fn name_in<'a>(document: &'a Document<'_>, name: &'a str) -> (&'a str, &'a str) {
    (document.root_element().tag_name().namespace().unwrap_or_default(), name)
}

/// A refusal states what is wrong in its message; of anything else, the whole chain may matter.
fn refused(failure: Failure) -> Refused {
    let code = failure.code().unwrap_or_default().to_owned();
    let why = match failure.message() {
        Some(message) => format!("{message} ({code})"),
        None => why(&failure),
    };
    Refused { code, why }
}

fn value(node: Node<'_, '_>) -> Value {
    let elements: Vec<Node<'_, '_>> = node.children().filter(Node::is_element).collect();
    if elements.is_empty() {
        return Value::from(node.text().unwrap_or_default());
    }
    if elements.iter().all(|element| element.tag_name().name() == "member") {
        return elements.into_iter().map(value).collect();
    }
    let fields = elements.into_iter().map(|element| (element.tag_name().name().to_owned(), value(element)));
    Value::Object(fields.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_answer_is_read_as_objects_lists_and_text() {
        let xml = "<R xmlns='http://x/'><S><member><A>1</A><Empty/></member><member><A>a &lt; b</A></member></S></R>";
        let document = Document::parse(xml).unwrap();
        let read = value(document.root_element());
        assert_eq!(read, json!({ "S": [{ "A": "1", "Empty": "" }, { "A": "a < b" }] }));
    }
}
