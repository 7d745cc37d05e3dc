//! Commands of clients to the leader, and its replies.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::ids::{Digest, HostId, LogSeq, TaskId, TenantName};
use crate::module::ModuleInfo;
use crate::policy::PolicyHook;
use crate::task::{Edge, TaskSpec};
use crate::tenant::{Quotas, Token};

/// Names a module in a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModuleRef {
    /// By its digest.
    Digest(Digest),
    /// By an alias of the tenant.
    Alias(String),
}

/// A request of a client to the leader. Every one of them is decided by the core and answered once
/// it is durable.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Accept a task.
    Submit {
        /// Its id, drawn by the shell.
        task: TaskId,
        /// The module, which the core resolves into `spec.module` and `spec.kind`.
        module: ModuleRef,
        /// Everything else.
        spec: Arc<TaskSpec>,
        /// Set when there is an idempotency key.
        key: Option<KeyCheck>,
        /// Its predecessors: tasks of its tenant that are not final.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        edges: Vec<Edge>,
    },
    /// Stop a task.
    Cancel {
        /// Whose.
        tenant: TenantName,
        /// Which.
        task: TaskId,
        /// Why.
        reason: Option<String>,
    },
    /// Change a priority.
    Prioritize {
        /// Whose.
        tenant: TenantName,
        /// Which.
        task: TaskId,
        /// -100 to 100.
        priority: i8,
    },
    /// Create a tenant.
    CreateTenant {
        /// Its name.
        name: TenantName,
        /// Its weight, 1 to 1000.
        weight: u32,
        /// Its class, -100 to 100.
        #[serde(default)]
        class: i8,
        /// Its quotas.
        quotas: Quotas,
    },
    /// Change a tenant; what is `None` stays.
    ChangeTenant {
        /// Its name.
        name: TenantName,
        /// Its weight, 1 to 1000.
        weight: Option<u32>,
        /// Its class, -100 to 100.
        #[serde(default)]
        class: Option<i8>,
        /// Its quotas, all of them.
        quotas: Option<Quotas>,
    },
    /// Delete a tenant with everything that it has; running tasks are cancelled.
    RemoveTenant {
        /// Its name.
        name: TenantName,
    },
    /// Make a token valid.
    AddToken {
        /// All of it.
        token: Token,
    },
    /// Make an admin token valid if there is none yet: of several control nodes that start at the
    /// same time one gets its own.
    AddFirstToken {
        /// All of it.
        token: Token,
    },
    /// Make a token invalid.
    RemoveToken {
        /// Its tenant.
        tenant: TenantName,
        /// Which.
        id: String,
    },
    /// Give a tenant a module whose bytes are stored and checked already, and point an alias at it
    /// if asked.
    AddModule {
        /// Whose.
        tenant: TenantName,
        /// All of it.
        module: Arc<ModuleInfo>,
        /// The alias.
        alias: Option<String>,
    },
    /// Take a module away.
    RemoveModule {
        /// Whose.
        tenant: TenantName,
        /// Which.
        digest: Digest,
    },
    /// Point an alias at a module.
    SetAlias {
        /// Whose.
        tenant: TenantName,
        /// The alias.
        name: String,
        /// The module that it points at.
        digest: Digest,
    },
    /// Remove an alias.
    RemoveAlias {
        /// Whose.
        tenant: TenantName,
        /// The alias.
        name: String,
    },
    /// Drain a host, or end the draining.
    DrainHost {
        /// Which.
        host: HostId,
        /// Whether it takes no new attempts from now on.
        draining: bool,
    },
    /// Let a policy decide again that was benched. One that is not benched stays as it is.
    LiftPolicy {
        /// The hook that it decides.
        hook: PolicyHook,
        /// Its name.
        policy: String,
        /// Its digest, as in [`BenchedRow`](crate::policy::BenchedRow).
        #[serde(default)]
        digest: Digest,
    },
}

/// An idempotency key that the shell has looked for in the read model without finding it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyCheck {
    /// The key; also in the task.
    pub key: String,
    /// SHA-256 of the submission: the same key with another one is a conflict.
    pub fingerprint: Digest,
    /// The read model held every record up to this one when it was asked. The core knows the keys
    /// of later ones, and answers [`Refusal::KeyCheckStale`] when it has forgotten some of them
    /// already.
    pub checked_to: LogSeq,
}

/// The answer of the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done and durable.
    Done {
        /// The record that holds it; reads at or after this see it.
        seq: LogSeq,
        /// The effect of a command.
        done: Done,
    },
    /// Understood but refused; nothing changed.
    Refused(Refusal),
}

