//! Events: the entries of the log's records.

mod short;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::snapshot::{ReadModelCopy, SnapshotRef};
use wasmill_protocol::ids::{Attempt, AttemptId, Digest, HostId, Incarnation, TaskId, TenantName, Term};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::outcome::{Outcome, Usage};
use wasmill_protocol::payload::Payload;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::task::{Edge, FinalState, TaskSpec};
use wasmill_protocol::tenant::{Tenant, Token};
use wasmill_protocol::time::{Timestamp, Uptime};

/// One thing that happened, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was decided.
    pub at: Timestamp,
    /// The event itself.
    pub body: EventBody,
}

/// One thing that happened. State is a fold over these and nothing else.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EventBody {
    /// A leader began; always the first event of its first record.
    TermStarted {
        /// Its term, greater than every one before.
        term: Term,
        /// Which control node.
        node: String,
        /// Microseconds that have certainly passed since the record before: that node has measured
        /// them by a clock that cannot be set.
        #[serde(default)]
        passed_us: u64,
        /// The uptime of its machine.
        #[serde(default)]
        uptime: Uptime,
    },
    /// A tenant was created or changed.
    TenantPut {
        /// All of it.
        tenant: Tenant,
    },
    /// A tenant and all that it had is gone.
    TenantRemoved {
        /// Which.
        tenant: TenantName,
    },
    /// A token is valid from now.
    TokenAdded {
        /// All of it.
        token: Token,
    },
    /// A token is no longer valid.
    TokenRemoved {
        /// Its tenant.
        tenant: TenantName,
        /// Which.
        id: String,
    },
    /// A tenant has a module. Its bytes are a blob.
    ModuleAdded {
        /// Whose.
        tenant: TenantName,
        /// All of it.
        module: Arc<ModuleInfo>,
    },
    /// A tenant no longer has a module.
    ModuleRemoved {
        /// Whose.
        tenant: TenantName,
        /// Which.
        digest: Digest,
    },
    /// An alias points at a module.
    AliasSet {
        /// Whose.
        tenant: TenantName,
        /// The alias.
        name: String,
        /// The module that it points at.
        digest: Digest,
    },
    /// An alias is gone.
    AliasRemoved {
        /// Whose.
        tenant: TenantName,
        /// The alias.
        name: String,
    },
    /// A task was accepted. It is waiting if it has edges or `spec.not_before` is later than the
    /// event, else queued.
    TaskSubmitted {
        /// Its id.
        task: TaskId,
        /// All of it.
        #[serde(serialize_with = "short::spec")]
        spec: Arc<TaskSpec>,
        /// SHA-256 of the submission, to tell a repeat from another task under the same idempotency
        /// key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<Digest>,
        /// Its predecessors.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        edges: Vec<Edge>,
    },
    /// A waiting task could start now.
    TaskQueued {
        /// Which.
        task: TaskId,
    },
    /// The priority was changed.
    TaskPrioritized {
        /// Which.
        task: TaskId,
        /// The new priority.
        priority: i8,
    },
    /// An attempt was placed on a host. Sent to the host only once this is durable.
    AttemptStarted {
        /// The attempt.
        id: AttemptId,
        /// Where.
        host: HostId,
        /// Which life of the host.
        incarnation: Incarnation,
    },
    /// The guest of the current attempt saved a checkpoint.
    CheckpointSaved {
        /// The attempt that saved it.
        id: AttemptId,
        /// Which of its checkpoints, from 1.
        #[serde(default)]
        number: u32,
        /// The bytes that the next attempt can read.
        data: Payload,
    },
    /// The current attempt ended.
    AttemptEnded {
        /// The attempt.
        id: AttemptId,
        /// How.
        #[serde(serialize_with = "short::outcome")]
        outcome: Arc<Outcome>,
        /// The resources that it used.
        #[serde(serialize_with = "short::usage")]
        usage: Usage,
        /// The result, when it succeeded.
        output: Payload,
        /// Captured stdout and stderr.
        captured: Payload,
        /// The sequel for the task.
        next: Sequel,
    },
    /// Somebody asked for the task to stop; it is stopped when its attempt has ended.
    CancelRequested {
        /// Which.
        task: TaskId,
        /// Why, in the words of the caller.
        reason: Option<String>,
    },
    /// A task without a current attempt became final.
    TaskEnded {
        /// Which.
        task: TaskId,
        /// How.
        state: FinalState,
        /// Why.
        reason: EndReason,
    },
    /// A report came for an attempt that is not current any more; its result was dropped.
    ReportLate {
        /// Which attempt.
        id: AttemptId,
        /// From where.
        host: HostId,
    },
    /// A snapshot of the state is stored: a start needs what the log says after it and no more.
    SnapshotTaken {
        /// Up to where, and which blob.
        snapshot: SnapshotRef,
    },
    /// A copy of the read model is stored, for whoever has none of its own that the log still leads
    /// on from.
    ReadModelSaved {
        /// Up to where, and which blob.
        copy: ReadModelCopy,
    },
    /// A policy failed too often, or left tasks in the queue that had a place: the built-in default
    /// decides in its place from now on, under this leader and later ones, until an operator lifts
    /// that.
    PolicyBenched {
        /// The hook that it decided.
        hook: PolicyHook,
        /// Its name.
        policy: String,
        /// The reason of its last fault.
        reason: String,
        /// Its digest, whatever its name; zero for one that is built in, which its name tells.
        #[serde(default)]
        digest: Digest,
    },
    /// A policy that was benched may decide again.
    PolicyLifted {
        /// The hook that it decides.
        hook: PolicyHook,
        /// Its name.
        policy: String,
        /// Its digest, as in [`EventBody::PolicyBenched`].
        #[serde(default)]
        digest: Digest,
    },
    /// An operator drains a host in all its lives, or ends the draining.
    HostDrained {
        /// Which.
        host: HostId,
        /// Whether it takes no new attempts from now on.
        draining: bool,
    },
}

