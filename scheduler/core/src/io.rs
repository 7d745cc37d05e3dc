//! Inputs of the core, and its outputs.

use std::collections::BTreeMap;

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, StopCause};
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{AttemptId, Digest, HostId, Incarnation, LogSeq, TaskId, TenantName, Term, Uptime};
use wasmill_record::event::Event;
use wasmill_record::snapshot::{ReadModelCopy, SnapshotRef};

use crate::policy::Seat;
use crate::policy::ask::{Ask, AskId, PolicyAnswer};
use crate::state::Owner;

/// Everything that can happen to the leader.
#[derive(Debug, Clone)]
pub enum Input {
    /// Leadership began: emit `TermStarted` and start to decide. Always the first input after
    /// replay.
    Lead {
        /// The new term.
        term: Term,
        /// This node.
        node: String,
        /// Microseconds that have certainly passed since the last record, measured by a clock that
        /// cannot be set; 0 when nobody has.
        passed_us: u64,
        /// The uptime of this node's machine.
        uptime: Uptime,
    },
    /// A client asks for something; it is answered through [`Ready::replies`].
    Command {
        /// Where the answer goes.
        reply_to: ReplyTo,
        /// The request.
        command: Command,
    },
    /// A host joined, or started anew with a higher incarnation: what its earlier incarnation ran
    /// is lost.
    HostJoined(HostInfo),
    /// The lease of this life of a host has ended: what it ran is lost.
    HostLeft(HostId, Incarnation),
    /// A host says what it does.
    Heartbeat(Heartbeat),
    /// A host reports. Answered through [`Ready::acks`] once what follows from it is durable.
    FromHost {
        /// Where the acknowledgement goes.
        reply_to: ReplyTo,
        /// The reports.
        message: FromHost,
    },
    /// A host did not take these attempts: they go back into the queue at no cost.
    AssignRefused {
        /// Which host.
        host: HostId,
        /// Which attempts.
        attempts: Vec<AttemptId>,
    },
    /// A tenant has used up its quota of stored bytes, or has not any more: what is in its queue
    /// waits. Known to whoever counts them, so a leader is told anew.
    Stored {
        /// Which tenant.
        tenant: TenantName,
        /// Whether nothing of it starts.
        used_up: bool,
    },
    /// The read model holds every record up to this one: idempotency keys of these records can be
    /// forgotten.
    ReadModelAt(LogSeq),
    /// The events of the last [`Ready`] went into this record. Called by the driver for every
    /// record that it appends, before it is durable.
    Appended(LogSeq),
    /// A snapshot was stored as a blob.
    SnapshotStored(SnapshotRef),
    /// A copy of the read model was stored as a blob.
    ReadModelStored(ReadModelCopy),
    /// Another policy decides from now on, unless it is benched. A leader is told anew.
    PolicySeated(Seat),
    /// A policy that lives outside the core answers one of [`Ready::asks`]. An answer that is late,
    /// or belongs to another question than the one under way, is dropped.
    PolicyAnswered {
        /// Which question.
        id: AskId,
        /// Its answer.
        answer: PolicyAnswer,
    },
    /// Nothing but time passed.
    Tick,
}

/// Names a waiting client or host; the driver knows where the answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplyTo(pub u64);

/// The consequences of the steps since the last call, in order.
#[derive(Debug, Clone, Default)]
pub struct Ready {
    /// To be appended as one record. Already applied to the core's state: the core runs ahead of
    /// the log.
    pub events: Vec<Event>,
    /// Whose each of `events` is.
    pub owners: Vec<Owner>,
    /// To be sent once `events`, and every record before, are durable. May be lost; the core
    /// resends.
    pub messages: Vec<MessageOut>,
    /// To be answered once `events`, and every record before, are durable. A refusal waits too: it
    /// may rest on what is not durable yet.
    pub replies: Vec<(ReplyTo, Result<Done, Refusal>)>,
    /// Reports whose consequences are in `events` or in an earlier record: to be acknowledged once
    /// those are durable.
    pub acks: Vec<ReplyTo>,
    /// Questions to policies that live outside the core, one of each hook at most. They wait for
    /// nothing: what is decided by their answers is in later events.
    pub asks: Vec<Ask>,
}

impl Ready {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
            && self.messages.is_empty()
            && self.replies.is_empty()
            && self.acks.is_empty()
            && self.asks.is_empty()
    }
}

/// A message to a host, before the driver attaches the payloads.
#[derive(Debug, Clone, PartialEq)]
pub struct MessageOut {
    /// Which host.
    pub host: HostId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// The leader's term.
    pub term: Term,
    /// Attempts to run, each with the microseconds that its task has waited. The driver adds
    /// `TaskSpec` and checkpoint.
    pub assign: Vec<(AttemptId, u64)>,
    /// Attempts to stop.
    pub stop: Vec<(AttemptId, StopCause)>,
}

/// The core's view of a host, for `GET /v1/hosts`.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    /// The facts that it registered with.
    pub info: HostInfo,
    /// Whether this leader has heard it; if not, what follows is not known and 0.
    pub heard: bool,
    /// Guests that can run at the same time.
    pub slots: u32,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
    /// Compiled modules that are ready to run.
    pub modules_cached: u32,
    /// `ready`, `draining` or `lost`.
    pub state: &'static str,
    /// Attempts that the core has placed on it.
    pub attempts: u32,
    /// Of those, attempts that wait until their module is compiled or loaded.
    pub unready: u32,
    /// When it was last heard of.
    pub last_seen: wasmill_protocol::Timestamp,
}

/// A policy that failed too often, or left tasks in the queue that had a place: the built-in
/// default decides in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BenchedPolicy {
    /// The hook that it decided.
    pub hook: PolicyHook,
    /// Its name.
    pub policy: String,
    /// Its digest, whatever its name; zero for one that is built in.
    pub digest: Digest,
    /// The reason of its last fault.
    pub reason: String,
    /// Since when.
    pub at: wasmill_protocol::Timestamp,
}

/// How many tasks are in each state that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Waiting for a time or a retry.
    pub waiting: u64,
    /// Could start now.
    pub queued: u64,
    /// With a current attempt.
    pub running: u64,
}

impl QueueDepth {
    /// All tasks that are not final.
    pub(crate) fn sum(self) -> u64 {
        self.waiting + self.queued + self.running
    }
}

/// Counters; they only grow.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counters {
    /// By name, as `/metrics` shows them.
    pub by_name: BTreeMap<&'static str, u64>,
}

/// The core's knowledge of a task that is not final, for answers that want more than the log
/// says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub task: TaskId,
    /// Whose.
    pub tenant: TenantName,
    /// Why it is not running; `None` if it is.
    pub waiting_for: Option<String>,
}
