//! Everything that can happen to a leader, done to one, with every rule checked after each step.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_protocol::command::{Command, Done, KeyCheck, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::task::{Edge, EdgeOn, RetryOn, RetryPolicy};
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{
    AttemptId, HostId, Incarnation, LogSeq, Outcome, OutcomeKind, Payload, TaskSpec, TenantName, Usage,
};
use wasmill_record::event::{Event, EventBody};
use wasmill_record::snapshot::{ReadModelCopy, SnapshotRef};
use wasmill_scheduler_core::policy::ask::{Ask, Outside, PolicyAnswer, PolicyQuestion, WantedFacts};
use wasmill_scheduler_core::policy::{Choice, Key, Keys, ORDERS, PLACES, PolicyFault, Ref, Seat, Stride};
use wasmill_scheduler_core::{Core, CoreConfig, Input, ReplyTo};

use crate::model::{Model, Stands};
use crate::names::{digest, task_id};
use crate::world::World;

/// Something that happens. Numbers are reduced to what exists.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Submit { tenant: u8, priority: i8, delay_ms: u64, expires_ms: Option<u64>, attempts: u32, key: Option<u8> },
    SubmitAfter { tenant: u8, back: [u8; 2], on: u8, delay_ms: u64 },
    SubmitAgain { task: u8 },
    Cancel { task: u8 },
    Prioritize { task: u8, priority: i8 },
    RemoveTenant { tenant: u8 },
    ChangeQuotas { tenant: u8, running: u64 },
    After { ms: u64 },
    Join { host: u8, anew: bool },
    Leave { host: u8, life: u8 },
    Beat { host: u8, credit: u8, forgets: u8, draining: bool },
    Drain { host: u8, draining: bool },
    Report { attempt: u8, kind: u8, host: Option<u8>, wrong_nonce: bool },
    Refuse { attempt: u8 },
    ReadModel { behind: u8 },
    SnapshotStored { behind: u8 },
    Answer { hook: PolicyHook, earlier: u8, how: u8 },
    Seat { hook: PolicyHook, policy: u8 },
    TakeReady,
    Restart,
}

/// A world, the model beside it, and what the ops refer to.
pub(crate) struct Story {
    pub(crate) world: World,
    model: Model,
    /// Attempts that have started, with where.
    started: Vec<(AttemptId, HostId, Incarnation)>,
    lives: BTreeMap<u8, u64>,
    /// The last credit of each host, in its present life.
    credit: BTreeMap<HostId, usize>,
    quotas: BTreeMap<TenantName, u64>,
    beats: u64,
    tasks: usize,
    term: u64,
    /// The questions to policies outside.
    asks: Vec<Ask>,
    /// Seats the policies of a new leader.
    seat: Box<dyn Fn(&mut Core)>,
}

const TENANTS: [&str; 3] = ["default", "one", "two"];

fn tenant(number: u8) -> TenantName {
    TENANTS[usize::from(number) % TENANTS.len()].parse().unwrap()
}

fn host(number: u8) -> HostId {
    HostId::from(["h0", "h1", "h2"][usize::from(number) % 3])
}

impl Story {
    /// A leader with tenants and modules; `seat` seats its policies, and those of every one after
    /// it.
    pub(crate) fn new(seat: impl Fn(&mut Core) + 'static) -> Self {
        let config = CoreConfig { batch_max: 3, dispatch_max: 3, longest_wait_ms: 2_000, ..CoreConfig::default() };
        let mut story = Self {
            world: World::new(config),
            model: Model::default(),
            started: Vec::new(),
            lives: BTreeMap::new(),
            credit: BTreeMap::new(),
            quotas: BTreeMap::new(),
            beats: 0,
            tasks: 0,
            term: 1,
            asks: Vec::new(),
            seat: Box::new(seat),
        };
        story.world.cores().for_each(&story.seat);
        story.world.step(Input::Lead {
            term: wasmill_protocol::Term(1),
            node: "n1".into(),
            passed_us: 0,
            uptime: wasmill_protocol::Uptime::default(),
        });
        (0..3).for_each(|number| story.create_tenant(number));
        story.take_ready();
        story
    }

    fn create_tenant(&mut self, number: u8) {
        let (name, weight) = (tenant(number), u32::from(number) + 1);
        self.command(Command::CreateTenant {
            name: name.clone(),
            weight,
            class: i8::from(number == 2),
            quotas: Quotas::default(),
        });
        let module = ModuleInfo { digest: digest("m"), ..ModuleInfo::default() };
        self.command(Command::AddModule { tenant: name, module: Arc::new(module), alias: None });
    }

    fn command(&mut self, command: Command) {
        self.world.step(Input::Command { reply_to: ReplyTo(1), command });
    }

