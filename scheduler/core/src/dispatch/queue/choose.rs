//! The choice of the next tasks, one after the other.

use std::collections::BTreeMap;

use wasmill_protocol::kept;

use super::heads::{Heads, reach};
use super::{Fleet, Queue, TenantOrder};
use crate::dispatch::fleet::KindRoom;
use crate::state::shapes::since_without;
use crate::state::tenants::TenantNumber;
use crate::state::{Slot, State};

/// Tenants that may take a place that is kept and among which the first is looked for: those that
/// run least.
const FEW_LOOKED_AT_MAX: usize = 64;

/// Tenants in front that are looked at for one that may.
const ORDER_LOOKED_AT_MAX: usize = 16;
const _: () = assert!(ORDER_LOOKED_AT_MAX <= FEW_LOOKED_AT_MAX, "the bound in the cost table is that of both");

/// Tasks of one shape that are next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::dispatch) struct Chosen {
    pub(in crate::dispatch) shape: Slot,
    pub(in crate::dispatch) count: u32,
    /// They may take places that are kept.
    pub(in crate::dispatch) kept: bool,
}

/// The places that a lane can reach: places for everybody, and those that are kept.
pub(super) type Reach = (u64, u64);

/// One choice of tasks while it is made.
#[derive(Debug)]
pub(in crate::dispatch) struct Choosing<'a> {
    pub(in crate::dispatch) queue: &'a mut Queue,
    pub(in crate::dispatch) state: &'a State,
    pub(in crate::dispatch) fleet: &'a Fleet,
    /// The room that is left on each kind of hosts.
    pub(in crate::dispatch) rooms: Vec<KindRoom>,
    /// Lanes in which something may start.
    lanes: Vec<u32>,
    /// Places left for tenants that some hosts are sated with, by tenant and lane, for everybody
    /// and kept.
    reach: BTreeMap<(TenantNumber, u32), [u64; 2]>,
    chosen: Vec<Chosen>,
    pub(super) heads: Heads,
}

impl<'a> Choosing<'a> {
    pub(in crate::dispatch) fn new(queue: &'a mut Queue, state: &'a State, fleet: &'a Fleet) -> Self {
        let (rooms, lanes) = (fleet.rooms(), queue.busy_lanes().collect());
        Self { queue, state, fleet, rooms, lanes, reach: BTreeMap::new(), chosen: Vec::new(), heads: Heads::default() }
    }

    /// Chooses up to `left` tasks. Where little is free tenants that run nothing or little come
    /// first, and may take what is kept; what they leave is everybody's.
    pub(in crate::dispatch) fn choose(mut self, mut left: u32) -> Vec<Chosen> {
        if !self.has_room() {
            return self.chosen;
        }
        self.heads = Heads::of(self.queue, &self.lanes, &self.rooms);
        while left > 0 {
            if let Some((lane, first)) = self.first_of_few() {
                left -= self.serve(lane, first.tenant, None, 1, true);
            } else if let Some((lane, first, rival)) = self.first() {
                if self.roomiest(lane, false).is_some() {
                    left -= self.serve(lane, first.tenant, rival, left, false);
                } else {
                    self.heads.close(lane);
                }
            } else {
                break;
            }
        }
        self.finish()
    }

    /// Whether some lane may have a place for its tenants: most dispatches end here.
    fn has_room(&self) -> bool {
        let has_room = |lane: &super::Lane| {
            let (free, kept) = reach(&lane.kinds, &self.rooms);
            let least = lane.by_running.first();
            free > 0 || least.is_some_and(|(running, _)| kept::may_take(running.saturating_add(free), kept))
        };
        self.lanes.iter().filter_map(|&lane| self.queue.lanes[lane as usize].as_ref()).any(has_room)
    }

    /// The chosen tasks, in the order in which each shape was first.
    pub(in crate::dispatch) fn finish(self) -> Vec<Chosen> {
        for chosen in &self.chosen {
            if let Some(Some(shape)) = self.queue.shapes.get_mut(chosen.shape as usize) {
                shape.chosen = [None; 2];
            }
        }
        self.chosen
    }

    /// Chooses tasks of one tenant as long as it comes before `rival`. Returns how many; when there
    /// are none it is not in the lane any more.
    fn serve(&mut self, lane: u32, number: TenantNumber, rival: Option<TenantOrder>, most: u32, kept: bool) -> u32 {
        let mut count = 0;
        while count < most {
            let Some(slot) = self.next_of(lane, number, kept) else {
                self.queue.tenant_lane(number, lane).is_blocked = true;
                break;
            };
            let several = if rival.is_none() && !kept { self.several(lane, number, slot, most - count) } else { 1 };
            if !self.take(slot, several, kept) {
                break;
            }
            count += several;
            let tenant = self.queue.tenants[number as usize].as_ref().expect("it has just been served");
            let own = &tenant.lanes[tenant.index_of(lane)];
            let shared = self.queue.lanes[lane as usize].as_ref().expect("it has just been served");
            let now = tenant.order_now(number, own, shared);
            let is_beaten = now.is_none_or(|now| rival.is_some_and(|rival| now > rival));
            if is_beaten || self.heads.may_few_come_first() {
                break;
            }
        }
        self.queue.enter(number, lane);
        self.heads.note(lane, self.queue);
        count
    }

