//! A control node: its process, dead or alive, and what outlives it.

mod cluster;
mod fold;

use wasmill_protocol::{LogSeq, Timestamp, Uptime};
use wasmill_record::snapshot::{Current, LedTime};
use wasmill_scheduler_core::clock::{Clock, Reading};
use wasmill_scheduler_node::{Following, Sweep, sweep};

use crate::leader::Leader;

pub use cluster::{Asked, CallFrom, ClusterSide, EtcdWait, Forwarded, HostWatch, LogWait, Waiting};
pub use fold::{Fold, Halt};

/// When every machine was started.
const BOOTED: Timestamp = Timestamp(1_799_000_000_000_000);

/// The uptime of every machine.
pub fn uptime_us(now: Timestamp) -> u64 {
    now.us_since(BOOTED)
}

/// One control node.
#[derive(Debug)]
pub struct SimNode {
    /// Its name.
    pub name: String,
    /// How long it keeps final tasks, in microseconds.
    pub retention_us: u64,
    /// How far the wall clock of its machine is ahead, in microseconds.
    pub wall_ahead_us: i64,
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
    /// What time it is for this process.
    pub clock: Clock,
    /// Whether the servers that keep the log have said what time it is, where there are any.
    pub time_told: bool,
    /// How far the time is ahead of the right one, where a planted bug takes that of the wall clock.
    pub wall_trusted_us: Option<i64>,
    /// The uptime when the last record was published.
    pub heard_us: u64,
    /// Led time, as far as it shows the log.
    pub shown: LedTime,
    /// Decides when it removes what nobody needs any more.
    pub sweep: Sweep<Timestamp>,
    /// Where the log ended when it began to read.
    pub end_found: LogSeq,
    /// Decides when it stands for election and when it leads, while it follows in a cluster.
    pub following: Option<Following>,
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
    /// What it is while it leads.
    pub leader: Option<Leader>,
    /// What it needs where others can lead; `None` on a single machine.
    pub cluster: Option<Box<ClusterSide>>,
}

/// Sweeps come often here, and what is not referred to goes sooner than in a real node: the record that names a snapshot is on its way for seconds.
fn sweep_config(retention_us: u64) -> sweep::Config {
    let config = sweep::Config::for_retention(retention_us);
    sweep::Config { interval_us: 7_000_000, blob_age_us: 60_000_000, ..config }
}

impl SimNode {
    /// A node that is not started yet.
    pub fn new(index: usize, retention_us: u64) -> Self {
        Self {
            retention_us,
            name: format!("node-{index}"),
            wall_ahead_us: 0,
            process: None,
            life: 0,
            paused_until: Timestamp(0),
            read_model: LogSeq(0),
            halted: None,
            halts: 0,
        }
    }

    /// The clocks of its machine.
    pub fn reading(&self, now: Timestamp) -> Reading {
        Reading { wall: Timestamp(now.0.saturating_add_signed(self.wall_ahead_us)), uptime_us: uptime_us(now) }
    }

    /// The uptime of its machine, as a term begins with it.
    pub fn uptime(&self, now: Timestamp) -> Uptime {
        Uptime { boot: self.name.clone(), us: uptime_us(now) }
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
    pub fn new(reading: Reading, retention_us: u64, cluster: Option<ClusterSide>) -> Self {
        Self {
            clock: Clock::new(cluster.is_none(), reading),
            time_told: cluster.is_none(),
            wall_trusted_us: None,
            heard_us: reading.uptime_us,
            shown: LedTime::default(),
            sweep: Sweep::new(sweep_config(retention_us)),
            end_found: LogSeq(0),
            following: None,
            fold: Fold::default(),
            published: LogSeq(0),
            behind_until: Timestamp(0),
            unshown: None,
            begun: false,
            current: Current::default(),
            leader: None,
            cluster: cluster.map(Box::new),
        }
    }

    /// The time for this process.
    pub fn clock(&self, now: Timestamp) -> Timestamp {
        match self.wall_trusted_us {
            Some(ahead_us) => Timestamp(now.0.saturating_add_signed(ahead_us)),
            None => self.clock.ticker().at(uptime_us(now)),
        }
    }

    /// Whether it may lead with the clock that it has.
    pub fn may_lead(&self) -> bool {
        self.cluster.is_none() || self.wall_trusted_us.is_some() || (self.time_told && self.clock.verdict().believed)
    }

    /// Readers see everything up to this record.
    pub fn publish(&mut self, seq: LogSeq, now: Timestamp) {
        self.published = self.published.max(seq);
        self.heard_us = uptime_us(now);
    }
}
