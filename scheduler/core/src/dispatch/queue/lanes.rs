//! Lanes: who stands where, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::Timestamp;

use super::{Lane, Queue, QueuedShape, QueuedTenant, ShapeOrder, TenantLane, TenantOrder};
use crate::dispatch::fleet::{Fleet, OCTAVE_MIN};
use crate::policy::Stride;
use crate::state::tenants::TenantNumber;
use crate::state::{Labels, Slot};

impl Queue {
    /// The lane of what needs this of a host, with one shape more.
    pub(super) fn lane(&mut self, require: Arc<Labels>, memory_bytes: u64, fleet: &mut Fleet) -> u32 {
        let bits = u64::BITS - (memory_bytes.max(1) - 1).leading_zeros();
        let octave = u8::try_from(bits).expect("64 bits have 64 powers of two").max(OCTAVE_MIN);
        let need = (require, octave);
        if let Some(&lane) = self.by_need.get(&need) {
            self.lane_mut(lane).shapes += 1;
            return lane;
        }
        fleet.require(&need.0);
        let kinds = fleet.kinds_for(&need.0, octave);
        let (order, by_running) = (BTreeSet::new(), BTreeSet::new());
        let memory_max = fleet.memory_max(&kinds);
        let lane = Lane { need: need.clone(), kinds, memory_max, order, by_running, shapes: 1 };
        let number = match self.vacant.pop() {
            Some(number) => {
                self.lanes[number as usize] = Some(lane);
                number
            }
            None => {
                self.lanes.push(Some(lane));
                u32::try_from(self.lanes.len() - 1).expect("lanes are fewer than shapes")
            }
        };
        self.by_need.insert(need, number);
        number
    }

    /// One shape less. A lane of what anybody can run stays: it comes back.
    pub(super) fn leave_lane(&mut self, number: u32, fleet: &mut Fleet) {
        let lane = self.lane_mut(number);
        assert!(lane.shapes > 0, "a shape leaves the lane that it is in");
        lane.shapes -= 1;
        if lane.shapes > 0 || lane.need.0.is_empty() {
            return;
        }
        let lane = self.lanes[number as usize].take().expect("it was just there");
        assert!(lane.order.is_empty() && lane.by_running.is_empty(), "a lane without shapes is empty");
        let indexed = self.by_need.remove(&lane.need);
        assert!(indexed == Some(number), "the index of needs points at the lane");
        self.vacant.push(number);
        fleet.release(&lane.need.0);
    }

    /// Puts a shape where its key says, and its tenant where that says.
    pub(super) fn reorder(&mut self, slot: Slot) {
        let shape = self.shapes[slot as usize].as_mut().expect("a shape that is ordered is queued");
        if shape.is_aside {
            return;
        }
        let after = shape.order_now(slot);
        let before = shape.order.replace(after);
        if before == Some(after) {
            return;
        }
        let (number, lane) = (shape.tenant, shape.lane);
        let own = self.tenant_lane(number, lane);
        if let Some(before) = before {
            let removed = own.shapes.remove(&before);
            assert!(removed, "a shape is in its lane where it says");
        }
        own.shapes.insert(after);
        self.enter(number, lane);
    }

    /// Puts a tenant into a lane where it belongs, or takes it out.
    pub(super) fn enter(&mut self, number: TenantNumber, lane: u32) {
        let tenant = self.tenants[number as usize].as_mut().expect("a tenant with shapes is known");
        let index = tenant.index_of(lane);
        let shared = self.lanes[lane as usize].as_mut().expect("a lane with shapes is there");
        let after = tenant.order_now(number, &tenant.lanes[index], shared);
        let running = tenant.running;
        let own = &mut tenant.lanes[index];
        let before = std::mem::replace(&mut own.entry, after);
        if before != after {
            if let Some(before) = before {
                let removed = shared.order.remove(&before);
                assert!(removed, "a tenant is in a lane where it says");
            }
            shared.order.extend(after);
        }
        // An attempt usually ends before another one starts: only a tenant that runs less than is
        // noted is noted anew.
        if before.is_some() && (after.is_none() || running < own.noted_running) {
            shared.by_running.remove(&(own.noted_running, number));
        }
        if after.is_some() && (before.is_none() || running < own.noted_running) {
            own.noted_running = running;
            shared.by_running.insert((running, number));
        }
    }

    pub(super) fn tenant_mut(&mut self, number: TenantNumber) -> &mut QueuedTenant {
        self.tenants[number as usize].as_mut().expect("a tenant with shapes is known")
    }

