//! What must hold, checked on the durable log by a deliberately simple idea of a task's life that shares no code with the core.

mod calls;
mod life;
mod terms;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;
use wasmill_protocol::task::Edge;
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{
    AttemptId, Digest, HostId, Incarnation, LogSeq, OutcomeKind, Payload, TaskId, TaskSpec, TenantName, Term, Timestamp,
};
use wasmill_record::event::{EndReason, Event, EventBody};
use wasmill_record::snapshot::Expired;

use crate::guest;
use crate::log::Entry;
use crate::marks::{Mark, Marks};

use crate::servers::Caller;
use terms::Terms;

pub use calls::Calls;
pub use life::{Life, Phase};

/// How far clocks that count as right may differ, in microseconds.
const DIFFERENCE_US_MAX: u64 = 60_000_000;

/// An invariant that does not hold.
#[derive(Debug, Clone)]
pub struct Violation(pub String);

/// The outcome of a check.
pub type Checked = Result<(), Violation>;

/// Answers with a [`Violation`] unless a condition holds.
macro_rules! hold {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err($crate::oracle::Violation(format!($($text)+)));
        }
    };
}
pub(crate) use hold;

/// Knows every durable record and what clients were told.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Every task that the log has ever accepted.
    pub tasks: BTreeMap<TaskId, Life>,
    /// Quotas of tenants.
    pub quotas: BTreeMap<TenantName, Quotas>,
    /// Where and for which life of a host each attempt was started.
    pub attempts: BTreeMap<AttemptId, (HostId, Incarnation)>,
    /// Idempotency keys with the record that they came in.
    pub keys: BTreeMap<(TenantName, String), (TaskId, Digest, LogSeq)>,
    /// The highest credit that a life of a host has announced.
    pub credits: BTreeMap<(HostId, Incarnation), u32>,
    /// The most memory that a life of a host has let be promised: as much more than it has as it
    /// takes attempts beyond its slots.
    pub promises: BTreeMap<(HostId, Incarnation), u64>,
    /// Lives of hosts that another process has ended, as the leader of a term was told, and what time it was for that leader.
    pub rivalled: BTreeMap<(Term, HostId, Incarnation), Timestamp>,
    /// Something beyond all promises has happened: whoever notices may stop.
    pub disaster: bool,
    /// What became of forwarded commands.
    pub calls: Calls,
    /// Which tasks are final, by the record that says so, with the time that it tells and the time that it was.
    finals: BTreeMap<(LogSeq, TaskId), (Timestamp, Timestamp)>,
    /// The log has lost records that were durable: nothing is promised any more but that whoever knows them stops.
    pub shortened: bool,
    late: BTreeSet<AttemptId>,
    promised: BTreeSet<TaskId>,
    /// The record in which each task was submitted.
    submitted: BTreeMap<TaskId, LogSeq>,
    /// Which task each submission of a client has become.
    submissions: BTreeMap<u64, TaskId>,
    terms: Terms,
    at: Timestamp,
    seq: LogSeq,
}

impl Oracle {
    /// A record became durable, at `now` by a clock that is right.
    pub fn durable(&mut self, now: Timestamp, seq: LogSeq, entry: &Entry, marks: &mut Marks) -> Checked {
        if self.shortened {
            return Ok(());
        }
        hold!(seq == self.seq.next(), "record {seq} follows {}", self.seq);
        self.terms.record(seq, entry)?;
        self.seq = seq;
        if !self.disaster {
            self.calls.durable(&entry.record)?;
        }
        for event in &entry.record.events {
            let begins = matches!(event.body, EventBody::TermStarted { .. });
            if begins && event.at < self.at {
                // Clocks were ahead: what was to be tried again by their time does not wait for them.
                self.tasks.values_mut().for_each(|life| life.set_back(event.at));
            }
            hold!(begins || event.at >= self.at, "an event of {:?} after one of {:?}", event.at, self.at);
            self.at = event.at;
            self.check_loss(entry.record.term, event)?;
            let latest = now.plus_us(DIFFERENCE_US_MAX);
            hold!(event.at <= latest || self.disaster, "an event of {:?} at {now:?}: a clock is ahead", event.at);
            self.event(seq, event, marks)?;
            self.note_final(now, seq, event);
            self.check_early(now, event)?;
        }
        Ok(())
    }

    fn note_final(&mut self, now: Timestamp, seq: LogSeq, event: &Event) {
        if let Some(task) = event.body.task()
            && self.tasks.get(&task).is_some_and(|life| matches!(life.phase, Phase::Ended(_)))
        {
            self.finals.insert((seq, task), (event.at, now));
        }
    }

