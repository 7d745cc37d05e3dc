//! Which waiting attempt starts next: slots, memory, and rules that starve nobody.
//!
//! Attempts start in their [order](line). The last slots and the last memory are kept for tenants
//! that run nothing or little here ([`kept`]): one tenant alone never takes all of a host, however
//! long its guests run.
//!
//! When the first attempt needs more memory than is free, memory is *reserved* for it: those behind
//! it may still start, but only as far as all that have started past it fit *beside* it. So the
//! first waits only for attempts that ran before it became the first, never for one that overtook
//! it, and the smaller ones keep flowing in the memory that it does not need. And who came first is
//! passed by [`PASSED_MAX`] others at most.

mod line;

use std::collections::VecDeque;

use wasmill_protocol::message::Assignment;
use wasmill_protocol::{AttemptId, TenantName, Timestamp, kept};

use crate::bounds::{ADMISSION_SCAN_MAX, ADMISSION_SCAN_OF_TENANT_MAX, PASSED_MAX};
use line::{Line, TenantHere};

/// An attempt that has not started.
#[derive(Debug)]
pub(crate) struct WaitingAttempt {
    pub(crate) assignment: Assignment,
    pub(crate) taken_at: Timestamp,
    /// The compile time that was spent for it so far.
    pub(crate) compile_us: u64,
}

impl WaitingAttempt {
    /// Microseconds that the task has waited until `now`, here and before.
    pub(crate) fn queue_us(&self, now: Timestamp) -> u64 {
        self.assignment.queue_us.saturating_add(now.us_since(self.taken_at))
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.assignment.spec.limits.memory_bytes
    }
}

/// The slot and the memory that a started attempt occupies; to be given back with
/// [`Admission::release`].
#[derive(Debug, Clone)]
pub(crate) struct Occupancy {
    tenant: TenantName,
    memory_bytes: u64,
    /// The reservation that it started past.
    beside: Option<u64>,
}

/// Memory that is kept for the first of the queue.
#[derive(Debug)]
struct SlotReservation {
    /// Tells it from earlier ones.
    number: u64,
    /// For whom.
    first: AttemptId,
    /// Memory of the attempts that have started past it and still run.
    beside_bytes: u64,
}

/// Slots and memory of a host, and who waits for them.
#[derive(Debug)]
pub(crate) struct Admission {
    slots: u32,
    memory_bytes: u64,
    slots_used: u32,
    memory_used: u64,
    line: Line,
    /// Attempts that have started past the one that came first.
    passed: u32,
    reservation: Option<SlotReservation>,
    reservation_number: u64,
}

/// The result of a look along the line.
#[derive(Debug, Default)]
struct LineSearch {
    /// The attempt in front that lacks memory.
    first: Option<AttemptId>,
    /// Whose attempt starts, and which of them.
    start: Option<(TenantName, usize)>,
}

impl Admission {
    pub(crate) fn new(slots: u32, memory_bytes: u64) -> Self {
        Self {
            slots,
            memory_bytes,
            slots_used: 0,
            memory_used: 0,
            line: Line::default(),
            passed: 0,
            reservation: None,
            reservation_number: 0,
        }
    }

    /// Attempts that run.
    pub(crate) fn running(&self) -> usize {
        self.slots_used as usize
    }

    /// Memory that running attempts may use.
    pub(crate) fn memory_used(&self) -> u64 {
        self.memory_used
    }

    /// Memory that attempts may use that have not started.
    pub(crate) fn memory_waiting(&self) -> u64 {
        self.line.memory_bytes()
    }

    /// Attempts that have not started.
    pub(crate) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// Whether a guest could run right now if there were one.
    pub(crate) fn has_free_slot(&self) -> bool {
        self.slots_used < self.slots
    }

    /// Whether an attempt could ever start here.
    pub(crate) fn fits_at_all(&self, memory_bytes: u64) -> bool {
        memory_bytes <= self.memory_bytes
    }

    /// Queues an attempt that [fits](Self::fits_at_all).
    pub(crate) fn push(&mut self, waiting: WaitingAttempt) {
        assert!(self.fits_at_all(waiting.memory_bytes()), "an attempt larger than the host was taken");
        self.line.push(waiting);
    }

    /// Puts an attempt that had its turn before back where it was: in front of those that came
    /// later.
    pub(crate) fn push_again(&mut self, waiting: WaitingAttempt) {
        self.line.push(waiting);
    }

    /// Takes an attempt out that has not started.
    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<WaitingAttempt> {
        self.line.remove(id)
    }

    /// Takes all attempts out that have not started, in the order in which they came.
    pub(crate) fn remove_all(&mut self) -> VecDeque<WaitingAttempt> {
        self.reservation = None;
        self.line.remove_all()
    }