    /// The shape that a tenant starts next in a lane.
    fn next_of(&mut self, lane: u32, number: TenantNumber, kept: bool) -> Option<Slot> {
        if self.reach_of(lane, number).is_some_and(|reach| reach[0] + if kept { reach[1] } else { 0 } == 0) {
            // Hosts say when they take more of it.
            self.queue.blocked.push(number);
            return None;
        }
        let tenant = self.queue.tenants[number as usize].as_ref()?;
        let own = &tenant.lanes[tenant.index_of(lane)];
        let memory_max = self.queue.lanes[lane as usize].as_ref()?.memory_max.min(tenant.memory_left());
        let fits = |slot: Slot| {
            let shape = self.queue.shapes[slot as usize].as_ref();
            shape.is_some_and(|shape| shape.memory_bytes <= memory_max)
        };
        own.shapes.iter().map(|order| order.shape).find(|&slot| fits(slot))
    }

    /// The places that a tenant can reach when some hosts take no more of it.
    fn reach_of(&mut self, lane: u32, number: TenantNumber) -> Option<&mut [u64; 2]> {
        if !self.fleet.is_any_sated() {
            return None;
        }
        if !self.reach.contains_key(&(number, lane)) {
            let kinds = &self.queue.lanes[lane as usize].as_ref()?.kinds;
            let sated = self.fleet.sated_room(&self.state.tenants.entry(number).name, kinds)?;
            let sum = |of: fn(&KindRoom) -> u64| kinds.iter().map(|&kind| of(&self.rooms[kind as usize])).sum::<u64>();
            let (free, kept) = (sum(|room| room.free), sum(|room| room.kept));
            let reach = [free.saturating_sub(sated.free), kept.saturating_sub(sated.kept)];
            self.reach.insert((number, lane), reach);
        }
        self.reach.get_mut(&(number, lane))
    }

    /// How many tasks of a shape can be chosen at once because nothing else would come in between:
    /// at most `most`, and at least one.
    fn several(&self, lane: u32, number: TenantNumber, slot: Slot, most: u32) -> u32 {
        let shared = self.queue.lanes[lane as usize].as_ref().expect("a lane that is served is there");
        let tenant = self.queue.tenants[number as usize].as_ref().expect("a tenant that is served is known");
        let shape = self.queue.shapes[slot as usize].as_ref().expect("a shape that is ordered is queued");
        let is_alone = self.lanes.len() == 1 && shared.kinds.len() == 1 && tenant.lanes.len() == 1;
        if !is_alone || tenant.lanes[0].shapes.len() != 1 || self.fleet.is_any_sated() {
            return 1;
        }
        let room = &self.rooms[shared.kinds[0] as usize];
        let memory_bytes = shape.memory_bytes.max(1);
        let by_host = room.memory_bytes.div_ceil(memory_bytes.into()).min(room.free.into());
        let by_quota = (tenant.tasks_max - tenant.running).min(tenant.memory_left() / memory_bytes);
        // When so little is free those that run little come first.
        let first = shared.by_running.first().map_or(0, |(noted, _)| *noted);
        let few_below = room.kept.saturating_sub(1) / 2;
        let until_few = if room.kept == 0 { u64::MAX } else { (first + room.free).saturating_sub(few_below) };
        let bound = by_quota.min(until_few).min(u64::try_from(by_host).unwrap_or(u64::MAX));
        u32::try_from(bound).unwrap_or(u32::MAX).min(most).min(shape.count).max(1)
    }

    /// Chooses `count` tasks of a shape, for which there are places unless it is one. `false` when
    /// no host has a place.
    pub(in crate::dispatch) fn take(&mut self, slot: Slot, count: u32, kept: bool) -> bool {
        let shape = self.queue.shapes[slot as usize].as_ref().expect("a shape that is ordered is queued");
        let (lane, number, memory_bytes) = (shape.lane, shape.tenant, shape.memory_bytes);
        // Kept places are taken last.
        let free = self.roomiest(lane, false);
        let Some(kind) = free.or_else(|| self.roomiest(lane, true).filter(|_| kept)) else { return false };
        let room = &mut self.rooms[kind as usize];
        *(if free.is_some() { &mut room.free } else { &mut room.kept }) -= u64::from(count);
        room.memory_bytes = room.memory_bytes.saturating_sub(u128::from(memory_bytes) * u128::from(count));
        self.heads.took(kind, &self.rooms);
        if let Some(reach) = self.reach_of(lane, number) {
            let of = usize::from(free.is_none() || reach[0] == 0);
            reach[of] = reach[of].saturating_sub(1);
        }
        let next = self.chosen.len();
        let shape = self.queue.shapes[slot as usize].as_mut().expect("it was just there");
        match shape.chosen[usize::from(kept)] {
            Some(index) => self.chosen[index as usize].count += count,
            None => {
                shape.chosen[usize::from(kept)] = u32::try_from(next).ok();
                self.chosen.push(Chosen { shape: slot, count, kept });
            }
        }
        self.queue.take_first(slot, count, self.state);
        true
    }

