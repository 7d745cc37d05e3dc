//! What a cluster of several control nodes is like, and what goes wrong with what it stands on.

use crate::rng::Rng;

/// How the cluster and its faults are sized.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Control nodes.
    pub nodes: u64,
    /// Whether three NATS servers agree on each record, instead of one.
    pub replicated: bool,
    /// The largest record in bytes.
    pub record_bytes_max: usize,
    /// A removal is cut from what follows from it, as it is when that is too large for one record.
    pub removals_cut: bool,
    /// Of 1000 records that a follower reads, after how many its read model is behind for a while.
    pub read_model_stalls: u64,
    /// Records after which a snapshot is taken; 0 for never.
    pub snapshot_records: u64,
    /// Records that are kept though nobody needs them who starts.
    pub records_kept: u64,
    /// Of 1000 snapshots, how many are damaged.
    pub snapshots_lost: u64,
    /// How long leases live, in seconds.
    pub lease_ttl_s: i64,
    /// How fast etcd's clock runs, in thousandths of everybody else's.
    pub etcd_rate: u64,
    /// How far wall clocks that are right are ahead at most, in microseconds.
    pub skew_us_max: u64,
    /// Of 1000 requests to a server, and of 1000 answers, how many are lost.
    pub wire_loss: u64,
    /// The longest delay of a request to a server, and of its answer, beyond what messages take, in microseconds.
    pub wire_delay_us: u64,
    /// Of 1000 acknowledgements of the log, how many are lost.
    pub acks_lost: u64,
    /// Of 1000 acknowledgements of the log, how many come twice.
    pub acks_doubled: u64,
    /// How often a control node is stopped and resumed.
    pub node_pauses: u64,
    /// How often a way between a control node and a server is cut.
    pub node_cuts: u64,
    /// How often the NATS servers are killed, or their leader is deposed.
    pub nats_kills: u64,
    /// How often the NATS servers lose power.
    pub nats_power_losses: u64,
    /// How far the clocks of the NATS servers are ahead at most, in microseconds: drawn anew for every start of theirs.
    pub nats_skew_us_max: u64,
    /// How often the disk of the NATS servers is full for a while.
    pub nats_disk_full: u64,
    /// How often another server leads etcd.
    pub etcd_leader_changes: u64,
    /// How often etcd loses its quorum for a while.
    pub etcd_outages: u64,
    /// How often the etcd servers are restarted.
    pub etcd_restarts: u64,
    /// How often etcd forgets its history.
    pub etcd_compactions: u64,
    /// How often somebody deletes the key of a candidate, of the leader, or of a host.
    pub key_deletions: u64,
    /// How often another process takes the id of a host.
    pub host_rivals: u64,
    /// How often a waiting campaign fails at the server and leaves its key.
    pub campaign_failures: u64,
    /// What happens beyond everything that is promised.
    pub disaster: Option<Disaster>,
}

/// Something that loses what was durable. Nobody can promise anything after it but to notice, and to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaster {
    /// The last records of the log are gone although they were acknowledged.
    SuffixLost,
    /// The log is gone altogether.
    StreamLost,
    /// A record in the middle is gone.
    RecordLost,
    /// A byte of a record was changed.
    ByteFlipped,
    /// etcd goes back to an old backup: its revisions, and so terms, are given once more.
    EtcdRestored,
}

impl Disaster {
    /// From these is drawn. A restored etcd comes more often, for it has to be restored at the right time to do harm.
    const DRAWN: [Self; 7] = [
        Self::SuffixLost,
        Self::StreamLost,
        Self::RecordLost,
        Self::ByteFlipped,
        Self::EtcdRestored,
        Self::EtcdRestored,
        Self::EtcdRestored,
    ];

    /// Whether records that somebody has seen are not in the log any more, and others can take their places.
    pub fn shortens_log(self) -> bool {
        matches!(self, Self::SuffixLost | Self::StreamLost)
    }
}

impl ClusterOptions {
    /// Draws from a seed.
    pub fn draw(rng: &mut Rng) -> Self {
        let disaster = rng.chance(150).then(|| *rng.pick(&Disaster::DRAWN));
        // A clock that runs too slow keeps dead leaders seated, one that runs too fast unseats those that live.
        let wrong_clock = rng.chance(300);
        let etcd_rate = if wrong_clock { rng.between(800, 1_500) } else { 1_000 };
        let mut sometimes = |max: u64| if rng.chance(400) { rng.skewed(max) } else { 0 };
        let (wire_loss, acks_lost, acks_doubled) = (sometimes(60), sometimes(200), sometimes(200));
        let (node_pauses, node_cuts) = (sometimes(6), sometimes(8));
        let (nats_kills, nats_power_losses, nats_disk_full) = (sometimes(4), sometimes(3), sometimes(2));
        let (etcd_leader_changes, etcd_outages, etcd_restarts) = (sometimes(4), sometimes(3), sometimes(3));
        let (etcd_compactions, campaign_failures, key_deletions) = (sometimes(8), sometimes(4), sometimes(8));
        let host_rivals = sometimes(4);
        let skew_us_max = sometimes(25_000_000);
        // More than the time for which the servers remember what they have stored.
        let nats_skew_us_max = if rng.chance(400) { 25_000_000 } else { 0 };
        let wire_delay_us = if rng.chance(300) { rng.between(1, 2_500_000) } else { 0 };
        Self {
            nodes: rng.between(1, 5),
            replicated: rng.chance(500),
            read_model_stalls: if rng.chance(300) { 50 } else { 0 },
            removals_cut: rng.chance(700),
            record_bytes_max: if rng.chance(200) { 2_000 } else { 1_000_000 },
            snapshot_records: if rng.chance(500) { rng.between(3, 40) } else { 0 },
            records_kept: rng.skewed(20),
            snapshots_lost: if rng.chance(200) { 300 } else { 0 },
            lease_ttl_s: i64::try_from(rng.between(3, 8)).unwrap_or(5),
            etcd_rate,
            skew_us_max,
            wire_loss,
            wire_delay_us,
            acks_lost,
            acks_doubled,
            node_pauses,
            node_cuts,
            nats_kills,
            nats_power_losses,
            nats_skew_us_max,
            nats_disk_full,
            etcd_leader_changes,
            etcd_outages,
            etcd_restarts,
            etcd_compactions,
            key_deletions,
            host_rivals,
            campaign_failures,
            disaster,
        }
    }

    /// The same cluster with nothing going wrong any more.
    pub fn heal(&mut self) {
        self.wire_loss = 0;
        self.read_model_stalls = 0;
        self.wire_delay_us = 0;
        self.acks_lost = 0;
        self.acks_doubled = 0;
    }
}
