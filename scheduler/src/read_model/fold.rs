//! How a task's row follows from its events.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use wasmill_protocol::{
    Attempt, FinalState, HostId, LogSeq, Outcome, Payload, TaskId, TaskSpec, TaskState, Timestamp, Usage,
};
use wasmill_record::event::{EndReason, Event, EventBody, Sequel};

use super::row::{BeganWith, HISTORY_ENTRIES_MAX, History, HistoryEntry, HistoryEvent, TaskRow};

/// Longer messages are cut in the history; the last outcome is kept whole beside it.
const HISTORY_MESSAGE_CHARS_MAX: usize = 200;

/// Checkpoints that attempts began with and that are kept, so that an attempt can be run again: the
/// latest.
pub(super) const RESUMED_KEPT: usize = 4;

/// Everything about a task that changes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TaskStanding {
    pub(super) state: TaskState,
    pub(super) created_at: Timestamp,
    pub(super) updated_at: Timestamp,
    pub(super) finished_at: Option<Timestamp>,
    /// The last record whose events about this task are in here.
    pub(super) seq: LogSeq,
    pub(super) view: View,
}

/// The part of it that is stored as one value.
///
/// Encoded without field names, so a field may only be added at the end; this holds for the types
/// of `protocol` in here too, and a test keeps watch.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct View {
    pub(super) attempt: Attempt,
    pub(super) host: Option<HostId>,
    pub(super) waiting_until: Option<Timestamp>,
    /// Set when it was changed after the submission.
    pub(super) priority: Option<i8>,
    pub(super) outcome: Option<Arc<Outcome>>,
    pub(super) end_reason: Option<EndReason>,
    pub(super) usage: Option<Usage>,
    pub(super) output: Payload,
    pub(super) captured: Payload,
    pub(super) checkpoint: Payload,
    pub(super) cancel_requested: bool,
    pub(super) cancel_reason: Option<String>,
    pub(super) started_at: Option<Timestamp>,
    pub(super) history: Vec<HistoryEntry>,
    pub(super) history_left_out: u64,
    /// The checkpoints that attempts began with, each with the first that did: at most
    /// [`RESUMED_KEPT`]. Before the first, they began with nothing.
    pub(super) resumed: Vec<(Attempt, Payload)>,
    /// The first attempt that began with a checkpoint, also when that one is no longer kept.
    pub(super) resumed_first: Option<Attempt>,
}

impl TaskStanding {
    /// A task that has just been accepted. One that `is_blocked` waits for other tasks first.
    pub(super) fn submitted(seq: LogSeq, at: Timestamp, spec: &TaskSpec, is_blocked: bool) -> Self {
        let waiting_until = (spec.not_before > at).then_some(spec.not_before);
        let waits = is_blocked || waiting_until.is_some();
        let state = if waits { TaskState::Waiting } else { TaskState::Queued };
        let view = View { waiting_until, ..View::default() };
        let mut standing = Self { state, created_at: at, updated_at: at, finished_at: None, seq, view };
        standing.note(seq, at, HistoryEvent::Submitted { waiting_until });
        standing
    }

    /// Takes in an event about this task. A final state never changes.
    pub(super) fn fold(&mut self, seq: LogSeq, event: &Event) {
        self.seq = seq;
        if self.state.is_final() {
            if let EventBody::ReportLate { id, host } = &event.body {
                self.note(seq, event.at, HistoryEvent::ReportLate { attempt: id.attempt, host: host.clone() });
            }
            return;
        }
        self.updated_at = event.at;
        let happened = self.fold_body(event);
        if let Some(happened) = happened {
            self.note(seq, event.at, happened);
        }
    }

    fn fold_body(&mut self, event: &Event) -> Option<HistoryEvent> {
        match &event.body {
            EventBody::TaskQueued { .. } => {
                self.state = TaskState::Queued;
                self.view.waiting_until = None;
                Some(HistoryEvent::Queued)
            }
            EventBody::TaskPrioritized { priority, .. } => {
                self.view.priority = Some(*priority);
                Some(HistoryEvent::Prioritized { priority: *priority })
            }
            EventBody::AttemptStarted { id, host, .. } => {
                self.start(id.attempt, host, event.at);
                Some(HistoryEvent::AttemptStarted { attempt: id.attempt, host: host.clone() })
            }
            EventBody::CheckpointSaved { id, data, .. } => {
                self.view.checkpoint = data.clone();
                Some(HistoryEvent::CheckpointSaved { attempt: id.attempt, bytes: data.byte_count(), times: 1 })
            }
            EventBody::AttemptEnded { id, outcome, usage, output, captured, next } => {
                self.view.outcome = Some(Arc::clone(outcome));
                self.view.usage = Some(*usage);
                self.view.captured = captured.clone();
                self.after_attempt(*next, output, event.at);
                let message = outcome.message.chars().take(HISTORY_MESSAGE_CHARS_MAX).collect();
                let (attempt, kind, next) = (id.attempt, outcome.kind, *next);
                let Usage { fuel, cached, .. } = *usage;
                Some(HistoryEvent::AttemptEnded { attempt, kind, message, next, fuel, cached })
            }
            EventBody::CancelRequested { reason, .. } => {
                self.view.cancel_requested = true;
                self.view.cancel_reason.clone_from(reason);
                Some(HistoryEvent::CancelRequested { reason: reason.clone() })
            }
            EventBody::TaskEnded { state, reason, .. } => {
                self.end(*state, event.at);
                self.view.end_reason = Some(reason.clone());
                Some(HistoryEvent::Ended { state: *state, reason: reason.clone() })
            }
            EventBody::ReportLate { id, host } => {
                Some(HistoryEvent::ReportLate { attempt: id.attempt, host: host.clone() })
            }
            EventBody::TaskSubmitted { .. }
            | EventBody::TermStarted { .. }
            | EventBody::HostDrained { .. }
            | EventBody::TenantPut { .. }
            | EventBody::TenantRemoved { .. }
            | EventBody::TokenAdded { .. }
            | EventBody::TokenRemoved { .. }
            | EventBody::ModuleAdded { .. }
            | EventBody::ModuleRemoved { .. }
            | EventBody::AliasSet { .. }
            | EventBody::AliasRemoved { .. }
            | EventBody::SnapshotTaken { .. }
            | EventBody::ReadModelSaved { .. }
            | EventBody::PolicyBenched { .. }
            | EventBody::PolicyLifted { .. } => None,
        }
    }

