//! Hosts as dispatch counts them: by kind, with the room that each kind has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::{TenantName, Timestamp};

use crate::policy::{HostChange, HostRoom, Ref};
use crate::state::Labels;

/// Tasks that need less memory are all in one class, as a power of two.
pub(crate) const OCTAVE_MIN: u8 = 24;

/// Hosts by slot, and what has changed of them.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    hosts: Vec<FleetSlot>,
    vacant: Vec<u32>,
    touched: Vec<u32>,
    kinds: Vec<HostKind>,
    by_key: BTreeMap<KindKey, u32>,
    /// Whether a kind has appeared since somebody asked, or one has got more memory.
    is_larger: bool,
    /// Labels that some shape has required of hosts: what kinds are told apart by.
    required: BTreeSet<(String, String)>,
    /// How often those have changed.
    required_changes: u64,
    /// Which hosts carry a label.
    carriers: BTreeMap<(String, String), BTreeSet<u32>>,
    /// Hosts that take no more attempts of a tenant for now.
    sated: BTreeMap<TenantName, BTreeSet<u32>>,
    /// When a host changes without a word: it is silent for too long, or trusted again. At most one
    /// time for each host.
    due: BTreeSet<(Timestamp, u32)>,
}

/// One slot of the fleet: a host, or none.
#[derive(Debug, Default)]
struct FleetSlot {
    generation: u32,
    room: Option<HostRoom>,
    is_touched: bool,
    /// Something was placed there, or was to be, since policies were told of it.
    is_stale: bool,
    /// How often the labels that matter had changed when its kind was found.
    matched: u64,
    due: Option<Timestamp>,
}

/// Labels that matter, and the power of two of the memory.
type KindKey = (Labels, u8);

#[derive(Debug)]
struct HostKind {
    labels: Labels,
    octave: u8,
    /// The most memory that a host of it has had.
    memory_max: u64,
    room: KindRoom,
}

/// The room of all hosts of a kind, together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct KindRoom {
    /// Places for everybody.
    pub(crate) free: u64,
    /// Places for tenants that run nothing or little.
    pub(crate) kept: u64,
    /// Memory that hosts with a place may still promise.
    pub(crate) memory_bytes: u128,
}

impl KindRoom {
    fn of(room: &HostRoom) -> Self {
        if room.left(true) == 0 {
            return Self::default();
        }
        let memory_bytes = u128::from(room.memory_most - room.memory_promised);
        Self { free: room.free.into(), kept: room.kept.into(), memory_bytes }
    }

    fn add(&mut self, other: Self) {
        self.free += other.free;
        self.kept += other.kept;
        self.memory_bytes += other.memory_bytes;
    }

    fn subtract(&mut self, other: Self) {
        assert!(self.free >= other.free && self.kept >= other.kept, "a kind has what its hosts have");
        assert!(self.memory_bytes >= other.memory_bytes, "a kind has the memory of its hosts");
        self.free -= other.free;
        self.kept -= other.kept;
        self.memory_bytes -= other.memory_bytes;
    }
}

