//! Random stories: whatever happens in whatever order, the rules hold, and when all is well again
//! every task ends.

use proptest::prelude::*;
use proptest::test_runner::Config;
use wasmill_protocol::policy::PolicyHook;
use wasmill_record::event::Event;

use crate::story::{Op, Story};

fn hook() -> impl Strategy<Value = PolicyHook> {
    prop_oneof![Just(PolicyHook::Order), Just(PolicyHook::Place)]
}

fn op() -> impl Strategy<Value = Op> {
    let ms = prop_oneof![0..50u64, 0..4_000u64, Just(12_000)];
    let quiet = prop_oneof![9 => Just(None), 1 => (0..3u8).prop_map(Some)];
    prop_oneof![
        8 => (0..3u8, -2..2i8, prop_oneof![3 => Just(0), 1 => 1..3_000u64], proptest::option::weighted(0.2, 0..3_000u64),
              1..4u32, proptest::option::weighted(0.3, 0..4u8))
            .prop_map(|(tenant, priority, delay_ms, expires_ms, attempts, key)| {
                Op::Submit { tenant, priority, delay_ms, expires_ms, attempts, key }
            }),
        6 => (0..3u8, [0..8u8, 0..8u8], 0..4u8, prop_oneof![3 => Just(0), 1 => 1..3_000u64])
            .prop_map(|(tenant, back, on, delay_ms)| Op::SubmitAfter { tenant, back, on, delay_ms }),
        1 => any::<u8>().prop_map(|task| Op::SubmitAgain { task }),
        3 => any::<u8>().prop_map(|task| Op::Cancel { task }),
        2 => (any::<u8>(), -2..3i8).prop_map(|(task, priority)| Op::Prioritize { task, priority }),
        1 => (1..3u8).prop_map(|tenant| Op::RemoveTenant { tenant }),
        1 => (0..3u8, 0..4u64).prop_map(|(tenant, running)| Op::ChangeQuotas { tenant, running }),
        4 => ms.prop_map(|ms| Op::After { ms }),
        3 => (0..3u8, any::<bool>()).prop_map(|(host, anew)| Op::Join { host, anew }),
        1 => (0..3u8, 0..4u8).prop_map(|(host, life)| Op::Leave { host, life }),
        8 => (0..3u8, 0..6u8, prop_oneof![4 => Just(0u8), 1 => any::<u8>()], proptest::bool::weighted(0.1))
            .prop_map(|(host, credit, forgets, draining)| Op::Beat { host, credit, forgets, draining }),
        1 => (0..3u8, any::<bool>()).prop_map(|(host, draining)| Op::Drain { host, draining }),
        12 => (any::<u8>(), 0..16u8, quiet, proptest::bool::weighted(0.05))
            .prop_map(|(attempt, kind, host, wrong_nonce)| Op::Report { attempt, kind, host, wrong_nonce }),
        2 => any::<u8>().prop_map(|attempt| Op::Refuse { attempt }),
        1 => (0..4u8).prop_map(|behind| Op::ReadModel { behind }),
        1 => (0..4u8).prop_map(|behind| Op::SnapshotStored { behind }),
        10 => Just(Op::TakeReady),
        4 => (hook(), prop_oneof![4 => Just(0u8), 1 => 0..3u8], any::<u8>())
            .prop_map(|(hook, earlier, how)| Op::Answer { hook, earlier, how }),
        1 => (hook(), 0..6u8).prop_map(|(hook, policy)| Op::Seat { hook, policy }),
        1 => Just(Op::Restart),
    ]
}

fn log_of(ops: &[Op]) -> Vec<Vec<Event>> {
    let mut story = Story::new(|_| {});
    ops.iter().for_each(|op| story.run(op));
    story.heal();
    story.world.log
}

proptest! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_rules_hold_and_every_task_ends(ops in prop::collection::vec(op(), 1..150)) {
        log_of(&ops);
    }
}

proptest! {
    #![proptest_config(Config { cases: 20, failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_same_inputs_give_the_same_log(ops in prop::collection::vec(op(), 1..100)) {
        assert_eq!(log_of(&ops), log_of(&ops));
    }
}
