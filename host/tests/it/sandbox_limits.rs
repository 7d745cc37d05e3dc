//! Every limit at N-1, N and N+1.

use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmill_host::channel::GuestRun;
use wasmill_host::sandbox::{TICK, TRUNCATION_MARK};
use wasmill_protocol::OutcomeKind;
use wasmill_protocol::limits::{KIB, MIB};

use crate::sandbox_support::{TestSandbox, assert_kind, command, task};

const PAGE: u64 = 64 * KIB;
/// The time that a busy machine may add to a bound in time. The bound itself is exact; this is the
/// scheduler of the machine that tests.
const SCHEDULING: Duration = Duration::from_millis(1500);

const COUNT_TO_1000: &str = r#"(local $n i32)
    (loop $again
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.lt_u (local.get $n) (i32.const 1000))))"#;

#[tokio::test]
async fn fuel_is_exact() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command("", COUNT_TO_1000));
    work.limits.fuel = Some(1_000_000);
    let ended = sandbox.run(work.clone()).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    let needed = ended.usage.fuel.unwrap();
    assert!((5000..20_000).contains(&needed), "{needed}");

    for (fuel, kind) in [
        (needed - 1, OutcomeKind::FuelExhausted),
        (needed, OutcomeKind::Succeeded),
        (needed + 1, OutcomeKind::Succeeded),
    ] {
        let mut work = sandbox.again(&work);
        work.limits.fuel = Some(fuel);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        assert_eq!(ended.usage.fuel, Some(fuel.min(needed)));
        if kind == OutcomeKind::FuelExhausted {
            assert_eq!(ended.outcome.message, format!("used {fuel} fuel, the limit `limits.fuel`"));
        }
    }
}

/// Runs `body` in a command under a memory limit around `bytes` and expects what it needs to be
/// exactly that.
async fn check_memory(items: &str, body: &str, bytes: u64) {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command(items, body));
    for (limit, kind) in
        [(bytes - 1, OutcomeKind::MemoryExceeded), (bytes, OutcomeKind::Succeeded), (bytes + 1, OutcomeKind::Succeeded)]
    {
        let mut work = sandbox.again(&work);
        work.limits.memory_bytes = limit;
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        if kind == OutcomeKind::Succeeded {
            assert_eq!(ended.usage.memory_peak_bytes, bytes);
        } else {
            let expected = format!("asked for {bytes} bytes of memory, `limits.memory_bytes` is {limit}");
            assert!(ended.outcome.message.starts_with(&expected), "{}", ended.outcome.message);
        }
    }
}

#[tokio::test]
async fn memory_that_grows_is_refused_at_the_limit() {
    check_memory("", "(if (i32.eq (memory.grow (i32.const 9)) (i32.const -1)) (then unreachable))", 10 * PAGE).await;
}

#[tokio::test]
async fn memory_that_a_module_begins_with_counts() {
    check_memory("(memory 3)", "", 4 * PAGE).await;
}

#[tokio::test]
async fn a_guest_that_exits_after_a_refused_growth_ran_out_of_memory() {
    check_memory(
        "",
        "(if (i32.eq (memory.grow (i32.const 1)) (i32.const -1)) (then (call $exit (i32.const 2))))",
        2 * PAGE,
    )
    .await;
}

#[tokio::test]
async fn b09_tables_and_all_memories_count_together() {
    check_memory(
        "(memory $second 1) (table $first 1000 funcref) (table $other 1 100000 funcref)",
        r#"(if (i32.eq (memory.grow $second (i32.const 1)) (i32.const -1)) (then unreachable))
           (if (i32.eq (table.grow $other (ref.null func) (i32.const 499)) (i32.const -1)) (then unreachable))"#,
        3 * PAGE + 1500 * 8,
    )
    .await;
}

#[tokio::test]
async fn b09_a_table_that_grows_to_the_sky_is_refused() {
    let mut sandbox = TestSandbox::start();
    // Gives how often it grew by 10,000 elements before it was refused.
    let body = r#"(local $n i32)
        (loop $again
            (if (i32.ne (table.grow $table (ref.null func) (i32.const 10000)) (i32.const -1))
                (then (local.set $n (i32.add (local.get $n) (i32.const 1))) (br $again))))
        (call $exit (local.get $n))"#;
    for (memory_bytes, times) in [(PAGE + 50_000 * 8, 5), (PAGE + 50_000 * 8 - 1, 4), (64 * MIB, 13)] {
        let mut work = sandbox.work(&command("(table $table 0 funcref)", body));
        work.limits.memory_bytes = memory_bytes;
        let ended = sandbox.run(work).await;
        assert_eq!(ended.outcome.exit_code, Some(times), "{ended:?}");
    }
}

#[tokio::test]
async fn a_guest_that_copes_with_a_refused_growth_succeeds() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command("", "(drop (memory.grow (i32.const 1000)))"));
    work.limits.memory_bytes = MIB;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.usage.memory_peak_bytes, PAGE);
}

async fn check_output(sandbox: &mut TestSandbox, work: &GuestRun) {
    for (output_bytes, kind) in
        [(99_999, OutcomeKind::OutputTooLarge), (100_000, OutcomeKind::Succeeded), (100_001, OutcomeKind::Succeeded)]
    {
        let mut work = sandbox.again(work);
        work.limits.output_bytes = output_bytes;
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        let expected = if kind == OutcomeKind::Succeeded { 100_000 } else { 0 };
        assert_eq!((ended.output.len(), ended.usage.output_bytes), (expected, expected as u64));
        if expected == 0 {
            assert!(ended.outcome.message.ends_with("`limits.output_bytes` is 99999"), "{}", ended.outcome.message);
        }
    }
}

