//! The same decisions by looking at everything: no index, every rule written out. The starts of a
//! round, their order and their hosts must be the same.

mod story;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::{TenantName, Timestamp, kept};

use super::fleet::OCTAVE_MIN;
use crate::leader::Core;
use crate::policy::{HostRoom, Ref, fits};
use crate::state::tenants::TenantNumber;
use crate::state::{Labels, Slot, State};

/// The key of a tenant: class, rank, age and shape of its next task, its number.
type TenantKey = (i64, u64, Timestamp, Slot, TenantNumber);
/// Labels and the power of two of the memory.
type Need = (Arc<Labels>, u8);

/// A shape as the model sees it while it chooses.
struct Shape {
    slot: Slot,
    tenant: TenantNumber,
    need: Need,
    memory_bytes: u64,
    urgency: i16,
    /// When each of its tasks became queued, the first in front.
    queued_at: Vec<Timestamp>,
    since: Timestamp,
}

struct Tenant {
    name: TenantName,
    class: i64,
    time: u64,
    charge: u64,
    running: u64,
    memory_bytes: u64,
    tasks_max: u64,
    memory_max: u64,
    is_shut: bool,
}

/// Places and memory of hosts that are alike.
#[derive(Default, Clone, Copy)]
struct Room {
    places: [u64; 2],
    memory_bytes: u128,
}

struct Model {
    by_age: bool,
    shapes: Vec<Shape>,
    tenants: BTreeMap<TenantNumber, Tenant>,
    hosts: Vec<(u32, HostRoom)>,
    /// By the labels that matter and the power of two of the memory.
    rooms: BTreeMap<u32, Room>,
    /// The most memory that a host has had that may serve these needs.
    memory_max: BTreeMap<Need, u64>,
    /// Tenants that can take nothing more in a lane, in places for everybody or in those that are
    /// kept.
    blocked: BTreeSet<(TenantNumber, Need)>,
    reach: BTreeMap<(TenantNumber, Need), [u64; 2]>,
}

impl Model {
    fn of(core: &Core, by_age: bool, aside: &BTreeSet<Slot>) -> Self {
        let (state, shares) = (&core.state, &core.dispatch.shares);
        let tenants = state.tenants.entries().map(|(number, entry)| {
            let tenant = Tenant {
                name: entry.name.clone(),
                class: -i64::from(entry.class),
                time: shares.time(number),
                charge: shares.charge(number, entry.weight).time(),
                running: entry.tasks_running,
                memory_bytes: entry.memory_bytes,
                tasks_max: entry.quotas.tasks_running.unwrap_or(u64::MAX),
                memory_max: entry.quotas.memory_bytes.unwrap_or(u64::MAX),
                is_shut: entry.removed || core.stored_out.contains(&entry.name),
            };
            (number, tenant)
        });
        let is_there = |slot: &Slot| state.shapes.shape(*slot).queued.count > 0 && !aside.contains(slot);
        let shapes = state.shapes.slots().filter(is_there).map(|slot| shape(state, slot)).collect();
        let hosts: Vec<_> = core.hosts.values().map(|host| (host.slot, host.room(core.now, &core.config))).collect();
        let mut model = Self {
            by_age,
            shapes,
            tenants: tenants.collect(),
            hosts,
            rooms: BTreeMap::new(),
            memory_max: BTreeMap::new(),
            blocked: BTreeSet::new(),
            reach: BTreeMap::new(),
        };
        model.assert_promised(core);
        let fleet = &core.dispatch.fleet;
        for shape in &model.shapes {
            let most = fleet.memory_max(&fleet.kinds_for(&shape.need.0, shape.need.1));
            model.memory_max.insert(shape.need.clone(), most);
        }
        // Which hosts are of one kind is the index's to say; that each can do the same is checked
        // when they are matched.
        for (slot, room) in &mut model.hosts {
            let reference = core.dispatch.fleet.reference(*slot);
            room.kind = core.dispatch.fleet.room(reference).expect("a known host").kind;
            let sum = model.rooms.entry(room.kind).or_default();
            if room.left(true) > 0 {
                sum.places = [sum.places[0] + u64::from(room.free), sum.places[1] + u64::from(room.kept)];
                sum.memory_bytes += u128::from(room.memory_most - room.memory_promised);
            }
        }
        model
    }

