//! Shutting down: nothing new, hand back what has not started, let the rest finish or stop it when
//! the grace is over.

use expect_test::expect;
use wasmill_host_core::Input;
use wasmill_protocol::OutcomeKind;

use crate::world::World;

fn drain(world: &World, stop_at_ms: u64, give_up_at_ms: u64) -> Input {
    Input::Drain { stop_at: world.time(stop_at_ms), give_up_at: world.time(give_up_at_ms) }
}

/// Two run, one waits, and a drain has begun.
fn draining() -> World {
    let mut world = World::settled(2);
    world.assign(&[1, 2, 3]).check(expect![[r#"
        ack 0
        start #1
        start #2
    "#]]);
    let drain = drain(&world, 100, 200);
    world.at_ms(50).step(drain).assign(&[4, 1]).check(expect![[r#"
        ack 0 refused #4
        batch 1 of incarnation 1
          returned #3
        heartbeat with credit 0 draining holds #1 #2 #3
    "#]]);
    world
}

#[test]
fn an_idle_host_is_drained_at_once() {
    let mut world = World::settled(2);
    let drain = drain(&world, 100, 200);
    world.at_ms(50).step(drain).check(expect![[r#"
        heartbeat with credit 0 draining holds
        drained
    "#]]);
}

#[test]
fn what_runs_may_finish() {
    let mut world = draining();
    assert_eq!(world.next_timeout_ms(), Some(100));
    world.acknowledge(1).end(1, OutcomeKind::Succeeded).end(2, OutcomeKind::Rejected).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
          ended #2 rejected after 1000 us in queues
    "#]]);
    world.acknowledge(2).check(expect![[r#"
        drained
    "#]]);
}

#[test]
fn what_runs_on_is_stopped_and_handed_back() {
    let mut world = draining();
    // A cancelled one stays cancelled: its user has asked for it, and another host need not start
    // it.
    world.message(vec![], &[1]).check(expect![[r#"
        ack 0
        stop #1 Cancelled
    "#]]);
    world.at_ms(100).check(expect![[r#"
        stop #2 Drained
    "#]]);
    world.at_ms(101).end(1, OutcomeKind::Cancelled).end(2, OutcomeKind::Cancelled).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 cancelled after 1000 us in queues
          returned #2
    "#]]);
    world.acknowledge(1).acknowledge(2).check(expect![[r#"
        drained
    "#]]);
    assert_eq!(world.core.counters().returned, 2);
}

#[test]
fn one_that_ends_by_itself_while_it_is_stopped_keeps_its_result() {
    let mut world = draining();
    world.at_ms(100).message(vec![], &[2]).check(expect![[r#"
        ack 0
        stop #2 Cancelled
        stop #1 Drained
    "#]]);
    world.end(1, OutcomeKind::Succeeded).end(2, OutcomeKind::DeadlineExceeded).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
          ended #2 deadline_exceeded after 1000 us in queues
    "#]]);
}

#[test]
fn cancelled_after_the_stop_for_the_drain_is_cancelled() {
    let mut world = draining();
    world.at_ms(100).check(expect![[r#"
        stop #1 Drained
        stop #2 Drained
    "#]]);
    world.message(vec![], &[1]).end(1, OutcomeKind::Cancelled).check(expect![[r#"
        ack 0
        batch 2 of incarnation 1
          ended #1 cancelled after 1000 us in queues
    "#]]);
}

#[test]
fn nobody_is_waited_for_for_ever() {
    let mut world = draining();
    world.at_ms(199);
    assert!(!world.core.take_ready().drained);
    assert_eq!(world.next_timeout_ms(), Some(200));
    world.at_ms(200).check(expect![[r#"
        drained
    "#]]);
}

#[test]
fn a_second_drain_only_hurries() {
    let mut world = draining();
    let drain = drain(&world, 500, 80);
    world.at_ms(60).step(drain).check(expect![""]);
    assert_eq!(world.next_timeout_ms(), Some(80));
    world.at_ms(80).check(expect![[r#"
        stop #1 Drained
        stop #2 Drained
        drained
    "#]]);
}
