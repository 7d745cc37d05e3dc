//! A control node: its process, dead or alive, and what outlives it.

mod cluster;
mod fold;

use wasmill_protocol::snapshot::Current;
use wasmill_protocol::{LogSeq, Timestamp};

use crate::leader::Leader;

pub use cluster::{ClusterSide, EtcdWait, Forward, ForwardAddress, Forwarded, HostWatch, LogWait};
pub use fold::{Fold, Halt};

/// One control node.
#[derive(Debug)]
pub struct SimNode {
    /// Its name.
    pub name: String,
    /// What runs; `None` while it is dead.
    pub process: Option<Process>,
    /// Counts the lives of the process, so that what belongs to an earlier one is recognised.
    pub life: u64,
    /// Stopped until then: what arrives waits.
    pub paused_until: Timestamp,
    /// What its read model's file holds.
    pub read_model: LogSeq,
    /// Why it has halted last, if it has: what is wrong must not be carried on with.
    pub halted: Option<Halt>,
    /// How often it has halted.
    pub halts: u32,
}

/// One life of a control node.
#[derive(Debug)]
pub struct Process {
    /// How far its clock is ahead, in microseconds.
    pub ahead_us: u64,
    /// What it has read of the log, while it does not lead.
    pub fold: Fold,
    /// The last record that it knows to be durable; its readers see everything up to here.
    pub published: LogSeq,
    /// Until then its read model is behind, and it takes in nothing.
    pub behind_until: Timestamp,
    /// A planted bug: a record that is in the fold, and waits to be shown.
    pub unshown: Option<LogSeq>,
    /// Whether it knows where to begin to read.
    pub begun: bool,
    /// The snapshots that the log names.
    pub current: Current,
    /// Up to where it has trimmed the log.
    pub trimmed: LogSeq,
    /// What it is while it leads.
    pub leader: Option<Leader>,
    /// What it needs where others can lead; `None` on a single machine.
    pub cluster: Option<Box<ClusterSide>>,
}

impl SimNode {
    /// A node that is not started yet.
    pub fn new(index: usize) -> Self {
        Self {
            name: format!("node-{index}"),
            process: None,
            life: 0,
            paused_until: Timestamp(0),
            read_model: LogSeq(0),
            halted: None,
            halts: 0,
        }
    }

    /// What it is while it leads.
    pub fn leader(&mut self) -> Option<&mut Leader> {
        self.process.as_mut()?.leader.as_mut()
    }

    /// What it has seen of the log for certain, in this life or in one before.
    pub fn seen(&self) -> LogSeq {
        self.process.as_ref().map_or(LogSeq(0), |process| process.published).max(self.read_model)
    }

    /// The last record of the log that it has seen or heard of.
    pub fn known(&self) -> LogSeq {
        let cluster = self.process.as_ref().and_then(|process| process.cluster.as_ref());
        cluster.map_or(LogSeq(0), |cluster| cluster.floor).max(self.seen())
    }

    /// The process is alive, and this is the life that is meant.
    pub fn alive(&mut self, life: u64) -> Option<&mut Process> {
        if self.life == life { self.process.as_mut() } else { None }
    }
}

impl Process {
    /// A life that has read nothing.
    pub fn new(ahead_us: u64, cluster: Option<ClusterSide>) -> Self {
        Self {
            ahead_us,
            fold: Fold::default(),
            published: LogSeq(0),
            behind_until: Timestamp(0),
            unshown: None,
            begun: false,
            current: Current::default(),
            trimmed: LogSeq(0),
            leader: None,
            cluster: cluster.map(Box::new),
        }
    }

    /// The time by its clock.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        now.plus_us(self.ahead_us)
    }

    /// Its clock is never behind what it has seen in the log.
    pub fn not_before(&mut self, now: Timestamp, seen: Timestamp) {
        self.ahead_us += seen.us_since(self.clock(now));
    }
}
