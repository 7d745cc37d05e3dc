//! Attempts whose module must be compiled or loaded before they can start.
//!
//! They hold no slot and no memory meanwhile, and others start. They are bounded for each tenant: a
//! tenant that has as many as it may have is *sated*, which heartbeats tell, so that the leader
//! does not place more of its attempts here.

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::{AttemptId, TenantName, Timestamp};

use crate::admission::WaitingAttempt;
use crate::bounds::{UNREADY_MAX, UNREADY_MS_MAX, UNREADY_PER_TENANT_MAX};

/// The unready attempts of a host.
#[derive(Debug, Default)]
pub(crate) struct Unready {
    attempts: BTreeMap<AttemptId, Entry>,
    /// How many each tenant has; never 0.
    tenants: BTreeMap<TenantName, usize>,
    /// When each has waited too long.
    ends: BTreeSet<(Timestamp, AttemptId)>,
}

#[derive(Debug)]
struct Entry {
    waiting: WaitingAttempt,
    until: Timestamp,
}

impl Unready {
    pub(crate) fn len(&self) -> usize {
        self.attempts.len()
    }

    /// Memory limits of those. O(those).
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.attempts.values().map(|entry| entry.waiting.memory_bytes()).sum()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.attempts.len() >= UNREADY_MAX
    }

    /// Keeps an attempt. Returns whether its tenant is sated from now on.
    pub(crate) fn insert(&mut self, now: Timestamp, waiting: WaitingAttempt) -> bool {
        let (id, tenant) = (waiting.assignment.id, waiting.assignment.spec.tenant.clone());
        let until = now.plus_ms(UNREADY_MS_MAX);
        self.ends.insert((until, id));
        self.attempts.insert(id, Entry { waiting, until });
        let count = self.tenants.entry(tenant).or_default();
        *count += 1;
        *count == UNREADY_PER_TENANT_MAX
    }

    /// Takes an attempt out. The second value is whether its tenant is sated no more.
    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<(WaitingAttempt, bool)> {
        let Entry { waiting, until } = self.attempts.remove(&id)?;
        self.ends.remove(&(until, id));
        let tenant = &waiting.assignment.spec.tenant;
        let count = self.tenants.get_mut(tenant).expect("the tenant of an unready attempt is counted");
        *count -= 1;
        let hungry = *count + 1 == UNREADY_PER_TENANT_MAX;
        if *count == 0 {
            self.tenants.remove(tenant);
        }
        Some((waiting, hungry))
    }

    /// Takes all attempts out.
    pub(crate) fn remove_all(&mut self) -> Vec<AttemptId> {
        let Self { attempts, .. } = std::mem::take(self);
        attempts.into_keys().collect()
    }

    /// The attempt that has waited too long, if there is one.
    pub(crate) fn overdue(&self, now: Timestamp) -> Option<AttemptId> {
        self.ends.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    /// When the next one has waited too long.
    pub(crate) fn next_timeout(&self) -> Option<Timestamp> {
        self.ends.first().map(|(until, _)| *until)
    }

    /// Tenants that have as many as one may have.
    pub(crate) fn sated(&self) -> Vec<TenantName> {
        let sated = self.tenants.iter().filter(|(_, count)| **count >= UNREADY_PER_TENANT_MAX);
        sated.map(|(tenant, _)| tenant.clone()).collect()
    }
}
