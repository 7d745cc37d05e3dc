//! What goes wrong with control nodes and with what they stand on.

use wasmill_fabric_models::etcd::Range;
use wasmill_fabric_models::jetstream::Stop;

use super::{Fault, Happening, World};
use crate::marks::Mark;
use crate::network::Place;
use crate::options::Disaster;
use crate::oracle::Checked;
use crate::servers::{ELECTION, HOSTS, HostEntry, RIVALS, host_key};

/// Something that goes wrong in a cluster, or is repaired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterFault {
    /// A control node, the leader more often than not, is stopped and resumed after this many microseconds.
    NodePauses(u64),
    /// A way between a control node and a server is cut for this many microseconds.
    NodeCut(u64),
    /// The NATS servers are killed, or lose power.
    NatsStops(Stop),
    /// The NATS servers are there again.
    NatsStarts,
    /// The disk of the NATS servers is full.
    NatsDiskFull,
    /// There is space again, and the NATS servers are restarted.
    NatsDiskFree,
    /// Another server leads etcd.
    EtcdLeaderChanges,
    /// etcd loses its quorum.
    EtcdQuorumLost,
    /// etcd has a quorum again.
    EtcdQuorumRegained,
    /// The etcd servers are restarted.
    EtcdRestarts,
    /// etcd forgets its history.
    EtcdCompacts,
    /// Somebody deletes the key of a candidate, or of the leader.
    KeyDeleted,
    /// Another process takes the id of a host, and falls silent.
    HostRivalled,
    /// A campaign that waits fails at the server.
    CampaignFails,
    /// etcd is saved.
    EtcdBackup,
    /// What no cluster can survive without notice.
    Strikes(Disaster),
}

/// The longest pause or cut in microseconds: well beyond every lease.
const OUTAGE_US_MAX: u64 = 20_000_000;
/// Within this time after a leader was killed another one leads, in microseconds, if nothing else happens.
const FAILOVER_US: u64 = 15_000_000;
/// How much longer than their time to live leases live after etcd's leader has changed, in milliseconds at most.
const EXTENSION_MS_MAX: u64 = 1_000;

impl World {
    pub(super) fn plan_cluster_faults(&mut self, fault_us: u64) {
        let cluster = self.cluster().clone();
        for _ in 0..cluster.node_pauses {
            let long = self.rng.below(OUTAGE_US_MAX);
            self.some_time(fault_us, ClusterFault::NodePauses(long));
        }
        for _ in 0..cluster.node_cuts {
            let long = self.rng.below(OUTAGE_US_MAX);
            self.some_time(fault_us, ClusterFault::NodeCut(long));
        }
        for _ in 0..cluster.nats_kills {
            self.some_time(fault_us, ClusterFault::NatsStops(Stop::Killed));
        }
        for _ in 0..cluster.nats_power_losses {
            let unsynced_kept = self.rng.below(3);
            self.some_time(fault_us, ClusterFault::NatsStops(Stop::PowerLost { unsynced_kept }));
        }
        for _ in 0..cluster.nats_disk_full {
            self.some_time(fault_us, ClusterFault::NatsDiskFull);
        }
        let etcd = [
            (cluster.etcd_leader_changes, ClusterFault::EtcdLeaderChanges),
            (cluster.etcd_outages, ClusterFault::EtcdQuorumLost),
            (cluster.etcd_restarts, ClusterFault::EtcdRestarts),
            (cluster.etcd_compactions, ClusterFault::EtcdCompacts),
            (cluster.key_deletions, ClusterFault::KeyDeleted),
            (cluster.host_rivals, ClusterFault::HostRivalled),
            (cluster.campaign_failures, ClusterFault::CampaignFails),
        ];
        for (count, fault) in etcd {
            (0..count).for_each(|_| self.some_time(fault_us, fault));
        }
        if let Some(disaster) = cluster.disaster {
            let saved = self.rng.below(fault_us / 2);
            self.at(saved, Happening::ClusterFault(ClusterFault::EtcdBackup));
            let strikes = fault_us / 2 + self.rng.below(fault_us / 2);
            self.at(strikes, Happening::ClusterFault(ClusterFault::Strikes(disaster)));
            if disaster == Disaster::EtcdRestored {
                // A leader that the backup does not know, and then a need for another one.
                let between = saved.max(strikes.saturating_sub(FAILOVER_US));
                self.at(between, Happening::Fault(Fault::SomeNodeDies));
                self.at(strikes + 1_000_000, Happening::Fault(Fault::SomeNodeDies));
            }
        }
    }

    fn some_time(&mut self, fault_us: u64, fault: ClusterFault) {
        let at = self.rng.below(fault_us);
        self.at(at, Happening::ClusterFault(fault));
    }

