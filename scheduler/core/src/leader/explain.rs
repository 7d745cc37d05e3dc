//! Why a task is not running.

use wasmill_protocol::{Attempt, TaskId, Timestamp};

use super::Core;
use super::candidates::view;
use crate::io::Waiting;
use crate::policy::{Bytes, HostRoom, Misfit, ShapeView, Standing, fits};
use crate::state::task::{Phase, Task};
use crate::state::{NONE, Slot};

/// Tasks of the same shape in front that are counted one by one.
const AHEAD_COUNTED_MAX: u64 = 10_000;

/// See [`Core::explain`].
pub(super) fn explain(core: &Core, id: TaskId, now: Timestamp) -> Option<Waiting> {
    let state = core.state();
    let task = &state.tasks[*state.by_id.get(&id)?];
    let waiting_for = match task.phase {
        Phase::Running => None,
        Phase::Waiting if task.attempt == Attempt(0) => Some(format!("delayed until {}", task.timer)),
        Phase::Waiting => Some(format!("retry after {}", task.timer)),
        Phase::Queued => Some(queued(core, task, now)),
    };
    Some(Waiting { task: id, tenant: state.owner(task).name.clone(), waiting_for })
}

fn queued(core: &Core, task: &Task, now: Timestamp) -> String {
    let shape = view(core.state(), task.shape);
    let hosts: Vec<HostRoom> = core.hosts.values().map(|host| host.room(now, &core.config)).collect();
    if let Some(quota) = quota(core, task) {
        return quota;
    }
    if let Some(misfit) = misfit(&shape, &hosts) {
        return misfit;
    }
    if core.dispatcher.has_declined(task.shape) {
        return "policy declined".into();
    }
    match ahead(core, task) {
        Ahead::Exactly(0) => "a free place on a host".into(),
        Ahead::Exactly(1) => "behind 1 task".into(),
        Ahead::Exactly(count) => format!("behind {count} tasks"),
        Ahead::MoreThan(count) => format!("behind more than {count} tasks"),
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

/// What all hosts lack. A full host lacks nothing: its turn will come.
fn misfit(shape: &ShapeView, hosts: &[HostRoom]) -> Option<String> {
    let mut nearest: Option<Misfit> = None;
    for host in hosts {
        match fits(shape, host) {
            Ok(()) | Err(Misfit::Full) => return None,
            // The host that fails the latest check comes nearest.
            Err(misfit) => nearest = nearest.max(Some(misfit)),
        }
    }
    Some(nearest.unwrap_or(Misfit::Standing(Standing::Lost)).to_string())
}

/// Tasks that come first.
enum Ahead {
    Exactly(u64),
    MoreThan(u64),
}

fn ahead(core: &Core, task: &Task) -> Ahead {
    let state = core.state();
    let own = &state.shapes.shape(task.shape).key;
    let class = state.tenants.entry(own.tenant).class;
    let before = |shape: &&Slot| {
        let key = &state.shapes.shape(**shape).key;
        let tenant = state.tenants.entry(key.tenant);
        let higher_class = tenant.class > class && !tenant.removed;
        higher_class || key.tenant == own.tenant && key.priority > own.priority
    };
    let higher = state.shapes.with_queued.iter().filter(before);
    let mut count: u64 = higher.map(|&shape| u64::from(state.shapes.shape(shape).queued.count)).sum();
    let mut prev = task.prev;
    for _ in 0..AHEAD_COUNTED_MAX {
        if prev == NONE {
            return Ahead::Exactly(count);
        }
        count += 1;
        prev = state.tasks[prev].prev;
    }
    Ahead::MoreThan(count)
}