    /// A host has promised what the log has placed there, and no less than it said that it holds.
    fn assert_promised(&self, core: &Core) {
        for (slot, room) in &self.hosts {
            let host = core.hosts.values().find(|host| host.slot == *slot).expect("a known host");
            let placed = core.state.placements.of(host.id(), host.incarnation());
            let limit = |task: Slot| core.state.shapes.shape(core.state.tasks[task].shape).key.memory_bytes;
            let promised: u64 = placed.slots(&core.state.tasks).map(limit).sum();
            assert!(room.memory_promised >= promised, "{} has promised {promised} bytes", room.id);
            assert_eq!(room.memory_promised, promised + host.memory_beyond(), "{}", room.id);
        }
    }

    fn kinds(&self, need: &Need) -> BTreeSet<u32> {
        let may = |room: &HostRoom| {
            let carries = need.0.iter().all(|(label, value)| room.labels.get(label) == Some(value));
            carries && (need.1 == OCTAVE_MIN || room.memory_bytes.max(1).ilog2() + 1 >= need.1.into())
        };
        let (those, others): (Vec<_>, Vec<_>) = self.hosts.iter().partition(|(_, room)| may(room));
        let kinds: BTreeSet<u32> = those.iter().map(|(_, room)| room.kind).collect();
        assert!(others.iter().all(|(_, room)| !kinds.contains(&room.kind)), "a kind can do the same");
        kinds
    }

    fn roomiest(&self, need: &Need, kept: usize) -> Option<u32> {
        let places = |kind: u32| {
            let room = self.rooms[&kind];
            if room.memory_bytes > 0 { room.places[kept] } else { 0 }
        };
        let best = self.kinds(need).into_iter().max_by_key(|&kind| (places(kind), std::cmp::Reverse(kind)))?;
        (places(best) > 0).then_some(best)
    }

    /// Places that are left for a tenant when some hosts are sated with it; `None` when none is.
    fn reach(&mut self, tenant: TenantNumber, need: &Need) -> Option<[u64; 2]> {
        let name = &self.tenants[&tenant].name;
        if !self.hosts.iter().any(|(_, room)| room.sated.contains(name)) {
            return None;
        }
        let kinds = self.kinds(need);
        let mut left = [0, 0];
        for kind in &kinds {
            let places = self.rooms[kind].places;
            left = [left[0] + places[0], left[1] + places[1]];
        }
        for (_, room) in self.hosts.iter().filter(|(_, room)| kinds.contains(&room.kind) && room.left(true) > 0) {
            if room.sated.contains(name) {
                left = [left[0].saturating_sub(room.free.into()), left[1].saturating_sub(room.kept.into())];
            }
        }
        Some(*self.reach.entry((tenant, need.clone())).or_insert(left))
    }

    /// Where a tenant stands among those with the same needs, and which of its shapes is next
    /// there.
    fn stand(&self, number: TenantNumber, need: &Need) -> Option<(TenantKey, Option<usize>)> {
        let tenant = &self.tenants[&number];
        let left = tenant.memory_max.saturating_sub(tenant.memory_bytes);
        let least = if need.1 == OCTAVE_MIN { 0 } else { (1u64 << (need.1 - 1)) + 1 };
        let is_held = tenant.is_shut || tenant.running >= tenant.tasks_max || left < least;
        if is_held || self.blocked.contains(&(number, need.clone())) {
            return None;
        }
        let mut own: Vec<usize> = (0..self.shapes.len())
            .filter(|&index| {
                let shape = &self.shapes[index];
                shape.tenant == number && shape.need == *need && !shape.queued_at.is_empty()
            })
            .collect();
        own.sort_by_key(|&index| (self.shapes[index].urgency, self.shapes[index].since, self.shapes[index].slot));
        let first = &self.shapes[*own.first()?];
        let rank = if self.by_age { first.since.0 } else { tenant.time };
        // A shape that no host has the memory for is passed over.
        let most = self.memory_max[need].min(left);
        let next = own.iter().copied().find(|&index| self.shapes[index].memory_bytes <= most);
        Some(((tenant.class, rank, first.since, first.slot, number), next))
    }

    /// The next tasks, place by place: the shape, how many of its tasks, and whether they may take
    /// places that are kept.
    fn choose(&mut self, mut left: u32) -> Vec<(Slot, u32, bool)> {
        let mut chosen: Vec<(Slot, u32, bool)> = Vec::new();
        while left > 0
            && let Some((index, kept)) = self.next()
        {
            let slot = self.shapes[index].slot;
            self.take(index, kept);
            left -= 1;
            match chosen.iter_mut().find(|(same, _, same_kept)| (*same, *same_kept) == (slot, kept)) {
                Some((_, count, _)) => *count += 1,
                None => chosen.push((slot, 1, kept)),
            }
        }
        chosen
    }

