//! Which snapshots there are: what a start looks for and a sweep leaves alone.

use serde::{Deserialize, Serialize};

use wasmill_protocol::ids::{Digest, LogSeq};
use wasmill_protocol::time::Timestamp;

/// Snapshots that are kept. With two of them a damaged one costs a longer start and nothing else.
pub const SNAPSHOTS_KEPT: usize = 2;
const _: () = assert!(SNAPSHOTS_KEPT >= 2, "a start needs another one when the newest is damaged");

/// A snapshot of the state, stored as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotRef {
    /// It holds what the log says up to this record.
    pub seq: LogSeq,
    /// Names the blob.
    pub digest: Digest,
    /// The blob's size.
    pub bytes: u64,
    /// Bytes of all records up to `seq`: tells how much of the log would be read after it.
    pub log_bytes: u64,
}

/// A copy of the read model's file, stored as a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadModelCopy {
    /// It holds what the log says of tasks up to this record.
    pub seq: LogSeq,
    /// Names the blob.
    pub digest: Digest,
    /// The blob's size.
    pub bytes: u64,
    /// Bytes of all records up to about `seq`: tells how much of the log a further copy would let
    /// go.
    pub log_bytes: u64,
    /// When it was made.
    pub at: Timestamp,
}

/// The snapshots and the copy of the read model that count. Everything older can go.
///
/// Of the read model the newest copy alone is kept: the log begins after it, so no older one leads
/// up to now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Current {
    /// At most [`SNAPSHOTS_KEPT`], oldest first.
    pub snapshots: Vec<SnapshotRef>,
    /// The newest copy of the read model.
    pub read_model: Option<ReadModelCopy>,
}

impl Current {
    /// A snapshot was stored. One that is not newer than what is known counts for nothing.
    pub fn snapshot_taken(&mut self, snapshot: SnapshotRef) {
        if self.newest().is_none_or(|newest| newest.seq < snapshot.seq) {
            self.snapshots.push(snapshot);
            let outdated = self.snapshots.len().saturating_sub(SNAPSHOTS_KEPT);
            self.snapshots.drain(..outdated);
        }
    }

    /// A copy of the read model was stored. One that is not newer than what is known counts for
    /// nothing.
    pub fn read_model_saved(&mut self, copy: ReadModelCopy) {
        if self.read_model.is_none_or(|known| known.seq < copy.seq) {
            self.read_model = Some(copy);
        }
    }

    /// The newest snapshot.
    pub fn newest(&self) -> Option<&SnapshotRef> {
        self.snapshots.last()
    }

    /// Whether a blob is one of these.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.digest == *digest)
            || self.read_model.is_some_and(|copy| copy.digest == *digest)
    }

    /// The last record that nobody needs who starts from these: it is in every snapshot and in the
    /// copy of the read model.
    ///
    /// `None` while a snapshot is missing: the log must reach back to its beginning then.
    pub fn trimmable_to(&self) -> Option<LogSeq> {
        let (oldest, copy) = (self.snapshots.first()?, self.read_model?);
        (self.snapshots.len() == SNAPSHOTS_KEPT).then(|| oldest.seq.min(copy.seq))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(seq: u64) -> SnapshotRef {
        SnapshotRef { seq: LogSeq(seq), digest: Digest([seq as u8; 32]), bytes: seq, log_bytes: 0 }
    }

    fn copy(seq: u64) -> ReadModelCopy {
        ReadModelCopy { seq: LogSeq(seq), digest: Digest([100 + seq as u8; 32]), ..ReadModelCopy::default() }
    }

    #[test]
    fn the_newest_are_kept() {
        let mut current = Current::default();
        for seq in [3, 5, 5, 4, 9] {
            current.snapshot_taken(snapshot(seq));
        }
        assert_eq!(current.snapshots, [snapshot(5), snapshot(9)]);
        current.read_model_saved(copy(7));
        current.read_model_saved(copy(6));
        assert_eq!(current.read_model, Some(copy(7)));
        let kept = |digest: Digest| current.contains(&digest);
        assert!(kept(snapshot(5).digest) && kept(snapshot(9).digest) && kept(copy(7).digest));
        assert!(!kept(snapshot(3).digest) && !kept(copy(6).digest));
    }

    #[test]
    fn nothing_is_trimmed_that_a_start_could_need() {
        let mut current = Current::default();
        assert_eq!(current.trimmable_to(), None);
        current.snapshot_taken(snapshot(5));
        current.read_model_saved(copy(7));
        assert_eq!(current.trimmable_to(), None, "one snapshot could be damaged");
        current.snapshot_taken(snapshot(9));
        assert_eq!(current.trimmable_to(), Some(LogSeq(5)));
        current.snapshot_taken(snapshot(11));
        assert_eq!(current.trimmable_to(), Some(LogSeq(7)), "the copy needs what follows it");
    }
}