    fn start(&mut self, attempt: Attempt, host: &HostId, at: Timestamp) {
        self.state = TaskState::Running;
        let view = &mut self.view;
        view.attempt = attempt;
        view.host = Some(host.clone());
        view.started_at = Some(at);
        view.waiting_until = None;
        // These were the attempt's before.
        view.outcome = None;
        view.usage = None;
        view.captured = Payload::Empty;
        self.note_resumed(attempt);
    }

    /// Keeps what the attempt begins with, unless the one before began with the same.
    fn note_resumed(&mut self, attempt: Attempt) {
        let View { checkpoint, resumed, resumed_first, .. } = &mut self.view;
        let before = resumed.last().map_or(&Payload::Empty, |(_, data)| data);
        if before == checkpoint {
            return;
        }
        resumed_first.get_or_insert(attempt);
        if resumed.len() == RESUMED_KEPT {
            resumed.remove(0);
        }
        resumed.push((attempt, checkpoint.clone()));
    }

    /// The checkpoint that an attempt was given of the ones before.
    pub(super) fn began_with(&self, attempt: Attempt) -> BeganWith {
        let View { resumed, resumed_first, .. } = &self.view;
        match resumed.iter().rfind(|(first, _)| *first <= attempt) {
            Some((_, Payload::Empty)) => BeganWith::Nothing,
            Some((_, data)) => BeganWith::Checkpoint(data.clone()),
            None if resumed_first.is_some_and(|first| first <= attempt) => BeganWith::Forgotten,
            None => BeganWith::Nothing,
        }
    }

    fn after_attempt(&mut self, next: Sequel, output: &Payload, at: Timestamp) {
        match next {
            Sequel::Final { state } => {
                self.end(state, at);
                // Of a failed one too: a command that ends by itself has a result whatever its exit
                // code.
                if matches!(state, FinalState::Succeeded | FinalState::Failed) {
                    self.view.output = output.clone();
                }
            }
            Sequel::Retry { not_before } => {
                self.state = TaskState::Waiting;
                self.view.host = None;
                self.view.waiting_until = Some(not_before);
            }
            Sequel::Requeue => {
                self.state = TaskState::Queued;
                self.view.host = None;
            }
        }
    }

    fn end(&mut self, state: FinalState, at: Timestamp) {
        self.state = state.into();
        self.finished_at = Some(at);
        self.view.waiting_until = None;
        // No attempt will read it any more.
        self.view.checkpoint = Payload::Empty;
    }

    fn note(&mut self, seq: LogSeq, at: Timestamp, event: HistoryEvent) {
        let history = &mut self.view.history;
        if let HistoryEvent::CheckpointSaved { attempt, bytes, .. } = event
            && let Some(last) = history.last_mut()
            && let HistoryEvent::CheckpointSaved { attempt: same, bytes: last_bytes, times } = &mut last.event
            && *same == attempt
        {
            (*last_bytes, *times) = (bytes, times.saturating_add(1));
            (last.seq, last.at) = (seq, at);
            return;
        }
        if history.len() >= HISTORY_ENTRIES_MAX {
            history.remove(1);
            self.view.history_left_out += 1;
        }
        history.push(HistoryEntry { seq, at, event });
    }

    /// The task for readers.
    pub(super) fn into_row(self, id: TaskId, mut spec: Arc<TaskSpec>) -> TaskRow {
        if let Some(priority) = self.view.priority {
            Arc::make_mut(&mut spec).priority = priority;
        }
        TaskRow {
            id,
            spec,
            state: self.state,
            attempt: self.view.attempt,
            host: self.view.host,
            waiting_until: self.view.waiting_until,
            outcome: self.view.outcome,
            end_reason: self.view.end_reason,
            usage: self.view.usage,
            output: self.view.output,
            captured: self.view.captured,
            cancel_requested: self.view.cancel_requested,
            cancel_reason: self.view.cancel_reason,
            created_at: self.created_at,
            updated_at: self.updated_at,
            started_at: self.view.started_at,
            finished_at: self.finished_at,
        }
    }

    /// The task's history for readers.
    pub(super) fn into_history(self) -> History {
        History { entries: self.view.history, left_out: self.view.history_left_out }
    }
}
