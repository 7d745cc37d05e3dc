//! Commands about single tasks: accept, stop, reorder.

use std::sync::Arc;

use wasmill_protocol::command::{Counted, Done, KeyCheck, ModuleRef, Overload, QuotaKind, Refusal};
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::task::Edge;
use wasmill_protocol::{Digest, FinalState, TaskId, TaskSpec, TenantName};
use wasmill_record::event::{EndReason, EventBody};

use super::Core;
use crate::state::shapes::ShapeKey;
use crate::state::task::Phase;
use crate::state::tenants::{TenantEntry, TenantNumber};
use crate::state::{Slot, State};

/// The wait that a client is told when the core is full, in milliseconds.
const OVERLOADED_RETRY_MS: u64 = 1_000;
/// Edges that lead to one task.
const EDGES_PER_TASK_MAX: usize = 1_024;

impl Core {
    /// Accepts a task, or finds that it was accepted before.
    pub(super) fn submit(
        &mut self,
        task: TaskId,
        module: &ModuleRef,
        mut spec: Arc<TaskSpec>,
        key: Option<KeyCheck>,
        edges: Vec<Edge>,
    ) -> Result<Done, Refusal> {
        let tenant = self.tenant_of(&spec)?;
        if let Some(key) = &key
            && let Some(repeated) = self.repeated(tenant, key)?
        {
            return Ok(Done::Repeated { task: repeated });
        }
        if self.state.by_id.contains_key(&task) {
            // The command itself came twice.
            return match self.state.task_of(&spec.tenant, task) {
                Some(_) => Ok(Done::Accepted { task }),
                None => Err(Refusal::TaskUnknown),
            };
        }
        let (digest, kind) = self.has_room_for_one(tenant, module)?;
        let differs = spec.module != digest || spec.kind != kind;
        let unkeyed = key.as_ref().is_some_and(|key| spec.idempotency_key.as_ref() != Some(&key.key));
        if differs || unkeyed {
            let spec = Arc::make_mut(&mut spec);
            (spec.module, spec.kind) = (digest, kind);
            if let Some(key) = &key {
                spec.idempotency_key = Some(key.key.clone());
            }
        }
        self.has_room(&self.state.shapes.key(tenant, &spec))?;
        self.has_ends(tenant, &edges)?;
        self.emit(EventBody::TaskSubmitted { task, spec, fingerprint: key.map(|key| key.fingerprint), edges });
        self.tally.tasks_submitted += 1;
        Ok(Done::Accepted { task })
    }

    /// The refusal that a submission would get as things are, whatever its key: so that nothing is
    /// stored for it.
    pub(super) fn refuses(&self, module: &ModuleRef, spec: &TaskSpec, edges: &[Edge]) -> Result<(), Refusal> {
        let tenant = self.tenant_of(spec)?;
        self.has_room_for_one(tenant, module)?;
        self.has_room(&self.state.shapes.key(tenant, spec))?;
        self.has_ends(tenant, edges)
    }

    /// Whether edges can lead to a new task: there is room for them, and each leaves a task of the
    /// same tenant that is not final. So there never is a circle of them.
    fn has_ends(&self, tenant: TenantNumber, edges: &[Edge]) -> Result<(), Refusal> {
        if edges.len() > EDGES_PER_TASK_MAX {
            return Err(Refusal::TooMany { what: Counted::EdgesOfTask, limit: EDGES_PER_TASK_MAX as u64 });
        }
        let State { by_id, tasks, shapes, .. } = &self.state;
        let is_own = |slot: &Slot| shapes.shape(tasks[*slot].shape).key.tenant == tenant;
        let is_known = |edge: &Edge| by_id.get(&edge.predecessor).is_some_and(is_own);
        if !edges.iter().all(is_known) {
            return Err(Refusal::TaskUnknown);
        }
        let count = self.state.edges.len() as usize + edges.len();
        if count > self.config.edges_max as usize { Err(overloaded(Overload::Edges)) } else { Ok(()) }
    }

