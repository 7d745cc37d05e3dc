//! A task that is not final, as the state has it.

use wasmill_protocol::task::{RetryOn, RetryPolicy};
use wasmill_protocol::{
    Attempt, AttemptId, HostId, Incarnation, Nonce, TaskId, TaskSpec, TaskState, TenantName, Timestamp,
};

use super::slab::{NONE, Slot};

/// A task that is not final. There may be millions: everything that tasks share is a number of an
/// entry elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) id: TaskId,
    /// Of the current or the last attempt.
    pub(crate) nonce: Nonce,
    /// When it last became queued.
    pub(crate) queued_at: Timestamp,
    /// While waiting: when it is queued. While queued: when it expires, if it does. While blocked:
    /// the earliest time at which it is queued, if there is one. Else zero.
    pub(crate) timer: Timestamp,
    /// Which shape it has.
    pub(crate) shape: Slot,
    /// Which patience it has.
    pub(crate) retry_rules: Slot,
    /// Where it runs, while it runs.
    pub(crate) placement: Slot,
    /// The first edge that leaves it, and the first that leads to it.
    pub(crate) edges_leaving: Slot,
    pub(crate) edges_leading: Slot,
    /// Links of the one list that it is in.
    pub(crate) prev: Slot,
    pub(crate) next: Slot,
    /// The current or the last attempt; 0 before the first.
    pub(crate) attempt: Attempt,
    /// Attempts that failed and were charged.
    pub(crate) failures: u32,
    /// The newest checkpoint of the current attempt.
    pub(crate) checkpoint: u32,
    pub(crate) hosts_lost: u8,
    pub(crate) host_faults: u8,
    pub(crate) phase: Phase,
    /// Asked to stop while it ran.
    pub(crate) cancel_requested: bool,
    /// A report for the current attempt came from elsewhere, and that was recorded.
    pub(crate) late_recorded: bool,
}

/// Where a task stands that is not final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Phase {
    /// For a time or a retry.
    #[default]
    Waiting,
    Queued,
    Running,
    /// For other tasks to end.
    Blocked,
    /// For nothing more: its leader queues or skips it.
    Unblocked,
}

impl Default for Task {
    fn default() -> Self {
        Self {
            id: TaskId::default(),
            nonce: Nonce(0),
            queued_at: Timestamp(0),
            timer: Timestamp(0),
            shape: NONE,
            retry_rules: NONE,
            placement: NONE,
            edges_leaving: NONE,
            edges_leading: NONE,
            prev: NONE,
            next: NONE,
            attempt: Attempt(0),
            failures: 0,
            checkpoint: 0,
            hosts_lost: 0,
            host_faults: 0,
            phase: Phase::Waiting,
            cancel_requested: false,
            late_recorded: false,
        }
    }
}

impl Task {
    /// The current or the last attempt.
    pub(crate) fn attempt_id(&self) -> AttemptId {
        AttemptId { task: self.id, attempt: self.attempt, nonce: self.nonce }
    }

    /// Whether `id` is the attempt that runs.
    pub(crate) fn runs(&self, id: AttemptId) -> bool {
        self.phase == Phase::Running && self.attempt_id() == id
    }

    /// The state that clients see.
    pub(crate) fn state(&self) -> TaskState {
        match self.phase {
            Phase::Waiting | Phase::Blocked | Phase::Unblocked => TaskState::Waiting,
            Phase::Queued => TaskState::Queued,
            Phase::Running => TaskState::Running,
        }
    }
}

/// How often a task is tried and how long it waits: most tasks share few of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RetryRules {
    pub(crate) attempts_max: u32,
    pub(crate) backoff_ms: u64,
    pub(crate) backoff_ms_max: u64,
    pub(crate) on: RetryOn,
    pub(crate) expires_ms: Option<u64>,
}

impl RetryRules {
    pub(crate) fn of(spec: &TaskSpec) -> Self {
        let RetryPolicy { attempts_max, backoff_ms, backoff_ms_max, on } = spec.retry;
        Self { attempts_max, backoff_ms, backoff_ms_max, on, expires_ms: spec.expires_ms }
    }

    pub(crate) fn retry(&self) -> RetryPolicy {
        let Self { attempts_max, backoff_ms, backoff_ms_max, on, .. } = *self;
        RetryPolicy { attempts_max, backoff_ms, backoff_ms_max, on }
    }
}

/// The view that [`State`](super::State) gives of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskView {
    /// Which.
    pub id: TaskId,
    /// Whose.
    pub tenant: TenantName,
    /// `Waiting`, `Queued` or `Running`.
    pub state: TaskState,
    /// Its priority.
    pub priority: i8,
    /// The current attempt while it runs, else the last one; number 0 before the first.
    pub attempt: AttemptId,
    /// Where it runs, while it runs.
    pub host: Option<(HostId, Incarnation)>,
    /// When it last became queued.
    pub queued_at: Timestamp,
    /// While waiting: when it is queued, or the earliest time for that. While queued: when it
    /// expires, if it does.
    pub timer: Option<Timestamp>,
    /// Asked to stop.
    pub cancel_requested: bool,
    /// Attempts that failed and were charged.
    pub failures: u32,
    /// Hosts that were lost while they ran it.
    pub hosts_lost: u8,
}
