//! One task for each idempotency key and for each name.

use std::collections::BTreeMap;

use super::story::Story;
use super::{Rule, Violation};

pub(super) fn check(story: &Story<'_>, violations: &mut Vec<Violation>) {
    let mut broken = |detail: String| violations.push(Violation { rule: Rule::OneTaskPerKey, detail });
    let mut answered = BTreeMap::<&str, &str>::new();
    for accepted in &story.accepted {
        let Some(key) = accepted.key else { continue };
        let first = answered.entry(key).or_insert(accepted.task);
        if *first != accepted.task {
            broken(format!(
                "key {key} was answered with task {first}, by {} with task {}",
                accepted.node, accepted.task
            ));
        }
    }
    for (node, tasks) in &story.listed {
        let mut keys = BTreeMap::<&str, &str>::new();
        let mut names = BTreeMap::<&str, &str>::new();
        for (task, seen) in tasks {
            if let Some(key) = &seen.key
                && let Some(other) = keys.insert(key, task)
            {
                broken(format!("{node} lists tasks {other} and {task} with key {key}"));
            }
            // A retried task has the name of the one that it repeats.
            if let (Some(name), None) = (&seen.name, &seen.retry_of)
                && let Some(other) = names.insert(name, task)
            {
                broken(format!("{node} lists tasks {other} and {task} with name {name}"));
            }
        }
        for (key, task) in &answered {
            if let Some(other) = keys.get(key).filter(|other| *other != task) {
                broken(format!("key {key} was answered with task {task}, {node} lists it with {other}"));
            }
        }
    }
}
