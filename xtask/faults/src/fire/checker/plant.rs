//! Breaks a good history, one promise at a time: a checker that accepts any of these is worth
//! nothing.

#![allow(clippy::ptr_arg, reason = "all plants have one signature, and some of them add lines")]

use std::collections::BTreeSet;

use super::{Rule, check};
use crate::fire::history::{Answer, Call, Happened, Line, Seen};

/// A way to break a history.
pub(crate) struct Plant {
    /// The change that it makes.
    pub(crate) what: &'static str,
    /// The rule that must be found broken.
    pub(crate) rule: Rule,
    /// How many nodes it takes.
    nodes_min: usize,
    /// Whether there was something to break.
    plant: fn(&mut Vec<Line>) -> Option<()>,
}

/// Every way.
pub(crate) const PLANTS: [Plant; 15] = [
    Plant { what: "a node forgets an accepted task", rule: Rule::NothingLost, nodes_min: 1, plant: forget },
    Plant { what: "a task is not final at the end", rule: Rule::OneFinalState, nodes_min: 1, plant: unfinished },
    Plant { what: "two nodes disagree about an end", rule: Rule::OneFinalState, nodes_min: 2, plant: disagree },
    Plant {
        what: "a final state changes after it was seen",
        rule: Rule::FinalNeverChanges,
        nodes_min: 1,
        plant: change,
    },
    Plant { what: "something happens after the end", rule: Rule::OneEnd, nodes_min: 1, plant: after_the_end },
    Plant { what: "two tasks have one key", rule: Rule::OneTaskPerKey, nodes_min: 1, plant: same_key },
    Plant { what: "a key is answered with another task", rule: Rule::OneTaskPerKey, nodes_min: 1, plant: other_task },
    Plant {
        what: "a cancel is answered before the task has stopped",
        rule: Rule::CancelledHasStopped,
        nodes_min: 1,
        plant: early_cancel,
    },
    Plant {
        what: "a node does not know what it has accepted",
        rule: Rule::ReadsOwnWrites,
        nodes_min: 1,
        plant: unknown,
    },
    Plant { what: "a node shows an older state", rule: Rule::ReadsOwnWrites, nodes_min: 1, plant: older },
    Plant { what: "a task has the output of another one", rule: Rule::RightEnd, nodes_min: 1, plant: output },
    Plant { what: "a node does not know the token", rule: Rule::NoWrongRefusal, nodes_min: 1, plant: refuse },
    Plant { what: "a task is there that nobody asked for", rule: Rule::NothingInvented, nodes_min: 1, plant: invent },
    Plant { what: "a slot stays in use", rule: Rule::Idle, nodes_min: 1, plant: busy },
    Plant { what: "a process panics", rule: Rule::NoPanic, nodes_min: 1, plant: panic },
];

/// Checks that the checker finds every plant in an otherwise good history; says what it does not
/// find.
pub(crate) fn control(lines: &[Line]) -> Vec<String> {
    let nodes: BTreeSet<&str> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Idle { node, .. } => Some(node.as_str()),
            _ => None,
        })
        .collect();
    let missed = |plant: &Plant| {
        // One node alone agrees with itself.
        if nodes.len() < plant.nodes_min {
            return None;
        }
        let mut lines = lines.to_vec();
        if (plant.plant)(&mut lines).is_none() {
            return Some(format!("nothing in the history could be broken so that {}", plant.what));
        }
        let is_found = check(&lines).iter().any(|violation| violation.rule == plant.rule);
        (!is_found).then(|| format!("the checker does not notice that {}", plant.what))
    };
    PLANTS.iter().filter_map(missed).collect()
}

fn forget(lines: &mut Vec<Line>) -> Option<()> {
    let task = answered_tasks(lines).next()?.2.task.clone();
    let at = lines.iter().position(|line| matches!(line, Line::Listed { seen, .. } if seen.task == task))?;
    lines.remove(at);
    Some(())
}

fn unfinished(lines: &mut Vec<Line>) -> Option<()> {
    let seen = listed(lines).next()?;
    (seen.state, seen.ended_as) = ("running".to_owned(), None);
    Some(())
}

fn disagree(lines: &mut Vec<Line>) -> Option<()> {
    listed(lines).next()?.attempt += 1;
    Some(())
}

fn change(lines: &mut Vec<Line>) -> Option<()> {
    let answers = lines.iter_mut().filter_map(|line| match line {
        Line::Answered { answer: Answer::Task { seen, .. }, .. } if seen.is_final() => Some(seen),
        _ => None,
    });
    let seen = answers.into_iter().next()?;
    let other = if seen.state == "cancelled" { "succeeded" } else { "cancelled" };
    (seen.state, seen.ended_as) = (other.to_owned(), Some(other.to_owned()));
    Some(())
}

fn after_the_end(lines: &mut Vec<Line>) -> Option<()> {
    let entry = Happened { event: "attempt_started".to_owned(), attempt: Some(99), state: None };
    shown(lines).next()?.1.push(entry);
    Some(())
}

fn same_key(lines: &mut Vec<Line>) -> Option<()> {
    let mut seen = listed(lines).filter(|seen| seen.key.is_some());
    let key = seen.next()?.key.clone();
    seen.next()?.key = key;
    Some(())
}