    fn task(&self, number: u8) -> Option<(wasmill_protocol::TaskId, TenantName)> {
        let known: Vec<_> = self.model.tasks.iter().collect();
        let (id, task) = known.get(usize::from(number) % known.len().max(1))?;
        Some((**id, task.tenant.clone()))
    }

    fn take_ready(&mut self) {
        let ready = self.world.take_ready();
        for Event { at, body } in &ready.events {
            self.model.apply(*at, body);
            if let EventBody::AttemptStarted { id, host, incarnation } = body {
                let credit = self.credit.get(host).copied().unwrap_or(0);
                assert!(self.model.running_on(host) <= credit, "{host} takes {credit}");
                assert!(self.started.iter().all(|(other, ..)| other != id), "no attempt starts twice");
                self.within_quota(id);
                self.started.push((*id, host.clone(), *incarnation));
            }
        }
        for message in &ready.messages {
            for (id, _) in &message.assign {
                assert!(self.started.contains(&(*id, message.host.clone(), message.incarnation)), "in the log first");
            }
        }
        self.asks.extend(ready.asks);
        for (_, result) in &ready.replies {
            if let Ok(Done::Accepted { task } | Done::Repeated { task }) = result {
                assert!(self.model.tasks.contains_key(task), "{task} is in the log when it is accepted");
            }
        }
    }

    fn within_quota(&self, id: &AttemptId) {
        let tenant = &self.model.tasks[&id.task].tenant;
        let Some(&quota) = self.quotas.get(tenant) else { return };
        // The rest of a removed tenant does not count for a new one of the same name.
        let running = self.model.tasks.values().filter(|task| {
            task.tenant == *tenant && !task.tenant_removed && matches!(task.stands, Stands::Running(..))
        });
        assert!(running.count() as u64 <= quota, "{tenant} runs no more than {quota}");
    }

    /// Does one thing.
    pub(crate) fn run(&mut self, op: &Op) {
        match op.clone() {
            Op::TakeReady => self.take_ready(),
            Op::After { ms } => {
                self.world.now = self.world.now.plus_ms(ms);
                self.world.step(Input::Tick);
            }
            Op::ReadModel { behind } => {
                let at = (self.world.log.len() as u64).saturating_sub(u64::from(behind));
                self.world.step(Input::ReadModelAt(LogSeq(at)));
            }
            Op::SnapshotStored { behind } => {
                let seq = LogSeq((self.world.log.len() as u64).saturating_sub(u64::from(behind)));
                self.world.step(Input::SnapshotStored(SnapshotRef { seq, ..SnapshotRef::default() }));
                self.world.step(Input::ReadModelStored(ReadModelCopy { seq, ..ReadModelCopy::default() }));
            }
            Op::Restart => {
                // Decisions that were not appended are lost with the process; nobody was told.
                self.term += 1;
                self.credit.clear();
                self.quotas = self.quotas_in_log();
                self.world.restart(self.term);
                self.world.cores().for_each(&self.seat);
                self.take_ready();
            }
            Op::Seat { hook, policy } => self.world.step(Input::PolicySeated(seat(hook, policy))),
            Op::Answer { hook, earlier, how } => {
                let mut asked = self.asks.iter().rev().filter(|ask| ask.id.hook == hook);
                if let Some(ask) = asked.nth(usize::from(earlier)) {
                    let (id, answer) = (ask.id, answer(ask, how));
                    self.world.step(Input::PolicyAnswered { id, answer });
                }
            }
            Op::Join { .. } | Op::Leave { .. } | Op::Beat { .. } | Op::Drain { .. } => self.host_changes(op),
            Op::Report { .. } | Op::Refuse { .. } => self.host_reports(op),
            _ => self.client_asks(op),
        }
        self.take_ready_if_stale();
    }

    /// The model only knows what was taken; comparing needs both at the same point.
    fn take_ready_if_stale(&mut self) {
        if self.world.core.events_ready() == 0 {
            self.model.assert_agrees(self.world.core.state());
        }
    }

    fn quotas_in_log(&self) -> BTreeMap<TenantName, u64> {
        let mut quotas = BTreeMap::new();
        for body in self.world.events() {
            match body {
                EventBody::TenantPut { tenant } => match tenant.quotas.tasks_running {
                    Some(running) => drop(quotas.insert(tenant.name.clone(), running)),
                    None => drop(quotas.remove(&tenant.name)),
                },
                EventBody::TenantRemoved { tenant } => drop(quotas.remove(tenant)),
                _ => {}
            }
        }
        quotas
    }

