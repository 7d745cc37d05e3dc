//! Messages between control nodes and hosts over the bus. Any of it may be lost, doubled or
//! reordered.

pub mod control;
mod stop;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{AttemptId, Digest, HostId, Incarnation, TenantName, Term};
use crate::outcome::{Outcome, Usage};
use crate::payload::Payload;
use crate::task::TaskSpec;
use crate::time::Timestamp;

pub use stop::StopCause;

/// From the leader to one host.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(from = "stop::ReadToHost")]
pub struct ToHost {
    /// The leader's term. A host refuses one lower than the highest it has seen.
    pub term: Term,
    /// Which life of the host is meant; another one refuses.
    pub incarnation: Incarnation,
    /// Attempts to run.
    pub assign: Vec<Assignment>,
    /// Attempts to stop, each once.
    pub stop: Vec<(AttemptId, StopCause)>,
}

/// One attempt to run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Assignment {
    /// The attempt.
    pub id: AttemptId,
    /// The task to run.
    pub spec: Arc<TaskSpec>,
    /// The checkpoint of an earlier attempt.
    pub checkpoint: Payload,
    /// Microseconds that the task had waited when it was placed; the host adds its own.
    pub queue_us: u64,
    /// When its tenant was created: tells the tenant from an earlier one of the same name, of which
    /// nothing may be shown to it.
    pub tenant_since: Timestamp,
    /// The compile time of its tenant:
    /// [`Quotas::compile_ms_per_s`](crate::tenant::Quotas::compile_ms_per_s).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compile_ms_per_s: Option<u64>,
    /// The class of its tenant: a higher one goes first on the host, too.
    pub class: i8,
}

/// The answer of a host to [`ToHost`].
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostAck {
    /// Set when the message was refused because the host has seen this higher term.
    pub term_seen: Option<Term>,
    /// Assignments that were not taken (draining, another incarnation, over the credit).
    pub refused: Vec<AttemptId>,
}

/// From a host to the leader: attempts that ended and checkpoints that were saved, resent until
/// acknowledged.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FromHost {
    /// Which host.
    pub host: HostId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// In the order in which they happened.
    pub reports: Vec<Report>,
}

/// Something that happened to an attempt on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Report {
    /// It ended.
    Ended {
        /// Which attempt.
        id: AttemptId,
        /// How.
        outcome: Arc<Outcome>,
        /// The resources that it used.
        usage: Usage,
        /// The result, when it succeeded.
        output: Payload,
        /// Captured stdout and stderr.
        captured: Payload,
    },
    /// The guest saved a checkpoint.
    Checkpoint {
        /// Which attempt.
        id: AttemptId,
        /// Grows with every checkpoint of the attempt, from 1: an older one never replaces a newer
        /// one.
        number: u32,
        /// The bytes that the next attempt can read.
        data: Payload,
    },
    /// Handed back without a result: the host shuts down, or never started it.
    Returned {
        /// Which attempt.
        id: AttemptId,
    },
}

impl Report {
    /// The attempt that this is about.
    pub fn id(&self) -> AttemptId {
        match self {
            Self::Ended { id, .. } | Self::Checkpoint { id, .. } | Self::Returned { id } => *id,
        }
    }

    /// No encoding of it takes more bytes: names of fields and ids, then what varies.
    pub fn bytes_at_most(&self) -> u64 {
        const NAMES_AND_IDS: u64 = 384;
        let inline = |payload: &Payload| match payload {
            Payload::Inline(bytes) => bytes.len() as u64,
            Payload::Empty | Payload::Blob { .. } => 0,
        };
        let varying = match self {
            Self::Ended { outcome, output, captured, .. } => {
                let frames: u64 = outcome.backtrace.iter().map(|frame| frame.len() as u64 + 5).sum();
                outcome.message.len() as u64 + frames + inline(output) + inline(captured)
            }
            Self::Checkpoint { data, .. } => inline(data),
            Self::Returned { .. } => 0,
        };
        NAMES_AND_IDS + varying
    }
}

/// The answer of the leader to [`FromHost`] once the reports are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportAck {
    /// The leader's term. A host that has seen a higher one does not take the answer: who was
    /// replaced must not acknowledge what its successor has not recorded.
    pub term: Term,
}

