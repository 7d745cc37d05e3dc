//! Queued tasks, in the order in which they are served.
//!
//! Shapes that need the same of a host share a *lane*. A lane orders the tenants that have a task
//! in it by their keys, and each tenant its shapes by theirs. A tenant that may start nothing,
//! because a quota is used up, is in no lane until that has changed: then exactly it comes back. So
//! to find what is next, and to put it back behind the others, costs O(log n) whatever waits
//! behind.
//!
//! Invariant: a tenant is in a lane, under [`TenantLane::entry`], or it has nothing there that may
//! start. The entry may be older than the tenant's key when the tenant has started something in
//! another lane since: then it is too far in front, and is found out there.

mod choose;
mod heads;
mod lanes;
mod overdue;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::{TenantName, Timestamp};

use super::fleet::Fleet;
use crate::policy::{Key, Ref, ShapeView, TenantView};
use crate::state::shapes::ShapeChange;
use crate::state::tenants::{TenantEntry, TenantNumber};
use crate::state::{Labels, Slot, State};

pub(super) use choose::{Choosing, Chosen};

/// Everything that is queued.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// By the shape's slot.
    shapes: Vec<Option<QueuedShape>>,
    generations: Vec<u32>,
    /// By number.
    tenants: Vec<Option<Box<QueuedTenant>>>,
    lanes: Vec<Option<Lane>>,
    by_need: BTreeMap<Need, u32>,
    vacant: Vec<u32>,
    /// Tenants to look at again.
    touched: Vec<TenantNumber>,
    /// Shapes to look at again, besides those that the state names.
    touched_shapes: Vec<Slot>,
    /// Shapes that found no place in this dispatch.
    aside: Vec<Slot>,
    /// Tenants that found none in some lane, and may in the next round.
    blocked: Vec<TenantNumber>,
    /// When each shape is overdue at the earliest, or was when somebody looked last.
    ages: BTreeSet<(Timestamp, Slot)>,
    /// Shapes that were overdue when somebody looked, by tenant.
    overdue: BTreeMap<TenantNumber, BTreeSet<(Timestamp, Slot)>>,
}

/// The needs of a lane: labels, and the power of two that no memory limit exceeds.
type Need = (Arc<Labels>, u8);

/// Shapes that need the same of a host.
#[derive(Debug)]
struct Lane {
    need: Need,
    /// Kinds of hosts that may serve it.
    kinds: Arc<[u32]>,
    /// A task that needs more memory than this fits on none of them.
    memory_max: u64,
    /// Tenants that may start something, the next one first.
    order: BTreeSet<TenantOrder>,
    /// The same tenants by what they run, those that run least in front. The noted number may be
    /// less than the tasks that run, and never more.
    by_running: BTreeSet<(u64, TenantNumber)>,
    shapes: u32,
}

/// Where a tenant stands in a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TenantOrder {
    class: i64,
    rank: u64,
    /// Since when its next task waits, and which shape that has.
    since: Timestamp,
    shape: Slot,
    tenant: TenantNumber,
}

/// Where a shape stands among those of its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ShapeOrder {
    class: i64,
    rank: u64,
    /// The priority, turned round: smaller goes first.
    urgency: i16,
    since: Timestamp,
    shape: Slot,
}

/// A tenant with something in the queue.
#[derive(Debug, Default)]
struct QueuedTenant {
    key: Key,
    running: u64,
    memory_bytes: u64,
    tasks_max: u64,
    memory_max: u64,
    /// It is removed, or has stored as much as it may.
    is_shut: bool,
    is_touched: bool,
    /// It had nothing in the queue when somebody looked last.
    is_new: bool,
    lanes: Vec<TenantLane>,
}

/// The shapes of a tenant in one lane.
#[derive(Debug, Default)]
struct TenantLane {
    lane: u32,
    shapes: BTreeSet<ShapeOrder>,
    /// Shapes in all, those included that were put aside.
    count: u32,
    entry: Option<TenantOrder>,
    /// Under which number it is among those that are ordered by what they run.
    noted_running: u64,
    /// Nothing of it can start before something about the tenant or the kinds of hosts changes.
    is_blocked: bool,
}

