//! Asking policies, none of which is trusted. One in process answers at once; one outside is asked,
//! and its answer takes the same way once it is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmill_protocol::policy::PolicyHook;
use wasmill_protocol::{Digest, Timestamp};
use wasmill_record::event::EventBody;

use super::conduct::Conduct;
use super::outside::{OutsideOrder, OutsidePlace};
use super::stalls::Stalls;
use crate::leader::Tally;
use crate::policy::ask::Outside;
use crate::policy::{
    Choice, Fair, HostChange, Keys, LeastLoaded, Order, Place, PolicyFault, ShapeView, TenantView, Wanted,
};
use crate::state::State;
use crate::state::tenants::TenantNumber;

/// The seat of the order.
#[derive(Debug)]
pub(super) struct OrderSeat {
    policy: OrderPolicy,
    pub(super) conduct: Conduct,
    /// That the policy was benched, until it is said.
    news: Option<EventBody>,
}

#[derive(Debug)]
enum OrderPolicy {
    Inside(Box<dyn Order>),
    Outside(Box<OutsideOrder>),
}

impl OrderSeat {
    pub(super) fn inside(policy: Box<dyn Order>, state: &State) -> Self {
        let conduct = Conduct::new(PolicyHook::Order, policy.name(), Digest::default(), state);
        Self { policy: OrderPolicy::Inside(policy), conduct, news: None }
    }

    pub(super) fn outside(policy: Arc<Outside>, sitting: u64, state: &State) -> Self {
        let conduct = Conduct::new(PolicyHook::Order, &policy.name, policy.digest, state);
        Self { policy: OrderPolicy::Outside(Box::new(OutsideOrder::new(policy, sitting))), conduct, news: None }
    }

    /// The policy outside that decides.
    pub(super) fn asked(&mut self) -> Option<&mut OutsideOrder> {
        match &mut self.policy {
            OrderPolicy::Outside(outside) if !self.conduct.is_benched() => Some(outside),
            _ => None,
        }
    }

    /// The same for questions that change nothing.
    pub(super) fn next_due(&self, stall_ms: u64) -> Option<Timestamp> {
        match &self.policy {
            OrderPolicy::Outside(outside) if !self.conduct.is_benched() => outside.desk.next_due(stall_ms),
            _ => None,
        }
    }

    /// Whether the policy is to be asked about shapes.
    pub(super) fn orders_shapes(&self) -> bool {
        !self.conduct.is_benched()
            && match &self.policy {
                OrderPolicy::Inside(policy) => policy.orders_shapes(),
                OrderPolicy::Outside(outside) => outside.desk.policy().orders_shapes,
            }
    }

    /// One key for each tenant and each shape: those that count now. They are the built-in
    /// default's when the policy does not answer.
    pub(super) fn keys(
        &mut self,
        now: Timestamp,
        tenants: &[TenantView],
        shapes: &[ShapeView],
        tally: &mut Tally,
    ) -> Keys {
        let by_default = || Fair.keys(now, tenants, shapes).expect("a built-in policy does not fail");
        if self.conduct.is_benched() {
            return by_default();
        }
        let answer = match &mut self.policy {
            OrderPolicy::Inside(policy) => policy.keys(now, tenants, shapes),
            OrderPolicy::Outside(outside) => return outside.meanwhile(now, tenants, shapes),
        };
        match answer.and_then(|keys| checked(keys, tenants.len(), shapes.len())) {
            Ok(keys) => keys,
            Err(fault) => {
                self.failed(now, fault, tally);
                by_default()
            }
        }
    }

    /// The policy did not answer, or answered nonsense.
    pub(super) fn failed(&mut self, now: Timestamp, fault: PolicyFault, tally: &mut Tally) {
        let news = self.conduct.failed(now, fault, tally);
        self.news = self.news.take().or(news);
    }

    /// The policy decides no more.
    pub(super) fn bench(&mut self, reason: String, tally: &mut Tally) {
        let news = self.conduct.bench(reason, tally);
        self.news = self.news.take().or(news);
    }

    /// Tasks have started.
    pub(super) fn started(&mut self, shape: &ShapeView, count: u32) {
        if let OrderPolicy::Outside(outside) = &mut self.policy {
            outside.started(shape, count);
        }
    }