    fn tenant_of(&self, spec: &TaskSpec) -> Result<TenantNumber, Refusal> {
        self.state.tenants.number(&spec.tenant).ok_or(Refusal::TenantUnknown)
    }

    /// Whether a tenant may have one task more, of a module that it has.
    fn has_room_for_one(&self, tenant: TenantNumber, module: &ModuleRef) -> Result<(Digest, ModuleKind), Refusal> {
        let entry = self.state.tenants.entry(tenant);
        let digest = resolve(entry, module)?;
        let kind = entry.belongings.modules.get(&digest).ok_or(Refusal::ModuleUnknown)?.kind;
        if let Some(limit) = entry.quotas.tasks_queued
            && entry.tasks_queued >= limit
        {
            return Err(Refusal::Quota { quota: QuotaKind::TasksQueued, limit });
        }
        if self.state.by_id.len() as u64 >= self.config.tasks_max {
            return Err(overloaded(Overload::Tasks));
        }
        Ok((digest, kind))
    }

    /// The task that was submitted under this key before, as far as the core must know it.
    fn repeated(&self, tenant: TenantNumber, key: &KeyCheck) -> Result<Option<TaskId>, Refusal> {
        match self.state.keys.find(tenant, &key.key) {
            Some(found) if found.fingerprint == key.fingerprint => Ok(Some(found.task)),
            Some(found) => Err(Refusal::KeyConflict { task: found.task }),
            // A task under this key may be in a record that the lookup did not see and that is
            // forgotten here already.
            None if key.checked_to < self.state.keys.forgotten_to => Err(Refusal::KeyCheckStale),
            None => Ok(None),
        }
    }

    /// Whether a task of this shape can be held: shapes are what rounds of decisions cost.
    fn has_room(&self, shape: &ShapeKey) -> Result<(), Refusal> {
        if self.state.shapes.contains(shape) {
            return Ok(());
        }
        if self.state.tenants.entry(shape.tenant).shapes.len() >= self.config.shapes_per_tenant_max as usize {
            return Err(overloaded(Overload::TenantShapes));
        }
        if self.state.shapes.len() >= self.config.shapes_max as usize {
            return Err(overloaded(Overload::Shapes));
        }
        Ok(())
    }

    /// Stops a task: at once when no attempt runs, else as soon as its host says so.
    pub(super) fn cancel(
        &mut self,
        tenant: &TenantName,
        task: TaskId,
        reason: Option<String>,
    ) -> Result<Done, Refusal> {
        let (slot, entry) = self.state.task_of(tenant, task).ok_or(Refusal::TaskUnknown)?;
        if entry.phase != Phase::Running {
            let reason = EndReason::Cancelled { reason };
            self.emit(EventBody::TaskEnded { task, state: FinalState::Cancelled, reason });
            self.tally.tasks_cancelled += 1;
            return Ok(Done::Cancelled);
        }
        if !entry.cancel_requested {
            self.emit(EventBody::CancelRequested { task, reason });
            self.send_stop(slot);
        }
        Ok(Done::CancelAsked)
    }

    /// Changes a priority.
    pub(super) fn prioritize(&mut self, tenant: &TenantName, task: TaskId, priority: i8) -> Result<Done, Refusal> {
        let (_, entry) = self.state.task_of(tenant, task).ok_or(Refusal::TaskUnknown)?;
        let key = &self.state.shapes.shape(entry.shape).key;
        if key.priority != priority {
            let key = ShapeKey { priority, ..key.clone() };
            self.has_room(&key)?;
            self.emit(EventBody::TaskPrioritized { task, priority });
        }
        Ok(Done::Changed)
    }
}

fn overloaded(what: Overload) -> Refusal {
    Refusal::Overloaded { what, retry_ms: OVERLOADED_RETRY_MS }
}

fn resolve(tenant: &TenantEntry, module: &ModuleRef) -> Result<Digest, Refusal> {
    match module {
        ModuleRef::Digest(digest) => Ok(*digest),
        ModuleRef::Alias(alias) => tenant.belongings.aliases.get(alias).copied().ok_or(Refusal::ModuleUnknown),
    }
}
