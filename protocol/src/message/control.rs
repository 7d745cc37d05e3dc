//! What a control node that does not lead asks the leader for its clients.
//!
//! The subject holds the term: a leader whose time is over is never asked by a node that knows of a later one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Heartbeat, HostInfo};
use crate::command::{Command, Reply};
use crate::ids::{HostId, LogSeq, TaskId, TenantName, Term};
use crate::snapshot::BenchedRow;
use crate::time::Timestamp;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Decide these. Answered with [`ControlAnswer::Replies`].
    Commands(Vec<Command>),
    /// Why do these not run? Answered with [`ControlAnswer::Explained`].
    Explain(Vec<TaskId>),
    /// What is going on? Answered with [`ControlAnswer::Overview`].
    Overview,
    /// Drain a host, or end the draining. Answered with [`ControlAnswer::Drained`].
    Drain {
        /// Which host.
        host: HostId,
        /// Whether it takes no new attempts.
        draining: bool,
    },
}

/// What the leader answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ControlAnswer {
    /// To each command in order, durable.
    Replies(Vec<Reply>),
    /// Tasks that are final or unknown are left out.
    Explained(Vec<Explained>),
    /// What is going on.
    Overview(Box<LeaderOverview>),
    /// Whether the host is known.
    Drained {
        /// Whether it is.
        known: bool,
    },
    /// Leadership ended before the answer was durable: what was asked may have been done all the same.
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

/// What is going on, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaderOverview {
    /// The hosts.
    pub hosts: Vec<HostSeen>,
    /// Tasks that wait for a time or a retry.
    pub waiting: u64,
    /// Tasks that could start.
    pub queued: u64,
    /// Tasks that run.
    pub running: u64,
    /// What was counted, by name.
    pub counters: BTreeMap<String, u64>,
    /// Policies in whose place the built-in default decides.
    pub policies_benched: Vec<BenchedRow>,
    /// When this was so.
    pub at: Timestamp,
    /// The record that makes all of this true; whoever asked before it was appended has not been answered yet.
    pub log_seq: LogSeq,
}

/// A host, as the leader sees it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HostSeen {
    /// What it registered with.
    pub info: HostInfo,
    /// What it last said, if it has said anything.
    pub heartbeat: Option<Heartbeat>,
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
