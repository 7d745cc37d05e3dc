//! Whose turn it is: a bounded number at the same time, shared fairly by tenants. Children that
//! compile take turns so, and what is stored for guests.
//!
//! The decision is [`SlotQueue`], a plain data structure; [`Slots`] lets futures wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use wasmill_protocol::TenantName;

/// For whom something is done.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lane {
    /// A tenant.
    Tenant(TenantName),
    /// Nobody in particular.
    Host,
}

/// How many have their turn at the same time and how many wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimits {
    /// At the same time.
    pub running: usize,
    /// Of one tenant at the same time: fewer than all, where there are several.
    pub running_per_tenant: usize,
    /// Requests that wait, of all tenants together.
    pub waiting: usize,
    /// Requests of one tenant that wait.
    pub waiting_per_tenant: usize,
}

impl SlotLimits {
    /// Half of the cores, but at least two.
    pub fn for_cores(cores: usize) -> Self {
        Self::of((cores / 2).max(2))
    }

    /// This many children at the same time, half of them for one tenant at most. The lines are
    /// short, because who waits has a connection open.
    pub fn of(running: usize) -> Self {
        Self { running, running_per_tenant: (running / 2).max(1), waiting: 1_024, waiting_per_tenant: 32 }
    }

    /// Without a bound on those that wait, for what has a bound of its own.
    pub(crate) fn endless_lines(running: usize, running_per_tenant: usize) -> Self {
        Self { running, running_per_tenant, waiting: usize::MAX, waiting_per_tenant: usize::MAX }
    }
}

/// The answer of [`SlotQueue::ask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SlotRequest {
    Granted,
    Queued,
    Refused,
}

/// Tickets that run and those that wait. Lanes take turns; within a lane it is first come, first
/// served.
#[derive(Debug)]
struct SlotQueue<T> {
    limits: SlotLimits,
    running: BTreeMap<Lane, usize>,
    waiting: BTreeMap<Lane, VecDeque<T>>,
    /// The lanes with waiting requests, the one whose turn is next in front.
    turns: VecDeque<Lane>,
}

impl<T> SlotQueue<T> {
    fn new(limits: SlotLimits) -> Self {
        Self { limits, running: BTreeMap::new(), waiting: BTreeMap::new(), turns: VecDeque::new() }
    }

    fn ask(&mut self, lane: &Lane, ticket: impl FnOnce() -> T) -> SlotRequest {
        if self.has_room(lane) {
            self.start(lane);
            return SlotRequest::Granted;
        }
        let waiting_all: usize = self.waiting.values().map(VecDeque::len).sum();
        let waiting = self.waiting.get(lane).map_or(0, VecDeque::len);
        if waiting_all >= self.limits.waiting || waiting >= self.limits.waiting_per_tenant {
            return SlotRequest::Refused;
        }
        if waiting == 0 {
            self.turns.push_back(lane.clone());
        }
        self.waiting.entry(lane.clone()).or_default().push_back(ticket());
        SlotRequest::Queued
    }

    /// One of this lane has ended.
    fn end(&mut self, lane: &Lane) {
        let running = self.running.get_mut(lane).expect("only what was granted ends");
        *running -= 1;
        if *running == 0 {
            self.running.remove(lane);
        }
    }

    /// The next ticket, if one may start now. The caller of `true` answers starts; of a ticket that
    /// is no longer wanted, ends.
    fn next(&mut self) -> Option<(Lane, T)> {
        let at = self.turns.iter().position(|lane| self.has_room(lane))?;
        let lane = self.turns.remove(at).expect("the position was just found");
        let line = self.waiting.get_mut(&lane).expect("a lane whose turn comes has somebody waiting");
        let ticket = line.pop_front().expect("a lane whose turn comes has somebody waiting");
        if line.is_empty() {
            self.waiting.remove(&lane);
        } else {
            self.turns.push_back(lane.clone());
        }
        self.start(&lane);
        Some((lane, ticket))
    }

    /// Takes those who do not want to wait any more out of a lane.
    fn keep(&mut self, lane: &Lane, is_wanted: impl FnMut(&T) -> bool) {
        let Some(line) = self.waiting.get_mut(lane) else { return };
        line.retain(is_wanted);
        if line.is_empty() {
            self.waiting.remove(lane);
            self.turns.retain(|waiting| waiting != lane);
        }
    }

    fn start(&mut self, lane: &Lane) {
        *self.running.entry(lane.clone()).or_default() += 1;
    }

    fn has_room(&self, lane: &Lane) -> bool {
        let running_all: usize = self.running.values().sum();
        let running = self.running.get(lane).copied().unwrap_or(0);
        running_all < self.limits.running && running < self.limits.running_per_tenant
    }
}

/// The slots, for futures to wait for.
#[derive(Debug)]
pub(crate) struct Slots {
    line: Mutex<SlotQueue<oneshot::Sender<Permit>>>,
}

/// A slot; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Permit {
    slots: Arc<Slots>,
    lane: Lane,
}

/// The waiting line is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LineFull;

