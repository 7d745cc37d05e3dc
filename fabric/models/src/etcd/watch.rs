//! Watches: what changed, in order, from a revision on.

use super::store::{Event, Range};
use super::{Etcd, EtcdError};

/// A place in the history of some keys. Lives with whoever watches: when a connection breaks, a new
/// watch can begin where the old one was, if that was not compacted meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watch {
    range: Range,
    next_revision: u64,
}

impl Watch {
    /// The revision from which on changes were not read yet.
    pub fn next_revision(&self) -> u64 {
        self.next_revision
    }
}

impl Etcd {
    /// Watches from `from` on, which may lie in the future: then nothing is told before the
    /// revision is reached. From now on without it.
    pub fn watch(&self, range: Range, from: Option<u64>) -> Watch {
        Watch { range, next_revision: from.unwrap_or(self.store.revision() + 1) }
    }

    /// The changes since the last time.
    ///
    /// # Errors
    ///
    /// [`EtcdError::Compacted`] when changes were forgotten before they were read: the watch is
    /// over. Without a quorum watches are cut.
    pub fn read_watch(&self, watch: &mut Watch) -> Result<Vec<Event>, EtcdError> {
        self.agree()?;
        let events = self.store.events(&watch.range, watch.next_revision)?.cloned().collect();
        watch.next_revision = watch.next_revision.max(self.store.revision() + 1);
        Ok(events)
    }
}
