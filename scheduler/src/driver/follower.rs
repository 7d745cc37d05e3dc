//! A control node that does not lead: it folds the log as it grows, forwards what its clients ask,
//! and stands for election when [`Following`] says so.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Bus, Leadership, LogError, LogTail, Subscription};
use wasmill_protocol::LogSeq;
use wasmill_protocol::command::Refusal;
use wasmill_protocol::message::{Heartbeat, subjects};
use wasmill_scheduler_node::Following;
use wasmill_scheduler_node::following::{self, Action, GivenUp, Input, Presence};
use wasmill_scheduler_node::watch::Question;

use super::fold::Fold;
use super::forward::{self, ForwarderHandle, PresenceAsker};
use wasmill_fabric::Fabric;

use super::{DriverConfig, DriverError, slot};
use crate::handle::{Request, Shared};

/// Requests that are taken at once.
const REQUESTS_AT_ONCE: usize = 256;
/// Heartbeats that wait at most; only the newest of each host matters.
const HEARTBEATS_WAITING_MAX: usize = 1024;
/// The wait before the log or the election is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Follower<'a> {
    config: &'a DriverConfig,
    fabric: &'a Fabric,
    shared: &'a Arc<Shared>,
    fold: Fold,
    forwarder: &'a ForwarderHandle,
    following: Following,
    began: Instant,
    presences: PresenceAsker,
    /// While this node stands for election; dropped it is withdrawn.
    campaign: Option<BoxFuture<'static, Leadership>>,
    /// While it is elected.
    leadership: Option<Leadership>,
    log_asked: Option<BoxFuture<'static, (Question, Result<LogSeq, LogError>)>>,
    leader_asked: Option<BoxFuture<'static, (Question, Presence)>>,
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
        let beginning = following::Beginning {
            last: fold.chain.last,
            term: fold.state.term(),
            end: fold.end,
            clock_is_believed: shared.clock.may_lead(),
        };
        Self {
            config,
            fabric,
            shared,
            fold,
            forwarder,
            following: Following::new(following::Config::default(), beginning, 0),
            began: Instant::now(),
            presences: PresenceAsker::new(Arc::clone(&fabric.bus), config.seed),
            campaign: None,
            leadership: None,
            log_asked: None,
            leader_asked: None,
        }
    }

    /// Follows until this node is elected and has read the log to its end; `None` when it is to
    /// stop.
    pub(super) async fn follow(
        mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        shutdown: &CancellationToken,
    ) -> Result<Option<(Fold, Leadership)>, DriverError> {
        let mut asked = Vec::new();
        let mut tail = self.fabric.log.tail(self.fold.chain.last.next());
        let mut heartbeats = Heartbeats::listen(Arc::clone(&self.fabric.bus)).await;
        let mut clock = self.shared.clock.verdicts();
        loop {
            if let Some(leadership) = self.carry_out().await? {
                return Ok(Some((self.fold, leadership)));
            }
            let read_model = &self.shared.read_model;
            let behind = read_model.lagging();
            let next = self.began + Duration::from_micros(self.following.next_timeout_us());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                leadership = slot::ready(&mut self.campaign) => {
                    let term = leadership.term;
                    self.leadership = Some(leadership);
                    self.tell(Input::Elected(term));
                }
                () = lost(&mut self.leadership) => self.tell(Input::SeatLost),
                // Meanwhile its clients can be answered by the leader.
                () = read_model.caught_up(), if behind => {}
                next = tail.next(), if !behind => match next {
                    Some(Ok((seq, bytes))) => {
                        self.fold.take(seq, &bytes, self.shared, published).await?;
                        self.read();
                    }
                    Some(Err(LogError::Unreachable { .. })) => {
                        tail = self.tail_later();
                        self.tell(Input::ReadFailed);
                    }
                    None => tail = self.tail_later(),
                    Some(Err(error)) => return Err(error.into()),
                },
                (question, end) = slot::ready(&mut self.log_asked) => self.log_ends(question, end)?,
                (question, presence) = slot::ready(&mut self.leader_asked) => {
                    self.tell(Input::LeaderAsked { question, presence });
                }
                Ok(()) = clock.changed() => {
                    let is_believed = self.shared.clock.may_lead();
                    self.tell(Input::Clock { is_believed });
                }
                count = requests.recv_many(&mut asked, REQUESTS_AT_ONCE) => {
                    if count == 0 { return Ok(None); }
                    asked.drain(..).for_each(|request| self.asked(request));
                }
                heartbeat = heartbeats.next() => self.shared.progress.heard(&heartbeat),
                () = tokio::time::sleep_until(next) => self.tell(Input::Tick),
            }
        }
    }

    fn tell(&mut self, input: Input) {
        let now_us = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.following.step(now_us, input);
    }

    /// A record was taken in.
    fn read(&mut self) {
        if self.fold.is_caught_up() && !self.following.is_catching_up() {
            self.shared.clock.leader_told(self.fold.state.time());
        }
        let (last, term) = (self.fold.chain.last, self.fold.state.term());
        self.tell(Input::Read { last, term });
    }

    /// The log has said where it ends, or has not.
    fn log_ends(&mut self, question: Question, end: Result<LogSeq, LogError>) -> Result<(), DriverError> {
        let end = match end {
            Ok(end) => Some(end),
            Err(error @ LogError::Unreachable { .. }) => {
                tracing::debug!(%error, "the log does not say where it ends");
                None
            }
            Err(error) => return Err(error.into()),
        };
        self.tell(Input::LogEnds { question, end });
        Ok(())
    }

    /// Does what the machine says; the leadership that begins, if one does.
    async fn carry_out(&mut self) -> Result<Option<Leadership>, DriverError> {
        for action in self.following.take_ready() {
            match action {
                Action::AskLog(question) => {
                    let log = Arc::clone(&self.fabric.log);
                    self.log_asked = Some(async move { (question, log.last_seq().await) }.boxed());
                }
                Action::AskLeader(question, term) => {
                    let presences = self.presences.clone();
                    self.leader_asked = Some(async move { (question, presences.presence(term).await) }.boxed());
                }
                Action::Stand => self.campaign = Some(self.campaign().boxed()),
                Action::Withdraw => self.campaign = None,
                Action::Release(reason) => self.release(reason).await,
                Action::Lead(_) => return Ok(self.leadership.take()),
                Action::Halt { term, seen } => return Err(DriverError::TermRegressed { term, seen }),
                Action::TellLog { answers } => {
                    match answers {
                        true => tracing::info!("the log is back"),
                        false => tracing::warn!("the log is out of reach"),
                    }
                    self.shared.note_log(answers);
                }
                Action::TellLeader { answers: Some(term) } => self.shared.leader_answers(term),
                Action::TellLeader { answers: None } => self.shared.nobody_leads(),
            }
        }
        Ok(None)
    }

    /// This node was elected and does not lead.
    async fn release(&mut self, reason: GivenUp) {
        let Some(leadership) = self.leadership.take() else { return };
        let (term, seen, at) = (leadership.term, self.fold.state.term(), self.fold.chain.last);
        match reason {
            GivenUp::SeatLost => tracing::warn!(%term, "elected, and the lease has ended before the log was read"),
            GivenUp::LogUnreachable => tracing::warn!(%term, "elected, but the log cannot be read"),
            GivenUp::TooSlow => tracing::warn!(%term, %at, "elected, but the log could not be read to its end in time"),
            GivenUp::Overtaken => tracing::warn!(%term, %seen, "elected, and somebody else was elected since"),
            GivenUp::Clock => tracing::warn!(%term, "elected, but the clock of this machine is not believed"),
        }
        leadership.lease.release().await;
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

/// Ends when the lease of an elected node is lost.
async fn lost(leadership: &mut Option<Leadership>) {
    match leadership {
        // What it yields must not be held while something else is waited for.
        Some(leadership) => drop(leadership.lost.wait_for(|lost| *lost).await),
        None => std::future::pending().await,
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
