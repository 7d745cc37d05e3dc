//! Random inputs against a leader that is told everything twice, late, or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use wasmill_host_core::bounds::{BATCHES_IN_FLIGHT_MAX, PREFETCH_MAX};
use wasmill_host_core::{Batch, Input, Ready, StopReason};
use wasmill_protocol::message::{Assignment, Report, StopCause};
use wasmill_protocol::{AttemptId, Incarnation, OutcomeKind, TaskSpec};

use crate::world::{World, assignment, ended, id};

const MEMORY_BYTES: u64 = 100;

/// One thing that happens. Numbers choose among what there is at that moment.
#[derive(Debug, Clone)]
enum Op {
    Assign {
        number: u64,
        memory_bytes: u64,
    },
    Cancel(u64),
    End {
        which: usize,
        kind: OutcomeKind,
    },
    Checkpoint {
        which: usize,
    },
    /// A started attempt turns out to be unready.
    Unready {
        which: usize,
    },
    /// An unready one is ready, or never will be.
    Readied {
        which: usize,
        fails: bool,
    },
    /// The leader gets a batch; its answer arrives, or the host hears of a failure, or of nothing
    /// yet.
    Deliver {
        which: usize,
        answer: Option<bool>,
    },
    Fail {
        which: usize,
    },
    Pass {
        ms: u64,
    },
    LoseLease,
    RegainLease,
    Drain,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => (0..60_u64, prop_oneof![Just(10), Just(25), Just(60), Just(100), Just(101)])
            .prop_map(|(number, memory_bytes)| Op::Assign { number, memory_bytes }),
        3 => (0..60_u64).prop_map(Op::Cancel),
        8 => (any::<usize>(), prop_oneof![Just(OutcomeKind::Succeeded), Just(OutcomeKind::Cancelled)])
            .prop_map(|(which, kind)| Op::End { which, kind }),
        3 => any::<usize>().prop_map(|which| Op::Checkpoint { which }),
        6 => any::<usize>().prop_map(|which| Op::Unready { which }),
        6 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(which, fails)| Op::Readied { which, fails }),
        8 => (any::<usize>(), prop_oneof![Just(Some(true)), Just(Some(false)), Just(None)])
            .prop_map(|(which, answer)| Op::Deliver { which, answer }),
        3 => any::<usize>().prop_map(|which| Op::Fail { which }),
        5 => (0..3000_u64).prop_map(|ms| Op::Pass { ms }),
        1 => Just(Op::LoseLease),
        2 => Just(Op::RegainLease),
        1 => Just(Op::Drain),
    ]
}

/// A host, its sandbox, and what its leader has heard.
struct Model {
    world: World,
    slots: u32,
    leased: bool,
    memory_bytes: BTreeMap<AttemptId, u64>,
    /// Taken and neither refused nor abandoned.
    accepted: BTreeSet<AttemptId>,
    started: BTreeSet<AttemptId>,
    /// Their cancel has come before they did.
    cancelled_early: BTreeSet<AttemptId>,
    in_sandbox: BTreeMap<AttemptId, u32>,
    /// The attempts that the shell compiles for.
    unready: BTreeSet<AttemptId>,
    in_flight: Vec<Batch>,
    /// The leader's record of each attempt: the number of its newest checkpoint, and its end.
    heard: BTreeMap<AttemptId, (u32, Option<Report>)>,
    /// The reports of a life of the host that is over, as the leader has heard them.
    abandoned: BTreeSet<AttemptId>,
    beats: u64,
}

