//! How tasks end: all of them, once, and rightly.

use std::collections::BTreeSet;

use super::story::Story;
use super::{Rule, Violation};
use crate::fire::history::{Answer, Call, Happened, Seen, is_final};

/// Ends that no task asks for but that faults of the cluster may bring about.
const FAULTS: [&str; 2] = ["host_lost", "host_fault"];

pub(super) fn check(story: &Story<'_>, violations: &mut Vec<Violation>) {
    let mut broken = |rule, detail: String| violations.push(Violation { rule, detail });
    lost(story, &mut broken);
    listed(story, &mut broken);
    changed(story, &mut broken);
    cancelled(story, &mut broken);
    for (node, seen, happened) in &story.shown {
        if let Some(detail) = history(happened) {
            broken(Rule::OneEnd, format!("{node} says of task {}: {detail}", seen.task));
        }
    }
    right(story, &mut broken);
}

fn lost(story: &Story<'_>, broken: &mut impl FnMut(Rule, String)) {
    if story.listed.is_empty() {
        broken(Rule::NothingLost, "no node was asked at the end".to_owned());
    }
    for accepted in &story.accepted {
        for (node, tasks) in &story.listed {
            if !tasks.contains_key(accepted.task) {
                let (task, by) = (accepted.task, accepted.node);
                broken(Rule::NothingLost, format!("{by} has accepted task {task}, {node} does not list it"));
            }
        }
    }
}

fn listed(story: &Story<'_>, broken: &mut impl FnMut(Rule, String)) {
    let tasks: BTreeSet<&str> = story.listed.values().flat_map(|tasks| tasks.keys().copied()).collect();
    for task in tasks {
        let mut first: Option<(&str, End<'_>)> = None;
        for (node, tasks) in &story.listed {
            let Some(seen) = tasks.get(task) else {
                broken(Rule::OneFinalState, format!("{node} does not list task {task}, which another node lists"));
                continue;
            };
            if !seen.is_final() {
                broken(Rule::OneFinalState, format!("task {task} is {} on {node} at the end", seen.state));
            }
            match &first {
                None => first = Some((node, end(seen))),
                Some((other, expected)) if *expected != end(seen) => {
                    broken(
                        Rule::OneFinalState,
                        format!("task {task} is {expected:?} on {other}, {:?} on {node}", end(seen)),
                    );
                }
                Some(_) => {}
            }
        }
    }
    for (node, task) in &story.listed_twice {
        broken(Rule::OneFinalState, format!("{node} lists task {task} twice"));
    }
}

/// The part of an end that must be the same everywhere and always.
type End<'a> = (&'a str, Option<&'a str>, u64, Option<&'a str>);

fn end(seen: &Seen) -> End<'_> {
    (&seen.state, seen.ended_as.as_deref(), seen.attempt, seen.finished_at.as_deref())
}

fn changed(story: &Story<'_>, broken: &mut impl FnMut(Rule, String)) {
    for op in &story.ops {
        let Some(seen) = op.seen().filter(|seen| seen.is_final()) else { continue };
        if let Some(last) = story.at_the_end(&seen.task).filter(|last| end(last) != end(seen)) {
            let (then, now) = (end(seen), end(last));
            broken(
                Rule::FinalNeverChanges,
                format!("{} has shown task {} as {then:?}, it is {now:?}", op.node, seen.task),
            );
        }
    }
    for op in &story.ops {
        let Some((_, Answer::RunEnded { task, ended_as, .. })) = op.answered else { continue };
        let last = story.at_the_end(task).and_then(|last| last.ended_as.as_deref());
        if last.is_some_and(|last| last != ended_as) {
            broken(
                Rule::FinalNeverChanges,
                format!("{} has ended the run {task} as {ended_as}, it is {last:?}", op.node),
            );
        }
    }
}

fn cancelled(story: &Story<'_>, broken: &mut impl FnMut(Rule, String)) {
    for op in &story.ops {
        if let (Call::Cancel { task }, Some((_, Answer::Task { status: 200, seen }))) = (op.call, op.answered)
            && !seen.is_final()
        {
            broken(
                Rule::CancelledHasStopped,
                format!("{} answers 200 for task {task}, which is {}", op.node, seen.state),
            );
        }
    }
}

/// The fault in a task's own history.
fn history(happened: &[Happened]) -> Option<String> {
    let mut attempt_last = 0;
    let mut ended = BTreeSet::new();
    let mut is_over = false;
    for entry in happened {
        if is_over && entry.event != "report_late" {
            return Some(format!("`{}` after the end", entry.event));
        }
        let attempt = entry.attempt.unwrap_or(0);
        if entry.event == "attempt_started" {
            if attempt <= attempt_last {
                return Some(format!("attempt {attempt} starts after attempt {attempt_last}"));
            }
            attempt_last = attempt;
        }
        if entry.event == "attempt_ended" && !ended.insert(attempt) {
            return Some(format!("attempt {attempt} ends twice"));
        }
        is_over |= entry.state.as_deref().is_some_and(is_final);
    }
    (!is_over).then(|| "it has no end".to_owned())
}

fn right(story: &Story<'_>, broken: &mut impl FnMut(Rule, String)) {
    for accepted in &story.accepted {
        let Some(order) = accepted.order else { continue };
        let Some(ended_as) = story.at_the_end(accepted.task).and_then(|seen| seen.ended_as.as_deref()) else {
            continue;
        };
        let is_cancelled = ended_as == "cancelled" && story.cancel_asked.contains(accepted.task);
        if !is_cancelled && !FAULTS.contains(&ended_as) && !order.ends.iter().any(|end| end == ended_as) {
            broken(Rule::RightEnd, format!("task {} is {ended_as}, which is none of {:?}", accepted.task, order.ends));
        }
        let Some((pointer, expected)) = &order.output else { continue };
        for (node, seen, _) in story.shown.iter().filter(|(_, seen, _)| seen.task == accepted.task) {
            let output = seen.output.as_ref().and_then(|output| output.pointer(pointer));
            if seen.state == "succeeded" && output != Some(expected) {
                let detail = format!("{node} shows {output:?} at {pointer} of task {}, not {expected}", seen.task);
                broken(Rule::RightEnd, detail);
            }
        }
    }
    for op in &story.ops {
        let (Call::Run(order), Some((_, Answer::RunEnded { task, output: Some(output), .. }))) = (op.call, op.answered)
        else {
            continue;
        };
        if let Some((pointer, expected)) = &order.output
            && output.pointer(pointer) != Some(expected)
        {
            broken(Rule::RightEnd, format!("run {task} gave {output}, which is not {expected} at {pointer}"));
        }
    }
}
