//! Keeps starts short and the log small: takes snapshots, copies the read model, and trims the log, beside the leader.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use wasmill_fabric::LogError;
use wasmill_protocol::snapshot::{Current, ReadModelCopy, SnapshotRef};
use wasmill_protocol::{Digest, LogSeq};
use wasmill_scheduler_core::Input;
use wasmill_scheduler_core::state::Frozen;
use wasmill_scheduler_node::Chain;

use super::{Ground, SnapshotConfig};
use crate::handle::Shared;
use crate::metrics::Upkeep;
use crate::snapshot::{StoreError, store};

/// After a failure it is tried again after this time, at the next record.
const RETRY: Duration = Duration::from_secs(60);

/// What is due and what is under way during one leadership.
///
/// Everything runs in tasks of its own; those that are under way end with the leadership and leave nothing but a blob that no record
/// names.
pub(super) struct Keeper {
    config: SnapshotConfig,
    ground: Ground,
    shared: Arc<Shared>,
    jobs: JoinSet<Kept>,
    /// What was taken hold of and waits for its last record to be durable.
    held: Option<(Frozen, Chain)>,
    snapshot: Watch,
    copy: Watch,
    /// Up to where the log was trimmed, or is being trimmed.
    trimmed: LogSeq,
    trim_not_before: Instant,
    /// Snapshots that could not be used at the start. While one of them counts, the log is not trimmed.
    unusable: Vec<Digest>,
}

/// When something of which there is one at a time is due again.
#[derive(Debug, Clone, Copy)]
struct Watch {
    /// Where the newest was taken, in records and in bytes.
    seq: LogSeq,
    log_bytes: u64,
    /// By how many bytes the log must have grown at least.
    growth_min: u64,
    running: bool,
    not_before: Instant,
}

/// How something ended.
enum Kept {
    Snapshot(Result<SnapshotRef, StoreError>),
    /// Or by how much the log must have grown before a copy is worth it.
    Copy(Result<CopyOrWait, Box<dyn Error + Send + Sync>>),
    Trimmed(LogSeq, Result<(), LogError>),
}

enum CopyOrWait {
    Copy(ReadModelCopy),
    Wait { growth_min: u64 },
}

impl Watch {
    fn new(seq: LogSeq, log_bytes: u64, growth_min: u64) -> Self {
        Self { seq, log_bytes, growth_min, running: false, not_before: Instant::now() }
    }

    fn begin(&mut self) {
        self.running = true;
    }

    fn failed(&mut self) {
        self.running = false;
        self.not_before = Instant::now() + RETRY;
    }

    fn done(&mut self, seq: LogSeq, log_bytes: u64, growth_min: u64) {
        *self = Self::new(seq, log_bytes, growth_min);
    }

    fn may_begin(&self) -> bool {
        !self.running && Instant::now() >= self.not_before
    }
}

impl Keeper {
    /// Nothing is under way. `current` is what the log names, `unusable` what of it could not be read at the start.
    pub(super) fn new(
        config: &SnapshotConfig,
        ground: &Ground,
        shared: &Arc<Shared>,
        current: &Current,
        unusable: Vec<Digest>,
    ) -> Self {
        let newest = current.newest().filter(|newest| !unusable.contains(&newest.digest));
        // Without one that can be used a snapshot is due at once.
        let snapshot =
            newest.map_or(Watch::new(LogSeq(0), 0, 0), |newest| Watch::new(newest.seq, newest.log_bytes, newest.bytes));
        let copy = current.read_model.unwrap_or_default();
        Self {
            config: config.clone(),
            ground: ground.clone(),
            shared: Arc::clone(shared),
            jobs: JoinSet::new(),
            held: None,
            snapshot,
            copy: Watch::new(copy.seq, copy.log_bytes, config.copy_log_bytes),
            trimmed: LogSeq(0),
            trim_not_before: Instant::now(),
            unusable,
        }
    }

    /// Whether a snapshot is to be taken after the record that was handed out last.
    pub(super) fn wants_snapshot(&self, chain: &Chain) -> bool {
        let records = chain.last.0.saturating_sub(self.snapshot.seq.0);
        let bytes = chain.log_bytes.saturating_sub(self.snapshot.log_bytes);
        let due = records >= self.config.records || bytes >= self.config.log_bytes;
        // A snapshot of a long queue is large: what it costs to write must have been written to the log, too.
        due && bytes >= self.snapshot.growth_min && self.snapshot.may_begin()
    }

    /// Takes what is to be stored once the last record that is in it is durable.
    pub(super) fn hold(&mut self, frozen: Frozen, chain: Chain) {
        self.snapshot.begin();
        self.held = Some((frozen, chain));
    }

    /// A record is durable and published: begins what waited for it, and what is due.
    pub(super) fn durable(&mut self, seq: LogSeq, chain: &Chain) {
        if let Some((frozen, held)) = self.held.take_if(|(_, held)| held.last == seq) {
            // The directory has just taken in this record and no later one.
            let (blobs, directory) = (Arc::clone(&self.ground.blobs), self.shared.directory.contents());
            let begun = Instant::now();
            let shared = Arc::clone(&self.shared);
            self.jobs.spawn(async move {
                let stored = store(&*blobs, frozen, directory, held).await;
                shared.metrics.upkeep(Upkeep::Snapshot, begun.elapsed(), stored.is_ok());
                Kept::Snapshot(stored)
            });
        }
        self.copy_if_due(chain);
        self.trim_if_due();
    }