impl Model {
    fn new(slots: u32) -> Self {
        Self {
            world: World::new(slots),
            slots,
            leased: true,
            memory_bytes: BTreeMap::new(),
            accepted: BTreeSet::new(),
            started: BTreeSet::new(),
            cancelled_early: BTreeSet::new(),
            in_sandbox: BTreeMap::new(),
            unready: BTreeSet::new(),
            in_flight: Vec::new(),
            heard: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            beats: 0,
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Assign { number, memory_bytes } => {
                // An attempt is the same one however often it is assigned.
                let memory_bytes = *self.memory_bytes.entry(id(*number)).or_insert(*memory_bytes);
                self.world.message(vec![of_tenant(*number, memory_bytes)], &[]);
                return self.settle(Some(id(*number)));
            }
            Op::Cancel(number) => {
                let known = self.accepted.contains(&id(*number)) || self.abandoned.contains(&id(*number));
                if self.leased && !known {
                    self.cancelled_early.insert(id(*number));
                }
                self.world.message(vec![], &[*number]);
            }
            Op::End { which, kind } => {
                let Some(id) = nth(self.in_sandbox.keys(), *which) else { return };
                self.in_sandbox.remove(&id);
                self.world.step(Input::Ended(ended(id, *kind)));
            }
            Op::Checkpoint { which } => {
                let Some(id) = nth(self.in_sandbox.keys(), *which) else { return };
                let number = self.in_sandbox.entry(id).or_default();
                *number += 1;
                let number = *number;
                self.world.checkpoint(id.nonce.0, number);
            }
            Op::Unready { which } => {
                // Found out before the guest does anything.
                let fresh: Vec<_> =
                    self.in_sandbox.iter().filter(|(_, saved)| **saved == 0).map(|(id, _)| *id).collect();
                let Some(id) = nth(fresh.iter(), *which) else { return };
                self.in_sandbox.remove(&id);
                self.started.remove(&id);
                self.unready.insert(id);
                let memory_bytes = self.memory_bytes[&id];
                self.world.step(Input::Unready(Box::new(assignment(id.nonce.0, memory_bytes))));
            }
            Op::Readied { which, fails } => {
                let Some(id) = nth(self.unready.iter(), *which) else { return };
                self.unready.remove(&id);
                if *fails {
                    self.world.step(Input::Ended(ended(id, OutcomeKind::ModuleInvalid)));
                } else {
                    self.world.readied(id.nonce.0, 7);
                }
            }
            Op::Deliver { which, answer } => self.deliver(*which, *answer),
            Op::Fail { which } => {
                if !self.in_flight.is_empty() {
                    let batch = self.in_flight.remove(which % self.in_flight.len());
                    self.world.step(Input::RequestFailed(batch.number));
                }
            }
            Op::Pass { ms } => {
                self.world.now = self.world.now.plus_ms(*ms);
                self.world.step(Input::Tick);
            }
            Op::LoseLease => self.lose_lease(),
            Op::RegainLease => {
                self.lose_lease();
                let next = Incarnation(self.world.core.incarnation().0 + 1);
                self.world.step(Input::LeaseRegained(next));
                self.leased = true;
            }
            Op::Drain => {
                let (stop_at, give_up_at) = (self.world.now.plus_ms(500), self.world.now.plus_ms(1_000_000_000));
                self.world.step(Input::Drain { stop_at, give_up_at });
            }
        }
        self.settle(None);
    }

    fn lose_lease(&mut self) {
        self.world.step(Input::LeaseLost);
        self.leased = false;
        self.in_flight.clear();
        self.abandoned.append(&mut self.accepted);
    }

    fn deliver(&mut self, which: usize, answer: Option<bool>) {
        if self.in_flight.is_empty() {
            return;
        }
        let index = which % self.in_flight.len();
        for report in &self.in_flight[index].message.reports {
            let (checkpoint, end) = self.heard.entry(report.id()).or_default();
            match report {
                Report::Checkpoint { number, .. } => {
                    let repeated = *number <= *checkpoint;
                    assert!(end.is_none() || repeated, "a new checkpoint after the end");
                    *checkpoint = (*checkpoint).max(*number);
                }
                report => match end {
                    Some(before) => assert_eq!(before, report, "two ends of one attempt"),
                    None => *end = Some(report.clone()),
                },
            }
        }
        match answer {
            Some(true) => {
                let number = self.in_flight.remove(index).number;
                let term = self.world.core.term();
                self.world.step(Input::Acknowledged { number, term });
            }
            Some(false) => drop(self.world.step(Input::RequestFailed(self.in_flight.remove(index).number))),
            None => {}
        }
    }

