//! Functions as Lambda has them: called, configured, switched off.

use http::Method;
use kit::service::{LAMBDA, Request, Service};
use local::StackInfo;
use serde_json::{Value, json};

/// Lambda.
pub struct Functions(Service);

impl Functions {
    /// In the engine of a stack.
    pub fn of(info: &StackInfo) -> Self {
        Self(Service::new(LAMBDA, &info.sdk_config()))
    }

    /// Calls a function: its answer, and whether that is a failure.
    pub async fn invoke(&self, name: &str, payload: impl Into<Vec<u8>>) -> (String, bool) {
        let answer = self.0.send(Request::invocation(name, payload)).await.unwrap();
        let failed = answer.header("x-amz-function-error").is_some();
        (String::from_utf8(answer.body).unwrap(), failed)
    }

    async fn ask(&self, method: Method, version: &str, path: &str, body: Option<Value>) -> Option<Value> {
        let request = Request::new(method, format!("/{version}/functions/{path}"));
        let answer = self.0.send(request.body(body.map(|body| body.to_string()).unwrap_or_default())).await.ok()?;
        Some(serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    async fn configuration(&self, name: &str) -> Value {
        self.ask(Method::GET, "2015-03-31", &format!("{name}/configuration"), None).await.unwrap()
    }

    /// The name of its role.
    pub async fn role(&self, name: &str) -> String {
        let configuration = self.configuration(name).await;
        configuration["Role"].as_str().and_then(|arn| arn.rsplit('/').next()).unwrap().to_owned()
    }

    /// Sets a variable of a function, and of its published version where it is called by one; returns the old value.
    pub async fn set_variable(&self, name: &str, variable: &str, value: &str) -> String {
        let mut variables = self.configuration(name).await["Environment"]["Variables"].take();
        let before = variables[variable].as_str().unwrap_or_default().to_owned();
        variables[variable] = json!(value);
        let changed = json!({ "Environment": { "Variables": variables } });
        self.ask(Method::PUT, "2015-03-31", &format!("{name}/configuration"), Some(changed)).await.unwrap();
        let live = format!("{name}/aliases/live");
        if self.ask(Method::GET, "2015-03-31", &live, None).await.is_some() {
            let versions = format!("{name}/versions");
            let published = self.ask(Method::POST, "2015-03-31", &versions, Some(json!({}))).await.unwrap();
            let moved = json!({ "FunctionVersion": published["Version"] });
            self.ask(Method::PUT, "2015-03-31", &live, Some(moved)).await.unwrap();
        }
        before
    }

    /// Lets no caller invoke it.
    pub async fn switch_off(&self, name: &str) {
        let none = json!({ "ReservedConcurrentExecutions": 0 });
        self.ask(Method::PUT, "2017-10-31", &format!("{name}/concurrency"), Some(none)).await.unwrap();
    }

    /// Lets all callers invoke it again.
    pub async fn switch_on(&self, name: &str) {
        self.ask(Method::DELETE, "2017-10-31", &format!("{name}/concurrency"), None).await.unwrap();
    }
}
