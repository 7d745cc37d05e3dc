//! The effect of each event on the state.

use std::sync::Arc;

use wasmill_protocol::task::Edge;
use wasmill_protocol::{
    AttemptId, Digest, FinalState, HostId, Incarnation, LogSeq, OutcomeKind, TaskId, TaskSpec, Timestamp,
};
use wasmill_record::event::{Event, EventBody, Sequel};

use super::State;
use super::keys::KeyEntry;
use super::shapes::{QueueEnd, ShapeKey};
use super::slab::{NONE, Slot};
use super::task::{Phase, RetryRules, Task};
use super::tenants::TenantNumber;
use super::timers::Timer;
use crate::io::BenchedPolicy;

/// Where the state has what an event is about that starts or ends an attempt, as far as its author
/// knows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct EventSlots {
    /// The task.
    pub(crate) task: Option<Slot>,
    /// The placements on this life of the host. May be out of date.
    pub(crate) placement: Option<Slot>,
}

/// The tenant that an event is of, by its number, which no other tenant ever has. `None` for what
/// concerns all, and for a report that comes late for an attempt that a former version has given
/// up.
pub type Owner = Option<TenantNumber>;

/// The owner of each event of a record, in their order. Found while the record is folded: events
/// about attempts name no tenant, and a task that has ended is gone when somebody asks.
pub type Owners = Arc<[Owner]>;

impl State {
    /// Applies one record of the log. Returns whose its events are.
    ///
    /// # Panics
    ///
    /// When the record is not the next one, or does not follow from those before: the log is
    /// damaged, and to carry on would be wrong.
    pub fn apply_record(&mut self, seq: LogSeq, events: &[Event]) -> Owners {
        if self.last_seq == LogSeq(0) {
            // The records before it were trimmed: their keys are in the read model.
            self.keys.forget_to(LogSeq(seq.0 - 1));
        } else {
            assert!(seq == self.last_seq.next(), "record {seq} follows record {}", self.last_seq);
        }
        let owners = events.iter().map(|event| self.apply(event)).collect();
        self.close_record();
        self.appended(seq);
        self.keys.settle_record();
        // Drops the keys of this record when the read model has them already.
        self.keys.forget_to(LogSeq(0));
        owners
    }

    /// The events that were applied so far were handed out to become one record.
    pub(crate) fn close_record(&mut self) {
        self.keys.close_record();
    }

    /// The events that were handed out last are in record `seq`.
    pub(crate) fn appended(&mut self, seq: LogSeq) {
        self.last_seq = self.last_seq.max(seq);
        self.keys.appended(seq);
    }

    /// The read model holds every record up to `seq`: their idempotency keys are forgotten, and
    /// those of records up to there that are still to be applied are not even remembered. Call it
    /// before a replay to keep that small.
    pub fn read_model_at(&mut self, seq: LogSeq) {
        self.keys.forget_to(seq);
    }

    /// Applies one event. Returns whose it is: found on the way, at no cost of its own.
    ///
    /// # Panics
    ///
    /// When the event does not follow from those before: the log is damaged.
    pub fn apply(&mut self, event: &Event) -> Owner {
        self.apply_at(event, EventSlots::default())
    }

    /// Applies one event. Slots that are known are not looked up.
    pub(crate) fn apply_at(&mut self, event: &Event, known: EventSlots) -> Owner {
        let at = event.at;
        // A term begins with the first event of a record.
        self.led.apply(self.last_seq.next(), event);
        match &event.body {
            EventBody::TermStarted { term, node, .. } => {
                assert!(*term > self.term, "term {term} follows term {}", self.term);
                self.term = *term;
                self.leader.clone_from(node);
                if at < self.time {
                    self.set_back(at);
                }
                self.time = at;
                None
            }
            body => {
                self.time = self.time.max(at);
                match body.task() {
                    Some(task) => self.apply_to_task(task, body, at, known),
                    None => self.apply_elsewhere(body, at),
                }
            }
        }
    }

