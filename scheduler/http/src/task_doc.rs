//! Tasks as they are shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::value::RawValue;
use wasmill_api::{OutcomeDoc, ProgressDoc, TaskDoc, TaskEventDoc, Time, UsageDoc};
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::task::InputForm;
use wasmill_protocol::{OutcomeKind, Payload, TaskState, Timestamp};
use wasmill_record::event::{EndReason, Sequel};

use super::App;
use super::readable::is_readable;
use wasmill_scheduler::read_model::{HistoryEntry, HistoryEvent, TaskRow};

/// How much of a task is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    /// All of it.
    Whole,
    /// Without payload and result: what a listing shows.
    Brief,
}

/// A task with why it does not run, as the core says it.
pub(super) async fn explained(app: &App, row: &TaskRow, shown: Shown) -> TaskDoc {
    let mut document = document(app, row, shown);
    if matches!(row.state, TaskState::Waiting | TaskState::Queued)
        && let Some(waiting) = app.handle.explain(vec![row.id]).await.pop()
        && waiting.waiting_for.is_some()
    {
        document.waiting_for = waiting.waiting_for;
    }
    document
}

/// A task without asking the core.
pub(super) fn document(app: &App, row: &TaskRow, shown: Shown) -> TaskDoc {
    let mut document = described(row);
    if shown == Shown::Whole {
        show_input(row, &mut document);
        document.output = if let Payload::Inline(bytes) = &row.output { json_value(bytes) } else { None };
    }
    let said = match &row.host {
        Some(host) if row.state == TaskState::Running => app.handle.shared().progress.of(host, row.id),
        _ if row.state.is_final() => row.outcome.as_ref().and_then(|outcome| outcome.progress.clone()),
        _ => None,
    };
    document.progress = said.map(|said| ProgressDoc { done: said.done, total: said.total, message: said.message });
    document
}

