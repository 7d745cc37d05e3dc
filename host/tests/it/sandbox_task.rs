//! Task components: argument and return value, how they fail, and what they can ask of the host.

use bytes::Bytes;
use wasmill_host::channel::{FromSandbox, GuestRun};
use wasmill_protocol::message::Progress;
use wasmill_protocol::{OutcomeKind, TrapCode};

use crate::sandbox_support::{HOST_IMPORTS, TestSandbox, assert_kind, task};

const ECHO: &str = "(call $ok (local.get $input) (local.get $length))";

#[tokio::test]
async fn the_payload_goes_in_and_the_result_comes_out() {
    let mut sandbox = TestSandbox::start();
    for input in ["", "x", &"long ".repeat(50_000)] {
        let mut work = sandbox.work(&task(&[], "", ECHO));
        work.input = Bytes::from(input.to_owned());
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert_eq!(ended.output, input.as_bytes());
        let usage = ended.usage;
        assert_eq!((usage.input_bytes, usage.output_bytes), (input.len() as u64, input.len() as u64));
        assert!(usage.run_us >= 1 && usage.cpu_us >= 1 && usage.memory_peak_bytes >= 65_536, "{usage:?}");
        assert_eq!(usage.fuel, None);
    }
}

#[tokio::test]
async fn a_task_fails_by_its_own_decision() {
    let mut sandbox = TestSandbox::start();
    for (function, kind) in [("$reject", OutcomeKind::Rejected), ("$retry", OutcomeKind::Errored)] {
        let mut work =
            sandbox.work(&task(&[], "", &format!("(call {function} (local.get $input) (local.get $length))")));
        work.input = Bytes::from("no picture in it");
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        assert_eq!(ended.outcome.message, "no picture in it");
        assert!(ended.output.is_empty());
    }
}

#[tokio::test]
async fn a_task_that_traps_says_where() {
    let mut sandbox = TestSandbox::start();
    let body = "(call $outer) (i32.const 0)";
    let work = sandbox.work(&task(
        &[],
        "(func $_ZN5crate5inner17h0123456789abcdefE unreachable) (func $outer (call $_ZN5crate5inner17h0123456789abcdefE))",
        body,
    ));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Trapped);
    assert_eq!(ended.outcome.trap, Some(TrapCode::Unreachable));
    assert_eq!(ended.outcome.backtrace, ["crate::inner", "outer", "run"]);
    assert_eq!(ended.outcome.message, "wasm trap: wasm `unreachable` instruction executed");
}

/// Calls every function once and gives what they answered.
const ASK_EVERYTHING: &str = r#"
    (call $info (i32.const 64))
    (f64.store (i32.const 96) (call $remaining-ms))
    (f64.store (i32.const 104) (call $remaining-cpu-ms))
    (call $remaining-fuel (i32.const 112))
    (call $progress (f64.const 3) (f64.const 10) (local.get $input) (local.get $length))
    (call $log (i32.const 1) (local.get $input) (local.get $length))
    (call $checkpoint-save (local.get $input) (local.get $length) (i32.const 128))
    (call $checkpoint-load (i32.const 144))
    (call $ok (i32.const 64) (i32.const 96))"#;

#[tokio::test]
async fn the_host_answers_a_task() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&task(HOST_IMPORTS, "", ASK_EVERYTHING));
    work.input = Bytes::from("state");
    work.limits.fuel = Some(1_000_000);
    let (id, limits) = (work.id, work.limits);
    sandbox.start_work(work).await;

    let progress = sandbox
        .wait(|message| match message {
            FromSandbox::Progress(_, progress) => Ok(progress),
            other => Err(other),
        })
        .await;
    assert_eq!(progress, Progress { done: 3, total: 10, message: "state".to_owned() });
    let saved = sandbox
        .wait(|message| match message {
            FromSandbox::Checkpoint { number, data, .. } => Ok((number, data)),
            other => Err(other),
        })
        .await;
    assert_eq!(saved, (1, Bytes::from("state")));

    let ended = sandbox.ended(id).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.outcome.progress, Some(progress), "it is kept with the outcome");
    assert_eq!(ended.captured, "warn: state\n");
    let answers = &ended.output;
    let u32_at = |at: usize| u32::from_le_bytes(answers[at..at + 4].try_into().unwrap());
    let f64_at = |at: usize| f64::from_le_bytes(answers[at..at + 8].try_into().unwrap());
    // The record: a string (address, length), attempt, attempts_max, deterministic.
    assert_eq!((u32_at(4), u32_at(8), u32_at(12), answers[16]), (36, 1, 3, 0));
    assert!((0.0..=limits.wall_ms as f64).contains(&f64_at(32)) && f64_at(32) > 1.0);
    assert!((0.0..=limits.cpu_ms as f64).contains(&f64_at(40)) && f64_at(40) > 1.0);
    assert_eq!(answers[48], 1, "there is a fuel limit");
    assert!(f64_at(56) < 1_000_000.0 && f64_at(56) > 0.0);
    assert_eq!(answers[64], 0, "the checkpoint was taken");
    assert_eq!((answers[80], u32_at(88)), (1, 5), "the checkpoint is there");
}

