//! Which waiting attempt starts next: slots, memory, and a rule that starves nobody.
//!
//! Attempts start in the order in which they came. When the first needs more memory than is free, memory is *reserved* for it:
//! those behind it may still start, but only as far as all that have started past it fit *beside* it. So the first
//! waits only for attempts that ran before it became the first, never for one that overtook it, and the smaller ones keep flowing
//! in the memory that it does not need.

use std::collections::VecDeque;

use wasmill_protocol::message::Assignment;
use wasmill_protocol::{AttemptId, Timestamp};

use crate::bounds::ADMISSION_SCAN_MAX;

/// An attempt that has not started.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) assignment: Assignment,
    pub(crate) taken_at: Timestamp,
    /// What was compiled for it so far.
    pub(crate) compile_us: u64,
}

impl Waiting {
    /// Microseconds that the task has waited until `now`, here and before.
    pub(crate) fn queue_us(&self, now: Timestamp) -> u64 {
        self.assignment.queue_us.saturating_add(now.us_since(self.taken_at))
    }

    fn memory_bytes(&self) -> u64 {
        self.assignment.spec.limits.memory_bytes
    }
}

/// What a started attempt occupies; to be given back with [`Admission::release`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    memory_bytes: u64,
    /// The reservation that it started past.
    beside: Option<u64>,
}

/// Memory that is kept for the first of the queue.
#[derive(Debug)]
struct Reservation {
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
    waiting: VecDeque<Waiting>,
    reservation: Option<Reservation>,
    reservation_number: u64,
}

