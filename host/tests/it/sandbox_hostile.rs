//! Guests that mean harm; each test is a row of the list of hostile input.

use std::time::{Duration, Instant};

use wasmill_host::channel::FromSandbox;
use wasmill_host::engine::GUEST_STACK_BYTES;
use wasmill_host::sandbox::TRUNCATION_MARK;
use wasmill_protocol::limits::MIB;
use wasmill_protocol::{Limits, OutcomeKind, TrapCode};

use crate::sandbox_support::{GUESTS_MAX, TestSandbox, assert_kind, command, task};

const SPIN: &str = "(loop $again (br $again))";

/// Each limit that can end an endless loop, by itself.
fn ways_to_end(limits: Limits) -> [(Limits, OutcomeKind); 3] {
    [
        (Limits { fuel: Some(100_000), ..limits }, OutcomeKind::FuelExhausted),
        (Limits { cpu_ms: 20, ..limits }, OutcomeKind::CpuExceeded),
        (Limits { wall_ms: 20, ..limits }, OutcomeKind::DeadlineExceeded),
    ]
}

#[tokio::test]
async fn a19_a_start_function_is_under_the_same_limits() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command("(func $begin (loop $again (br $again))) (start $begin)", ""));
    for (limits, kind) in ways_to_end(work.limits) {
        let mut work = sandbox.again(&work);
        work.limits = limits;
        assert_kind(&sandbox.run(work).await, kind);
    }
    let greedy =
        "(func $begin (if (i32.eq (memory.grow (i32.const 1000)) (i32.const -1)) (then unreachable))) (start $begin)";
    let mut work = sandbox.work(&command(greedy, ""));
    work.limits.memory_bytes = MIB;
    assert_kind(&sandbox.run(work).await, OutcomeKind::MemoryExceeded);
}

#[tokio::test]
async fn b01_an_endless_loop_ends_at_each_limit() {
    let mut sandbox = TestSandbox::start();
    let module = command("", SPIN);
    let component = task(&[], "", &format!("{SPIN} (i32.const 0)"));
    for wat in [module, component] {
        let work = sandbox.work(&wat);
        for (limits, kind) in ways_to_end(work.limits) {
            let mut work = sandbox.again(&work);
            work.limits = limits;
            let ended = sandbox.run(work).await;
            assert_kind(&ended, kind);
            assert!(ended.output.is_empty());
        }
    }
}

#[tokio::test]
async fn b03_infinite_recursion_traps_and_the_process_lives() {
    let mut sandbox = TestSandbox::start();
    for _ in 0..3 {
        let work = sandbox.work(&command("(func $down (call $down))", "(call $down)"));
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Trapped);
        assert_eq!(ended.outcome.trap, Some(TrapCode::StackOverflow));
        assert_eq!(ended.outcome.backtrace.len(), 64);
        assert_eq!(ended.outcome.backtrace[0], "down");
    }
}

/// A call of this function takes 32 bytes of stack.
#[tokio::test]
async fn recursion_goes_as_deep_as_the_stack_is() {
    let mut sandbox = TestSandbox::start();
    let calls_max = GUEST_STACK_BYTES / 32;
    assert_eq!(GUEST_STACK_BYTES, 2 * 1024 * 1024);
    let down = "(func $down (param i32) (result i32) (if (result i32) (local.get 0)
        (then (i32.add (i32.const 1) (call $down (i32.sub (local.get 0) (i32.const 1))))) (else (i32.const 0))))";
    for (calls, kind) in [(calls_max * 95 / 100, OutcomeKind::Succeeded), (calls_max * 105 / 100, OutcomeKind::Trapped)]
    {
        let work = sandbox.work(&command(down, &format!("(drop (call $down (i32.const {calls})))")));
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        assert_eq!(ended.outcome.trap, (kind == OutcomeKind::Trapped).then_some(TrapCode::StackOverflow));
    }
}

#[tokio::test]
async fn b10_every_trap_has_its_code_and_a_backtrace() {
    let mut sandbox = TestSandbox::start();
    let items = "(table $t 2 funcref) (type $other (func (param i64))) (type $none (func)) (elem (i32.const 0) $noop) (func $noop)";
    for (body, code) in [
        ("unreachable", TrapCode::Unreachable),
        ("(drop (i32.div_s (i32.const 1) (i32.const 0)))", TrapCode::IntegerDivisionByZero),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", TrapCode::IntegerOverflow),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", TrapCode::BadConversionToInteger),
        ("(drop (i32.load (i32.const -4)))", TrapCode::MemoryOutOfBounds),
        ("(memory.fill (i32.const 0) (i32.const 0) (i32.const 65537))", TrapCode::MemoryOutOfBounds),
        ("(drop (table.get $t (i32.const 2)))", TrapCode::TableOutOfBounds),
        ("(call_indirect $t (type $none) (i32.const 2))", TrapCode::TableOutOfBounds),
        ("(call_indirect $t (type $none) (i32.const 1))", TrapCode::IndirectCallToNull),
        ("(call_indirect $t (type $other) (i64.const 0) (i32.const 0))", TrapCode::BadSignature),
    ] {
        let work = sandbox.work(&command(&format!("{items} (func $inner {body})"), "(call $inner)"));
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Trapped);
        assert_eq!(ended.outcome.trap, Some(code), "{body}");
        assert_eq!(ended.outcome.backtrace, ["inner", "main"], "{body}");
        assert!(ended.outcome.message.starts_with("wasm trap: "), "{}", ended.outcome.message);
    }
}

