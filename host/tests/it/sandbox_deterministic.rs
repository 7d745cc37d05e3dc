//! Deterministic attempts: the same module, payload and seed give the same bytes and use the same
//! fuel.

use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmill_host::channel::{Ended, GuestRun};
use wasmill_host::sandbox::DETERMINISTIC_EPOCH_SECONDS;
use wasmill_protocol::OutcomeKind;

use crate::sandbox_command::command_component;
use crate::sandbox_support::{HOST_IMPORTS, TestSandbox, assert_kind, command, task};

/// Writes random bytes, both clocks, both clocks after a sleep of a second, and the bits of a
/// computed NaN.
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

/// Questions of a task to the host, one each, and whether the answer is the same for every attempt
/// with the same work.
const QUESTIONS: &[(&str, bool)] = &[
    ("", true),
    ("(call $info (i32.const 64))", false),
    ("(f64.store (i32.const 64) (call $remaining-ms))", true),
    ("(f64.store (i32.const 64) (call $remaining-cpu-ms))", true),
    ("(call $remaining-fuel (i32.const 64))", true),
    ("(call $progress (f64.const 1) (f64.const 2) (local.get $input) (local.get $length))", true),
    ("(call $log (i32.const 1) (local.get $input) (local.get $length))", true),
    ("(call $checkpoint-save (local.get $input) (local.get $length) (i32.const 64))", true),
    ("(call $checkpoint-load (i32.const 64))", true),
];

/// Two attempts of two tasks: what is said to be repeatable is the same in both.
#[tokio::test]
async fn a_result_is_repeatable_unless_the_guest_knows_which_task_it_is() {
    let mut sandbox = TestSandbox::start();
    for (question, repeatable) in QUESTIONS {
        let body = format!("{question} (call $ok (i32.const 64) (i32.const 64))");
        let mut work = sandbox.work(&task(HOST_IMPORTS, "", &body));
        (work.seed, work.limits.fuel) = (Some(1), Some(1_000_000));
        let mut other = sandbox.again(&work);
        other.id.task = "00000000-0000-7000-8000-000000000007".parse().unwrap();
        let (first, second) = (sandbox.run(work).await, sandbox.run(other).await);
        assert_kind(&first, OutcomeKind::Succeeded);
        assert_eq!((first.repeatable, second.repeatable), (*repeatable, *repeatable), "{question}");
        if *repeatable {
            assert_eq!((first.output, first.captured), (second.output, second.captured), "{question}");
            assert_eq!((first.usage.fuel, first.outcome), (second.usage.fuel, second.outcome), "{question}");
        }
    }
}

#[tokio::test]
async fn what_can_differ_is_not_repeatable() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command("", EVERYTHING_UNCERTAIN));
    work.seed = Some(1);
    assert!(sandbox.run(work.clone()).await.repeatable);

    let ordinary = GuestRun { seed: None, ..sandbox.again(&work) };
    assert!(!sandbox.run(ordinary).await.repeatable, "real clocks and randomness");
    let resumed = GuestRun { checkpoint: Some(Bytes::from_static(b"state")), ..sandbox.again(&work) };
    assert!(!sandbox.run(resumed).await.repeatable, "a checkpoint is of another attempt");
    let mut failing = sandbox.work(&command("", "unreachable"));
    failing.seed = Some(1);
    assert!(!sandbox.run(failing).await.repeatable, "a failure is not kept");
}

/// A refusal of the machine itself is another matter, which only a test of the meter can play.
#[tokio::test]
async fn a_growth_that_limit_or_engine_refuse_is_refused_to_everybody() {
    let mut sandbox = TestSandbox::start();
    for body in [
        // 1 GiB: over `limits.memory_bytes`.
        "(drop (memory.grow (i32.const 16384)))",
        // Allowed by the limit, and more elements than a table may have.
        "(drop (table.grow $t (ref.null func) (i32.const 200000)))",
    ] {
        let mut work = sandbox.work(&command("(table $t 1 funcref)", body));
        work.seed = Some(1);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert!(ended.repeatable, "{body}");
    }
}
