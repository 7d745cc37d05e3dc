//! Simulated hosts: the real decisions over simulated guests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_fabric_core::lease::{KeepAliveNumber, Lease};
use wasmill_fabric_models::etcd::LeaseId;
use wasmill_host_core::{Batch, BatchNumber, Config, Ended, HostCore, Input, ReplyTo};
use wasmill_protocol::message::{Assignment, FromHost, HostInfo};
use wasmill_protocol::{
    AttemptId, HostId, Incarnation, Outcome, OutcomeKind, Payload, TaskSpec, Term, Timestamp, Usage,
};

use crate::guest::{self, Plan};
use crate::oracle::{Checked, hold};
use crate::servers::{Claim, HostEntry};
use crate::tick::NextTick;
use crate::world::Sender;

/// Names one sending of one batch across hosts and their lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BatchAddress {
    /// Which host.
    pub host: usize,
    /// Which life of its process.
    pub life: u64,
    /// Which sending.
    pub number: BatchNumber,
}

/// Lives that other processes may have had unseen, as in the real host.
const LIVES_UNSEEN: u64 = 1_000;

/// One host process, dead or alive.
#[derive(Debug)]
pub struct SimHost {
    /// Its name.
    pub id: HostId,
    /// Whether the process is alive.
    pub alive: bool,
    /// Its decisions; `None` while the process is dead, or has not become known yet.
    pub core: Option<HostCore>,
    /// Counts the lives of the process, so that what belongs to an earlier one is recognised.
    pub life: u64,
    /// Counts registrations, as the file in the data directory does.
    pub incarnation: Incarnation,
    /// In a cluster: whether this process was known once.
    pub was_known: bool,
    /// In a cluster: another process had taken the id when the last one ended, as a mark in the data directory says.
    pub replaced: bool,
    /// Stopped until then: what arrives waits.
    pub paused_until: Timestamp,
    /// On a single machine: when the lease ends unless it is renewed.
    pub lease_until: Timestamp,
    /// In a cluster: what it is known under.
    pub lease: Option<HostLease>,
    /// Asked of etcd and not answered.
    pub calls: BTreeMap<u64, HostWait>,
    /// The last number of a call.
    pub next_call: u64,
    /// The time for which a look at the lease is on the agenda.
    pub lease_tick_at: NextTick,
    /// The highest term that has reached this life.
    pub term_seen: Term,
    /// Who waits for the answers to messages.
    pub senders: BTreeMap<ReplyTo, Sender>,
    /// The number of the next message.
    pub next_reply: u64,
    /// Batches that are not acknowledged.
    pub batches: BTreeMap<BatchNumber, Arc<FromHost>>,
    /// Whether the lease ended and the host has not registered again.
    pub lease_lost: bool,
    /// Whether the process ends when it is drained.
    pub draining: bool,
    /// Guests that run.
    pub guests: BTreeMap<AttemptId, Guest>,
    /// Attempts whose module is being compiled.
    pub readying: BTreeSet<AttemptId>,
    /// Attempts of this life whose module has been.
    pub readied: BTreeSet<AttemptId>,
    /// Attempts that this life has run.
    pub ran: BTreeMap<AttemptId, u32>,
    /// Attempts whose cancel has reached this life.
    pub cancelled: BTreeSet<AttemptId>,
    /// The time for which the next tick is on the agenda.
    pub tick_at: NextTick,
    slots: u32,
    memory_bytes: u64,
}

/// A host's lease in a cluster.
#[derive(Debug)]
pub struct HostLease {
    /// Which.
    pub id: LeaseId,
    /// How long it can be counted on.
    pub lease: Lease,
    /// Whether the host was put under it.
    pub registered: bool,
    /// Whether the host will hear that its key is gone, or is another's.
    pub missed: bool,
    /// Who has the key instead, if anybody.
    pub replaced_by: Option<HostEntry>,
}

/// What an answer of etcd is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostWait {
    /// A lease, and when it was asked for.
    Grant(Timestamp),
    /// The host's key.
    Put(LeaseId),
    /// A keepalive.
    KeepAlive(LeaseId, KeepAliveNumber),
    /// Nobody waits for it.
    Nothing,
}

/// A guest that runs.
#[derive(Debug)]
pub struct Guest {
    /// What it runs.
    pub spec: Arc<TaskSpec>,
    /// How it will go.
    pub plan: Plan,
    /// How many checkpoints it has saved.
    pub checkpoints: u32,
}