    fn next(&mut self) -> Option<(usize, bool)> {
        loop {
            let (best, kept) = match self.first(true) {
                Some(best) => (best, true),
                None => (self.first(false)?, false),
            };
            let ((.., number), next, need) = best;
            let is_reached =
                self.reach(number, &need).is_none_or(|[free, of_few]| free + if kept { of_few } else { 0 } > 0);
            match next.filter(|_| is_reached) {
                Some(next) => return Some((next, kept)),
                None => drop(self.blocked.insert((number, need))),
            }
        }
    }

    /// The first tenant, of all or of those that may take places that are kept.
    fn first(&self, few: bool) -> Option<(TenantKey, Option<usize>, Need)> {
        let needs: BTreeSet<Need> = self.shapes.iter().map(|shape| shape.need.clone()).collect();
        let mut best: Option<(TenantKey, Option<usize>, Need)> = None;
        for need in needs {
            let rooms: Vec<Room> = self.kinds(&need).iter().map(|kind| self.rooms[kind]).collect();
            let rooms = rooms.iter().filter(|room| room.memory_bytes > 0);
            let [free, kept] = rooms.fold([0, 0], |sum, room| [sum[0] + room.places[0], sum[1] + room.places[1]]);
            for (&number, tenant) in &self.tenants {
                let may_take = if few { kept::may_take(tenant.running + free, kept) } else { free > 0 };
                let Some((key, next)) = self.stand(number, &need).filter(|_| may_take) else { continue };
                if best.as_ref().is_none_or(|(before, ..)| key < *before) {
                    best = Some((key, next, need.clone()));
                }
            }
        }
        best
    }

    fn take(&mut self, index: usize, kept: bool) {
        let need = self.shapes[index].need.clone();
        let free = self.roomiest(&need, 0);
        let kind = free.or_else(|| self.roomiest(&need, 1).filter(|_| kept)).expect("there was a place");
        self.reach(self.shapes[index].tenant, &need);
        let shape = &mut self.shapes[index];
        let room = self.rooms.get_mut(&kind).unwrap();
        room.places[usize::from(free.is_none())] -= 1;
        room.memory_bytes = room.memory_bytes.saturating_sub(shape.memory_bytes.into());
        if let Some(reach) = self.reach.get_mut(&(shape.tenant, need)) {
            let of = usize::from(free.is_none() || reach[0] == 0);
            reach[of] = reach[of].saturating_sub(1);
        }
        let first = shape.queued_at.remove(0);
        let next = shape.queued_at.first().copied().unwrap_or(Timestamp::MAX);
        shape.since = if first > shape.since { shape.since.min(next) } else { next };
        let tenant = self.tenants.get_mut(&shape.tenant).unwrap();
        tenant.running += 1;
        tenant.memory_bytes += shape.memory_bytes;
        tenant.time += tenant.charge;
    }

    /// Where the tasks go, one after the other: to the host of which the least is in use.
    fn place(&mut self, core: &Core, chosen: &[(Slot, u32, bool)]) -> Vec<(Slot, u32, u32)> {
        let mut placed = Vec::new();
        for &(slot, count, kept) in chosen {
            let shape = super::view(&core.state, Ref { slot, generation: 0 });
            let first = placed.len();
            for _ in 0..count {
                let open = self.hosts.iter_mut().filter(|(_, room)| fits(&shape, room, kept).is_ok());
                let Some((host, room)) = open.min_by_key(|(host, room)| (room.load(), *host)) else { break };
                room.take(1, shape.memory_bytes);
                match placed[first..].iter_mut().find(|(_, same, _)| same == host) {
                    Some((_, _, count)) => *count += 1,
                    None => placed.push((slot, *host, 1)),
                }
            }
        }
        placed
    }
}

fn shape(state: &State, slot: Slot) -> Shape {
    let shape = state.shapes.shape(slot);
    let memory_bytes = shape.key.memory_bytes;
    let octave = (OCTAVE_MIN..64).find(|octave| memory_bytes <= 1 << octave).unwrap();
    Shape {
        slot,
        tenant: shape.key.tenant,
        need: (Arc::clone(&shape.key.require), octave),
        memory_bytes,
        urgency: -i16::from(shape.key.priority),
        queued_at: shape.queued.slots(&state.tasks).map(|task| state.tasks[task].queued_at).collect(),
        since: shape.since,
    }
}
