//! Reports reach the leader: in order for each attempt, in bounded batches, again and again until
//! acknowledged.

use expect_test::expect;
use wasmill_host_core::bounds::{BATCH_BYTES_MAX, BATCH_REPORTS_MAX, BATCHES_IN_FLIGHT_MAX, RESEND_MS, RESEND_MS_MAX};
use wasmill_host_core::{Ended, Input, ReplyTo};
use wasmill_protocol::limits::INLINE_BYTES_MAX;
use wasmill_protocol::message::ToHost;
use wasmill_protocol::{OutcomeKind, Payload, Term};

use crate::world::{INCARNATION, World, ended, id};

/// Assigns attempts one after the other and ends each at once.
fn run(world: &mut World, numbers: std::ops::RangeInclusive<u64>, end: impl Fn(u64) -> Ended) {
    for number in numbers {
        world.assign(&[number]);
        let ready = world.core.take_ready();
        assert_eq!(ready.start.len(), 1);
        world.step(Input::Ended(end(number)));
    }
}

#[test]
fn reports_gather_while_batches_are_in_flight() {
    let mut world = World::settled(1);
    let mut sent = Vec::new();
    for number in 1..=6 {
        world.assign(&[number]);
        world.core.take_ready();
        world.end(number, OutcomeKind::Succeeded);
        sent.push(world.core.take_ready().batches.len());
    }
    assert_eq!(sent, [1, 1, 1, 1, 0, 0]);
    world.acknowledge(3).check(expect![[r#"
        batch 5 of incarnation 1
          ended #5 succeeded after 1000 us in queues
          ended #6 succeeded after 1000 us in queues
    "#]]);
}

#[test]
fn a_batch_is_bounded_by_number_and_bytes() {
    let mut world = World::settled(1);
    let blocked = BATCHES_IN_FLIGHT_MAX as u64;
    run(&mut world, 1..=blocked, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    let large = |number| {
        let bytes = vec![0; INLINE_BYTES_MAX as usize];
        Ended { output: Payload::inline(bytes.into()), ..ended(id(number), OutcomeKind::Succeeded) }
    };
    run(&mut world, 11..=30, large);
    run(&mut world, 1001..=1000 + 2 * BATCH_REPORTS_MAX as u64, |number| ended(id(number), OutcomeKind::Succeeded));
    for batch in 1..=blocked {
        world.acknowledge(batch);
    }
    let batches = world.core.take_ready().batches;
    let counts: Vec<usize> = batches.iter().map(|batch| batch.message.reports.len()).collect();
    assert_eq!(counts, [15, 512, 512, 5], "of at most {BATCH_BYTES_MAX} bytes and {BATCH_REPORTS_MAX} reports");
}

#[test]
fn a_failed_batch_is_sent_again_ever_later() {
    let mut world = World::settled(1);
    run(&mut world, 1..=1, |number| ended(id(number), OutcomeKind::Succeeded));
    let mut waits = Vec::new();
    let mut batches = world.core.take_ready().batches;
    for _ in 0..8 {
        let failed_at = world.now;
        world.step(Input::RequestFailed(batches[0].number));
        // Heartbeats come in between.
        loop {
            batches = world.core.take_ready().batches;
            if !batches.is_empty() {
                break;
            }
            world.now = world.core.next_timeout().unwrap();
            world.step(Input::Tick);
        }
        waits.push(world.now.us_since(failed_at) / 1000);
    }
    for (failures, wait) in waits.iter().enumerate() {
        let bound = (RESEND_MS << failures).min(RESEND_MS_MAX);
        assert!((bound / 2..=bound).contains(wait), "after {failures} failures {wait} ms");
    }
}

#[test]
fn an_answer_to_an_earlier_sending_changes_nothing() {
    let mut world = World::settled(1);
    run(&mut world, 1..=1, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    world.fail(1).at_ms(50).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
    world.fail(1).acknowledge(1).check(expect![""]);
    assert!(world.core.holds(id(1)));
    world.acknowledge(2).check(expect![""]);
    assert!(!world.core.holds(id(1)));
}

#[test]
fn a_new_leader_is_told_at_once() {
    let mut world = World::settled(1);
    run(&mut world, 1..=1, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    let message = ToHost { term: Term(2), incarnation: INCARNATION, ..ToHost::default() };
    world.step(Input::Message { reply_to: ReplyTo(9), message }).check(expect![[r#"
        ack 9
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
}

#[test]
fn f05_a_leader_that_was_replaced_acknowledges_nothing() {
    let mut world = World::settled(1);
    run(&mut world, 1..=1, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    let message = ToHost { term: Term(2), incarnation: INCARNATION, ..ToHost::default() };
    world.step(Input::Message { reply_to: ReplyTo(9), message }).core.take_ready();
    world.acknowledge_in(1, 2).at_ms(50).check(expect![[r#"
        batch 3 of incarnation 1
          ended #1 succeeded after 1000 us in queues
        heartbeat with credit 2 holds #1
    "#]]);
    assert!(world.core.holds(id(1)));
    world.acknowledge_in(2, 3).check(expect![""]);
    assert!(!world.core.holds(id(1)));
}

#[test]
fn an_acknowledgement_can_be_the_first_that_is_heard_of_a_new_leader() {
    let mut world = World::settled(2);
    run(&mut world, 1..=1, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    run(&mut world, 2..=2, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    // A report that the one before may have taken along is sent again.
    world.acknowledge_in(2, 1).check(expect![[r#"
        batch 3 of incarnation 1
          ended #2 succeeded after 1000 us in queues
    "#]]);
    assert_eq!(world.core.term(), Term(2));
}

#[test]
fn a_checkpoint_comes_before_what_follows_it() {
    let mut world = World::settled(1);
    world.assign(&[1]);
    world.core.take_ready();
    world.checkpoint(1, 1).check(expect![[r#"
        batch 1 of incarnation 1
          checkpoint #1 number 1
    "#]]);
    // Neither the next checkpoint nor the end may overtake the first one, and of those held back
    // the newest is enough.
    world.checkpoint(1, 2).checkpoint(1, 3).checkpoint(1, 2).end(1, OutcomeKind::Errored).check(expect![""]);
    world.fail(1).at_ms(50).check(expect![[r#"
        batch 2 of incarnation 1
          checkpoint #1 number 1
    "#]]);
    world.acknowledge(2).check(expect![[r#"
        batch 3 of incarnation 1
          checkpoint #1 number 3
          ended #1 errored after 1000 us in queues
    "#]]);
    world.acknowledge(3).check(expect![""]);
    assert!(!world.core.holds(id(1)));
}

#[test]
fn checkpoints_that_were_not_sent_are_replaced() {
    let mut world = World::settled(1);
    world.assign(&[1]);
    world.core.take_ready();
    world.checkpoint(1, 1).checkpoint(1, 2).checkpoint(1, 3).check(expect![[r#"
        batch 1 of incarnation 1
          checkpoint #1 number 3
    "#]]);
    // A message of an attempt after its end is ignored.
    world.acknowledge(1).end(1, OutcomeKind::Succeeded).checkpoint(1, 4).check(expect![[r#"
        batch 2 of incarnation 1
          ended #1 succeeded after 1000 us in queues
    "#]]);
}

#[test]
fn a_checkpoint_comes_before_what_follows_it_though_a_batch_is_full_in_between() {
    let mut world = World::settled(2);
    run(&mut world, 1..=4, |number| ended(id(number), OutcomeKind::Succeeded));
    world.core.take_ready();
    world.assign(&[5]);
    world.core.take_ready();
    run(&mut world, 1001..=1000 + BATCH_REPORTS_MAX as u64 - 1, |number| ended(id(number), OutcomeKind::Succeeded));
    world.checkpoint(5, 1).end(5, OutcomeKind::Errored);
    // All four have room again, but the end is the one report too many for the batch that holds the
    // checkpoint.
    for batch in 1..=4 {
        world.acknowledge(batch);
    }
    let batches = world.core.take_ready().batches;
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].message.reports.len(), BATCH_REPORTS_MAX);
    world.acknowledge(batches[0].number.0).check(expect![[r#"
        batch 6 of incarnation 1
          ended #5 errored after 1000 us in queues
    "#]]);
}
