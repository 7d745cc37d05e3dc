//! The handle that everything but the driver holds: ask the leader, look things up, wait for an
//! end.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use wasmill_fabric::{Blobs, Log};
use wasmill_protocol::command::{Command, Done, Overload, Refusal};
use wasmill_protocol::{LogSeq, TaskId, Term};

use crate::clock::Clock;
use crate::directory::Directory;
use crate::driver::SharedForwards;
use crate::finals::Finals;
use crate::metrics::Metrics;
use crate::progress::ProgressBoard;
use crate::read_model::ReadModel;

pub use wasmill_scheduler_core::io::{BenchedPolicy, HostView, QueueDepth, Waiting};
pub use wasmill_scheduler_core::state::Load;
use wasmill_scheduler_node::command_bytes;
pub use wasmill_scheduler_node::leading::Overview;

/// How many requests wait for the driver at most; further callers are told to come back.
pub const REQUESTS_WAITING_MAX: usize = 4096;

/// Commands of one batch at most.
pub const BATCH_COMMANDS_MAX: usize = 4096;

/// How long a question to the leader may take, and a wait for a record.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the log may take to say where it ends.
const LOG_END_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two questions where the log ends: whoever asks for what is nowhere, with whatever token,
/// costs no more than these.
const LOG_END_INTERVAL: Duration = Duration::from_millis(20);

/// How long a client is told to wait when the driver's queue is full.
const RETRY_MS: u64 = 500;

/// The way to the driver and to what it publishes. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) shared: Arc<Shared>,
}

/// The state that the driver publishes and everybody reads.
pub struct Shared {
    /// Tenants, tokens, modules and aliases.
    pub directory: Directory,
    /// Tasks.
    pub read_model: Arc<ReadModel>,
    /// The clients that wait for the end of a task.
    pub finals: Finals,
    /// How far running tasks say they are.
    pub progress: ProgressBoard,
    /// Payloads, results and modules.
    pub blobs: Arc<dyn Blobs>,
    /// Asked where it ends, and nothing else.
    pub(crate) log: Arc<dyn Log>,
    /// The time that events carry.
    pub clock: Clock,
    /// The metrics of this process.
    pub metrics: Metrics,
    /// Where this node stands; changes with leadership.
    pub standing: watch::Sender<Standing>,
    /// The last record that readers of this node see.
    pub published: watch::Sender<LogSeq>,
    /// Requests that are forwarded to leaders.
    pub(crate) forwards: SharedForwards,
    /// The largest command.
    pub(crate) command_bytes_max: usize,
    /// When the log was last asked where it ends, and whether this node has read as far since;
    /// locked meanwhile.
    pub(crate) log_asked: Mutex<Option<(Instant, Result<(), Unreached>)>>,
}

/// Where this node stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// This node.
    pub node: String,
    /// The leader, if one answers this node.
    pub leader: Option<String>,
    /// The leader's term.
    pub term: Term,
    /// The record that began it, or a later one.
    pub began: LogSeq,
    /// The node that began it.
    pub began_by: String,
    /// Whether this node leads and answers commands.
    pub leading: bool,
    /// Whether this node has once seen the log up to where it ended when the node began.
    pub caught_up: bool,
    /// Set while nothing can be written because the disk is full.
    pub no_space: bool,
    /// Set while the log does not answer: what this node shows may be old.
    pub log_silent: bool,
}

/// This node cannot tell whether it shows everything that anybody has been answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreached {
    /// The log does not say where it ends.
    LogSilent,
    /// The log goes on, and this node has not read it in time.
    Behind,
}

/// A request to the driver.
pub(crate) enum Request {
    /// Decide these; the answers come in the same order.
    Commands(Vec<Command>, oneshot::Sender<Vec<Answer>>),
    /// Decide this one.
    Command(Box<Command>, oneshot::Sender<Answer>),
    /// Would this be refused as things are?
    Check(Box<Command>, oneshot::Sender<Option<Refusal>>),
    /// Why do these not run? Unknown ones are left out.
    Explain(Vec<TaskId>, oneshot::Sender<Vec<Waiting>>),
    /// An overview.
    Overview(oneshot::Sender<Overview>),
    /// The tasks that wait and run. Nobody but the leader answers.
    Load(oneshot::Sender<Load>),
}