    /// Applies an event that is about no task.
    fn apply_elsewhere(&mut self, body: &EventBody, at: Timestamp) -> Owner {
        match body {
            EventBody::TenantPut { tenant } => Some(self.tenants.put(tenant)),
            EventBody::TenantRemoved { tenant } => {
                let number = self.tenants.remove(tenant);
                self.keys.remove_tenant(number);
                Some(number)
            }
            EventBody::TokenAdded { token } => Some(self.tenants.add_token(token)),
            EventBody::TokenRemoved { tenant, id } => Some(self.tenants.remove_token(tenant, id)),
            EventBody::ModuleAdded { tenant, module } => Some(self.tenants.add_module(tenant, module)),
            EventBody::ModuleRemoved { tenant, digest } => Some(self.tenants.remove_module(tenant, digest)),
            EventBody::AliasSet { tenant, name, digest } => Some(self.tenants.set_alias(tenant, name, *digest)),
            EventBody::AliasRemoved { tenant, name } => Some(self.tenants.remove_alias(tenant, name)),
            other => {
                self.apply_to_all(other, at);
                None
            }
        }
    }

    /// Applies an event that is of no tenant.
    fn apply_to_all(&mut self, body: &EventBody, at: Timestamp) {
        match body {
            EventBody::SnapshotTaken { snapshot } => self.current.snapshot_taken(*snapshot),
            EventBody::ReadModelSaved { copy } => self.current.read_model_saved(*copy),
            EventBody::PolicyBenched { hook, policy, reason, digest } => {
                let (hook, policy, reason, digest) = (*hook, policy.clone(), reason.clone(), *digest);
                self.benched.insert(BenchedPolicy { hook, policy, digest, reason, at });
            }
            EventBody::PolicyLifted { hook, policy, digest } => self.benched.remove(*hook, policy, *digest),
            EventBody::HostDrained { host, draining: true } => drop(self.drained.insert(host.clone())),
            EventBody::HostDrained { host, draining: false } => drop(self.drained.remove(host)),
            other => unreachable!("{other:?} is applied elsewhere"),
        }
    }

    /// Applies an event that is about a task.
    fn apply_to_task(&mut self, task: TaskId, body: &EventBody, at: Timestamp, known: EventSlots) -> Owner {
        let slot = match body {
            EventBody::TaskSubmitted { spec, fingerprint, edges, .. } => {
                self.submit(task, spec, *fingerprint, edges, at)
            }
            EventBody::ReportLate { id, .. } => return self.record_late(*id),
            _ => known.task.unwrap_or_else(|| self.known(task)),
        };
        assert!(self.tasks[slot].id == task, "{task} is in the place that is named");
        let owner = self.shapes.shape(self.tasks[slot].shape).key.tenant;
        match body {
            EventBody::TaskQueued { .. } => {
                let phase = self.tasks[slot].phase;
                let may_run = phase == Phase::Unblocked && !self.skips.contains_key(&slot);
                assert!(
                    phase == Phase::Waiting || may_run,
                    "{task} is waiting when it is queued, and for no other task"
                );
                self.leave(slot);
                self.enter_queue(slot, at, QueueEnd::Back);
            }
            EventBody::TaskPrioritized { priority, .. } => self.prioritize(slot, *priority),
            EventBody::AttemptStarted { id, host, incarnation } => {
                self.start(slot, *id, (host, *incarnation), known.placement);
            }
            EventBody::CheckpointSaved { id, number, .. } => {
                assert!(self.tasks[slot].runs(*id), "{id:?} is the current attempt of its task");
                assert!(self.tasks[slot].checkpoint < *number, "checkpoints of {id:?} follow each other");
                self.tasks[slot].checkpoint = *number;
            }
            EventBody::AttemptEnded { id, outcome, next, .. } => {
                assert!(self.tasks[slot].runs(*id), "{id:?} is the current attempt of its task");
                self.end_attempt(slot, *id, outcome.kind, *next, at);
            }
            EventBody::CancelRequested { .. } => {
                assert!(self.tasks[slot].phase == Phase::Running, "{task} runs when it is asked to stop");
                self.tasks[slot].cancel_requested = true;
            }
            EventBody::TaskEnded { state, .. } => {
                assert!(self.tasks[slot].phase != Phase::Running, "{task} does not run when it ends by itself");
                self.leave(slot);
                self.remove(slot, *state, at);
            }
            EventBody::TaskSubmitted { .. } => {}
            other => unreachable!("{other:?} is applied elsewhere"),
        }
        assert!(self.depth.sum() == self.by_id.len() as u64, "every task is in one phase");
        Some(owner)
    }

