//! What can happen to a step, and executions in which it happens.

use crate::world::World;
use contracts::saga::error_name;
use serde_json::Value;
use tests::machine::{Execution, Machine, TaskError, TaskResult};

/// What happens to the tries of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The first try dies before it writes.
    DiesBeforeOnce,
    /// The first try writes, and its answer is lost.
    AnswerLostOnce,
    /// Every try writes, and every answer is lost.
    AnswerAlwaysLost,
    /// Every try dies before it writes.
    DiesBeforeAlways,
    /// Every try meets another writer.
    ContendedAlways,
    /// The step meets corrupt data.
    Broken,
    /// Every try takes effect twice.
    Repeated,
    /// The step refuses.
    Refused,
}

/// Those that any step can meet.
pub const FAULTS: [Fault; 7] = [
    Fault::DiesBeforeOnce,
    Fault::AnswerLostOnce,
    Fault::AnswerAlwaysLost,
    Fault::DiesBeforeAlways,
    Fault::ContendedAlways,
    Fault::Broken,
    Fault::Repeated,
];

/// A step's failure.
pub fn failed(name: &'static str) -> TaskResult {
    Err(TaskError { name, message: "injected".into() })
}

/// A call of a step under its fault. `tries` counts the step's tries.
async fn faulty(world: &World, state: &str, data: &Value, fault: Fault, tries: usize) -> TaskResult {
    match fault {
        Fault::DiesBeforeOnce if tries == 1 => failed(error_name::UNAVAILABLE),
        Fault::DiesBeforeAlways => failed("States.Timeout"),
        Fault::ContendedAlways => failed(error_name::CONTENDED),
        Fault::Broken => failed(error_name::BROKEN),
        Fault::Refused => failed(error_name::REFUSED),
        Fault::AnswerLostOnce if tries == 1 => lost(world, state, data).await,
        Fault::AnswerAlwaysLost => lost(world, state, data).await,
        Fault::Repeated => {
            let first = world.call(state, data).await;
            let second = world.call(state, data).await;
            assert_eq!(first.is_ok(), second.is_ok(), "{state} repeated");
            second
        }
        _ => world.call(state, data).await,
    }
}

/// Whatever the result, its answer is lost.
async fn lost(world: &World, state: &str, data: &Value) -> TaskResult {
    world.call(state, data).await.and_then(|_| failed("States.Timeout"))
}

/// An execution in which some steps are broken.
pub async fn run(machine: &Machine, world: &World, broken: &[(&str, Fault)]) -> Execution {
    let mut tries = std::collections::HashMap::new();
    machine
        .run(world.input(), &mut async |state: &str, data: &Value| {
            let count: &mut usize = tries.entry(state.to_owned()).or_default();
            *count += 1;
            match broken.iter().find(|(name, _)| *name == state) {
                Some((_, fault)) => faulty(world, state, data, *fault, *count).await,
                None => world.call(state, data).await,
            }
        })
        .await
}