    pub(super) fn forget_tenant(&mut self, number: TenantNumber) {
        if let OrderPolicy::Outside(outside) = &mut self.policy {
            outside.forget_tenant(number);
        }
    }

    /// The same policy takes its seat once more, when it is not benched any more.
    pub(super) fn lifted(&mut self, sitting: u64, state: &State) {
        *self = match std::mem::replace(&mut self.policy, OrderPolicy::Inside(Box::new(Fair))) {
            OrderPolicy::Inside(policy) => Self::inside(policy, state),
            OrderPolicy::Outside(outside) => Self::outside(outside.desk.into_policy(), sitting, state),
        };
    }

    /// The event of a policy that was benched since the last call.
    pub(super) fn take_news(&mut self) -> Option<EventBody> {
        self.news.take()
    }
}

/// Whether there is a key for everything that was asked about.
pub(super) fn checked(keys: Keys, tenants: usize, shapes: usize) -> Result<Keys, PolicyFault> {
    let (of_tenants, of_shapes) = (keys.tenants.len(), keys.shapes.len());
    if (of_tenants, of_shapes) == (tenants, shapes) {
        return Ok(keys);
    }
    let reason = format!("{of_tenants} keys for {tenants} tenants, {of_shapes} for {shapes} shapes");
    Err(PolicyFault { reason })
}

/// The seat of the place. The built-in default always knows the hosts: it decides when the policy
/// does not.
#[derive(Debug)]
pub(super) struct PlaceSeat {
    default: LeastLoaded,
    policy: PlacePolicy,
    pub(super) conduct: Conduct,
    pub(super) stalls: Stalls,
    /// When the dispatch under way stops asking; `None` before its first question.
    asked_until: Option<Timestamp>,
    /// That the policy was benched, until it is said.
    news: Option<EventBody>,
}

#[derive(Debug)]
enum PlacePolicy {
    Default,
    Inside(Box<dyn Place>),
    Outside(Box<OutsidePlace>),
}

/// Where what is wanted goes.
#[derive(Debug)]
pub(super) enum Placing {
    /// As the policy says.
    ByPolicy(Vec<Choice>),
    /// As the built-in default says.
    ByDefault(Vec<Choice>),
    /// The policy is to be asked.
    Ask,
}

impl PlaceSeat {
    /// A seat for a policy that is told all hosts; for the default when that is what is named.
    pub(super) fn inside(policy: Box<dyn Place>, state: &State) -> Self {
        let mut seat = Self {
            default: LeastLoaded::default(),
            policy: PlacePolicy::Default,
            conduct: Conduct::new(PolicyHook::Place, policy.name(), Digest::default(), state),
            stalls: Stalls::default(),
            asked_until: None,
            news: None,
        };
        if policy.name() != seat.default.name() {
            seat.policy = PlacePolicy::Inside(policy);
        }
        seat
    }

    /// Seats a policy, and tells it all hosts.
    pub(super) fn seat(&mut self, mut policy: Box<dyn Place>, state: &State, hosts: &[HostChange]) {
        policy.changed(hosts);
        let before = std::mem::replace(self, Self::inside(policy, state));
        self.default = before.default;
        self.news = before.news;
    }

    /// Seats a policy that lives outside.
    pub(super) fn seat_outside(&mut self, policy: Arc<Outside>, sitting: u64, state: &State, hosts: &[HostChange]) {
        self.conduct = Conduct::new(PolicyHook::Place, &policy.name, policy.digest, state);
        self.policy = PlacePolicy::Outside(Box::new(OutsidePlace::new(policy, sitting, hosts)));
        self.stalls.clear();
    }

    /// The same policy takes its seat once more, when it is not benched any more.
    pub(super) fn lifted(&mut self, sitting: u64, state: &State, hosts: &[HostChange]) {
        match std::mem::replace(&mut self.policy, PlacePolicy::Default) {
            PlacePolicy::Default => {
                self.conduct = Conduct::new(PolicyHook::Place, self.default.name(), Digest::default(), state)
            }
            PlacePolicy::Inside(policy) => self.seat(policy, state, hosts),
            PlacePolicy::Outside(outside) => self.seat_outside(outside.desk.into_policy(), sitting, state, hosts),
        }
    }

    /// The policy outside that decides.
    pub(super) fn asked(&mut self) -> Option<&mut OutsidePlace> {
        match &mut self.policy {
            PlacePolicy::Outside(outside) if !self.conduct.is_benched() => Some(outside),
            _ => None,
        }
    }

