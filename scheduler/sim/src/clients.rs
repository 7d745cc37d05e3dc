//! What simulated clients do: combinations of every command, at any time, with answers that get lost.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;
use wasmill_protocol::command::{Command, KeyCheck, ModuleRef};
use wasmill_protocol::module::{ModuleInfo, ModuleKind};
use wasmill_protocol::task::{Edge, EdgeOn, RetryOn, RetryPolicy};
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{Digest, Limits, LogSeq, TaskId, TaskSpec, TenantName, Timestamp};

use crate::guest;
use crate::options::Options;
use crate::rng::{Rng, mix};

/// Names a request of a client. A repeat of it is another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// All clients together.
#[derive(Debug)]
pub struct Clients {
    rng: Rng,
    tenants: Vec<TenantName>,
    /// Requests without an answer.
    pub open: BTreeMap<RequestId, Command>,
    /// Tasks that were accepted, to be cancelled and the like.
    known: Vec<(TenantName, TaskId)>,
    /// Submissions with a key that were made, to be repeated.
    keyed: Vec<Command>,
    /// What the accepted submissions with a key were answered.
    pub keys_told: BTreeMap<(TenantName, String, Digest), TaskId>,
    next_request: u64,
    next_submission: u64,
    next_task: u128,
}

/// How long a client waits before it asks again, in microseconds.
pub const PATIENCE_US: u64 = 10_000_000;

impl Clients {
    /// Clients of some tenants.
    pub fn new(mut rng: Rng, options: &Options) -> Self {
        let named = (0..options.tenants).filter_map(|index| format!("tenant-{index}").parse().ok());
        let tenants = std::iter::once(TenantName::default_tenant()).chain(named).collect();
        let next_task = u128::from(rng.draw()) << 32;
        Self {
            rng,
            tenants,
            open: BTreeMap::new(),
            known: Vec::new(),
            keyed: Vec::new(),
            keys_told: BTreeMap::new(),
            next_request: 0,
            next_submission: 0,
            next_task,
        }
    }

    /// What has to be there before anything else: tenants and modules.
    pub fn setup(&mut self) -> Vec<(RequestId, Command)> {
        let tenants = self.tenants.clone();
        let mut commands = Vec::new();
        for name in tenants {
            if name != TenantName::default_tenant() {
                commands.push(self.create_tenant(name.clone()));
            }
            commands.push(Command::AddModule { tenant: name, module: module(0), alias: Some("tool".into()) });
        }
        commands.into_iter().map(|command| self.request(command)).collect()
    }

    /// Something that a client does.
    pub fn act(&mut self, now: Timestamp, options: &Options) -> (RequestId, Command) {
        let command = match self.rng.below(100) {
            0..62 => self.submit(now, options),
            62..72 => self.repeat(now, options),
            72..84 => self.cancel(now, options),
            84..90 => self.prioritize(now, options),
            90..94 => self.change_tenant(),
            94..96 => self.create_or_remove_tenant(),
            96..98 => Command::AddModule {
                tenant: self.tenant(),
                module: module(self.rng.below(3)),
                alias: Some("tool".into()),
            },
            _ => Command::RemoveModule { tenant: self.tenant(), digest: module(1 + self.rng.below(2)).digest },
        };
        self.request(command)
    }

    /// A command that changes something whatever was before: a tenant that never was.
    pub fn change(&mut self) -> (RequestId, Command) {
        let name = format!("new-{}", self.next_request).parse().unwrap_or_else(|_| TenantName::default_tenant());
        let command = self.create_tenant(name);
        self.request(command)
    }

    /// A number for a request, which is open from now on.
    pub fn request(&mut self, command: Command) -> (RequestId, Command) {
        let id = RequestId(self.next_request);
        self.next_request += 1;
        self.open.insert(id, command.clone());
        (id, command)
    }

    /// A request with a key that was not answered is made again, as a client with sense does; with a new task id, as the shell would draw one.
    pub fn ask_again(&mut self, command: Command) -> Option<(RequestId, Command)> {
        match command {
            Command::Submit { module, spec, key: Some(key), edges, .. } => {
                let task = self.task_id();
                Some(self.request(Command::Submit { task, module, spec, key: Some(key), edges }))
            }
            _ => None,
        }
    }

    /// Gives a submission another identity, as only a bug would.
    pub fn rename(&mut self, command: &mut Command) {
        if let Command::Submit { task, .. } = command {
            *task = self.task_id();
        }
    }

    /// A task was accepted.
    pub fn accepted(&mut self, tenant: TenantName, task: TaskId) {
        self.known.push((tenant, task));
    }

    fn tenant(&mut self) -> TenantName {
        self.rng.pick(&self.tenants).clone()
    }

    fn task_id(&mut self) -> TaskId {
        self.next_task += 1;
        TaskId(Uuid::from_u128(self.next_task))
    }

