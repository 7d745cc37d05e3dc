//! Shapes: what decisions are made over, so that they cost the same for ten tasks and for a million.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::{Digest, TaskSpec};

use super::slab::{List, Slab, Slot};
use super::task::Task;
use super::tenants::TenantNumber;

/// What hosts must carry.
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
}

/// All shapes that some task has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Shapes {
    by_key: BTreeMap<ShapeKey, Slot>,
    shapes: Slab<Shape>,
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
        let shape = Shape { key: key.clone(), tasks: 1, queued: List::default(), waiting: List::default() };
        let slot = self.shapes.insert(shape);
        self.by_key.insert(key, slot);
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
        self.by_key.remove(&shape.key);
        true
    }

    /// What is in each place. Cheap: nothing is copied until it changes.
    pub(crate) fn places(&self) -> Slab<Shape> {
        self.shapes.clone()
    }

    /// From what is in each place. `None` when two shapes are the same.
    pub(crate) fn from_places(shapes: Slab<Shape>) -> Option<Self> {
        let by_key: BTreeMap<_, _> = shapes.iter().map(|(slot, shape)| (shape.key.clone(), slot)).collect();
        let with_queued = shapes.iter().filter(|(_, shape)| shape.queued.count > 0).map(|(slot, _)| slot).collect();
        let distinct = by_key.len() == shapes.iter().count();
        distinct.then(|| Self { by_key, shapes, with_queued, no_labels: Arc::default() })
    }

    /// A shape that some task has.
    pub(crate) fn shape(&self, slot: Slot) -> &Shape {
        &self.shapes[slot]
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
        let queued = &mut self.shapes[slot].queued;
        match end {
            QueueEnd::Back => queued.push_back(tasks, task),
            QueueEnd::Front => queued.push_front(tasks, task),
        }
        if queued.count == 1 {
            self.with_queued.insert(slot);
        }
    }

    pub(crate) fn unlink_queued(&mut self, tasks: &mut Slab<Task>, slot: Slot, task: Slot) {
        let queued = &mut self.shapes[slot].queued;
        queued.unlink(tasks, task);
        if queued.count == 0 {
            self.with_queued.remove(&slot);
        }
    }

    pub(crate) fn waiting_mut(&mut self, slot: Slot) -> &mut List {
        &mut self.shapes[slot].waiting
    }
}

/// Where a task enters the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// It comes after all others of its shape.
    Back,
    /// It was dispatched before and comes back through no fault of its own: its turn is kept.
    Front,
}
