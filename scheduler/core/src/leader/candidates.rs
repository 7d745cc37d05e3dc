//! Shapes of which something could start now, and how many tasks of each are to.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use wasmill_protocol::{TenantName, Timestamp, kept};

use super::seats::Seat;
use super::shares::Shares;
use super::tally::Tally;
use crate::policy::{self, HostRoom, Misfit, ShapeView, fits};
use crate::state::tenants::TenantNumber;
use crate::state::{Labels, Slot, State};

/// Slices that a round is handed out in at most.
const SLICES_MAX: u32 = 32;
/// Shapes times slices of one round at most: bounds what a round costs when there are many shapes.
const SHAPES_ORDERED_MAX: usize = 16_384;

/// What could start in one round.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) views: Vec<ShapeView>,
    facts: Vec<Facts>,
    rooms: Vec<TenantRoom>,
}

/// What the core knows of a candidate and no policy needs.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// Free places on hosts where it fits, those included that are kept and that its tenant may take.
    reach: u32,
    /// Its tenant may take some that are kept.
    few: bool,
    /// Index of its tenant's room.
    room: usize,
    /// Tasks that are chosen already.
    taken: u32,
}

/// What a tenant may still have.
#[derive(Debug, Clone, Copy)]
struct TenantRoom {
    tenant: TenantNumber,
    tasks: u64,
    memory_bytes: u64,
}

/// What a shape needs of a host: memory, labels, and that it is not sated with its tenant where some host is.
type Needs = (u64, Arc<Labels>, Option<TenantNumber>);

/// How many tasks of the candidate at an index.
pub(super) type Counts = Vec<(usize, u32)>;

impl Candidates {
    /// Every shape with a task in the queue that fits a host with a free place and whose tenant is below its quotas.
    pub(super) fn of(
        state: &State,
        stored_out: &BTreeSet<TenantName>,
        shares: &mut Shares,
        hosts: &[HostRoom],
    ) -> Self {
        // Many shapes need the same of a host, and many belong to the same tenant.
        let mut reaches: BTreeMap<Needs, (u32, u32)> = BTreeMap::new();
        let mut rooms: BTreeMap<TenantNumber, usize> = BTreeMap::new();
        let mut found = Self::default();
        for &shape in &state.shapes.with_queued {
            let tenant = state.shapes.shape(shape).key.tenant;
            let owner = state.tenants.entry(tenant);
            if owner.removed || stored_out.contains(&owner.name) {
                continue;
            }
            let view = view(state, shape);
            let sated = hosts.iter().any(|host| host.sated.contains(&view.tenant));
            let needs = (view.memory_bytes, Arc::clone(&view.require), sated.then_some(tenant));
            let (free, kept) = *reaches.entry(needs).or_insert_with(|| {
                let fitting = hosts.iter().filter(|host| matches!(fits(&view, host), Ok(()) | Err(Misfit::Full)));
                fitting.fold((0, 0), |(free, kept): (u32, u32), host| {
                    (free.saturating_add(host.free), kept.saturating_add(host.kept))
                })
            });
            // What is free is taken first.
            let kept = kept::allowance(view.tenant_running + u64::from(free), kept);
            let (reach, few) = (free.saturating_add(kept), kept > 0);
            let room = *rooms.entry(tenant).or_insert_with(|| {
                found.rooms.push(tenant_room(state, tenant));
                found.rooms.len() - 1
            });
            found.views.push(view);
            found.facts.push(Facts { reach, few, room, taken: 0 });
            if found.limit(found.views.len() - 1) == 0 {
                found.views.pop();
                found.facts.pop();
            }
        }
        shares.activate(found.facts.iter().map(|facts| found.rooms[facts.room].tenant).collect());
        for (view, facts) in found.views.iter_mut().zip(&found.facts) {
            view.tenant_time = shares.time(found.rooms[facts.room].tenant);
        }
        found
    }

    /// Whether the tenant of a candidate may take places that are kept.
    pub(super) fn is_of_few(&self, index: usize) -> bool {
        self.facts[index].few
    }

    /// Chooses `turns` tasks that became queued at `since` or before, or fewer. Tenants take turns, beginning with the one after `last`,
    /// whatever their tasks are and however long each has waited; a tenant's turn is for its task that waits longest.
    pub(super) fn choose_overdue(&mut self, turns: u32, since: Timestamp, last: &mut Option<TenantNumber>) -> Counts {
        let mut overdue: BTreeMap<TenantNumber, usize> = BTreeMap::new();
        for (index, view) in self.views.iter().enumerate().filter(|(_, view)| view.oldest <= since) {
            let first = overdue.entry(self.rooms[self.facts[index].room].tenant).or_insert(index);
            if view.oldest < self.views[*first].oldest {
                *first = index;
            }
        }
        let mut counts: BTreeMap<usize, u32> = BTreeMap::new();
        let mut left = turns;
        while left > 0
            && let Some((tenant, index)) = next_after(&overdue, *last)
        {
            *last = Some(tenant);
            let count = self.take(index, 1);
            if count == 0 {
                overdue.remove(&tenant);
                continue;
            }
            *counts.entry(index).or_default() += count;
            left -= count;
        }
        counts.into_iter().collect()
    }

