//! Messages of the leader: assignments, cancellations, terms and incarnations.

use expect_test::expect;
use wasmill_host_core::bounds::{HEARTBEAT_MS, PREFETCH_MAX};
use wasmill_host_core::{Input, ReplyTo};
use wasmill_protocol::message::{Progress, StopCause, ToHost};
use wasmill_protocol::{Incarnation, OutcomeKind, Term};

use crate::world::{World, assignment, id};

fn of_term(term: u64, incarnation: u64, attempt: u64) -> Input {
    let message = ToHost {
        term: Term(term),
        incarnation: Incarnation(incarnation),
        assign: vec![assignment(attempt, 10)],
        stop: Vec::new(),
    };
    Input::Message { reply_to: ReplyTo(attempt), message }
}

#[test]
fn one_attempt_from_assignment_to_acknowledgement() {
    let mut world = World::new(2);
    world.check(expect![[r#"
        heartbeat with credit 4 holds
    "#]]);
    world.assign(&[1]).check(expect![[r#"
        ack 0
        start #1
    "#]]);
    world.at_ms(3).end(1, OutcomeKind::Succeeded).check(expect![[r#"
        batch 1 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
    assert!(world.core.holds(id(1)));
    world.acknowledge(1).check(expect![""]);
    assert!(!world.core.holds(id(1)));
}

#[test]
fn waiting_here_counts_as_queue_time() {
    let mut world = World::settled(1);
    world.assign(&[1, 2]).check(expect![[r#"
        ack 0
        start #1
    "#]]);
    world.at_ms(5).end(1, OutcomeKind::Errored).check(expect![[r#"
        start #2
        batch 1 of incarnation 1
          ended #1 errored after 1000 us in queues
    "#]]);
    world.at_ms(9).end(2, OutcomeKind::Trapped).check(expect![[r#"
        batch 2 of incarnation 1
          ended #2 trapped after 6000 us in queues
    "#]]);
}

#[test]
fn a_lower_term_than_the_highest_seen_is_refused() {
    let mut world = World::settled(2);
    world.step(of_term(5, 1, 1)).step(of_term(4, 1, 2)).step(of_term(5, 1, 3)).check(expect![[r#"
        ack 1
        ack 2 term_seen 5
        ack 3
        start #1
        start #3
    "#]]);
    assert_eq!(world.core.counters().stale, 1);
}

#[test]
fn another_life_of_the_host_is_refused_but_its_term_counts() {
    let mut world = World::settled(2);
    world.step(of_term(5, 2, 1)).step(of_term(6, 0, 2)).step(of_term(5, 1, 3)).check(expect![[r#"
        ack 1 refused #1
        ack 2 refused #2
        ack 3 term_seen 6
    "#]]);
}

#[test]
fn duplicates_run_once() {
    let mut world = World::settled(1);
    world.assign(&[1, 1, 2]).assign(&[2, 1]).check(expect![[r#"
        ack 0
        ack 0
        start #1
    "#]]);
    world.end(1, OutcomeKind::Succeeded).check(expect![[r#"
        start #2
        batch 1 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
    // Ended and being reported.
    world.assign(&[1]).check(expect![[r#"
        ack 0
    "#]]);
    // Reported, and the answer failed: a leader that asks again is there to listen.
    world.fail(1).check(expect![""]);
    world.assign(&[1]).check(expect![[r#"
        ack 0
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
    // Acknowledged: a delayed copy of the assignment never runs again.
    world.acknowledge(2).assign(&[1]).check(expect![[r#"
        ack 0
    "#]]);
    assert_eq!(world.core.counters().duplicates, 6);
    assert_eq!(world.core.counters().started, 2);
}

#[test]
fn cancelled_before_it_started() {
    let mut world = World::settled(1);
    world.assign(&[1, 2]).check(expect![[r#"
        ack 0
        start #1
    "#]]);
    world.at_ms(4).message(vec![assignment(3, 10)], &[2, 3]).check(expect![[r#"
        ack 0
        batch 1 of incarnation 1
          ended #2 cancelled after 5000 us in queues
          ended #3 cancelled after 1000 us in queues
    "#]]);
    world.end(1, OutcomeKind::Succeeded).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
    assert_eq!(world.core.counters().started, 1);
}

#[test]
fn cancelled_while_running_is_asked_once() {
    let mut world = World::settled(1);
    world.assign(&[1]).check(expect![[r#"
        ack 0
        start #1
    "#]]);
    world.message(vec![], &[1, 7]).check(expect![[r#"
        ack 0
        stop #1 Cancelled
    "#]]);
    world.message(vec![], &[1]).check(expect![[r#"
        ack 0
    "#]]);
    world.end(1, OutcomeKind::Cancelled).check(expect![[r#"
        batch 1 of incarnation 1
          ended #1 cancelled after 1000 us in queues
    "#]]);
    world.message(vec![], &[1]).check(expect![[r#"
        ack 0
    "#]]);
}

/// B06 of the hostile inputs: memory is promised to guests before they touch it.
#[test]
fn b06_memory_bounds_what_runs() {
    let mut world = World::settled(8);
    let large = [1, 2, 3, 4].map(|number| assignment(number, 40)).to_vec();
    world.message(large, &[]).check(expect![[r#"
        ack 0
        start #1
        start #2
    "#]]);
    assert_eq!((world.core.running(), world.core.waiting(), world.core.memory_used()), (2, 2, 80));
    world.end(1, OutcomeKind::MemoryExceeded).check(expect![[r#"
        start #3
        batch 1 of incarnation 1
          ended #1 memory_exceeded after 1000 us in queues
    "#]]);
}

#[test]
fn what_can_never_fit_is_refused() {
    let mut world = World::settled(1);
    world.message(vec![assignment(1, 100), assignment(2, 101)], &[]).check(expect![[r#"
        ack 0 refused #2
        start #1
    "#]]);
}

#[test]
fn a_host_takes_a_bounded_number() {
    let mut world = World::settled(2);
    let numbers: Vec<u64> = (1..=2 + u64::from(PREFETCH_MAX) + 3).collect();
    world.assign(&numbers);
    let ready = world.core.take_ready();
    assert_eq!(ready.acks[0].1.refused, [1027, 1028, 1029].map(id));
    assert_eq!(world.core.running() + world.core.waiting(), 1026);
}

#[test]
fn a_heartbeat_a_second_with_what_is_known() {
    let mut world = World::settled(1);
    world.assign(&[1, 2]);
    world.core.take_ready();
    assert_eq!(world.next_timeout_ms(), Some(HEARTBEAT_MS));
    let progress = Progress { done: 3, total: 9, message: "é".repeat(600) };
    world.step(Input::Progress(id(1), progress)).at_ms(999).check(expect![""]);
    world.core.step(world.now.plus_ms(1), Input::Tick);
    let beat = world.core.take_ready().heartbeat.unwrap();
    assert_eq!((beat.attempts, beat.credit), (vec![id(1), id(2)], 2));
    assert_eq!((beat.progress[0].0, beat.progress[0].1.done), (id(1), 3));
    assert_eq!(beat.progress[0].1.message, "é".repeat(512));
}

#[test]
fn memory_that_is_held_is_told_whether_it_is_used_or_not() {
    let mut world = World::settled(1);
    let held = |world: &mut World, at_ms: u64| world.at_ms(at_ms).core.take_ready().heartbeat.unwrap().memory_held;
    world.assign(&[1, 2, 3]).core.take_ready();
    world.unready(1).core.take_ready();
    assert_eq!(held(&mut world, 1_000), 30, "one is unready, one runs, one waits");
    world.end(2, OutcomeKind::Succeeded).core.take_ready();
    assert_eq!(held(&mut world, 2_000), 20, "what has ended holds nothing");
    world.step(Input::LeaseLost).step(Input::LeaseRegained(Incarnation(2))).core.take_ready();
    assert_eq!(held(&mut world, 3_000), 10, "what an earlier life has left runs still");
}

#[test]
fn credit_that_changes_much_is_told_at_once() {
    let mut world = World::settled(1);
    for number in 1..=200 {
        world.assign(&[number]);
        world.core.take_ready();
        world.end(number, OutcomeKind::Succeeded);
        for batch in world.core.take_ready().batches {
            world.acknowledge(batch.number.0);
        }
    }
    world.at_ms(50).check(expect![[r#"
        heartbeat with credit 81 holds
    "#]]);
    assert_eq!(world.next_timeout_ms(), Some(1050));
}

/// A cause that ends an attempt says so in its outcome; one of a newer leader hands it back,
/// wherever it is.
#[test]
fn what_is_stopped_ends_as_its_cause_says() {
    let mut world = World::settled(2);
    world.assign(&[1, 2, 3, 4]).check(expect![[r#"
        ack 0
        start #1
        start #2
    "#]]);
    let causes = [(1, StopCause::TenantRemoved), (2, StopCause::Unknown), (3, StopCause::NotCurrent)];
    world.stop(&causes).stop(&[(4, StopCause::Unknown), (5, StopCause::Unknown)]).check(expect![[r#"
        ack 0
        ack 0
        stop #1 TenantRemoved
        stop #2 Unknown
        batch 1 of incarnation 1
          ended #3 cancelled after 1000 us in queues: stopped because it is not the current attempt of its task
          returned #4
    "#]]);
    // A cancel counts more than what hands the attempt back, and the other way round it does not.
    world.stop(&[(2, StopCause::Cancelled), (1, StopCause::Unknown)]).assign(&[5]);
    world.end(1, OutcomeKind::Cancelled).end(2, OutcomeKind::Cancelled).check(expect![[r#"
        ack 0
        ack 0
        batch 2 of incarnation 1
          returned #5
          ended #1 cancelled after 1000 us in queues: stopped because its tenant was removed
          ended #2 cancelled after 1000 us in queues
    "#]]);
}

/// F55
#[test]
fn a_cancel_that_comes_before_its_attempt_is_remembered() {
    let mut world = World::settled(2);
    world.message(vec![], &[1, 3]).check(expect![[r#"
        ack 0
    "#]]);
    world.assign(&[1, 2]).check(expect![[r#"
        ack 0
        start #2
        batch 1 of incarnation 1
          ended #1 cancelled after 1000 us in queues
    "#]]);
    // A copy of it is known, and so is one that comes after the end is acknowledged.
    world.assign(&[1]).check(expect![[r#"
        ack 0
    "#]]);
    world.acknowledge(1).assign(&[1]).check(expect![[r#"
        ack 0
    "#]]);
    world.assign(&[3, 4]);
    assert!(world.core.holds(id(3)) && world.core.running() == 1);
}
