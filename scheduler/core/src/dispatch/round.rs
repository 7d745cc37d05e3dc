//! One dispatch: what has changed is taken in, what is next is chosen, the policy places it, and
//! what is right of its answer starts.
//!
//! No wait is endless: a task that has waited for
//! [`CoreConfig::longest_wait_ms`](crate::CoreConfig::longest_wait_ms) is overdue, and for every
//! [`GUARD_EVERY`] attempts that the policy starts one more is started for a task that is overdue,
//! whatever its priority and the class of its tenant. Tenants take turns at that, so that one whose
//! own flood is overdue does not keep the others from it. No tenant takes all places: the last ones
//! of each host are kept for tenants that run nothing or little ([`kept`](wasmill_protocol::kept)).

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::{AttemptId, Nonce, TenantName, Timestamp};
use wasmill_record::event::EventBody;

use super::Dispatch;
use super::answers::{UNCHANGED, set_keys};
use super::queue::{Choosing, Chosen, KeysWanted, tenant_view};
use super::seats::Placing;
use crate::leader::{Core, Flight};
use crate::policy::{Choice, HostChange, Order, Place, Ref, ShapeView, Wanted, fits};
use crate::state::tenants::{TenantEntry, TenantNumber};
use crate::state::{EventSlots, Slot};

/// For so many attempts of the policy, one goes to a task that is overdue.
const GUARD_EVERY: u32 = 8;

/// How a round went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    /// Attempts that were started.
    pub(super) started: u32,
    /// Something was set aside, so that the next round finds what was behind it.
    pub(super) moved_on: bool,
    /// A policy is asked: the next round is held when it has answered.
    pub(super) is_asked: bool,
}

/// The effect of an answer, in tasks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Started {
    pub(super) started: u32,
    /// It never fitted.
    pub(super) wrong: u64,
    /// It has not fitted any more.
    pub(super) stale: u64,
}

impl Core {
    /// Lets another policy order from the next round on, unless the log says that it is benched.
    pub fn seat_order(&mut self, policy: Box<dyn Order>) {
        self.dispatch.seat_order(policy, &self.state);
    }

    /// Lets another policy place from the next round on, unless the log says that it is benched.
    pub fn seat_place(&mut self, policy: Box<dyn Place>) {
        self.dispatch.seat_place(policy, &self.state);
    }

    /// Lets what is in a tenant's queue wait, or start again.
    pub(crate) fn note_stored(&mut self, tenant: TenantName, used_up: bool) {
        let number = self.state.tenants.number(&tenant);
        let changed = if used_up { self.stored_out.insert(tenant) } else { self.stored_out.remove(&tenant) };
        if changed {
            number.into_iter().for_each(|number| self.dispatch.touch_tenant(number));
            self.dispatch.wake();
        }
    }

    /// One round of up to `budget` attempts.
    pub(super) fn round(&mut self, budget: u32) -> Round {
        self.dispatch.queue.retry_blocked();
        self.take_in_queue();
        self.take_in_hosts();
        let (free, kept) = self.places();
        let capacity = free.saturating_add(kept).min(budget);
        if capacity == 0 || self.state.depth.queued == 0 {
            return Round::default();
        }
        let guarded = self.start_overdue(free.min(budget));
        let Dispatch { queue, fleet, .. } = &mut self.dispatch;
        let chosen = Choosing::new(queue, &self.state, fleet).choose(capacity - guarded);
        let wanted = self.wanted(&chosen);
        if wanted.is_empty() {
            return Round { started: guarded, ..Round::default() };
        }
        let placing = self.dispatch.place.place(self.now, &wanted, &mut self.tally);
        self.conclude(placing, wanted, guarded)
    }

    /// Starts what a policy has placed, beside `guarded` attempts of the guard: its answer takes
    /// this way, whether it came at once or not.
    pub(super) fn conclude(&mut self, placing: Placing, mut wanted: Vec<Wanted>, guarded: u32) -> Round {
        let placed = match placing {
            Placing::Ask => return self.ask_for_places(wanted, guarded),
            Placing::ByPolicy(choices) => self.start_by_policy(choices, &mut wanted),
            Placing::ByDefault(choices) => self.start(choices, &mut wanted, &UNCHANGED).started,
        };
        self.dispatch.since_guard = self.dispatch.since_guard.saturating_add(placed);
        wanted.retain(|wish| wish.count > 0);
        self.leave_behind(&wanted);
        let moved_on = !wanted.is_empty();
        if placed + guarded > 0 {
            return Round { started: placed + guarded, moved_on, is_asked: false };
        }
        let started = self.start_one_overdue(&wanted);
        if started > 0 {
            // The guard gets one turn a round, and finds all of them again.
            self.dispatch.queue.put_back();
        }
        Round { started, moved_on, is_asked: false }
    }

