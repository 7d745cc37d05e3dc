//! Payloads at hand: what a dispatch needs of recent tasks, so that most dispatches do not ask the read model.

use std::collections::HashMap;
use std::sync::Arc;

use wasmill_protocol::{Payload, TaskId, TaskSpec, TraceParent};
use wasmill_record::event::{Event, EventBody, Sequel};

/// Tasks that are kept at hand at most; the read model has the others.
const SPECS_MAX: usize = 64 * 1024;
/// Payload bytes that are kept at hand at most.
const PAYLOAD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A bounded cache of tasks that are not final. What does not fit when it is submitted is not kept: it is at the end of a
/// long queue and would push out what is needed sooner.
#[derive(Default)]
pub(super) struct SpecCache {
    by_task: HashMap<TaskId, (Arc<TaskSpec>, Payload)>,
    payload_bytes: u64,
}

impl SpecCache {
    /// Takes in what was decided.
    pub(super) fn apply(&mut self, event: &Event) {
        match &event.body {
            EventBody::TaskSubmitted { task, spec, .. } => self.keep(*task, spec),
            EventBody::CheckpointSaved { id, data, .. } => self.checkpoint(id.task, data),
            EventBody::AttemptEnded { id, next: Sequel::Final { .. }, .. } => self.forget(id.task),
            EventBody::TaskEnded { task, .. } => self.forget(*task),
            _ => {}
        }
    }

    /// What a host needs of a task, with the last checkpoint.
    pub(super) fn get(&self, task: TaskId) -> Option<(Arc<TaskSpec>, Payload)> {
        self.by_task.get(&task).cloned()
    }

    /// Where a task belongs, when it is recorded.
    pub(super) fn place_of(&self, task: TaskId) -> Option<TraceParent> {
        self.by_task.get(&task).and_then(|(spec, _)| spec.trace)
    }

    fn keep(&mut self, task: TaskId, spec: &Arc<TaskSpec>) {
        let bytes = inline_bytes(&spec.input);
        if self.by_task.len() < SPECS_MAX && self.payload_bytes + bytes <= PAYLOAD_BYTES_MAX {
            self.payload_bytes += bytes;
            self.by_task.insert(task, (Arc::clone(spec), Payload::Empty));
        }
    }

    fn checkpoint(&mut self, task: TaskId, data: &Payload) {
        if let Some((_, checkpoint)) = self.by_task.get_mut(&task) {
            self.payload_bytes = self.payload_bytes + inline_bytes(data) - inline_bytes(checkpoint);
            *checkpoint = data.clone();
        }
    }

    fn forget(&mut self, task: TaskId) {
        if let Some((spec, checkpoint)) = self.by_task.remove(&task) {
            self.payload_bytes -= inline_bytes(&spec.input) + inline_bytes(&checkpoint);
        }
    }
}

/// What a payload takes in memory; a blob takes nothing.
fn inline_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Inline(bytes) => bytes.len() as u64,
        Payload::Empty | Payload::Blob { .. } => 0,
    }
}