    /// The next attempt that starts now, if any.
    pub(crate) fn start_next(&mut self) -> Option<(WaitingAttempt, Occupancy)> {
        if !self.has_free_slot() || self.line.len() == 0 {
            return None;
        }
        let found = if self.passed < PASSED_MAX {
            self.look(self.line.by_turn())
        } else {
            self.look(self.line.by_arrival().map(|(_, tenant)| tenant))
        };
        let beside = self.reserve(found.first);
        let (tenant, index) = found.start?;
        Some(self.start(&tenant, index, beside))
    }

    /// Looks for the attempt that starts, past those that cannot.
    fn look<'a>(&'a self, order: impl Iterator<Item = &'a TenantName>) -> LineSearch {
        let free_bytes = self.memory_bytes - self.memory_used;
        let (mut found, mut beside_bytes_max) = (LineSearch::default(), u64::MAX);
        let mut looks = ADMISSION_SCAN_MAX;
        for tenant in order {
            let here = self.line.of(tenant);
            let may_start = self.may_have_slot(here);
            for (index, waiting) in here.waiting().take(ADMISSION_SCAN_OF_TENANT_MAX).enumerate() {
                if looks == 0 {
                    return found;
                }
                looks -= 1;
                if !may_start {
                    break;
                }
                let needed_bytes = self.needed_bytes(here, waiting);
                if needed_bytes <= free_bytes && waiting.memory_bytes() <= beside_bytes_max {
                    found.start = Some((tenant.clone(), index));
                    return found;
                }
                if found.first.is_none() {
                    let first = waiting.assignment.id;
                    let reserved = self.reservation.as_ref().filter(|reservation| reservation.first == first);
                    let beside_bytes = reserved.map_or(0, |reservation| reservation.beside_bytes);
                    beside_bytes_max = (self.memory_bytes - needed_bytes).saturating_sub(beside_bytes);
                    found.first = Some(first);
                }
            }
        }
        found
    }

    /// Whether the tenant may have one more slot of those that are free.
    fn may_have_slot(&self, tenant: &TenantHere) -> bool {
        let free = self.slots - self.slots_used;
        free > kept::slots(self.slots) || kept::may_take(u64::from(tenant.running), u64::from(free))
    }

    /// The memory that must be free for an attempt to start: with what is kept, unless its tenant
    /// may take of that, or the attempt is so large that it leaves nothing to keep.
    fn needed_bytes(&self, tenant: &TenantHere, waiting: &WaitingAttempt) -> u64 {
        let (needed_bytes, kept_bytes) = (waiting.memory_bytes(), kept::memory_bytes(self.slots, self.memory_bytes));
        let free_bytes = self.memory_bytes - self.memory_used;
        let too_large = needed_bytes > self.memory_bytes - kept_bytes;
        if too_large || kept::may_take(tenant.memory_bytes, free_bytes) {
            needed_bytes
        } else {
            needed_bytes + kept_bytes
        }
    }

    /// Reserves memory for the first that lacks some. Returns the number of the reservation, which
    /// what starts now starts past.
    fn reserve(&mut self, first: Option<AttemptId>) -> Option<u64> {
        let first = first?;
        if self.reservation.as_ref().is_none_or(|reservation| reservation.first != first) {
            self.reservation_number += 1;
            self.reservation = Some(SlotReservation { number: self.reservation_number, first, beside_bytes: 0 });
        }
        Some(self.reservation_number)
    }

    fn start(&mut self, tenant: &TenantName, index: usize, beside: Option<u64>) -> (WaitingAttempt, Occupancy) {
        let may_start = self.line.by_arrival().take(ADMISSION_SCAN_MAX);
        let oldest = { may_start }.find(|(_, tenant)| self.may_have_slot(self.line.of(tenant))).map(|(at, _)| at);
        let (arrival, waiting) = self.line.start(tenant, index);
        self.passed = if oldest.is_some_and(|oldest| oldest < arrival) { self.passed.saturating_add(1) } else { 0 };
        if self.reservation.as_ref().is_some_and(|reservation| reservation.first == waiting.assignment.id) {
            self.reservation = None;
        }
        let place = Occupancy { tenant: tenant.clone(), memory_bytes: waiting.memory_bytes(), beside };
        if beside.is_some()
            && let Some(reservation) = &mut self.reservation
        {
            reservation.beside_bytes += place.memory_bytes;
        }
        self.slots_used += 1;
        self.memory_used += place.memory_bytes;
        assert!(self.slots_used <= self.slots, "more guests than slots");
        assert!(self.memory_used <= self.memory_bytes, "more memory promised than there is");
        (waiting, place)
    }

    /// Gives back what an ended attempt occupied.
    pub(crate) fn release(&mut self, place: &Occupancy) {
        self.slots_used -= 1;
        self.memory_used -= place.memory_bytes;
        self.line.ended(&place.tenant, place.memory_bytes);
        if let Some(reservation) = &mut self.reservation
            && place.beside == Some(reservation.number)
        {
            reservation.beside_bytes -= place.memory_bytes;
        }
    }
}

#[cfg(test)]
mod tests;