/// Saves what it is given until that is refused, and returns the number of times.
const SAVE_AND_SAVE: &str = r#"
    (local $n i32)
    (loop $again
        (call $checkpoint-save (local.get $input) (local.get $length) (i32.const 128))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br_if $again (i32.eqz (i32.load8_u (i32.const 128)))))
    (i32.store (i32.const 256) (local.get $n))
    (call $ok (i32.const 256) (i32.const 4))"#;

/// B38: a large checkpoint holds up the guest that saves it, until it is stored, and is stopped
/// with it.
#[tokio::test]
async fn a_large_checkpoint_is_waited_for_by_its_guest() {
    let mut sandbox = TestSandbox::start();
    sandbox.takes_checkpoints = false;
    let mut work = sandbox.work(&task(HOST_IMPORTS, "", SAVE_AND_SAVE));
    work.input = vec![b'x'; 40_000].into();
    work.checkpoint_bytes_max = 100_000;
    let id = work.id;
    sandbox.start_work(work).await;
    for expected in 1..=3 {
        let number = sandbox
            .wait(|message| match message {
                FromSandbox::Checkpoint { number, .. } => Ok(number),
                other => Err(other),
            })
            .await;
        assert_eq!(number, expected);
        if expected < 3 {
            sandbox.take_checkpoint(id).await;
        }
    }
    sandbox.stop(id).await;
    let ended = sandbox.ended(id).await;
    assert_kind(&ended, OutcomeKind::Cancelled);
    // It waited, so there is no fourth.
    let rest = sandbox.close().await;
    assert!(!rest.iter().any(|said| matches!(said, FromSandbox::Checkpoint { .. })), "{rest:?}");
}

/// B38: what is kept of a checkpoint is memory of the task.
#[tokio::test]
async fn a_checkpoint_counts_as_memory() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&task(HOST_IMPORTS, "", SAVE_AND_SAVE));
    work.input = vec![b'x'; 40_000].into();
    work.checkpoint_bytes_max = 100_000;
    let refused = sandbox.again(&GuestRun { checkpoint_bytes_max: 10, ..work.clone() });
    let used = sandbox.run(refused).await.usage.memory_peak_bytes;
    work.limits.memory_bytes = used + 39_999;
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!((&ended.output[..], ended.usage.memory_peak_bytes), (&1_u32.to_le_bytes()[..], used));
}

