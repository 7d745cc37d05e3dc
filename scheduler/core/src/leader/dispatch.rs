//! Which tasks run next, and where.
//!
//! A round goes over shapes, never over tasks: the policy orders them, what fits is handed out in slices so that the order can
//! change in between, the policy places it, and the answer is checked.
//! No wait is endless: a task that has waited for [`CoreConfig::longest_wait_ms`] is overdue, and for every [`GUARD_EVERY`] attempts that
//! the policy starts one more is started for a task that is overdue, whatever its priority and the class of its tenant. Tenants take turns at
//! that, so that one whose own flood is overdue does not keep the others from it.
//! No tenant takes all places: the last ones of each host are kept for tenants that run nothing or little ([`kept`](wasmill_protocol::kept)).

use std::collections::{BTreeMap, BTreeSet};

use wasmill_protocol::event::{EventBody, PolicyHook};
use wasmill_protocol::{AttemptId, HostId, Nonce, TenantName, Timestamp};

use super::Core;
use super::candidates::{Candidates, next_after};
use super::hosts::Flight;
use super::seats::Seat;
use super::shares::Charge;
use crate::config::CoreConfig;
use crate::policy::{self, Choice, HostRoom, LeastLoaded, Policy, Wanted, checked, fits};
use crate::state::tenants::TenantNumber;
use crate::state::{Slot, State};

/// Rounds of one dispatch: a later one uses what an earlier one could not place where it wanted.
const ROUNDS_MAX: u32 = 4;
/// For so many attempts of the policy, one goes to a task that is overdue.
const GUARD_EVERY: u32 = 8;

/// Asks the policies, and remembers how it went.
#[derive(Debug)]
pub(super) struct Dispatcher {
    order: Seat,
    place: Seat,
    /// Something has changed that may make a difference.
    awake: bool,
    /// Attempts that the policy has started since the guard had its turn.
    since_guard: u32,
    /// The tenant that had the guard's last turn.
    guarded_last: Option<TenantNumber>,
    /// Shapes that the policy left in the queue although they fit somewhere.
    declined: BTreeSet<Slot>,
}

impl Dispatcher {
    pub(super) fn new(config: &CoreConfig, state: &State) -> Self {
        let seat = |hook, name: &str| {
            let policy = policy::by_name(name).expect("the configuration was checked");
            Seat::new(hook, policy, state.benched(hook))
        };
        Self {
            order: seat(PolicyHook::Order, &config.order),
            place: seat(PolicyHook::Place, &config.place),
            awake: false,
            since_guard: 0,
            guarded_last: None,
            declined: BTreeSet::new(),
        }
    }

    /// Something has changed that may let a task start.
    pub(super) fn wake(&mut self) {
        self.awake = true;
    }

    /// Whether the policy left tasks of this shape in the queue although they fit somewhere.
    pub(super) fn has_declined(&self, shape: Slot) -> bool {
        self.declined.contains(&shape)
    }

    /// The event of a policy that was benched and was not said yet.
    fn take_news(&mut self) -> Option<EventBody> {
        self.order.take_news().or_else(|| self.place.take_news())
    }
}

impl Core {
    /// Lets another policy decide from the next round on, unless the log says that it is benched.
    pub fn seat(&mut self, hook: PolicyHook, policy: Box<dyn Policy>) {
        let seat = Seat::new(hook, policy, self.state.benched(hook));
        match hook {
            PolicyHook::Order => self.dispatcher.order = seat,
            PolicyHook::Place => self.dispatcher.place = seat,
        }
        self.dispatcher.wake();
    }

    /// Lets what is in a tenant's queue wait, or start again.
    pub(super) fn note_stored(&mut self, tenant: TenantName, used_up: bool) {
        if used_up {
            self.stored_out.insert(tenant);
        } else if self.stored_out.remove(&tenant) {
            self.dispatcher.wake();
        }
    }

