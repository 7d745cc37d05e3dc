//! The loop around the core: what happens goes in, what follows is appended, and once it is durable it takes effect.
//!
//! Nothing is decided here. A refused append is never undone: leadership ends, the core is dropped, and the next
//! leadership rebuilds it from the log.

mod begin;
mod fold;
mod follower;
mod forward;
mod leader;

mod dispatch;
mod post;
mod slot;
mod specs;
mod stored;
mod trace;
mod upkeep;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{AppendError, BusError, Fabric, LogError};
use wasmill_protocol::command::Refusal;
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::{Digest, LogSeq, Term};
use wasmill_record::RecordError;
use wasmill_scheduler_core::CoreConfig;
use wasmill_scheduler_node::leading::{End, Loss};
pub use wasmill_scheduler_node::upkeep::{SnapshotConfig, SnapshotConfigError};

use crate::clock::{self, Clock};
use crate::directory::Directory;
use crate::finals::Finals;
use crate::handle::{Handle, REQUESTS_WAITING_MAX, Request, Shared, Standing};
use crate::metrics::Metrics;
use crate::progress::ProgressBoard;
use crate::read_model::{CopyError, ReadModel};
pub use crate::snapshot::LoadError;

use fold::Fold;
use follower::Follower;
use forward::ForwarderHandle;
pub(crate) use forward::SharedForwards;
use leader::Leader;

/// Settings of the driver.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The name of this node.
    pub node: String,
    /// Settings of the core.
    pub core: CoreConfig,
    /// How often snapshots are taken.
    pub snapshots: SnapshotConfig,
    /// Together with the term, seeds the jitter and the nonces of one leadership; drawn anew for every process.
    pub seed: u64,
}

/// Why the driver stopped. The process stops with it.
#[derive(Debug, Error)]
pub enum DriverError {
    /// The storage failed; nothing is known any more about what is durable.
    #[error("cannot go on after the log failed")]
    Append(#[from] AppendError),
    /// The log cannot be read.
    #[error("cannot read the log")]
    Log(#[from] LogError),
    /// A record of the log cannot be used.
    #[error("cannot use the log")]
    Record(#[from] RecordError),
    /// A record is not the one that its successor was chained to.
    #[error(
        "record {seq} of the log does not follow from the one before it: the log was changed or lost records; restore it from a backup"
    )]
    Chain {
        /// The record whose `prev_hash` is wrong.
        seq: LogSeq,
    },
    /// A record is not the one that a snapshot was taken after.
    #[error(
        "record {seq} of the log is not the one that the snapshot was taken after: the log was changed; restore it from a backup"
    )]
    Changed {
        /// Which record.
        seq: LogSeq,
    },
    /// The log was trimmed, and the newest snapshot cannot be used, nor can one before it.
    #[error(
        "the log begins at record {first}, and the snapshot up to record {seq} cannot be used: restore blob {digest} from a backup"
    )]
    SnapshotUnusable {
        /// The blob of the newest one.
        digest: Digest,
        /// What it holds.
        seq: LogSeq,
        /// Where the log begins.
        first: LogSeq,
        /// Why not.
        source: LoadError,
    },
    /// The log was trimmed, and no record names a snapshot.
    #[error("the log begins at record {first}, and no snapshot leads up to it: restore it from a backup")]
    NoSnapshot {
        /// Where the log begins.
        first: LogSeq,
    },
    /// The log was trimmed beyond what the read model has, and its copy cannot be used.
    #[error(
        "the log begins at record {first}, and the copy of the read model up to record {seq} cannot be used: restore blob {digest} from a backup"
    )]
    ReadModelUnusable {
        /// The copy's blob.
        digest: Digest,
        /// What it holds.
        seq: LogSeq,
        /// Where the log begins.
        first: LogSeq,
        /// Why not.
        source: CopyError,
    },
    /// The log was trimmed beyond what the read model has, and no record names a copy that leads up to it.
    #[error(
        "the log begins at record {first}, the read model ends at record {position}, and no copy fills the gap: restore a backup"
    )]
    NoReadModel {
        /// Where the read model ends.
        position: LogSeq,
        /// Where the log begins.
        first: LogSeq,
    },
    /// The log ends before what the read model has taken from it.
    #[error(
        "the log ends at record {last}, and record {seen} was there before: the log lost its end; restore it from a backup"
    )]
    Shortened {
        /// Where the log ends.
        last: LogSeq,
        /// Where it ended at least.
        seen: LogSeq,
    },
    /// The election service went back in time.
    #[error(
        "the new term {term} is not above the term {seen} of the log: the election service was restored from an old backup"
    )]
    TermRegressed {
        /// What the election gave.
        term: Term,
        /// What the log holds.
        seen: Term,
    },
    /// A record was appended by somebody who did not lead.
    #[error(
        "record {seq} of the log is of term {found}, but term {current} had begun: the log was changed; restore it from a backup"
    )]
    TermMixed {
        /// Which record.
        seq: LogSeq,
        /// Its term.
        found: Term,
        /// The term that had begun.
        current: Term,
    },
    /// The bus refused a subscription.
    #[error("cannot listen to hosts")]
    Bus(#[from] BusError),
}