/// Bytes of memory that this process has mapped to pages. Other tests of this program run
/// meanwhile, so only large differences mean something.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// The memory that other tests of this program may take meanwhile.
const NEIGHBOURS_BYTES: u64 = 1024 * MIB;

#[tokio::test]
async fn b06_memory_that_was_touched_is_given_back() {
    let mut sandbox = TestSandbox::start();
    // 4 MiB each time: 4 GiB if none of it were given back.
    let body = "(drop (memory.grow (i32.const 63)))
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x400000)) (call $sleep (i64.const 100000))";
    let work = sandbox.work(&command("", body));
    assert_kind(&sandbox.run(work.clone()).await, OutcomeKind::Succeeded);
    let before = resident_bytes();
    run_many(&mut sandbox, &work, 1000, OutcomeKind::Succeeded).await;
    let after = resident_bytes();
    assert!(after < before + NEIGHBOURS_BYTES, "{before} bytes before, {after} after");
}

#[tokio::test]
async fn b35_allocating_and_trapping_leaves_nothing_behind() {
    let mut sandbox = TestSandbox::start();
    // 1 MiB of guest memory and captured text each time: 5 GiB if none of it were given back.
    let body = "(drop (memory.grow (i32.const 15))) (memory.fill (i32.const 0) (i32.const 65) (i32.const 0x100000))
        (call $write (i32.const 2) (i32.const 0) (i32.const 0x1000)) unreachable";
    let work = sandbox.work(&command("", body));
    assert_kind(&sandbox.run(work.clone()).await, OutcomeKind::Trapped);
    let before = resident_bytes();
    run_many(&mut sandbox, &work, 5000, OutcomeKind::Trapped).await;
    let after = resident_bytes();
    assert!(after < before + NEIGHBOURS_BYTES, "{before} bytes before, {after} after");
}

#[tokio::test]
async fn b35_a_hundred_thousand_traps_leave_nothing_behind() {
    let mut sandbox = TestSandbox::start();
    // A page each time, because it is about the number: 6 GiB if none of it were given back.
    let body = "(drop (memory.grow (i32.const 1))) (memory.fill (i32.const 0x10000) (i32.const 65) (i32.const 0x10000))
        (call $write (i32.const 2) (i32.const 0) (i32.const 0x400)) unreachable";
    let work = sandbox.work(&command("", body));
    assert_kind(&sandbox.run(work.clone()).await, OutcomeKind::Trapped);
    let before = resident_bytes();
    run_many(&mut sandbox, &work, 100_000, OutcomeKind::Trapped).await;
    let after = resident_bytes();
    assert!(after < before + NEIGHBOURS_BYTES, "{before} bytes before, {after} after");
}

/// Runs the work that often, a few at a time.
async fn run_many(sandbox: &mut TestSandbox, work: &wasmill_host::channel::GuestRun, times: usize, kind: OutcomeKind) {
    const AT_ONCE: usize = 16;
    let (mut started, mut ended) = (0, 0);
    while ended < times {
        while started < times && started < ended + AT_ONCE {
            let work = sandbox.again(work);
            sandbox.start_work(work).await;
            started += 1;
        }
        let end = sandbox
            .wait(|message| match message {
                FromSandbox::Ended(ended) => Ok(*ended),
                other => Err(other),
            })
            .await;
        assert_kind(&end, kind);
        ended += 1;
    }
}

#[tokio::test]
async fn b07_filling_all_memory_in_a_loop_is_stopped() {
    let mut sandbox = TestSandbox::start();
    let body = "(drop (memory.grow (i32.const 4095)))
        (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000000))
        (call $write (i32.const 2) (i32.const 0) (i32.const 1))
        (loop $again (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000000)) (br $again))";
    let mut work = sandbox.work(&command("", body));
    work.limits.memory_bytes = 256 * MIB;
    work.limits.wall_ms = 1000;
    let started = Instant::now();
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::DeadlineExceeded);
    let late = started.elapsed().saturating_sub(Duration::from_millis(1000));
    println!("stopped {late:?} after the deadline");
    assert!(late < Duration::from_secs(2), "{late:?}");
}

