//! What each event does to the state.

use wasmill_protocol::{AttemptId, Digest, HostId, Incarnation, LogSeq, OutcomeKind, TaskId, TaskSpec, Timestamp};
use wasmill_record::event::{AfterAttempt, Event, EventBody};

use super::State;
use super::keys::KeyEntry;
use super::shapes::{QueueEnd, ShapeKey};
use super::slab::{NONE, Slot};
use super::task::{Patience, Phase, Task};
use super::timers::Timer;
use crate::io::BenchedPolicy;

impl State {
    /// Applies one record of the log.
    ///
    /// # Panics
    ///
    /// When the record is not the next one, or does not follow from those before: the log is damaged, and to carry on would
    /// be wrong.
    pub fn apply_record(&mut self, seq: LogSeq, events: &[Event]) {
        if self.last_seq == LogSeq(0) {
            // What came before was trimmed: its keys are for the read model to know.
            self.keys.forget_to(LogSeq(seq.0 - 1));
        } else {
            assert!(seq == self.last_seq.next(), "record {seq} follows record {}", self.last_seq);
        }
        for event in events {
            self.apply(event);
        }
        self.close_record();
        self.appended(seq);
        self.keys.settle_record();
        // Drops the keys of this record when the read model has them already.
        self.keys.forget_to(LogSeq(0));
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

    /// The read model holds every record up to `seq`: their idempotency keys are forgotten, and those of records up to there that
    /// are still to be applied are not even remembered. Call it before a replay to keep that small.
    pub fn read_model_at(&mut self, seq: LogSeq) {
        self.keys.forget_to(seq);
    }

    /// Applies one event.
    ///
    /// # Panics
    ///
    /// When the event does not follow from those before: the log is damaged.
    pub fn apply(&mut self, event: &Event) {
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
            }
            body => {
                self.time = self.time.max(at);
                self.apply_body(body, at);
            }
        }
    }

    fn apply_body(&mut self, body: &EventBody, at: Timestamp) {
        match body {
            EventBody::TermStarted { .. } => {}
            EventBody::TenantPut { tenant } => self.tenants.put(tenant),
            EventBody::TenantRemoved { tenant } => {
                let number = self.tenants.remove(tenant);
                self.keys.remove_tenant(number);
            }
            EventBody::TokenAdded { token } => self.tenants.add_token(token),
            EventBody::TokenRemoved { tenant, id } => self.tenants.remove_token(tenant, id),
            EventBody::ModuleAdded { tenant, module } => self.tenants.add_module(tenant, module),
            EventBody::ModuleRemoved { tenant, digest } => self.tenants.remove_module(tenant, digest),
            EventBody::AliasSet { tenant, name, digest } => self.tenants.set_alias(tenant, name, *digest),
            EventBody::AliasRemoved { tenant, name } => self.tenants.remove_alias(tenant, name),
            EventBody::TaskSubmitted { task, spec, fingerprint } => self.submit(*task, spec, *fingerprint, at),
            EventBody::TaskQueued { task } => {
                let slot = self.known(*task);
                assert!(self.tasks[slot].phase == Phase::Waiting, "{task} is waiting when it is queued");
                self.leave(slot);
                self.enter_queue(slot, at, QueueEnd::Back);
            }
            EventBody::TaskPrioritized { task, priority } => self.prioritize(*task, *priority),
            EventBody::AttemptStarted { id, host, incarnation } => self.start(*id, host, *incarnation),
            EventBody::CheckpointSaved { id, number, .. } => {
                let slot = self.running(*id);
                self.tasks[slot].checkpoint = *number;
            }
            EventBody::AttemptEnded { id, outcome, next, .. } => self.end_attempt(*id, outcome.kind, *next, at),
            EventBody::CancelRequested { task, .. } => {
                let slot = self.known(*task);
                assert!(self.tasks[slot].phase == Phase::Running, "{task} runs when it is asked to stop");
                self.tasks[slot].cancel_requested = true;
            }
            EventBody::TaskEnded { task, .. } => {
                let slot = self.known(*task);
                assert!(self.tasks[slot].phase != Phase::Running, "{task} does not run when it ends by itself");
                self.leave(slot);
                self.remove(slot);
            }
            EventBody::ReportLate { id, .. } => self.record_late(*id),
            EventBody::SnapshotTaken { snapshot } => self.current.snapshot_taken(*snapshot),
            EventBody::ReadModelSaved { copy } => self.current.read_model_saved(*copy),
            EventBody::PolicyBenched { hook, policy, reason } => {
                let (hook, policy, reason) = (*hook, policy.clone(), reason.clone());
                self.benched.insert(hook, BenchedPolicy { hook, policy, reason, at });
            }
            EventBody::HostDrained { host, draining: true } => drop(self.drained.insert(host.clone())),
            EventBody::HostDrained { host, draining: false } => drop(self.drained.remove(host)),
        }
    }

    /// Where a task is that is not final.
    fn known(&self, task: TaskId) -> Slot {
        *self.by_id.get(&task).unwrap_or_else(|| panic!("{task} is not final, so the state knows it"))
    }

    /// Where the task is whose current attempt is `id`.
    fn running(&self, id: AttemptId) -> Slot {
        let slot = self.known(id.task);
        assert!(self.tasks[slot].runs(id), "{id:?} is the current attempt of its task");
        slot
    }

    fn submit(&mut self, id: TaskId, spec: &TaskSpec, fingerprint: Option<Digest>, at: Timestamp) {
        let tenant = self.tenants.number(&spec.tenant).expect("a task was accepted while its tenant existed");
        let shape = self.acquire_shape(self.shapes.key(tenant, spec));
        let patience = self.patiences.acquire(&Patience::of(spec));
        let slot = self.tasks.insert(Task { id, shape, patience, ..Task::default() });
        let before = self.by_id.insert(id, slot);
        assert!(before.is_none(), "{id} was submitted once");
        self.tenants.entry_mut(tenant).tasks_queued += 1;
        if let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) {
            self.keys.insert(tenant, key, KeyEntry { task: id, fingerprint });
        }
        if spec.not_before > at {
            self.enter_waiting(slot, spec.not_before);
        } else {
            self.enter_queue(slot, at, QueueEnd::Back);
        }
    }

    fn prioritize(&mut self, task: TaskId, priority: i8) {
        let slot = self.known(task);
        let Task { phase, timer, queued_at, shape, .. } = self.tasks[slot];
        let key = ShapeKey { priority, ..self.shapes.shape(shape).key.clone() };
        if phase == Phase::Running {
            // It is in no list of its shape; the new one matters when it comes back.
            self.change_shape(slot, key);
            return;
        }
        self.leave(slot);
        self.change_shape(slot, key);
        match phase {
            Phase::Waiting => self.enter_waiting(slot, timer),
            _ => self.enter_queue(slot, queued_at, QueueEnd::Back),
        }
    }

    fn start(&mut self, id: AttemptId, host: &HostId, incarnation: Incarnation) {
        let slot = self.known(id.task);
        let task = &self.tasks[slot];
        assert!(task.phase == Phase::Queued, "{} is queued when it is started", id.task);
        assert!(id.attempt == task.attempt.next(), "attempts of {} are numbered without gaps", id.task);
        self.leave(slot);
        let placement = self.placements.push(&mut self.tasks, slot, host, incarnation);
        let task = &mut self.tasks[slot];
        (task.attempt, task.nonce, task.placement) = (id.attempt, id.nonce, placement);
        (task.checkpoint, task.late_recorded) = (0, false);
        task.phase = Phase::Running;
        self.depth.running += 1;
        self.count_running(slot, true);
    }

    fn end_attempt(&mut self, id: AttemptId, kind: OutcomeKind, next: AfterAttempt, at: Timestamp) {
        let slot = self.running(id);
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
            self.superseded.insert(id);
        }
        match next {
            AfterAttempt::Final { .. } => self.remove(slot),
            AfterAttempt::Requeue => self.enter_queue(slot, at, QueueEnd::Front),
            AfterAttempt::Retry { not_before } => {
                self.tasks[slot].failures += 1;
                if not_before > at {
                    self.enter_waiting(slot, not_before);
                } else {
                    self.enter_queue(slot, at, QueueEnd::Back);
                }
            }
        }
    }

    fn record_late(&mut self, id: AttemptId) {
        self.superseded.remove(&id);
        if let Some(&slot) = self.by_id.get(&id.task)
            && self.tasks[slot].runs(id)
        {
            self.tasks[slot].late_recorded = true;
        }
    }

    /// Moves between the tenant's counts of queued and of running tasks.
    fn count_running(&mut self, slot: Slot, starts: bool) {
        let key = &self.shapes.shape(self.tasks[slot].shape).key;
        let (tenant, memory_bytes) = (self.tenants.entry_mut(key.tenant), key.memory_bytes);
        if starts {
            tenant.tasks_queued -= 1;
            tenant.tasks_running += 1;
            tenant.memory_bytes = tenant.memory_bytes.saturating_add(memory_bytes);
        } else {
            tenant.tasks_queued += 1;
            tenant.tasks_running -= 1;
            tenant.memory_bytes = tenant.memory_bytes.saturating_sub(memory_bytes);
        }
    }

    fn enter_waiting(&mut self, slot: Slot, until: Timestamp) {
        let task = &mut self.tasks[slot];
        (task.phase, task.timer) = (Phase::Waiting, until);
        let shape = task.shape;
        self.timers.insert(until, Timer::Task(slot));
        self.shapes.waiting_mut(shape).push_back(&mut self.tasks, slot);
        self.depth.waiting += 1;
    }

    fn enter_queue(&mut self, slot: Slot, at: Timestamp, end: QueueEnd) {
        let task = &mut self.tasks[slot];
        (task.phase, task.queued_at, task.timer) = (Phase::Queued, at, Timestamp(0));
        if let Some(expires_ms) = self.patiences.value(task.patience).expires_ms {
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
            Phase::Waiting => {
                self.shapes.waiting_mut(shape).unlink(&mut self.tasks, slot);
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
        if timer != Timestamp(0) {
            self.timers.remove(timer, Timer::Task(slot));
            self.tasks[slot].timer = Timestamp(0);
        }
    }

    /// Forgets a task that is final and in no list any more.
    fn remove(&mut self, slot: Slot) {
        let Task { id, shape, patience, .. } = self.tasks[slot];
        let tenant = self.shapes.shape(shape).key.tenant;
        self.tenants.entry_mut(tenant).tasks_queued -= 1;
        self.release_shape(shape);
        self.patiences.release(patience);
        self.by_id.remove(&id);
        self.tasks.remove(slot);
        self.tenants.drop_if_empty(tenant);
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
