//! Attempts whose module must be compiled or loaded first.

use std::sync::Arc;

use expect_test::expect;
use wasmill_host_core::Input;
use wasmill_host_core::bounds::{UNREADY_MS_MAX, UNREADY_PER_TENANT_MAX};
use wasmill_protocol::message::Assignment;
use wasmill_protocol::{OutcomeKind, TaskSpec};

use crate::world::{World, assignment, ended, id};

/// B38: who waits for a compilation holds no slot and no memory, and is before later ones when it
/// is over.
#[test]
fn an_unready_attempt_gives_its_place_to_the_next_one() {
    let mut world = World::settled(1);
    world.assign(&[1]).check(expect![[r"
        ack 0
        start #1
    "]]);
    world.at_ms(1);
    world.unready(1).assign(&[2, 3]).check(expect![[r"
        ack 0
        start #2
    "]]);
    assert_eq!((world.core.running(), world.core.waiting(), world.core.unready()), (1, 1, 1));
    assert_eq!(world.core.memory_used(), 10);
    world.at_ms(5).readied(1, 4_000).check(expect![[""]]);
    world.end(2, OutcomeKind::Succeeded).check(expect![[r"
        start #1
        batch 1 of incarnation 1
          ended #2 succeeded after 1000 us in queues
    "]]);
    world.end(1, OutcomeKind::Succeeded).check(expect![[r"
        start #3
        batch 2 of incarnation 1
          ended #1 succeeded after 6000 us in queues, compiled 4000 us
    "]]);
}

#[test]
fn what_can_never_be_compiled_ends_with_what_it_has_cost() {
    let mut world = World::settled(1);
    world.assign(&[1]).check(expect![[r"
        ack 0
        start #1
    "]]);
    let mut ended = ended(id(1), OutcomeKind::ModuleInvalid);
    ended.usage.compile_us = 9;
    world.at_ms(2).unready(1).step(Input::Ended(ended)).check(expect![[r"
        batch 1 of incarnation 1
          ended #1 module_invalid after 3000 us in queues, compiled 9 us
    "]]);
}

#[test]
fn one_that_is_cancelled_while_it_is_unready_ends_at_once() {
    let mut world = World::settled(1);
    world.assign(&[1]).core.take_ready();
    world.unready(1).message(vec![], &[1]).check(expect![[r"
        ack 0
        give up #1
        batch 1 of incarnation 1
          ended #1 cancelled after 1000 us in queues
    "]]);
    // The artifact that was compiled for it comes too late.
    world.readied(1, 5).check(expect![[""]]);
}

#[test]
fn a_drain_hands_unready_ones_back() {
    let mut world = World::settled(1);
    world.assign(&[1]).core.take_ready();
    let (stop_at, give_up_at) = (world.time(100), world.time(200));
    world.unready(1).step(Input::Drain { stop_at, give_up_at });
    assert_eq!(world.core.take_ready().give_up, [id(1)]);
    assert_eq!(world.core.unready(), 0);
}

#[test]
fn nobody_is_unready_for_ever() {
    let mut world = World::settled(1);
    world.assign(&[1]).core.take_ready();
    world.unready(1).core.take_ready();
    world.at_ms(UNREADY_MS_MAX - 1);
    assert_eq!(world.core.take_ready().give_up, []);
    world.at_ms(UNREADY_MS_MAX);
    let ready = world.core.take_ready();
    assert_eq!(ready.give_up, [id(1)]);
    let shown = format!("{:?}", ready.batches);
    assert!(shown.contains("DeadlineExceeded") && shown.contains("compile_ms_per_s"), "{shown}");
}

/// Others are sent as before, however many of one tenant are unready; of that tenant no more are
/// asked for.
#[test]
fn the_leader_hears_of_unready_attempts_and_of_tenants_that_have_enough() {
    let mut world = World::settled(4);
    let credit = world.core.credit();
    let greedy = |number: u64| Assignment {
        spec: Arc::new(TaskSpec { tenant: "greedy".parse().unwrap(), ..TaskSpec::clone(&assignment(number, 10).spec) }),
        ..assignment(number, 10)
    };
    for number in 0..UNREADY_PER_TENANT_MAX as u64 {
        world.message(vec![greedy(number)], &[]).core.take_ready();
        world.step(Input::Unready(Box::new(greedy(number)))).core.take_ready();
    }
    assert_eq!(world.core.credit(), credit + UNREADY_PER_TENANT_MAX as u32);
    world.at_ms(60);
    let beat = world.core.take_ready().heartbeat.expect("it is brought forward");
    assert_eq!((beat.unready as usize, &beat.sated), (UNREADY_PER_TENANT_MAX, &vec!["greedy".parse().unwrap()]));
    world.assign(&[1_000]).check(expect![[r"
        ack 0
        start #1000
    "]]);
    world.readied(0, 0).core.take_ready();
    world.at_ms(120);
    let beat = world.core.take_ready().heartbeat.expect("it is brought forward");
    assert_eq!((beat.unready as usize, beat.sated.len()), (UNREADY_PER_TENANT_MAX - 1, 0));
}

/// C31: what a tenant was sent while it was unready is more than the host would have taken, and
/// leaves the kept places all the same.
#[test]
fn what_has_become_ready_leaves_what_is_kept() {
    let mut world = World::settled(8);
    let sent: Vec<u64> = (1..=16).collect();
    world.assign(&sent);
    world.core.take_ready();
    for number in &sent {
        world.unready(*number);
    }
    let more: Vec<u64> = (17..=40).collect();
    world.assign(&more);
    world.core.take_ready();
    for number in sent {
        world.readied(number, 0);
        world.core.take_ready();
    }
    assert!(world.core.credit() >= 40 + 4, "{}", world.core.credit());
}
