//! Which tasks run next, and where: by index, so that what has not changed costs nothing.
//!
//! The index is fed by the transitions: [`Queue`] by what the state says has changed of shapes and
//! by what the leader says of tenants, [`Fleet`] by what the leader says of hosts. Nothing is built
//! anew: what has changed is put where it belongs, once, before the next round. The cost of each
//! step stands in the cost table of `docs/ARCHITECTURE.md`.

mod answers;
mod briefing;
mod conduct;
mod course;
mod desk;
mod fleet;
#[cfg(test)]
mod model;
mod outside;
mod queue;
mod round;
mod seats;
mod shares;
mod stalls;

use std::collections::BTreeSet;

use wasmill_protocol::policy::PolicyHook;
use wasmill_record::event::EventBody;

use crate::config::CoreConfig;
use crate::policy::{self, Order, Place, Seat, Seated};
use crate::state::tenants::TenantNumber;
use crate::state::{Slot, State};
use course::Course;
use fleet::Fleet;
use queue::Queue;
use seats::{OrderSeat, PlaceSeat};

pub(crate) use queue::view;
pub(crate) use shares::{Charge, Shares};

/// The index, the policies, and how it went with them.
#[derive(Debug)]
pub(crate) struct Dispatch {
    pub(crate) fleet: Fleet,
    pub(crate) shares: Shares,
    queue: Queue,
    order: OrderSeat,
    place: PlaceSeat,
    /// Something has changed that may make a difference.
    is_awake: bool,
    /// Attempts that the policy has started since the guard had its turn.
    since_guard: u32,
    /// The tenant that had the guard's last turn.
    guarded_last: Option<TenantNumber>,
    /// Shapes that the policy left in the queue although they fit somewhere.
    declined: BTreeSet<Slot>,
    /// The dispatch under way while a policy outside is asked.
    course: Option<Course>,
    /// Tells what a policy is told from what it was told before it was seated anew or failed.
    sittings: u64,
}

impl Dispatch {
    /// A dispatch that knows no host yet.
    pub(crate) fn new(config: &CoreConfig, state: &State) -> Self {
        Self {
            fleet: Fleet::default(),
            shares: Shares::default(),
            queue: Queue::of(state),
            order: OrderSeat::inside(built_in(policy::order_by_name(&config.order)), state),
            place: PlaceSeat::inside(built_in(policy::place_by_name(&config.place)), state),
            is_awake: false,
            since_guard: 0,
            guarded_last: None,
            declined: BTreeSet::new(),
            course: None,
            sittings: 0,
        }
    }

    /// Something has changed that may let a task start.
    pub(crate) fn wake(&mut self) {
        self.is_awake = true;
    }

    /// Something about a tenant has changed: what runs, its virtual time, its quotas, its weight or
    /// its class.
    pub(crate) fn touch_tenant(&mut self, tenant: TenantNumber) {
        self.queue.touch_tenant(tenant);
    }

    /// Whether the policy left tasks of this shape in the queue although they fit somewhere.
    pub(crate) fn has_declined(&self, shape: Slot) -> bool {
        self.declined.contains(&shape)
    }

    /// Asserts that the sums are right.
    pub(crate) fn assert_consistent(&self) {
        self.fleet.assert_consistent();
        self.queue.assert_consistent();
    }

    /// Something of a tenant is left no more, or soon will be.
    pub(crate) fn forget_tenant(&mut self, tenant: TenantNumber) {
        self.shares.remove(tenant);
        self.order.forget_tenant(tenant);
        self.place.forget_tenant(tenant);
        self.queue.touch_tenant(tenant);
    }

    /// Another policy decides from the next round on, unless the log says that it is benched.
    pub(crate) fn seat(&mut self, seat: Seat, state: &State) {
        let hook = seat.hook();
        match (hook, seat.into_policy()) {
            (PolicyHook::Order, Seated::BuiltIn(name)) => {
                self.seat_order(built_in(policy::order_by_name(&name)), state);
            }
            (PolicyHook::Place, Seated::BuiltIn(name)) => {
                self.seat_place(built_in(policy::place_by_name(&name)), state);
            }
            (PolicyHook::Order, Seated::Outside(policy)) => {
                self.order = OrderSeat::outside(policy, self.next_sitting(), state);
                self.queue.touch_all();
            }
            (PolicyHook::Place, Seated::Outside(policy)) => {
                let sitting = self.next_sitting();
                self.place.seat_outside(policy, sitting, state, &self.fleet.all());
            }
        }
        self.wake();
    }

    pub(super) fn seat_order(&mut self, policy: Box<dyn Order>, state: &State) {
        self.order = OrderSeat::inside(policy, state);
        self.queue.touch_all();
        self.wake();
    }

    pub(super) fn seat_place(&mut self, policy: Box<dyn Place>, state: &State) {
        self.place.seat(policy, state, &self.fleet.all());
        self.wake();
    }

    /// Policies that are not benched any more decide again.
    pub(crate) fn lift(&mut self, state: &State) {
        let sitting = self.next_sitting();
        if self.order.conduct.is_lifted(state) {
            self.order.lifted(sitting, state);
            self.queue.touch_all();
        }
        if self.place.conduct.is_lifted(state) {
            self.place.lifted(sitting, state, &self.fleet.all());
        }
        self.wake();
    }

    fn next_sitting(&mut self) -> u64 {
        self.sittings += 1;
        self.sittings
    }

    /// The event of a policy that was benched and was not said yet.
    fn take_news(&mut self) -> Option<EventBody> {
        let news = self.order.take_news();
        if news.is_some() {
            // All keys were those of the policy that is gone.
            self.queue.touch_all();
        }
        news.or_else(|| self.place.take_news())
    }
}

fn built_in<T>(policy: Option<T>) -> T {
    policy.expect("the name of a built-in policy was checked")
}
