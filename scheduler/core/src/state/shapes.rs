//! Shapes: what decisions are made over, so that they cost the same for ten tasks and for a
//! million.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::{Digest, TaskSpec, Timestamp};

use super::slab::{List, NONE, Slab, Slot};
use super::task::Task;
use super::tenants::TenantNumber;

/// Labels that hosts must carry.
pub type Labels = BTreeMap<String, String>;

/// Tasks with the same key are alike for order and placement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShapeKey {
    pub(crate) tenant: TenantNumber,
    pub(crate) priority: i8,
    pub(crate) memory_bytes: u64,
    pub(crate) module: Digest,
    pub(crate) require: Arc<Labels>,
}

/// A shape that some task has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) key: ShapeKey,
    /// Tasks of this shape in any phase.
    pub(crate) tasks: u32,
    pub(crate) queued: List,
    pub(crate) waiting: List,
    /// Since when the task of this shape that waits longest has been in the queue. A task that
    /// comes back to the front is younger than those behind it, and takes nothing of their wait
    /// away. [`Timestamp::MAX`] when the queue is empty.
    pub(crate) since: Timestamp,
}

/// Shapes that have changed since somebody looked, in order. Only a leader looks; for others
/// nothing gathers.
///
/// It is no part of what the log says, so all journals are equal.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    open: bool,
    entries: Vec<ShapeChange>,
}

/// A change of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShapeChange {
    /// Its queue is another one.
    Queue(Slot),
    /// No task has it any more; its number may name another shape.
    Gone(Slot),
}

impl Journal {
    fn note(&mut self, change: ShapeChange) {
        if self.open && self.entries.last() != Some(&change) {
            self.entries.push(change);
        }
    }
}

impl PartialEq for Journal {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Journal {}

/// All shapes that some task has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shapes {
    by_key: BTreeMap<ShapeKey, Slot>,
    shapes: Slab<Shape>,
    journal: Journal,
    /// Shapes with a task in the queue.
    pub(crate) with_queued: BTreeSet<Slot>,
    /// Shared by all shapes that require nothing: nearly all of them.
    no_labels: Arc<Labels>,
}

impl Shapes {
    /// The key of a task as it is submitted.
    pub(crate) fn key(&self, tenant: TenantNumber, spec: &TaskSpec) -> ShapeKey {
        let require =
            if spec.require.is_empty() { Arc::clone(&self.no_labels) } else { Arc::new(spec.require.clone()) };
        let (priority, memory_bytes, module) = (spec.priority, spec.limits.memory_bytes, spec.module);
        ShapeKey { tenant, priority, memory_bytes, module, require }
    }

    /// The shape of `key`, with one task more. `true` when it is new.
    pub(crate) fn acquire(&mut self, key: ShapeKey) -> (Slot, bool) {
        if let Some(&slot) = self.by_key.get(&key) {
            self.shapes[slot].tasks += 1;
            return (slot, false);
        }
        let (queued, waiting) = (List::default(), List::default());
        let shape = Shape { key: key.clone(), tasks: 1, queued, waiting, since: Timestamp::MAX };
        let slot = self.shapes.insert(shape);
        let indexed = self.by_key.insert(key, slot);
        assert!(indexed.is_none(), "a key names one shape");
        (slot, true)
    }

    /// One task less. `true` when that was the last one.
    pub(crate) fn release(&mut self, slot: Slot) -> bool {
        let shape = &mut self.shapes[slot];
        assert!(shape.tasks > 0, "a shape is released as often as it was acquired");
        shape.tasks -= 1;
        if shape.tasks > 0 {
            return false;
        }
        assert!(shape.queued.count == 0 && shape.waiting.count == 0, "no task is in a list of a shape without tasks");
        let shape = self.shapes.remove(slot);
        let indexed = self.by_key.remove(&shape.key);
        assert!(indexed == Some(slot), "the index of keys points at the shape");
        self.journal.note(ShapeChange::Gone(slot));
        true
    }

