//! Deploys the stacks of a system side by side, each as soon as those before it are there.

use crate::driver::cloudformation::Change;
use crate::driver::stacks::Order;
use crate::engine::info::sdk_config;
use crate::error::Error;
use crate::{Outcome, Result};
use kit::service::{SSM, Service, why};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;

/// Stores the functions' secrets where they read them. They are not in the templates, as on AWS.
pub async fn keep_secrets(endpoint: &str, documents: &BTreeMap<String, serde_json::Value>) -> Result<()> {
    let ssm = Service::new(SSM, &sdk_config(endpoint));
    for (name, document) in documents {
        let value = document.to_string();
        let put = json!({ "Name": name, "Value": value, "Type": "SecureString", "Overwrite": true });
        let kept = ssm.call("PutParameter", &put).await;
        kept.map_err(|failure| Error::Deploy(format!("keeping {name}: {}", why(&failure))))?;
    }
    Ok(())
}

/// The outcome of a deployment, by stack.
#[derive(Debug, Default)]
pub struct Report {
    done: BTreeMap<String, Change>,
    /// Why, with the stack's name in CloudFormation.
    failed: BTreeMap<String, Error>,
    /// Stacks that were not begun, and the stack whose failure holds them up.
    held_up: BTreeMap<String, String>,
}

impl Report {
    /// What is deployed now, stack -> fingerprint, after these were wanted. The state of an existing stack that is not
    /// as wanted is unknown: its fingerprint is empty.
    pub fn deployed(
        &self,
        mut before: BTreeMap<String, String>,
        fingerprints: &BTreeMap<String, String>,
    ) -> BTreeMap<String, String> {
        for stack in self.failed.keys().chain(self.held_up.keys()) {
            if let Some(fingerprint) = before.get_mut(stack) {
                fingerprint.clear();
            }
        }
        let done = |(stack, fingerprint): (&String, &String)| {
            self.done.contains_key(stack).then(|| (stack.clone(), fingerprint.clone()))
        };
        before.extend(fingerprints.iter().filter_map(done));
        before
    }

    /// What was done as a whole, or which stacks failed, why, and which ones that holds up.
    pub fn outcome(self, was_there: bool) -> Result<Outcome> {
        if self.failed.is_empty() {
            return Ok(match self.done.values().all(|change| *change == Change::None) {
                true => Outcome::Unchanged,
                false if was_there => Outcome::Updated,
                false => Outcome::Created,
            });
        }
        let mut lines: Vec<String> = self.failed.values().map(Error::to_string).collect();
        for (stack, cause) in &self.held_up {
            lines.push(format!("{stack} was not deployed: it comes after {cause}"));
        }
        Err(Error::Deploy(lines.join("\n")))
    }
}

/// Deploys what is wanted of each stack. A failure holds up those behind it; the others finish.
pub async fn in_order<T, F>(order: &Order, mut wanted: BTreeMap<String, T>, deploy: impl Fn(T) -> F) -> Result<Report>
where
    F: Future<Output = Result<Change>> + Send + 'static,
{
    let mut report = Report::default();
    let mut waiting: BTreeSet<String> = wanted.keys().cloned().collect();
    let mut running = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        for stack in order.ready(&waiting, &running) {
            waiting.remove(&stack);
            if let Some(wanted) = wanted.remove(&stack) {
                let deployed = deploy(wanted);
                running.insert(stack.clone());
                tasks.spawn(async move { (stack, deployed.await) });
            }
        }
        let Some(ended) = tasks.join_next().await else { return Ok(report) };
        let (stack, deployed) = ended.map_err(|e| Error::Deploy(format!("the deployment was interrupted: {e}")))?;
        running.remove(&stack);
        match deployed {
            Ok(change) => {
                report.done.insert(stack, change);
            }
            Err(error) => {
                for behind in order.held_up(&waiting, &stack) {
                    waiting.remove(&behind);
                    report.held_up.insert(behind, stack.clone());
                }
                report.failed.insert(stack, error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::stacks::tests::{names, order};
    use std::sync::{Arc, Mutex};

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    const WANTED: [(&str, &str); 6] = [
        ("concerts", "c2"),
        ("edge", "e2"),
        ("items", "i2"),
        ("orders", "o2"),
        ("platform", "p2"),
        ("reservations", "r2"),
    ];

    /// Deploys all of them; those whose fingerprint is named fail. Returns the stacks that began, in order, and the
    /// report.
    async fn play(failing: &[&str]) -> (Vec<String>, Report) {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let failing = names(failing);
        let order = order();
        let deployed = in_order(&order, map(&WANTED), |fingerprint| {
            begun.lock().unwrap().push(fingerprint.clone());
            let fails = failing.contains(&fingerprint);
            async move { if fails { Err(Error::Deploy(format!("{fingerprint} is bad"))) } else { Ok(Change::Updated) } }
        });
        let report = deployed.await.unwrap();
        (Arc::into_inner(begun).unwrap().into_inner().unwrap(), report)
    }

    #[tokio::test]
    async fn a_stack_begins_when_those_before_it_are_there() {
        let (begun, report) = play(&[]).await;
        let at = |name: &str| begun.iter().position(|other| other == name).unwrap();
        assert_eq!((begun.len(), at("p2"), at("e2")), (6, 0, 5));
        assert!(at("r2") < at("c2"), "{begun:?}");
        assert_eq!(report.outcome(true).unwrap(), Outcome::Updated);
    }

    #[tokio::test]
    async fn a_failure_is_named_holds_up_those_behind_it_and_lets_the_others_finish() {
        let (_, report) = play(&["i2", "r2"]).await;
        let before = map(&[("edge", "e1"), ("items", "i1"), ("orders", "o1"), ("platform", "p1")]);
        let after = report.deployed(before, &map(&WANTED));
        // A stack that existed, and is not known to be as wanted any more, has no fingerprint; one that never existed
        // has no entry.
        assert_eq!(after, map(&[("edge", ""), ("items", ""), ("orders", "o2"), ("platform", "p2")]));
        let message = report.outcome(true).unwrap_err().to_string();
        for part in ["i2 is bad", "r2 is bad", "concerts was not deployed: it comes after reservations", "edge was not"]
        {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn what_was_done_is_reported_for_the_whole() {
        let of = |changes: &[(&str, Change)]| Report {
            done: changes.iter().map(|(stack, change)| ((*stack).to_owned(), *change)).collect(),
            ..Report::default()
        };
        let changed = of(&[("items", Change::None), ("edge", Change::Updated)]);
        assert_eq!(changed.outcome(true).unwrap(), Outcome::Updated);
        assert_eq!(of(&[("items", Change::Created)]).outcome(false).unwrap(), Outcome::Created);
        assert_eq!(of(&[("items", Change::Created)]).outcome(true).unwrap(), Outcome::Updated);
        assert_eq!(of(&[("items", Change::None)]).outcome(false).unwrap(), Outcome::Unchanged);
    }
}
