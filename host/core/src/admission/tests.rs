use std::sync::Arc;

use wasmill_protocol::{Limits, Nonce, TaskSpec};

use super::*;

/// A host with 100 bytes; attempts are named by their nonce.
struct Host {
    admission: Admission,
    places: Vec<(u64, Occupancy)>,
}

impl Host {
    fn new(slots: u32) -> Self {
        Self { admission: Admission::new(slots, 100), places: Vec::new() }
    }

    fn push(&mut self, nonce: u64, memory_bytes: u64) {
        self.push_of("default", 0, nonce, memory_bytes);
    }

    fn push_of(&mut self, tenant: &str, class: i8, nonce: u64, memory_bytes: u64) {
        let (limits, tenant) = (Limits { memory_bytes, ..Limits::default() }, tenant.parse().unwrap());
        let assignment = Assignment {
            id: AttemptId { nonce: Nonce(nonce), ..AttemptId::default() },
            spec: Arc::new(TaskSpec { limits, tenant, ..TaskSpec::default() }),
            class,
            ..Assignment::default()
        };
        self.admission.push(WaitingAttempt { assignment, taken_at: Timestamp(nonce), compile_us: 0 });
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
        self.admission.release(&self.places.remove(index).1);
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
    host.admission.release(&place);
    assert_eq!(host.started(), [2]);
    host.push(3, 10);
    host.admission.push_again(first);
    assert_eq!(host.end(2), [1]);
    assert_eq!(host.end(1), [3]);
}

#[test]
fn small_ones_pass_a_large_one_only_beside_it() {
    let mut host = Host::new(7);
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
    let mut host = Host::new(7);
    host.push(1, 60);
    host.push(2, 90);
    host.push(3, 10);
    host.push(4, 40);
    assert_eq!(host.started(), [1, 3]);
    assert!(host.admission.remove(AttemptId { nonce: Nonce(2), ..AttemptId::default() }).is_some());
    // The attempt that passed the second still runs when the fourth reserves; giving it back
    // concerns no reservation.
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

#[test]
fn c31_a_tenant_of_which_nothing_runs_goes_before_what_waits_of_the_others() {
    let mut host = Host::new(2);
    for nonce in 1..=4 {
        host.push_of("sleeper", 0, nonce, 1);
    }
    assert_eq!(host.started(), [1, 2]);
    host.push_of("other", 0, 10, 1);
    host.push_of("other", 0, 11, 1);
    assert_eq!(host.end(1), [10], "what was sent to the host long ago gives way");
    assert_eq!(host.end(10), [11]);
    assert_eq!(host.end(11), [3]);
}

#[test]
fn c31_the_last_slots_are_kept_for_tenants_that_run_nothing_or_little() {
    let mut host = Host::new(32);
    for nonce in 1..=64 {
        host.push_of("sleeper", 0, nonce, 1);
    }
    assert_eq!(host.started().len(), 28);
    for (tenant, first) in [("a", 100), ("b", 200), ("c", 300)] {
        for nonce in first..first + 9 {
            host.push_of(tenant, 0, nonce, 1);
        }
    }
    assert_eq!(host.started(), [100, 200, 300], "each gets one, and the last is left for a fourth");
    host.push_of("d", 0, 400, 1);
    assert_eq!(host.started(), [400]);
    assert_eq!(host.end(400), [] as [u64; 0]);
    assert_eq!(host.end(200), [201]);
    assert_eq!(host.end(1), [] as [u64; 0], "two are left: the sleeper is not the one that gets them");
    assert_eq!(host.end(2), [101], "one with little running may have another while more than twice that is free");
}

#[test]
fn hosts_of_few_slots_keep_none() {
    for slots in 1..8 {
        let mut host = Host::new(slots);
        (0..20).for_each(|nonce| host.push(nonce, 1));
        assert_eq!(host.started().len(), slots as usize);
    }
}

#[test]
fn c31_the_last_memory_is_kept_as_well() {
    let mut host = Host::new(16);
    for nonce in 1..=10 {
        host.push_of("large", 0, nonce, 20);
    }
    assert_eq!(host.started(), [1, 2, 3, 4], "of 100 bytes 12 are kept");
    host.push_of("other", 0, 100, 12);
    assert_eq!(host.started(), [100]);
    // An attempt that needs more than is not kept is not held back for ever.
    let mut host = Host::new(16);
    host.push_of("large", 0, 1, 10);
    host.push_of("large", 0, 2, 100);
    assert_eq!(host.started(), [1]);
    assert_eq!(host.end(1), [2]);
}

#[test]
fn a_higher_class_goes_first() {
    let mut host = Host::new(1);
    host.push_of("low", 0, 1, 1);
    host.push_of("low", 0, 2, 1);
    assert_eq!(host.started(), [1]);
    host.push_of("high", 7, 10, 1);
    host.push_of("high", 7, 11, 1);
    assert_eq!([host.end(1), host.end(10), host.end(11)], [[10], [11], [2]]);
}

#[test]
fn who_came_first_is_passed_a_bounded_number_of_times() {
    let mut host = Host::new(1);
    host.push_of("low", 0, 0, 1);
    assert_eq!(host.started(), [0]);
    host.push_of("low", 0, 1, 90);
    let mut order = Vec::new();
    let mut running = 0;
    for nonce in 10..30 {
        host.push_of("high", 1, nonce, 10);
        running = host.end(running)[0];
        order.push(running);
    }
    assert_eq!(order.iter().position(|nonce| *nonce == 1), Some(PASSED_MAX as usize), "{order:?}");
}
