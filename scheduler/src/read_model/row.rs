//! Rows for readers: a task as it stands, and what happened to it.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmill_protocol::{
    Attempt, FinalState, HostId, LogSeq, Outcome, OutcomeKind, Payload, TaskId, TaskSpec, TaskState, Timestamp, Usage,
};
use wasmill_record::event::{EndReason, Sequel};

/// A task as it stands.
///
/// `outcome`, `usage`, `captured` and `started_at` are those of the attempt that runs, or else of
/// the last one that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRow {
    /// Its id.
    pub id: TaskId,
    /// The spec as it was submitted, tenant included; but `priority` is the current one.
    pub spec: Arc<TaskSpec>,
    /// Where it stands.
    pub state: TaskState,
    /// The attempt that runs or ran last; 0 before the first.
    pub attempt: Attempt,
    /// Where it runs, or ran when it became final; `None` while it waits.
    pub host: Option<HostId>,
    /// The earliest start of the next attempt, while it waits for that.
    pub waiting_until: Option<Timestamp>,
    /// How the attempt ended.
    pub outcome: Option<Arc<Outcome>>,
    /// Why the task became final, when no attempt decided it.
    pub end_reason: Option<EndReason>,
    /// The resources that the attempt used.
    pub usage: Option<Usage>,
    /// The result of a task that succeeded.
    pub output: Payload,
    /// Captured stdout and stderr of the attempt.
    pub captured: Payload,
    /// Whether somebody asked for it to stop.
    pub cancel_requested: bool,
    /// Why, in the words of the caller.
    pub cancel_reason: Option<String>,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When something last happened to it.
    pub updated_at: Timestamp,
    /// When the attempt was placed on its host.
    pub started_at: Option<Timestamp>,
    /// When it became final.
    pub finished_at: Option<Timestamp>,
}

/// The checkpoint that an attempt began with.
#[derive(Debug, Clone, PartialEq)]
pub enum BeganWith {
    /// No earlier attempt had saved any.
    Nothing,
    /// This one.
    Checkpoint(Payload),
    /// One that is no longer kept: only those of the latest attempts are.
    Forgotten,
}

/// The events of a task, in order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct History {
    /// At most [`HISTORY_ENTRIES_MAX`]; the first is always the submission.
    pub entries: Vec<HistoryEntry>,
    /// How many entries after the first were left out.
    pub left_out: u64,
}

/// The entries of a task's history that are kept. Beyond, those after the submission are left out.
pub const HISTORY_ENTRIES_MAX: usize = 1000;

/// One thing that happened to a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The record that holds it.
    pub seq: LogSeq,
    /// When it was decided.
    pub at: Timestamp,
    /// The event.
    pub event: HistoryEvent,
}

/// An event of a task. Stored under short names: there are a few in every row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum HistoryEvent {
    /// It was accepted.
    #[serde(rename = "s")]
    Submitted {
        /// The earliest start, if that was later.
        waiting_until: Option<Timestamp>,
    },
    /// It could start from here on.
    #[serde(rename = "q")]
    Queued,
    /// Its priority was changed.
    #[serde(rename = "p")]
    Prioritized {
        /// The new priority.
        priority: i8,
    },
    /// An attempt was placed on a host.
    #[serde(rename = "a")]
    AttemptStarted {
        /// Which.
        attempt: Attempt,
        /// Where.
        host: HostId,
    },
    /// Its guest saved checkpoints, with nothing else in between.
    #[serde(rename = "c")]
    CheckpointSaved {
        /// Which attempt.
        attempt: Attempt,
        /// Bytes of the last one.
        bytes: u64,
        /// How many; time and record of the entry are those of the last one.
        times: u32,
    },
    /// The attempt ended.
    #[serde(rename = "e")]
    AttemptEnded {
        /// Which.
        attempt: Attempt,
        /// How.
        kind: OutcomeKind,
        /// The beginning of the outcome's message.
        message: String,
        /// The sequel for the task.
        next: Sequel,
        /// Fuel that it used, when that was counted.
        #[serde(default)]
        fuel: Option<u64>,
        /// Whether the result was there already, and nothing was run.
        #[serde(default)]
        cached: bool,
    },
    /// Somebody asked for it to stop.
    #[serde(rename = "r")]
    CancelRequested {
        /// Why.
        reason: Option<String>,
    },
    /// It became final without an attempt that decided it.
    #[serde(rename = "f")]
    Ended {
        /// How.
        state: FinalState,
        /// Why.
        reason: EndReason,
    },
    /// A report came for an attempt that was not current any more, and was dropped.
    #[serde(rename = "l")]
    ReportLate {
        /// Which attempt.
        attempt: Attempt,
        /// From where.
        host: HostId,
    },
}
