//! The agenda of the simulated cluster, and what each thing on it does.

mod client_side;
mod control_side;
mod faults;
mod host_side;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use wasmill_protocol::command::{Command, Done, Refusal};
use wasmill_protocol::message::{FromHost, Heartbeat, HostAck, HostInfo, ToHost};
use wasmill_protocol::{AttemptId, HostId, Incarnation, LogSeq, Timestamp};

use crate::clients::{Clients, PATIENCE_US, RequestId};
use crate::control::{Control, Disk};
use crate::hosts::{BatchAddress, SimHost};
use crate::marks::Marks;
use crate::options::Options;
use crate::oracle::{Checked, Oracle, Violation};
use crate::plant::Plant;
use crate::rng::Rng;

pub use faults::Fault;

/// How long a host's lease lives without renewal, in microseconds.
pub const LEASE_US: u64 = 5_000_000;
/// The virtual time at which every simulation begins.
const BEGIN: Timestamp = Timestamp(1_000_000_000_000_000);
/// Lines of trace that are kept for a failure.
const TRACE_LINES_MAX: usize = 400;

/// Something on the agenda.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A client does something.
    Act,
    /// A request reaches the control node.
    Asked(RequestId, Command),
    /// A request was looked up in the read model and reaches the core.
    LookedUp(RequestId, Command),
    /// An answer reaches a client.
    Answered(RequestId, Result<Done, Refusal>),
    /// A client runs out of patience.
    Impatient(RequestId),
    /// The first append under way is durable.
    Durable(LogSeq, u64),
    /// The control node's core asked to be woken.
    ControlTick(u64),
    /// Membership tells the control node of a host, in order.
    HostJoined(HostInfo, u64),
    /// Membership tells the control node that a lease has ended.
    HostLeft(HostId, Incarnation, u64),
    /// A message reaches a host.
    ToHost(usize, Arc<ToHost>),
    /// A host's answer to a message reaches the control node.
    HostAck(HostId, HostAck),
    /// Reports reach the control node.
    FromHost(BatchAddress, Arc<FromHost>),
    /// A heartbeat reaches the control node.
    Heartbeat(Arc<Heartbeat>),
    /// An acknowledgement reaches a host.
    BatchAcked(BatchAddress),
    /// A host stops waiting for an acknowledgement.
    BatchTimeout(BatchAddress),
    /// A host's core asked to be woken.
    HostTick(usize, u64),
    /// A guest ends by itself.
    GuestEnds(usize, u64, AttemptId),
    /// A guest saves a checkpoint.
    GuestCheckpoint(usize, u64, AttemptId),
    /// A guest that was stopped is gone.
    GuestStopped(usize, u64, AttemptId),
    /// Leases are renewed, or end.
    Leases,
    /// Something goes wrong.
    Fault(Fault),
    /// Everything is repaired, and nothing goes wrong any more.
    Heal,
}

/// The simulated cluster.
pub struct World {
    /// Virtual time.
    pub now: Timestamp,
    /// What this cluster is like.
    pub options: Options,
    /// The planted bug.
    pub plant: Option<Plant>,
    /// What was reached.
    pub marks: Marks,
    /// What must hold.
    pub oracle: Oracle,
    pub(crate) clients: Clients,
    pub(crate) control: Option<Control>,
    pub(crate) control_life: u64,
    pub(crate) disk: Disk,
    pub(crate) hosts: Vec<SimHost>,
    pub(crate) registered: BTreeMap<HostId, HostInfo>,
    pub(crate) rng: Rng,
    /// After healing.
    pub healed: bool,
    /// The control node is killed in the middle of its next append.
    pub(crate) kill_armed: bool,
    /// Found while nobody could return it.
    pub(crate) late_violation: Option<Violation>,
    agenda: BTreeMap<(Timestamp, u64), Happening>,
    scheduled: u64,
    happened: u64,
    trace_hash: u64,
    trace: Option<VecDeque<String>>,
}

impl World {
    /// A cluster that is about to start.
    pub fn new(seed: u64, plant: Option<Plant>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let options = Options::draw(&mut rng);
        let clients = Clients::new(rng.split(), &options);
        let hosts = (0..options.hosts).map(|index| SimHost::new(index, options.slots)).collect();
        let mut world = Self {
            now: BEGIN,
            options,
            plant,
            marks: Marks::default(),
            oracle: Oracle::default(),
            clients,
            control: None,
            control_life: 0,
            disk: Disk::default(),
            hosts,
            registered: BTreeMap::new(),
            rng,
            healed: false,
            kill_armed: false,
            late_violation: None,
            agenda: BTreeMap::new(),
            scheduled: 0,
            happened: 0,
            trace_hash: 0,
            trace: traced.then(VecDeque::new),
        };
        world.plan();
        world
    }

