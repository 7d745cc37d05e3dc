//! The loop around the core: what happens goes in, what follows is appended, and once it is durable it takes effect.
//!
//! Nothing is decided here. A refused append is never undone: leadership ends, the core is dropped, and the next
//! leadership rebuilds it from the log.

mod fold;
mod follower;
mod forward;
mod leader;

mod dispatch;
mod specs;
mod waits;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{AppendError, Blobs, Bus, BusError, Log, LogError, Membership};
use wasmill_protocol::command::Refusal;
use wasmill_protocol::record::RecordError;
use wasmill_protocol::{LogSeq, Term};
use wasmill_scheduler_core::CoreConfig;

use crate::clock::Clock;
use crate::directory::Directory;
use crate::finals::Finals;
use crate::handle::{Handle, REQUESTS_WAITING_MAX, Request, Shared, Standing};
use crate::progress::ProgressBoard;
use crate::read_model::ReadModel;

use fold::Fold;
use follower::Follower;
use leader::Leader;

/// What the driver stands on.
#[derive(Clone)]
pub struct Ground {
    /// The log.
    pub log: Arc<dyn Log>,
    /// Payloads, results and modules.
    pub blobs: Arc<dyn Blobs>,
    /// Messages to and from hosts.
    pub bus: Arc<dyn Bus>,
    /// Elections and hosts.
    pub membership: Arc<dyn Membership>,
}

/// Settings of the driver.
#[derive(Debug, Clone)]
pub struct DriverConfig {
    /// The name of this node.
    pub node: String,
    /// Settings of the core.
    pub core: CoreConfig,
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

/// How a leadership ended without an error.
enum LeadershipEnd {
    /// We were asked to stop.
    Shutdown,
    /// Somebody else leads, or the lease is gone.
    Lost,
    /// The disk is full: lead again when there is space.
    NoSpace,
}

/// Owns the core while this node leads.
pub struct Driver {
    config: DriverConfig,
    ground: Ground,
    shared: Arc<Shared>,
    requests: mpsc::Receiver<Request>,
    /// The last record that `shared` has taken in; survives leaderships.
    published: LogSeq,
}

impl Driver {
    /// A driver that does nothing yet, and the handle to it. `read_model` may be behind the log; [`Driver::run`] brings it
    /// up to date.
    pub fn new(config: DriverConfig, ground: Ground, read_model: Arc<ReadModel>) -> (Self, Handle) {
        let (sender, requests) = mpsc::channel(REQUESTS_WAITING_MAX);
        let (standing, _) = watch::channel(Standing { node: config.node.clone(), ..Standing::default() });
        let shared = Arc::new(Shared {
            directory: Directory::new(),
            read_model,
            finals: Finals::new(),
            progress: ProgressBoard::default(),
            blobs: Arc::clone(&ground.blobs),
            clock: Clock::start(),
            standing,
            published: watch::Sender::new(LogSeq(0)),
        });
        let handle = Handle { requests: sender, shared: Arc::clone(&shared) };
        (Self { config, ground, shared, requests, published: LogSeq(0) }, handle)
    }

    /// Follows, leads when elected, and follows again, until `shutdown`.
    ///
    /// # Errors
    ///
    /// When going on would be wrong: the storage failed, or the log is damaged.
    pub async fn run(mut self, shutdown: CancellationToken) -> Result<(), DriverError> {
        let mut pause = NO_SPACE_PAUSE_MIN;
        loop {
            // Anew after every leadership: what the core had decided and the log does not hold is gone with it.
            let Some(fold) = self.begin(&shutdown).await? else { return Ok(()) };
            let follower = Follower::new(&self.config, &self.ground, &self.shared, fold);
            let followed = follower.follow(&mut self.requests, &mut self.published, &shutdown).await?;
            let Some((fold, leadership)) = followed else { return Ok(()) };
            let leader = Leader::new(&self.config, &self.ground, &self.shared, fold, leadership.term)?;
            let led = leader.lead(&mut self.requests, &mut self.published, &leadership, &shutdown).await;
            self.shared.standing.send_modify(|standing| {
                standing.leading = false;
                standing.leader = None;
            });
            // Others need not wait for the lease to end by itself.
            leadership.lease.release().await;
            match led? {
                LeadershipEnd::Shutdown => return Ok(()),
                LeadershipEnd::Lost => pause = NO_SPACE_PAUSE_MIN,
                LeadershipEnd::NoSpace => {
                    tracing::error!(
                        retry_s = pause.as_secs(),
                        "the disk is full: nothing is accepted until there is space"
                    );
                    self.shared.standing.send_modify(|standing| standing.no_space = true);
                    self.refuse_while(&Refusal::NoSpace, tokio::time::sleep(pause), &shutdown).await;
                    pause = (pause * 2).min(NO_SPACE_PAUSE_MAX);
                }
            }
        }
    }

    /// The beginning of the log, as soon as it can be reached; `None` when asked to stop before.
    async fn begin(&mut self, shutdown: &CancellationToken) -> Result<Option<Fold>, DriverError> {
        loop {
            match Fold::begin(&*self.ground.log, &self.shared).await {
                Ok(fold) => return Ok(Some(fold)),
                Err(DriverError::Log(LogError::Unreachable { action, reason })) => {
                    tracing::warn!(%reason, "cannot {action} the log, trying again");
                }
                Err(error) => return Err(error),
            }
            self.refuse_while(&Refusal::NotLeader, tokio::time::sleep(LOG_RETRY), shutdown).await;
            if shutdown.is_cancelled() {
                return Ok(None);
            }
        }
    }

    /// Refuses everything until `over`.
    async fn refuse_while(&mut self, refusal: &Refusal, over: impl Future<Output = ()>, shutdown: &CancellationToken) {
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut over => return,
                request = self.requests.recv() => match request {
                    Some(request) => forward::refuse(request, refusal),
                    None => return,
                },
            }
        }
    }
}

/// The wait before a log that cannot be reached is tried again.
const LOG_RETRY: Duration = Duration::from_millis(500);
/// How long the first full disk is waited out.
const NO_SPACE_PAUSE_MIN: Duration = Duration::from_secs(1);
/// How long a disk that stays full is waited out between two tries.
const NO_SPACE_PAUSE_MAX: Duration = Duration::from_secs(30);