/// Owns the core while this node leads.
pub struct Driver {
    config: DriverConfig,
    fabric: Fabric,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// The last record that `shared` has taken in; survives leaderships.
    published: LogSeq,
}

impl Driver {
    /// A driver that does nothing yet, and the handle to it. `read_model` may be behind the log; [`Driver::run`] brings it
    /// up to date.
    pub fn new(config: DriverConfig, fabric: Fabric, read_model: Arc<ReadModel>) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (standing, _) = watch::channel(Standing { node: config.node.clone(), ..Standing::default() });
        let shared = Arc::new(Shared {
            directory: Directory::new(),
            read_model,
            finals: Finals::new(),
            progress: ProgressBoard::default(),
            blobs: Arc::clone(&fabric.blobs),
            log: Arc::clone(&fabric.log),
            clock: Clock::start(fabric.log.servers_time().is_none()),
            metrics: Metrics::default(),
            standing,
            published: watch::Sender::new(LogSeq(0)),
            forwards: SharedForwards::new(&*fabric.bus, config.seed),
            command_bytes_max: command_bytes_max(&fabric),
            log_asked: Mutex::default(),
        });
        let handle = Handle { requests: sender, shared: Arc::clone(&shared) };
        (Self { config, fabric, shared, requests, published: LogSeq(0) }, handle)
    }

    /// Follows, leads when elected, and follows again, until `shutdown`.
    ///
    /// # Errors
    ///
    /// When going on would be wrong: the storage failed, or the log is damaged.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), DriverError> {
        let (shared, log) = (Arc::clone(&self.shared), Arc::clone(&self.fabric.log));
        let forwarder = forward::begin(Arc::clone(&self.fabric.bus), Arc::clone(&shared), self.config.seed);
        tokio::select! {
            ended = self.follow_and_lead(&forwarder, shutdown) => ended,
            never = clock::keep(&shared.clock, &*log) => match never {},
        }
    }

    async fn follow_and_lead(
        mut self,
        forwarder: &ForwarderHandle,
        shutdown: CancellationToken,
    ) -> Result<(), DriverError> {
        let mut pause = NO_SPACE_PAUSE_MIN;
        let mut log_found = false;
        loop {
            // Anew after every leadership: what the core had decided and the log does not hold is gone with it.
            let Some(fold) = self.begin(&shutdown).await? else { return Ok(()) };
            if !std::mem::replace(&mut log_found, true) {
                let (shared, log) = (Arc::clone(&self.shared), Arc::clone(&self.fabric.log));
                while !clock::ask_servers(&shared.clock, &*log).await {
                    self.refuse_while(&Refusal::NotLeader, tokio::time::sleep(LOG_RETRY), &shutdown).await;
                    if shutdown.is_cancelled() {
                        return Ok(());
                    }
                }
                self.shared.clock.log_found(fold.state.led());
            }
            let follower = Follower::new(&self.config, &self.fabric, &self.shared, forwarder, fold);
            let followed = follower.follow(&mut self.requests, &mut self.published, &shutdown).await;
            let (fold, leadership) = match followed {
                Ok(Some(elected)) => elected,
                Ok(None) => return Ok(()),
                Err(DriverError::Log(LogError::Missing { seq })) if self.was_trimmed(seq).await? => {
                    tracing::warn!(%seq, "the log was trimmed before this node had read it: it begins anew with a snapshot");
                    continue;
                }
                Err(error) => return Err(error),
            };
            self.shared.metrics.elected();
            let leader = Leader::new(&self.config, &self.fabric, &self.shared, fold, leadership.term)?;
            let led = leader.lead(&mut self.requests, &mut self.published, &leadership, &shutdown).await;
            self.shared.clock.end_term();
            self.shared.standing.send_modify(|standing| {
                standing.leading = false;
                standing.leader = None;
            });
            self.shared.metrics.leadership_ended(reason(&led));
            // Others need not wait for the lease to end by itself.
            leadership.lease.release().await;
            let led = match led {
                Err(DriverError::Bus(error)) => {
                    tracing::warn!(%error, "cannot lead without hearing of hosts");
                    End::Lost(Loss::Refused)
                }
                led => led?,
            };
            match led {
                End::Shutdown => return Ok(()),
                End::Lost(_) => pause = NO_SPACE_PAUSE_MIN,
                End::NoSpace => {
                    tracing::error!(
                        retry_s = pause.as_secs(),
                        "the disk is full: nothing is accepted until there is space"
                    );
                    self.shared.standing.send_modify(|standing| standing.no_space = true);
                    let log = Arc::clone(&self.fabric.log);
                    let room = async move {
                        loop {
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(NO_SPACE_PAUSE_MAX);
                            if log.has_room().await {
                                return pause;
                            }
                        }
                    };
                    pause = self.refuse_while(&Refusal::NoSpace, room, &shutdown).await.unwrap_or(pause);
                }
            }
        }
    }

    /// The beginning of the log, as soon as it can be reached; `None` when asked to stop before.
    async fn begin(&mut self, shutdown: &CancellationToken) -> Result<Option<Fold>, DriverError> {
        loop {
            match Fold::begin(&self.fabric, &self.shared, &mut self.published).await {
                Ok(fold) => {
                    self.shared.note_log(true);
                    return Ok(Some(fold));
                }
                Err(DriverError::Log(LogError::Unreachable { action, reason })) => {
                    self.shared.note_log(false);
                    tracing::warn!(%reason, "cannot {action} the log, trying again");
                }
                Err(DriverError::Log(LogError::Missing { seq })) if self.was_trimmed(seq).await? => {
                    tracing::warn!(%seq, "the log was trimmed while this node looked where to begin, trying again");
                }
                Err(error) => return Err(error),
            }
            self.refuse_while(&Refusal::NotLeader, tokio::time::sleep(LOG_RETRY), shutdown).await;
            if shutdown.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Whether a record is missing because nobody needs it any more who starts with a snapshot.
    async fn was_trimmed(&self, seq: LogSeq) -> Result<bool, DriverError> {
        Ok(self.fabric.log.first_seq().await? > seq)
    }

    /// Refuses everything until `over`; `None` when asked to stop before.
    async fn refuse_while<T>(
        &mut self,
        refusal: &Refusal,
        over: impl Future<Output = T>,
        shutdown: &CancellationToken,
    ) -> Option<T> {
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                over = &mut over => return Some(over),
                request = self.requests.recv() => match request {
                    Some(request) => forward::refuse(request, refusal),
                    None => return None,
                },
            }
        }
    }
}

/// Why a leadership ended, as metrics name it.
fn reason(ended: &Result<End, DriverError>) -> &'static str {
    match ended {
        Ok(End::Shutdown) => "shutdown",
        Ok(End::Lost(_)) => "lost",
        Ok(End::NoSpace) => "no_space",
        Err(_) => "failed",
    }
}

/// What a command may take, so that a record can hold what it does, and a message to another node or to a host as well.
fn command_bytes_max(fabric: &Fabric) -> usize {
    /// For what goes along: a checkpoint, and what is around the task.
    const ALONG_BYTES: usize = INLINE_BYTES_MAX as usize + 4 * 1024;
    fabric.log.record_bytes_max().min(fabric.bus.payload_bytes_max()).saturating_sub(ALONG_BYTES)
}

/// The wait before a log that cannot be reached is tried again.
const LOG_RETRY: Duration = Duration::from_millis(500);
/// How long the first full disk is waited out.
const NO_SPACE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long a disk that stays full is waited out between two tries.
const NO_SPACE_PAUSE_MAX: Duration = Duration::from_secs(5);
