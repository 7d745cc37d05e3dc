//! The answers of the HTTP interface, as far as commands look into them. Unknown fields are ignored: a newer server may send more.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use wasmill_protocol::task::TaskState;
use wasmill_protocol::tenant::Quotas;

/// One page of a listing.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    /// What it lists.
    pub(crate) items: Vec<T>,
    /// Where the next page begins; `None` on the last one.
    #[serde(default)]
    pub(crate) next: Option<String>,
}

/// A task.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Task {
    pub(crate) id: String,
    pub(crate) tenant: String,
    pub(crate) module: String,
    pub(crate) name: Option<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) priority: i8,
    pub(crate) state: TaskState,
    pub(crate) waiting_for: Option<String>,
    pub(crate) attempt: u32,
    pub(crate) attempts_max: Option<u32>,
    pub(crate) host: Option<String>,
    pub(crate) progress: Option<Progress>,
    pub(crate) outcome: Option<TaskOutcome>,
    pub(crate) usage: Option<Usage>,
    pub(crate) retry_of: Option<String>,
    pub(crate) created_at: String,
    pub(crate) started_at: Option<String>,
    pub(crate) finished_at: Option<String>,
}

/// How far a task says it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Progress {
    pub(crate) done: f64,
    pub(crate) total: f64,
    pub(crate) message: Option<String>,
}

/// How a task's last attempt ended.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TaskOutcome {
    pub(crate) kind: String,
    pub(crate) message: Option<String>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) backtrace: Option<Vec<String>>,
}

/// What an attempt used.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Usage {
    pub(crate) fuel: Option<u64>,
    pub(crate) cpu_us: u64,
    pub(crate) memory_peak_bytes: u64,
    pub(crate) queue_us: u64,
    pub(crate) run_us: u64,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
}

/// A module.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Module {
    pub(crate) digest: String,
    pub(crate) bytes: u64,
    pub(crate) kind: String,
    pub(crate) created_at: String,
}

/// An alias.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Alias {
    pub(crate) name: String,
    pub(crate) digest: String,
}

/// A host.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) state: String,
    pub(crate) address: Option<String>,
    pub(crate) cores: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) slots: Option<u64>,
    pub(crate) slots_used: Option<u64>,
    pub(crate) slots_free: Option<u64>,
    pub(crate) version: Option<String>,
    pub(crate) last_seen: Option<String>,
}

/// The state of the whole.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) mode: String,
    pub(crate) node: Option<String>,
    pub(crate) leader: Option<String>,
    pub(crate) term: u64,
    pub(crate) log_seq: u64,
    pub(crate) queue: QueueDepth,
    pub(crate) uptime_ms: Option<u64>,
}

/// Tasks that are not final, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct QueueDepth {
    pub(crate) waiting: u64,
    pub(crate) queued: u64,
    pub(crate) running: u64,
}

/// A tenant.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Tenant {
    pub(crate) name: String,
    pub(crate) weight: u32,
    pub(crate) quotas: Quotas,
}

/// A token, without its text.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: String,
    pub(crate) created_at: Option<String>,
}

/// A token that was just made: the only time that its text is shown.
#[derive(Debug, Deserialize)]
pub(crate) struct NewToken {
    pub(crate) token: String,
}

/// A task to submit. What is not set is left out, so that the server's defaults hold.
#[derive(Debug, Default, Serialize)]
pub(crate) struct NewTask {
    pub(crate) module: String,
    /// The user's JSON, character for character.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) input_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) description: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) args: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "NewLimits::is_empty")]
    pub(crate) limits: NewLimits,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<i8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempts_max: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backoff_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backoff_ms_max: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delay_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) require: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deterministic: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seed: Option<u64>,
}

/// The limits of a task to submit.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct NewLimits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpu_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fuel: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) wall_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_bytes: Option<u64>,
}

impl NewLimits {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}