    pub(super) fn cluster_fault(&mut self, fault: ClusterFault) -> Checked {
        let now = self.now;
        match fault {
            ClusterFault::NodePauses(long) => {
                let node = self.likely_leader();
                self.marks.hit(Mark::NodePaused);
                // Never earlier than it was: what waits for it keeps its order.
                let until = &mut self.nodes[node].paused_until;
                *until = now.plus_us(long).max(*until);
                self.note_resume(node);
            }
            ClusterFault::NodeCut(long) => self.cut_node(long),
            // Most would find nothing under way: some wait for the next record, and come in the middle of it.
            ClusterFault::NatsStops(stop) if self.servers().jetstream.waiting() == 0 && self.rng.chance(800) => {
                self.servers().stop_armed = Some(stop);
            }
            ClusterFault::NatsStops(stop) => return self.nats_stops(stop),
            ClusterFault::NatsStarts => self.nats_starts(),
            ClusterFault::NatsDiskFull => {
                self.marks.hit(Mark::LogDiskFull);
                self.servers().jetstream.fill_disk();
                let free = self.rng.below(OUTAGE_US_MAX);
                self.at(free, Happening::ClusterFault(ClusterFault::NatsDiskFree));
            }
            ClusterFault::NatsDiskFree => {
                self.servers().jetstream.free_disk();
                return self.nats_stops(Stop::Killed);
            }
            ClusterFault::EtcdLeaderChanges => {
                self.marks.hit(Mark::EtcdLeaderChanged);
                let (etcd_now, extension) = (self.etcd_now(), self.rng.below(EXTENSION_MS_MAX));
                self.servers().etcd.change_leader(etcd_now, extension);
                self.break_watches();
            }
            ClusterFault::EtcdQuorumLost => {
                self.marks.hit(Mark::EtcdQuorumLost);
                self.servers().etcd.lose_quorum();
                self.break_watches();
                let back = self.rng.below(OUTAGE_US_MAX);
                self.at(back, Happening::ClusterFault(ClusterFault::EtcdQuorumRegained));
            }
            ClusterFault::EtcdQuorumRegained => self.etcd_regains_quorum(),
            ClusterFault::EtcdRestarts => {
                self.marks.hit(Mark::EtcdRestarted);
                let waiting = self.servers().etcd.restart_servers();
                self.fail_campaigns(waiting);
                self.break_watches();
            }
            ClusterFault::EtcdCompacts => {
                let revision = self.servers().etcd.revision();
                // Compacting twice at one revision is refused, which hurts nobody.
                let _ = self.servers().etcd.compact(revision);
                // Half of the time somebody is just about to read what is gone now.
                if self.rng.chance(500) {
                    self.break_watches();
                }
            }
            ClusterFault::KeyDeleted => self.delete_key(),
            ClusterFault::HostRivalled => self.rival_host(),
            ClusterFault::CampaignFails => {
                let waiting = self.servers().etcd.campaigns_waiting();
                if !waiting.is_empty() {
                    let id = *self.rng.pick(&waiting);
                    self.servers().etcd.fail_campaign(id);
                    self.etcd_changed();
                }
            }
            ClusterFault::EtcdBackup => self.servers().backup = Some(self.servers().etcd.backup()),
            ClusterFault::Strikes(disaster) => return self.strike(disaster),
        }
        Ok(())
    }

    /// Somebody deletes the key of a candidate, or of the leader.
    fn delete_key(&mut self) {
        let hosts = self.rng.chance(300);
        let keys = Range::Prefix(if hosts { HOSTS.into() } else { format!("{ELECTION}/") });
        // Without a quorum nothing can be deleted.
        let keys = self.servers().etcd.get(&keys).map(|(keys, _)| keys).unwrap_or_default();
        if !keys.is_empty() {
            self.marks.hit(if hosts { Mark::HostKeyDeleted } else { Mark::SeatDeleted });
            let leads = keys.iter().min_by_key(|key| key.create_revision).filter(|_| !hosts);
            // That of the leader more often than not: another one is elected at once, while the first goes on for a while.
            let leads = leads.filter(|_| self.rng.chance(600)).map(|key| key.key.clone());
            let key = leads.unwrap_or_else(|| self.rng.pick(&keys).key.clone());
            let _ = self.servers().etcd.delete(&Range::Key(key));
            self.etcd_changed();
        }
    }

    /// A copy of a host's directory is started, which takes the host's id in a later life. It is never heard of again, and its lease ends.
    fn rival_host(&mut self) {
        let index = usize::try_from(self.rng.below(self.hosts.len() as u64)).unwrap_or(0);
        let (ttl_s, now) = (self.cluster().lease_ttl_s, self.etcd_now());
        let process = RIVALS + self.now.0;
        let known = self.hosts[index].incarnation;
        if self.rng.chance(300) {
            self.end_registration(index);
        }
        let servers = self.servers();
        // Later than who is there, if anybody is; else as the copied directory says.
        let there = servers.etcd.get(&Range::Key(host_key(index))).ok();
        let there = there.and_then(|(found, _)| found.first().map(|found| HostEntry::decode(&found.value)));
        let incarnation = there.map_or(known, |there| there.incarnation.next());
        // Without a quorum nothing can be put.
        let Ok((lease, _)) = servers.etcd.grant(now, ttl_s, None) else { return };
        let _ = servers.etcd.put(&host_key(index), HostEntry { incarnation, process }.encode(), Some(lease));
        self.etcd_changed();
    }