    fn submit(&mut self, now: Timestamp, options: &Options) -> Command {
        let tenant = self.tenant();
        let keyed = self.rng.chance(300);
        let deadly = self.rng.chance(options.deadly_tasks);
        let delayed = self.rng.chance(200);
        let not_before = if delayed { now.plus_us(self.rng.below(20_000_000)) } else { Timestamp(0) };
        let explicit = self.rng.chance(500);
        self.next_submission += 1;
        let mut spec = TaskSpec {
            tenant,
            input: guest::input(deadly, self.next_submission),
            priority: i8::try_from(self.rng.below(7)).unwrap_or(0) - 3,
            limits: Limits {
                wall_ms: 1_000 + self.rng.below(10_000),
                memory_bytes: (64 << 20) << self.rng.below(6),
                ..Limits::default()
            },
            retry: RetryPolicy {
                attempts_max: if explicit { u32::try_from(self.rng.between(1, 4)).unwrap_or(1) } else { 3 },
                backoff_ms: self.rng.skewed(2_000),
                backoff_ms_max: 4_000,
                on: if explicit { RetryOn::AnyFailure } else { RetryOn::Errored },
            },
            not_before,
            expires_ms: self.rng.chance(150).then(|| self.rng.skewed(10_000)),
            ..TaskSpec::default()
        };
        let mut key = None;
        if keyed {
            let text = format!("key-{}", self.rng.below(40));
            spec.idempotency_key = Some(text.clone());
            // Two of three submissions under one key are the same.
            let fingerprint = digest(self.rng.below(3) / 2);
            key = Some(KeyCheck { key: text, fingerprint, checked_to: LogSeq(0) });
        }
        if self.rng.chance(10) {
            spec.require.insert("gpu".into(), "1".into());
            spec.expires_ms = Some(5_000);
        }
        let module = ModuleRef::Alias("tool".into());
        let edges = self.edges(&spec.tenant);
        let command = Command::Submit { task: self.task_id(), module, spec: Arc::new(spec), key, edges };
        if keyed {
            self.keyed.push(command.clone());
        }
        command
    }

    /// Mostly none; else tasks that were accepted of late, some of which are final already.
    fn edges(&mut self, tenant: &TenantName) -> Vec<Edge> {
        if !self.rng.chance(250) {
            return Vec::new();
        }
        let count = usize::try_from(self.rng.between(1, 3)).unwrap_or(1);
        let recent = self.known.iter().rev().take(12).filter(|(owner, _)| owner == tenant);
        let predecessors: Vec<_> = recent.map(|(_, task)| *task).take(count).collect();
        let on = [EdgeOn::Success, EdgeOn::Success, EdgeOn::Failure, EdgeOn::Any];
        predecessors.into_iter().map(|predecessor| Edge { predecessor, on: *self.rng.pick(&on) }).collect()
    }

    fn repeat(&mut self, now: Timestamp, options: &Options) -> Command {
        if self.keyed.is_empty() {
            return self.submit(now, options);
        }
        match self.rng.pick(&self.keyed).clone() {
            Command::Submit { module, spec, key, edges, .. } => {
                Command::Submit { task: self.task_id(), module, spec, key, edges }
            }
            other => other,
        }
    }

    fn cancel(&mut self, now: Timestamp, options: &Options) -> Command {
        if self.known.is_empty() {
            return self.submit(now, options);
        }
        // Recent ones more often: the others are final.
        let back = self.rng.skewed(self.known.len() as u64);
        let (tenant, task) = self.known[self.known.len() - usize::try_from(back).unwrap_or(1)].clone();
        Command::Cancel { tenant, task, reason: None }
    }

    fn prioritize(&mut self, now: Timestamp, options: &Options) -> Command {
        match self.cancel(now, options) {
            Command::Cancel { tenant, task, .. } => Command::Prioritize { tenant, task, priority: 5 },
            other => other,
        }
    }

    fn change_tenant(&mut self) -> Command {
        let quotas = self.quotas();
        Command::ChangeTenant { name: self.tenant(), weight: Some(1), class: Some(self.class()), quotas: Some(quotas) }
    }

    fn create_or_remove_tenant(&mut self) -> Command {
        let name = self.tenant();
        if self.rng.chance(500) { Command::RemoveTenant { name } } else { self.create_tenant(name) }
    }

    fn create_tenant(&mut self, name: TenantName) -> Command {
        let quotas = self.quotas();
        let weight = u32::try_from(self.rng.between(1, 10)).unwrap_or(1);
        Command::CreateTenant { name, weight, class: self.class(), quotas }
    }

    /// Mostly the one that everybody has.
    fn class(&mut self) -> i8 {
        if self.rng.chance(200) { *self.rng.pick(&[-1, 1, 100]) } else { 0 }
    }

    fn quotas(&mut self) -> Quotas {
        Quotas {
            tasks_queued: self.rng.chance(300).then(|| self.rng.between(1, 50)),
            tasks_running: self.rng.chance(300).then(|| self.rng.between(1, 5)),
            memory_bytes: self.rng.chance(200).then(|| self.rng.between(2, 8) << 30),
            ..Quotas::default()
        }
    }
}

/// One of the modules.
fn module(index: u64) -> Arc<ModuleInfo> {
    Arc::new(ModuleInfo { digest: digest(1_000 + index), bytes: 100, kind: ModuleKind::Task, ..ModuleInfo::default() })
}

fn digest(number: u64) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&mix(number).to_be_bytes());
    Digest(bytes)
}
