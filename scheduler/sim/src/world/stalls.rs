//! Read models that fall behind what their nodes have read of the log.

use super::{Fault, Happening, World};
use crate::marks::Mark;
use crate::network::Place;

/// How long a read model is behind at most when it is so by itself, in microseconds.
const BEHIND_US_MAX: u64 = 8_000_000;
/// Of 1000 times that a read model is behind, how often it is for longer than a lease, and the leader dies.
const LONG_STALLS: u64 = 100;

impl World {
    /// A record was taken in, and sometimes its read model is behind for a while; now and then for longer than an election takes and the lease after it, while
    /// the leader dies: whoever is elected has yet to read what it has missed.
    pub(super) fn read_model_may_stall(&mut self, node: usize) {
        let cluster = self.options.cluster.as_ref().expect("only a cluster is followed");
        let lease_us = u64::try_from(cluster.lease_ttl_s).unwrap_or(0) * 1_000_000;
        if !self.rng.chance(cluster.read_model_stalls) {
            return;
        }
        self.marks.hit(Mark::ReadModelBehind);
        let mut long = self.rng.skewed(BEHIND_US_MAX);
        if self.rng.chance(LONG_STALLS) {
            long = 3 * lease_us + self.rng.below(lease_us);
            let dies = self.rng.below(lease_us);
            self.at(dies, Happening::Fault(Fault::SomeNodeDies));
        }
        let behind_until = self.now.plus_us(long);
        if let Some(process) = &mut self.nodes[node].process {
            process.behind_until = behind_until;
        }
    }

    /// A node that is elected while its read model is behind for long is cut from etcd as often as not: its lease ends while it waits.
    pub(super) fn may_lose_seat_behind(&mut self, node: usize) {
        let lease_us = u64::try_from(self.cluster().lease_ttl_s).unwrap_or(0) * 1_000_000;
        let Some(behind_until) = self.nodes[node].process.as_ref().map(|process| process.behind_until) else { return };
        if !self.healed && behind_until > self.now.plus_us(lease_us) && self.rng.chance(500) {
            self.marks.hit(Mark::NodeCut);
            self.links.cut(Place::Node(node), Place::Etcd, behind_until);
            self.links.cut(Place::Etcd, Place::Node(node), behind_until);
        }
    }
}
