//! Why tasks are not running.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_protocol::{Attempt, TaskId, Timestamp};

use super::Core;
use crate::dispatch::view;
use crate::io::Waiting;
use crate::policy::{Bytes, HostStatus, Misfit, Ref, ShapeView, fits};
use crate::state::task::{Phase, Task};
use crate::state::tenants::TenantNumber;
use crate::state::{Labels, NONE, Slot};

/// Tasks of the same shape in front that are counted one by one, for all tasks of a question
/// together.
const AHEAD_COUNTED_MAX: usize = 10_000;
/// For each task at least so many are counted.
const AHEAD_COUNTED_MIN: usize = 100;
const _: () = assert!(AHEAD_COUNTED_MIN <= AHEAD_COUNTED_MAX, "one task alone has the whole question");

/// See [`Core::explain_all`].
pub(super) fn explain_all(core: &Core, tasks: &[TaskId], now: Timestamp) -> Vec<Waiting> {
    let steps_max = (AHEAD_COUNTED_MAX / tasks.len().max(1)).max(AHEAD_COUNTED_MIN);
    let mut question = Explainer { steps_max, ..Explainer::new(core, now) };
    let mut waiting: Vec<_> = tasks.iter().rev().filter_map(|&id| question.explain(id)).collect();
    waiting.reverse();
    waiting
}

/// One question about several tasks: what is true of many of them is found out once.
struct Explainer<'a> {
    core: &'a Core,
    now: Timestamp,
    steps_max: usize,
    /// The lack of all hosts for tasks that need this, of a tenant.
    misfits: BTreeMap<(TenantNumber, u64, Arc<Labels>), Option<String>>,
    /// Tasks in the queue of tenants of higher classes.
    higher_classes: BTreeMap<i8, u64>,
    /// Tasks in the queue of a tenant with higher priorities.
    higher_priorities: BTreeMap<(TenantNumber, i8), u64>,
    /// Tasks of the same shape in front of some task.
    before: BTreeMap<Slot, u64>,
}

/// Tasks that come first.
enum TasksAhead {
    Exactly(u64),
    MoreThan(u64),
}

impl<'a> Explainer<'a> {
    fn new(core: &'a Core, now: Timestamp) -> Self {
        Self {
            core,
            now,
            steps_max: AHEAD_COUNTED_MAX,
            misfits: BTreeMap::new(),
            higher_classes: BTreeMap::new(),
            higher_priorities: BTreeMap::new(),
            before: BTreeMap::new(),
        }
    }

    fn explain(&mut self, id: TaskId) -> Option<Waiting> {
        let state = self.core.state();
        let slot = *state.by_id.get(&id)?;
        let task = &state.tasks[slot];
        let waiting_for = match task.phase {
            Phase::Running => None,
            Phase::Blocked => {
                let predecessor =
                    state.edges.predecessor(&state.tasks, slot).expect("a blocked task waits for another one");
                Some(format!("dependency {}", state.tasks[predecessor].id))
            }
            Phase::Unblocked => Some("its turn: its dependencies have ended".to_owned()),
            Phase::Waiting if task.attempt == Attempt(0) => Some(format!("delayed until {}", task.timer)),
            Phase::Waiting => Some(format!("retry after {}", task.timer)),
            Phase::Queued => Some(self.queued(slot, task)),
        };
        Some(Waiting { task: id, tenant: state.owner(task).name.clone(), waiting_for })
    }

    fn queued(&mut self, slot: Slot, task: &Task) -> String {
        if let Some(quota) = quota(self.core, task) {
            return quota;
        }
        if let Some(misfit) = self.misfit(task.shape) {
            return misfit;
        }
        if self.core.dispatch.has_declined(task.shape) {
            return "policy declined".into();
        }
        match self.ahead(slot, task) {
            TasksAhead::Exactly(0) => "a free place on a host".into(),
            TasksAhead::Exactly(1) => "behind 1 task".into(),
            TasksAhead::Exactly(count) => format!("behind {count} tasks"),
            TasksAhead::MoreThan(count) => format!("behind more than {count} tasks"),
        }
    }