#[tokio::test]
async fn b13_the_stdout_of_a_command_is_limited_to_the_byte() {
    let mut sandbox = TestSandbox::start();
    let grow = "(drop (memory.grow (i32.const 10)))";
    for body in [
        "(call $write (i32.const 1) (i32.const 0) (i32.const 100000))",
        "(call $write (i32.const 1) (i32.const 0) (i32.const 99999)) (call $write (i32.const 1) (i32.const 0) (i32.const 1))",
    ] {
        let work = sandbox.work(&command("", &format!("{grow} {body}")));
        check_output(&mut sandbox, &work).await;
    }
}

#[tokio::test]
async fn b13_the_result_of_a_task_is_limited_to_the_byte() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&task(&[], "", "(call $ok (local.get $input) (local.get $length))"));
    work.input = Bytes::from(vec![1; 100_000]);
    check_output(&mut sandbox, &work).await;
}

#[tokio::test]
async fn b13_a_result_that_is_far_too_large_is_not_even_copied() {
    let mut sandbox = TestSandbox::start();
    let body = "(drop (memory.grow (i32.const 1000))) (call $ok (i32.const 0) (i32.const 64000000))";
    let mut work = sandbox.work(&task(&[], "", body));
    work.limits.memory_bytes = 128 * MIB;
    work.limits.output_bytes = 1000;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::OutputTooLarge);
    assert_eq!(ended.outcome.message, "the result is larger, `limits.output_bytes` is 1000");
}

#[tokio::test]
async fn captured_output_is_cut_at_the_byte_and_marked() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command("", "(call $write (i32.const 2) (i32.const 0) (i32.const 1000))"));
    for (captured_bytes_max, kept, mark) in [(999, 999, TRUNCATION_MARK), (1000, 1000, ""), (1001, 1000, "")] {
        let mut work = sandbox.again(&work);
        work.captured_bytes_max = captured_bytes_max;
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert_eq!(ended.captured, ["\0".repeat(kept).as_bytes(), mark.as_bytes()].concat());
    }
}

/// Computes until the CPU clock of the guest's attempt has run for about `iterations` rounds.
fn spin(iterations: u32) -> String {
    format!(
        r#"(local $n i32)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (br_if $again (i32.ne (local.get $n) (i32.const {iterations}))))"#
    )
}

#[tokio::test]
async fn cpu_time_overruns_by_at_most_one_tick() {
    let mut sandbox = TestSandbox::start();
    for cpu_ms in [1, 49, 50, 51] {
        let mut work = sandbox.work(&command("", "(loop $again (br $again))"));
        work.limits.cpu_ms = cpu_ms;
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::CpuExceeded);
        assert_eq!(ended.outcome.message, format!("used {cpu_ms} ms of CPU, the limit `limits.cpu_ms`"));
        let used = Duration::from_micros(ended.usage.cpu_us);
        let limit = Duration::from_millis(cpu_ms);
        // CPU time does not run while the machine runs something else, but a late tick does cost
        // it.
        assert!(used >= limit && used < limit + TICK + SCHEDULING, "{used:?} of {limit:?}");
    }
}

#[tokio::test]
async fn a_guest_below_its_cpu_limit_is_left_alone() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command("", &spin(20_000_000)));
    let ended = sandbox.run(work.clone()).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    let used_ms = ended.usage.cpu_us / 1000;
    let mut work = sandbox.again(&work);
    work.limits.cpu_ms = 3 * used_ms + 200;
    assert_kind(&sandbox.run(work).await, OutcomeKind::Succeeded);
}

#[tokio::test]
async fn waiting_for_the_module_is_not_charged_to_the_guest() {
    let mut sandbox = TestSandbox::start();
    let functions: String = (0..2000)
        .map(|n| {
            format!("(func (param i32) (result i32) (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const {n}))))")
        })
        .collect();
    let mut work = sandbox.work(&command(&functions, ""));
    work.limits.wall_ms = 5_000;
    let started = Instant::now();
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    let (took, usage) = (started.elapsed().as_micros() as u64, ended.usage);
    assert!(usage.cpu_us < took / 2 && usage.run_us < took / 2, "{usage:?} of {took} us");
}

#[tokio::test]
async fn the_wall_limit_ends_guests_that_compute_and_guests_that_wait() {
    let mut sandbox = TestSandbox::start();
    for body in ["(loop $again (br $again))", "(call $sleep (i64.const 0x7fffffffffffffff))"] {
        for wall_ms in [1, 99, 100, 101] {
            let mut work = sandbox.work(&command("", body));
            work.limits.wall_ms = wall_ms;
            let started = Instant::now();
            let ended = sandbox.run(work).await;
            assert_kind(&ended, OutcomeKind::DeadlineExceeded);
            assert_eq!(ended.outcome.message, format!("took {wall_ms} ms, the limit `limits.wall_ms`"));
            let (took, limit) = (started.elapsed(), Duration::from_millis(wall_ms));
            assert!(took >= limit && took < limit + 2 * TICK + SCHEDULING, "{took:?} of {limit:?}");
        }
    }
}

#[tokio::test]
async fn a_guest_that_sleeps_less_than_its_wall_limit_succeeds_and_uses_no_cpu() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&command("", "(call $sleep (i64.const 150000000))"));
    work.limits.wall_ms = 20_000;
    work.limits.cpu_ms = 100;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert!(ended.usage.run_us >= 150_000 && ended.usage.cpu_us < 100_000, "{:?}", ended.usage);
}