/// A shape with a task in the queue.
#[derive(Debug)]
struct QueuedShape {
    tenant: TenantNumber,
    lane: u32,
    priority: i8,
    memory_bytes: u64,
    key: Key,
    /// Tasks that are left.
    count: u32,
    /// The one that is next.
    next: Slot,
    since: Timestamp,
    /// Where it stands; `None` while it is put aside, or all of it is chosen.
    order: Option<ShapeOrder>,
    is_aside: bool,
    /// Under which time it is among the ages or the overdue.
    age: Timestamp,
    is_overdue: bool,
    /// Indices into what was chosen, of places for everybody and of those that are kept.
    chosen: [Option<u32>; 2],
}

/// The tenants and shapes that the policy is to be asked about.
#[derive(Debug, Default)]
pub(super) struct KeysWanted {
    /// Tenants that had nothing in the queue before.
    pub(super) new: Vec<TenantNumber>,
    /// Others of which something has changed.
    pub(super) changed: Vec<TenantNumber>,
    /// Shapes that have come or changed, each once.
    pub(super) shapes: Vec<Slot>,
}

impl Queue {
    /// Everything that waits in a state, to be found as if it had just come.
    pub(super) fn of(state: &State) -> Self {
        let touched_shapes = state.shapes.with_queued.iter().copied().collect();
        Self { touched_shapes, ..Self::default() }
    }

    /// Something about a tenant has changed.
    pub(super) fn touch_tenant(&mut self, number: TenantNumber) {
        if let Some(Some(tenant)) = self.tenants.get_mut(number as usize)
            && !std::mem::replace(&mut tenant.is_touched, true)
        {
            self.touched.push(number);
        }
    }

    /// A shape has changed: the queue learns it before the next round.
    pub(super) fn touch_shape(&mut self, shape: Slot) {
        self.touched_shapes.push(shape);
    }

    /// Everything is to be asked anew of a policy that has just been seated.
    pub(super) fn touch_all(&mut self) {
        for number in 0..self.tenants.len() {
            self.touch_tenant(TenantNumber::try_from(number).expect("tenants have numbers of 32 bits"));
        }
        let shapes = (0..).zip(&self.shapes).filter(|(_, shape)| shape.is_some());
        self.touched_shapes.extend(shapes.map(|(slot, _)| slot));
    }

    /// Takes in what has changed of shapes. Returns what the policy is to be asked about.
    pub(super) fn take_in(&mut self, state: &mut State, fleet: &mut Fleet, with_shapes: bool) -> KeysWanted {
        let mut asked = KeysWanted::default();
        for change in state.shapes.take_changes() {
            match change {
                ShapeChange::Queue(slot) => self.update(slot, state, fleet, &mut asked),
                ShapeChange::Gone(slot) => {
                    self.drop_shape(slot, fleet);
                    *self.generation_mut(slot) += 1;
                }
            }
        }
        for slot in std::mem::take(&mut self.touched_shapes) {
            self.update(slot, state, fleet, &mut asked);
        }
        if !with_shapes {
            asked.shapes.clear();
        }
        asked.shapes.sort_unstable();
        asked.shapes.dedup();
        for number in std::mem::take(&mut self.touched) {
            let Some(tenant) = self.tenants[number as usize].as_mut() else { continue };
            if std::mem::take(&mut tenant.is_touched) {
                let is_new = std::mem::take(&mut tenant.is_new);
                (if is_new { &mut asked.new } else { &mut asked.changed }).push(number);
            }
        }
        asked
    }

    /// Puts back what was set aside in the last dispatch.
    pub(super) fn put_back(&mut self) {
        for slot in std::mem::take(&mut self.aside) {
            if let Some(Some(shape)) = self.shapes.get_mut(slot as usize) {
                shape.is_aside = false;
                let number = shape.tenant;
                self.touched_shapes.push(slot);
                self.touch_tenant(number);
            }
        }
    }

    /// Tenants that found no place in the last round try again.
    pub(super) fn retry_blocked(&mut self) {
        for number in std::mem::take(&mut self.blocked) {
            self.touch_tenant(number);
        }
    }