    /// A node removes what is over, of what it shows: nothing goes before its retention is, give or take what led time may be ahead. How many go.
    ///
    /// # Errors
    ///
    /// When one goes too early.
    pub fn swept(
        &self,
        now: Timestamp,
        expired: Expired,
        shown: LogSeq,
        retention_us: u64,
        slack_us: u64,
    ) -> Result<usize, Violation> {
        let mut gone = 0;
        let last = shown.0.min(expired.until.0.saturating_sub(1));
        let range = (expired.from, TaskId::default())..=(LogSeq(last), TaskId(Uuid::max()));
        if self.disaster || last < expired.from.0 {
            return Ok(0);
        }
        for ((_, task), (at, ended)) in self.finals.range(range).filter(|(_, (at, _))| *at < expired.before) {
            let kept_us = now.us_since(*ended);
            hold!(kept_us + slack_us >= retention_us, "{task} ended at {at:?} and goes after {kept_us} us");
            gone += 1;
        }
        Ok(gone)
    }

    /// No task pays for another process that has taken a host's id.
    fn check_loss(&self, term: Term, event: &Event) -> Checked {
        let EventBody::AttemptEnded { id, outcome, .. } = &event.body else { return Ok(()) };
        let Some((host, life)) = self.attempts.get(id) else { return Ok(()) };
        let told_at = self.rivalled.get(&(term, host.clone(), *life));
        // What was decided before may be durable only now.
        let pays = outcome.kind == OutcomeKind::HostLost && told_at.is_some_and(|told_at| event.at >= *told_at);
        hold!(!pays, "{id:?} pays for another process that has become {host}");
        Ok(())
    }

    /// Nothing is queued before the time that its client has given for it, by more than clocks may differ.
    fn check_early(&self, now: Timestamp, event: &Event) -> Checked {
        let (EventBody::TaskSubmitted { task, .. } | EventBody::TaskQueued { task }) = &event.body else {
            return Ok(());
        };
        let Some(life) = self.tasks.get(task) else { return Ok(()) };
        let early = life.phase == Phase::Queued && life.spec.not_before > now.plus_us(DIFFERENCE_US_MAX);
        hold!(
            !early || self.disaster,
            "{task} was queued at {now:?}, and is not to start before {:?}",
            life.spec.not_before
        );
        Ok(())
    }

    fn event(&mut self, seq: LogSeq, event: &Event, marks: &mut Marks) -> Checked {
        let term = self.terms.last();
        match &event.body {
            // What must hold of terms was checked with the record.
            EventBody::TermStarted { .. } => {
                if self.unasked().next().is_some() {
                    marks.hit(Mark::RemovalTakenUp);
                }
            }
            EventBody::TenantPut { tenant } => {
                self.quotas.insert(tenant.name.clone(), tenant.quotas);
            }
            EventBody::TenantRemoved { tenant } => {
                marks.hit(Mark::TenantRemoved);
                self.quotas.remove(tenant);
                // The keys go with the tenant: one of the same name begins anew.
                self.keys.retain(|(owner, _), _| owner != tenant);
                self.tasks.values_mut().filter(|life| life.spec.tenant == *tenant).for_each(|life| {
                    if !std::mem::replace(&mut life.orphaned, true) {
                        life.orphaned_in = term;
                    }
                });
            }
            EventBody::TaskSubmitted { task, spec, fingerprint, edges } => {
                self.submitted(seq, event.at, *task, spec, *fingerprint, edges)?;
            }
            EventBody::AttemptStarted { id, host, incarnation } => self.started(*id, host, *incarnation)?,
            EventBody::PolicyBenched { .. } => marks.hit(Mark::PolicyBenched),
            EventBody::ReportLate { id, .. } => {
                marks.hit(Mark::ReportLate);
                let current = self.tasks.get(&id.task).and_then(Life::current);
                hold!(current != Some(*id), "{id:?} is current and was recorded as late");
                hold!(self.late.insert(*id), "{id:?} was recorded as late twice");
            }
            body => {
                let Some(task) = body.task() else { return Ok(()) };
                self.check_edges(task, body, marks)?;
                let Some(life) = self.tasks.get_mut(&task) else {
                    return Err(Violation(format!("an event for the unknown task {task}: {body:?}")));
                };
                life.event(event, marks)?;
            }
        }
        Ok(())
    }