fn other_task(lines: &mut Vec<Line>) -> Option<()> {
    let keyed = answered_tasks(lines).filter(|(_, _, seen)| seen.key.is_some());
    let mut submitted = keyed.filter_map(|(op, at_us, seen)| match asked(lines, op)? {
        (node, call @ Call::Submit(_)) => Some((node, call, at_us, seen)),
        _ => None,
    });
    let (node, call, at_us, seen) = submitted.next()?;
    let seen = Seen { task: "another".to_owned(), ..seen.clone() };
    drop(submitted);
    append(lines, &node, at_us, call, Answer::Task { status: 200, seen });
    Some(())
}

fn early_cancel(lines: &mut Vec<Line>) -> Option<()> {
    let (op, at_us, seen) = answered_tasks(lines).next()?;
    let seen = Seen { state: "running".to_owned(), ended_as: None, ..seen.clone() };
    let (node, _) = asked(lines, op)?;
    let call = Call::Cancel { task: seen.task.clone() };
    append(lines, &node, at_us, call, Answer::Task { status: 200, seen });
    Some(())
}

fn unknown(lines: &mut Vec<Line>) -> Option<()> {
    let (op, at_us, seen) = answered_tasks(lines).next()?;
    let call = Call::Get { task: seen.task.clone() };
    let (node, _) = asked(lines, op)?;
    append(lines, &node, at_us, call, Answer::Refused { status: 404, code: "task_unknown".to_owned() });
    Some(())
}

fn older(lines: &mut Vec<Line>) -> Option<()> {
    let (op, at_us, seen) = answered_tasks(lines).find(|(_, _, seen)| seen.is_final())?;
    let seen = Seen { state: "running".to_owned(), ended_as: None, ..seen.clone() };
    let call = Call::Get { task: seen.task.clone() };
    let (node, _) = asked(lines, op)?;
    append(lines, &node, at_us, call, Answer::Task { status: 200, seen });
    Some(())
}

fn output(lines: &mut Vec<Line>) -> Option<()> {
    let with_output: Vec<String> = lines
        .iter()
        .filter_map(|line| match line {
            Line::Asked { call: Call::Submit(order), .. } if order.output.is_some() => order.name.clone(),
            _ => None,
        })
        .collect();
    let is_good =
        |seen: &Seen| seen.state == "succeeded" && seen.name.as_ref().is_some_and(|name| with_output.contains(name));
    shown(lines).find(|(seen, _)| is_good(seen))?.0.output = Some("something else".into());
    Some(())
}

fn refuse(lines: &mut Vec<Line>) -> Option<()> {
    let (op, at_us, seen) = answered_tasks(lines).next()?;
    let call = Call::Get { task: seen.task.clone() };
    let (node, _) = asked(lines, op)?;
    append(lines, &node, at_us, call, Answer::Refused { status: 401, code: "unauthorized".to_owned() });
    Some(())
}

fn invent(lines: &mut Vec<Line>) -> Option<()> {
    let (node, seen) = lines.iter().find_map(|line| match line {
        Line::Listed { node, seen } => Some((node.clone(), seen.clone())),
        _ => None,
    })?;
    let name = Some("nobody asked".to_owned());
    lines.push(Line::Listed {
        node,
        seen: Seen { task: "invented".to_owned(), name, key: None, retry_of: None, ..seen },
    });
    Some(())
}

fn busy(lines: &mut Vec<Line>) -> Option<()> {
    let idle = lines.iter_mut().find_map(|line| match line {
        Line::Idle { slots_used, .. } => Some(slots_used),
        _ => None,
    });
    *idle? += 1;
    Some(())
}

fn panic(lines: &mut Vec<Line>) -> Option<()> {
    lines.push(Line::EndedByItself { member: "control-1".to_owned(), at_us: 0, how: "exit status: 101".to_owned() });
    Some(())
}

/// Which question was answered with a task, and when.
fn answered_tasks(lines: &[Line]) -> impl Iterator<Item = (u64, u64, &Seen)> {
    lines.iter().filter_map(|line| match line {
        Line::Answered { op, at_us, answer: Answer::Task { seen, .. } } => Some((*op, *at_us, seen)),
        _ => None,
    })
}

fn asked(lines: &[Line], wanted: u64) -> Option<(String, Call)> {
    lines.iter().find_map(|line| match line {
        Line::Asked { op, node, call, .. } if *op == wanted => Some((node.clone(), call.clone())),
        _ => None,
    })
}

fn listed(lines: &mut [Line]) -> impl Iterator<Item = &mut Seen> {
    lines.iter_mut().filter_map(|line| match line {
        Line::Listed { seen, .. } => Some(seen),
        _ => None,
    })
}

fn shown(lines: &mut [Line]) -> impl Iterator<Item = (&mut Seen, &mut Vec<Happened>)> {
    lines.iter_mut().filter_map(|line| match line {
        Line::Shown { seen, happened, .. } => Some((seen, happened)),
        _ => None,
    })
}

/// A question right after something was answered, and its answer.
fn append(lines: &mut Vec<Line>, node: &str, at_us: u64, call: Call, answer: Answer) {
    lines.push(Line::Asked { op: u64::MAX, node: node.to_owned(), at_us, call });
    lines.push(Line::Answered { op: u64::MAX, at_us, answer });
}
