//! Views of the state.

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::tenant::Tenant;
use wasmill_protocol::{Digest, LogSeq, TaskId, TenantName, Term, Timestamp};
use wasmill_record::snapshot::{Current, LedTime};

use super::State;
use super::slab::{NONE, Slot};
use super::task::{Phase, Task, TaskView};
use super::tenants::{ModuleEntry, TenantEntry};
use crate::io::{BenchedPolicy, QueueDepth};

impl State {
    /// The term of the last leader.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The last leader; empty when there was none.
    pub fn leader(&self) -> &str {
        &self.leader
    }

    /// The time of the last event.
    pub fn time(&self) -> Timestamp {
        self.time
    }

    /// How long somebody has led.
    pub fn led(&self) -> &LedTime {
        &self.led
    }

    /// The last record that was applied, or that events of this state went into.
    pub fn last_seq(&self) -> LogSeq {
        self.last_seq
    }

    /// Whether a policy is benched, and why.
    pub fn benched(&self, hook: PolicyHook, policy: &str, digest: Digest) -> Option<&BenchedPolicy> {
        self.benched.find(hook, policy, digest)
    }

    /// The policies that are benched.
    pub fn policies_benched(&self) -> impl Iterator<Item = &BenchedPolicy> {
        self.benched.iter()
    }

    /// How many tasks are in each state that is not final.
    pub fn queue_depth(&self) -> QueueDepth {
        self.depth
    }

    /// A tenant.
    pub fn tenant(&self, name: &TenantName) -> Option<Tenant> {
        self.tenants.named(name).map(tenant)
    }

    /// All tenants, by name. A removed one is not among them even while its last tasks end.
    pub fn tenants(&self) -> impl Iterator<Item = Tenant> {
        self.tenants.entries().filter(|(_, entry)| !entry.removed).map(|(_, entry)| tenant(entry))
    }

    /// A module of a tenant.
    pub fn module(&self, tenant: &TenantName, digest: &Digest) -> Option<ModuleEntry> {
        self.tenants.named(tenant)?.belongings.modules.get(digest).copied()
    }

    /// The module that an alias of a tenant points at.
    pub fn alias(&self, tenant: &TenantName, name: &str) -> Option<Digest> {
        self.tenants.named(tenant)?.belongings.aliases.get(name).copied()
    }

    /// The snapshots that the log names, and the copy of the read model.
    pub fn current(&self) -> &Current {
        &self.current
    }

    /// A task that is not final.
    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        self.by_id.get(&id).map(|&slot| self.view(&self.tasks[slot]))
    }

    /// All tasks that are not final, by id.
    pub fn tasks(&self) -> impl Iterator<Item = TaskView> {
        self.by_id.values().map(|&slot| self.view(&self.tasks[slot]))
    }

    /// How many idempotency keys are remembered.
    pub fn key_count(&self) -> usize {
        self.keys.len()
    }

    /// A task that is not final and that belongs to `tenant`.
    pub(crate) fn task_of(&self, tenant: &TenantName, id: TaskId) -> Option<(Slot, &Task)> {
        let slot = *self.by_id.get(&id)?;
        let task = &self.tasks[slot];
        let owner = self.owner(task);
        (owner.name == *tenant && !owner.removed).then_some((slot, task))
    }

    /// Whose a task is.
    pub(crate) fn owner(&self, task: &Task) -> &TenantEntry {
        self.tenants.entry(self.shapes.shape(task.shape).key.tenant)
    }

    fn view(&self, task: &Task) -> TaskView {
        let host = (task.placement != NONE).then(|| {
            let placement = self.placements.placement(task.placement);
            (placement.host.clone(), placement.incarnation)
        });
        assert_eq!(host.is_some(), task.phase == Phase::Running);
        TaskView {
            id: task.id,
            tenant: self.owner(task).name.clone(),
            state: task.state(),
            priority: self.shapes.shape(task.shape).key.priority,
            attempt: task.attempt_id(),
            host,
            queued_at: task.queued_at,
            timer: (task.timer != Timestamp(0)).then_some(task.timer),
            cancel_requested: task.cancel_requested,
            failures: task.failures,
            hosts_lost: task.hosts_lost,
        }
    }
}

fn tenant(entry: &TenantEntry) -> Tenant {
    Tenant { name: entry.name.clone(), weight: entry.weight, class: entry.class, quotas: entry.quotas }
}
