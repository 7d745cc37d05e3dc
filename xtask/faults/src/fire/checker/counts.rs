//! Totals, and the fate of the processes.

use std::collections::BTreeSet;

use super::story::Story;
use super::{Rule, Violation};
use crate::fire::history::Call;

pub(super) fn check(story: &Story<'_>, violations: &mut Vec<Violation>) {
    invented(story, violations);
    for (node, unfinished, slots_used) in &story.idle {
        if *unfinished > 0 || *slots_used > 0 {
            let detail =
                format!("at the end {node} counts {unfinished} tasks that are not final and {slots_used} slots in use");
            violations.push(Violation { rule: Rule::Idle, detail });
        }
    }
    for (member, how) in &story.ended {
        violations.push(Violation { rule: Rule::NoPanic, detail: format!("{member}: {how}") });
    }
}

/// Every task was answered for, or somebody has asked for it and does not know what came of it.
fn invented(story: &Story<'_>, violations: &mut Vec<Violation>) {
    let known: BTreeSet<&str> = story.accepted.iter().map(|accepted| accepted.task).collect();
    let unclear = || story.ops.iter().filter(|op| !op.is_clear());
    let names: BTreeSet<&str> =
        story.ops.iter().flat_map(|op| op.orders()).filter_map(|order| order.name.as_deref()).collect();
    let retries: BTreeSet<&str> = story
        .ops
        .iter()
        .filter_map(|op| match op.call {
            Call::Retry { key, .. } => Some(key.as_str()),
            _ => None,
        })
        .collect();
    let runs_unclear = unclear().filter(|op| matches!(op.call, Call::Run(_))).count();
    for (node, tasks) in &story.listed {
        let mut nameless = 0;
        for (task, seen) in tasks.iter().filter(|(task, _)| !known.contains(*task)) {
            let is_asked_for = match (&seen.name, &seen.retry_of, &seen.key) {
                (_, Some(_), Some(key)) => retries.contains(key.as_str()),
                (Some(name), None, _) => names.contains(name.as_str()),
                _ => {
                    nameless += 1;
                    continue;
                }
            };
            if !is_asked_for {
                let detail = format!("{node} lists task {task}, which nobody has asked for: {seen:?}");
                violations.push(Violation { rule: Rule::NothingInvented, detail });
            }
        }
        if nameless > runs_unclear {
            let detail = format!("{node} lists {nameless} runs that were not answered, {runs_unclear} were asked for");
            violations.push(Violation { rule: Rule::NothingInvented, detail });
        }
    }
}