    /// The kind of hosts with the most places among those that may serve a lane.
    pub(in crate::dispatch) fn roomiest(&self, lane: u32, kept: bool) -> Option<u32> {
        let kinds = &self.queue.lanes[lane as usize].as_ref()?.kinds;
        let places = |kind: u32| {
            let room = &self.rooms[kind as usize];
            let places = if kept { room.kept } else { room.free };
            if room.memory_bytes > 0 { places } else { 0 }
        };
        let roomiest = kinds.iter().copied().max_by_key(|&kind| (places(kind), std::cmp::Reverse(kind)))?;
        (places(roomiest) > 0).then_some(roomiest)
    }

    /// The first tenant of a lane that may take a place that is kept.
    pub(super) fn few_of(&mut self, lane: u32, (free, kept): Reach) -> Option<TenantOrder> {
        self.queue.note_running(lane);
        let (queue, shared) = (&*self.queue, self.queue.lanes[lane as usize].as_ref()?);
        if !shared.by_running.first().is_some_and(|(noted, _)| kept::may_take(noted + free, kept)) {
            return None;
        }
        let is_few = |number: TenantNumber| {
            let tenant = queue.tenants[number as usize].as_ref();
            tenant.filter(|tenant| kept::may_take(tenant.running + free, kept))
        };
        // Where many may take what is kept, the first of them is soon found in the order, and where
        // few may, among them.
        let soon = shared.order.iter().take(ORDER_LOOKED_AT_MAX).find(|order| is_few(order.tenant).is_some());
        if let Some(order) = soon {
            return Some(*order);
        }
        let few = shared.by_running.iter().take_while(|(noted, _)| kept::may_take(noted + free, kept));
        let entry = |&(_, number): &(u64, TenantNumber)| {
            let tenant = is_few(number)?;
            tenant.lanes[tenant.index_of(lane)].entry
        };
        few.take(FEW_LOOKED_AT_MAX).filter_map(entry).min()
    }
}

impl Queue {
    /// Notes of the tenants that run least in a lane what they run.
    pub(super) fn note_running(&mut self, lane: u32) {
        let Some(shared) = self.lanes[lane as usize].as_mut() else { return };
        while let Some(&(noted, number)) = shared.by_running.first() {
            let tenant = self.tenants[number as usize].as_mut().expect("who is in a lane is known");
            let (running, index) = (tenant.running, tenant.index_of(lane));
            if running <= noted {
                return;
            }
            shared.by_running.pop_first();
            shared.by_running.insert((running, number));
            tenant.lanes[index].noted_running = running;
        }
    }

    /// Lanes in which some tenant may start something.
    fn busy_lanes(&self) -> impl Iterator<Item = u32> {
        let busy = |lane: &Option<super::Lane>| lane.as_ref().is_some_and(|lane| !lane.order.is_empty());
        (0..).zip(&self.lanes).filter(move |(_, lane)| busy(lane)).map(|(number, _)| number)
    }

    /// The first tenant of a lane, where it stands now.
    pub(super) fn first_of(&mut self, lane: u32) -> Option<TenantOrder> {
        loop {
            let order = *self.lanes[lane as usize].as_ref()?.order.first()?;
            let tenant = self.tenants[order.tenant as usize].as_ref().expect("who is in a lane is known");
            if tenant.lanes.len() == 1 {
                return Some(order);
            }
            // Its starts in other lanes have moved it back.
            self.enter(order.tenant, lane);
            if self.lanes[lane as usize].as_ref()?.order.first() == Some(&order) {
                return Some(order);
            }
        }
    }

    /// Some tasks of a shape are chosen, those in front: the shape and its tenant stand where they
    /// will be when they have started.
    fn take_first(&mut self, slot: Slot, count: u32, state: &State) {
        let shape = self.shapes[slot as usize].as_mut().expect("a shape that is ordered is queued");
        assert!(shape.count >= count, "no more is chosen than there is");
        for _ in 0..count {
            let task = &state.tasks[shape.next];
            let next_queued_at = state.tasks.find(task.next).map(|next| next.queued_at);
            shape.since = since_without(shape.since, task.queued_at, next_queued_at.as_slice());
            shape.next = task.next;
        }
        shape.count -= count;
        shape.key.advance(count);
        let after = (shape.count > 0 && !shape.is_aside).then(|| shape.order_now(slot));
        let before = std::mem::replace(&mut shape.order, after);
        let tenant = self.tenants[shape.tenant as usize].as_mut().expect("a tenant with shapes is known");
        tenant.running += u64::from(count);
        tenant.memory_bytes = tenant.memory_bytes.saturating_add(shape.memory_bytes.saturating_mul(count.into()));
        tenant.key.advance(count);
        if before != after {
            let index = tenant.index_of(shape.lane);
            let own = &mut tenant.lanes[index];
            if let Some(before) = before {
                own.shapes.remove(&before);
            }
            own.shapes.extend(after);
        }
    }
}
