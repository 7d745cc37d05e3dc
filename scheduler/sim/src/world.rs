//! The agenda of the simulated cluster, and what each thing on it does.

mod agenda;
mod append_side;
mod client_side;
mod clocks;
mod cluster_faults;
mod disasters;
mod etcd_side;
mod faults;
mod follow;
mod forward;
mod happening;
mod host_seat;
mod host_side;
mod keep;
mod lead;
mod log_side;
mod one_machine;
mod policies;
mod post;
mod seat;
mod stalls;
mod stand;
mod stuck;
mod sweep;
mod watch;

use std::collections::{BTreeMap, VecDeque};

use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Timestamp};

use crate::clients::{Clients, PATIENCE_US};
use crate::hosts::SimHost;
use crate::log::{Decoder, Disk};
use crate::marks::Marks;
use crate::network::{self, Links, Place};
use crate::node::SimNode;
use crate::options::{ClusterOptions, Options};
use crate::oracle::{Checked, Oracle, Violation};
use crate::plant::Plant;
use crate::rng::Rng;
use crate::servers::Servers;

use agenda::Agenda;
pub use cluster_faults::ClusterFault;
pub use faults::Fault;
pub use happening::{EtcdHappening, Happening, LogHappening, Sender};

/// The virtual time at which every simulation begins.
const BEGIN: Timestamp = Timestamp(1_800_000_000_000_000);
/// Lines of trace that are kept for a failure.
const TRACE_LINES_MAX: usize = 400;

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
    pub(crate) nodes: Vec<SimNode>,
    pub(crate) hosts: Vec<SimHost>,
    pub(crate) links: Links,
    /// The disk of a single machine.
    pub(crate) disk: Disk,
    /// The hosts that are known on a single machine.
    pub(crate) registered: BTreeMap<HostId, HostInfo>,
    /// What a cluster stands on; `None` on a single machine.
    pub(crate) servers: Option<Box<Servers>>,
    pub(crate) decoder: Decoder,
    pub(crate) rng: Rng,
    /// After healing.
    pub healed: bool,
    /// This node is killed in the middle of its next append.
    pub(crate) kill_armed: Option<usize>,
    /// Led time when the first node led, and when that was.
    pub(crate) led_since: Option<(i64, Timestamp)>,
    /// Found while nobody could return it.
    pub(crate) late_violation: Option<Violation>,
    /// Nodes and hosts that something has happened to, one bit for each.
    touched: (u64, u64),
    agenda: Agenda,
    happened: u64,
    trace_hash: u64,
    trace: Option<VecDeque<String>>,
}

impl World {
    /// A cluster that is about to start: on a single machine, or several control nodes when `clustered`.
    pub fn new(seed: u64, clustered: bool, plant: Option<Plant>, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let options = if clustered { Options::draw_cluster(&mut rng) } else { Options::draw(&mut rng) };
        let clients = Clients::new(rng.split(), &options);
        let hosts = (0..options.hosts).map(|index| SimHost::new(index, options.slots)).collect();
        let nodes = options.cluster.as_ref().map_or(1, |cluster| cluster.nodes);
        let servers = options.cluster.as_ref().map(|cluster| Box::new(Servers::new(BEGIN, cluster)));
        let mut world = Self {
            now: BEGIN,
            plant,
            marks: Marks::default(),
            oracle: Oracle::default(),
            clients,
            nodes: (0..usize::try_from(nodes).unwrap_or(1))
                .map(|index| SimNode::new(index, options.retention_us))
                .collect(),
            hosts,
            links: Links::default(),
            disk: Disk::default(),
            registered: BTreeMap::new(),
            servers,
            decoder: Decoder::default(),
            rng,
            healed: false,
            kill_armed: None,
            led_since: None,
            late_violation: None,
            touched: (0, 0),
            agenda: Agenda::default(),
            happened: 0,
            trace_hash: 0,
            trace: traced.then(VecDeque::new),
            options,
        };
        world.plan();
        world
    }