    /// Chooses up to `count` tasks of one candidate, and says how many it could be.
    fn take(&mut self, index: usize, count: u32) -> u32 {
        let count = count.min(self.limit(index));
        let memory_bytes = self.views[index].memory_bytes.saturating_mul(u64::from(count));
        let room = &mut self.rooms[self.facts[index].room];
        room.tasks -= u64::from(count);
        room.memory_bytes = room.memory_bytes.saturating_sub(memory_bytes);
        self.facts[index].taken += count;
        self.views[index].queued -= count;
        count
    }

    /// How many tasks of each candidate to place, `capacity` in all, the one that the policy serves first in front.
    pub(super) fn choose(
        &mut self,
        capacity: u32,
        shares: &Shares,
        now: Timestamp,
        seat: &mut Seat,
        tally: &mut Tally,
    ) -> Counts {
        let slices = u32::try_from(SHAPES_ORDERED_MAX / self.views.len().max(1)).unwrap_or(u32::MAX);
        let slice = capacity.div_ceil(slices.clamp(1, SLICES_MAX));
        let mut open: Vec<usize> = (0..self.views.len()).collect();
        let mut views = self.views.clone();
        let (mut counts, mut order) = (vec![0; views.len()], Vec::new());
        let mut left = capacity;
        while left > 0 {
            // Both vectors lose the same indices, so that a policy only sees what it can choose from.
            let mut keep = open.iter().map(|&index| self.limit(index) > 0).collect::<Vec<_>>().into_iter();
            views.retain(|_| keep.next().unwrap_or(false));
            open.retain(|&index| self.limit(index) > 0);
            let (best, count) = match *open {
                [] => break,
                [only] => (0, self.limit(only).min(left)),
                _ => {
                    let keys = seat.order(&views, now, tally);
                    (policy::first(&keys, &views), slice.min(left))
                }
            };
            let index = open[best];
            let count = self.take(index, count);
            if counts[index] == 0 {
                order.push(index);
            }
            counts[index] += count;
            left -= count;
            let room = self.facts[index].room;
            let charge = shares.charge(self.rooms[room].tenant, self.views[index].weight).times(count);
            views[best].queued -= count;
            for (view, &other) in views.iter_mut().zip(&open) {
                if self.facts[other].room == room {
                    view.tenant_time = view.tenant_time.saturating_add(charge);
                    view.tenant_running += u64::from(count);
                }
            }
        }
        order.into_iter().map(|index| (index, counts[index])).collect()
    }

    /// How many more tasks of a candidate may be chosen.
    fn limit(&self, index: usize) -> u32 {
        let (view, facts) = (&self.views[index], &self.facts[index]);
        let room = &self.rooms[facts.room];
        let by_memory = room.memory_bytes.checked_div(view.memory_bytes).unwrap_or(u64::MAX);
        let by_tenant = u32::try_from(room.tasks.min(by_memory)).unwrap_or(u32::MAX);
        view.queued.min(facts.reach.saturating_sub(facts.taken)).min(by_tenant)
    }
}

/// The tenant that comes after another one in a circle.
pub(super) fn next_after<T: Copy>(
    tenants: &BTreeMap<TenantNumber, T>,
    last: Option<TenantNumber>,
) -> Option<(TenantNumber, T)> {
    let after = last.map_or(Bound::Unbounded, Bound::Excluded);
    let next = tenants.range((after, Bound::Unbounded)).next().or_else(|| tenants.first_key_value());
    next.map(|(tenant, value)| (*tenant, *value))
}

/// What a policy sees of a shape that has a task in the queue, but for the tenant's virtual time.
pub(super) fn view(state: &State, shape: Slot) -> ShapeView {
    let (key, queued) = (&state.shapes.shape(shape).key, state.shapes.shape(shape).queued);
    let tenant = state.tenants.entry(key.tenant);
    ShapeView {
        id: shape,
        tenant: tenant.name.clone(),
        weight: tenant.weight.max(1),
        class: tenant.class,
        priority: key.priority,
        module: key.module,
        memory_bytes: key.memory_bytes,
        require: Arc::clone(&key.require),
        queued: queued.count,
        tenant_running: tenant.tasks_running,
        tenant_time: 0,
        oldest: state.tasks.find(queued.head).map_or(Timestamp::MAX, |task| task.queued_at),
    }
}

fn tenant_room(state: &State, tenant: TenantNumber) -> TenantRoom {
    let entry = state.tenants.entry(tenant);
    let left = |limit: Option<u64>, used: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
    TenantRoom {
        tenant,
        tasks: left(entry.quotas.tasks_running, entry.tasks_running),
        memory_bytes: left(entry.quotas.memory_bytes, entry.memory_bytes),
    }
}
