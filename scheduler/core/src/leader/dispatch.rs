//! Which tasks run next, and where.
//!
//! A round goes over shapes, never over tasks: the policy orders them, what fits is handed out in slices so that the order can
//! change in between, the policy places it, and the answer is checked. A task that waited too long gets its turn whatever the
//! policy says: of every [`GUARD_EVERY`] attempts one is for such a task, as long as there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use wasmill_protocol::event::EventBody;
use wasmill_protocol::{AttemptId, HostId, Nonce, Timestamp};

use super::Core;
use super::hosts::Flight;
use super::shares::Shares;
use crate::config::CoreConfig;
use crate::policy::{
    self, Choice, Fair, HostRoom, Key, LeastLoaded, Policy, PolicyFault, ShapeView, Wanted, checked, fits,
};
use crate::state::tenants::TenantNumber;
use crate::state::{Labels, Slot, State};

/// Rounds of one dispatch: a second one uses what the first could not place where it wanted.
const ROUNDS_MAX: u32 = 4;
/// Slices that a round is handed out in at most.
const SLICES_MAX: u32 = 32;
/// Shapes times slices of one round at most: bounds what a round costs when there are many shapes.
const SHAPES_ORDERED_MAX: usize = 16_384;
/// Of so many attempts one is for a task that waited too long.
const GUARD_EVERY: u32 = 8;
/// A policy that failed so often in a row is taken out.
const FAULTS_IN_A_ROW_MAX: u32 = 5;

/// Asks the policies, and remembers how it went.
#[derive(Debug)]
pub(super) struct Dispatcher {
    order: Seat,
    place: Seat,
    /// Something has changed that may make a difference.
    awake: bool,
    /// Attempts since the guard had its turn.
    since_guard: u32,
    /// Shapes that the policy left in the queue although they fit somewhere.
    declined: BTreeSet<Slot>,
}

/// A policy and how often it failed.
#[derive(Debug)]
struct Seat {
    policy: Box<dyn Policy>,
    faults_in_a_row: u32,
}

/// A shape with what may be placed of it.
#[derive(Debug)]
struct Candidate {
    view: ShapeView,
    tenant: TenantNumber,
    /// Free places on hosts where it fits.
    reach: u32,
}

/// What a tenant may still have.
#[derive(Debug, Clone, Copy)]
struct TenantRoom {
    tasks: u64,
    memory_bytes: u64,
}

