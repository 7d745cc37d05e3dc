//! A second, dumb opinion of what the log means: one map, no index, every rule written out.

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::task::Edge;
use wasmill_protocol::{
    Attempt, AttemptId, FinalState, HostId, Incarnation, OutcomeKind, TaskId, TaskState, TenantName, Timestamp,
};
use wasmill_record::event::{EndReason, EventBody, Sequel};
use wasmill_scheduler_core::State;

/// The state of every task there ever was, by the log.
#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) tenants_removed: BTreeSet<TenantName>,
    pub(crate) late: BTreeSet<AttemptId>,
}

#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) tenant: TenantName,
    pub(crate) stands: Stands,
    last: Attempt,
    attempts_max: u32,
    failures: u32,
    hosts_lost: u32,
    cancel_requested: bool,
    pub(crate) tenant_removed: bool,
    edges: Vec<Edge>,
    not_before: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stands {
    Waiting,
    Queued,
    Running(AttemptId, HostId, Incarnation),
    Final(FinalState),
}

impl Model {
    /// Applies an event, and panics when it must not happen.
    pub(crate) fn apply(&mut self, at: Timestamp, body: &EventBody) {
        if let (Some(task), false) = (body.task(), matches!(body, EventBody::ReportLate { .. })) {
            let is_final = self.tasks.get(&task).is_some_and(|task| matches!(task.stands, Stands::Final(_)));
            assert!(!is_final, "nothing happens to a final task: {body:?}");
        }
        match body {
            EventBody::TaskSubmitted { task, spec, edges, .. } => {
                let strangers = edges.iter().filter(|edge| self.tasks[&edge.predecessor].tenant != spec.tenant);
                assert_eq!(strangers.count(), 0, "{task} waits for its own");
                let waits = !edges.is_empty() || spec.not_before > at;
                let stands = if waits { Stands::Waiting } else { Stands::Queued };
                let new = Task {
                    tenant: spec.tenant.clone(),
                    stands,
                    last: Attempt(0),
                    attempts_max: spec.retry.attempts_max,
                    failures: 0,
                    hosts_lost: 0,
                    cancel_requested: false,
                    tenant_removed: false,
                    edges: edges.clone(),
                    not_before: spec.not_before,
                };
                assert!(self.tasks.insert(*task, new).is_none(), "{task} was accepted once");
            }
            EventBody::TaskQueued { task } => {
                let is_met = self.ends_before(*task).all(|is_met| is_met == Some(true));
                let task = self.task(task);
                assert_eq!(task.stands, Stands::Waiting);
                assert!(
                    task.last > Attempt(0) || (is_met && at >= task.not_before),
                    "nothing runs before what it waits for"
                );
                task.stands = Stands::Queued;
            }
            EventBody::AttemptStarted { id, host, incarnation } => {
                let task = self.task(&id.task);
                assert_eq!((&task.stands, id.attempt), (&Stands::Queued, task.last.next()));
                assert!(!task.tenant_removed, "no task of a removed tenant starts");
                (task.last, task.stands) = (id.attempt, Stands::Running(*id, host.clone(), *incarnation));
            }
            EventBody::AttemptEnded { id, outcome, next, .. } => self.attempt_ended(at, *id, outcome.kind, *next),
            EventBody::CancelRequested { task, .. } => {
                let task = self.task(task);
                assert!(matches!(task.stands, Stands::Running(..)) && !task.cancel_requested);
                task.cancel_requested = true;
            }
            EventBody::TaskEnded { task, state, reason } => {
                let is_unmet = self.ends_before(*task).any(|is_met| is_met == Some(false));
                assert!(!matches!(reason, EndReason::Skipped { .. }) || is_unmet, "{task} is skipped for a reason");
                let task = self.task(task);
                assert!(matches!(task.stands, Stands::Waiting | Stands::Queued));
                task.stands = Stands::Final(*state);
            }
            EventBody::TenantRemoved { tenant } => {
                self.tenants_removed.insert(tenant.clone());
                self.tasks
                    .values_mut()
                    .filter(|task| task.tenant == *tenant)
                    .for_each(|task| task.tenant_removed = true);
            }
            EventBody::ReportLate { id, .. } => assert!(self.late.insert(*id), "recorded once for each attempt"),
            EventBody::CheckpointSaved { id, .. } => {
                assert!(matches!(self.task(&id.task).stands, Stands::Running(current, ..) if current == *id));
            }
            _ => {}
        }
    }

    fn attempt_ended(&mut self, at: Timestamp, id: AttemptId, kind: OutcomeKind, next: Sequel) {
        let task = self.task(&id.task);
        assert!(matches!(task.stands, Stands::Running(current, ..) if current == id), "only a current attempt ends");
        let removed = task.tenant_removed;
        task.hosts_lost += u32::from(kind == OutcomeKind::HostLost);
        task.stands = match next {
            Sequel::Final { state } => {
                assert_eq!(state == FinalState::Succeeded, kind == OutcomeKind::Succeeded && !removed);
                assert!(state != FinalState::Failed || !task.cancel_requested, "who is asked to stop does not fail");
                Stands::Final(state)
            }
            _ if removed || task.cancel_requested => panic!("{id:?} is not tried again"),
            Sequel::Requeue => {
                assert!(matches!(kind, OutcomeKind::Returned | OutcomeKind::HostLost | OutcomeKind::HostFault));
                assert!(task.hosts_lost < 3);
                Stands::Queued
            }
            Sequel::Retry { not_before } => {
                task.failures += 1;
                assert!(task.failures < task.attempts_max, "{id:?} has tries left");
                if not_before > at { Stands::Waiting } else { Stands::Queued }
            }
        };
    }

    /// Of each edge that leads to a task whether it is met; nothing while its predecessor has not
    /// ended.
    fn ends_before(&self, task: TaskId) -> impl Iterator<Item = Option<bool>> {
        self.tasks[&task].edges.iter().map(|edge| match self.tasks[&edge.predecessor].stands {
            Stands::Final(state) => Some(edge.on.is_met_by(state)),
            _ => None,
        })
    }

    fn task(&mut self, id: &TaskId) -> &mut Task {
        self.tasks.get_mut(id).unwrap_or_else(|| panic!("{id} was submitted"))
    }

    /// Attempts that run on a host, in whatever life.
    pub(crate) fn running_on(&self, host: &HostId) -> usize {
        let runs = |task: &&Task| matches!(&task.stands, Stands::Running(_, on, _) if on == host);
        self.tasks.values().filter(runs).count()
    }

    /// Both opinions are the same.
    pub(crate) fn assert_agrees(&self, state: &State) {
        let mut known = state.tasks();
        for (id, task) in &self.tasks {
            let expected = match task.stands {
                Stands::Waiting => TaskState::Waiting,
                Stands::Queued => TaskState::Queued,
                Stands::Running(..) => TaskState::Running,
                Stands::Final(_) => continue,
            };
            let view = known.next().unwrap_or_else(|| panic!("{id} is not lost"));
            assert_eq!((view.id, view.state, view.attempt.attempt), (*id, expected, task.last));
            assert_eq!((view.failures, u32::from(view.hosts_lost)), (task.failures, task.hosts_lost));
        }
        assert_eq!(known.next(), None, "nothing final is kept");
    }
}
