//! The attempts that wait on a host, tenant by tenant, in the order in which they start.
//!
//! The leader has put the attempts in order already, by class and by share. But what it sent
//! earlier may wait long while guests of the same tenant run. So on the host, too, a higher class
//! goes first, and within a class a tenant of which nothing runs here; among equals whose first
//! attempt came first. Attempts of one tenant keep their order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use wasmill_protocol::{AttemptId, TenantName, Timestamp};

use super::WaitingAttempt;

/// All that wait, and what runs of each tenant.
#[derive(Debug, Default)]
pub(super) struct Line {
    tenants: BTreeMap<TenantName, TenantHere>,
    /// The turn of each tenant of which something waits.
    turns: BTreeSet<Turn>,
    /// The same tenants by the arrival of their first.
    by_arrival: BTreeMap<Arrival, TenantName>,
    pushed: u64,
    len: usize,
}

/// When an attempt was taken, and a number that tells it from others of that time.
pub(super) type Arrival = (Timestamp, u64);

/// The attempts of a tenant on this host.
#[derive(Debug, Default)]
pub(super) struct TenantHere {
    /// Its attempts that run.
    pub(super) running: u32,
    /// Memory that these may use.
    pub(super) memory_bytes: u64,
    waiting: VecDeque<(Arrival, WaitingAttempt)>,
}

/// Smaller goes first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    class: Reverse<i8>,
    /// Something of the tenant runs here.
    busy: bool,
    arrival: Arrival,
    tenant: TenantName,
}

impl TenantHere {
    /// Its attempts that wait, in their order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &WaitingAttempt> {
        self.waiting.iter().map(|(_, waiting)| waiting)
    }

    fn turn(&self, tenant: &TenantName) -> Option<Turn> {
        let (arrival, first) = self.waiting.front()?;
        let (class, busy) = (Reverse(first.assignment.class), self.running > 0);
        Some(Turn { class, busy, arrival: *arrival, tenant: tenant.clone() })
    }
}

impl Line {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Memory limits of those that wait. O(those).
    pub(super) fn memory_bytes(&self) -> u64 {
        self.by_arrival.values().flat_map(|tenant| self.of(tenant).waiting()).map(WaitingAttempt::memory_bytes).sum()
    }

    /// The tenants of which something waits, in their order.
    pub(super) fn by_turn(&self) -> impl Iterator<Item = &TenantName> {
        self.turns.iter().map(|turn| &turn.tenant)
    }

    /// The tenants of which something waits, by the arrival of their first.
    pub(super) fn by_arrival(&self) -> impl Iterator<Item = (Arrival, &TenantName)> {
        self.by_arrival.iter().map(|(arrival, tenant)| (*arrival, tenant))
    }

    /// The attempts of a tenant here, of which some wait.
    pub(super) fn of(&self, tenant: &TenantName) -> &TenantHere {
        &self.tenants[tenant]
    }

    /// Adds an attempt, after those of its tenant that were taken before.
    pub(super) fn push(&mut self, waiting: WaitingAttempt) {
        let (tenant, arrival) = (waiting.assignment.spec.tenant.clone(), (waiting.taken_at, self.pushed));
        self.pushed += 1;
        self.len += 1;
        self.change(&tenant, |here| {
            let later = here.waiting.iter().rev().take_while(|(other, _)| *other > arrival).count();
            here.waiting.insert(here.waiting.len() - later, (arrival, waiting));
        });
    }

    /// Takes out the attempt at `index` among those of a tenant that wait: it runs from now on.
    pub(super) fn start(&mut self, tenant: &TenantName, index: usize) -> (Arrival, WaitingAttempt) {
        self.len -= 1;
        self.change(tenant, |here| {
            let (arrival, waiting) = here.waiting.remove(index).expect("it was found in this place");
            here.running += 1;
            here.memory_bytes += waiting.memory_bytes();
            (arrival, waiting)
        })
    }

    /// An attempt that ran has ended.
    pub(super) fn ended(&mut self, tenant: &TenantName, memory_bytes: u64) {
        self.change(tenant, |here| {
            here.running -= 1;
            here.memory_bytes -= memory_bytes;
        });
    }

    pub(super) fn remove(&mut self, id: AttemptId) -> Option<WaitingAttempt> {
        let place = |here: &TenantHere| here.waiting().position(|waiting| waiting.assignment.id == id);
        let (tenant, index) = self.tenants.iter().find_map(|(tenant, here)| Some((tenant.clone(), place(here)?)))?;
        self.len -= 1;
        self.change(&tenant, |here| here.waiting.remove(index)).map(|(_, waiting)| waiting)
    }

    /// Takes out all, in the order in which they came.
    pub(super) fn remove_all(&mut self) -> VecDeque<WaitingAttempt> {
        self.len = 0;
        self.turns.clear();
        self.by_arrival.clear();
        let mut all: Vec<_> = self.tenants.values_mut().flat_map(|here| std::mem::take(&mut here.waiting)).collect();
        self.tenants.retain(|_, here| here.running > 0);
        all.sort_by_key(|(arrival, _)| *arrival);
        all.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// Changes what a tenant has, and with it the tenant's turn.
    fn change<T>(&mut self, tenant: &TenantName, change: impl FnOnce(&mut TenantHere) -> T) -> T {
        let here = self.tenants.entry(tenant.clone()).or_default();
        let before = here.turn(tenant);
        let changed = change(here);
        let after = here.turn(tenant);
        if after.is_none() && here.running == 0 {
            self.tenants.remove(tenant);
        }
        if before != after {
            if let Some(before) = before {
                self.by_arrival.remove(&before.arrival);
                self.turns.remove(&before);
            }
            if let Some(after) = after {
                self.by_arrival.insert(after.arrival, tenant.clone());
                self.turns.insert(after);
            }
        }
        changed
    }
}