    /// A shape found no place: it is left out until the next dispatch.
    pub(super) fn set_aside(&mut self, slot: Slot) {
        let Some(Some(shape)) = self.shapes.get_mut(slot as usize) else { return };
        if std::mem::replace(&mut shape.is_aside, true) {
            return;
        }
        let (number, lane, order) = (shape.tenant, shape.lane, shape.order.take());
        self.aside.push(slot);
        if let Some(order) = order {
            self.tenant_lane(number, lane).shapes.remove(&order);
            self.enter(number, lane);
        }
    }

    /// Kinds of hosts have appeared or got more memory: what fitted nowhere may fit. O(lanes +
    /// tenants).
    pub(super) fn match_lanes(&mut self, fleet: &Fleet) {
        for lane in self.lanes.iter_mut().flatten() {
            lane.kinds = fleet.kinds_for(&lane.need.0, lane.need.1);
            lane.memory_max = fleet.memory_max(&lane.kinds);
        }
        for number in (0..).take(self.tenants.len()) {
            self.unblock(number);
        }
    }

    fn unblock(&mut self, number: TenantNumber) {
        let lanes = self.tenants[number as usize].as_ref().map_or(0, |tenant| tenant.lanes.len());
        for index in 0..lanes {
            let own = &mut self.tenant_mut(number).lanes[index];
            own.is_blocked = false;
            let lane = own.lane;
            self.enter(number, lane);
        }
    }

    /// Takes in what is true of a tenant, and its key. Everything of it that was blocked is tried
    /// again.
    pub(super) fn set_tenant(&mut self, number: TenantNumber, entry: &TenantEntry, is_stored_out: bool, key: Key) {
        let Some(tenant) = self.tenants[number as usize].as_mut() else { return };
        (tenant.running, tenant.memory_bytes) = (entry.tasks_running, entry.memory_bytes);
        tenant.tasks_max = entry.quotas.tasks_running.unwrap_or(u64::MAX);
        tenant.memory_max = entry.quotas.memory_bytes.unwrap_or(u64::MAX);
        tenant.is_shut = entry.removed || is_stored_out;
        tenant.key = key;
        self.unblock(number);
    }

    /// Takes in the key of a shape.
    pub(super) fn set_shape_key(&mut self, slot: Slot, key: Key) {
        if let Some(Some(shape)) = self.shapes.get_mut(slot as usize) {
            shape.key = key;
            self.reorder(slot);
        }
    }

    /// The view that policies have of a shape.
    pub(super) fn view(&self, state: &State, slot: Slot) -> ShapeView {
        view(state, Ref { slot, generation: self.generations.get(slot as usize).copied().unwrap_or_default() })
    }

    /// Kinds of hosts that may serve a shape that is queued.
    pub(super) fn kinds_of(&self, slot: Slot) -> Arc<[u32]> {
        let shape = self.shapes[slot as usize].as_ref().expect("a shape that was chosen is queued");
        Arc::clone(&self.lanes[shape.lane as usize].as_ref().expect("a lane with shapes is there").kinds)
    }

    /// The tenant of a class that is next where a tenant has its tasks: what the virtual time of
    /// one that becomes active is measured by.
    pub(super) fn rival_of(&self, number: TenantNumber, class: i64) -> Option<TenantNumber> {
        let tenant = self.tenants.get(number as usize)?.as_ref()?;
        let from = TenantOrder { class, rank: 0, since: Timestamp(0), shape: 0, tenant: 0 };
        let first = |own: &TenantLane| self.lanes[own.lane as usize].as_ref()?.order.range(from..).next().copied();
        tenant.lanes.iter().filter_map(first).filter(|order| order.class == class).min().map(|order| order.tenant)
    }

    /// Whether a tenant has something in the queue.
    pub(super) fn has_tenant(&self, number: TenantNumber) -> bool {
        self.tenants.get(number as usize).is_some_and(Option::is_some)
    }

    /// Whether the slot of a shape still holds the one that is meant.
    pub(super) fn is_current(&self, shape: Ref) -> bool {
        self.generations.get(shape.slot as usize) == Some(&shape.generation)
    }

    /// Whether a task of this shape is in the queue.
    pub(super) fn has_shape(&self, slot: Slot) -> bool {
        self.shapes.get(slot as usize).is_some_and(Option::is_some)
    }