    /// The lack that all hosts share.
    fn misfit(&mut self, slot: Slot) -> Option<String> {
        let (core, now) = (self.core, self.now);
        let key = &core.state().shapes.shape(slot).key;
        let need = (key.tenant, key.memory_bytes, Arc::clone(&key.require));
        let shape = || view(core.state(), Ref { slot, generation: 0 });
        self.misfits.entry(need).or_insert_with(|| misfit(core, &shape(), now)).clone()
    }

    fn ahead(&mut self, slot: Slot, task: &Task) -> TasksAhead {
        let state = self.core.state();
        let key = &state.shapes.shape(task.shape).key;
        let class = state.tenants.entry(key.tenant).class;
        let queued = |slot: Slot| u64::from(state.shapes.shape(slot).queued.count);
        let of_higher_classes = || {
            let higher = state.tenants.entries().filter(|(_, tenant)| tenant.class > class && !tenant.removed);
            higher.flat_map(|(_, tenant)| &tenant.shapes).map(|&slot| queued(slot)).sum()
        };
        let of_higher_priorities = || {
            let shapes = state.tenants.entry(key.tenant).shapes.iter();
            shapes.filter(|slot| state.shapes.shape(**slot).key.priority > key.priority).map(|&slot| queued(slot)).sum()
        };
        let higher_classes = *self.higher_classes.entry(class).or_insert_with(of_higher_classes);
        let own = (key.tenant, key.priority);
        let higher = higher_classes + *self.higher_priorities.entry(own).or_insert_with(of_higher_priorities);
        match self.before(slot) {
            TasksAhead::Exactly(count) => TasksAhead::Exactly(higher + count),
            TasksAhead::MoreThan(count) => TasksAhead::MoreThan(higher + count),
        }
    }

    /// Tasks of the same shape that are in front of one.
    fn before(&mut self, slot: Slot) -> TasksAhead {
        let tasks = &self.core.state().tasks;
        let (mut count, mut prev) = (0, tasks[slot].prev);
        for _ in 0..self.steps_max {
            let known = if prev == NONE { Some(0) } else { self.before.get(&prev).map(|before| before + 1) };
            if let Some(known) = known {
                self.before.insert(slot, count + known);
                return TasksAhead::Exactly(count + known);
            }
            count += 1;
            prev = tasks[prev].prev;
        }
        TasksAhead::MoreThan(count)
    }
}

/// The quota of its tenant that is used up.
fn quota(core: &Core, task: &Task) -> Option<String> {
    let tenant = core.state().owner(task);
    if core.stored_out.contains(&tenant.name) {
        return Some("quota: tenant has used up `stored_bytes`".to_owned());
    }
    let memory_bytes = core.state().shapes.shape(task.shape).key.memory_bytes;
    if let Some(limit) = tenant.quotas.tasks_running
        && tenant.tasks_running >= limit
    {
        return Some(format!("quota: tenant running {}/{limit}", tenant.tasks_running));
    }
    if let Some(limit) = tenant.quotas.memory_bytes
        && tenant.memory_bytes.saturating_add(memory_bytes) > limit
    {
        return Some(format!("quota: tenant memory {} of {} in use", Bytes(tenant.memory_bytes), Bytes(limit)));
    }
    None
}

/// The lack that all hosts share. A full host lacks nothing: its turn will come.
fn misfit(core: &Core, shape: &ShapeView, now: Timestamp) -> Option<String> {
    let mut nearest: Option<Misfit> = None;
    for host in core.hosts.values() {
        match fits(shape, &host.room(now, &core.config), true) {
            Ok(()) | Err(Misfit::Full) => return None,
            // The host that fails the latest check comes nearest.
            Err(misfit) => nearest = nearest.max(Some(misfit)),
        }
    }
    Some(nearest.unwrap_or(Misfit::HostStatus(HostStatus::Lost)).to_string())
}