    /// A task that waits for others is queued when all have ended as its edges ask, and skipped
    /// when one has not.
    fn check_edges(&self, task: TaskId, body: &EventBody, marks: &mut Marks) -> Checked {
        let Some(life) = self.tasks.get(&task) else { return Ok(()) };
        let end = |edge: &Edge| match self.tasks.get(&edge.predecessor).map(|life| life.phase) {
            Some(Phase::Ended(state)) => Some(edge.on.is_met_by(state)),
            _ => None,
        };
        match body {
            EventBody::TaskQueued { .. } if !life.edges.is_empty() && !life.was_tried() => {
                let met = life.edges.iter().all(|edge| end(edge) == Some(true));
                hold!(met, "{task} was queued before what it waits for: {:?}", life.edges);
                marks.hit(Mark::TaskUnblocked);
            }
            EventBody::TaskEnded { reason: EndReason::Skipped { predecessor }, .. } => {
                let mut to_blame = life.edges.iter().filter(|edge| edge.predecessor == *predecessor);
                hold!(to_blame.any(|edge| end(edge) == Some(false)), "{task} was skipped: {:?}", life.edges);
                marks.hit(Mark::TaskSkipped);
            }
            _ => {}
        }
        Ok(())
    }

    fn submitted(
        &mut self,
        seq: LogSeq,
        at: Timestamp,
        task: TaskId,
        spec: &Arc<TaskSpec>,
        fingerprint: Option<Digest>,
        edges: &[Edge],
    ) -> Checked {
        let known = |edge: &Edge| self.tasks.get(&edge.predecessor).is_some_and(|life| life.spec.tenant == spec.tenant);
        hold!(edges.iter().all(known), "{task} waits for a stranger: {edges:?}");
        let life = Life::new(at, Arc::clone(spec), edges.to_vec());
        hold!(self.tasks.insert(task, life).is_none(), "task {task} was accepted twice");
        self.submitted.insert(task, seq);
        if let (Some(submission), None) = (guest::submission_of(&spec.input), &spec.idempotency_key) {
            let before = self.submissions.insert(submission, task);
            hold!(before.is_none(), "one submission became two tasks: {before:?} and {task}");
        }
        if let (Some(key), Some(fingerprint)) = (&spec.idempotency_key, fingerprint) {
            let entry = (spec.tenant.clone(), key.clone());
            let before = self.keys.insert(entry, (task, fingerprint, seq));
            hold!(before.is_none(), "idempotency key `{key}` was accepted twice: {before:?} and {task}");
        }
        Ok(())
    }

    fn started(&mut self, id: AttemptId, host: &HostId, incarnation: Incarnation) -> Checked {
        let term = self.terms.last();
        let forgotten = self.unasked().find(|(_, life)| life.orphaned_in < term).map(|(id, _)| id);
        hold!(forgotten.is_none(), "{forgotten:?} of a removed tenant runs on, and nobody has asked it to stop");
        let Some(life) = self.tasks.get_mut(&id.task) else {
            return Err(Violation(format!("an attempt of the unknown task {}", id.task)));
        };
        life.started(id)?;
        let tenant = life.spec.tenant.clone();
        let place = (host.clone(), incarnation);
        let before = self.attempts.insert(id, place.clone());
        hold!(before.is_none(), "{id:?} was started twice");
        let credit = self.credits.get(&place).copied().unwrap_or(0);
        let on_host = self.running().filter(|(current, _)| self.attempts.get(current) == Some(&place)).count() as u64;
        hold!(on_host <= u64::from(credit), "{host} has {on_host} attempts, its credit is {credit}");
        self.check_promise(id, &place)?;
        self.check_quotas(&tenant)
    }

    /// A host's memory is promised once: only the last attempt may go beyond what it promises.
    fn check_promise(&self, id: AttemptId, place: &(HostId, Incarnation)) -> Checked {
        let others = self.running().filter(|(other, _)| *other != id && self.attempts.get(other) == Some(place));
        let promised: u64 = others.map(|(_, life)| life.spec.limits.memory_bytes).sum();
        let most = self.promises.get(place).copied().unwrap_or(0);
        hold!(
            promised < most,
            "{} has promised {promised} bytes of at most {most} when {id:?} is placed there",
            place.0
        );
        Ok(())
    }

    fn check_quotas(&self, tenant: &TenantName) -> Checked {
        let Some(quotas) = self.quotas.get(tenant) else { return Ok(()) };
        let running = || self.running().filter(|(_, life)| life.spec.tenant == *tenant && !life.orphaned);
        let tasks = running().count() as u64;
        hold!(
            quotas.tasks_running.is_none_or(|quota| tasks <= quota),
            "tenant {tenant} runs {tasks} tasks: {quotas:?}"
        );
        let memory_bytes: u64 = running().map(|(_, life)| life.spec.limits.memory_bytes).sum();
        let fits = quotas.memory_bytes.is_none_or(|quota| memory_bytes <= quota);
        hold!(fits, "tenant {tenant} runs tasks of {memory_bytes} bytes: {quotas:?}");
        Ok(())
    }

