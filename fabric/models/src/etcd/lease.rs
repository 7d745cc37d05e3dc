//! Leases, which end by etcd's clock (`server/lease/lessor.go`).

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::Timestamp;

use super::{Etcd, EtcdError, LEASE_TTL_S_MIN};

/// Names a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

#[derive(Debug, Clone)]
struct Lease {
    ttl_s: i64,
    expires_at: Timestamp,
    keys: BTreeSet<String>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Leases {
    by_id: BTreeMap<LeaseId, Lease>,
    last_id: i64,
}

impl Leases {
    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    pub(super) fn attach(&mut self, id: Option<LeaseId>, key: &str) {
        if let Some(lease) = id.and_then(|id| self.by_id.get_mut(&id)) {
            lease.keys.insert(key.to_owned());
        }
    }

    pub(super) fn detach(&mut self, id: Option<LeaseId>, key: &str) {
        if let Some(lease) = id.and_then(|id| self.by_id.get_mut(&id)) {
            lease.keys.remove(key);
        }
    }

    /// Leases whose time is over, the oldest first.
    pub(super) fn expired(&self, now: Timestamp) -> Vec<LeaseId> {
        let mut over: Vec<_> = self.by_id.iter().filter(|(_, lease)| lease.expires_at <= now).collect();
        over.sort_by_key(|(id, lease)| (lease.expires_at, **id));
        over.into_iter().map(|(id, _)| *id).collect()
    }

    pub(super) fn remove(&mut self, id: LeaseId) -> BTreeSet<String> {
        self.by_id.remove(&id).map(|lease| lease.keys).unwrap_or_default()
    }

    /// The leases that were saved. Numbers are drawn so that none is ever given twice, restored or
    /// not (`pkg/idutil`).
    pub(super) fn restored(&self, saved: &Self) -> Self {
        Self { by_id: saved.by_id.clone(), last_id: self.last_id.max(saved.last_id) }
    }

    /// A new leader of etcd does not know how much of each lease has passed: all begin anew, and
    /// `extend_ms` longer (`Promote`).
    pub(super) fn restart_all(&mut self, now: Timestamp, extend_ms: u64) {
        for lease in self.by_id.values_mut() {
            lease.expires_at = now.plus_ms(ms(lease.ttl_s) + extend_ms);
        }
    }
}

fn ms(ttl_s: i64) -> u64 {
    u64::try_from(ttl_s).unwrap_or(0).saturating_mul(1_000)
}

impl Etcd {
    /// Grants a lease of at least `ttl_s` seconds: which, and how long it is.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on, space is used up, or there is one of this name.
    pub fn grant(&mut self, now: Timestamp, ttl_s: i64, id: Option<LeaseId>) -> Result<(LeaseId, i64), EtcdError> {
        self.agree()?;
        if self.space_exceeded {
            return Err(EtcdError::NoSpace);
        }
        let id = id.unwrap_or(LeaseId(self.leases.last_id + 1));
        if self.leases.contains(id) {
            return Err(EtcdError::LeaseExists);
        }
        self.leases.last_id = self.leases.last_id.max(id.0);
        let ttl_s = ttl_s.max(LEASE_TTL_S_MIN);
        let lease = Lease { ttl_s, expires_at: now.plus_ms(ms(ttl_s)), keys: BTreeSet::new() };
        self.leases.by_id.insert(id, lease);
        Ok((id, ttl_s))
    }

    /// Renews a lease: how many seconds it lives from now on, 0 when it is gone. One that is over
    /// is deleted before the answer (`Renew` waits for that).
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on: nobody knows whether the lease lives.
    pub fn keep_alive(&mut self, now: Timestamp, id: LeaseId) -> Result<i64, EtcdError> {
        self.agree()?;
        match self.leases.by_id.get_mut(&id) {
            None => Ok(0),
            Some(lease) if lease.expires_at <= now => {
                self.end_lease(id);
                Ok(0)
            }
            Some(lease) => {
                lease.expires_at = now.plus_ms(ms(lease.ttl_s));
                Ok(lease.ttl_s)
            }
        }
    }

    /// Ends a lease at once, and with it every key that was put under it.
    ///
    /// # Errors
    ///
    /// When nothing can be agreed on, or the lease is gone already.
    pub fn revoke(&mut self, id: LeaseId) -> Result<(), EtcdError> {
        self.agree()?;
        if !self.leases.contains(id) {
            return Err(EtcdError::LeaseNotFound);
        }
        self.end_lease(id);
        Ok(())
    }

    /// When the next lease ends, if none is renewed.
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.leases.by_id.values().map(|lease| lease.expires_at).min()
    }
}
