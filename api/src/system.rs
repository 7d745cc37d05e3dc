//! Hosts and the state of the whole.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Time;
use wasmill_protocol::limits::Caps;

/// A host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct HostDoc {
    /// Its id.
    pub id: String,
    /// Which life of it; grows with every start.
    pub incarnation: u64,
    /// Where it is, for people.
    pub address: String,
    /// CPU cores for guests.
    pub cores: u32,
    /// Bytes of memory for guests.
    pub memory_bytes: u64,
    /// Labels that tasks can require.
    pub labels: BTreeMap<String, String>,
    /// `ready`, `draining` or `lost`.
    pub state: String,
    /// Guests that can run at the same time.
    pub slots: u32,
    /// Slots with an attempt.
    pub slots_used: u32,
    /// Slots without one.
    pub slots_free: u32,
    /// Attempts placed on the host: running, waiting there for a slot, and unready.
    pub attempts: u32,
    /// Of those, attempts that wait until their module is compiled or loaded; they take no slot.
    pub unready: u32,
    /// CPU in use by guests, thousandths of one core.
    pub load_millicores: u32,
    /// Compiled modules in its cache.
    pub modules_cached: u32,
    /// Version of the program.
    pub version: String,
    /// When it was last heard of.
    pub last_seen: Time,
}

/// Where the whole stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct StatusDoc {
    /// Version of the program.
    pub version: String,
    /// `standalone` or `cluster`.
    pub mode: String,
    /// The control node that answers.
    pub node: String,
    /// The control node that leads; `null` while none answers this node.
    pub leader: Option<String>,
    /// The leader's term.
    pub term: u64,
    /// The last durable record.
    pub log_seq: u64,
    /// Tasks by state. Absent while no leader answers this node, who alone counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueDoc>,
    /// Hosts that are ready or draining. Absent as the queue is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<u64>,
    /// Policies that failed too often in a row, in whose place the built-in default decides. Absent
    /// as the queue is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policies_benched: Option<Vec<BenchedDoc>>,
    /// The time that events would carry now.
    pub now: Time,
    /// How far the clock of this node's machine is ahead of what others say, or of the time that
    /// was before it was set, in milliseconds.
    pub clock_difference_ms: i64,
    /// The fault of that clock, and what to do about it.
    pub clock_warning: Option<String>,
    /// How long this node has run.
    pub uptime_ms: u64,
    /// The highest limits that one task may ask for.
    pub caps: Caps,
}

/// A policy that failed too often in a row.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct BenchedDoc {
    /// The hook that it decided: `order` or `place`.
    pub hook: String,
    /// Its name.
    pub policy: String,
    /// The reason of its last fault.
    pub reason: String,
    /// Since when the default decides.
    pub at: Time,
}

/// How many tasks are in each state that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueDoc {
    /// Waiting for a time or a retry.
    pub waiting: u64,
    /// Could start now.
    pub queued: u64,
    /// With a current attempt.
    pub running: u64,
}