    pub(super) fn tenant_lane(&mut self, number: TenantNumber, lane: u32) -> &mut TenantLane {
        let tenant = self.tenant_mut(number);
        let index = tenant.index_of(lane);
        &mut tenant.lanes[index]
    }

    pub(super) fn lane_mut(&mut self, number: u32) -> &mut Lane {
        self.lanes[number as usize].as_mut().expect("a lane with shapes is there")
    }

    pub(super) fn generation_mut(&mut self, slot: Slot) -> &mut u32 {
        if self.generations.len() <= slot as usize {
            self.generations.resize(slot as usize + 1, 0);
        }
        &mut self.generations[slot as usize]
    }

    /// Asserts that the sets say the same as the entries. O(n log n).
    pub(in crate::dispatch) fn assert_consistent(&self) {
        let (mut orders, mut aged) = (BTreeMap::<u32, BTreeSet<TenantOrder>>::new(), 0);
        for tenant in self.tenants.iter().flatten() {
            for own in &tenant.lanes {
                orders.entry(own.lane).or_default().extend(own.entry);
                let of_lane = |shape: &&QueuedShape| shape.lane == own.lane;
                let shapes = own.shapes.iter().filter_map(|order| self.shapes[order.shape as usize].as_ref());
                assert_eq!(shapes.filter(of_lane).count(), own.shapes.len(), "a shape is in its own lane");
            }
        }
        for (slot, shape) in (0..).zip(&self.shapes) {
            let Some(shape) = shape else { continue };
            let tenant = self.tenants[shape.tenant as usize].as_ref().expect("a tenant with shapes is known");
            let own = &tenant.lanes[tenant.index_of(shape.lane)];
            assert!(shape.order.is_none_or(|order| order.shape == slot && own.shapes.contains(&order)));
            aged += usize::from(shape.age != Timestamp::MAX);
        }
        assert_eq!(aged, self.ages.len() + self.overdue.values().map(BTreeSet::len).sum::<usize>());
        for (number, lane) in (0..).zip(&self.lanes) {
            let Some(lane) = lane else { continue };
            assert_eq!(lane.order, orders.remove(&number).unwrap_or_default(), "tenants are where they say");
            let of_order: BTreeSet<TenantNumber> = lane.order.iter().map(|order| order.tenant).collect();
            let of_running: BTreeSet<TenantNumber> = lane.by_running.iter().map(|(_, tenant)| *tenant).collect();
            assert!(of_order == of_running && lane.by_running.len() == lane.order.len());
            let is_low = |(noted, tenant): &(u64, TenantNumber)| {
                self.tenants[*tenant as usize].as_ref().is_some_and(|tenant| *noted <= tenant.running)
            };
            assert!(lane.by_running.iter().all(is_low), "a tenant that runs little is found");
        }
    }
}

impl QueuedTenant {
    pub(super) fn index_of(&self, lane: u32) -> usize {
        self.lanes.iter().position(|own| own.lane == lane).expect("a tenant knows the lanes that it is in")
    }

    /// Whether a quota or the like keeps everything of it from starting.
    pub(super) fn is_held(&self) -> bool {
        self.is_shut || self.running >= self.tasks_max
    }

    pub(super) fn memory_left(&self) -> u64 {
        self.memory_max.saturating_sub(self.memory_bytes)
    }

    /// Where it belongs in a lane; nowhere when it may start nothing there.
    pub(super) fn order_now(&self, number: TenantNumber, own: &TenantLane, lane: &Lane) -> Option<TenantOrder> {
        if self.is_held() || own.is_blocked || self.memory_left() < lane.memory_min() {
            return None;
        }
        let first = own.shapes.first()?;
        let rank = match self.key.stride {
            Stride::By(_) => self.key.rank,
            Stride::Oldest => first.since.0,
        };
        Some(TenantOrder { class: self.key.class, rank, since: first.since, shape: first.shape, tenant: number })
    }
}

impl QueuedShape {
    pub(super) fn order_now(&self, slot: Slot) -> ShapeOrder {
        let rank = match self.key.stride {
            Stride::By(_) => self.key.rank,
            Stride::Oldest => self.since.0,
        };
        let urgency = -i16::from(self.priority);
        ShapeOrder { class: self.key.class, rank, urgency, since: self.since, shape: slot }
    }
}

impl Lane {
    /// No shape of it needs less memory.
    pub(super) fn memory_min(&self) -> u64 {
        if self.need.1 == OCTAVE_MIN { 0 } else { (1u64 << (self.need.1 - 1)) + 1 }
    }
}