    fn client_asks(&mut self, op: &Op) {
        match op.clone() {
            Op::Submit { tenant: of, priority, delay_ms, expires_ms, attempts, key } => {
                self.tasks += 1;
                let retry = RetryPolicy { attempts_max: attempts, on: RetryOn::AnyFailure, ..RetryPolicy::default() };
                let not_before = self.world.now.plus_ms(delay_ms);
                let spec =
                    TaskSpec { tenant: tenant(of), priority, retry, not_before, expires_ms, ..TaskSpec::default() };
                let key = key.map(|key| KeyCheck {
                    key: format!("key-{key}"),
                    fingerprint: digest("same"),
                    checked_to: LogSeq(self.world.log.len() as u64),
                });
                let (task, module) = (task_id(self.tasks), ModuleRef::Digest(digest("m")));
                self.command(Command::Submit { task, module, spec: Arc::new(spec), key, edges: Vec::new() });
            }
            Op::SubmitAfter { tenant: of, back, on, delay_ms } => {
                self.tasks += 1;
                let not_before = self.world.now.plus_ms(delay_ms);
                let spec = Arc::new(TaskSpec { tenant: tenant(of), not_before, ..TaskSpec::default() });
                let on = [EdgeOn::Success, EdgeOn::Failure, EdgeOn::Any, EdgeOn::Success][usize::from(on) % 4];
                // Some have ended, or are of another tenant: then it is refused.
                let known = back.map(|back| self.tasks.saturating_sub(usize::from(back)).max(1));
                let edges = known.map(|number| Edge { predecessor: task_id(number), on }).into();
                let (task, module) = (task_id(self.tasks), ModuleRef::Digest(digest("m")));
                self.command(Command::Submit { task, module, spec, key: None, edges });
            }
            Op::SubmitAgain { task } => {
                if let Some((task, tenant)) =
                    self.task(task).filter(|(task, _)| self.world.core.state().task(*task).is_some())
                {
                    let spec = Arc::new(TaskSpec { tenant, ..TaskSpec::default() });
                    self.command(Command::Submit {
                        task,
                        module: ModuleRef::Digest(digest("m")),
                        spec,
                        key: None,
                        edges: Vec::new(),
                    });
                }
            }
            Op::Cancel { task } => {
                if let Some((task, tenant)) = self.task(task) {
                    self.command(Command::Cancel { tenant, task, reason: None });
                }
            }
            Op::Prioritize { task, priority } => {
                if let Some((task, tenant)) = self.task(task) {
                    self.command(Command::Prioritize { tenant, task, priority });
                }
            }
            Op::RemoveTenant { tenant: of } => {
                self.command(Command::RemoveTenant { name: tenant(of) });
                self.quotas.remove(&tenant(of));
                self.create_tenant(of);
            }
            Op::ChangeQuotas { tenant: of, running } => {
                // Only ever more than runs already, so that the quota can be checked at every
                // start.
                let tasks_running = Some(running + 2);
                self.take_ready();
                let quotas = Quotas { tasks_running, ..Quotas::default() };
                self.quotas.insert(tenant(of), running + 2);
                self.command(Command::ChangeTenant {
                    name: tenant(of),
                    weight: None,
                    class: None,
                    quotas: Some(quotas),
                });
            }
            other => unreachable!("{other:?}"),
        }
    }

    fn host_changes(&mut self, op: &Op) {
        match *op {
            Op::Join { host: number, anew } => {
                let id = host(number);
                let life = self.lives.entry(number).or_insert(1);
                *life += u64::from(anew);
                let incarnation = Incarnation(*life);
                if anew {
                    self.world.held.remove(&id);
                    self.credit.remove(&id);
                }
                self.world.step(Input::HostJoined(HostInfo { id, incarnation, ..HostInfo::default() }));
            }
            Op::Leave { host: number, life } => {
                self.world.step(Input::HostLeft(host(number), Incarnation(u64::from(life))));
            }
            Op::Drain { host: number, draining } => {
                let command = Command::DrainHost { host: host(number), draining };
                self.command(command);
            }
            Op::Beat { host: number, credit, forgets, draining } => {
                let id = host(number);
                let Some(&life) = self.lives.get(&number) else { return };
                self.beats += 1;
                let mut attempts = self.world.held.get(&id).cloned().unwrap_or_default();
                if !attempts.is_empty() && forgets > 0 {
                    attempts.remove(usize::from(forgets) % attempts.len());
                }
                self.take_ready();
                self.credit.insert(id.clone(), usize::from(credit));
                self.world.step(Input::Heartbeat(Heartbeat {
                    host: id,
                    incarnation: Incarnation(life),
                    number: self.beats,
                    attempts,
                    credit: u32::from(credit),
                    slots: 2,
                    memory_bytes: 1 << 40,
                    draining,
                    ..Heartbeat::default()
                }));
            }
            ref other => unreachable!("{other:?}"),
        }
    }

