//! Carries out what keeps starts short and the log small, beside the leader: snapshots, copies of the read model, trimming.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use wasmill_protocol::LogSeq;
use wasmill_record::snapshot::ReadModelCopy;
use wasmill_scheduler_core::state::Frozen;
use wasmill_scheduler_node::Chain;
use wasmill_scheduler_node::upkeep::{Ended, Work};

use crate::directory::Contents;
use crate::handle::Shared;
use crate::metrics::Upkeep;
use crate::snapshot::store;
use wasmill_fabric::Fabric;

/// What is under way during one leadership. All of it ends with the leadership, and leaves nothing but a blob that no record names.
pub(super) struct Workers {
    fabric: Fabric,
    shared: Arc<Shared>,
    under_way: JoinSet<Ended>,
    /// How each would have ended if it panics.
    failures: HashMap<Id, Ended>,
}

impl Workers {
    /// Nothing is under way.
    pub(super) fn new(fabric: &Fabric, shared: &Arc<Shared>) -> Self {
        Self { fabric: fabric.clone(), shared: Arc::clone(shared), under_way: JoinSet::new(), failures: HashMap::new() }
    }

    /// Begins some work. What readers see is as it is after the record that it was said with.
    pub(super) fn begin(&mut self, work: Work) {
        let (fabric, shared) = (self.fabric.clone(), Arc::clone(&self.shared));
        let (handle, failure) = match work {
            Work::Snapshot(frozen, chain) => {
                let directory = shared.directory.contents();
                let stored = async move { snapshot(&fabric, &shared, *frozen, directory, chain).await };
                (self.under_way.spawn(stored), Ended::SnapshotFailed)
            }
            Work::Measure => (self.under_way.spawn(async move { measure(&shared).await }), Ended::CopyFailed),
            Work::Copy { log_bytes } => {
                (self.under_way.spawn(async move { copy(&fabric, &shared, log_bytes).await }), Ended::CopyFailed)
            }
            Work::Trim(to) => {
                (self.under_way.spawn(async move { trim(&fabric, &shared, to).await }), Ended::TrimFailed)
            }
        };
        self.failures.insert(handle.id(), failure);
    }

    /// The next thing that ended; `None` when nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Ended> {
        match self.under_way.join_next_with_id().await? {
            Ok((id, ended)) => {
                self.failures.remove(&id);
                Some(ended)
            }
            Err(error) => {
                tracing::error!(%error, "taking a snapshot, copying the read model or trimming the log panicked");
                self.failures.remove(&error.id())
            }
        }
    }

    /// Ends what is under way; a blob that no record names is left to the sweep.
    pub(super) async fn stop(&mut self) {
        self.under_way.shutdown().await;
    }
}

async fn snapshot(fabric: &Fabric, shared: &Shared, frozen: Frozen, directory: Arc<Contents>, chain: Chain) -> Ended {
    let begun = Instant::now();
    let stored = store(&*fabric.blobs, frozen, directory, chain).await;
    shared.metrics.upkeep(Upkeep::Snapshot, begun.elapsed(), stored.is_ok());
    match stored {
        Ok(taken) => {
            tracing::debug!(record = %taken.seq, bytes = taken.bytes, "a snapshot is stored");
            Ended::Snapshot(taken)
        }
        Err(error) => {
            tracing::warn!(error = &error as &dyn Error, "no snapshot was taken; it is tried again");
            Ended::SnapshotFailed
        }
    }
}

async fn measure(shared: &Shared) -> Ended {
    match shared.read_model.bytes().await {
        Ok(bytes) => Ended::Measured(bytes),
        Err(error) => copy_failed(&error),
    }
}

async fn copy(fabric: &Fabric, shared: &Shared, log_bytes: u64) -> Ended {
    let (begun, at) = (Instant::now(), shared.clock.now());
    let saved = shared.read_model.save(&*fabric.blobs).await;
    shared.metrics.upkeep(Upkeep::Copy, begun.elapsed(), saved.is_ok());
    match saved {
        Ok((seq, stat)) => {
            tracing::info!(record = %seq, bytes = stat.bytes, "a copy of the read model is stored");
            Ended::Copy(ReadModelCopy { seq, digest: stat.digest, bytes: stat.bytes, log_bytes, at })
        }
        Err(error) => copy_failed(&error),
    }
}

fn copy_failed(error: &(dyn Error + 'static)) -> Ended {
    tracing::warn!(error, "the read model was not copied; it is tried again");
    Ended::CopyFailed
}

async fn trim(fabric: &Fabric, shared: &Shared, to: LogSeq) -> Ended {
    let begun = Instant::now();
    let trimmed = fabric.log.trim(to).await;
    shared.metrics.upkeep(Upkeep::Trim, begun.elapsed(), trimmed.is_ok());
    match trimmed {
        Ok(()) => {
            tracing::debug!(%to, "the log is trimmed");
            Ended::Trimmed
        }
        Err(error) => {
            tracing::warn!(%to, error = &error as &dyn Error, "the log was not trimmed; it is tried again");
            Ended::TrimFailed
        }
    }
}