    /// From now on it is noted which shapes change.
    pub(crate) fn open_journal(&mut self) {
        self.journal.open = true;
    }

    /// The changes since the last call.
    pub(crate) fn take_changes(&mut self) -> Vec<ShapeChange> {
        std::mem::take(&mut self.journal.entries)
    }

    /// The values by place. Cheap: nothing is copied until it changes.
    pub(crate) fn places(&self) -> Slab<Shape> {
        self.shapes.clone()
    }

    /// From what is in each place. `None` when two shapes are the same.
    pub(crate) fn from_places(shapes: Slab<Shape>) -> Option<Self> {
        let by_key: BTreeMap<_, _> = shapes.iter().map(|(slot, shape)| (shape.key.clone(), slot)).collect();
        let with_queued = shapes.iter().filter(|(_, shape)| shape.queued.count > 0).map(|(slot, _)| slot).collect();
        let distinct = by_key.len() == shapes.iter().count();
        distinct.then(|| Self { by_key, shapes, with_queued, ..Self::default() })
    }

    /// A shape that some task has.
    pub(crate) fn shape(&self, slot: Slot) -> &Shape {
        &self.shapes[slot]
    }

    /// A shape, if some task has it.
    pub(crate) fn find(&self, slot: Slot) -> Option<&Shape> {
        self.shapes.look_up(slot)
    }

    /// Whether some task has this shape.
    pub(crate) fn contains(&self, key: &ShapeKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// How many shapes there are.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The numbers of all shapes.
    pub(crate) fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.by_key.values().copied()
    }

    pub(crate) fn push_queued(&mut self, tasks: &mut Slab<Task>, slot: Slot, task: Slot, end: QueueEnd) {
        let Shape { queued, since, .. } = &mut self.shapes[slot];
        match end {
            QueueEnd::Back => queued.push_back(tasks, task),
            QueueEnd::Front => queued.push_front(tasks, task),
        }
        *since = (*since).min(tasks[task].queued_at);
        if queued.count == 1 {
            self.with_queued.insert(slot);
        }
        self.journal.note(ShapeChange::Queue(slot));
    }

    pub(crate) fn unlink_queued(&mut self, tasks: &mut Slab<Task>, slot: Slot, task: Slot) {
        let Shape { queued, since, .. } = &mut self.shapes[slot];
        let (queued_at, next) = (tasks[task].queued_at, tasks[task].next);
        queued.unlink(tasks, task);
        if queued.count == 0 {
            *since = Timestamp::MAX;
            self.with_queued.remove(&slot);
        } else {
            *since = since_without(*since, queued_at, &[queued.head, next].map(|task| queued_at_of(tasks, task)));
        }
        self.journal.note(ShapeChange::Queue(slot));
    }

    /// No time of the queue is later than `at`.
    pub(crate) fn set_back(&mut self, slot: Slot, at: Timestamp) {
        let since = &mut self.shapes[slot].since;
        *since = (*since).min(at);
        self.journal.note(ShapeChange::Queue(slot));
    }

    pub(crate) fn waiting_mut(&mut self, slot: Slot) -> &mut List {
        &mut self.shapes[slot].waiting
    }
}

/// Since when the longest wait of a queue lasts that lasted `since`, when a task that became queued
/// at `queued_at` is gone. `left` are the times of the first that is left and of the one behind it:
/// those behind the oldest came after it.
pub(crate) fn since_without(since: Timestamp, queued_at: Timestamp, left: &[Timestamp]) -> Timestamp {
    let stays = if queued_at > since { since } else { Timestamp::MAX };
    left.iter().copied().fold(stays, Timestamp::min)
}

fn queued_at_of(tasks: &Slab<Task>, task: Slot) -> Timestamp {
    if task == NONE { Timestamp::MAX } else { tasks[task].queued_at }
}

/// Where a task enters the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// It comes after all others of its shape.
    Back,
    /// It was dispatched before and comes back through no fault of its own: its turn is kept.
    Front,
}
