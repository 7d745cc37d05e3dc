//! Inputs of the core, and its outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_protocol::message::{Assignment, FromHost, Heartbeat, HostAck, Progress, StopCause, ToHost};
use wasmill_protocol::{AttemptId, Digest, HostId, Incarnation, Outcome, Payload, Term, Timestamp, Usage};

/// The resources of a host, and its identity.
#[derive(Debug, Clone)]
pub struct Config {
    /// Which host.
    pub host: HostId,
    /// Guests that run at the same time; at least 1.
    pub slots: u32,
    /// Bytes of memory for guests: the sum of `limits.memory_bytes` over the attempts that run
    /// never exceeds it.
    pub memory_bytes: u64,
    /// Labels that tasks can require.
    pub labels: BTreeMap<String, String>,
    /// Spreads what would otherwise happen on all hosts at the same moment.
    pub seed: u64,
    /// The largest message in bytes that can be sent; at least
    /// [`MESSAGE_BYTES_MIN`](crate::bounds::MESSAGE_BYTES_MIN).
    pub message_bytes_max: u64,
    /// Tells the process from every other one, in its heartbeats.
    pub process: u64,
}

/// Everything that can happen to a host.
#[derive(Debug, Clone)]
pub enum Input {
    /// The leader, or somebody who thinks so, asks for something; answered through [`Ready::acks`].
    Message {
        /// Where the answer goes.
        reply_to: ReplyTo,
        /// The message.
        message: ToHost,
    },
    /// The sandbox has ended an attempt. Slot and memory are free from now on.
    Ended(Ended),
    /// A started attempt is not in the sandbox, because its module must be compiled or loaded
    /// first: it is unready and gives its place back. The shell sees to it; [`Input::Readied`]
    /// follows, or [`Input::Ended`] when it never will be.
    Unready(Box<Assignment>),
    /// An unready attempt can start now.
    Readied {
        /// Which attempt.
        id: AttemptId,
        /// CPU time of what was compiled for it, in microseconds.
        compile_us: u64,
    },
    /// The guest saved a checkpoint.
    Checkpoint {
        /// Which attempt.
        id: AttemptId,
        /// Which of its checkpoints, from 1.
        number: u32,
        /// The state, ready to be reported.
        data: Payload,
    },
    /// The guest says how far it is.
    Progress(AttemptId, Progress),
    /// The sandbox says what is going on in it, about once a second.
    SandboxLoad {
        /// CPU time of all guests since the sandbox began, in microseconds.
        cpu_us: u64,
        /// Compiled modules that are ready to run.
        modules_cached: u32,
        /// Some of these, in any order.
        modules_warm: Vec<Digest>,
    },
    /// A leader has answered a batch: what it holds is durable, unless somebody else leads by now.
    Acknowledged {
        /// Which sending.
        number: BatchNumber,
        /// The leader's term.
        term: Term,
    },
    /// A batch was not answered, or not in time.
    RequestFailed(BatchNumber),
    /// Shut down: take nothing new, hand back what has not started. A second one can only bring the
    /// times forward.
    Drain {
        /// When attempts that still run are stopped and handed back.
        stop_at: Timestamp,
        /// When the host no longer waits for the sandbox or for the leader to acknowledge.
        give_up_at: Timestamp,
    },
    /// The host's lease has ended, so the leader gives everything that is here to others: stop it
    /// and forget it.
    LeaseLost,
    /// The host is registered again, as a new incarnation, which is higher than the one before.
    LeaseRegained(Incarnation),
    /// Nothing but time passed.
    Tick,
}

/// How an attempt ended, as the sandbox tells it, with everything large already stored as a blob.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Which attempt.
    pub id: AttemptId,
    /// How. [`Cancelled`](wasmill_protocol::OutcomeKind::Cancelled) for every stopped one: the core
    /// knows why it was stopped.
    pub outcome: Arc<Outcome>,
    /// The resources that it used; the core fills in `queue_us`, and `compile_us` of one that was
    /// started.
    pub usage: Usage,
    /// The result, when it succeeded.
    pub output: Payload,
    /// Captured stdout and stderr.
    pub captured: Payload,
}

/// Names a waiting sender of a message; the shell knows where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// Names one sending of one batch. The same reports sent again have another number, so that an
/// answer that comes late is never taken for the answer to a later sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchNumber(pub u64);

/// Why an attempt is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// The leader has asked for it.
    Asked(StopCause),
    /// The host shuts down or has lost its lease.
    Drained,
}

impl StopReason {
    /// Whether the attempt is handed back instead of ended.
    pub(crate) fn hands_back(self) -> bool {
        match self {
            Self::Asked(cause) => cause.hands_back(),
            Self::Drained => true,
        }
    }
}

/// The consequences of the steps since the last call. To be done in the order of the fields.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ready {
    /// Answers to messages.
    pub acks: Vec<(ReplyTo, HostAck)>,
    /// Attempts to run in the sandbox now, `queue_us` being all that their tasks have waited. Each
    /// is answered by exactly one [`Input::Ended`] or [`Input::Unready`].
    pub start: Vec<Assignment>,
    /// Unready attempts that nobody waits for any more.
    pub give_up: Vec<AttemptId>,
    /// Attempts to stop. [`Input::Ended`] follows, unless it is on its way already.
    pub stop: Vec<(AttemptId, StopReason)>,
    /// Reports to send, each batch answered by [`Input::Acknowledged`] or [`Input::RequestFailed`].
    pub batches: Vec<Batch>,
    /// To be published; may be lost.
    pub heartbeat: Option<Heartbeat>,
    /// The host was drained and nothing is left to do, or to wait for.
    pub drained: bool,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

/// Reports that travel together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Names this sending.
    pub number: BatchNumber,
    /// The message. Shared with the core, which keeps it until it is acknowledged.
    pub message: Arc<FromHost>,
}