/// The effect of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    /// The task is accepted.
    Accepted {
        /// Its id.
        task: TaskId,
    },
    /// There is a task with this idempotency key and the same submission.
    Repeated {
        /// Its id.
        task: TaskId,
    },
    /// The task was asked to stop and runs still.
    CancelAsked,
    /// The task is cancelled.
    Cancelled,
    /// The module, tenant, token or alias was new.
    Created,
    /// It was there; it is now as asked.
    Changed,
    /// It is gone.
    Removed,
}

/// Why the leader refused. The HTTP interface turns each into a problem with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No such task in this tenant, or it is final and only the read model knows it.
    TaskUnknown,
    /// No such module or alias in this tenant.
    ModuleUnknown,
    /// A task that is not final uses the module.
    ModuleInUse {
        /// One of them.
        task: TaskId,
    },
    /// No such alias.
    AliasUnknown,
    /// No such tenant.
    TenantUnknown,
    /// A tenant of this name exists.
    TenantExists,
    /// The default tenant cannot be deleted.
    TenantPermanent,
    /// No such token.
    TokenUnknown,
    /// A token of this id or hash exists.
    TokenExists,
    /// There is an admin token already.
    AdminExists,
    /// No such host.
    HostUnknown,
    /// Over a quota of the tenant.
    Quota {
        /// Which.
        quota: QuotaKind,
        /// Its value.
        limit: u64,
    },
    /// The idempotency key names a task whose submission was different.
    KeyConflict {
        /// That task.
        task: TaskId,
    },
    /// Look the key up in the read model again: what was looked up is too old.
    KeyCheckStale,
    /// No work is taken right now; try again after this many milliseconds.
    Overloaded {
        /// The queue or the bound that is full.
        what: Overload,
        /// Milliseconds.
        retry_ms: u64,
    },
    /// There are as many as there may be: one must be removed first.
    TooMany {
        /// Of what.
        what: Counted,
        /// How many there may be.
        limit: u64,
    },
    /// It would be too large for a record of the log.
    TooLarge {
        /// About how large it would be.
        bytes: u64,
        /// The largest that is taken.
        bytes_max: u64,
    },
    /// The disk is full; nothing is accepted until there is space.
    NoSpace,
    /// This node does not lead.
    NotLeader,
    /// Leadership has ended before the answer: it may have been done or not.
    OutcomeUnknown,
}

/// The queue or the bound that is full when no work is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overload {
    /// The commands that wait for the scheduler.
    Commands,
    /// The tasks that are not final.
    Tasks,
    /// The different shapes of tasks in the queue of one tenant.
    TenantShapes,
    /// The different shapes of tasks in the queue.
    Shapes,
    /// The records that the read model has yet to write.
    ReadModel,
    /// The edges between tasks that are not final.
    Edges,
}

impl Overload {
    /// Whether it is full of what callers have sent, so that sending less of it helps.
    pub fn is_of_callers(self) -> bool {
        match self {
            Self::Commands | Self::Tasks | Self::TenantShapes | Self::Shapes | Self::Edges => true,
            Self::ReadModel => false,
        }
    }
}

impl fmt::Display for Overload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Commands => "too many commands wait for the scheduler",
            Self::Tasks => "too many tasks are not final",
            Self::TenantShapes => {
                "too many combinations of module, memory, labels and priority are in the tenant's queue"
            }
            Self::Shapes => "too many combinations of tenant, module, memory, labels and priority are in the queue",
            Self::ReadModel => "the read model is behind",
            Self::Edges => "too many edges between tasks that are not final",
        })
    }
}

/// Things of a tenant or of the whole that have a bound and no quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Counted {
    /// Tenants.
    Tenants,
    /// Tokens of one tenant.
    Tokens,
    /// Aliases of one tenant.
    Aliases,
    /// Hosts that are drained, whether they are there or not.
    HostsDrained,
    /// Edges that lead to one task.
    EdgesOfTask,
}

impl Counted {
    /// For people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenants => "tenants",
            Self::Tokens => "tokens of the tenant",
            Self::Aliases => "aliases of the tenant",
            Self::HostsDrained => "hosts that are drained",
            Self::EdgesOfTask => "edges that lead to the task",
        }
    }
}

/// A quota of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaKind {
    /// [`Quotas::tasks_queued`].
    TasksQueued,
    /// [`Quotas::modules`].
    Modules,
    /// [`Quotas::module_bytes`].
    ModuleBytes,
}

impl QuotaKind {
    /// The stable name, as HTTP answers carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TasksQueued => "tasks_queued",
            Self::Modules => "modules",
            Self::ModuleBytes => "module_bytes",
        }
    }
}