#[tokio::test]
async fn a_flood_of_progress_is_thinned_and_the_last_one_arrives() {
    let mut sandbox = TestSandbox::start();
    let body = "(local $n i32)
        (loop $again
            (local.set $n (i32.add (local.get $n) (i32.const 1)))
            (call $progress (f64.convert_i32_u (local.get $n)) (f64.const 20000) (local.get $input) (local.get $length))
            (br_if $again (i32.lt_u (local.get $n) (i32.const 20000))))
        (call $ok (i32.const 0) (i32.const 0))";
    let mut work = sandbox.work(&task(HOST_IMPORTS, "", body));
    // Cut at 1 KiB, between characters.
    work.input = Bytes::from("ä".repeat(600));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    let most = 3 + ended.usage.run_us / 50_000;
    let reports = sandbox.close().await;
    assert!(reports.len() as u64 <= most, "{} reports in {} us", reports.len(), ended.usage.run_us);
    match reports.last() {
        Some(FromSandbox::Progress(_, progress)) => {
            assert_eq!((progress.done, progress.total, progress.message.as_str()), (20_000, 20_000, &*"ä".repeat(512)));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn progress_of_a_task_that_goes_on_computing_arrives_too() {
    let mut sandbox = TestSandbox::start();
    let body = "(call $progress (f64.const 1) (f64.const nan) (local.get $input) (local.get $length))
        (call $progress (f64.const 2) (f64.const -5) (local.get $input) (local.get $length))
        (loop $again (br $again)) (i32.const 0)";
    let work = sandbox.work(&task(HOST_IMPORTS, "", body));
    let id = work.id;
    sandbox.start_work(work).await;
    for done in [1, 2] {
        let progress = sandbox
            .wait(|message| match message {
                FromSandbox::Progress(_, progress) => Ok(progress),
                other => Err(other),
            })
            .await;
        assert_eq!((progress.done, progress.total), (done, 0));
    }
    sandbox.stop(id).await;
    assert_kind(&sandbox.ended(id).await, OutcomeKind::Cancelled);
}

#[tokio::test]
async fn a_module_that_cannot_be_loaded_is_our_fault() {
    let mut sandbox = TestSandbox::start();
    let mut work = sandbox.work(&task(&[], "", ECHO));
    work.module = wasmill_protocol::Digest([9; 32]);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::HostFault);
    assert!(ended.outcome.message.starts_with("no module sha256:0909"), "{}", ended.outcome.message);
}

#[tokio::test]
async fn a_task_that_exits_gives_no_result() {
    let mut sandbox = TestSandbox::start();
    let wat = task(&[], "", "(call $exit (i32.const 0)) unreachable")
        .replace(
            "(core module $libc-module",
            r#"(import "wasi:cli/exit@0.2.0" (instance $cli
            (export "exit" (func (param "status" (result))))))
            (core func $exit (canon lower (func $cli "exit")))
            (core module $libc-module"#,
        )
        .replace(
            r#"(import "libc" "memory" (memory 1))"#,
            r#"(import "libc" "memory" (memory 1))
            (import "cli" "exit" (func $exit (param i32)))"#,
        )
        .replace(
            r#"(with "libc" (instance $libc))"#,
            r#"(with "libc" (instance $libc))
            (with "cli" (instance (export "exit" (func $exit))))"#,
        );
    let work = sandbox.work(&wat);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Errored);
    assert_eq!(ended.outcome.exit_code, Some(0));
}

#[tokio::test]
async fn a_checkpoint_of_an_earlier_attempt_can_be_loaded() {
    let mut sandbox = TestSandbox::start();
    let body = "(call $checkpoint-load (i32.const 64))
        (if (i32.eqz (i32.load8_u (i32.const 64))) (then (return (call $ok (i32.const 64) (i32.const 0)))))
        (call $ok (i32.load (i32.const 68)) (i32.load (i32.const 72)))";
    for checkpoint in [None, Some(Bytes::from("step 7"))] {
        let mut work = sandbox.work(&task(HOST_IMPORTS, "", body));
        work.checkpoint = checkpoint.clone();
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert_eq!(ended.output, checkpoint.unwrap_or_default());
    }
}

#[tokio::test]
async fn checkpoints_have_a_size_limit_to_the_byte() {
    let mut sandbox = TestSandbox::start();
    let body = "(call $checkpoint-save (i32.const 0) (local.get $length) (i32.const 64))
        (call $ok (i32.const 64) (i32.const 1))";
    for (length, refused) in [(99, 0), (100, 0), (101, 1)] {
        let mut work = sandbox.work(&task(HOST_IMPORTS, "", body));
        work.checkpoint_bytes_max = 100;
        work.input = Bytes::from(vec![0; length]);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert_eq!(ended.output[..], [refused], "{length}");
    }
}

#[tokio::test]
async fn host_functions_charge_fuel_by_size() {
    let mut sandbox = TestSandbox::start();
    let body = "(call $log (i32.const 2) (i32.const 0) (i32.const 4000)) (call $ok (i32.const 0) (i32.const 0))";
    let mut work = sandbox.work(&task(HOST_IMPORTS, "", body));
    work.limits.fuel = Some(1_000_000);
    let fuel = sandbox.run(work).await.usage.fuel.unwrap();
    assert!((500..1500).contains(&fuel), "{fuel}");
}

#[tokio::test]
async fn a_run_of_another_type_is_refused_before_it_runs() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(
        r#"(component
            (core module $m (func (export "run")))
            (core instance $i (instantiate $m))
            (func $run (canon lift (core func $i "run")))
            (export "run" (func $run)))"#,
    );
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::ModuleInvalid);
    assert!(ended.outcome.message.contains("the export `run` is not of the type"), "{}", ended.outcome.message);
}
