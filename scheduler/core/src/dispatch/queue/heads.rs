//! Which of many lanes is next, while tasks are chosen.
//!
//! Lanes that can run on the same kinds of hosts have the same room: they are a group. A start
//! takes room of one kind and moves the first tenant of one lane, so only the groups of that kind
//! and that lane are looked at again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use wasmill_protocol::kept;

use super::choose::{Choosing, Reach};
use super::{Queue, TenantOrder};
use crate::dispatch::fleet::KindRoom;

/// Lanes with a tenant that may take what is kept are all looked at when they are no more than
/// these.
const FEW_LANES_MAX: usize = if cfg!(test) { 2 } else { 16 };
/// Else so many of a group are, the first ones.
const LANES_LOOKED_AT_MAX: usize = 64;
const _: () = assert!(FEW_LANES_MAX <= LANES_LOOKED_AT_MAX, "few lanes are no more than those of a group");

/// The first tenant of each lane. The note of a tenant that has started something in another lane
/// may be too far in front, as in the lane itself.
#[derive(Debug, Default)]
pub(super) struct Heads {
    /// By lane.
    noted: BTreeMap<u32, LaneNote>,
    groups: Vec<LaneGroup>,
    /// Groups by the kinds of hosts that they can run on.
    of_kind: BTreeMap<u32, Vec<usize>>,
    /// Of lanes that have a place for everybody.
    open: BTreeSet<(TenantOrder, u32)>,
    /// Of each group, the first tenant that may take a place that is kept, and its lane.
    few: BTreeSet<(TenantOrder, u32)>,
    /// Groups of which that is to be found out again.
    changed: Vec<usize>,
    /// Groups in which a tenant may be one that runs little.
    of_few: usize,
}

/// The note of a lane.
#[derive(Debug)]
struct LaneNote {
    group: usize,
    head: Option<TenantOrder>,
    /// The least that a tenant of it runs.
    least: Option<u64>,
    is_open: bool,
}

/// Lanes that can run on the same kinds of hosts.
#[derive(Debug, Default)]
struct LaneGroup {
    kinds: Vec<u32>,
    /// The places that are left on those.
    reach: Reach,
    heads: BTreeSet<(TenantOrder, u32)>,
    /// The lanes by the least that a tenant of them runs.
    least: BTreeSet<(u64, u32)>,
    few: Option<(TenantOrder, u32)>,
    is_changed: bool,
    /// Whether a tenant may be one that runs little.
    is_of_few: bool,
}

impl Heads {
    /// Of these lanes. O(lanes × kinds).
    pub(super) fn of(queue: &Queue, lanes: &[u32], rooms: &[KindRoom]) -> Self {
        let mut heads = Self::default();
        let mut by_kinds: BTreeMap<&[u32], usize> = BTreeMap::new();
        for &number in lanes {
            let Some(lane) = queue.lanes[number as usize].as_ref() else { continue };
            let next = heads.groups.len();
            let group = *by_kinds.entry(&lane.kinds).or_insert(next);
            if group == next {
                let kinds = lane.kinds.to_vec();
                kinds.iter().for_each(|&kind| heads.of_kind.entry(kind).or_default().push(group));
                heads.groups.push(LaneGroup { reach: reach(&kinds, rooms), kinds, ..LaneGroup::default() });
            }
            heads.noted.insert(number, LaneNote { group, head: None, least: None, is_open: true });
            heads.note(number, queue);
        }
        heads
    }

    /// Something was started or found out in a lane: its first tenant may be another one.
    pub(super) fn note(&mut self, lane: u32, queue: &Queue) {
        let (Some(noted), Some(now)) = (self.noted.get_mut(&lane), queue.lanes[lane as usize].as_ref()) else { return };
        let group = &mut self.groups[noted.group];
        let head = now.order.first().copied();
        let before = std::mem::replace(&mut noted.head, head);
        if before != head {
            if let Some(before) = before {
                group.heads.remove(&(before, lane));
                self.open.remove(&(before, lane));
            }
            group.heads.extend(head.map(|head| (head, lane)));
            self.open.extend(head.filter(|_| noted.is_open).map(|head| (head, lane)));
        }
        let least = now.by_running.first().map(|(running, _)| *running);
        let before = std::mem::replace(&mut noted.least, least);
        if before != least {
            if let Some(before) = before {
                group.least.remove(&(before, lane));
            }
            group.least.extend(least.map(|least| (least, lane)));
        }
        let group = noted.group;
        self.look_again(group);
    }

    /// Places of this kind of hosts were taken.
    pub(super) fn took(&mut self, kind: u32, rooms: &[KindRoom]) {
        for index in 0..self.of_kind.get(&kind).map_or(0, Vec::len) {
            let number = self.of_kind[&kind][index];
            let group = &mut self.groups[number];
            group.reach = reach(&group.kinds, rooms);
            self.look_again(number);
        }
    }

