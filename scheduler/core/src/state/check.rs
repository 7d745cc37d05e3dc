//! Whether the indices of the state agree with each other.

use std::collections::BTreeMap;

use wasmill_protocol::Timestamp;

use super::State;
use super::slab::{NONE, Slot};
use super::task::Phase;
use super::tenants::{Belongings, TenantNumber};
use super::timers::Timer;
use crate::io::QueueDepth;

impl State {
    /// Asserts everything that must hold between tasks, lists, timers and counts. O(n log n): for
    /// tests and the simulator.
    ///
    /// # Panics
    ///
    /// When something does not hold.
    pub fn assert_consistent(&self) {
        let mut depth = QueueDepth::default();
        let mut timers = 0;
        let mut tenants: BTreeMap<TenantNumber, (u64, u64, u64)> = BTreeMap::new();
        let mut shapes: BTreeMap<Slot, u32> = BTreeMap::new();
        for (&id, &slot) in &self.by_id {
            let task = &self.tasks[slot];
            assert_eq!(task.id, id, "the index of ids points at the task");
            let key = &self.shapes.shape(task.shape).key;
            let (queued, running, memory_bytes) = tenants.entry(key.tenant).or_default();
            match task.phase {
                Phase::Waiting | Phase::Blocked | Phase::Unblocked => {
                    (depth.waiting, *queued) = (depth.waiting + 1, *queued + 1);
                }
                Phase::Queued => (depth.queued, *queued) = (depth.queued + 1, *queued + 1),
                Phase::Running => {
                    depth.running += 1;
                    *running += 1;
                    *memory_bytes += key.memory_bytes;
                }
            }
            assert!(task.phase != Phase::Waiting || task.timer > Timestamp(0), "{id} waits for a time");
            assert_eq!(task.phase == Phase::Blocked, task.edges_leading != NONE, "{id} is blocked by its edges");
            if task.phase != Phase::Blocked && task.timer > Timestamp(0) {
                timers += 1;
                assert!(self.timers.contains(task.timer, Timer::Task(slot)), "{id} has its timer");
            }
            *shapes.entry(task.shape).or_default() += 1;
        }
        assert_eq!(depth, self.depth);
        assert_eq!(timers, self.timers.len());
        for (number, entry) in self.tenants.entries() {
            let counts = tenants.remove(&number).unwrap_or_default();
            assert_eq!(counts, (entry.tasks_queued, entry.tasks_running, entry.memory_bytes), "{}", entry.name);
            assert!(!entry.removed || counts.0 + counts.1 > 0, "{} has tasks left", entry.name);
            let Belongings { modules, module_bytes, aliases, .. } = &*entry.belongings;
            let sum: u64 = modules.values().map(|module| module.bytes).sum();
            assert_eq!(sum, *module_bytes, "{}", entry.name);
            assert!(aliases.values().all(|digest| modules.contains_key(digest)), "{}", entry.name);
        }
        assert!(tenants.is_empty(), "every task belongs to a tenant");
        self.edges.assert_consistent(&self.tasks);
        let is_unblocked = |slot: &Slot| self.tasks.look_up(*slot).is_some_and(|task| task.phase == Phase::Unblocked);
        assert!(self.skips.keys().all(is_unblocked), "what is to be skipped waits for nothing");
        self.assert_lists_consistent(&shapes);
    }

    fn assert_lists_consistent(&self, shapes: &BTreeMap<Slot, u32>) {
        let (mut queued, mut waiting, mut running) = (0, 0, 0);
        assert_eq!(self.shapes.slots().count(), shapes.len());
        for slot in self.shapes.slots() {
            let shape = self.shapes.shape(slot);
            assert_eq!(Some(&shape.tasks), shapes.get(&slot));
            assert_eq!(self.shapes.with_queued.contains(&slot), shape.queued.count > 0);
            assert!(self.tenants.entry(shape.key.tenant).shapes.contains(&slot));
            let first = self.tasks.find(shape.queued.head).map_or(Timestamp::MAX, |task| task.queued_at);
            assert!(shape.since <= first, "a queue is at least as old as its first task");
            assert_eq!(shape.since == Timestamp::MAX, shape.queued.count == 0);
            let waits: &[_] = &[Phase::Waiting, Phase::Blocked];
            for (list, phases, sum) in
                [(shape.queued, &[Phase::Queued][..], &mut queued), (shape.waiting, waits, &mut waiting)]
            {
                let tasks: Vec<_> = list.slots(&self.tasks).map(|task| &self.tasks[task]).collect();
                assert_eq!(tasks.len(), list.count as usize);
                assert!(tasks.iter().all(|task| phases.contains(&task.phase) && task.shape == slot));
                *sum += u64::from(list.count);
            }
        }
        for placement in self.placements.iter() {
            let tasks: Vec<_> = placement.tasks.slots(&self.tasks).collect();
            assert!(!tasks.is_empty() && tasks.len() == placement.tasks.count as usize);
            assert!(tasks.iter().all(|&task| self.tasks[task].phase == Phase::Running));
            running += u64::from(placement.tasks.count);
        }
        let unblocked: Vec<_> = self.unblocked.slots(&self.tasks).collect();
        assert_eq!(unblocked.len(), self.unblocked.count as usize);
        assert!(unblocked.iter().all(|&task| self.tasks[task].phase == Phase::Unblocked));
        waiting += u64::from(self.unblocked.count);
        assert_eq!(QueueDepth { waiting, queued, running }, self.depth, "every task is in the list of its phase");
    }
}