impl Fleet {
    /// A host has appeared. Returns its slot.
    pub(crate) fn appear(&mut self) -> u32 {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.hosts.push(FleetSlot::default());
            u32::try_from(self.hosts.len() - 1).expect("hosts are counted in 32 bits")
        });
        self.touch(slot);
        slot
    }

    /// Something about a host has changed that may matter.
    pub(crate) fn touch(&mut self, slot: u32) {
        let place = &mut self.hosts[slot as usize];
        if !std::mem::replace(&mut place.is_touched, true) {
            self.touched.push(slot);
        }
    }

    /// The present use of a slot.
    pub(crate) fn reference(&self, slot: u32) -> Ref {
        Ref { slot, generation: self.hosts[slot as usize].generation }
    }

    /// A host, if it is still the one that is meant.
    pub(crate) fn room(&self, host: Ref) -> Option<&HostRoom> {
        self.hosts.get(host.slot as usize).filter(|place| place.generation == host.generation)?.room.as_ref()
    }

    /// A policy has named a host: it is told how that is.
    pub(crate) fn name(&mut self, host: Ref) {
        if let Some(place) = self.hosts.get_mut(host.slot as usize) {
            place.is_stale = true;
            self.touch(host.slot);
        }
    }

    /// Attempts were placed on a host.
    pub(crate) fn take(&mut self, host: Ref, count: u32, memory_bytes: u64) {
        let room = self.hosts[host.slot as usize].room.as_mut().expect("a choice was checked");
        let before = KindRoom::of(room);
        room.take(count, memory_bytes);
        let (kind, after) = (&mut self.kinds[room.kind as usize].room, KindRoom::of(room));
        kind.subtract(before);
        kind.add(after);
    }

    /// The room of each kind.
    pub(crate) fn rooms(&self) -> Vec<KindRoom> {
        self.kinds.iter().map(|kind| kind.room).collect()
    }

    /// Whether a kind has appeared since the last call, or one has got a host with more memory.
    pub(crate) fn take_larger(&mut self) -> bool {
        std::mem::take(&mut self.is_larger)
    }

    /// The most memory of a host of these kinds.
    pub(crate) fn memory_max(&self, kinds: &[u32]) -> u64 {
        kinds.iter().map(|&kind| self.kinds[kind as usize].memory_max).max().unwrap_or_default()
    }

    /// Kinds with a host that may serve tasks with these labels and this class of memory.
    pub(crate) fn kinds_for(&self, require: &Labels, octave: u8) -> Arc<[u32]> {
        let carries = |kind: &HostKind| require.iter().all(|(label, value)| kind.labels.get(label) == Some(value));
        let is_large = |kind: &HostKind| octave == OCTAVE_MIN || kind.octave + 1 >= octave;
        (0..).zip(&self.kinds).filter(|(_, kind)| carries(kind) && is_large(kind)).map(|(number, _)| number).collect()
    }

    /// Whether some host takes no more attempts of some tenant.
    pub(crate) fn is_any_sated(&self) -> bool {
        !self.sated.is_empty()
    }

    /// Places on hosts of these kinds that are sated with a tenant: `None` when no host is.
    pub(crate) fn sated_room(&self, tenant: &TenantName, kinds: &[u32]) -> Option<KindRoom> {
        let mut sum = KindRoom::default();
        let rooms = self.sated.get(tenant)?.iter().filter_map(|&slot| self.hosts[slot as usize].room.as_ref());
        rooms.filter(|room| kinds.contains(&room.kind)).for_each(|room| sum.add(KindRoom::of(room)));
        Some(sum)
    }

    /// Some shape requires these labels: hosts that carry one of them are told apart by it. O(those
    /// hosts) when a label is required for the first time.
    pub(crate) fn require(&mut self, labels: &Labels) {
        for (label, value) in labels {
            let pair = (label.clone(), value.clone());
            if self.required.contains(&pair) {
                continue;
            }
            let carriers: Vec<u32> = self.carriers.get(&pair).into_iter().flatten().copied().collect();
            carriers.into_iter().for_each(|slot| self.touch(slot));
            self.required.insert(pair);
            self.required_changes += 1;
        }
    }

    /// No shape requires these labels any more. A label that no host carries is forgotten: anybody
    /// can think up labels.
    pub(crate) fn release(&mut self, labels: &Labels) {
        for (label, value) in labels {
            let pair = (label.clone(), value.clone());
            if !self.carriers.contains_key(&pair) {
                self.required_changes += u64::from(self.required.remove(&pair));
            }
        }
    }

    /// The time has come to look at these hosts again.
    pub(crate) fn touch_due(&mut self, now: Timestamp) {
        while let Some(&(at, slot)) = self.due.first()
            && at <= now
        {
            self.due.pop_first();
            self.hosts[slot as usize].due = None;
            self.touch(slot);
        }
    }

    /// Takes the hosts of which something may have changed.
    pub(crate) fn take_touched(&mut self) -> Vec<u32> {
        let touched = std::mem::take(&mut self.touched);
        touched.iter().for_each(|&slot| self.hosts[slot as usize].is_touched = false);
        touched
    }

    /// Takes in what a host has room for now, and when to look again. `None` when it is gone for
    /// good. Returns what has changed.
    pub(crate) fn set(&mut self, slot: u32, room: Option<HostRoom>, due: Option<Timestamp>) -> Option<HostChange> {
        let host = self.reference(slot);
        let room = room.map(|mut room| {
            room.kind = self.kind_in(slot, &room);
            room
        });
        self.set_due(slot, due);
        let is_stale = std::mem::take(&mut self.hosts[slot as usize].is_stale);
        if self.hosts[slot as usize].room == room {
            return is_stale.then_some(HostChange { host, room });
        }
        let before = std::mem::replace(&mut self.hosts[slot as usize].room, room.clone());
        if let Some(before) = &before {
            self.kinds[before.kind as usize].room.subtract(KindRoom::of(before));
        }
        if let Some(after) = &room {
            self.kinds[after.kind as usize].room.add(KindRoom::of(after));
        }
        self.index_labels(slot, before.as_ref(), room.as_ref());
        self.index_sated(slot, before.as_ref(), room.as_ref());
        if room.is_none() {
            let place = &mut self.hosts[slot as usize];
            place.generation += 1;
            self.vacant.push(slot);
        }
        Some(HostChange { host, room })
    }

    /// The hosts as a policy is told of them that was just seated.
    pub(crate) fn all(&self) -> Vec<HostChange> {
        let change = |(slot, place): (u32, &FleetSlot)| {
            place.room.clone().map(|room| HostChange { host: self.reference(slot), room: Some(room) })
        };
        (0..).zip(&self.hosts).filter_map(change).collect()
    }

    /// Asserts that the sums are those of the hosts.
    pub(crate) fn assert_consistent(&self) {
        let mut sums = vec![KindRoom::default(); self.kinds.len()];
        self.hosts
            .iter()
            .filter_map(|place| place.room.as_ref())
            .for_each(|room| sums[room.kind as usize].add(KindRoom::of(room)));
        let rooms = self.rooms();
        assert!(sums.iter().zip(&rooms).all(|(sum, room)| (sum.free, sum.kept) == (room.free, room.kept)));
        let dated = (0..).zip(&self.hosts).filter_map(|(slot, place)| Some((place.due?, slot)));
        assert_eq!(dated.collect::<BTreeSet<_>>(), self.due);
    }

    /// The kind of the host in a slot, which is that of before while nothing has changed that
    /// matters.
    fn kind_in(&mut self, slot: u32, room: &HostRoom) -> u32 {
        let place = &self.hosts[slot as usize];
        let is_alike = |before: &&HostRoom| (before.memory_bytes, &before.labels) == (room.memory_bytes, &room.labels);
        if place.matched == self.required_changes
            && let Some(before) = place.room.as_ref().filter(is_alike)
        {
            return before.kind;
        }
        self.hosts[slot as usize].matched = self.required_changes;
        self.kind(room)
    }

    fn kind(&mut self, room: &HostRoom) -> u32 {
        let is_required = |(label, value): &(&String, &String)| {
            !self.required.is_empty() && self.required.contains(&((*label).clone(), (*value).clone()))
        };
        let labels: Labels =
            room.labels.iter().filter(is_required).map(|(label, value)| (label.clone(), value.clone())).collect();
        let octave = u8::try_from(room.memory_bytes.max(1).ilog2()).expect("64 bits have 64 powers of two");
        let key = (labels, octave);
        let number = *self.by_key.entry(key).or_insert_with_key(|(labels, octave)| {
            self.kinds.push(HostKind {
                labels: labels.clone(),
                octave: *octave,
                memory_max: 0,
                room: KindRoom::default(),
            });
            u32::try_from(self.kinds.len() - 1).expect("kinds are counted in 32 bits")
        });
        let kind = &mut self.kinds[number as usize];
        self.is_larger |= room.memory_bytes > kind.memory_max || kind.memory_max == 0;
        kind.memory_max = kind.memory_max.max(room.memory_bytes).max(1);
        number
    }

    /// Keeps the earlier of two times: a host that is looked at too early is looked at again.
    fn set_due(&mut self, slot: u32, due: Option<Timestamp>) {
        let before = self.hosts[slot as usize].due;
        let is_early = |before: Timestamp| due.is_some_and(|due| before <= due);
        if before == due || before.is_some_and(is_early) {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, slot));
        }
        if let Some(due) = due {
            self.due.insert((due, slot));
        }
        self.hosts[slot as usize].due = due;
    }

    fn index_labels(&mut self, slot: u32, before: Option<&HostRoom>, after: Option<&HostRoom>) {
        if before.map(|room| &room.labels) == after.map(|room| &room.labels) {
            return;
        }
        let pairs = |room: &HostRoom| room.labels.iter().map(|(l, v)| (l.clone(), v.clone())).collect::<Vec<_>>();
        for pair in before.map(pairs).unwrap_or_default() {
            remove_from(&mut self.carriers, &pair, slot);
        }
        for pair in after.map(pairs).unwrap_or_default() {
            self.carriers.entry(pair).or_default().insert(slot);
        }
    }

    fn index_sated(&mut self, slot: u32, before: Option<&HostRoom>, after: Option<&HostRoom>) {
        if before.map(|room| &room.sated) == after.map(|room| &room.sated) {
            return;
        }
        for tenant in before.into_iter().flat_map(|room| room.sated.iter()) {
            remove_from(&mut self.sated, tenant, slot);
        }
        for tenant in after.into_iter().flat_map(|room| room.sated.iter()) {
            self.sated.entry(tenant.clone()).or_default().insert(slot);
        }
    }
}

fn remove_from<K: Ord>(index: &mut BTreeMap<K, BTreeSet<u32>>, key: &K, slot: u32) {
    if let Some(slots) = index.get_mut(key) {
        slots.remove(&slot);
        if slots.is_empty() {
            index.remove(key);
        }
    }
}
