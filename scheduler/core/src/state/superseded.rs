//! Attempts that ended without a report of their own: what a late report is recognised by.

use std::collections::{BTreeMap, VecDeque};

use wasmill_protocol::AttemptId;
use wasmill_record::snapshot::SupersededRow;

use super::tenants::TenantNumber;

/// Attempts that are remembered. A report for an older one is taken for a repeat: acknowledged,
/// counted, not recorded.
pub(crate) const SUPERSEDED_MAX: usize = 16_384;

/// The newest attempts that were given up before they reported. Each can be recorded as late once,
/// so a flood of reports cannot fill the log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Superseded {
    /// Each with the tenant of its task, unless a former version has written the snapshot that it
    /// comes from.
    known: BTreeMap<AttemptId, Option<TenantNumber>>,
    oldest_first: VecDeque<AttemptId>,
}

impl Superseded {
    pub(crate) fn insert(&mut self, id: AttemptId, tenant: TenantNumber) {
        if self.known.insert(id, Some(tenant)).is_some() {
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
    /// Returns the tenant of its task.
    pub(crate) fn remove(&mut self, id: &AttemptId) -> Option<Option<TenantNumber>> {
        self.known.remove(id)
    }

    /// All that are remembered, oldest first, as a snapshot holds them.
    pub(crate) fn rows(&self) -> impl Iterator<Item = SupersededRow> {
        self.oldest_first.iter().map(|&id| {
            let tenant = self.known.get(&id);
            SupersededRow { id, recorded: tenant.is_none(), tenant: tenant.copied().flatten() }
        })
    }

    /// Adds one that [`Superseded::rows`] gave.
    pub(crate) fn push(&mut self, row: &SupersededRow) {
        self.oldest_first.push_back(row.id);
        if !row.recorded {
            self.known.insert(row.id, row.tenant);
        }
    }

    pub(crate) fn contains(&self, id: &AttemptId) -> bool {
        self.known.contains_key(id)
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
        (0..=SUPERSEDED_MAX).for_each(|nonce| superseded.insert(id(nonce), 7));
        assert!(!superseded.contains(&id(0)));
        assert!(superseded.contains(&id(1)) && superseded.contains(&id(SUPERSEDED_MAX)));
        assert_eq!(superseded.remove(&id(1)), Some(Some(7)));
        assert!(!superseded.contains(&id(1)));
    }
}