/// The sequel of an attempt: what its end brings about for the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sequel {
    /// The task is final.
    Final {
        /// How.
        state: FinalState,
    },
    /// Tried again because of its own failure; uses up one of `attempts_max`.
    Retry {
        /// The earliest start of the next attempt.
        not_before: Timestamp,
    },
    /// Tried again through no fault of its own; uses up nothing.
    Requeue,
}

/// Why a task became final without an attempt that decided it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// Cancelled while no attempt ran.
    Cancelled {
        /// In the words of the caller.
        reason: Option<String>,
    },
    /// Waited longer than `expires_ms`.
    Expired,
    /// Its tenant was deleted.
    TenantRemoved,
    /// A task that it has waited for did not end as its edge asks.
    Skipped {
        /// Which.
        predecessor: TaskId,
    },
}

impl EventBody {
    /// The task that this is about, if it is about one.
    pub fn task(&self) -> Option<TaskId> {
        match self {
            Self::TaskSubmitted { task, .. }
            | Self::TaskQueued { task }
            | Self::TaskPrioritized { task, .. }
            | Self::CancelRequested { task, .. }
            | Self::TaskEnded { task, .. } => Some(*task),
            Self::AttemptStarted { id, .. }
            | Self::CheckpointSaved { id, .. }
            | Self::AttemptEnded { id, .. }
            | Self::ReportLate { id, .. } => Some(id.task),
            Self::TermStarted { .. }
            | Self::TenantPut { .. }
            | Self::TenantRemoved { .. }
            | Self::TokenAdded { .. }
            | Self::TokenRemoved { .. }
            | Self::ModuleAdded { .. }
            | Self::ModuleRemoved { .. }
            | Self::AliasSet { .. }
            | Self::AliasRemoved { .. }
            | Self::SnapshotTaken { .. }
            | Self::ReadModelSaved { .. }
            | Self::PolicyBenched { .. }
            | Self::PolicyLifted { .. }
            | Self::HostDrained { .. } => None,
        }
    }

    /// The first version of records whose readers understand this; see
    /// [`Record::version_for`](crate::Record::version_for).
    pub fn record_version(&self) -> u32 {
        match self {
            Self::PolicyBenched { .. }
            | Self::PolicyLifted { .. }
            | Self::SnapshotTaken { .. }
            | Self::ReadModelSaved { .. }
            | Self::HostDrained { .. }
            | Self::TaskEnded { reason: EndReason::Skipped { .. }, .. } => 2,
            Self::TaskSubmitted { edges, .. } if !edges.is_empty() => 2,
            _ => 1,
        }
    }

    /// The attempt that this is about, if it is about one.
    pub fn attempt(&self) -> Option<Attempt> {
        match self {
            Self::AttemptStarted { id, .. }
            | Self::CheckpointSaved { id, .. }
            | Self::AttemptEnded { id, .. }
            | Self::ReportLate { id, .. } => Some(id.attempt),
            _ => None,
        }
    }
}