    /// Whether the answer to a question is waited for.
    pub(super) fn is_waiting(&self) -> bool {
        match &self.policy {
            PlacePolicy::Outside(outside) => !self.conduct.is_benched() && outside.desk.is_waiting(),
            _ => false,
        }
    }

    /// When something is to be done about a question, or about what is left in the queue.
    pub(super) fn next_due(&self, stall_ms: u64) -> Option<Timestamp> {
        let stalls = self.stalls.next_due().filter(|_| !self.is_waiting());
        let desk = match &self.policy {
            PlacePolicy::Outside(outside) if !self.conduct.is_benched() => outside.desk.next_due(stall_ms),
            _ => None,
        };
        [stalls, desk].into_iter().flatten().min()
    }

    /// Something about hosts has changed.
    pub(super) fn changed(&mut self, hosts: &[HostChange]) {
        if hosts.is_empty() {
            return;
        }
        self.default.changed(hosts);
        match &mut self.policy {
            PlacePolicy::Default => {}
            PlacePolicy::Inside(policy) => policy.changed(hosts),
            PlacePolicy::Outside(outside) => outside.changed(hosts),
        }
    }

    /// A dispatch begins: it may ask for as long as one may.
    pub(super) fn begin(&mut self) {
        self.asked_until = None;
        self.stalls.begin();
    }

    /// Until when the dispatch under way may ask.
    pub(super) fn ask_until(&mut self, now: Timestamp, ask_ms: u64) -> Timestamp {
        *self.asked_until.get_or_insert_with(|| now.plus_ms(ask_ms))
    }

    /// Where to put what is wanted. To be checked.
    pub(super) fn place(&mut self, now: Timestamp, wanted: &[Wanted], tally: &mut Tally) -> Placing {
        let is_benched = self.conduct.is_benched();
        let answer = match &mut self.policy {
            PlacePolicy::Inside(policy) if !is_benched => policy.place(now, wanted),
            PlacePolicy::Outside(outside) if !is_benched => {
                if outside.desk.is_free() && self.asked_until.is_none_or(|until| now < until) {
                    return Placing::Ask;
                }
                tally.policy_rounds_by_default += 1;
                return Placing::ByDefault(self.place_by_default(now, wanted));
            }
            _ => return Placing::ByDefault(self.place_by_default(now, wanted)),
        };
        match answer {
            Ok(choices) => Placing::ByPolicy(choices),
            Err(fault) => {
                self.failed(now, fault, tally);
                Placing::ByDefault(self.place_by_default(now, wanted))
            }
        }
    }

    /// The policy did not answer, or answered nonsense.
    pub(super) fn failed(&mut self, now: Timestamp, fault: PolicyFault, tally: &mut Tally) {
        let news = self.conduct.failed(now, fault, tally);
        self.news = self.news.take().or(news);
    }

    /// The policy decides no more.
    pub(super) fn bench(&mut self, reason: String, tally: &mut Tally) {
        let news = self.conduct.bench(reason, tally);
        self.news = self.news.take().or(news);
    }

    /// Whether tasks that were left out could have been placed, as the hosts are. The built-in
    /// default leaves nothing out that fits.
    pub(super) fn is_declined(&self, wish: &Wanted) -> bool {
        let is_default = matches!(self.policy, PlacePolicy::Default) || self.conduct.is_benched();
        !is_default && self.default.has_room(wish)
    }

    /// Where the built-in default puts it.
    pub(super) fn place_by_default(&mut self, now: Timestamp, wanted: &[Wanted]) -> Vec<Choice> {
        self.default.place(now, wanted).expect("a built-in policy does not fail")
    }

    pub(super) fn forget_tenant(&mut self, number: TenantNumber) {
        if let PlacePolicy::Outside(outside) = &mut self.policy {
            outside.forget_tenant(number);
        }
    }

    /// Hosts that have changed while the question that was answered was under way.
    pub(super) fn take_changed_since(&mut self) -> BTreeSet<u32> {
        self.asked().map(OutsidePlace::take_changed_since).unwrap_or_default()
    }

    /// The event of a policy that was benched since the last call.
    pub(super) fn take_news(&mut self) -> Option<EventBody> {
        self.news.take()
    }
}