#[tokio::test]
async fn b11_a_flood_of_output_is_captured_up_to_the_cap_and_ends_at_the_cpu_limit() {
    let mut sandbox = TestSandbox::start();
    let body = "(loop $again (call $write (i32.const 2) (i32.const 0) (i32.const 1)) (br $again))";
    let mut work = sandbox.work(&command(r#"(data (i32.const 0) "y")"#, body));
    work.limits.cpu_ms = 200;
    let cap = work.captured_bytes_max as usize;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::CpuExceeded);
    assert_eq!(ended.captured, format!("{}{TRUNCATION_MARK}", "y".repeat(cap)));
}

#[tokio::test]
async fn b11_one_write_of_everything_can_be_stopped_too() {
    let mut sandbox = TestSandbox::start();
    let body = "(drop (memory.grow (i32.const 4095)))
        (loop $again (call $write (i32.const 2) (i32.const 0) (i32.const 0x0f000000)) (br $again))";
    let mut work = sandbox.work(&command("", body));
    work.limits.memory_bytes = 256 * MIB;
    work.limits.cpu_ms = 100;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::CpuExceeded);
    assert!(ended.usage.cpu_us < 2_000_000, "{:?}", ended.usage);
}

#[tokio::test]
async fn b16_host_calls_without_end_cost_cpu_and_leave_neighbours_alone() {
    let mut sandbox = TestSandbox::start();
    let body = "(loop $again (drop (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 0))) (br $again))";
    let mut hostile = Vec::new();
    // More of them than threads.
    for _ in 0..4 {
        let mut work = sandbox.work(&command("", body));
        work.limits.cpu_ms = 1000;
        hostile.push(work.id);
        sandbox.start_work(work).await;
    }
    let neighbour = sandbox.work(&command("", ""));
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..20 {
        let work = sandbox.again(&neighbour);
        let started = Instant::now();
        assert_kind(&sandbox.run(work).await, OutcomeKind::Succeeded);
        took.push(started.elapsed());
    }
    for id in hostile {
        assert_kind(&sandbox.ended(id).await, OutcomeKind::CpuExceeded);
    }
    took.sort();
    println!("a neighbour waited {:?} in the middle and {:?} at most", took[10], took[19]);
    assert!(took[10] < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn b17_sleeping_guests_hold_no_thread() {
    let mut sandbox = TestSandbox::start();
    // All slots but one, and more than there are threads.
    let mut sleeping = Vec::new();
    for _ in 1..GUESTS_MAX {
        let mut work = sandbox.work(&command("", "(call $sleep (i64.const 0x7fffffffffffffff))"));
        work.limits.wall_ms = 3000;
        sleeping.push(work.id);
        sandbox.start_work(work).await;
    }
    let started = Instant::now();
    let neighbour = sandbox.work(&command("", ""));
    for _ in 0..50 {
        let work = sandbox.again(&neighbour);
        assert_kind(&sandbox.run(work).await, OutcomeKind::Succeeded);
    }
    assert!(started.elapsed() < Duration::from_millis(2900), "{:?}", started.elapsed());
    for id in sleeping {
        let ended = sandbox.ended(id).await;
        assert_kind(&ended, OutcomeKind::DeadlineExceeded);
        assert!(ended.usage.cpu_us < 1_000_000, "{:?}", ended.usage);
    }
}

#[tokio::test]
async fn b17_polling_a_very_long_list_is_refused() {
    let mut sandbox = TestSandbox::start();
    // A million times the same pollable: 4 MiB of handles.
    let wat = r#"(component
        (import "wasi:io/poll@0.2.0" (instance $poll
            (export "pollable" (type $pollable (sub resource)))
            (export "poll" (func (param "in" (list (borrow $pollable))) (result (list u32))))))
        (alias export $poll "pollable" (type $pollable))
        (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
            (alias outer 1 $pollable (type $p))
            (export "pollable" (type $pollable (eq $p)))
            (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
        (core module $libc-module (memory (export "memory") 200)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0x800000)))
        (core instance $libc (instantiate $libc-module))
        (core func $poll (canon lower (func $poll "poll") (memory (core memory $libc "memory"))
            (realloc (core func $libc "realloc"))))
        (core func $subscribe (canon lower (func $clock "subscribe-duration")))
        (core module $main-module
            (import "" "memory" (memory 1))
            (import "" "poll" (func $poll (param i32 i32 i32)))
            (import "" "subscribe" (func $subscribe (param i64) (result i32)))
            (func (export "run") (result i32)
                (local $handle i32) (local $n i32)
                (local.set $handle (call $subscribe (i64.const 0)))
                (loop $again
                    (i32.store offset=16 (i32.shl (local.get $n) (i32.const 2)) (local.get $handle))
                    (local.set $n (i32.add (local.get $n) (i32.const 1)))
                    (br_if $again (i32.lt_u (local.get $n) (i32.const 1000000))))
                (call $poll (i32.const 16) (i32.const 1000000) (i32.const 0))
                (i32.const 0)))
        (core instance $main (instantiate $main-module (with "" (instance
            (export "memory" (memory $libc "memory")) (export "poll" (func $poll)) (export "subscribe" (func $subscribe))))))
        (func $run (result (result)) (canon lift (core func $main "run")))
        (instance $run-instance (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#;
    let work = sandbox.work(wat);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Trapped);
    assert!(ended.outcome.message.contains("too much data is being copied"), "{}", ended.outcome.message);
}
