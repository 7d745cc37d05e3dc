//! Lost hosts.
//!
//! A task that kills its hosts must be given up, and a task that was merely near must not. So a
//! loss counts against a task only when this leader has heard that life of the host (a restart of
//! the whole process, leader included, counts against nobody), and only for as many attempts as the
//! host has slots, those placed first: the host starts attempts in that order, so the others were
//! waiting on it. The first attempts of each tenant count as well, which the host lets pass, as
//! many as one tenant can have in what is kept. A loss that does not count ends as `returned`, one
//! that counts as `host_lost`. Nor does a loss count that another process with the host's id has
//! brought about: no task is to blame for it.

use std::collections::BTreeMap;

use wasmill_protocol::{HostId, Incarnation, OutcomeKind, kept};

use super::Core;
use super::hosts::Host;
use super::timers::Deadline;
use crate::state::Slot;
use crate::state::tenants::TenantNumber;

/// A host that has left is shown as lost for this many milliseconds: an hour.
const LEFT_SHOWN_MS: u64 = 3_600_000;

/// How a life of a host came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostLoss {
    /// By itself, as far as is known.
    Ended,
    /// Another process, which is not its successor, has taken the host's id.
    Rivalled,
}

impl Core {
    /// The lease of this life of a host has ended.
    pub(super) fn host_left(&mut self, id: &HostId, incarnation: Incarnation) {
        if self.hosts.get(id).is_some_and(|host| host.incarnation() < incarnation) {
            // It came and went before we heard of it: whatever it was before is over too.
            self.lose_before(id, incarnation, HostLoss::Ended);
        }
        self.lose(id, incarnation, HostLoss::Ended);
    }

    /// Every life of the host before `incarnation` is over.
    pub(super) fn lose_before(&mut self, id: &HostId, incarnation: Incarnation, loss: HostLoss) {
        let mut earlier: Vec<_> = self.state.placements.before(id, incarnation).collect();
        earlier.extend(self.hosts.get(id).map(|host| host.incarnation()).filter(|known| *known < incarnation));
        earlier.sort();
        earlier.dedup();
        for earlier in earlier {
            self.lose(id, earlier, loss);
        }
    }

    /// One life of a host is over, and everything that ran there with it.
    pub(super) fn lose(&mut self, id: &HostId, incarnation: Incarnation, loss: HostLoss) {
        self.awaited.remove(&(id.clone(), incarnation));
        let mut slots = 0;
        if let Some(host) = self.hosts.get_mut(id)
            && host.incarnation() == incarnation
            && host.joined
        {
            host.joined = false;
            self.deadlines.insert(host.last_seen.plus_ms(LEFT_SHOWN_MS), Deadline::Left(id.clone()));
            self.dispatch.fleet.touch(host.slot);
            if loss == HostLoss::Ended {
                slots = host.heartbeat.as_ref().map_or(0, |heartbeat| heartbeat.slots);
            }
            self.tally.hosts_lost += 1;
        }
        let placed = self.state.placements.of(id, incarnation);
        let mut of_tenant: BTreeMap<TenantNumber, u32> = BTreeMap::new();
        let mut may_have_run = |(index, slot): (u32, Slot)| {
            let before = of_tenant.entry(self.state.shapes.shape(self.state.tasks[slot].shape).key.tenant).or_default();
            let passes = *before < kept::allowance(0, kept::slots(slots).max(1)).min(slots);
            *before += 1;
            (slot, index < slots || passes)
        };
        let attempts: Vec<_> = (0..).zip(placed.slots(&self.state.tasks)).map(&mut may_have_run).collect();
        // Each goes to the front of its queue: the last one first, so that they keep their order.
        for (slot, may_have_run) in attempts.into_iter().rev() {
            let kind = if may_have_run { OutcomeKind::HostLost } else { OutcomeKind::Returned };
            let message = match loss {
                HostLoss::Ended => format!("host {id} was lost"),
                HostLoss::Rivalled => format!("another process has become host {id}"),
            };
            self.end_without_result(slot, kind, message);
        }
    }

    /// Gives up the hosts that ran something when this leader began and have not come back in time.
    pub(super) fn give_up_awaited(&mut self) {
        for (id, incarnation) in std::mem::take(&mut self.awaited) {
            self.lose(&id, incarnation, HostLoss::Ended);
        }
    }

    /// Forgets a host that left long ago, unless it has come back since, or come and left once
    /// more.
    pub(super) fn forget_host(&mut self, id: &HostId) {
        let now = self.now;
        let is_over = |host: &&Host| !host.joined && now >= host.last_seen.plus_ms(LEFT_SHOWN_MS);
        if let Some(host) = self.hosts.get(id).filter(is_over) {
            self.dispatch.fleet.touch(host.slot);
            self.hosts.remove(id);
        }
    }
}