/// The answer to one command.
pub type Answer = Result<(LogSeq, Done), Refusal>;

impl Shared {
    /// How often leaders were asked something for clients of this node.
    pub fn calls_made(&self) -> u64 {
        self.forwards.with(|_, forwards| forwards.calls_made())
    }

    /// The leader of a term has answered this node.
    pub(crate) fn leader_answers(&self, term: Term) {
        self.standing.send_if_modified(|standing| {
            let news = standing.term == term && standing.leader.as_ref() != Some(&standing.began_by);
            if news {
                standing.leader = Some(standing.began_by.clone());
            }
            news
        });
    }

    /// Nobody leads, as far as this node is answered.
    pub(crate) fn nobody_leads(&self) {
        self.standing.send_if_modified(|standing| standing.leader.take().is_some());
    }

    /// Notes whether the log answers.
    pub(crate) fn note_log(&self, answers: bool) {
        let note = |standing: &mut Standing| std::mem::replace(&mut standing.log_silent, !answers) == answers;
        self.standing.send_if_modified(note);
    }
}

impl Handle {
    /// Asks the leader and waits until the answer is durable.
    ///
    /// # Errors
    ///
    /// The refusal, [`Refusal::TooLarge`] when no record could hold it, [`Refusal::Overloaded`]
    /// when the driver's queue is full, [`Refusal::NotLeader`] when nobody leads,
    /// [`Refusal::OutcomeUnknown`] when leadership was lost before the answer was durable: the
    /// command may have been done all the same.
    pub async fn command(&self, command: Command) -> Answer {
        if let Some(refusal) = self.too_large(&command) {
            return Err(refusal);
        }
        if adds_a_task(&command) && self.shared.read_model.lagging() {
            return Err(Refusal::Overloaded { what: Overload::ReadModel, retry_ms: RETRY_MS });
        }
        let (answer, answered) = oneshot::channel();
        self.send(Request::Command(Box::new(command), answer))?;
        answered.await.unwrap_or(Err(Refusal::OutcomeUnknown))
    }

    /// Asks many things at once, at most [`BATCH_COMMANDS_MAX`]; the answers come in the same
    /// order. Waits for room in the driver's queue, and with submissions for the read model to
    /// catch up, which is how a bulk submission is slowed down.
    pub async fn commands(&self, commands: Vec<Command>) -> Vec<Answer> {
        assert!(commands.len() <= BATCH_COMMANDS_MAX, "a batch has at most {BATCH_COMMANDS_MAX} commands");
        let refused: Vec<_> = commands.iter().map(|command| self.too_large(command)).collect();
        let fitting = commands.into_iter().zip(&refused).filter(|(_, refused)| refused.is_none());
        let mut answers = self.decided(fitting.map(|(command, _)| command).collect()).await.into_iter();
        let mut answer = |refused: Option<Refusal>| match refused {
            Some(refusal) => Err(refusal),
            None => answers.next().unwrap_or(Err(Refusal::OutcomeUnknown)),
        };
        refused.into_iter().map(&mut answer).collect()
    }

    async fn decided(&self, commands: Vec<Command>) -> Vec<Answer> {
        let count = commands.len();
        if commands.iter().any(adds_a_task) {
            self.shared.read_model.caught_up().await;
        }
        let (answer, answered) = oneshot::channel();
        if self.requests.send(Request::Commands(commands, answer)).await.is_err() {
            return vec![Err(Refusal::NotLeader); count];
        }
        answered.await.unwrap_or_else(|_| vec![Err(Refusal::OutcomeUnknown); count])
    }

    fn too_large(&self, command: &Command) -> Option<Refusal> {
        let (bytes, bytes_max) = (command_bytes::at_most(command), self.shared.command_bytes_max);
        (bytes > bytes_max).then_some(Refusal::TooLarge { bytes: bytes as u64, bytes_max: bytes_max as u64 })
    }

    /// Asks the leader whether it would refuse a command as things are, so that nothing need be
    /// stored for one that is refused. Nothing is done, and what is not refused here can be refused
    /// afterwards.
    ///
    /// # Errors
    ///
    /// The refusal that a command would get; [`Refusal::NotLeader`] when nobody leads.
    pub async fn check(&self, command: Command) -> Result<(), Refusal> {
        match self.ask(|answer| Request::Check(Box::new(command), answer)).await {
            Some(refusal) => refusal.map_or(Ok(()), Err),
            // A leader of the version before does not understand the question: the command itself
            // tells.
            None if self.shared.standing.borrow().leader.is_some() => Ok(()),
            None => Err(Refusal::NotLeader),
        }
    }