    /// Does what the host wants, and checks what always holds.
    fn settle(&mut self, assigned: Option<AttemptId>) {
        let Ready { acks, start, give_up, stop, batches, heartbeat, .. } = self.world.core.take_ready();
        let refused = acks.iter().any(|(_, ack)| !ack.refused.is_empty());
        if let Some(id) = assigned {
            let known = self.accepted.contains(&id) || self.abandoned.contains(&id);
            assert!(!(refused && self.accepted.contains(&id) && self.leased), "a known attempt was refused");
            if !refused && !known {
                self.accepted.insert(id);
            }
        }
        for assignment in start {
            assert!(self.accepted.contains(&assignment.id), "started without having been taken");
            assert!(self.started.insert(assignment.id), "started twice");
            assert!(!self.cancelled_early.contains(&assignment.id), "started after its cancel");
            self.in_sandbox.insert(assignment.id, 0);
        }
        for id in give_up {
            assert!(self.unready.remove(&id), "nobody compiles for {id:?}");
        }
        for (id, reason) in stop {
            assert!(matches!(reason, StopReason::Asked(StopCause::Cancelled) | StopReason::Drained));
            assert!(self.started.contains(&id), "stopped without having been started");
        }
        self.in_flight.extend(batches);
        if let Some(beat) = heartbeat {
            assert!(self.leased && beat.number > self.beats);
            self.beats = beat.number;
            assert!(beat.attempts.iter().all(|id| self.accepted.contains(id)));
        }
        self.check_bounds();
    }

    fn check_bounds(&self) {
        let core = &self.world.core;
        let memory_used: u64 = self.in_sandbox.keys().map(|id| self.memory_bytes[id]).sum();
        assert!(self.in_sandbox.len() <= self.slots as usize, "above the slots");
        assert!(memory_used <= MEMORY_BYTES, "above the memory");
        assert_eq!((core.running(), core.memory_used()), (self.in_sandbox.len(), memory_used));
        assert!(core.credit() <= self.slots + PREFETCH_MAX);
        let numbers: BTreeSet<_> = self.in_flight.iter().map(|batch| batch.number).collect();
        assert!(numbers.len() <= BATCHES_IN_FLIGHT_MAX);
        for id in &self.accepted {
            let over = self.heard.get(id).is_some_and(|(_, end)| end.is_some());
            assert!(over || core.holds(*id), "an attempt was lost");
        }
        assert_eq!(core.unready(), self.unready.len(), "the shell compiles for those that the core waits for");
        if core.waiting() > 0 && core.running() == 0 {
            panic!("something waits although everything is free");
        }
    }

    /// No more faults: everything that was taken ends and is heard of.
    fn heal(&mut self) {
        for _ in 0..10_000 {
            let idle = self.in_sandbox.is_empty()
                && self.unready.is_empty()
                && self.in_flight.is_empty()
                && self.world.core.waiting() == 0;
            if idle && self.world.core.next_timeout().is_none_or(|at| at > self.world.now.plus_ms(5_000)) {
                break;
            }
            self.apply(&Op::Deliver { which: 0, answer: Some(true) });
            self.apply(&Op::Readied { which: 0, fails: false });
            self.apply(&Op::End { which: 0, kind: OutcomeKind::Succeeded });
            self.apply(&Op::Pass { ms: 100 });
            let left = self.accepted.iter().any(|id| self.world.core.holds(*id));
            if !left && self.in_sandbox.is_empty() && self.unready.is_empty() {
                break;
            }
        }
        assert!(self.in_sandbox.is_empty());
        for id in &self.accepted {
            assert!(!self.world.core.holds(*id), "the end was never acknowledged");
            let end = self.heard.get(id).and_then(|(_, end)| end.as_ref());
            assert!(end.is_some(), "an attempt was taken and never reported");
            let returned = matches!(end, Some(Report::Returned { .. }));
            let succeeded =
                matches!(end, Some(Report::Ended { outcome, .. }) if outcome.kind == OutcomeKind::Succeeded);
            assert!(!succeeded || self.started.contains(id), "a result of an attempt that never ran");
            assert!(!returned || !succeeded);
        }
    }
}

/// Of one of three tenants, the last of which has a class of its own.
fn of_tenant(number: u64, memory_bytes: u64) -> Assignment {
    let of = number % 3;
    let mut assignment = assignment(number, memory_bytes);
    let spec = TaskSpec { tenant: format!("tenant-{of}").parse().unwrap(), ..TaskSpec::clone(&assignment.spec) };
    (assignment.spec, assignment.class) = (Arc::new(spec), i8::from(of == 2));
    assignment
}

fn nth<'a>(mut ids: impl ExactSizeIterator<Item = &'a AttemptId>, which: usize) -> Option<AttemptId> {
    let count = ids.len();
    (count > 0).then(|| ids.nth(which % count).copied()).flatten()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens(slots in prop_oneof![Just(3), Just(1), Just(9)], ops in prop::collection::vec(op(), 1..300)) {
        let mut model = Model::new(slots);
        model.settle(None);
        for op in &ops {
            model.apply(op);
        }
        model.heal();
    }
}