    /// Takes in what has changed of tenants and shapes, and asks for their keys.
    pub(super) fn take_in_queue(&mut self) {
        let Dispatch { queue, fleet, order, .. } = &mut self.dispatch;
        let KeysWanted { new, changed, shapes } = queue.take_in(&mut self.state, fleet, order.orders_shapes());
        // A new tenant is measured by the tenants that were there, as they stand now.
        self.ask(&changed, &shapes);
        let Dispatch { queue, shares, .. } = &mut self.dispatch;
        for &number in &new {
            let Some(entry) = self.state.tenants.find(number) else { continue };
            shares.activate(number, entry.class, queue.rival_of(number, -i64::from(entry.class)));
        }
        self.ask(&new, &[]);
    }

    /// Asks the policy about tenants and shapes, and puts them where it says.
    fn ask(&mut self, tenants: &[TenantNumber], shapes: &[Slot]) {
        let Self { state, dispatch, stored_out, tally, now, .. } = self;
        let Dispatch { queue, shares, order, .. } = dispatch;
        let known = |&number: &TenantNumber| Some((number, state.tenants.find(number)?));
        let tenants: Vec<_> = tenants.iter().filter_map(known).collect();
        let view = |&(number, entry): &(TenantNumber, &TenantEntry)| {
            tenant_view(number, entry, shares.time(number), shares.charge(number, entry.weight).time())
        };
        let views: Vec<_> = tenants.iter().map(view).collect();
        let shapes: Vec<_> = shapes.iter().filter(|slot| queue.has_shape(**slot)).collect();
        if views.is_empty() && shapes.is_empty() {
            return;
        }
        let shape_views: Vec<_> = shapes.iter().map(|&&slot| queue.view(state, slot)).collect();
        let keys = order.keys(*now, &views, &shape_views, tally);
        let tenants = tenants.into_iter().zip(keys.tenants).map(|((number, entry), key)| (number, entry, key));
        set_keys(queue, stored_out, tenants, shapes.into_iter().copied().zip(keys.shapes));
    }

    /// Takes in what has changed of hosts, and tells the policy.
    pub(super) fn take_in_hosts(&mut self) {
        let Self { dispatch, hosts, now, config, .. } = self;
        let Dispatch { fleet, queue, place, .. } = dispatch;
        fleet.touch_due(*now);
        let mut changes: Vec<HostChange> = Vec::new();
        for slot in fleet.take_touched() {
            let host = hosts.at(slot);
            let (room, due) = (host.map(|host| host.room(*now, config)), host.and_then(|host| host.due(*now, config)));
            changes.extend(fleet.set(slot, room, due));
        }
        if fleet.take_larger() {
            queue.match_lanes(fleet);
        }
        place.changed(&changes);
    }

    /// Places for everybody, and those that are kept.
    fn places(&self) -> (u32, u32) {
        let add = |sum: (u64, u64), room: super::fleet::KindRoom| (sum.0 + room.free, sum.1 + room.kept);
        let (free, kept) = self.dispatch.fleet.rooms().into_iter().fold((0, 0), add);
        let bounded = |places: u64| u32::try_from(places).unwrap_or(u32::MAX);
        (bounded(free), bounded(kept))
    }

    fn wanted(&self, chosen: &[Chosen]) -> Vec<Wanted> {
        let queue = &self.dispatch.queue;
        let wanted = |chosen: &Chosen| Wanted {
            shape: queue.view(&self.state, chosen.shape),
            count: chosen.count,
            kept: chosen.kept,
            kinds: queue.kinds_of(chosen.shape),
        };
        chosen.iter().map(wanted).collect()
    }

    /// Starts what is right among `choices`: every answer goes through this. Tasks that are still
    /// wanted are left in `wanted`. A choice of a host that has `changed` since the question may
    /// have been right then.
    pub(super) fn start(&mut self, choices: Vec<Choice>, wanted: &mut [Wanted], changed: &BTreeSet<u32>) -> Started {
        let mut sum = Started::default();
        for choice in choices {
            self.dispatch.fleet.name(choice.host);
            let (wish, room) = (wanted.get_mut(choice.wanted), self.dispatch.fleet.room(choice.host));
            let fitting = match (&wish, room) {
                (Some(wish), Some(room)) if fits(&wish.shape, room, wish.kept).is_ok() => {
                    choice.count.min(wish.count).min(room.left_for(wish.kept, wish.shape.memory_bytes))
                }
                _ => 0,
            };
            let count = wish.as_ref().map_or(0, |wish| fitting.min(self.admitted(&wish.shape)));
            let misfits = u64::from(choice.count - fitting);
            let is_stale = !changed.is_empty() && changed.contains(&choice.host.slot);
            *(if is_stale { &mut sum.stale } else { &mut sum.wrong }) += misfits;
            sum.stale += u64::from(fitting - count);
            if let Some(wish) = wish.filter(|_| count > 0) {
                wish.count -= count;
                self.start_on(choice.host, count, &wish.shape);
                sum.started += count;
            }
        }
        self.tally.attempts_started += u64::from(sum.started);
        sum
    }

