//! What one seed's cluster is like. Every fault is off in some seeds and frequent in others: a fault that is always on hides what
//! only happens without it.

mod cluster;

use crate::policies::PolicyOptions;
use crate::rng::Rng;

pub use cluster::{ClusterOptions, Disaster};

/// How the cluster, the workload and the faults are sized. Printed when a seed fails.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hosts.
    pub hosts: u64,
    /// Slots of each host.
    pub slots: u64,
    /// Tenants besides `default`.
    pub tenants: u64,
    /// Virtual seconds with faults.
    pub fault_s: u64,
    /// What clients do in that time.
    pub actions: u64,
    /// Of 1000 messages, how many are lost.
    pub loss: u64,
    /// Of 1000 messages, how many come twice.
    pub doubled: u64,
    /// The longest ordinary delay of a message in microseconds.
    pub delay_us: u64,
    /// Of 1000 messages, how many come very late.
    pub stragglers: u64,
    /// The longest ordinary append in microseconds.
    pub append_us: u64,
    /// Of 1000 appends, how many take seconds.
    pub slow_appends: u64,
    /// How often a control node is killed.
    pub control_kills: u64,
    /// How often a control node is asked to stop.
    pub control_stops: u64,
    /// How often a host is killed.
    pub host_kills: u64,
    /// How often a host is stopped and resumed.
    pub host_pauses: u64,
    /// How often a host is cut from the control node.
    pub host_cuts: u64,
    /// How often a host is drained.
    pub host_drains: u64,
    /// Of 1000 tasks, how many kill the host that runs them.
    pub deadly_tasks: u64,
    /// Of 1000 times that a wall clock is set, at a start or later, how often it is set wrong by much.
    pub clocks_wrong: u64,
    /// How often a wall clock is set later.
    pub clock_sets: u64,
    /// Records that the read model lags behind the log at most.
    pub read_model_lag: u64,
    /// Which policies decide, and what those outside are like.
    pub policies: PolicyOptions,
    /// How long final tasks are kept, in microseconds.
    pub retention_us: u64,
    /// Several control nodes on servers of their own; `None` for everything in one process.
    pub cluster: Option<ClusterOptions>,
}

impl Options {
    /// Draws from a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut sometimes = |max: u64| if rng.chance(500) { rng.skewed(max) } else { 0 };
        let (loss, doubled, stragglers) = (sometimes(200), sometimes(200), sometimes(50));
        let (slow_appends, control_kills, host_kills) = (sometimes(20), sometimes(6), sometimes(10));
        let (host_pauses, host_cuts, host_drains) = (sometimes(6), sometimes(6), sometimes(3));
        let (deadly_tasks, read_model_lag) = (sometimes(30), sometimes(64));
        let (clocks_wrong, clock_sets) = (sometimes(500), sometimes(6));
        let control_stops = sometimes(4);
        Self {
            hosts: rng.between(1, 5),
            slots: rng.skewed(16),
            tenants: rng.below(5),
            fault_s: rng.between(20, 90),
            actions: rng.between(20, 400),
            loss,
            doubled,
            delay_us: rng.skewed(50_000),
            stragglers,
            append_us: rng.skewed(20_000),
            slow_appends,
            control_kills,
            control_stops,
            host_kills,
            host_pauses,
            host_cuts,
            host_drains,
            deadly_tasks,
            clocks_wrong,
            clock_sets,
            read_model_lag,
            policies: PolicyOptions::draw(rng),
            retention_us: *rng.pick(&[20_000_000, 60_000_000, 3_600_000_000]),
            cluster: None,
        }
    }

    /// Draws a cluster of several control nodes from a seed.
    pub fn draw_cluster(rng: &mut Rng) -> Self {
        let mut options = Self::draw(rng);
        options.cluster = Some(ClusterOptions::draw(rng));
        options.hosts = rng.between(1, 4);
        options.fault_s = rng.between(20, 60);
        options.actions = rng.between(20, 200);
        options
    }

    /// The same cluster with nothing going wrong any more.
    pub fn heal(&mut self) {
        self.loss = 0;
        self.doubled = 0;
        self.stragglers = 0;
        self.slow_appends = 0;
        self.deadly_tasks = 0;
        self.clocks_wrong = 0;
        if let Some(cluster) = &mut self.cluster {
            cluster.heal();
        }
    }
}
