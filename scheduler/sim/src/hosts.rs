//! Simulated hosts: the real decisions over simulated guests.

use std::collections::BTreeMap;
use std::sync::Arc;

use wasmill_host_core::{Batch, BatchNumber, Config, Ended, HostCore, Input};
use wasmill_protocol::message::{Assignment, HostInfo};
use wasmill_protocol::{AttemptId, HostId, Incarnation, Outcome, OutcomeKind, Payload, TaskSpec, Timestamp, Usage};

use crate::guest::{self, Plan};
use crate::oracle::{Checked, hold};

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

/// One host process, dead or alive.
#[derive(Debug)]
pub struct SimHost {
    /// Its name.
    pub id: HostId,
    /// Its decisions; `None` while the process is dead.
    pub core: Option<HostCore>,
    /// Counts the lives of the process, so that what belongs to an earlier one is recognised.
    pub life: u64,
    /// Counts registrations, as the file in the data directory does.
    pub incarnation: Incarnation,
    /// Stopped until then: what arrives waits.
    pub paused_until: Timestamp,
    /// Cut from everything until then: what is sent is lost.
    pub cut_until: Timestamp,
    /// When the lease ends unless it is renewed.
    pub lease_until: Timestamp,
    /// Whether the lease ended and the host has not registered again.
    pub lease_lost: bool,
    /// Whether the process ends when it is drained.
    pub draining: bool,
    /// Guests that run.
    pub guests: BTreeMap<AttemptId, Guest>,
    /// Attempts that this life has run.
    pub ran: BTreeMap<AttemptId, u32>,
    /// The time for which the next tick is on the agenda.
    pub tick_at: Option<Timestamp>,
    slots: u32,
    memory_bytes: u64,
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
            core: None,
            life: 0,
            incarnation: Incarnation(0),
            paused_until: Timestamp(0),
            cut_until: Timestamp(0),
            lease_until: Timestamp(0),
            lease_lost: false,
            draining: false,
            guests: BTreeMap::new(),
            ran: BTreeMap::new(),
            tick_at: None,
            slots: u32::try_from(slots).unwrap_or(1).max(1),
            memory_bytes: 4 << 30,
        }
    }

    /// Starts a new life of the process.
    pub fn boot(&mut self, now: Timestamp, lease_us: u64) {
        self.life += 1;
        self.incarnation = self.incarnation.next();
        let config = Config {
            host: self.id.clone(),
            slots: self.slots,
            memory_bytes: self.memory_bytes,
            labels: BTreeMap::new(),
            seed: self.life,
        };
        self.core = Some(HostCore::new(config, self.incarnation));
        self.guests.clear();
        self.ran.clear();
        self.draining = false;
        self.lease_lost = false;
        self.lease_until = now.plus_us(lease_us);
        self.tick_at = None;
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
        self.core = None;
        self.guests.clear();
    }

    /// Whether it can speak and hear right now.
    pub fn is_reachable(&self, now: Timestamp) -> bool {
        self.core.is_some() && self.paused_until <= now && self.cut_until <= now
    }

    /// Begins to run a guest.
    pub fn run(&mut self, assignment: &Assignment) -> Checked {
        let id = assignment.id;
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
