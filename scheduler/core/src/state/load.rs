//! Tasks that wait and run, summed up for `/metrics`.

use std::collections::BTreeMap;

use wasmill_protocol::{TenantName, Timestamp};

use super::State;

/// Tasks that wait and run. Costs O(tenants + shapes): for a scrape, not for every event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Load {
    /// Tenants that have tasks which are not final, by name.
    pub tenants: Vec<TenantLoad>,
    /// Tasks that could start now, by priority.
    pub queued: BTreeMap<i8, u64>,
    /// When the first of the tasks at the head of a shape's queue became ready to start.
    pub queued_since: Option<Timestamp>,
}

/// The tasks of one tenant that are not final.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantLoad {
    /// Whose.
    pub tenant: TenantName,
    /// Tasks that wait for a time, a retry or a host.
    pub tasks_waiting: u64,
    /// Tasks with a current attempt.
    pub tasks_running: u64,
    /// Memory limits of those, summed up.
    pub memory_bytes: u64,
}

impl State {
    /// The tasks that wait and run.
    pub fn load(&self) -> Load {
        let busy = self.tenants.entries().filter(|(_, entry)| entry.tasks_queued + entry.tasks_running > 0);
        let mut tenants: Vec<_> = busy
            .map(|(_, entry)| TenantLoad {
                tenant: entry.name.clone(),
                tasks_waiting: entry.tasks_queued,
                tasks_running: entry.tasks_running,
                memory_bytes: entry.memory_bytes,
            })
            .collect();
        tenants.sort_by(|left, right| left.tenant.cmp(&right.tenant));
        let (mut queued, mut queued_since) = (BTreeMap::new(), None::<Timestamp>);
        for &slot in &self.shapes.with_queued {
            let shape = self.shapes.shape(slot);
            *queued.entry(shape.key.priority).or_default() += u64::from(shape.queued.count);
            let head = self.tasks[shape.queued.head].queued_at;
            queued_since = Some(queued_since.map_or(head, |since| since.min(head)));
        }
        Load { tenants, queued, queued_since }
    }
}
