//! Walks a state machine definition (Amazon States Language, JSONPath: as much of it as our definitions use).
//!
//! Retries happen at once: what a definition states about waiting does not matter here; how often it retries, and after
//! which errors, does.

use contracts::saga::error_name;
use serde_json::{Value, json};

/// A definition.
#[derive(Debug, Clone)]
pub struct Machine {
    definition: Value,
}

/// The result of calling a task.
pub type TaskResult = Result<Value, TaskError>;

/// A task's error: its name and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskError {
    pub name: &'static str,
    pub message: String,
}

/// How an execution ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// In a state with `End: true` or a `Succeed`.
    Succeeded,
    /// In a `Fail`.
    Failed(String),
}

/// An execution that is over.
#[derive(Debug, Clone)]
pub struct Execution {
    pub end: End,
    /// Every state entered, in order.
    pub path: Vec<String>,
}

/// The definition of the payment saga.
pub fn payment_saga() -> Machine {
    Machine::read("payment-saga")
}

/// The definition of the refund saga.
pub fn refund_saga() -> Machine {
    Machine::read("refund-saga")
}

impl Machine {
    fn read(name: &str) -> Self {
        let file = tests::workspace(&format!("infra/statemachines/{name}.asl.json"));
        Self { definition: serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap() }
    }

    fn state(&self, name: &str) -> &Value {
        let state = &self.definition["States"][name];
        assert!(state.is_object(), "no state {name}");
        state
    }

    /// The names of the tasks that call a function.
    pub fn steps(&self) -> Vec<String> {
        let states = self.definition["States"].as_object().unwrap();
        let calls = |state: &Value| state["Resource"].as_str().is_some_and(|resource| resource.starts_with("${"));
        states.iter().filter(|(_, state)| calls(state)).map(|(name, _)| name.clone()).collect()
    }

    /// The steps whose failure leads to a state.
    pub fn failing_to(&self, next: &str) -> Vec<String> {
        let back = |state: &Value| state["Catch"].as_array().unwrap().iter().any(|catch| catch["Next"] == next);
        self.steps().into_iter().filter(|name| back(self.state(name))).collect()
    }

    /// Runs an execution. `call` is called for every try of a task.
    pub async fn run(&self, input: Value, call: &mut impl AsyncFnMut(&str, &Value) -> TaskResult) -> Execution {
        let mut data = input;
        let mut path = Vec::new();
        let mut name = self.definition["StartAt"].as_str().unwrap().to_owned();
        loop {
            assert!(path.len() < 50, "it runs in circles: {path:?}");
            path.push(name.clone());
            let state = self.state(&name);
            let next = match state["Type"].as_str().unwrap() {
                "Task" => self.task(&name, &mut data, call).await,
                "Choice" => choose(state, &data),
                "Succeed" => None,
                "Fail" => {
                    let error = state["Error"].as_str().unwrap_or_default().to_owned();
                    return Execution { end: End::Failed(error), path };
                }
                other => panic!("state type {other}"),
            };
            match next {
                Some(next) => name = next,
                None => return Execution { end: End::Succeeded, path },
            }
        }
    }

    async fn task(
        &self,
        name: &str,
        data: &mut Value,
        call: &mut impl AsyncFnMut(&str, &Value) -> TaskResult,
    ) -> Option<String> {
        let state = self.state(name);
        let mut tries = vec![0_u64; state["Retry"].as_array().map_or(0, Vec::len)];
        let error = loop {
            match call(name, data).await {
                Ok(result) => {
                    store(data, &state["ResultPath"], result);
                    return state["Next"].as_str().map(str::to_owned);
                }
                Err(error) => {
                    let retriers = state["Retry"].as_array().unwrap();
                    let Some(index) = retriers.iter().position(|retrier| matches(retrier, error.name)) else {
                        break error;
                    };
                    tries[index] += 1;
                    if tries[index] > retriers[index]["MaxAttempts"].as_u64().unwrap_or(3) {
                        break error;
                    }
                }
            }
        };
        let catchers = state["Catch"].as_array().unwrap();
        let catcher = catchers.iter().find(|catcher| matches(catcher, error.name));
        let catcher = catcher.unwrap_or_else(|| panic!("{name} does not catch {}", error.name));
        let cause = json!({"errorType": error.name, "errorMessage": error.message}).to_string();
        store(data, &catcher["ResultPath"], json!({"Error": error.name, "Cause": cause}));
        Some(catcher["Next"].as_str().unwrap().to_owned())
    }
}

fn matches(rule: &Value, error: &str) -> bool {
    assert!(error_name::ALL.contains(&error) || error.starts_with("States."), "no step can say {error}");
    let names = rule["ErrorEquals"].as_array().unwrap();
    names.iter().any(|name| name == error || name == "States.ALL")
}

fn choose(state: &Value, data: &Value) -> Option<String> {
    let chosen = state["Choices"].as_array().unwrap().iter().find(|choice| {
        let path = choice["Variable"].as_str().unwrap().replacen('$', "", 1).replace('.', "/");
        data.pointer(&path).is_some_and(|found| found == &choice["StringEquals"])
    });
    let next = chosen.map_or(&state["Default"], |choice| &choice["Next"]);
    Some(next.as_str().unwrap().to_owned())
}

fn store(data: &mut Value, path: &Value, result: Value) {
    match path {
        Value::Null => {}
        Value::String(path) => {
            let name = path.strip_prefix("$.").unwrap_or_else(|| panic!("ResultPath {path}"));
            data[name] = result;
        }
        other => panic!("ResultPath {other}"),
    }
}
