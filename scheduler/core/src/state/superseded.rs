//! Attempts that ended without a report of their own: what a late report is recognised by.

use std::collections::{BTreeSet, VecDeque};

use wasmill_protocol::AttemptId;

/// Attempts that are remembered. A report for an older one is taken for a repeat: acknowledged, counted, not recorded.
pub(crate) const SUPERSEDED_MAX: usize = 16_384;

/// The newest attempts that were given up before they reported. Each can be recorded as late once, so a flood of reports cannot
/// fill the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Superseded {
    known: BTreeSet<AttemptId>,
    oldest_first: VecDeque<AttemptId>,
}

impl Superseded {
    pub(crate) fn insert(&mut self, id: AttemptId) {
        if !self.known.insert(id) {
            return;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > SUPERSEDED_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Was recorded as late. It stays in the order until its turn comes, which keeps this O(log n).
    pub(crate) fn remove(&mut self, id: &AttemptId) {
        self.known.remove(id);
    }

    /// All that are remembered, oldest first, each with whether it was recorded as late.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (AttemptId, bool)> {
        self.oldest_first.iter().map(|id| (*id, !self.known.contains(id)))
    }

    /// Adds one that [`Superseded::iter`] gave.
    pub(crate) fn push(&mut self, id: AttemptId, recorded: bool) {
        self.oldest_first.push_back(id);
        if !recorded {
            self.known.insert(id);
        }
    }

    pub(crate) fn contains(&self, id: &AttemptId) -> bool {
        self.known.contains(id)
    }
}

#[cfg(test)]
mod tests {
    use wasmill_protocol::{Attempt, Nonce, TaskId};

    use super::*;

    fn id(nonce: usize) -> AttemptId {
        AttemptId { task: TaskId::default(), attempt: Attempt(1), nonce: Nonce(nonce as u64) }
    }

    #[test]
    fn the_newest_are_remembered() {
        let mut superseded = Superseded::default();
        (0..=SUPERSEDED_MAX).for_each(|nonce| superseded.insert(id(nonce)));
        assert!(!superseded.contains(&id(0)));
        assert!(superseded.contains(&id(1)) && superseded.contains(&id(SUPERSEDED_MAX)));
        superseded.remove(&id(1));
        assert!(!superseded.contains(&id(1)));
    }
}