fn described(row: &TaskRow) -> TaskDoc {
    let spec = &*row.spec;
    let seed = spec.seed_of(row.id);
    let command = spec.kind == ModuleKind::Command;
    TaskDoc {
        id: row.id,
        tenant: spec.tenant.clone(),
        module: spec.module,
        state: row.state,
        reason: reason(row),
        cancel_requested: row.cancel_requested,
        cancel_reason: row.cancel_reason.clone(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        labels: spec.labels.clone(),
        args: spec.args.clone(),
        env: spec.env.clone(),
        program: command.then(|| spec.program().to_owned()),
        ok_exit: command.then(|| spec.ok_exit().to_vec()),
        limits: spec.limits,
        priority: spec.priority,
        attempts_max: spec.retry.attempts_max,
        backoff_ms: spec.retry.backoff_ms,
        backoff_ms_max: spec.retry.backoff_ms_max,
        not_before: (spec.not_before != Timestamp(0)).then_some(Time(spec.not_before)),
        expires_ms: spec.expires_ms,
        idempotency_key: spec.idempotency_key.clone(),
        require: spec.require.clone(),
        deterministic: spec.deterministic,
        seed,
        seed_text: seed.map(|seed| seed.to_string()),
        retry_of: spec.retry_of,
        waiting_for: waiting_for(row),
        attempt: row.attempt,
        host: row.host.clone(),
        outcome: shown_outcome(row),
        usage: row.usage.as_ref().map(UsageDoc::from),
        cached: row.usage.is_some_and(|usage| usage.cached),
        created_at: Time(row.created_at),
        updated_at: Time(row.updated_at),
        started_at: row.started_at.map(Time),
        finished_at: row.finished_at.map(Time),
        ..TaskDoc::default()
    }
}

/// The reason that is known without the core.
fn waiting_for(row: &TaskRow) -> Option<String> {
    match row.state {
        TaskState::Waiting => Some(match row.waiting_until {
            Some(until) => format!("its time: {until}"),
            None => "its time, or tasks that it depends on".to_owned(),
        }),
        TaskState::Queued => Some("a free slot on a host".to_owned()),
        _ => None,
    }
}

fn reason(row: &TaskRow) -> Option<String> {
    if !row.state.is_final() || row.state == TaskState::Succeeded {
        return None;
    }
    let reason = match &row.end_reason {
        Some(EndReason::Expired) => "expired",
        Some(EndReason::TenantRemoved) => "tenant_removed",
        Some(EndReason::Skipped { .. }) => "dependency",
        Some(EndReason::Cancelled { .. }) => OutcomeKind::Cancelled.as_str(),
        None => row.outcome.as_ref()?.kind.as_str(),
    };
    Some(reason.to_owned())
}

fn shown_outcome(row: &TaskRow) -> Option<OutcomeDoc> {
    match &row.end_reason {
        // No attempt ended it, but whoever looks for how it ended looks here.
        Some(EndReason::Cancelled { reason }) => Some(OutcomeDoc {
            kind: OutcomeKind::Cancelled,
            message: reason.clone().unwrap_or_else(|| "cancelled before it ran".to_owned()),
            ..OutcomeDoc::default()
        }),
        _ => row.outcome.as_deref().map(OutcomeDoc::from),
    }
}

/// Shows the payload as it was submitted; one that is a blob, or that some client could not read,
/// is not shown.
fn show_input(row: &TaskRow, document: &mut TaskDoc) {
    let bytes = match &row.spec.input {
        Payload::Inline(bytes) => bytes.clone(),
        Payload::Empty => Bytes::new(),
        Payload::Blob { .. } => return,
    };
    match row.spec.input_form {
        InputForm::Json => document.input = json_value(&bytes),
        InputForm::Text => document.input_text = Some(String::from_utf8_lossy(&bytes).into_owned()),
        InputForm::Bytes if bytes.is_empty() => {}
        InputForm::Bytes => document.input_base64 = Some(STANDARD.encode(&bytes)),
    }
}

/// A payload or result as a JSON value, if it is one that every client can read.
pub(super) fn json_value(bytes: &[u8]) -> Option<Box<RawValue>> {
    if is_readable(bytes) { serde_json::from_slice(bytes).ok() } else { None }
}

/// One entry of a history as it is shown.
pub(super) fn event(entry: &HistoryEntry) -> TaskEventDoc {
    let base = |event: &str| TaskEventDoc {
        at: Time(entry.at),
        seq: entry.seq.0,
        event: event.to_owned(),
        ..TaskEventDoc::default()
    };
    match &entry.event {
        HistoryEvent::Submitted { waiting_until } => {
            TaskEventDoc { not_before: waiting_until.map(Time), ..base("submitted") }
        }
        HistoryEvent::Queued => base("queued"),
        HistoryEvent::Prioritized { priority } => TaskEventDoc { priority: Some(*priority), ..base("prioritized") },
        HistoryEvent::AttemptStarted { attempt, host } => {
            TaskEventDoc { attempt: Some(attempt.0), host: Some(host.to_string()), ..base("attempt_started") }
        }
        HistoryEvent::CheckpointSaved { attempt, bytes, times } => TaskEventDoc {
            attempt: Some(attempt.0),
            bytes: Some(*bytes),
            times: Some(*times),
            ..base("checkpoint_saved")
        },
        HistoryEvent::AttemptEnded { attempt, kind, message, next, fuel, cached } => {
            let (state, not_before) = match next {
                Sequel::Final { state } => ((*state).into(), None),
                Sequel::Retry { not_before } => (TaskState::Waiting, Some(Time(*not_before))),
                Sequel::Requeue => (TaskState::Queued, None),
            };
            TaskEventDoc {
                attempt: Some(attempt.0),
                outcome: Some(*kind),
                message: Some(message.clone()).filter(|message| !message.is_empty()),
                fuel: *fuel,
                cached: cached.then_some(true),
                state: Some(state),
                not_before,
                ..base("attempt_ended")
            }
        }
        HistoryEvent::CancelRequested { reason } => TaskEventDoc { reason: reason.clone(), ..base("cancel_requested") },
        HistoryEvent::Ended { state, reason } => {
            let reason = match reason {
                EndReason::Cancelled { reason } => reason.clone(),
                EndReason::Expired => Some("expired".to_owned()),
                EndReason::TenantRemoved => Some("tenant_removed".to_owned()),
                EndReason::Skipped { predecessor } => Some(format!("dependency {predecessor}")),
            };
            TaskEventDoc { state: Some((*state).into()), reason, ..base("ended") }
        }
        HistoryEvent::ReportLate { attempt, host } => {
            TaskEventDoc { attempt: Some(attempt.0), host: Some(host.to_string()), ..base("report_late") }
        }
    }
}