    /// Starts as many attempts as may start now, up to [`CoreConfig::dispatch_max`].
    pub(super) fn dispatch(&mut self) {
        if !std::mem::take(&mut self.dispatcher.awake) {
            return;
        }
        self.dispatcher.declined.clear();
        let mut budget = self.config.dispatch_max;
        for _ in 0..ROUNDS_MAX {
            if self.state.depth.queued == 0 {
                return;
            }
            let placed = self.round(budget);
            while let Some(benched) = self.dispatcher.take_news() {
                self.emit(benched);
            }
            budget -= placed;
            if placed == 0 {
                return;
            }
            if budget == 0 {
                break;
            }
        }
        (self.dispatcher.awake, self.unfinished) = (true, true);
    }

    /// One round. Returns how many attempts were started, at most `budget`.
    fn round(&mut self, budget: u32) -> u32 {
        let mut hosts: Vec<HostRoom> = self.hosts.values().map(|host| host.room(self.now, &self.config)).collect();
        let sum = |of: fn(&HostRoom) -> u32| hosts.iter().map(of).fold(0, u32::saturating_add);
        let (free, kept) = (sum(|host| host.free), sum(|host| host.kept));
        let capacity = free.saturating_add(kept).min(budget);
        if capacity == 0 {
            return 0;
        }
        let mut candidates = Candidates::of(&self.state, &self.stored_out, &mut self.shares, &hosts);
        let guarded = self.place_overdue(&mut candidates, &mut hosts, free.min(budget));
        let counts = {
            let Self { dispatcher, shares, tally, now, .. } = self;
            candidates.choose(capacity - guarded, shares, *now, &mut dispatcher.order, tally)
        };
        let of_few = |index: usize| kept > 0 && candidates.is_of_few(index);
        let wanted = |few: bool| -> Vec<Wanted<'_>> {
            let chosen = counts.iter().filter(|(index, _)| of_few(*index) == few);
            chosen.map(|&(index, count)| Wanted { shape: &candidates.views[index], count }).collect()
        };
        let (few, rest) = (wanted(true), wanted(false));
        let placed = self.place_few(&few, &mut hosts) + self.place(&rest, &mut hosts);
        self.dispatcher.since_guard += placed;
        if placed + guarded > 0 {
            return placed + guarded;
        }
        self.place_one_overdue(&[few, rest].concat(), &mut hosts)
    }

    /// Asks the policy for places, and starts what is right. Returns how many attempts were started.
    fn place(&mut self, wanted: &[Wanted<'_>], hosts: &mut [HostRoom]) -> u32 {
        if wanted.is_empty() {
            return 0;
        }
        let choices = self.dispatcher.place.place(wanted, hosts, &mut self.tally);
        let placed = self.start(&choices, wanted, hosts);
        self.note_declined(&choices, wanted, hosts);
        placed
    }

    /// The same for tenants that may take what is kept.
    fn place_few(&mut self, wanted: &[Wanted<'_>], hosts: &mut [HostRoom]) -> u32 {
        if wanted.is_empty() {
            return 0;
        }
        let mut opened: Vec<HostRoom> = hosts.iter().map(HostRoom::opened).collect();
        let placed = self.place(wanted, &mut opened);
        hosts.iter_mut().zip(&opened).for_each(|(host, opened)| host.close(opened));
        placed
    }

    /// The turn of tasks that are overdue, in proportion to what the policy has started. Returns how many attempts were started.
    fn place_overdue(&mut self, candidates: &mut Candidates, hosts: &mut [HostRoom], capacity: u32) -> u32 {
        let since = self.overdue_since();
        let turns = (self.dispatcher.since_guard / GUARD_EVERY).min(capacity);
        if turns == 0 {
            return 0;
        }
        let counts = candidates.choose_overdue(turns, since, &mut self.dispatcher.guarded_last);
        let wanted: Vec<Wanted<'_>> =
            counts.iter().map(|&(index, count)| Wanted { shape: &candidates.views[index], count }).collect();
        let placed = self.place_by_default(&wanted, hosts);
        // What is not used is not saved up: one turn is kept for the next task that becomes overdue.
        let left = self.dispatcher.since_guard - placed * GUARD_EVERY;
        let all_used = counts.iter().map(|(_, count)| count).sum::<u32>() == turns;
        self.dispatcher.since_guard = if all_used { left } else { left.min(GUARD_EVERY) };
        placed
    }

    /// When the policy places nothing of what it was asked to, a task that is overdue is started all the same. Tenants take turns here too.
    fn place_one_overdue(&mut self, wanted: &[Wanted<'_>], hosts: &mut [HostRoom]) -> u32 {
        let since = self.overdue_since();
        let mut overdue: BTreeMap<TenantNumber, Wanted<'_>> = BTreeMap::new();
        for wish in wanted.iter().filter(|wish| wish.shape.oldest <= since) {
            let first = overdue.entry(self.state.shapes.shape(wish.shape.id).key.tenant).or_insert(*wish);
            if wish.shape.oldest < first.shape.oldest {
                *first = *wish;
            }
        }
        let Some((tenant, wish)) = next_after(&overdue, self.dispatcher.guarded_last) else { return 0 };
        self.dispatcher.guarded_last = Some(tenant);
        self.place_by_default(&[Wanted { count: 1, ..wish }], hosts)
    }

    /// What became queued at this time or before is overdue.
    fn overdue_since(&self) -> Timestamp {
        Timestamp(self.now.0.saturating_sub(self.config.longest_wait_ms.saturating_mul(1_000)))
    }

    fn place_by_default(&mut self, wanted: &[Wanted<'_>], hosts: &mut [HostRoom]) -> u32 {
        let choices = LeastLoaded.place(wanted, hosts).expect("a built-in policy does not fail");
        let placed = self.start(&checked(choices, wanted, hosts).0, wanted, hosts);
        self.tally.attempts_overdue += u64::from(placed);
        placed
    }

    /// Remembers which shapes were left in the queue although they fit somewhere.
    fn note_declined(&mut self, choices: &[Choice], wanted: &[Wanted<'_>], hosts: &[HostRoom]) {
        let mut left: Vec<u32> = wanted.iter().map(|wish| wish.count).collect();
        choices.iter().for_each(|choice| left[choice.wanted] -= choice.count);
        for (wish, left) in wanted.iter().zip(left) {
            if left > 0 && hosts.iter().any(|host| fits(wish.shape, host).is_ok()) {
                self.dispatcher.declined.insert(wish.shape.id);
            } else {
                self.dispatcher.declined.remove(&wish.shape.id);
            }
        }
    }

    /// Starts what was chosen and checked. Returns how many attempts that is.
    fn start(&mut self, choices: &[Choice], wanted: &[Wanted<'_>], hosts: &mut [HostRoom]) -> u32 {
        let mut placed = 0;
        for choice in choices {
            let (shape, host) = (wanted[choice.wanted].shape, &mut hosts[choice.host]);
            assert!(choice.count <= host.free, "no host gets more than it takes");
            let tenant = self.state.shapes.shape(shape.id).key.tenant;
            let charge = self.shares.charge(tenant, shape.weight);
            for _ in 0..choice.count {
                self.start_first_of(shape.id, &host.id, charge);
            }
            self.shares.placed(tenant, charge, choice.count);
            (host.free, host.attempts) = (host.free - choice.count, host.attempts + choice.count);
            placed += choice.count;
        }
        self.tally.attempts_started += u64::from(placed);
        placed
    }

    /// Starts the task in front of a shape's queue.
    fn start_first_of(&mut self, shape: Slot, host_id: &HostId, charge: Charge) {
        let task = &self.state.tasks[self.state.shapes.shape(shape).queued.head];
        let id = AttemptId { task: task.id, attempt: task.attempt.next(), nonce: Nonce(self.random.draw()) };
        let queue_us = self.now.us_since(task.queued_at);
        let host = self.hosts.get_mut(host_id).expect("a choice names a host that is known");
        let incarnation = host.incarnation();
        host.flights.insert(id, Flight::new(self.now, charge));
        self.outbox.assign(host_id, incarnation, id, queue_us);
        self.emit(EventBody::AttemptStarted { id, host: host_id.clone(), incarnation });
    }
}