    /// What runs of removed tenants and was not asked to stop.
    fn unasked(&self) -> impl Iterator<Item = (AttemptId, &Life)> {
        self.running().filter(|(_, life)| life.orphaned && !life.cancel_asked)
    }

    fn running(&self) -> impl Iterator<Item = (AttemptId, &Life)> {
        self.tasks.values().filter_map(|life| Some((life.current()?, life)))
    }

    /// A client was told that its task is accepted.
    pub fn told_accepted(&mut self, task: TaskId) -> Checked {
        let known = self.tasks.contains_key(&task) || self.shortened;
        hold!(known, "a client was told that {task} is accepted before it was durable");
        self.promised.insert(task);
        Ok(())
    }

    /// A client was told of a task by a node that has read the log up to `published`: it sees the task when it looks there.
    pub fn readable(&self, task: TaskId, published: LogSeq) -> Checked {
        let Some(seq) = self.submitted_at(task).filter(|_| !self.shortened) else { return Ok(()) };
        hold!(
            seq <= published,
            "a client was told of {task} in record {seq} by a node that has read up to {published}"
        );
        Ok(())
    }

    /// A client was told that its task is cancelled.
    pub fn told_cancelled(&self, task: TaskId) -> Checked {
        let phase = self.tasks.get(&task).map(|life| life.phase);
        let ended = matches!(phase, Some(Phase::Ended(_))) || self.shortened;
        hold!(ended, "a client was told that {task} is cancelled, it is {phase:?}");
        Ok(())
    }

    /// A message with an assignment left a control node.
    pub fn sent(&self, id: AttemptId) -> Checked {
        hold!(self.attempts.contains_key(&id) || self.shortened, "{id:?} was sent before it was durable");
        Ok(())
    }

    /// Whether the log says that an attempt runs.
    pub fn is_current(&self, id: AttemptId) -> bool {
        !self.shortened && self.tasks.get(&id.task).and_then(Life::current) == Some(id)
    }

    /// A host has started a guest.
    pub fn guest_started(&self, id: AttemptId, host: &HostId, incarnation: Incarnation) -> Checked {
        let place = self.attempts.get(&id);
        hold!(
            self.shortened || place == Some(&(host.clone(), incarnation)),
            "{id:?} runs on {host} in life {incarnation}, the log says {place:?}"
        );
        Ok(())
    }

    /// The record in which a task was submitted.
    pub fn submitted_at(&self, task: TaskId) -> Option<LogSeq> {
        self.submitted.get(&task).copied()
    }

    /// The whole log, whatever was trimmed.
    pub fn entries(&self) -> &[Entry] {
        self.terms.entries()
    }

    /// The last term in the log.
    pub fn term(&self) -> Term {
        self.terms.last()
    }

    /// Names the record at a place of the log.
    pub fn hash_at(&self, seq: LogSeq) -> Option<Digest> {
        self.terms.hash_at(seq)
    }

    /// etcd has confirmed that the leader key of a term is there.
    pub fn guarded(&mut self, term: Term, caller: Caller) {
        self.terms.guarded(term, caller);
    }

    /// Whether etcd has confirmed a term to this life of a node.
    pub fn is_guarded(&self, term: Term, node: usize, life: u64) -> bool {
        self.terms.is_guarded(term, node, life)
    }

    /// The result that the log holds for a succeeded attempt must be the one that this attempt made.
    pub(crate) fn check_output(id: AttemptId, output: &Payload) -> Checked {
        hold!(*output == guest::output(id), "{id:?} was recorded with the result of another attempt");
        Ok(())
    }

    /// Tasks that clients were promised and that are not final.
    pub fn unfinished(&self) -> impl Iterator<Item = (TaskId, &Life)> {
        self.tasks.iter().filter(|(_, life)| !matches!(life.phase, Phase::Ended(_))).map(|(task, life)| (*task, life))
    }

    /// How many tasks were promised to clients.
    pub fn promised_count(&self) -> usize {
        self.promised.len()
    }

    /// How many terms have begun.
    pub fn terms_begun(&self) -> u64 {
        self.terms.begun()
    }

    /// The last durable record.
    pub fn seq(&self) -> LogSeq {
        self.seq
    }
}