    fn host_reports(&mut self, op: &Op) {
        let recent = self.started.len().saturating_sub(12);
        let pick = |number: u8| {
            let among = &self.started[recent..];
            among.get(usize::from(number) % among.len().max(1)).cloned()
        };
        match *op {
            Op::Report { attempt, kind, host: other, wrong_nonce } => {
                let Some((mut id, from, incarnation)) = pick(attempt) else { return };
                let from = other.map_or(from, host);
                id.nonce.0 ^= u64::from(wrong_nonce);
                self.world.let_go(&from, id);
                let report = report(id, kind);
                let message = FromHost { host: from, incarnation, reports: vec![report] };
                self.world.step(Input::FromHost { reply_to: ReplyTo(2), message });
            }
            Op::Refuse { attempt } => {
                let Some((id, host, _)) = pick(attempt) else { return };
                self.world.step(Input::AssignRefused { host, attempts: vec![id] });
            }
            ref other => unreachable!("{other:?}"),
        }
    }

    /// Everything works again: every task must end.
    pub(crate) fn heal(&mut self) {
        for number in 0..3 {
            self.run(&Op::Join { host: number, anew: true });
            self.run(&Op::Drain { host: number, draining: false });
        }
        for _ in 0..400 {
            for number in 0..3 {
                self.run(&Op::Beat { host: number, credit: 4, forgets: 0, draining: false });
            }
            self.take_ready();
            let held: Vec<_> =
                self.world.held.iter().flat_map(|(host, ids)| ids.iter().map(|id| (host.clone(), *id))).collect();
            for (host, id) in held {
                let incarnation =
                    self.world.core.hosts().iter().find(|view| view.info.id == host).map(|view| view.info.incarnation);
                self.world.let_go(&host, id);
                let message = FromHost { host, incarnation: incarnation.unwrap(), reports: vec![report(id, 0)] };
                self.world.step(Input::FromHost { reply_to: ReplyTo(2), message });
            }
            self.run(&Op::After { ms: 500 });
            self.take_ready();
            let depth = self.world.core.queue_depth();
            if depth.waiting + depth.queued + depth.running == 0 {
                break;
            }
        }
        assert!(
            self.model.tasks.values().all(|task| matches!(task.stands, Stands::Final(_))),
            "{:?}",
            self.model.tasks
        );
        self.world.assert_follower_agrees();
    }
}

fn report(id: AttemptId, kind: u8) -> Report {
    use OutcomeKind::*;
    let kinds = [Succeeded, Errored, Succeeded, Trapped, HostFault, Cancelled, Rejected, Errored, Succeeded, HostFault];
    match kinds.get(usize::from(kind)) {
        None if kind.is_multiple_of(2) => Report::Returned { id },
        None => Report::Checkpoint { id, number: u32::from(kind), data: Payload::Empty },
        Some(&kind) => {
            let outcome = Arc::new(Outcome::new(kind, ""));
            Report::Ended { id, outcome, usage: Usage::default(), output: Payload::Empty, captured: Payload::Empty }
        }
    }
}

/// One of the policies that are built in, or one outside.
fn seat(hook: PolicyHook, policy: u8) -> Seat {
    let names = match hook {
        PolicyHook::Order => ORDERS,
        PolicyHook::Place => PLACES,
    };
    let name = format!("outside-{policy}");
    let outside = Outside { digest: digest(&name), name, orders_shapes: policy > 3, ..Outside::default() };
    names.get(usize::from(policy)).map_or(Seat::outside(hook, outside), |name| Seat::built_in(hook, name).unwrap())
}

/// An answer that is right, or not quite.
fn answer(ask: &Ask, how: u8) -> PolicyAnswer {
    let fault = || PolicyAnswer::Fault(PolicyFault { reason: "unreachable executed".to_owned() });
    match &ask.question {
        _ if how.is_multiple_of(8) => fault(),
        PolicyQuestion::Order(question) => {
            let key = |rank: usize| Key { rank: rank as u64 ^ u64::from(how), stride: Stride::By(1), ..Key::default() };
            let tenants = question.tenants.len() + usize::from(how.is_multiple_of(7));
            PolicyAnswer::Keys(Keys {
                tenants: (0..tenants).map(key).collect(),
                shapes: (0..question.shapes.len()).map(key).collect(),
            })
        }
        PolicyQuestion::Place(question) => {
            let choice = |(wanted, wish): (usize, &WantedFacts)| Choice {
                wanted,
                host: Ref { slot: (u32::from(how) + u32::try_from(wanted).unwrap()) % 3, generation: 0 },
                count: wish.count,
            };
            PolicyAnswer::Choices(question.wanted.iter().enumerate().map(choice).collect())
        }
    }
}
