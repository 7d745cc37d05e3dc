//! A control node that does not lead: it folds the log as it grows, forwards what its clients ask, and waits to be elected.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Bus, Leadership, LogError, LogTail, Subscription};
use wasmill_protocol::command::Refusal;
use wasmill_protocol::message::{Heartbeat, subjects};
use wasmill_protocol::{LogSeq, Term};

use super::fold::Fold;
use super::forward::{self, ForwarderHandle, PresenceAsker};
use super::leader_watch::{LeaderNews, LeaderWatch};
use super::log_watch::{LogNews, LogWatch};
use wasmill_fabric::Fabric;

use super::{DriverConfig, DriverError};
use crate::handle::{Request, Shared};

/// Requests that are taken at once.
const REQUESTS_AT_ONCE: usize = 256;
/// Heartbeats that wait at most; only the newest of each host matters.
const HEARTBEATS_WAITING_MAX: usize = 1024;
/// The wait before the log or the election is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long an elected node may take to read what is left of the log before it lets others try.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Follower<'a> {
    config: &'a DriverConfig,
    fabric: &'a Fabric,
    shared: &'a Arc<Shared>,
    fold: Fold,
    forwarder: &'a ForwarderHandle,
}

impl<'a> Follower<'a> {
    /// Follows the log from where `fold` stands.
    pub(super) fn new(
        config: &'a DriverConfig,
        fabric: &'a Fabric,
        shared: &'a Arc<Shared>,
        forwarder: &'a ForwarderHandle,
        fold: Fold,
    ) -> Self {
        Self { config, fabric, shared, fold, forwarder }
    }