    /// Puts the workload, the faults and the healing on the agenda.
    fn plan(&mut self) {
        let fault_us = self.options.fault_s * 1_000_000;
        for node in 0..self.nodes.len() {
            let delay = if self.is_clustered() { self.rng.below(500_000) } else { 0 };
            self.at(delay, Happening::Fault(Fault::NodeStarts(node)));
        }
        for index in 0..self.hosts.len() {
            let delay = self.rng.below(1_000_000);
            self.at(delay, Happening::Fault(Fault::HostStarts(index)));
        }
        for (request, command) in self.clients.setup() {
            let at = 100_000 + request.0 * 1_000;
            let node = self.any_node();
            self.at(at, Happening::Asked(node, request, Box::new(command)));
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
        self.plan_seatings(fault_us);
        if self.is_clustered() {
            self.plan_cluster_faults(fault_us);
            self.at(500_000, Happening::Etcd(EtcdHappening::Tick));
        } else {
            self.at(500_000, Happening::Leases);
        }
        self.at(fault_us, Happening::Heal);
    }

    /// Does the next thing on the agenda. `Ok(false)` when there is nothing left.
    ///
    /// # Errors
    ///
    /// When an invariant does not hold afterwards.
    pub fn step(&mut self) -> Result<bool, Violation> {
        let Some((at, happening)) = self.agenda.pop() else { return Ok(false) };
        self.now = at;
        self.happened += 1;
        match self.resumes_at(&happening) {
            Some(later) => self.at_time(later, happening),
            None => {
                self.note(&happening);
                self.happen(happening)?;
            }
        }
        self.pump()?;
        self.late_violation.take().map_or(Ok(true), Err)
    }

    /// When a stopped control node would see something that happens now; `None` if it is not stopped.
    fn resumes_at(&self, happening: &Happening) -> Option<Timestamp> {
        let until = self.nodes[happening.node()?].paused_until;
        (until > self.now).then_some(until)
    }

    /// Puts something on the agenda, `delay_us` from now.
    pub(crate) fn at(&mut self, delay_us: u64, happening: Happening) {
        self.at_time(self.now.plus_us(delay_us), happening);
    }

    /// Puts something on the agenda at a time, or now if that has passed.
    pub(crate) fn at_time(&mut self, time: Timestamp, happening: Happening) {
        self.agenda.put(time.max(self.now), happening);
    }

    /// Something has happened to a node: it is looked after before anything else happens.
    pub(crate) fn touch_node(&mut self, node: usize) {
        self.touched.0 |= 1 << node;
    }

    /// Something has happened to a host.
    pub(crate) fn touch_host(&mut self, host: usize) {
        self.touched.1 |= 1 << host;
    }

    /// Follows the shells until no core has anything left to hand out.
    fn pump(&mut self) -> Checked {
        while self.touched != (0, 0) {
            let (nodes, hosts) = std::mem::take(&mut self.touched);
            for node in (0..self.nodes.len()).filter(|node| nodes >> node & 1 == 1) {
                self.pump_node(node)?;
            }
            for host in (0..self.hosts.len()).filter(|host| hosts >> host & 1 == 1) {
                self.pump_host(host)?;
            }
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
        let mixed = self.trace_hash.rotate_left(7) ^ self.now.0 ^ (self.agenda.scheduled() << 20) ^ self.oracle.seq().0;
        self.trace_hash = crate::rng::mix(mixed);
    }

    /// Adds a line to the trace, if there is one: something that nobody put on the agenda.
    pub(crate) fn remark(&mut self, text: impl FnOnce() -> String) {
        let at = self.now.us_since(BEGIN);
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{at:>12}   {}", text()));
        }
    }

    /// Whether there are several control nodes on servers of their own.
    pub fn is_clustered(&self) -> bool {
        self.servers.is_some()
    }

    /// The options of a cluster.
    pub(crate) fn cluster(&self) -> &ClusterOptions {
        self.options.cluster.as_ref().expect("only asked where there is a cluster")
    }

    pub(crate) fn servers(&mut self) -> &mut Servers {
        self.servers.as_deref_mut().expect("only asked where there is a cluster")
    }

    pub(crate) fn any_node(&mut self) -> usize {
        usize::try_from(self.rng.below(self.nodes.len() as u64)).unwrap_or(0)
    }

    /// When copies of a message between a control node and a host, or between two control nodes, arrive: none when a way is cut.
    pub(crate) fn arrivals(&mut self, from: Place, to: Place) -> Vec<Timestamp> {
        let cut = match &self.servers {
            None => self.links.is_cut(self.now, from, to),
            Some(servers) => {
                !servers.jetstream.is_reachable()
                    || self.links.is_cut(self.now, from, Place::Nats)
                    || self.links.is_cut(self.now, Place::Nats, to)
            }
        };
        if cut { Vec::new() } else { network::arrivals(self.now, &self.options, &mut self.rng, &mut self.marks) }
    }

    /// When a request to a server, or its answer, arrives; `None` when it is lost.
    pub(crate) fn wire(&mut self, from: Place, to: Place) -> Option<Timestamp> {
        let lost = self.links.is_cut(self.now, from, to) || self.rng.chance(self.cluster().wire_loss);
        let slow_us = self.rng.below(self.cluster().wire_delay_us + 1);
        (!lost).then(|| self.now.plus_us(slow_us + network::delay_us(&self.options, &mut self.rng)))
    }

    /// A number that two runs of one seed share, and two different runs hardly ever.
    pub fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    /// The last things that happened, if this world is traced.
    pub fn trace(&self) -> Vec<String> {
        self.trace.iter().flatten().cloned().collect()
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