    /// Why tasks do not run. Tasks that are final or unknown are left out.
    pub async fn explain(&self, tasks: Vec<TaskId>) -> Vec<Waiting> {
        self.ask(|answer| Request::Explain(tasks, answer)).await.unwrap_or_default()
    }

    /// Hosts, queue depth and counters; `None` when the leader does not answer in time, and at once
    /// when none is known to answer.
    pub async fn overview(&self) -> Option<Overview> {
        let mut standing = self.shared.standing.subscribe();
        let nobody_leads = standing.wait_for(|standing| !standing.leading && standing.leader.is_none());
        tokio::select! {
            biased;
            _ = nobody_leads => None,
            overview = self.ask(Request::Overview) => overview,
        }
    }

    /// The tasks that wait and run; `None` when this node does not lead or does not answer in time.
    pub async fn load(&self) -> Option<Load> {
        self.ask(Request::Load).await
    }

    /// Waits until this node shows a record, for a bounded time; whether it does.
    pub async fn reach(&self, seq: LogSeq) -> bool {
        let mut published = self.shared.published.subscribe();
        tokio::time::timeout(ANSWER_TIMEOUT, published.wait_for(|last| *last >= seq)).await.is_ok()
    }

    /// The last record that this node shows.
    pub fn position(&self) -> LogSeq {
        *self.shared.published.borrow()
    }

    /// Makes sure that this node shows everything that anybody has been answered so far. Whether it
    /// shows more than `since`.
    ///
    /// Costs nothing on the leader, which shows everything before it answers. Another node asks the
    /// log where it ends, never the leader. A caller that comes while the log is asked waits for
    /// the next answer, together with all others: a crowd asks no more than one.
    ///
    /// # Errors
    ///
    /// [`Unreached`] when that cannot be made sure of: what is not found may be there all the same.
    pub async fn catch_up(&self, since: LogSeq) -> Result<bool, Unreached> {
        if self.shared.standing.borrow().leading {
            return Ok(self.position() > since);
        }
        let came = Instant::now();
        let mut asked = self.shared.log_asked.lock().await;
        let reached = match *asked {
            Some((at, reached)) if at >= came => reached,
            before => {
                if let Some((at, _)) = before {
                    tokio::time::sleep_until(at + LOG_END_INTERVAL).await;
                }
                let asks = Instant::now();
                let reached = self.reach_log_end().await;
                *asked = Some((asks, reached));
                reached
            }
        };
        reached.map(|()| self.position() > since)
    }

    async fn reach_log_end(&self) -> Result<(), Unreached> {
        if self.shared.standing.borrow().log_silent {
            return Err(Unreached::LogSilent);
        }
        let last = match tokio::time::timeout(LOG_END_TIMEOUT, self.shared.log.glance_last_seq()).await {
            Ok(Ok(last)) => last,
            Ok(Err(error)) => {
                tracing::debug!(%error, "cannot catch up with the log");
                return Err(Unreached::LogSilent);
            }
            Err(_) => return Err(Unreached::LogSilent),
        };
        if self.reach(last).await { Ok(()) } else { Err(Unreached::Behind) }
    }

    /// The state that the driver publishes.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Where this node stands right now.
    pub fn standing(&self) -> Standing {
        self.shared.standing.borrow().clone()
    }

    fn send(&self, request: Request) -> Result<(), Refusal> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::Overloaded { what: Overload::Commands, retry_ms: RETRY_MS },
            mpsc::error::TrySendError::Closed(_) => Refusal::NotLeader,
        })
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.requests.try_send(request(answer)).ok()?;
        tokio::time::timeout(ANSWER_TIMEOUT, answered).await.ok()?.ok()
    }
}

/// Whether a command may give the read model more to write: such ones wait while it is behind. To
/// stop something, and to administer, must be possible all the same.
fn adds_a_task(command: &Command) -> bool {
    matches!(command, Command::Submit { .. })
}
