//! Walks a state machine definition (Amazon States Language, JSONPath: as much of it as our definitions use).
//!
//! Retries happen at once: what a definition states about waiting does not matter here; how often it retries, and after
//! which errors, does.

use contracts::saga::error_name;
use serde_json::{Value, json};
use std::collections::BTreeMap;

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

/// Where an execution stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Position {
    /// The task that is called next.
    pub state: String,
    /// The execution's data: the task's input.
    pub data: Value,
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
        let file = crate::workspace(&format!("infra/statemachines/{name}.asl.json"));
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
        let mut path = Vec::new();
        let mut at = self.start(input, &mut path);
        loop {
            at = match at {
                Ok(position) => match self.task(&position, call).await {
                    Ok(result) => self.answered(position, result, &mut path),
                    Err(error) => self.given_up(position, &error, &mut path),
                },
                Err(end) => return Execution { end, path },
            };
        }
    }

    /// All tries of a task.
    async fn task(&self, at: &Position, call: &mut impl AsyncFnMut(&str, &Value) -> TaskResult) -> TaskResult {
        let mut tries = BTreeMap::<usize, u64>::new();
        loop {
            let error = match call(&at.state, &at.data).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            let Some((index, at_most)) = self.retrier(&at.state, error.name) else { return Err(error) };
            let count = tries.entry(index).or_default();
            *count += 1;
            if *count > at_most {
                return Err(error);
            }
        }
    }

    /// The retrier of a state for an error, and how often it retries.
    fn retrier(&self, state: &str, error: &str) -> Option<(usize, u64)> {
        let retriers = self.state(state)["Retry"].as_array()?;
        let index = retriers.iter().position(|retrier| matches(retrier, error))?;
        Some((index, retriers[index]["MaxAttempts"].as_u64().unwrap_or(3)))
    }

    /// Whether a task that failed is tried again at all.
    pub fn retries(&self, state: &str, error: &str) -> bool {
        self.retrier(state, error).is_some_and(|(_, at_most)| at_most > 0)
    }

    /// The position at the beginning. Every state that is entered, here and below, is added to `path`; an error is an
    /// execution that is over.
    pub fn start(&self, input: Value, path: &mut Vec<String>) -> Result<Position, End> {
        self.enter(self.definition["StartAt"].as_str().unwrap().to_owned(), input, path)
    }

    /// The position after a task that answered.
    pub fn answered(&self, at: Position, result: Value, path: &mut Vec<String>) -> Result<Position, End> {
        let (state, mut data) = (self.state(&at.state), at.data);
        store(&mut data, &state["ResultPath"], result);
        match state["Next"].as_str() {
            Some(next) => self.enter(next.to_owned(), data, path),
            None => Err(End::Succeeded),
        }
    }

    /// The position after a task that failed, and is not tried again.
    pub fn given_up(&self, at: Position, error: &TaskError, path: &mut Vec<String>) -> Result<Position, End> {
        let Position { state: name, mut data } = at;
        let catchers = self.state(&name)["Catch"].as_array().unwrap();
        let catcher = catchers.iter().find(|catcher| matches(catcher, error.name));
        let catcher = catcher.unwrap_or_else(|| panic!("{name} does not catch {}", error.name));
        let cause = json!({"errorType": error.name, "errorMessage": error.message}).to_string();
        store(&mut data, &catcher["ResultPath"], json!({"Error": error.name, "Cause": cause}));
        self.enter(catcher["Next"].as_str().unwrap().to_owned(), data, path)
    }

    /// Enters a state, and others until one is a task.
    fn enter(&self, mut name: String, data: Value, path: &mut Vec<String>) -> Result<Position, End> {
        loop {
            assert!(path.len() < 50, "it runs in circles: {path:?}");
            path.push(name.clone());
            let state = self.state(&name);
            let next = match state["Type"].as_str().unwrap() {
                "Task" => return Ok(Position { state: name, data }),
                "Choice" => choose(state, &data),
                "Succeed" => None,
                "Fail" => return Err(End::Failed(state["Error"].as_str().unwrap_or_default().to_owned())),
                other => panic!("state type {other}"),
            };
            name = next.ok_or(End::Succeeded)?;
        }
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
