//! Randomness: any size, in pieces that are charged and between which a stop takes effect.

use wasmill_host::channel::Ended;
use wasmill_protocol::limits::MIB;
use wasmill_protocol::{OutcomeKind, TrapCode};

use crate::sandbox_support::{TestSandbox, assert_kind, command};

/// Asks for so many bytes at 0, and writes a few of each MiB.
fn get(length: u32) -> String {
    format!("(drop (memory.grow (i32.const 200))) (call $random (i32.const {length}))")
}

const RANDOM: &str = "(func $random (param $length i32)
    (if (call $random_get (i32.const 0) (local.get $length)) (then unreachable)))";

#[tokio::test]
async fn b19_randomness_of_any_size_is_given() {
    let mut sandbox = TestSandbox::start();
    for length in [0, 1, 65_536, 65_537, 70_000, MIB as u32, 10 * MIB as u32] {
        let tail = length.saturating_sub(64);
        let body = format!("{} (call $write (i32.const 1) (i32.const {tail}) (i32.const 64))", get(length));
        let work = sandbox.work(&command(RANDOM, &body));
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        // The last bytes that were asked for are not those that memory had before.
        assert_eq!(ended.output.iter().any(|byte| *byte != 0), length > 0, "{length}");
    }
}

async fn seeded(length: u32, fuel: Option<u64>) -> Ended {
    let mut sandbox = TestSandbox::start();
    let body = format!("{} (call $write (i32.const 1) (i32.const 0) (i32.const 200000))", get(length));
    let mut work = sandbox.work(&command(RANDOM, &body));
    (work.seed, work.limits.fuel) = (Some(7), fuel);
    sandbox.run(work).await
}

#[tokio::test]
async fn pieces_of_seeded_randomness_are_the_same_stream() {
    let (small, large) = (seeded(65_536, None).await, seeded(200_000, None).await);
    assert_eq!(small.output[..65_536], large.output[..65_536]);
    assert_eq!(large.output, seeded(200_000, None).await.output);
    // No piece is the one before again.
    assert_ne!(large.output[..1000], large.output[65_536..66_536]);
}

#[tokio::test]
async fn what_goes_beyond_one_piece_costs_fuel() {
    let fuel = |ended: &Ended| ended.usage.fuel.unwrap();
    let (small, large) = (seeded(65_536, Some(10_000_000)).await, seeded(200_000, Some(10_000_000)).await);
    assert_eq!(fuel(&large) - fuel(&small), (200_000 - 65_536) / 8);
    assert_kind(&seeded(10_000_000, Some(100_000)).await, OutcomeKind::FuelExhausted);
}

#[tokio::test]
async fn b19_limits_and_cancel_hold_within_one_call() {
    let mut sandbox = TestSandbox::start();
    // Seeded randomness is the slow one.
    let mut work =
        sandbox.work(&command(RANDOM, "(drop (memory.grow (i32.const 16000))) (call $random (i32.const 1000000000))"));
    work.seed = Some(1);
    work.limits.memory_bytes = 1024 * MIB;
    let mut short = sandbox.again(&work);
    short.limits.cpu_ms = 50;
    let ended = sandbox.run(short).await;
    assert_kind(&ended, OutcomeKind::CpuExceeded);

    let mut long = sandbox.again(&work);
    long.limits.cpu_ms = 3_600_000;
    let id = long.id;
    sandbox.start_work(long).await;
    sandbox.stop(id).await;
    assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
}

#[tokio::test]
async fn randomness_beyond_the_memory_is_a_trap() {
    let mut sandbox = TestSandbox::start();
    for (start, length) in [(0_u32, 65_537_u32), (65_535, 2), (u32::MAX, u32::MAX)] {
        let body = format!("(drop (call $random_get (i32.const {start}) (i32.const {length})))");
        let work = sandbox.work(&command("", &body));
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Trapped);
        assert_eq!(ended.outcome.trap, Some(TrapCode::MemoryOutOfBounds));
    }
}

/// A component that asks for `length` bytes of randomness and leaves the first of them in its
/// result as 0 or not.
fn component(interface: &str, function: &str, length: u64) -> String {
    format!(
        r#"(component
            (import "{interface}" (instance $random (export "{function}" (func (param "len" u64) (result (list u8))))))
            (core module $libc-module
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32)
                    (drop (memory.grow (i32.div_u (i32.add (local.get 3) (i32.const 65535)) (i32.const 65536))))
                    (i32.const 65536)))
            (core instance $libc (instantiate $libc-module))
            (core func $get (canon lower (func $random "{function}")
                (memory (core memory $libc "memory")) (realloc (core func $libc "realloc"))))
            (core module $main-module
                (import "" "get" (func $get (param i64 i32)))
                (import "" "memory" (memory 1))
                (func (export "run") (result i32)
                    (call $get (i64.const {length}) (i32.const 0))
                    (if (i64.ne (i64.extend_i32_u (i32.load (i32.const 4))) (i64.const {length})) (then unreachable))
                    ;; The last eight bytes are hardly ever all 0.
                    (i64.eqz (i64.load (i32.sub (i32.add (i32.load (i32.const 0)) (i32.load (i32.const 4))) (i32.const 8))))))
            (core instance $main (instantiate $main-module (with "" (instance
                (export "get" (func $get))
                (export "memory" (memory $libc "memory"))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $run-instance (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#
    )
}

#[tokio::test]
async fn b19_components_get_randomness_of_any_size_that_they_have_room_for() {
    let mut sandbox = TestSandbox::start();
    for (interface, function) in [
        ("wasi:random/random@0.2.0", "get-random-bytes"),
        ("wasi:random/random@0.2.6", "get-random-bytes"),
        ("wasi:random/insecure@0.2.0", "get-insecure-random-bytes"),
    ] {
        for (length, seed) in
            [(8, None), (65_536, None), (65_537, None), (10 * MIB, None), (8, Some(3)), (65_537, Some(3))]
        {
            let mut work = sandbox.work(&component(interface, function, length));
            work.seed = seed;
            let ended = sandbox.run(work).await;
            assert_kind(&ended, OutcomeKind::Succeeded);
        }
        for length in [16 * MIB + 1, u64::MAX] {
            let work = sandbox.work(&component(interface, function, length));
            let ended = sandbox.run(work).await;
            assert_kind(&ended, OutcomeKind::Trapped);
            assert!(ended.outcome.message.contains("random bytes at once, over the limit of 16777216"), "{ended:?}");
        }
    }
}
