//! Requests of a control node that does not lead, to the leader, for its clients.
//!
//! The subject holds the term: a leader whose time is over is never asked by a node that knows of a
//! later one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::HostInfo;
use crate::command::{Command, Refusal, Reply};
use crate::ids::{HostId, LogSeq, TaskId, TenantName, Term};
use crate::policy::BenchedRow;
use crate::time::Timestamp;

/// One asking, with a name by which the leader knows it when the bus brings it twice: decided
/// twice, a submission whose task has become final in between would be taken for a new one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlCall {
    /// The process that asks: drawn anew for every process.
    pub asker: u64,
    /// Grows with everything that it asks.
    pub number: u64,
    /// The request.
    pub request: ControlRequest,
}

/// The request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Decide these. Answered with [`ControlAnswer::Replies`].
    Commands(Vec<Command>),
    /// Would this be refused as things are? Nothing is done. Answered with
    /// [`ControlAnswer::Checked`].
    Check(Box<Command>),
    /// Why do these not run? Answered with [`ControlAnswer::Explained`].
    Explain(Vec<TaskId>),
    /// An overview. Answered with [`ControlAnswer::Overview`].
    Overview,
    /// The same, but only of hosts after this one: asked when an overview said that there are more.
    OverviewAfter(HostId),
}

/// The answer of the leader.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// To each command in order, durable.
    Replies(Vec<Reply>),
    /// The refusal that a command would get.
    Checked(Option<Refusal>),
    /// Tasks that are final or unknown are left out.
    Explained(Vec<Explained>),
    /// An overview.
    Overview(Box<LeaderOverview>),
    /// Leadership ended before the answer was durable: what was asked may have been done all the
    /// same.
    LeadershipLost,
}

/// Why a task does not run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Explained {
    /// Which.
    pub task: TaskId,
    /// Whose.
    pub tenant: TenantName,
    /// Why; `None` if it runs.
    pub waiting_for: Option<String>,
}

/// An overview of the leader's view of the cluster.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaderOverview {
    /// The hosts by id, as many as a message holds.
    pub hosts: Vec<HostSeen>,
    /// Whether more hosts come after the last of these.
    pub hosts_follow: bool,
    /// Tasks that wait for a time or a retry.
    pub waiting: u64,
    /// Tasks that could start.
    pub queued: u64,
    /// Tasks that run.
    pub running: u64,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Policies in whose place the built-in default decides.
    pub policies_benched: Vec<BenchedRow>,
    /// When this was so.
    pub at: Timestamp,
    /// The record that makes all of this true; whoever asked before it was appended has not been
    /// answered yet.
    pub log_seq: LogSeq,
}

/// A host, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSeen {
    /// Of the attempts, those that wait until their module is compiled or loaded.
    pub unready: u32,
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
    pub state: String,
    /// Attempts that are placed on it.
    pub attempts: u32,
    /// When it was last heard of.
    pub last_seen: Timestamp,
}

/// Where the leader of a term is asked.
pub fn commands(term: Term) -> String {
    format!("commands.{term}")
}
