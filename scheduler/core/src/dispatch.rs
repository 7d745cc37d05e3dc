//! Which tasks run next, and where: by index, so that what has not changed costs nothing.
//!
//! The index is fed by the transitions: [`Queue`] by what the state says has changed of shapes and by what the leader says of tenants,
//! [`Fleet`] by what the leader says of hosts. Nothing is built anew: what has changed is put where it belongs, once, before the next round.
//! What each step costs stands in the cost table of `docs/ARCHITECTURE.md`.

mod fleet;
#[cfg(test)]
mod model;
mod queue;
mod round;
mod seats;
mod shares;

use std::collections::BTreeSet;

use wasmill_protocol::policy::PolicyHook;
use wasmill_record::event::EventBody;

use crate::config::CoreConfig;
use crate::policy::{Order, Place};
use crate::state::tenants::TenantNumber;
use crate::state::{Slot, State};
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
}

impl Dispatch {
    /// A dispatch that knows no host yet.
    pub(crate) fn new(config: &CoreConfig, state: &State) -> Self {
        Self {
            fleet: Fleet::default(),
            shares: Shares::default(),
            queue: Queue::of(state),
            order: OrderSeat::named(&config.order, state.benched(PolicyHook::Order)),
            place: PlaceSeat::named(&config.place, state.benched(PolicyHook::Place)),
            is_awake: false,
            since_guard: 0,
            guarded_last: None,
            declined: BTreeSet::new(),
        }
    }

    /// Something has changed that may let a task start.
    pub(crate) fn wake(&mut self) {
        self.is_awake = true;
    }

    /// Something about a tenant has changed: what runs, its virtual time, its quotas, its weight or its class.
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

    pub(super) fn seat_order(&mut self, policy: Box<dyn Order>, state: &State) {
        self.order = OrderSeat::new(policy, state.benched(PolicyHook::Order));
        self.queue.touch_all();
        self.wake();
    }

    pub(super) fn seat_place(&mut self, policy: Box<dyn Place>, state: &State) {
        self.place.seat(policy, state.benched(PolicyHook::Place), &self.fleet.all());
        self.wake();
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