    /// Starts the first tasks of a shape on a host that has room for them.
    fn start_on(&mut self, host: Ref, count: u32, shape: &ShapeView) {
        let number = shape.tenant_id;
        let entry = self.state.tenants.entry(number);
        let (class, weight) = (entry.class, entry.weight);
        let charge = self.dispatch.shares.charge(number, weight);
        self.dispatch.shares.placed(number, class, charge, count);
        self.dispatch.order.started(shape, count);
        self.dispatch.touch_tenant(number);
        let flight = Flight::new(self.now, number, weight, shape.memory_bytes, charge);
        for _ in 0..count {
            self.start_first(host.slot, shape.id.slot, flight.clone());
        }
        self.dispatch.fleet.take(host, count, shape.memory_bytes);
    }

    /// Starts the task that is first in the queue of a shape.
    fn start_first(&mut self, host: u32, shape: Slot, flight: Flight) {
        let slot = self.state.shapes.shape(shape).queued.head;
        let task = &self.state.tasks[slot];
        let nonce = Nonce(self.random.draw());
        let id = AttemptId { task: task.id, attempt: task.attempt.next(), nonce };
        let queue_us = self.now.us_since(task.queued_at);
        let known = self.hosts.at_mut(host).expect("a choice names a host that is known");
        known.began(id, flight);
        let incarnation = known.incarnation();
        let started = EventBody::AttemptStarted { id, host: known.id().clone(), incarnation };
        let at = EventSlots { task: Some(slot), placement: known.placement };
        self.outbox.assign(host, incarnation, id, queue_us);
        self.emit_at(started, at);
        let placement = self.state.tasks[slot].placement;
        self.hosts.at_mut(host).expect("it was just there").placement = Some(placement);
    }

    /// A shape with tasks that did not start goes back to where it stood, and is left out for the
    /// rest of this dispatch: it fits nowhere, or the policy has declined it.
    fn leave_behind(&mut self, left: &[Wanted]) {
        if !left.is_empty() {
            self.take_in_hosts();
        }
        for wish in left {
            // A shape that has gone while a policy was asked has no place to go back to.
            if !self.dispatch.queue.is_current(wish.shape.id) {
                continue;
            }
            if self.dispatch.place.is_declined(wish) && self.admitted(&wish.shape) > 0 {
                self.note_left(wish);
            }
            self.dispatch.queue.set_aside(wish.shape.id.slot);
            self.give_back(wish);
        }
    }

    /// Chosen tasks of a shape do not start: the queue learns again what there is.
    pub(super) fn give_back(&mut self, wish: &Wanted) {
        self.dispatch.queue.touch_shape(wish.shape.id.slot);
        self.dispatch.touch_tenant(wish.shape.tenant_id);
    }

    /// The turn of tasks that are overdue, in proportion to what the policy has started. Returns
    /// how many attempts were started.
    fn start_overdue(&mut self, capacity: u32) -> u32 {
        let turns = (self.dispatch.since_guard / GUARD_EVERY).min(capacity);
        if turns == 0 {
            return 0;
        }
        let since = self.overdue_since();
        let Dispatch { queue, fleet, guarded_last, .. } = &mut self.dispatch;
        let chosen = Choosing::new(queue, &self.state, fleet).choose_overdue(turns, since, guarded_last);
        let mut wanted = self.wanted(&chosen);
        let all_used = wanted.iter().map(|wish| wish.count).sum::<u32>() == turns;
        let started = self.start_by_default(&mut wanted);
        // Unused turns are not saved up: one turn is kept for the next task that becomes
        // overdue.
        let left = self.dispatch.since_guard - started * GUARD_EVERY;
        self.dispatch.since_guard = if all_used { left } else { left.min(GUARD_EVERY) };
        wanted.iter().filter(|wish| wish.count > 0).for_each(|wish| self.give_back(wish));
        self.take_in_queue();
        self.take_in_hosts();
        started
    }

    /// When the policy places nothing of what it was asked to, a task that is overdue is started
    /// all the same. Tenants take turns here too.
    fn start_one_overdue(&mut self, wanted: &[Wanted]) -> u32 {
        let since = self.overdue_since();
        let mut overdue: BTreeMap<TenantNumber, &Wanted> = BTreeMap::new();
        for wish in wanted.iter().filter(|wish| wish.shape.oldest <= since) {
            let first = overdue.entry(wish.shape.tenant_id).or_insert(wish);
            if wish.shape.oldest < first.shape.oldest {
                *first = wish;
            }
        }
        let after = |last: &TenantNumber| overdue.range(last + 1..).next();
        let last = self.dispatch.guarded_last;
        let Some((&tenant, wish)) = last.as_ref().and_then(after).or_else(|| overdue.first_key_value()) else {
            return 0;
        };
        self.dispatch.guarded_last = Some(tenant);
        self.start_by_default(&mut [Wanted { count: 1, ..(*wish).clone() }])
    }

    /// A task that became queued at this time or before is overdue.
    fn overdue_since(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_sub(self.config.longest_wait_ms.saturating_mul(1_000)))
    }

    fn start_by_default(&mut self, wanted: &mut [Wanted]) -> u32 {
        let choices = self.dispatch.place.place_by_default(self.now, wanted);
        let started = self.start(choices, wanted, &UNCHANGED).started;
        self.tally.attempts_overdue += u64::from(started);
        started
    }
}
