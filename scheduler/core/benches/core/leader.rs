//! A leader with as many hosts, tenants, shapes and tasks as a benchmark asks for.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_protocol::command::{Command, ModuleRef};
use wasmill_protocol::message::{FromHost, Heartbeat, HostInfo, Report};
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::tenant::Quotas;
use wasmill_protocol::{
    AttemptId, Digest, HostId, Incarnation, Outcome, OutcomeKind, Payload, TaskId, TaskSpec, TenantName, Term,
    Timestamp, Usage,
};
use wasmill_scheduler_core::{Core, CoreConfig, Input, ReplyTo, State};

type Labels = BTreeMap<String, String>;

/// Tenants of every benchmark.
const TENANTS: u32 = 1_000;
/// Reports in one message.
const REPORTS_PER_MESSAGE: usize = 16;

/// The size of a measured leader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Hosts, all of one kind and full.
    pub(crate) hosts: u32,
    /// Shapes; the first of [`TENANTS`] tenants have them in turns.
    pub(crate) shapes: u32,
    /// Sets of labels of which each shape requires one, up to 1,000; none is required when it is 1.
    pub(crate) needs: u32,
    /// Tasks in the queue, evenly over the shapes.
    pub(crate) queued: u32,
}

/// A leader, and the attempts that its hosts hold.
pub(crate) struct Leader {
    pub(crate) core: Core,
    now: Timestamp,
    hosts: Vec<VecDeque<AttemptId>>,
    /// The host whose turn it is.
    turn: usize,
    beats: u64,
    tasks: u32,
    size: Size,
    outcome: Arc<Outcome>,
}

impl Leader {
    /// A leader whose hosts are full, with `size.queued` tasks left in the queue.
    pub(crate) fn new(size: Size) -> Self {
        let mut leader = Self::without_hosts(size);
        for host in 0..size.hosts {
            leader.join(host);
            leader.hosts.push(VecDeque::new());
        }
        leader.take_ready();
        for host in 0..size.hosts {
            let beat = leader.heartbeat(host);
            leader.step(Input::Heartbeat(beat));
            if host % 64 == 63 {
                leader.settle();
            }
        }
        leader.settle();
        while leader.core.queue_depth().queued < u64::from(size.queued) {
            leader.submit();
        }
        leader.settle();
        leader
    }

    /// The same before the first host.
    pub(crate) fn without_hosts(size: Size) -> Self {
        let config = CoreConfig { shapes_max: 1 << 20, ..CoreConfig::default() };
        let mut leader = Self {
            core: Core::new(1, config, State::default()),
            now: Timestamp(1_000_000_000),
            hosts: Vec::new(),
            turn: 0,
            beats: 0,
            tasks: 0,
            size,
            outcome: Arc::new(Outcome::new(OutcomeKind::Succeeded, "")),
        };
        let uptime = wasmill_protocol::Uptime::default();
        leader.step(Input::Lead { term: Term(1), node: "n1".into(), passed_us: 0, uptime });
        for number in 0..TENANTS {
            let create = Command::CreateTenant { name: tenant(number), weight: 1, class: 0, quotas: Quotas::default() };
            leader.command(create);
            let module = Arc::new(ModuleInfo::default());
            leader.command(Command::AddModule { tenant: tenant(number), module, alias: None });
        }
        for _ in 0..size.queued {
            leader.submit();
            if leader.core.events_ready() > 4_096 {
                leader.core.take_ready();
            }
        }
        leader.core.take_ready();
        leader
    }

    /// Submits one task more, of the next shape.
    pub(crate) fn submit(&mut self) {
        let shape = self.tasks % self.size.shapes;
        let mut spec = TaskSpec { tenant: tenant(shape % TENANTS), ..TaskSpec::default() };
        // Shapes of one tenant differ in a way that every host can serve.
        spec.limits.memory_bytes = (64 << 20) + u64::from(shape / TENANTS);
        spec.require = self.require(shape);
        let task = self.task(self.tasks);
        self.tasks += 1;
        self.command(Command::Submit {
            task,
            module: ModuleRef::Digest(Digest::default()),
            spec: Arc::new(spec),
            key: None,
            edges: Vec::new(),
        });
    }

