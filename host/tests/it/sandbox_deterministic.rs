//! Deterministic attempts: the same module, payload and seed give the same bytes and use the same fuel.

use std::time::{Duration, Instant};

use wasmill_host::channel::Ended;
use wasmill_host::sandbox::DETERMINISTIC_EPOCH_SECONDS;
use wasmill_protocol::OutcomeKind;

use crate::sandbox_command::command_component;
use crate::sandbox_support::{TestSandbox, assert_kind, command};

/// Writes random bytes, both clocks, both clocks after a sleep of a second, and the bits of a computed NaN.
const EVERYTHING_UNCERTAIN: &str = r#"
    (drop (call $random_get (i32.const 0) (i32.const 64)))
    (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 64)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 72)))
    (call $sleep (i64.const 1000000000))
    (drop (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 80)))
    (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 88)))
    (f64.store (i32.const 96) (f64.div (f64.load (i32.const 104)) (f64.load (i32.const 104))))
    (call $write (i32.const 1) (i32.const 0) (i32.const 104))"#;

async fn run(sandbox: &mut TestSandbox, seed: Option<u64>, fuel: Option<u64>) -> Ended {
    let mut work = sandbox.work(&command("", EVERYTHING_UNCERTAIN));
    work.seed = seed;
    work.limits.fuel = fuel;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    ended
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

#[tokio::test]
async fn the_same_seed_gives_the_same_bytes_and_the_same_fuel() {
    let mut sandbox = TestSandbox::start();
    let first = run(&mut sandbox, Some(7), Some(100_000)).await;
    let mut second = TestSandbox::start();
    let again = run(&mut second, Some(7), Some(100_000)).await;
    assert_eq!(first.output, again.output);
    assert_eq!(first.usage.fuel, again.usage.fuel);
    assert_eq!(run(&mut sandbox, Some(7), None).await.output, first.output, "metering changes nothing");

    let other = run(&mut sandbox, Some(8), Some(100_000)).await;
    assert_ne!(first.output[..64], other.output[..64]);
    assert_eq!(first.output[64..], other.output[64..]);

    let (one, two) = (run(&mut sandbox, None, None).await, run(&mut sandbox, None, None).await);
    assert_ne!(one.output[..64], two.output[..64], "without a seed nothing repeats");
}

#[tokio::test]
async fn time_stands_still_but_for_sleeping_which_takes_none() {
    let mut sandbox = TestSandbox::start();
    let started = Instant::now();
    let output = run(&mut sandbox, Some(1), None).await.output;
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
    const SECOND: u64 = 1_000_000_000;
    let epoch = DETERMINISTIC_EPOCH_SECONDS * SECOND;
    assert_eq!([64, 72, 80, 88].map(|at| u64_at(&output, at)), [epoch, 0, epoch + SECOND, SECOND]);
    assert_eq!(u64_at(&output, 96), 0x7ff8_0000_0000_0000, "the canonical NaN");
}

#[tokio::test]
async fn components_sleep_in_no_time_too() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command_component("slept", 3_600_000_000_000, 0));
    work.seed = Some(1);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.output, "slept");
}

#[tokio::test]
async fn ordinary_attempts_see_real_time() {
    let mut sandbox = TestSandbox::start();
    let output = run(&mut sandbox, None, None).await.output;
    let elapsed = u64_at(&output, 88) - u64_at(&output, 72);
    assert!(elapsed >= 1_000_000_000, "{elapsed}");
    assert!(u64_at(&output, 64) > DETERMINISTIC_EPOCH_SECONDS * 1_000_000_000);
}
