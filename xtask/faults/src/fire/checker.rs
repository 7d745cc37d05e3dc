//! Reads a history and says what of it must not have happened.
//!
//! It knows the promises and nothing of how they are kept: no type and no code of Wasmill is used
//! here.

mod counts;
mod ends;
mod keys;
pub(crate) mod plant;
mod reads;
mod story;
#[cfg(test)]
mod tests;

use std::fmt;

use super::history::Line;
use story::Story;

/// Something that must not have happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which promise is broken.
    pub(crate) rule: Rule,
    /// The lines that show it.
    pub(crate) detail: String,
}

/// A rule that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// A task that was answered with 2xx is there at the end, on every node.
    NothingLost,
    /// At the end every task is final, and the same on every node.
    OneFinalState,
    /// A final state that was seen once is the one at the end.
    FinalNeverChanges,
    /// A task's own history has one end, and nothing but late reports after it; attempts are
    /// numbered upwards and end once.
    OneEnd,
    /// No idempotency key and no name has two tasks.
    OneTaskPerKey,
    /// A cancel that is answered with 200 is about a task that has stopped.
    CancelledHasStopped,
    /// A node shows what it has answered before: the task is there, and never an earlier state of
    /// it.
    ReadsOwnWrites,
    /// A task ends in a way that it can end in, with the output that belongs to its payload.
    RightEnd,
    /// A request that is well-formed, allowed and about things that are there is not refused, but
    /// for load.
    NoWrongRefusal,
    /// No task is there that nobody has asked for.
    NothingInvented,
    /// At the end nothing is queued and no slot is taken.
    Idle,
    /// No process has panicked or ended in an unexpected way.
    NoPanic,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.detail)
    }
}

/// The violations of the whole history, in the order of the rules.
pub(crate) fn check(lines: &[Line]) -> Vec<Violation> {
    let story = Story::of(lines);
    let mut violations = Vec::new();
    ends::check(&story, &mut violations);
    keys::check(&story, &mut violations);
    reads::check(&story, &mut violations);
    counts::check(&story, &mut violations);
    violations.sort_by_key(|violation| violation.rule);
    violations
}

/// A summary of the history, for people.
pub(crate) fn summary(lines: &[Line]) -> String {
    let story = Story::of(lines);
    format!(
        "{} questions, {} of them answered clearly; tasks were accepted {} times, repetitions included; {} tasks at the end: {}",
        story.ops.len(),
        story.ops.iter().filter(|op| op.is_clear()).count(),
        story.accepted.len(),
        story.listed.values().next().map_or(0, std::collections::BTreeMap::len),
        story.ends()
    )
}