    /// The labels of a shape: one of ten labels three times, so that thirty labels make a thousand
    /// sets.
    fn require(&self, shape: u32) -> Labels {
        let need = shape % self.size.needs;
        let digits = [need / 100, need / 10 % 10, need % 10].into_iter().zip(["a", "b", "c"]);
        let labels = digits.map(|(digit, place)| (format!("{place}{digit}"), String::new()));
        if self.size.needs == 1 { Labels::new() } else { labels.collect() }
    }

    /// The labels of every host: all that are required.
    fn carried(&self) -> Labels {
        (0..self.size.needs).flat_map(|need| self.require(need)).collect()
    }

    /// The task that was submitted as the `number`th.
    pub(crate) fn task(&self, number: u32) -> TaskId {
        format!("01890a5d-ac96-774b-bcce-{number:012x}").parse().expect("this is how an id is written")
    }

    /// The number of the next task.
    pub(crate) fn tasks(&self) -> u32 {
        self.tasks
    }

    /// Hosts join one after the other.
    pub(crate) fn join(&mut self, host: u32) {
        let labels = self.carried();
        self.step(Input::HostJoined(HostInfo { id: host_id(host), labels, ..HostInfo::default() }));
    }

    /// The heartbeat of a host: as before, with the attempts that it holds.
    pub(crate) fn heartbeat(&mut self, host: u32) -> Heartbeat {
        // All hosts together hold some ten thousand attempts; a third of them waits.
        let credit = match self.size.hosts {
            1 => 1_024,
            2..=1_000 => 16,
            _ => 4,
        };
        self.beats += 1;
        Heartbeat {
            host: host_id(host),
            number: self.beats,
            attempts: self.hosts[host as usize].iter().copied().collect(),
            credit,
            slots: credit * 2 / 3,
            memory_bytes: 1 << 40,
            labels: self.carried(),
            ..Heartbeat::default()
        }
    }

    /// The reports of up to `count` attempts that have succeeded, of one host after the other.
    pub(crate) fn reports(&mut self, count: usize) -> Vec<FromHost> {
        let (mut messages, mut left) = (Vec::new(), count);
        // Each host may have its turn, and a single one several.
        for _ in 0..self.hosts.len().max(count) {
            if left == 0 {
                break;
            }
            let held = &mut self.hosts[self.turn];
            let mut reports = Vec::new();
            while reports.len() < left.min(REPORTS_PER_MESSAGE)
                && let Some(id) = held.pop_front()
            {
                let usage = Usage { run_us: 1_000, ..Usage::default() };
                let (outcome, output, captured) = (Arc::clone(&self.outcome), Payload::Empty, Payload::Empty);
                reports.push(Report::Ended { id, outcome, usage, output, captured });
            }
            left -= reports.len();
            let host = host_id(u32::try_from(self.turn).expect("hosts are counted in 32 bits"));
            messages.push(FromHost { host, incarnation: Incarnation(0), reports });
            self.turn = (self.turn + 1) % self.hosts.len();
        }
        messages
    }

    /// Attempts end and others start in their places. Returns how many have started.
    pub(crate) fn decide(&mut self, messages: Vec<FromHost>) -> usize {
        for message in messages {
            self.step(Input::FromHost { reply_to: ReplyTo(0), message });
        }
        self.take_ready()
    }

    /// Takes what is ready until there is nothing more.
    fn settle(&mut self) {
        while self.take_ready() > 0 || self.core.next_timeout() == Some(self.now) {}
    }

    /// Takes what is ready, and lets the hosts have it. Returns how many attempts have started.
    pub(crate) fn take_ready(&mut self) -> usize {
        let mut started = 0;
        for message in self.core.take_ready().messages {
            let host: u32 = message.host.0[1..].parse().expect("a host is named by its number");
            started += message.assign.len();
            self.hosts[host as usize].extend(message.assign.iter().map(|(id, _)| *id));
        }
        started
    }

    fn command(&mut self, command: Command) {
        self.step(Input::Command { reply_to: ReplyTo(0), command });
    }

    pub(crate) fn step(&mut self, input: Input) {
        self.core.step(self.now, input);
    }
}

fn tenant(number: u32) -> TenantName {
    format!("t{number}").parse().expect("this is how a tenant is named")
}

fn host_id(number: u32) -> HostId {
    HostId::from(format!("h{number}").as_str())
}
