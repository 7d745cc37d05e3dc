//! Losing the lease: the leader has given everything away, so nothing of it may run on or be told.

use expect_test::expect;
use wasmill_host_core::Input;
use wasmill_protocol::{Incarnation, OutcomeKind};

use crate::world::{World, assignment, id};

/// One ended and unacknowledged, one runs, one waits.
fn busy() -> World {
    let mut world = World::settled(1);
    world.message([1, 2, 3].map(|number| assignment(number, 60)).to_vec(), &[]);
    world.core.take_ready();
    world.end(1, OutcomeKind::Succeeded);
    world.core.take_ready();
    world
}

#[test]
fn everything_is_stopped_and_forgotten() {
    let mut world = busy();
    world.step(Input::LeaseLost).check(expect![[r#"
        stop #2 Drained
    "#]]);
    assert_eq!(world.core.next_timeout(), None, "no heartbeats and no reports without a lease");
    // The attempt occupies its place until the sandbox has ended it; what it says of its end is
    // dropped.
    assert_eq!((world.core.running(), world.core.memory_used(), world.core.waiting()), (1, 60, 0));
    world.at_ms(5000).fail(1).end(2, OutcomeKind::Succeeded).assign(&[4]).check(expect![[r#"
        ack 0 refused #4
    "#]]);
    assert_eq!((world.core.running(), world.core.memory_used()), (0, 0));
    assert_eq!(world.core.counters().abandoned, 3);
}

#[test]
fn a_new_life_begins_with_what_is_free() {
    let mut world = busy();
    world.step(Input::LeaseLost).step(Input::LeaseRegained(Incarnation(2)));
    world.at_ms(70).assign(&[4, 2, 3, 1]).check(expect![[r#"
        ack 0
        stop #2 Drained
        heartbeat with credit 2 holds #4
    "#]]);
    world.end(2, OutcomeKind::Cancelled).check(expect![[r#"
        start #4
    "#]]);
    world.end(4, OutcomeKind::Succeeded).check(expect![[r#"
        batch 2 of incarnation 2
          ended #4 succeeded after 1000 us in queues
    "#]]);
    assert!(!world.core.holds(id(2)));
}

#[test]
fn a_draining_host_without_a_lease_waits_for_the_sandbox_only() {
    let mut world = busy();
    let (stop_at, give_up_at) = (world.now.plus_ms(100), world.now.plus_ms(200));
    world.step(Input::LeaseLost).step(Input::Drain { stop_at, give_up_at }).check(expect![[r#"
        stop #2 Drained
    "#]]);
    world.end(2, OutcomeKind::Cancelled).check(expect![[r#"
        drained
    "#]]);
}