impl Dispatcher {
    pub(super) fn new(config: &CoreConfig) -> Self {
        let seat = |name: &str| Seat {
            policy: policy::by_name(name).expect("the configuration was checked"),
            faults_in_a_row: 0,
        };
        Self {
            order: seat(&config.order),
            place: seat(&config.place),
            awake: false,
            since_guard: 0,
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

    /// Uses other policies from the next round on.
    #[cfg(test)]
    pub(super) fn set_policies(&mut self, order: Box<dyn Policy>, place: Box<dyn Policy>) {
        self.order = Seat { policy: order, faults_in_a_row: 0 };
        self.place = Seat { policy: place, faults_in_a_row: 0 };
        self.awake = true;
    }
}

impl Core {
    /// Starts as many attempts as may start now, up to [`CoreConfig::dispatch_max`].
    pub(super) fn dispatch(&mut self) {
        if !std::mem::take(&mut self.dispatcher.awake) || self.state.depth.queued == 0 {
            return;
        }
        self.dispatcher.declined.clear();
        let mut budget = self.config.dispatch_max;
        for _ in 0..ROUNDS_MAX {
            let placed = self.round(budget);
            budget -= placed;
            if placed == 0 || budget == 0 {
                break;
            }
        }
        if budget == 0 {
            (self.dispatcher.awake, self.unfinished) = (true, true);
        }
    }

    /// One round. Returns how many attempts were started, at most `budget`.
    fn round(&mut self, budget: u32) -> u32 {
        let hosts: Vec<HostRoom> = self.hosts.values().map(|host| host.room(self.now, &self.config)).collect();
        let free: u32 = hosts.iter().map(|host| host.free).fold(0, u32::saturating_add);
        if free == 0 {
            return 0;
        }
        let mut candidates = candidates(&self.state, &self.shares, &hosts);
        if candidates.is_empty() {
            return 0;
        }
        let overdue = self.overdue(&candidates);
        if overdue.is_some() && self.dispatcher.since_guard >= GUARD_EVERY {
            return self.place_overdue(&candidates, overdue, &hosts);
        }
        // With a task overdue, the guard's turn must come in time.
        let room = if overdue.is_some() { GUARD_EVERY - self.dispatcher.since_guard } else { budget };
        let counts = self.choose(&mut candidates, free.min(budget).min(room));
        let chosen = candidates.iter().zip(&counts).filter(|(_, count)| **count > 0);
        let wanted: Vec<Wanted<'_>> =
            chosen.map(|(candidate, &count)| Wanted { shape: &candidate.view, count }).collect();
        let choices = self.ask_to_place(&wanted, &hosts);
        let placed = self.start(&choices, &wanted, &hosts);
        self.note_declined(&choices, &wanted, &hosts);
        self.dispatcher.since_guard = self.dispatcher.since_guard.saturating_add(placed).min(GUARD_EVERY);
        if placed == 0 { self.place_overdue(&candidates, overdue, &hosts) } else { placed }
    }

    /// How many tasks of each candidate to place, `capacity` in all.
    fn choose(&mut self, candidates: &mut [Candidate], capacity: u32) -> Vec<u32> {
        let most = u32::try_from(SHAPES_ORDERED_MAX / candidates.len()).unwrap_or(u32::MAX);
        let slice = capacity.div_ceil(most.clamp(1, SLICES_MAX));
        let mut rooms: BTreeMap<TenantNumber, TenantRoom> = BTreeMap::new();
        for candidate in &*candidates {
            rooms.entry(candidate.tenant).or_insert_with(|| tenant_room(&self.state, candidate.tenant));
        }
        let mut counts = vec![0; candidates.len()];
        let mut left = capacity;
        while left > 0 {
            let open = |(index, candidate): (usize, &Candidate)| {
                let limit = limit(candidate, counts[index], &rooms[&candidate.tenant]);
                (limit > 0).then_some((index, limit))
            };
            let open: Vec<(usize, u32)> = candidates.iter().enumerate().filter_map(open).collect();
            let Some(&(first, first_limit)) = open.first() else { break };
            let (best, limit) = match open.len() {
                1 => (first, first_limit),
                _ => self.first_of(candidates, &open),
            };
            let count = if open.len() == 1 { limit.min(left) } else { limit.min(left).min(slice) };
            counts[best] += count;
            left -= count;
            let (tenant, memory_bytes) = (candidates[best].tenant, candidates[best].view.memory_bytes);
            let room = rooms.get_mut(&tenant).expect("every candidate's tenant has one");
            room.tasks -= u64::from(count);
            room.memory_bytes = room.memory_bytes.saturating_sub(memory_bytes.saturating_mul(u64::from(count)));
            candidates[best].view.queued -= count;
            let charge = self.shares.charge(tenant, candidates[best].view.weight, count);
            for other in candidates.iter_mut().filter(|other| other.tenant == tenant) {
                other.view.tenant_time = other.view.tenant_time.saturating_add(charge);
                other.view.tenant_running += u64::from(count);
            }
        }
        counts
    }

    /// Which of the `open` candidates the policy serves first, with its limit.
    fn first_of(&mut self, candidates: &[Candidate], open: &[(usize, u32)]) -> (usize, u32) {
        let views: Vec<ShapeView> = open.iter().map(|&(index, _)| candidates[index].view.clone()).collect();
        let keys = self.ask_to_order(&views);
        let keyed = keys.iter().zip(&views).zip(open);
        let first = keyed.min_by_key(|((key, view), _)| (**key, view.oldest, view.id));
        let (_, &best) = first.expect("there is at least one candidate");
        best
    }

    fn ask_to_order(&mut self, views: &[ShapeView]) -> Vec<Key> {
        let answer = self.dispatcher.order.policy.order(views, self.now);
        let whole = answer.and_then(|keys| match keys.len() == views.len() {
            true => Ok(keys),
            false => Err(PolicyFault { policy: "order".into(), reason: "as many keys as shapes are needed".into() }),
        });
        match whole {
            Ok(keys) => {
                self.dispatcher.order.faults_in_a_row = 0;
                keys
            }
            Err(_) => {
                self.count_fault(|dispatcher| &mut dispatcher.order);
                Fair.order(views, self.now).expect("a built-in policy does not fail")
            }
        }
    }

    fn ask_to_place(&mut self, wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> Vec<Choice> {
        let choices = match self.dispatcher.place.policy.place(wanted, hosts) {
            Ok(choices) => {
                self.dispatcher.place.faults_in_a_row = 0;
                choices
            }
            Err(_) => {
                self.count_fault(|dispatcher| &mut dispatcher.place);
                LeastLoaded.place(wanted, hosts).expect("a built-in policy does not fail")
            }
        };
        let (right, wrong) = checked(choices, wanted, hosts);
        self.tally.policy_choices_wrong += wrong;
        right
    }

    /// A policy did not answer. After too many times in a row the default takes its seat.
    fn count_fault(&mut self, seat: impl Fn(&mut Dispatcher) -> &mut Seat) {
        self.tally.policy_faults += 1;
        let seat = seat(&mut self.dispatcher);
        seat.faults_in_a_row += 1;
        if seat.faults_in_a_row >= FAULTS_IN_A_ROW_MAX {
            *seat = Seat { policy: Box::new(Fair), faults_in_a_row: 0 };
            self.tally.policies_benched += 1;
        }
    }

    /// The candidate whose oldest task has waited longest and too long.
    fn overdue(&self, candidates: &[Candidate]) -> Option<usize> {
        let oldest = candidates.iter().enumerate().min_by_key(|(_, candidate)| candidate.view.oldest);
        let (index, candidate) = oldest?;
        (candidate.view.oldest.plus_ms(self.config.longest_wait_ms) <= self.now).then_some(index)
    }

    /// Places one task of the overdue candidate, if there is one, where the built-in default says.
    fn place_overdue(&mut self, candidates: &[Candidate], overdue: Option<usize>, hosts: &[HostRoom]) -> u32 {
        let Some(index) = overdue else { return 0 };
        let wanted = [Wanted { shape: &candidates[index].view, count: 1 }];
        let choices = LeastLoaded.place(&wanted, hosts).expect("a built-in policy does not fail");
        let placed = self.start(&checked(choices, &wanted, hosts).0, &wanted, hosts);
        self.dispatcher.since_guard = 0;
        self.tally.attempts_overdue += u64::from(placed);
        placed
    }

    /// Remembers which shapes were left in the queue although they fit somewhere.
    fn note_declined(&mut self, choices: &[Choice], wanted: &[Wanted<'_>], hosts: &[HostRoom]) {
        let mut hosts = hosts.to_vec();
        let mut counts: Vec<u32> = wanted.iter().map(|wish| wish.count).collect();
        for choice in choices {
            hosts[choice.host].free -= choice.count;
            counts[choice.wanted] -= choice.count;
        }
        for (wish, left) in wanted.iter().zip(counts) {
            if left > 0 && hosts.iter().any(|host| fits(wish.shape, host).is_ok()) {
                self.dispatcher.declined.insert(wish.shape.id);
            } else {
                self.dispatcher.declined.remove(&wish.shape.id);
            }
        }
    }

    /// Starts what was chosen.
    fn start(&mut self, choices: &[Choice], wanted: &[Wanted<'_>], hosts: &[HostRoom]) -> u32 {
        let mut placed = 0;
        for choice in choices {
            let (shape, host) = (wanted[choice.wanted].shape.id, &hosts[choice.host]);
            assert!(choice.count <= host.free, "no host gets more than it takes");
            let tenant = self.state.shapes.shape(shape).key.tenant;
            let weight = self.state.tenants.entry(tenant).weight;
            for _ in 0..choice.count {
                self.start_first_of(shape, &host.id);
            }
            self.shares.placed(tenant, weight, choice.count);
            placed += choice.count;
        }
        self.tally.attempts_started += u64::from(placed);
        placed
    }

    /// Starts the task in front of a shape's queue.
    fn start_first_of(&mut self, shape: Slot, host_id: &HostId) {
        let task = &self.state.tasks[self.state.shapes.shape(shape).queued.head];
        let id = AttemptId { task: task.id, attempt: task.attempt.next(), nonce: Nonce(self.random.draw()) };
        let queue_us = self.now.us_since(task.queued_at);
        let host = self.hosts.get_mut(host_id).expect("a choice names a host that is known");
        let incarnation = host.incarnation();
        host.flights.insert(id, Flight::new(self.now));
        self.outbox.assign(host_id, incarnation, id, queue_us);
        self.emit(EventBody::AttemptStarted { id, host: host_id.clone(), incarnation });
    }
}

/// Shapes of which something could be placed now.
fn candidates(state: &State, shares: &Shares, hosts: &[HostRoom]) -> Vec<Candidate> {
    // Many shapes need the same of a host.
    let mut reaches: BTreeMap<(u64, Arc<Labels>), u32> = BTreeMap::new();
    let mut candidates = Vec::new();
    for &shape in &state.shapes.with_queued {
        let tenant = state.shapes.shape(shape).key.tenant;
        if state.tenants.entry(tenant).removed {
            continue;
        }
        let view = view(state, shares, shape);
        let reach = reaches.entry((view.memory_bytes, Arc::clone(&view.require))).or_insert_with(|| {
            let fitting = hosts.iter().filter(|host| fits(&view, host).is_ok());
            fitting.map(|host| host.free).fold(0, u32::saturating_add)
        });
        let candidate = Candidate { reach: *reach, tenant, view };
        if limit(&candidate, 0, &tenant_room(state, tenant)) > 0 {
            candidates.push(candidate);
        }
    }
    candidates
}

/// What a policy sees of a shape that has a task in the queue.
pub(super) fn view(state: &State, shares: &Shares, shape: Slot) -> ShapeView {
    let (key, queued) = (&state.shapes.shape(shape).key, state.shapes.shape(shape).queued);
    let tenant = state.tenants.entry(key.tenant);
    ShapeView {
        id: shape,
        tenant: tenant.name.clone(),
        weight: tenant.weight.max(1),
        priority: key.priority,
        module: key.module,
        memory_bytes: key.memory_bytes,
        require: Arc::clone(&key.require),
        queued: queued.count,
        tenant_running: tenant.tasks_running,
        tenant_time: shares.time(key.tenant),
        oldest: state.tasks.find(queued.head).map_or(Timestamp::MAX, |task| task.queued_at),
    }
}

fn tenant_room(state: &State, tenant: TenantNumber) -> TenantRoom {
    let entry = state.tenants.entry(tenant);
    let left = |limit: Option<u64>, used: u64| limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
    TenantRoom {
        tasks: left(entry.quotas.tasks_running, entry.tasks_running),
        memory_bytes: left(entry.quotas.memory_bytes, entry.memory_bytes),
    }
}

/// How many more tasks of a candidate may be placed when `taken` are already meant to be.
fn limit(candidate: &Candidate, taken: u32, room: &TenantRoom) -> u32 {
    let by_memory = room.memory_bytes.checked_div(candidate.view.memory_bytes).unwrap_or(u64::MAX);
    let by_tenant = u32::try_from(room.tasks.min(by_memory)).unwrap_or(u32::MAX);
    candidate.view.queued.min(candidate.reach - taken.min(candidate.reach)).min(by_tenant)
}