    /// A host's key is gone when its copy comes, which so has the very life that the host had. Half of the time nobody is told of the one before the other.
    fn end_registration(&mut self, index: usize) {
        let key = Range::Key(host_key(index));
        let known = self.hosts[index].incarnation;
        let there = self.servers().etcd.get(&key).map(|(found, _)| found).unwrap_or_default();
        let Some(there) = there.first().map(|found| HostEntry::decode(&found.value)) else { return };
        let _ = self.servers().etcd.delete(&key);
        if there.incarnation == known && there.process < RIVALS {
            self.marks.hit(Mark::HostLifeHadTwice);
        }
        if self.rng.chance(500) {
            self.break_watches();
        }
    }

    pub(super) fn etcd_now(&mut self) -> wasmill_protocol::Timestamp {
        let elapsed_us = self.elapsed_us();
        self.servers().etcd_time(elapsed_us)
    }

    /// The time by the clocks of the NATS servers.
    pub(super) fn nats_now(&mut self) -> wasmill_protocol::Timestamp {
        let now = self.now;
        now.plus_us(self.servers().nats_ahead_us)
    }

    /// A node, and more often than not the one that leads.
    pub(super) fn likely_leader(&mut self) -> usize {
        let leading = self.listening();
        if !leading.is_empty() && self.rng.chance(700) { *self.rng.pick(&leading) } else { self.any_node() }
    }

    fn note_resume(&mut self, node: usize) {
        let paused_until = self.nodes[node].paused_until;
        if let Some(cluster) = self.nodes[node].process.as_mut().and_then(|process| process.cluster.as_mut()) {
            cluster.resumed_at = paused_until;
        }
    }

    /// Cuts one way or both, to one server or both.
    fn cut_node(&mut self, long: u64) {
        self.marks.hit(Mark::NodeCut);
        let (node, until) = (self.likely_leader(), self.now.plus_us(long));
        let (ways, servers) = (self.rng.below(3), self.rng.below(3));
        for server in [Place::Nats, Place::Etcd] {
            if (server == Place::Nats && servers == 1) || (server == Place::Etcd && servers == 2) {
                continue;
            }
            if ways != 1 {
                self.links.cut(Place::Node(node), server, until);
            }
            if ways != 2 {
                self.links.cut(server, Place::Node(node), until);
            }
        }
    }

    /// The NATS servers are gone. Of the records that wait, a first part is stored before, and nobody is told which.
    pub(super) fn nats_stops(&mut self, stop: Stop) -> Checked {
        let now = self.nats_now();
        self.marks.hit(match stop {
            Stop::Killed => Mark::LogStopped,
            Stop::PowerLost { .. } => Mark::LogPowerLost,
        });
        self.servers().stop_armed = None;
        let waiting = self.servers().jetstream.waiting() as u64;
        let stored = usize::try_from(self.rng.below(waiting + 1)).unwrap_or(0);
        let untold = self.servers().jetstream.stop(now, stop, stored);
        for (ticket, result) in untold {
            let writer = self.servers().tickets.remove(&ticket);
            if let Some(result) = result {
                self.marks.hit(Mark::LogRecordStoredUntold);
                self.stored(writer, &result)?;
            }
        }
        let down = self.rng.skewed(4_000_000);
        self.at(down, Happening::ClusterFault(ClusterFault::NatsStarts));
        Ok(())
    }

    fn nats_starts(&mut self) {
        if self.servers().jetstream.is_reachable() {
            return;
        }
        let skew_us_max = self.cluster().nats_skew_us_max;
        self.servers().nats_ahead_us = self.rng.below(skew_us_max + 1);
        let now = self.nats_now();
        self.servers().jetstream.start(now);
        // Connections were lost: whoever reads the log begins anew, and looks where it ends.
        let leading = self.listening();
        for node in (0..self.nodes.len()).filter(|node| !leading.contains(node)) {
            self.ask_end(node, None);
        }
    }

    fn etcd_regains_quorum(&mut self) {
        let (etcd_now, extension) = (self.etcd_now(), self.rng.below(EXTENSION_MS_MAX));
        if !self.servers().etcd.has_quorum() {
            self.servers().etcd.regain_quorum(etcd_now, extension);
            self.etcd_changed();
        }
    }

    /// Everything that the cluster stands on is there again.
    pub(super) fn heal_servers(&mut self) {
        self.servers().stop_armed = None;
        self.servers().jetstream.free_disk();
        if !self.servers().jetstream.is_up() {
            let nats_now = self.nats_now();
            self.servers().jetstream.start(nats_now);
        }
        self.servers().etcd.clear_space_alarm();
        self.etcd_regains_quorum();
    }
}