    fn update(&mut self, slot: Slot, state: &State, fleet: &mut Fleet, asked: &mut KeysWanted) {
        let Some(shape) = state.shapes.find(slot) else { return };
        let (queued, since) = (shape.queued, shape.since);
        if queued.count == 0 {
            self.drop_shape(slot, fleet);
            return;
        }
        if self.shapes.len() <= slot as usize {
            self.shapes.resize_with(slot as usize + 1, || None);
        }
        self.generation_mut(slot);
        match &mut self.shapes[slot as usize] {
            Some(known) => {
                (known.count, known.next, known.since) = (queued.count, queued.head, since);
                self.reorder(slot);
            }
            None => self.add_shape(slot, state, fleet),
        }
        asked.shapes.push(slot);
        self.age_at(slot, since);
    }

    fn add_shape(&mut self, slot: Slot, state: &State, fleet: &mut Fleet) {
        let shape = state.shapes.shape(slot);
        let (number, key) = (shape.key.tenant, &shape.key);
        let lane = self.lane(Arc::clone(&key.require), key.memory_bytes, fleet);
        self.shapes[slot as usize] = Some(QueuedShape {
            tenant: number,
            lane,
            priority: key.priority,
            memory_bytes: key.memory_bytes,
            key: Key::default(),
            count: shape.queued.count,
            next: shape.queued.head,
            since: shape.since,
            order: None,
            is_aside: false,
            age: Timestamp::MAX,
            is_overdue: false,
            chosen: [None; 2],
        });
        if self.tenants.len() <= number as usize {
            self.tenants.resize_with(number as usize + 1, || None);
        }
        // Until its key is known nothing of it starts.
        let tenant = self.tenants[number as usize]
            .get_or_insert_with(|| Box::new(QueuedTenant { is_shut: true, is_new: true, ..QueuedTenant::default() }));
        match tenant.lanes.iter_mut().find(|own| own.lane == lane) {
            Some(own) => own.count += 1,
            None => tenant.lanes.push(TenantLane { lane, count: 1, ..TenantLane::default() }),
        }
        self.touch_tenant(number);
        self.reorder(slot);
    }

    fn drop_shape(&mut self, slot: Slot, fleet: &mut Fleet) {
        let Some(shape) = self.shapes.get_mut(slot as usize).and_then(Option::take) else { return };
        self.forget_age(slot, &shape);
        let (number, lane) = (shape.tenant, shape.lane);
        let own = self.tenant_lane(number, lane);
        if let Some(order) = shape.order {
            own.shapes.remove(&order);
        }
        own.count -= 1;
        let is_last = own.count == 0;
        self.enter(number, lane);
        if is_last {
            let tenant = self.tenant_mut(number);
            tenant.lanes.retain(|own| own.lane != lane);
            if tenant.lanes.is_empty() {
                self.tenants[number as usize] = None;
            }
        }
        self.leave_lane(lane, fleet);
    }
}

/// The view that policies have of a shape with a task in the queue.
pub(crate) fn view(state: &State, id: Ref) -> ShapeView {
    let shape = state.shapes.shape(id.slot);
    let key = &shape.key;
    ShapeView {
        id,
        tenant_id: key.tenant,
        tenant: state.tenants.entry(key.tenant).name.clone(),
        priority: key.priority,
        module: key.module,
        memory_bytes: key.memory_bytes,
        require: Arc::clone(&key.require),
        queued: shape.queued.count,
        oldest: shape.since,
    }
}

/// The view that policies have of a tenant.
pub(super) fn tenant_view(number: TenantNumber, entry: &TenantEntry, time: u64, charge: u64) -> TenantView {
    TenantView {
        id: number,
        name: entry.name.clone(),
        weight: entry.weight.max(1),
        class: entry.class,
        running: entry.tasks_running,
        time,
        charge,
    }
}

/// Whether this tenant is among some that have stored as much as they may.
pub(super) fn is_stored_out(stored_out: &BTreeSet<TenantName>, entry: &TenantEntry) -> bool {
    !stored_out.is_empty() && stored_out.contains(&entry.name)
}
