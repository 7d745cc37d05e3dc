//! Instructions that take seconds: limits, stops and neighbours count inside them too.

use std::sync::Arc;
use std::time::Instant;

use wasmill_host::channel::{Ended, FromSandbox, GuestRun};
use wasmill_host::sandbox::{Artifacts, Sandbox};
use wasmill_protocol::limits::MIB;
use wasmill_protocol::{Limits, OutcomeKind, TrapCode};

use crate::sandbox_support::{TestSandbox, assert_kind, command, config, task};

const MEMORY_BYTES: u64 = 1024 * MIB;
/// CPU time beyond the limit: a tick and a piece, and room for a machine on which a page costs far
/// more than usual. One of these instructions takes many times as long.
const CPU_US_OVER_MAX: u64 = 100_000;

const GROW: &str = "(if (i32.eq (memory.grow (i32.const 16300)) (i32.const -1)) (then unreachable))";
const FILL: &str = "(memory.fill (i32.const 65536) (i32.const 7) (i32.const 0x3fa00000))";
const FORWARD: &str = "(memory.copy (i32.const 65536) (i32.const 131072) (i32.const 0x3fa00000))";
const BACKWARD: &str = "(memory.copy (i32.const 131072) (i32.const 65536) (i32.const 0x3fa00000))";

/// Commands and tasks that do nothing but one long instruction over and over.
fn hostile(sandbox: &mut TestSandbox) -> Vec<GuestRun> {
    let mut works = Vec::new();
    for instruction in [FILL, FORWARD, BACKWARD] {
        let body = format!("{GROW} (loop $again {instruction} (br $again))");
        for wat in [command("", &body), task(&[], "", &format!("{body} (i32.const 0)"))] {
            let mut work = sandbox.work(&wat);
            work.limits.memory_bytes = MEMORY_BYTES;
            work.limits.cpu_ms = 60_000;
            work.limits.wall_ms = 60_000;
            works.push(work);
        }
    }
    works
}

#[tokio::test]
async fn b37_a_limit_holds_inside_one_instruction() {
    let mut sandbox = TestSandbox::start();
    for work in hostile(&mut sandbox) {
        for fuel in [None, Some(u64::MAX / 4)] {
            for (limits, kind) in [
                (Limits { cpu_ms: 40, fuel, ..work.limits }, OutcomeKind::CpuExceeded),
                (Limits { wall_ms: 40, fuel, ..work.limits }, OutcomeKind::DeadlineExceeded),
            ] {
                let mut work = sandbox.again(&work);
                work.limits = limits;
                let ended = sandbox.run(work).await;
                assert_kind(&ended, kind);
                println!("{kind:?} with fuel {fuel:?}: {} us of CPU", ended.usage.cpu_us);
                assert!(ended.usage.cpu_us < 40_000 + CPU_US_OVER_MAX, "{:?}", ended.usage);
            }
        }
    }
}

#[tokio::test]
async fn b37_fuel_counts_every_byte_as_before() {
    let mut sandbox = TestSandbox::start();
    for work in hostile(&mut sandbox) {
        let mut work = sandbox.again(&work);
        // Enough for the growth and a part of the instruction.
        work.limits.fuel = Some(16_300 * 64 + 5_000_000);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::FuelExhausted);
        assert_eq!(ended.usage.fuel, Some(16_300 * 64 + 5_000_000));
    }
    // The instruction costs 1 and each byte 1; operands cost 1 each, and the function itself 1.
    let mut work = sandbox.work(&command(
        "",
        "(drop (memory.grow (i32.const 100))) (memory.fill (i32.const 0) (i32.const 0) (i32.const 5000001))",
    ));
    work.limits.fuel = Some(10_000_000);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.usage.fuel, Some(1 + 2 + 64 * 100 + 3 + 1 + 5_000_001));
}

#[tokio::test]
async fn b37_a_stop_and_a_neighbour_do_not_wait_for_one_instruction() {
    let mut sandbox = TestSandbox::start();
    let neighbour = sandbox.work(&command("", ""));
    assert_kind(&sandbox.run(neighbour.clone()).await, OutcomeKind::Succeeded);
    // One for each thread, of both kinds.
    for pair in hostile(&mut sandbox).chunks(2) {
        let ids: Vec<_> = pair.iter().map(|work| work.id).collect();
        for work in pair {
            sandbox.start_work(work.clone()).await;
        }
        while sandbox.load_cpu_us().await == 0 {}
        for _ in 0..5 {
            let work = sandbox.again(&neighbour);
            let id = work.id;
            let started = Instant::now();
            sandbox.start_work(work).await;
            // The first end is that of the neighbour.
            let ended = sandbox
                .wait(|message| match message {
                    FromSandbox::Ended(ended) => Ok(*ended),
                    other => Err(other),
                })
                .await;
            assert_eq!(ended.id, id);
            assert_kind(&ended, OutcomeKind::Succeeded);
            println!("a neighbour took {:?}", started.elapsed());
        }
        for id in ids {
            let asked = Instant::now();
            sandbox.stop(id).await;
            assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
            println!("gone {:?} after the stop", asked.elapsed());
        }
    }
}

/// An operand out of bounds traps where the guest wrote it, before anything is written, however
/// long it is.
#[tokio::test]
async fn b10_a_long_instruction_out_of_bounds_traps_in_the_function_that_has_it() {
    let mut sandbox = TestSandbox::start();
    for instruction in [
        "(memory.fill (i32.const 100) (i32.const 1) (i32.const 0x7fffffff))",
        "(memory.copy (i32.const 100) (i32.const 0) (i32.const -1))",
        "(memory.copy (i32.const 0) (i32.const 100) (i32.const -1))",
    ] {
        for fuel in [None, Some(u64::MAX / 4)] {
            let mut work = sandbox.work(&command(&format!("(func $inner {instruction})"), "(call $inner)"));
            work.limits.fuel = fuel;
            let ended = sandbox.run(work).await;
            assert_eq!(ended.outcome.trap, Some(TrapCode::MemoryOutOfBounds));
            assert_eq!(ended.outcome.backtrace, ["inner", "main"]);
        }
    }
}

/// The kernel's work to take the memory of a guest back is the guest's, and is done where no guest
/// waits for it.
#[tokio::test]
async fn b38_memory_that_is_given_back_costs_the_guest_that_had_it() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command("", &format!("{GROW} {FILL}")));
    work.limits.memory_bytes = MEMORY_BYTES;
    work.limits.cpu_ms = 60_000;
    assert_kind(&sandbox.run(work.clone()).await, OutcomeKind::Succeeded);
    let artifacts = Arc::clone(&sandbox.artifacts) as Arc<dyn Artifacts>;
    let (before_us, mut usage) = (thread_cpu_us(), None);
    // On this very thread.
    let repeat = |ended: Ended| {
        assert_kind(&ended, OutcomeKind::Succeeded);
        usage = Some(ended.usage);
        false
    };
    Sandbox::run_repeatedly(config(&sandbox.engines), artifacts, &work, repeat).await.unwrap();
    let (here_us, charged_us) = (thread_cpu_us() - before_us, usage.unwrap().cpu_us);
    println!("{charged_us} us are charged, {here_us} us of them were spent on the guest's thread");
    assert!(here_us < charged_us + 10_000, "{here_us} us of CPU, charged are {charged_us}");
    assert!(
        charged_us > here_us + 10_000,
        "taking it back is on another thread: {here_us} us here, charged are {charged_us}"
    );
}

/// The CPU time of the calling thread.
fn thread_cpu_us() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    stat.split(' ').next().unwrap().parse::<u64>().unwrap() / 1000
}
