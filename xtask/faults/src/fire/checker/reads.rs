//! A node that has answered something shows it from then on.
//!
//! Within one life of the node: after a restart it may have to catch up. And never an older state
//! of a task than one that it has shown.

use std::collections::BTreeMap;

use super::story::{Op, Story};
use super::{Rule, Violation};
use crate::fire::history::{Answer, Call, LineAnswer};

/// How far a task has come: final is furthest.
type Progress = (bool, u64);

/// The answers of one life of a node about one task, with their times.
#[derive(Default)]
struct Answered {
    /// The earliest answer that shows that the task is there.
    known_us: Option<u64>,
    /// For each answer: when, and how far the task had come.
    progress: Vec<(u64, Progress)>,
}

pub(super) fn check(story: &Story<'_>, violations: &mut Vec<Violation>) {
    refusals(story, violations);
    let lives = answers(story);
    for op in &story.ops {
        let Some((answered_us, answer)) = op.answered else { continue };
        let Some(task) = op.seen().map(|seen| &*seen.task).or(op.about()) else { continue };
        // An answer that is given by another life than the one that was asked belongs to neither
        // for sure.
        let life = story.life(op.node, op.asked_us);
        if life != story.life(op.node, answered_us) {
            continue;
        }
        let Some(before) = lives.get(&(op.node, life, task)) else { continue };
        if let Some(detail) = contradicts(op, answer, before) {
            violations
                .push(Violation { rule: Rule::ReadsOwnWrites, detail: format!("{}, task {task}: {detail}", op.node) });
        }
    }
}

/// Tokens and modules were known to every node before the first question: a node that does not know
/// them yet, after a restart, has to say that it cannot answer, and not that they are wrong.
fn refusals(story: &Story<'_>, violations: &mut Vec<Violation>) {
    for op in &story.ops {
        let is_about_new = matches!(op.call, Call::Submit(_) | Call::Bulk(_) | Call::Run(_));
        let mut refused: Vec<(u16, &str)> = Vec::new();
        match op.answered {
            Some((_, Answer::Refused { status, code })) => refused.push((*status, code)),
            Some((_, Answer::Lines(answers))) => refused.extend(answers.iter().filter_map(|answer| match answer {
                LineAnswer::Refused { status, code } => Some((*status, code.as_str())),
                _ => None,
            })),
            _ => {}
        }
        for (status, code) in refused {
            let is_fine = match status {
                429 => true,
                // About tasks: they may be final, or not be known yet.
                404 | 409 => !is_about_new,
                _ => false,
            };
            if !is_fine {
                let detail = format!("{} refuses with {status} {code} what is good: {:?}", op.node, op.call);
                violations.push(Violation { rule: Rule::NoWrongRefusal, detail });
            }
        }
    }
}

fn answers<'a>(story: &Story<'a>) -> BTreeMap<(&'a str, usize, &'a str), Answered> {
    let mut lives = BTreeMap::<(&str, usize, &str), Answered>::new();
    for accepted in &story.accepted {
        let life = story.life(accepted.node, accepted.answered_us);
        let known = &mut lives.entry((accepted.node, life, accepted.task)).or_default().known_us;
        *known = Some(known.map_or(accepted.answered_us, |known| known.min(accepted.answered_us)));
    }
    for op in &story.ops {
        let (Some(seen), Some((answered_us, _))) = (op.seen(), op.answered) else { continue };
        let life = story.life(op.node, answered_us);
        let answered = lives.entry((op.node, life, &seen.task)).or_default();
        answered.known_us = Some(answered.known_us.map_or(answered_us, |known| known.min(answered_us)));
        answered.progress.push((answered_us, (seen.is_final(), seen.attempt)));
    }
    lives
}

fn contradicts(op: &Op<'_>, answer: &Answer, before: &Answered) -> Option<String> {
    if let Answer::Refused { status: 404, .. } = answer {
        let known_us = before.known_us.filter(|known| *known <= op.asked_us)?;
        return Some(format!("404 at {} us, although it was answered at {known_us} us", op.asked_us));
    }
    let seen = op.seen()?;
    let now: Progress = (seen.is_final(), seen.attempt);
    let earlier = before.progress.iter().filter(|(answered_us, _)| *answered_us <= op.asked_us);
    let (then_us, _) = earlier.into_iter().find(|(_, then)| *then > now)?;
    Some(format!(
        "at {} us it is {} in attempt {}, at {then_us} us it was further",
        op.asked_us, seen.state, seen.attempt
    ))
}