impl SimHost {
    /// A host that is not started yet.
    pub fn new(index: u64, slots: u64) -> Self {
        Self {
            id: HostId::from(format!("host-{index}").as_str()),
            alive: false,
            core: None,
            life: 0,
            incarnation: Incarnation(0),
            was_known: false,
            replaced: false,
            paused_until: Timestamp(0),
            lease_until: Timestamp(0),
            lease: None,
            calls: BTreeMap::new(),
            next_call: 0,
            lease_tick_at: NextTick::default(),
            term_seen: Term(0),
            senders: BTreeMap::new(),
            next_reply: 0,
            batches: BTreeMap::new(),
            lease_lost: false,
            draining: false,
            guests: BTreeMap::new(),
            readying: BTreeSet::new(),
            readied: BTreeSet::new(),
            ran: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            tick_at: NextTick::default(),
            slots: u32::try_from(slots).unwrap_or(1).max(1),
            memory_bytes: 4 << 30,
        }
    }

    /// Starts a new life of the process, which knows nothing of the one before.
    pub fn boot(&mut self) {
        self.life += 1;
        self.alive = true;
        self.was_known = false;
        // It was the process that was stopped.
        self.paused_until = Timestamp(0);
        self.core = None;
        self.guests.clear();
        self.readying.clear();
        self.readied.clear();
        self.ran.clear();
        self.cancelled.clear();
        self.batches.clear();
        self.senders.clear();
        self.draining = false;
        self.lease_lost = false;
        self.tick_at = NextTick::default();
        self.term_seen = Term(0);
    }

    /// What it is to be known as.
    pub fn entry(&self) -> HostEntry {
        HostEntry { incarnation: self.incarnation, process: self.life }
    }

    /// Another process has its id: what its data directory remembers.
    pub fn replaced_by(&mut self, by: HostEntry) {
        self.replaced = true;
        self.incarnation = self.incarnation.max(Incarnation(by.incarnation.0 + LIVES_UNSEEN));
    }

    /// What it does about another process that has its id: only one that was just started takes it.
    pub fn claim(&self) -> Claim {
        if self.replaced || self.was_known { Claim::IfFree } else { Claim::First }
    }

    /// Begins to take work, once it is known.
    pub fn begin_core(&mut self) {
        let config = Config {
            host: self.id.clone(),
            slots: self.slots,
            memory_bytes: self.memory_bytes,
            labels: BTreeMap::new(),
            seed: self.life,
            message_bytes_max: 1 << 20,
            process: self.life,
        };
        self.core = Some(HostCore::new(config, self.incarnation));
    }

    /// What it registers with.
    pub fn info(&self) -> HostInfo {
        HostInfo {
            id: self.id.clone(),
            incarnation: self.incarnation,
            memory_bytes: self.memory_bytes,
            cores: self.slots,
            ..HostInfo::default()
        }
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.alive = false;
        self.core = None;
        self.guests.clear();
        self.lease = None;
        self.calls.clear();
        self.lease_tick_at = NextTick::default();
    }

    /// Begins to run a guest.
    pub fn run(&mut self, assignment: &Assignment) -> Checked {
        let id = assignment.id;
        hold!(!self.cancelled.contains(&id), "{id:?} starts on {} after its cancel has come", self.id);
        let runs = self.ran.entry(id).or_default();
        *runs += 1;
        hold!(*runs == 1, "{id:?} runs for the {runs}. time in one life of {}", self.id);
        let spec = Arc::clone(&assignment.spec);
        let plan = Plan::of(id, &spec);
        self.guests.insert(id, Guest { spec, plan, checkpoints: 0 });
        hold!(
            self.guests.len() <= self.slots as usize,
            "{} runs {} guests in {} slots",
            self.id,
            self.guests.len(),
            self.slots
        );
        let memory: u64 = self.guests.values().map(|guest| guest.spec.limits.memory_bytes).sum();
        hold!(memory <= self.memory_bytes, "{} gives {memory} bytes to guests and has {}", self.id, self.memory_bytes);
        Ok(())
    }

    /// A guest is over.
    pub fn end(&mut self, id: AttemptId, kind: OutcomeKind) -> Option<Input> {
        let guest = self.guests.remove(&id)?;
        let output = if kind == OutcomeKind::Succeeded { guest::output(id) } else { Payload::Empty };
        let outcome = Arc::new(Outcome::new(kind, ""));
        let usage = Usage { run_us: guest.plan.run_us, ..Usage::default() };
        Some(Input::Ended(Ended { id, outcome, usage, output, captured: Payload::Empty }))
    }

    /// The address of a batch of this life.
    pub fn address(&self, index: usize, batch: &Batch) -> BatchAddress {
        BatchAddress { host: index, life: self.life, number: batch.number }
    }
}