impl Admission {
    pub(crate) fn new(slots: u32, memory_bytes: u64) -> Self {
        Self {
            slots,
            memory_bytes,
            slots_used: 0,
            memory_used: 0,
            waiting: VecDeque::new(),
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

    /// Attempts that have not started.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
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
    pub(crate) fn push(&mut self, waiting: Waiting) {
        assert!(self.fits_at_all(waiting.memory_bytes()), "an attempt larger than the host was taken");
        self.waiting.push_back(waiting);
    }

    /// Puts an attempt that had its turn before back where it was: in front of those that came later.
    pub(crate) fn push_again(&mut self, waiting: Waiting) {
        let before = self.waiting.iter().take_while(|other| other.taken_at < waiting.taken_at).count();
        self.waiting.insert(before, waiting);
    }

    /// Takes an attempt out that has not started.
    pub(crate) fn remove(&mut self, id: AttemptId) -> Option<Waiting> {
        let index = self.waiting.iter().position(|waiting| waiting.assignment.id == id)?;
        self.waiting.remove(index)
    }

    /// Takes all attempts out that have not started, in their order.
    pub(crate) fn remove_all(&mut self) -> VecDeque<Waiting> {
        self.reservation = None;
        std::mem::take(&mut self.waiting)
    }

    /// The next attempt that starts now, if any.
    pub(crate) fn start_next(&mut self) -> Option<(Waiting, Place)> {
        if !self.has_free_slot() {
            return None;
        }
        let first = self.waiting.front()?;
        let free_bytes = self.memory_bytes - self.memory_used;
        if first.memory_bytes() <= free_bytes {
            self.reservation = None;
            return self.start(0, None);
        }

        let first_id = first.assignment.id;
        let beside_bytes_max = self.memory_bytes - first.memory_bytes();
        let reservation = match &mut self.reservation {
            Some(reservation) if reservation.first == first_id => reservation,
            other => {
                self.reservation_number += 1;
                other.insert(Reservation { number: self.reservation_number, first: first_id, beside_bytes: 0 })
            }
        };
        let index = self.waiting.iter().take(ADMISSION_SCAN_MAX).position(|waiting| {
            let memory_bytes = waiting.memory_bytes();
            memory_bytes <= free_bytes && reservation.beside_bytes + memory_bytes <= beside_bytes_max
        })?;
        reservation.beside_bytes += self.waiting[index].memory_bytes();
        let number = reservation.number;
        self.start(index, Some(number))
    }

    fn start(&mut self, index: usize, beside: Option<u64>) -> Option<(Waiting, Place)> {
        let waiting = self.waiting.remove(index)?;
        let place = Place { memory_bytes: waiting.memory_bytes(), beside };
        self.slots_used += 1;
        self.memory_used += place.memory_bytes;
        assert!(self.slots_used <= self.slots, "more guests than slots");
        assert!(self.memory_used <= self.memory_bytes, "more memory promised than there is");
        Some((waiting, place))
    }

    /// Gives back what an ended attempt occupied.
    pub(crate) fn release(&mut self, place: Place) {
        self.slots_used -= 1;
        self.memory_used -= place.memory_bytes;
        if let Some(reservation) = &mut self.reservation
            && place.beside == Some(reservation.number)
        {
            reservation.beside_bytes -= place.memory_bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wasmill_protocol::{Limits, Nonce, TaskSpec};

    use super::*;

    /// A host with 100 bytes; attempts are named by their nonce.
    struct Host {
        admission: Admission,
        places: Vec<(u64, Place)>,
    }

    impl Host {
        fn new(slots: u32) -> Self {
            Self { admission: Admission::new(slots, 100), places: Vec::new() }
        }

        fn push(&mut self, nonce: u64, memory_bytes: u64) {
            let limits = Limits { memory_bytes, ..Limits::default() };
            let assignment = Assignment {
                id: AttemptId { nonce: Nonce(nonce), ..AttemptId::default() },
                spec: Arc::new(TaskSpec { limits, ..TaskSpec::default() }),
                ..Assignment::default()
            };
            self.admission.push(Waiting { assignment, taken_at: Timestamp(nonce), compile_us: 0 });
        }

        fn started(&mut self) -> Vec<u64> {
            let mut started = Vec::new();
            while let Some((waiting, place)) = self.admission.start_next() {
                let nonce = waiting.assignment.id.nonce.0;
                self.places.push((nonce, place));
                started.push(nonce);
            }
            started
        }

        fn end(&mut self, nonce: u64) -> Vec<u64> {
            let index = self.places.iter().position(|(running, _)| *running == nonce).unwrap();
            self.admission.release(self.places.remove(index).1);
            self.started()
        }
    }

    #[test]
    fn first_come_first_served_within_slots() {
        let mut host = Host::new(2);
        for nonce in 1..=4 {
            host.push(nonce, 10);
        }
        assert_eq!(host.started(), [1, 2]);
        assert_eq!(host.end(2), [3]);
        assert_eq!(host.end(1), [4]);
        assert_eq!((host.admission.running(), host.admission.memory_used()), (2, 20));
    }

    #[test]
    fn one_that_was_not_ready_comes_before_those_that_came_later() {
        let mut host = Host::new(1);
        host.push(1, 10);
        host.push(2, 10);
        let (first, place) = host.admission.start_next().unwrap();
        host.admission.release(place);
        assert_eq!(host.started(), [2]);
        host.push(3, 10);
        host.admission.push_again(first);
        assert_eq!(host.end(2), [1]);
        assert_eq!(host.end(1), [3]);
    }

    #[test]
    fn small_ones_pass_a_large_one_only_beside_it() {
        let mut host = Host::new(10);
        host.push(1, 50);
        host.push(2, 80);
        for nonce in 3..=6 {
            host.push(nonce, 10);
        }
        // 50 bytes are free, but only 20 of them will not be needed by the second.
        assert_eq!(host.started(), [1, 3, 4]);
        assert_eq!(host.end(3), [5]);
        // As soon as the one that was there before ends, the large one starts, whatever passed it.
        assert_eq!(host.end(1), [2]);
        assert_eq!(host.end(2), [6]);
    }

    #[test]
    fn one_as_large_as_the_host_starts_though_small_ones_keep_coming() {
        let mut host = Host::new(4);
        host.push(0, 25);
        assert_eq!(host.started(), [0]);
        host.push(1, 100);
        for nonce in 2..50 {
            host.push(nonce, 25);
        }
        assert_eq!(host.started(), [] as [u64; 0]);
        assert_eq!(host.end(0), [1]);
        assert_eq!(host.end(1), [2, 3, 4, 5]);
    }

    #[test]
    fn a_reservation_ends_with_the_one_it_was_for() {
        let mut host = Host::new(10);
        host.push(1, 60);
        host.push(2, 90);
        host.push(3, 10);
        host.push(4, 40);
        assert_eq!(host.started(), [1, 3]);
        assert!(host.admission.remove(AttemptId { nonce: Nonce(2), ..AttemptId::default() }).is_some());
        // What passed the second still runs when the fourth reserves; giving it back concerns no reservation.
        host.push(5, 10);
        assert_eq!(host.started(), [5]);
        assert_eq!(host.end(3), [] as [u64; 0]);
        assert_eq!(host.end(1), [4]);
    }

    #[test]
    fn slots_alone_never_let_a_passed_one_wait_again() {
        let mut host = Host::new(2);
        host.push(1, 60);
        host.push(2, 90);
        host.push(3, 10);
        host.push(4, 10);
        assert_eq!(host.started(), [1, 3]);
        assert_eq!(host.end(1), [2]);
    }
}
