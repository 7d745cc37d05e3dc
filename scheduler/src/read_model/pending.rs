//! Records that are applied but not yet in the file, found by task and by idempotency key.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use wasmill_protocol::{Digest, LogSeq, Payload, TaskId, TenantName};
use wasmill_record::Record;
use wasmill_record::event::{Event, EventBody};

use super::stored::submission_bytes;

/// The memory of an event beside its payloads, roughly.
const EVENT_BYTES: u64 = 512;

/// Records that go into the file together.
#[derive(Default)]
pub(super) struct Generation {
    records: Vec<(LogSeq, Arc<Record>)>,
    /// Events about tasks, each linked to the one before about the same task.
    links: Vec<Link>,
    last_link: HashMap<TaskId, u32, BuildHasherDefault<TaskIdHasher>>,
    keys: HashMap<TenantName, HashMap<String, PendingKey>>,
    erased: Vec<(TenantName, EventPosition)>,
    /// The submissions of tenants, in bytes that count towards their quota; of one that was
    /// removed, since then.
    submitted: HashMap<TenantName, u64>,
    bytes: u64,
}

/// The place of an event in the log.
pub(super) type EventPosition = (LogSeq, u32);

#[derive(Clone, Copy)]
struct Link {
    record: u32,
    event: u32,
    before: Option<u32>,
}

/// An idempotency key and the task that it names.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingKey {
    pub(super) task: TaskId,
    pub(super) fingerprint: Digest,
    pub(super) place: EventPosition,
}

/// An event about a task; keeps its record alive.
#[derive(Clone)]
pub(super) struct PendingEvent {
    pub(super) place: EventPosition,
    record: Arc<Record>,
}

impl PendingEvent {
    pub(super) fn event(&self) -> &Event {
        &self.record.events[self.place.1 as usize]
    }
}

impl Generation {
    /// One as large as an earlier one, so that it need not grow step by step while writers wait.
    pub(super) fn sized_like(earlier: &Self) -> Self {
        Self {
            records: Vec::with_capacity(earlier.records.len()),
            links: Vec::with_capacity(earlier.links.len()),
            last_link: HashMap::with_capacity_and_hasher(earlier.last_link.len(), BuildHasherDefault::default()),
            ..Self::default()
        }
    }

    /// Adds the record that follows.
    pub(super) fn push(&mut self, seq: LogSeq, record: &Arc<Record>) {
        let record_index = self.records.len() as u32;
        for (event, index) in record.events.iter().zip(0..) {
            self.bytes += EVENT_BYTES;
            if let Some(task) = event.body.task() {
                let link = self.links.len() as u32;
                let before = self.last_link.insert(task, link);
                self.links.push(Link { record: record_index, event: index, before });
            }
            self.index_event(&event.body, (seq, index));
        }
        self.records.push((seq, Arc::clone(record)));
    }

    fn index_event(&mut self, event: &EventBody, place: EventPosition) {
        match event {
            EventBody::TaskSubmitted { task, spec, fingerprint, .. } => {
                self.bytes += inline_bytes(&spec.input);
                let bytes = submission_bytes(spec);
                match self.submitted.get_mut(&spec.tenant) {
                    Some(submitted) => *submitted += bytes,
                    None => drop(self.submitted.insert(spec.tenant.clone(), bytes)),
                }
                if let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) {
                    let pending = PendingKey { task: *task, fingerprint: *fingerprint, place };
                    self.keys.entry(spec.tenant.clone()).or_default().insert(key.clone(), pending);
                }
            }
            EventBody::AttemptEnded { output, captured, .. } => {
                self.bytes += inline_bytes(output) + inline_bytes(captured);
            }
            EventBody::CheckpointSaved { data, .. } => self.bytes += inline_bytes(data),
            EventBody::TenantRemoved { tenant } => {
                self.submitted.remove(tenant);
                self.erased.push((tenant.clone(), place));
            }
            _ => {}
        }
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Memory that this holds, roughly.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Every event with its record, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = (LogSeq, &Event)> {
        self.records.iter().flat_map(|(seq, record)| record.events.iter().map(|event| (*seq, event)))
    }

    /// Appends the events about a task to `events`, in order.
    pub(super) fn collect_events(&self, task: TaskId, events: &mut Vec<PendingEvent>) {
        let begin = events.len();
        let mut link = self.last_link.get(&task).copied();
        while let Some(index) = link {
            let Link { record, event, before } = self.links[index as usize];
            let (seq, record) = &self.records[record as usize];
            events.push(PendingEvent { place: (*seq, event), record: Arc::clone(record) });
            link = before;
        }
        events[begin..].reverse();
    }

    /// The newest task under an idempotency key.
    pub(super) fn key(&self, tenant: &TenantName, key: &str) -> Option<PendingKey> {
        self.keys.get(tenant)?.get(key).copied()
    }

    /// The submissions of a tenant, in bytes that count towards its quota; since it was last
    /// removed, if it was.
    pub(super) fn submitted(&self, tenant: &TenantName) -> u64 {
        self.submitted.get(tenant).copied().unwrap_or(0)
    }

    /// Whether any tenant was removed.
    pub(super) fn removed_a_tenant(&self) -> bool {
        !self.erased.is_empty()
    }

    /// Where a tenant was last removed.
    pub(super) fn erased(&self, tenant: &TenantName) -> Option<EventPosition> {
        self.erased.iter().rev().find(|(erased, _)| erased == tenant).map(|(_, place)| *place)
    }
}

fn inline_bytes(payload: &Payload) -> u64 {
    if let Payload::Inline(bytes) = payload { bytes.len() as u64 } else { 0 }
}

/// Task ids end in random bits that this node has drawn itself, so nobody can aim for collisions
/// and a multiplication spreads them enough.
#[derive(Default)]
pub(super) struct TaskIdHasher(u64);

impl Hasher for TaskIdHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(23) ^ u64::from_le_bytes(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn write_usize(&mut self, _: usize) {
        // The length, which is that of every id.
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
