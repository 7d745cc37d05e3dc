//! Where a fold begins: at the newest snapshot that can be used, or at the first record.

use std::error::Error;
use std::sync::Arc;

use futures::StreamExt;
use wasmill_protocol::{Digest, LogSeq};
use wasmill_record::Record;
use wasmill_record::snapshot::ReadModelCopy;
use wasmill_scheduler_node::chain::hash;

use wasmill_fabric::Fabric;

use super::DriverError;
use crate::handle::Shared;
use crate::snapshot::{Search, Snapshot, load, newest_copy};

/// What a node knows when it begins to read the log.
pub(super) struct Beginning {
    pub(super) snapshot: Snapshot,
    /// Snapshots that the log names after this one and that cannot be used.
    pub(super) unusable: Vec<Digest>,
    /// Where the log ends.
    pub(super) end: LogSeq,
}

impl Beginning {
    /// Looks for the newest snapshot that can be used, and brings the read model up to it.
    ///
    /// # Errors
    ///
    /// When the log does not reach back far enough for what is at hand, or is damaged.
    pub(super) async fn find(fabric: &Fabric, shared: &Shared) -> Result<Self, DriverError> {
        let end = fabric.log.last_seq().await?;
        let seen = shared.read_model.position();
        if seen > end {
            return Err(DriverError::Shortened { last: end, seen });
        }
        let first = fabric.log.first_seq().await?;
        let (snapshot, unusable) = newest_usable(fabric, first, end).await?;
        let beginning = Self { snapshot, unusable, end };
        beginning.bring_read_model(fabric, shared, first).await?;
        Ok(beginning)
    }

    /// The read model takes in what comes before the fold's first record, by itself or from a copy.
    async fn bring_read_model(&self, fabric: &Fabric, shared: &Shared, first: LogSeq) -> Result<(), DriverError> {
        if shared.read_model.position().next() < first {
            self.fetch_read_model(fabric, shared, first).await?;
        }
        let chain = self.snapshot.chain;
        let mut at = shared.read_model.position();
        // The record before the first one that is read is not known; from there on the chain is checked, and its end must be the snapshot's.
        let mut before: Option<Digest> = None;
        let mut tail = fabric.log.tail(at.next());
        while at < chain.last {
            let Some(next) = tail.next().await else {
                return Err(DriverError::Shortened { last: at, seen: chain.last });
            };
            let (seq, bytes) = next?;
            let record = Record::decode(seq, &bytes)?;
            if before.is_some_and(|before| before != record.prev_hash) {
                return Err(DriverError::Chain { seq });
            }
            shared.read_model.caught_up().await;
            shared.read_model.apply(seq, &Arc::new(record));
            (at, before) = (seq, Some(hash(&bytes)));
        }
        match before {
            Some(hash) if hash != chain.hash => Err(DriverError::Changed { seq: chain.last }),
            _ => Ok(()),
        }
    }

    /// The log begins after what the read model has: it goes on from a copy that the log names.
    async fn fetch_read_model(&self, fabric: &Fabric, shared: &Shared, first: LogSeq) -> Result<(), DriverError> {
        let position = shared.read_model.position();
        let after = self.snapshot.chain.last.next().max(first);
        let copy = match newest_copy(&*fabric.log, after, self.end).await? {
            None => self.snapshot.state.current().read_model,
            copy => copy,
        };
        let Some(copy) = copy.filter(|copy| copy.seq.next() >= first) else {
            return Err(DriverError::NoReadModel { position, first });
        };
        let ReadModelCopy { seq, digest, .. } = copy;
        tracing::info!(%position, %first, copy = %digest, to = %seq, "the read model is fetched: the log begins after what it holds");
        let restored = shared.read_model.restore(&*fabric.blobs, &copy).await;
        restored.map_err(|source| DriverError::ReadModelUnusable { digest, seq, first, source })
    }
}

/// The newest snapshot that can be read, or nothing when the log has all that ever was. And those that cannot be read.
async fn newest_usable(fabric: &Fabric, first: LogSeq, end: LogSeq) -> Result<(Snapshot, Vec<Digest>), DriverError> {
    let mut search = Search::new(&*fabric.log, first, end);
    let mut unusable = Vec::new();
    let mut newest_error = None;
    while let Some(found) = search.next().await? {
        if found.seq.next() < first {
            // The records that lead on from it are gone, and older ones are no better.
            break;
        }
        match load(&*fabric.blobs, &found).await {
            Ok(snapshot) => return Ok((snapshot, unusable)),
            Err(error) => {
                tracing::warn!(
                    snapshot = %found.digest, record = %found.seq, error = &error as &dyn Error,
                    "a snapshot cannot be used: looking for an older one"
                );
                unusable.push(found.digest);
                newest_error.get_or_insert((found, error));
            }
        }
    }
    match newest_error {
        _ if first <= LogSeq(1) => Ok((Snapshot::of_empty_log(), unusable)),
        Some((found, source)) => {
            Err(DriverError::SnapshotUnusable { digest: found.digest, seq: found.seq, first, source })
        }
        None => Err(DriverError::NoSnapshot { first }),
    }
}