impl Slots {
    pub(crate) fn new(limits: SlotLimits) -> Arc<Self> {
        Arc::new(Self { line: Mutex::new(SlotQueue::new(limits)) })
    }

    /// Waits for a slot. Dropping the future gives up the place in the line.
    pub(crate) async fn acquire(self: &Arc<Self>, lane: Lane) -> Result<Permit, LineFull> {
        // Declared first, so that the receiver is dropped before it.
        let place = SlotPermit { slots: self, lane: &lane };
        let (grant, granted) = oneshot::channel();
        let asked = self.line().ask(&lane, || grant);
        match asked {
            SlotRequest::Granted => {
                drop(place);
                Ok(Permit { slots: Arc::clone(self), lane })
            }
            SlotRequest::Refused => Err(LineFull),
            // The sender is in the line until it is used.
            SlotRequest::Queued => Ok(granted.await.expect("a place in the line is kept until its turn")),
        }
    }

    /// Waits for a tenant's slot, where [lines have no end](SlotLimits::endless_lines).
    pub(crate) async fn turn(self: &Arc<Self>, tenant: &TenantName) -> Permit {
        match self.acquire(Lane::Tenant(tenant.clone())).await {
            Ok(permit) => permit,
            Err(LineFull) => unreachable!("lines are endless"),
        }
    }

    /// How many wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.line().waiting.values().map(VecDeque::len).sum()
    }

    fn line(&self) -> MutexGuard<'_, SlotQueue<oneshot::Sender<Permit>>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts everybody who may start now.
    fn start_next(self: &Arc<Self>) {
        loop {
            let Some((lane, grant)) = self.line().next() else { return };
            // Nobody may wait any more: then the permit comes back, and dropping it here would lock
            // again and again down the stack, so it is ended by hand.
            if let Err(permit) = grant.send(Permit { slots: Arc::clone(self), lane }) {
                self.line().end(&permit.lane);
                std::mem::forget(permit);
            }
        }
    }
}

/// A place in the line; dropping it takes out what is waited for no more.
struct SlotPermit<'a> {
    slots: &'a Slots,
    lane: &'a Lane,
}

impl Drop for SlotPermit<'_> {
    fn drop(&mut self) {
        self.slots.line().keep(self.lane, |grant| !grant.is_closed());
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.slots.line().end(&self.lane);
        self.slots.start_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str) -> Lane {
        Lane::Tenant(name.parse().unwrap())
    }

    fn limits() -> SlotLimits {
        SlotLimits { running: 2, running_per_tenant: 1, waiting: 5, waiting_per_tenant: 3 }
    }

    #[test]
    fn one_tenant_never_holds_all_slots() {
        let mut line = SlotQueue::new(limits());
        let (greedy, other) = (tenant("greedy"), tenant("other"));
        assert_eq!(line.ask(&greedy, || 1), SlotRequest::Granted);
        for ticket in 2..=4 {
            assert_eq!(line.ask(&greedy, || ticket), SlotRequest::Queued);
        }
        assert_eq!(line.ask(&greedy, || 5), SlotRequest::Refused);
        assert_eq!(line.ask(&other, || 6), SlotRequest::Granted);
        assert_eq!(line.next(), None);
        line.end(&greedy);
        assert_eq!(line.next(), Some((greedy.clone(), 2)));
        assert_eq!(line.next(), None);
    }

    #[test]
    fn lanes_take_turns() {
        let mut line = SlotQueue::new(SlotLimits { running: 1, ..limits() });
        assert_eq!(line.ask(&Lane::Host, || 0), SlotRequest::Granted);
        for (lane, ticket) in [("a", 1), ("a", 2), ("b", 3), ("c", 4), ("a", 5)] {
            assert_eq!(line.ask(&tenant(lane), || ticket), SlotRequest::Queued);
        }
        assert_eq!(line.ask(&tenant("d"), || 6), SlotRequest::Refused);
        let mut running = Lane::Host;
        let mut order = Vec::new();
        loop {
            line.end(&running);
            let Some((lane, ticket)) = line.next() else { break };
            order.push(ticket);
            running = lane;
        }
        assert_eq!(order, [1, 3, 4, 2, 5]);
    }

    #[tokio::test]
    async fn who_gives_up_frees_the_place() {
        let slots = Slots::new(SlotLimits { running: 1, ..limits() });
        let held = slots.acquire(tenant("a")).await.unwrap();
        let mut impatient = Box::pin(slots.acquire(tenant("b")));
        let mut patient = Box::pin(slots.acquire(tenant("c")));
        assert!(futures::poll!(&mut impatient).is_pending());
        assert!(futures::poll!(&mut patient).is_pending());
        assert_eq!(slots.waiting(), 2);
        drop(impatient);
        assert_eq!(slots.waiting(), 1);
        drop(held);
        let permit = patient.await.unwrap();
        assert_eq!(permit.lane, tenant("c"));
        drop(permit);
        // Nothing is left over: the one slot can be had again.
        drop(slots.acquire(tenant("d")).await.unwrap());
        assert!(slots.line().running.is_empty());
    }
}