/// Once a second from every host, and at once when its credit changes much: soft facts, never in
/// the log.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// Which host.
    pub host: HostId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Grows with every heartbeat of an incarnation: an older one that arrives late is ignored.
    pub number: u64,
    /// Attempts that it holds and has not had acknowledged as ended: running, queued, or ended and
    /// being reported.
    pub attempts: Vec<AttemptId>,
    /// How many attempts it holds at most, running and waiting on the host together. The leader
    /// keeps the number of attempts that it has assigned and not seen ended at or below this.
    pub credit: u32,
    /// Guests that can run at the same time.
    pub slots: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Labels that tasks can require.
    pub labels: BTreeMap<String, String>,
    /// No new attempts, please.
    pub draining: bool,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
    /// Compiled modules that are ready to run.
    pub modules_cached: u32,
    /// Facts about running attempts. Those beyond the size of one message come in later ones,
    /// in turns.
    pub progress: Vec<(AttemptId, Progress)>,
    /// `attempts` does not list all of them: there are more than fit into one message, and later
    /// ones list others. An attempt that is not listed may be there all the same.
    pub partial: bool,
    /// How many of the attempts are unready: they wait until their module is compiled or loaded,
    /// and hold no slot. `credit` counts them on top.
    pub unready: u32,
    /// Tenants that have as many unready attempts as one may have: no more attempts of theirs,
    /// please.
    pub sated: Vec<TenantName>,
    /// The process of the host, as in [`HostInfo`]: two that have one id can have one incarnation
    /// too. 0 from those that do not say.
    pub process: u64,
    /// Memory limits of the attempts that it holds and that have not ended, summed up; of an
    /// earlier life, too. 0 from those that do not say.
    pub memory_held: u64,
    /// Modules that are ready to run, [`MODULES_WARM_MAX`] at most, when they have changed or were
    /// not told for a while; else `None`. A hint: what is lost on the way is told again later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modules_warm: Option<Vec<Digest>>,
}

/// Modules that a heartbeat names as ready to run at most.
pub const MODULES_WARM_MAX: usize = 64;

/// How far a guest says it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all, 0 if unknown.
    pub total: u64,
    /// For people; at most 1 KiB.
    pub message: String,
}

/// The identity of a host, with which it registers when it joins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostInfo {
    /// Its id.
    pub id: HostId,
    /// Which life of it.
    pub incarnation: Incarnation,
    /// Where it can be reached, for people.
    pub address: String,
    /// CPU cores for guests.
    pub cores: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Labels that tasks can require.
    pub labels: BTreeMap<String, String>,
    /// Version of the program.
    pub version: String,
    /// Drawn by each process for itself: two processes with one id are told apart by it. 0 from
    /// those that draw none.
    pub process: u64,
    /// The process that has used this host's directory before, when that has certainly ended; else
    /// 0.
    pub predecessor: u64,
}

impl HostInfo {
    /// Whether that is known to be a different process.
    pub fn is_another_process(&self, process: u64) -> bool {
        self.process != 0 && process != 0 && self.process != process
    }

    /// Whether another process has this host's id now, and is not known to have ended.
    pub fn is_rivalled_by(&self, other: &Self) -> bool {
        self.is_another_process(other.process) && other.predecessor != self.process && self.predecessor != other.process
    }
}

/// Subjects of messages on the bus. All messages are MessagePack with named fields. A message of a
/// host has its id in the subject, so that a server can forbid it to speak for another one.
pub mod subjects {
    use crate::ids::HostId;

    /// Reports of every host.
    pub const REPORTS: &str = "reports.*";
    /// Heartbeats of every host.
    pub const HEARTBEATS: &str = "heartbeats.*";

    /// Requests of one host with [`FromHost`](super::FromHost), answered by the leader with
    /// [`ReportAck`](super::ReportAck) once the reports are durable.
    pub fn reports(id: &HostId) -> String {
        format!("reports.{id}")
    }

    /// Published [`Heartbeat`](super::Heartbeat)s of one host.
    pub fn heartbeats(id: &HostId) -> String {
        format!("heartbeats.{id}")
    }

    /// Requests with [`ToHost`](super::ToHost) for one host, answered with
    /// [`HostAck`](super::HostAck).
    pub fn host(id: &HostId) -> String {
        format!("host.{id}")
    }
}