    /// Puts the workload, the faults and the healing on the agenda.
    fn plan(&mut self) {
        let fault_us = self.options.fault_s * 1_000_000;
        self.at(0, Happening::Fault(Fault::ControlStarts));
        for index in 0..self.hosts.len() {
            let delay = self.rng.below(1_000_000);
            self.at(delay, Happening::Fault(Fault::HostStarts(index)));
        }
        for (request, command) in self.clients.setup() {
            let at = 100_000 + request.0 * 1_000;
            self.at(at, Happening::Asked(request, command));
            self.at(at + PATIENCE_US, Happening::Impatient(request));
        }
        // Bursts: many actions share few moments.
        let bursts = self.rng.skewed(self.options.actions);
        for _ in 0..self.options.actions {
            let burst = self.rng.below(bursts);
            let at = 200_000 + fault_us / bursts * burst + self.rng.below(1_000_000);
            self.at(at, Happening::Act);
        }
        self.plan_faults(fault_us);
        self.at(500_000, Happening::Leases);
        self.at(fault_us, Happening::Heal);
    }

    /// Does the next thing on the agenda. `Ok(false)` when there is nothing left.
    ///
    /// # Errors
    ///
    /// When an invariant does not hold afterwards.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some(((at, _), happening)) = self.agenda.pop_first() else { return Ok(false) };
        self.now = at;
        self.happened += 1;
        self.note(&happening);
        self.happen(happening)?;
        self.pump()?;
        self.late_violation.take().map_or(Ok(true), Err)
    }

    fn happen(&mut self, happening: Happening) -> Checked {
        match happening {
            Happening::Act => self.act(),
            Happening::Asked(request, command) => self.asked(request, command),
            Happening::LookedUp(request, command) => self.looked_up(request, command),
            Happening::Answered(request, answer) => return self.answered(request, answer),
            Happening::Impatient(request) => self.impatient(request),
            Happening::Durable(seq, life) => return self.durable(seq, life),
            Happening::ControlTick(life) => self.control_tick(life),
            Happening::HostJoined(info, life) => self.host_joined(info, life),
            Happening::HostLeft(host, incarnation, life) => self.host_left(host, incarnation, life),
            Happening::ToHost(host, message) => return self.reach_host(host, &message),
            Happening::HostAck(host, ack) => self.host_ack(host, ack),
            Happening::FromHost(address, message) => self.hear_host(address, &message),
            Happening::Heartbeat(heartbeat) => self.heartbeat(&heartbeat),
            Happening::BatchAcked(address) => self.batch_acked(address),
            Happening::BatchTimeout(address) => self.batch_timeout(address),
            Happening::HostTick(host, life) => self.host_tick(host, life),
            Happening::GuestEnds(host, life, id) => self.guest_ends(host, life, id),
            Happening::GuestCheckpoint(host, life, id) => self.guest_checkpoint(host, life, id),
            Happening::GuestStopped(host, life, id) => self.guest_stopped(host, life, id),
            Happening::Leases => self.leases(),
            Happening::Fault(fault) => self.fault(fault),
            Happening::Heal => self.heal(),
        }
        Ok(())
    }

    /// Puts something on the agenda, `delay_us` from now.
    pub(crate) fn at(&mut self, delay_us: u64, happening: Happening) {
        self.at_time(self.now.plus_us(delay_us), happening);
    }

    /// Puts something on the agenda at a time, or now if that has passed.
    pub(crate) fn at_time(&mut self, time: Timestamp, happening: Happening) {
        self.scheduled += 1;
        self.agenda.insert((time.max(self.now), self.scheduled), happening);
    }

    /// Follows the shells until neither core has anything left to hand out.
    fn pump(&mut self) -> Checked {
        self.pump_control()?;
        for host in 0..self.hosts.len() {
            self.pump_host(host)?;
        }
        Ok(())
    }

    fn note(&mut self, happening: &Happening) {
        if let Some(trace) = &mut self.trace {
            if trace.len() == TRACE_LINES_MAX {
                trace.pop_front();
            }
            let text = format!("{happening:?}");
            trace.push_back(format!("{:>12} {}", self.now.us_since(BEGIN), text.chars().take(400).collect::<String>()));
        }
        let mixed = self.trace_hash.rotate_left(7) ^ self.now.0 ^ (self.scheduled << 20) ^ self.oracle.seq().0;
        self.trace_hash = crate::rng::mix(mixed);
    }

    /// A number that two runs of one seed share, and two different runs hardly ever.
    pub fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    /// The last things that happened, if this world is traced.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().flatten().cloned().collect()
    }

    /// Whether every task is final and no client waits.
    pub fn is_done(&self) -> bool {
        self.clients.open.is_empty() && self.oracle.unfinished().next().is_none()
    }

    /// Says what has not ended, and what the leader thinks of it.
    pub fn stuck(&self) -> String {
        let waiting = |task| self.control.as_ref().and_then(|control| control.core.explain(task, self.now));
        let tasks: Vec<_> = self
            .oracle
            .unfinished()
            .take(5)
            .map(|(task, life)| format!("{task} {:?} {:?}", life.phase, waiting(task)))
            .collect();
        let count = self.oracle.unfinished().count();
        format!(
            "{count} tasks are not final long after healing, and {} requests are open: {}",
            self.clients.open.len(),
            tasks.join("; ")
        )
    }

    /// How many things have happened.
    pub fn happened(&self) -> u64 {
        self.happened
    }

    /// Virtual microseconds since the beginning.
    pub fn elapsed_us(&self) -> u64 {
        self.now.us_since(BEGIN)
    }
}