    /// Where a task is that is not final.
    fn known(&self, task: TaskId) -> Slot {
        *self.by_id.get(&task).unwrap_or_else(|| panic!("{task} is not final, so the state knows it"))
    }

    fn submit(
        &mut self,
        id: TaskId,
        spec: &TaskSpec,
        fingerprint: Option<Digest>,
        edges: &[Edge],
        at: Timestamp,
    ) -> Slot {
        let tenant = self.tenants.number(&spec.tenant).expect("a task was accepted while its tenant existed");
        let shape = self.acquire_shape(self.shapes.key(tenant, spec));
        let retry_rules = self.retry_rules.acquire(&RetryRules::of(spec));
        let slot = self.tasks.insert(Task { id, shape, retry_rules, ..Task::default() });
        let before = self.by_id.insert(id, slot);
        assert!(before.is_none(), "{id} was submitted once");
        self.tenants.entry_mut(tenant).tasks_queued += 1;
        if let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) {
            self.keys.insert(tenant, key, KeyEntry { task: id, fingerprint });
        }
        // Each is put in front of those that follow it.
        for edge in edges.iter().rev() {
            let predecessor = self.known(edge.predecessor);
            self.edges.add(&mut self.tasks, predecessor, slot, edge.on);
        }
        if !edges.is_empty() {
            self.tasks[slot].timer = spec.not_before;
            self.enter_blocked(slot);
        } else if spec.not_before > at {
            self.enter_waiting(slot, spec.not_before);
        } else {
            self.enter_queue(slot, at, QueueEnd::Back);
        }
        slot
    }

    fn prioritize(&mut self, slot: Slot, priority: i8) {
        let Task { phase, timer, queued_at, shape, .. } = self.tasks[slot];
        let key = ShapeKey { priority, ..self.shapes.shape(shape).key.clone() };
        if matches!(phase, Phase::Running | Phase::Unblocked) {
            // It is in no list of its shape; the new one matters when it comes back.
            self.change_shape(slot, key);
            return;
        }
        self.leave(slot);
        self.change_shape(slot, key);
        match phase {
            Phase::Waiting => self.enter_waiting(slot, timer),
            Phase::Blocked => self.enter_blocked(slot),
            _ => self.enter_queue(slot, queued_at, QueueEnd::Back),
        }
    }

    fn start(&mut self, slot: Slot, id: AttemptId, life: (&HostId, Incarnation), known: Option<Slot>) {
        let task = &self.tasks[slot];
        assert!(task.phase == Phase::Queued, "{} is queued when it is started", id.task);
        assert!(id.attempt == task.attempt.next(), "attempts of {} are numbered without gaps", id.task);
        self.leave(slot);
        let placement = self.placements.push(&mut self.tasks, slot, life, known);
        let task = &mut self.tasks[slot];
        (task.attempt, task.nonce, task.placement) = (id.attempt, id.nonce, placement);
        (task.checkpoint, task.late_recorded) = (0, false);
        task.phase = Phase::Running;
        self.depth.running += 1;
        self.count_running(slot, true);
    }

    fn end_attempt(&mut self, slot: Slot, id: AttemptId, kind: OutcomeKind, next: Sequel, at: Timestamp) {
        self.leave(slot);
        self.count_running(slot, false);
        let task = &mut self.tasks[slot];
        match kind {
            OutcomeKind::HostLost => task.hosts_lost = task.hosts_lost.saturating_add(1),
            OutcomeKind::HostFault => task.host_faults = task.host_faults.saturating_add(1),
            _ => {}
        }
        // One late report is recorded for each attempt at most, from whatever host.
        if matches!(kind, OutcomeKind::HostLost | OutcomeKind::Returned) && !task.late_recorded {
            let tenant = self.shapes.shape(self.tasks[slot].shape).key.tenant;
            self.superseded.insert(id, tenant);
        }
        match next {
            Sequel::Final { state } => self.remove(slot, state, at),
            Sequel::Requeue => self.enter_queue(slot, at, QueueEnd::Front),
            Sequel::Retry { not_before } => {
                self.tasks[slot].failures += 1;
                if not_before > at {
                    self.enter_waiting(slot, not_before);
                } else {
                    self.enter_queue(slot, at, QueueEnd::Back);
                }
            }
        }
    }

    /// The attempt is the current one of its task, or one that was given up: its task may have
    /// ended since.
    fn record_late(&mut self, id: AttemptId) -> Owner {
        let given_up = self.superseded.remove(&id);
        let current = self.by_id.get(&id.task).copied().filter(|&slot| self.tasks[slot].runs(id));
        let Some(slot) = current else { return given_up.flatten() };
        self.tasks[slot].late_recorded = true;
        Some(self.shapes.shape(self.tasks[slot].shape).key.tenant)
    }

    /// Moves between the tenant's counts of queued and of running tasks.
    fn count_running(&mut self, slot: Slot, starts: bool) {
        let key = &self.shapes.shape(self.tasks[slot].shape).key;
        let (tenant, memory_bytes) = (self.tenants.entry_mut(key.tenant), key.memory_bytes);
        if starts {
            assert!(tenant.tasks_queued > 0, "a task that starts was counted as queued");
            tenant.tasks_queued -= 1;
            tenant.tasks_running += 1;
            tenant.memory_bytes = tenant.memory_bytes.saturating_add(memory_bytes);
        } else {
            assert!(tenant.tasks_running > 0, "a task that stops running was counted as running");
            tenant.tasks_queued += 1;
            tenant.tasks_running -= 1;
            tenant.memory_bytes = tenant.memory_bytes.saturating_sub(memory_bytes);
        }
    }

    fn enter_waiting(&mut self, slot: Slot, until: Timestamp) {
        assert!(until > Timestamp(0), "a task that waits has a timer, and zero is none");
        let task = &mut self.tasks[slot];
        (task.phase, task.timer) = (Phase::Waiting, until);
        let shape = task.shape;
        self.timers.insert(until, Timer::Task(slot));
        self.shapes.waiting_mut(shape).push_back(&mut self.tasks, slot);
        self.depth.waiting += 1;
    }

    /// Its timer stays: it counts once no other task is waited for.
    fn enter_blocked(&mut self, slot: Slot) {
        self.tasks[slot].phase = Phase::Blocked;
        let shape = self.tasks[slot].shape;
        self.shapes.waiting_mut(shape).push_back(&mut self.tasks, slot);
        self.depth.waiting += 1;
    }

    /// A task that was waited for has ended, as its edge asks or otherwise.
    fn predecessor_ended(&mut self, slot: Slot, predecessor: TaskId, is_met: bool, at: Timestamp) {
        if self.tasks[slot].phase != Phase::Blocked {
            // Another edge from the same task has decided it.
            return;
        }
        if !is_met {
            self.edges.drop_leading(&mut self.tasks, slot);
            self.skips.insert(slot, predecessor);
        }
        let Task { edges_leading, timer, .. } = self.tasks[slot];
        if edges_leading != NONE {
            return;
        }
        self.leave(slot);
        if is_met && timer > at {
            return self.enter_waiting(slot, timer);
        }
        (self.tasks[slot].phase, self.tasks[slot].timer) = (Phase::Unblocked, Timestamp(0));
        self.unblocked.push_back(&mut self.tasks, slot);
        self.depth.waiting += 1;
    }

    fn enter_queue(&mut self, slot: Slot, at: Timestamp, end: QueueEnd) {
        let task = &mut self.tasks[slot];
        (task.phase, task.queued_at, task.timer) = (Phase::Queued, at, Timestamp(0));
        if let Some(expires_ms) = self.retry_rules.value(task.retry_rules).expires_ms {
            // Never zero, which means no timer.
            task.timer = at.plus_ms(expires_ms).max(Timestamp(1));
            self.timers.insert(task.timer, Timer::Task(slot));
        }
        let shape = task.shape;
        self.shapes.push_queued(&mut self.tasks, shape, slot, end);
        self.depth.queued += 1;
    }

    /// Takes a task out of the list that it is in, and its timer away.
    fn leave(&mut self, slot: Slot) {
        let Task { phase, timer, shape, placement, .. } = self.tasks[slot];
        match phase {
            Phase::Waiting | Phase::Blocked => {
                self.shapes.waiting_mut(shape).unlink(&mut self.tasks, slot);
                self.depth.waiting -= 1;
            }
            Phase::Unblocked => {
                self.unblocked.unlink(&mut self.tasks, slot);
                self.depth.waiting -= 1;
            }
            Phase::Queued => {
                self.shapes.unlink_queued(&mut self.tasks, shape, slot);
                self.depth.queued -= 1;
            }
            Phase::Running => {
                self.placements.unlink(&mut self.tasks, placement, slot);
                self.tasks[slot].placement = NONE;
                self.depth.running -= 1;
            }
        }
        if phase != Phase::Blocked && timer != Timestamp(0) {
            self.timers.remove(timer, Timer::Task(slot));
            self.tasks[slot].timer = Timestamp(0);
        }
    }

    /// Forgets a task that is final and in no list any more, and tells those that wait for it.
    /// O(its edges), each of which goes once.
    fn remove(&mut self, slot: Slot, end: FinalState, at: Timestamp) {
        self.edges.drop_leading(&mut self.tasks, slot);
        let successors = self.edges.take_leaving(&mut self.tasks, slot);
        self.skips.remove(&slot);
        let Task { id, shape, retry_rules, .. } = self.tasks[slot];
        // An edge that is not met decides, also beside another one from the same task.
        for is_met in [false, true] {
            for &(successor, _) in successors.iter().filter(|(_, on)| on.is_met_by(end) == is_met) {
                self.predecessor_ended(successor, id, is_met, at);
            }
        }
        let tenant = self.shapes.shape(shape).key.tenant;
        self.release_shape(shape);
        self.retry_rules.release(retry_rules);
        let indexed = self.by_id.remove(&id);
        assert!(indexed == Some(slot), "the index of ids points at {id}");
        let task = self.tasks.remove(slot);
        assert!(task.edges_leaving == NONE && task.edges_leading == NONE, "{id} goes without an edge");
        self.tenants.forget_task(tenant);
    }

    fn change_shape(&mut self, slot: Slot, key: ShapeKey) {
        let old = self.tasks[slot].shape;
        // The new one first: a shape that is the same must not be dropped in between.
        self.tasks[slot].shape = self.acquire_shape(key);
        self.release_shape(old);
    }

    fn acquire_shape(&mut self, key: ShapeKey) -> Slot {
        let tenant = key.tenant;
        let (slot, new) = self.shapes.acquire(key);
        if new {
            self.tenants.entry_mut(tenant).shapes.insert(slot);
        }
        slot
    }

    fn release_shape(&mut self, slot: Slot) {
        let tenant = self.shapes.shape(slot).key.tenant;
        if self.shapes.release(slot) {
            self.tenants.entry_mut(tenant).shapes.remove(&slot);
        }
    }
}
