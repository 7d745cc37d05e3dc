//! etcd: keys with revisions, leases that end by its own clock, watches, and the election service
//! that it runs.
//!
//! Modelled after etcd 3.6. One value stands for the whole cluster of etcd servers: what it holds
//! was agreed on. A request that is answered here may still have no answer for its client, and a
//! client may be told of a failure although the request was carried out: that is the caller's to
//! play.

mod election;
mod faults;
mod lease;
mod store;
mod watch;

use std::collections::BTreeMap;

use bytes::Bytes;
use thiserror::Error;
use wasmill_protocol::Timestamp;

pub use election::{CampaignId, LeaderKey};
pub use faults::Backup;
pub use lease::LeaseId;
pub use store::{Compare, CompareOp, CompareTarget, Event, EventKind, KeyValue, Op, OpResult, Range, TxnResult};
pub use watch::Watch;

use election::Campaign;
use lease::Leases;
use store::Store;

/// The shortest lease that is granted, in seconds: one and a half election time-outs of the default
/// configuration, rounded up.
pub const LEASE_TTL_S_MIN: i64 = 2;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EtcdError {
    /// Too few servers are there to agree on anything.
    #[error("etcdserver: no leader")]
    NoQuorum,
    /// There is no such lease.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// A lease of this number exists.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// The revision that is asked for was compacted away.
    #[error("mvcc: required revision has been compacted")]
    Compacted {
        /// The oldest revision that is there.
        revision: u64,
    },
    /// The quota of the database is used up: nothing can be put until somebody clears the alarm.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The key of a leader is not there any more, or is another one.
    #[error("election: not leader")]
    NotLeader,
}

/// The servers together.
#[derive(Debug, Clone)]
pub struct Etcd {
    quorum: bool,
    space_exceeded: bool,
    store: Store,
    leases: Leases,
    campaigns: BTreeMap<CampaignId, Campaign>,
    next_campaign: u64,
    /// Campaigns that are over and not yet asked for.
    elected: Vec<(CampaignId, Result<LeaderKey, EtcdError>)>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            quorum: true,
            space_exceeded: false,
            store: Store::default(),
            leases: Leases::default(),
            campaigns: BTreeMap::new(),
            next_campaign: 0,
            elected: Vec::new(),
        }
    }
}

impl Etcd {
    /// The revision of the last change.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// Whether requests are answered.
    pub fn has_quorum(&self) -> bool {
        self.quorum
    }

    /// Compares, and does one list of operations or the other, as one change.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on, or one of the operations cannot be done: then none is.
    pub fn txn(&mut self, compares: &[Compare], then: &[Op], otherwise: &[Op]) -> Result<TxnResult, EtcdError> {
        self.agree()?;
        let succeeded = compares.iter().all(|compare| self.store.holds(compare));
        let ops = if succeeded { then } else { otherwise };
        self.check(ops)?;
        let results = self.store.apply(ops, &mut self.leases);
        self.settle_campaigns();
        Ok(TxnResult { succeeded, revision: self.store.revision(), results })
    }

    /// Puts one key.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on, space is used up, or the lease is not there.
    pub fn put(&mut self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<u64, EtcdError> {
        Ok(self.txn(&[], &[Op::Put { key: key.to_owned(), value, lease }], &[])?.revision)
    }

    /// The keys of a range as they are now, by name, and the revision at which they were read.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on.
    pub fn get(&self, range: &Range) -> Result<(Vec<KeyValue>, u64), EtcdError> {
        self.agree()?;
        Ok((self.store.range(range).cloned().collect(), self.store.revision()))
    }

    /// Deletes the keys of a range.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on.
    pub fn delete(&mut self, range: &Range) -> Result<u64, EtcdError> {
        Ok(self.txn(&[], &[Op::Delete(range.clone())], &[])?.revision)
    }

    /// Forgets the changes before `revision`. The present values are not touched.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on, or that is done already.
    pub fn compact(&mut self, revision: u64) -> Result<(), EtcdError> {
        self.agree()?;
        self.store.compact(revision)
    }

    fn agree(&self) -> Result<(), EtcdError> {
        if self.quorum { Ok(()) } else { Err(EtcdError::NoQuorum) }
    }

    fn check(&self, ops: &[Op]) -> Result<(), EtcdError> {
        for op in ops {
            let Op::Put { lease, .. } = op else { continue };
            if self.space_exceeded {
                return Err(EtcdError::NoSpace);
            }
            if lease.is_some_and(|lease| !self.leases.contains(lease)) {
                return Err(EtcdError::LeaseNotFound);
            }
        }
        Ok(())
    }

    /// Deletes what was put under leases whose time is over; to be called as time passes.
    ///
    /// A lease never ends early by the clock of etcd. It may end late: the server looks every 500
    /// ms, and a new leader of etcd starts all leases anew.
    ///
    /// Returns the leases that have ended.
    pub fn tick(&mut self, now: Timestamp) -> Vec<LeaseId> {
        if !self.quorum {
            return Vec::new();
        }
        let expired = self.leases.expired(now);
        expired.iter().for_each(|lease| self.end_lease(*lease));
        expired
    }

    fn end_lease(&mut self, lease: LeaseId) {
        let keys = self.leases.remove(lease);
        self.store.delete_keys(keys);
        self.settle_campaigns();
    }
}