    /// A lane has no place for everybody any more.
    pub(super) fn close(&mut self, lane: u32) {
        if let Some(noted) = self.noted.get_mut(&lane) {
            noted.is_open = false;
            if let Some(head) = noted.head {
                self.open.remove(&(head, lane));
            }
        }
    }

    /// Whether a tenant may come before all others because it runs little.
    pub(super) fn may_few_come_first(&self) -> bool {
        self.of_few > 0
    }

    fn look_again(&mut self, number: usize) {
        let group = &mut self.groups[number];
        let is_of_few = group.least.first().is_some_and(|&(least, _)| group.is_few(least));
        self.of_few += usize::from(is_of_few);
        self.of_few -= usize::from(std::mem::replace(&mut group.is_of_few, is_of_few));
        if !std::mem::replace(&mut group.is_changed, true) {
            self.changed.push(number);
        }
    }
}

impl LaneGroup {
    /// Whether a tenant that runs so much may take a place that is kept. The tenant counts as if it
    /// had all free places already.
    fn is_few(&self, running: u64) -> bool {
        let (free, kept) = self.reach;
        kept::may_take(running.saturating_add(free), kept)
    }
}

impl Choosing<'_> {
    /// The tenant that is next in the lanes that are open, in which of them, and one that comes
    /// after it.
    pub(super) fn first(&mut self) -> Option<(u32, TenantOrder, Option<TenantOrder>)> {
        loop {
            let &(order, lane) = self.heads.open.first()?;
            if self.queue.first_of(lane) == Some(order) {
                let second = self.queue.lanes[lane as usize].as_ref()?.order.iter().nth(1).copied();
                let other = self.heads.open.iter().nth(1).map(|(order, _)| *order);
                return Some((lane, order, [second, other].into_iter().flatten().min()));
            }
            self.heads.note(lane, self.queue);
        }
    }

    /// The first tenant that may take a place that is kept: one that runs nothing, or little.
    pub(super) fn first_of_few(&mut self) -> Option<(u32, TenantOrder)> {
        loop {
            while let Some(group) = self.heads.changed.pop() {
                if self.heads.groups[group].is_changed {
                    self.find_few(group);
                }
            }
            let &(order, lane) = self.heads.few.first()?;
            if self.queue.tenant_mut(order.tenant).lanes.len() == 1 {
                return Some((lane, order));
            }
            // Its starts in other lanes may have moved it back, or made it run too much.
            self.queue.enter(order.tenant, lane);
            self.heads.note(lane, self.queue);
            let group = self.heads.noted[&lane].group;
            self.find_few(group);
            if self.heads.groups[group].few == Some((order, lane)) {
                return Some((lane, order));
            }
        }
    }

    fn find_few(&mut self, number: usize) {
        let few = self.few_of_group(number);
        let group = &mut self.heads.groups[number];
        group.is_changed = false;
        let before = std::mem::replace(&mut group.few, few);
        if before != few {
            if let Some(before) = before {
                self.heads.few.remove(&before);
            }
            self.heads.few.extend(few);
        }
    }

    fn few_of_group(&mut self, number: usize) -> Option<(TenantOrder, u32)> {
        loop {
            let &(least, lane) = self.heads.groups[number].least.first()?;
            if !self.heads.groups[number].is_few(least) {
                return None;
            }
            // The noted number may be less than the tasks that run.
            self.queue.note_running(lane);
            self.heads.note(lane, self.queue);
            if self.heads.noted[&lane].least == Some(least) {
                break;
            }
        }
        let group = &self.heads.groups[number];
        let reach = group.reach;
        let of_few = group.least.iter().take_while(|(least, _)| group.is_few(*least)).map(|(_, lane)| *lane);
        let lanes: Vec<u32> = of_few.take(FEW_LANES_MAX + 1).collect();
        if lanes.len() <= FEW_LANES_MAX {
            let few = lanes.into_iter().filter_map(|lane| Some((self.few_of(lane, reach)?, lane)));
            return few.min();
        }
        let (mut best, mut from) = (None::<(TenantOrder, u32)>, Bound::Unbounded);
        for _ in 0..LANES_LOOKED_AT_MAX {
            let next = self.heads.groups[number].heads.range((from, Bound::Unbounded)).next().copied();
            let Some((head, lane)) = next.filter(|(head, _)| best.is_none_or(|(best, _)| *head <= best)) else { break };
            let few = self.few_of(lane, reach).map(|order| (order, lane));
            best = best.into_iter().chain(few).min();
            from = Bound::Excluded((head, lane));
        }
        best
    }
}

/// The places that are left on these kinds of hosts.
pub(super) fn reach(kinds: &[u32], rooms: &[KindRoom]) -> Reach {
    let rooms = kinds.iter().map(|&kind| rooms[kind as usize]).filter(|room| room.memory_bytes > 0);
    rooms.fold((0, 0), |(free, kept), room| (free + room.free, kept + room.kept))
}