    /// Follows until this node is elected and has read the log to its end; `None` when it is to stop.
    pub(super) async fn follow(
        mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        shutdown: &CancellationToken,
    ) -> Result<Option<(Fold, Leadership)>, DriverError> {
        let mut asked = Vec::new();
        let mut tail = self.fabric.log.tail(self.fold.chain.last.next());
        let mut heartbeats = Heartbeats::listen(Arc::clone(&self.fabric.bus)).await;
        let mut log_watch = LogWatch::new(&*self.fabric.log);
        let presences = PresenceAsker::new(Arc::clone(&self.fabric.bus), self.config.seed);
        let mut leader_watch = LeaderWatch::new(presences, self.fold.state.term());
        let mut stood_after = self.fold.state.term();
        let mut clock = self.shared.clock.verdicts();
        let campaign = self.campaign();
        tokio::pin!(campaign);
        loop {
            // Who cannot read the log cannot lead, nor can who does not know the time, and they would only keep others from it.
            let read_model = &self.shared.read_model;
            let behind = read_model.lagging();
            let may_stand =
                self.fold.is_caught_up() && !self.shared.standing.borrow().log_silent && self.shared.clock.may_lead();
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                leadership = &mut campaign, if may_stand => {
                    self.shared.nobody_leads();
                    let caught_up = self.catch_up(&leadership, published).await?;
                    if caught_up && self.shared.clock.may_lead() && self.may_lead(leadership.term, stood_after)? {
                        return Ok(Some((self.fold, leadership)));
                    }
                    leadership.lease.release().await;
                    stood_after = self.fold.state.term();
                    campaign.set(self.campaign());
                    tail = self.fabric.log.tail(self.fold.chain.last.next());
                }
                // Meanwhile its clients can be answered by the leader.
                () = read_model.caught_up(), if behind => {}
                next = tail.next(), if !behind => match next {
                    Some(Ok((seq, bytes))) => {
                        self.fold.take(seq, &bytes, self.shared, published).await?;
                        if self.fold.is_caught_up() {
                            self.shared.clock.leader_told(self.fold.state.time());
                        }
                        log_watch.heard();
                        leader_watch.note_term(self.fold.state.term());
                        self.shared.note_log(true);
                    }
                    Some(Err(LogError::Unreachable { .. })) | None => tail = self.tail_later(),
                    Some(Err(error)) => return Err(error.into()),
                },
                news = log_watch.news() => match news {
                    LogNews::EndsAt(_) => self.shared.note_log(true),
                    LogNews::Silent => {}
                    LogNews::Gone => {
                        self.shared.note_log(false);
                        // Given up, it is withdrawn: nobody is to be elected who would not notice.
                        campaign.set(self.campaign());
                    }
                },
                news = leader_watch.news() => match news {
                    LeaderNews::Answers(term) => self.shared.leader_answers(term),
                    LeaderNews::Silent => {}
                    LeaderNews::Gone => self.shared.nobody_leads(),
                },
                Ok(()) = clock.changed() => if !self.shared.clock.may_lead() {
                    // Withdrawn: somebody is to be elected who can lead.
                    campaign.set(self.campaign());
                },
                count = requests.recv_many(&mut asked, REQUESTS_AT_ONCE) => {
                    if count == 0 { return Ok(None); }
                    asked.drain(..).for_each(|request| self.asked(request));
                }
                heartbeat = heartbeats.next() => self.shared.progress.heard(&heartbeat),
            }
        }
    }

    /// Somebody wants something that only a leader can do.
    fn asked(&self, request: Request) {
        let alone = self.fabric.log.servers_time().is_none();
        if alone && self.shared.standing.borrow().no_space {
            forward::refuse(request, &Refusal::NoSpace);
        } else {
            self.forwarder.forward(request);
        }
    }

    /// Reads the log to its end. Whether that could be done while the lease was held.
    async fn catch_up(&mut self, leadership: &Leadership, published: &mut LogSeq) -> Result<bool, DriverError> {
        let mut lost = leadership.lost.clone();
        let log = &*self.fabric.log;
        let read = async {
            let last = log.last_seq().await?;
            self.fold.read_to(last, log, self.shared, published).await
        };
        let read = tokio::select! {
            read = tokio::time::timeout(CATCH_UP_PATIENCE, read) => read,
            () = LogWatch::new(log).gone() => return Ok(false),
            _ = lost.wait_for(|lost| *lost) => {
                tracing::warn!(term = %leadership.term, "elected, and the lease has ended before the log was read");
                return Ok(false);
            }
        };
        match read {
            Ok(Ok(())) => Ok(true),
            Ok(Err(DriverError::Log(LogError::Unreachable { action, reason }))) => {
                tracing::warn!(%reason, "elected, but cannot {action} the log");
                tokio::time::sleep(RETRY).await;
                Ok(false)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::warn!(at = %self.fold.chain.last, "elected, but the log could not be read to its end in time");
                Ok(false)
            }
        }
    }

    /// Whether a term is above that of everybody who has led. Who was elected and then was slow may find that others were elected after it, and
    /// stands again. But an election can give no term that the log had seen before this node stood for it.
    fn may_lead(&self, term: Term, stood_after: Term) -> Result<bool, DriverError> {
        let seen = self.fold.state.term();
        if term <= stood_after {
            return Err(DriverError::TermRegressed { term, seen });
        }
        if term <= seen {
            tracing::warn!(%term, %seen, "elected, and somebody else was elected since");
        }
        Ok(term > seen)
    }

    /// The tail from where we are, after a while.
    fn tail_later(&self) -> LogTail {
        let (log, from) = (Arc::clone(&self.fabric.log), self.fold.chain.last.next());
        stream::once(async move {
            tokio::time::sleep(RETRY).await;
            log.tail(from)
        })
        .flatten()
        .boxed()
    }

    /// Campaigns until it is won, from the first poll on and until it is dropped.
    fn campaign(&self) -> impl Future<Output = Leadership> + use<> {
        let (membership, node) = (Arc::clone(&self.fabric.membership), self.config.node.clone());
        async move {
            loop {
                match membership.campaign(&node).await {
                    Ok(leadership) => return leadership,
                    Err(error) => tracing::warn!(%error, "cannot take part in the election, trying again"),
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Heartbeats tell how far tasks are. Without them only that is missing.
struct Heartbeats {
    bus: Arc<dyn Bus>,
    subscription: Option<Subscription>,
    /// Whether it was said that some cannot be read.
    told: bool,
}

impl Heartbeats {
    async fn listen(bus: Arc<dyn Bus>) -> Self {
        let mut heartbeats = Self { bus, subscription: None, told: false };
        heartbeats.subscribe().await;
        heartbeats
    }

    async fn subscribe(&mut self) {
        let subscribed = self.bus.subscribe(subjects::HEARTBEATS, HEARTBEATS_WAITING_MAX).await;
        self.subscription = subscribed.inspect_err(|error| tracing::warn!(%error, "cannot listen to heartbeats")).ok();
    }

    /// The next one that can be read.
    async fn next(&mut self) -> Heartbeat {
        loop {
            let message = match &mut self.subscription {
                Some(subscription) => subscription.recv().await,
                None => None,
            };
            let Some(message) = message else {
                self.subscription = None;
                tokio::time::sleep(RETRY).await;
                self.subscribe().await;
                continue;
            };
            match message.content.read() {
                Ok(heartbeat) => return heartbeat,
                // A host of another version sends nothing else, once a second.
                Err(error) if !std::mem::replace(&mut self.told, true) => {
                    let subject = message.subject;
                    tracing::warn!(subject, %error, "a host's heartbeat is not readable, which is said once");
                }
                Err(_) => {}
            }
        }
    }
}