    /// Ends what is under way; a blob that no record names is left to the sweep.
    pub(super) async fn stop(&mut self) {
        self.jobs.shutdown().await;
    }

    /// The next thing that ended, as what the core is to decide about it; `None` when nothing is under way.
    pub(super) async fn next(&mut self) -> Option<Option<Input>> {
        let ended = self.jobs.join_next().await?;
        Some(match ended {
            Ok(kept) => self.ended(kept),
            Err(error) => {
                tracing::error!(%error, "taking a snapshot, copying the read model or trimming the log panicked");
                self.snapshot.failed();
                self.copy.failed();
                None
            }
        })
    }

    fn ended(&mut self, kept: Kept) -> Option<Input> {
        match kept {
            Kept::Snapshot(Ok(taken)) => {
                self.snapshot.done(taken.seq, taken.log_bytes, taken.bytes);
                tracing::debug!(record = %taken.seq, bytes = taken.bytes, "a snapshot is stored");
                Some(Input::SnapshotStored(taken))
            }
            Kept::Snapshot(Err(error)) => {
                self.snapshot.failed();
                tracing::warn!(error = &error as &dyn Error, "no snapshot was taken; it is tried again");
                None
            }
            Kept::Copy(Ok(CopyOrWait::Copy(copy))) => {
                self.copy.done(copy.seq, copy.log_bytes, self.config.copy_log_bytes);
                tracing::info!(record = %copy.seq, bytes = copy.bytes, "a copy of the read model is stored");
                Some(Input::ReadModelStored(copy))
            }
            Kept::Copy(Ok(CopyOrWait::Wait { growth_min })) => {
                (self.copy.running, self.copy.growth_min) = (false, growth_min);
                None
            }
            Kept::Copy(Err(error)) => {
                self.copy.failed();
                tracing::warn!(error = &*error as &dyn Error, "the read model was not copied; it is tried again");
                None
            }
            Kept::Trimmed(to, Ok(())) => {
                tracing::debug!(%to, "the log is trimmed");
                None
            }
            Kept::Trimmed(to, Err(error)) => {
                self.trimmed = LogSeq(0);
                self.trim_not_before = Instant::now() + RETRY;
                tracing::warn!(%to, error = &error as &dyn Error, "the log was not trimmed; it is tried again");
                None
            }
        }
    }

    /// A copy is worth it when it lets go of more bytes of the log than it has itself: so all copies together cost no more than the log does.
    fn copy_if_due(&mut self, chain: &Chain) {
        let growth = chain.log_bytes.saturating_sub(self.copy.log_bytes);
        if growth < self.copy.growth_min || !self.copy.may_begin() {
            return;
        }
        self.copy.begin();
        let (config, shared, blobs) = (self.config.clone(), Arc::clone(&self.shared), Arc::clone(&self.ground.blobs));
        let (log_bytes, begun, metrics) = (chain.log_bytes, Instant::now(), Arc::clone(&self.shared));
        self.jobs.spawn(async move {
            let copied = async move {
                let bytes = shared.read_model.bytes().await?;
                let growth_min = (bytes / 100 * config.copy_percent).max(config.copy_log_bytes);
                if growth < growth_min {
                    return Ok(CopyOrWait::Wait { growth_min });
                }
                let at = shared.clock.now();
                let (seq, stat) = shared.read_model.save(&*blobs).await?;
                let copy = ReadModelCopy { seq, digest: stat.digest, bytes: stat.bytes, log_bytes, at };
                Ok(CopyOrWait::Copy(copy))
            };
            let copied = copied.await;
            if !matches!(copied, Ok(CopyOrWait::Wait { .. })) {
                metrics.metrics.upkeep(Upkeep::Copy, begun.elapsed(), copied.is_ok());
            }
            Kept::Copy(copied)
        });
    }

    /// Lets go of what nobody needs who starts, less what nodes may need that are a little behind.
    fn trim_if_due(&mut self) {
        let to = {
            let contents = self.shared.directory.read();
            let usable = !contents.current.snapshots.iter().any(|known| self.unusable.contains(&known.digest));
            contents.current.trimmable_to().filter(|_| usable)
        };
        let Some(to) = to.map(|to| LogSeq(to.0.saturating_sub(self.config.keep_records))) else { return };
        if to > self.trimmed && Instant::now() >= self.trim_not_before {
            self.trimmed = to;
            let (log, shared, begun) = (Arc::clone(&self.ground.log), Arc::clone(&self.shared), Instant::now());
            self.jobs.spawn(async move {
                let trimmed = log.trim(to).await;
                shared.metrics.upkeep(Upkeep::Trim, begun.elapsed(), trimmed.is_ok());
                Kept::Trimmed(to, trimmed)
            });
        }
    }
}
