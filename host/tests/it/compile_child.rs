//! Uploads through the compiling child: what is accepted, refused, limited, remembered and shared.
//! Rows A01, A03, A09 to A11, A13, A15, A22 and D03.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use wasmill_host::compile::{CompileBudget, CompileProgram, InspectError, SlotLimits};
use wasmill_protocol::module::ModuleKind;

use crate::compile_bench::{Bench, command, files, laborious, many_functions, payer, rejected, script, tenant};
use crate::compile_check::{COMMAND, TASK};

/// Waits until something is so; fails after a long time.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn good_modules_are_described_and_compiled() {
    let bench = Bench::new();
    let info = bench.push("a", &wat::parse_str(COMMAND).unwrap()).await.unwrap();
    assert_eq!((info.kind, info.exports.len()), (ModuleKind::Command, 2));
    let info = bench.push("a", &wat::parse_str(TASK).unwrap()).await.unwrap();
    assert_eq!(info.kind, ModuleKind::Task);
    let stats = bench.compiler.stats();
    assert_eq!((stats.compiles, stats.artifacts, stats.waiting), (2, 2, 0));
    assert_eq!(bench.artifacts().len(), 2);
    assert!(stats.artifact_bytes > 0);
}

/// A01, A03: no child is started for what is no WebAssembly.
#[tokio::test]
async fn garbage_costs_nothing() {
    let bench = Bench::new();
    for bytes in [&b""[..], b"garbage", b"\x7fELF\x02\x01\x01", b"(module)", b"\0asm\x01\0\0"] {
        rejected(bench.push("a", bytes).await);
    }
    assert_eq!(bench.compiler.stats().compiles, 0);
    assert!(files(&bench.folder.path().join("cache")).is_empty());
}

/// A15: names that exist with types that do not fit are found at upload too.
#[tokio::test]
async fn wrong_signatures_are_refused_at_upload() {
    let bench = Bench::new();
    let module = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func (param i64) (result f32)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    let message = rejected(bench.push("a", &wat::parse_str(module).unwrap()).await);
    assert!(message.contains("cannot be linked") && message.contains("fd_write"), "{message}");
    let component = r#"(component
        (import "wasi:random/random@0.2.0" (instance (export "get-random-u64" (func (result string)))))
        (core module $m (func (export "run") (result i32) (i32.const 0)))
        (core instance $i (instantiate $m))
        (func $run (result (result)) (canon lift (core func $i "run")))
        (instance $exports (export "run" (func $run)))
        (export "wasi:cli/run@0.2.0" (instance $exports)))"#;
    let message = rejected(bench.push("a", &wat::parse_str(component).unwrap()).await);
    assert!(message.contains("wasi:random/random@0.2.0") && message.contains("get-random-u64"), "{message}");
    assert!(files(&bench.folder.path().join("cache")).iter().all(|path| path.extension().unwrap() == "refused"));
}

/// A10: CPU time.
#[tokio::test]
async fn a_module_that_takes_too_long_is_killed_and_remembered() {
    let bench = Bench::with(|config| config.limits.cpu_s = 1);
    let module = laborious(600);
    let message = rejected(bench.push("a", &module).await);
    assert!(message.contains("more than 1 s of CPU time"), "{message}");
    let again = rejected(bench.push("b", &module).await);
    assert_eq!(again, message);
    assert_eq!((bench.compiler.stats().compiles, bench.compiler.stats().remembered), (1, 1));
    // Nothing is left of it, and others go on.
    assert!(bench.artifacts().is_empty());
    bench.push("b", &command(1)).await.unwrap();
    // A higher limit is a new chance.
    let bench = bench.reconfigured(|config| config.limits.cpu_s = 300);
    bench.push("a", &module).await.unwrap();
}

/// A10: memory.
#[tokio::test]
async fn a_module_that_takes_too_much_memory_is_refused_and_remembered() {
    let bench = Bench::with(|config| config.limits.memory_bytes = 40 << 20);
    let module = many_functions(10_000);
    let message = rejected(bench.push("a", &module).await);
    assert!(message.contains("more than 40 MiB of memory"), "{message}");
    let bench = bench.reopened();
    assert_eq!(rejected(bench.push("b", &module).await), message);
    assert_eq!(bench.compiler.stats().compiles, 0);
    bench.push("b", &command(1)).await.unwrap();
}

/// The artifact has a limit too.
#[tokio::test]
async fn a_module_that_becomes_too_large_is_refused() {
    let bench = Bench::with(|config| config.limits.artifact_bytes = 1 << 20);
    let text = format!(r#"(module (memory 64) (data "{}") (func (export "_start")))"#, "x".repeat(2 << 20));
    let message = rejected(bench.push("a", &wat::parse_str(text).unwrap()).await);
    assert!(message.contains("larger than 1 MiB"), "{message}");
    assert!(bench.artifacts().is_empty());
    bench.push("a", &command(1)).await.unwrap();
}

/// A11: however the child dies, the module is refused with the reason, and remembered.
#[tokio::test]
async fn a_compiler_that_dies_refuses_the_module() {
    for (program, expected) in [
        (script("kill -ABRT $$"), "crashed on this module (signal 6)"),
        (script("kill -SEGV $$"), "crashed on this module (signal 11)"),
        (script("echo thread main panicked >&2; exit 101"), "panicked"),
        (script("echo memory allocation of 8 bytes failed >&2; kill -ABRT $$"), "MiB of memory"),
        (script("kill -XCPU $$"), "s of CPU time"),
        (script("kill -XFSZ $$"), "compiled code is larger"),
    ] {
        let bench = with_program(program);
        let message = rejected(bench.push("a", &command(1)).await);
        assert!(message.contains(expected), "{message}");
        let bench = bench.reopened();
        assert_eq!(rejected(bench.push("b", &command(1)).await), message);
        assert_eq!((bench.compiler.stats().compiles, bench.compiler.stats().remembered), (0, 1));
    }
}

/// A kill from outside may have had to do with the machine: it is believed for a while only, and
/// not after a restart.
#[tokio::test]
async fn what_passes_is_not_remembered_for_long() {
    for (program, expected) in
        [(script("kill -KILL $$"), "killed from outside"), (script("read never"), "took longer than 2000 ms")]
    {
        let bench = Bench::with(move |config| {
            config.program = program.clone();
            config.limits.wall_ms = 2_000;
        });
        let message = rejected(bench.push("a", &command(1)).await);
        assert!(message.contains(expected), "{message}");
        rejected(bench.push("a", &command(1)).await);
        assert_eq!(bench.compiler.stats().compiles, 1);
        let bench = bench.reopened();
        rejected(bench.push("a", &command(1)).await);
        assert_eq!(bench.compiler.stats().compiles, 1);
    }
}

/// A fault of ours is said to be one, and never remembered against the module.
#[tokio::test]
async fn faults_are_not_the_modules() {
    let missing = CompileProgram { path: "/nowhere/wasmill".into(), args: Vec::new() };
    for (program, expected) in [
        (missing, "cannot start the compiling program `/nowhere/wasmill`"),
        (script("echo no such option >&2; exit 2"), "no such option"),
        (script("echo nonsense; exit 0"), "no answer"),
    ] {
        let bench = with_program(program);
        for _ in 0..2 {
            match bench.push("a", &command(1)).await {
                Err(InspectError::Fault(fault)) => assert!(fault.to_string().contains(expected), "{fault}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(bench.compiler.stats().compiles, 2);
    }
    // A file whose bytes changed after it was stored.
    let bench = Bench::new();
    let (path, digest) = bench.store(&command(1));
    std::fs::write(&path, command(2)).unwrap();
    match bench.compiler.inspect(&payer("a"), &path, digest, 10).await {
        Err(InspectError::Fault(fault)) => assert!(fault.to_string().contains("not those that it was stored with")),
        other => panic!("{other:?}"),
    }
}

/// A13
#[tokio::test]
async fn a_bad_module_costs_one_compile_for_everybody() {
    let bench = Bench::new();
    let module = wat::parse_str(r#"(module (import "env" "f" (func)) (func (export "_start")))"#).unwrap();
    let (path, digest) = bench.store(&module);
    let push = |number: usize| {
        let (compiler, path, bytes) = (&bench.compiler, &path, module.len() as u64);
        async move { compiler.inspect(&payer(&format!("t{}", number % 100)), path, digest, bytes).await }
    };
    let all_at_once = join_all((0..100).map(push)).await;
    for result in all_at_once {
        assert!(rejected(result).contains("`env.f`"));
    }
    for number in 0..10_000 {
        rejected(push(number).await);
    }
    assert_eq!((bench.compiler.stats().compiles, bench.compiler.stats().remembered), (1, 10_000));
    let bench = bench.reopened();
    rejected(bench.push("somebody", &module).await);
    assert_eq!(bench.compiler.stats().compiles, 0);
}

/// A22: what another tenant has shortens nothing; only who asks at the same moment shares the work.
#[tokio::test]
async fn a_good_module_is_compiled_for_each_tenant() {
    let bench = Bench::new();
    for (count, name) in [(1, "a"), (2, "b")] {
        bench.push(name, &command(1)).await.unwrap();
        assert_eq!(bench.compiler.stats().compiles, count);
    }
    let module = command(2);
    let (first, second) = tokio::join!(bench.push("a", &module), bench.push("b", &module));
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(bench.compiler.stats().compiles, 3);
    assert_eq!(bench.artifacts().len(), 2);
}

/// A13: one tenant's slow modules hold up neither the slots of others nor the server's memory.
#[tokio::test]
async fn slots_and_lines_are_bounded() {
    let bench = Bench::with(|config| {
        config.program = script("read never");
        config.small_slots = SlotLimits { running: 0, running_per_tenant: 0, waiting: 0, waiting_per_tenant: 0 };
        config.slots = SlotLimits { running: 2, running_per_tenant: 1, waiting: 3, waiting_per_tenant: 1 };
    });
    let modules: Vec<Vec<u8>> = (0..5).map(command).collect();
    let mut running = Box::pin(bench.push("greedy", &modules[0]));
    let mut waiting = Box::pin(bench.push("greedy", &modules[1]));
    assert!(futures::poll!(&mut running).is_pending());
    assert!(futures::poll!(&mut waiting).is_pending());
    match bench.push("greedy", &modules[2]).await {
        Err(InspectError::Busy { retry_ms }) => assert!(retry_ms >= 200, "{retry_ms}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.compiler.stats().waiting, 1);
    // Another tenant's runs at once.
    let mut other = Box::pin(bench.push("other", &modules[3]));
    assert!(futures::poll!(&mut other).is_pending());
    assert_eq!(bench.compiler.stats().waiting, 1);
    // A caller that goes away gives up child and place.
    drop(running);
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(bench.compiler.stats().waiting, 0);
    drop(waiting);
    assert!(matches!(futures::poll!(Box::pin(bench.push("greedy", &modules[4]))), std::task::Poll::Pending));
}

/// A13, C31: what is small never waits for what is large, whoever sends that.
#[tokio::test]
async fn small_modules_pass_large_ones() {
    let bench = Bench::with(|config| {
        config.slots = SlotLimits { running: 1, running_per_tenant: 1, waiting: 8, waiting_per_tenant: 8 };
    });
    let (large, larger) = (laborious(400), laborious(401));
    let mut running = Box::pin(bench.push("greedy", &large));
    let mut waiting = Box::pin(bench.push("other", &larger));
    assert!(futures::poll!(&mut running).is_pending() && futures::poll!(&mut waiting).is_pending());
    bench.push("third", &command(1)).await.unwrap();
    bench.push("greedy", &command(2)).await.unwrap();
    assert!(futures::poll!(&mut running).is_pending() && futures::poll!(&mut waiting).is_pending());
}

/// A small module that is laborious gives its slot back, and waits with the large ones. Its tenant
/// pays for both.
#[tokio::test]
async fn a_laborious_small_module_holds_no_slot_of_small_ones() {
    let child = env!("CARGO_BIN_EXE_wasmill-compile");
    // The real child, but for the one that gets little time. Its input stays open as long as ours
    // does.
    let text = format!(
        r#"read request; case "$request" in *'"cpu_s":1,'*) kill -XCPU $$;; esac
        exec {child} < <(echo "$request"; exec cat 2>/dev/null)"#
    );
    let bench = with_program(CompileProgram { path: "/bin/bash".into(), args: vec!["-c".into(), text.into()] });
    bench.push("a", &command(1)).await.unwrap();
    assert_eq!(bench.compiler.stats().compiles, 2);
    let usage = bench.compiler.usage();
    assert_eq!((usage[0].1.compiles, usage[0].1.rejected), (2, 0));
}

/// When nobody waits for the answer any more, the child is killed.
#[tokio::test]
async fn an_aborted_upload_ends_its_child() {
    let folder = tempfile::tempdir().unwrap();
    let pid_file = folder.path().join("pid");
    let mut program = script("echo $$ > \"$0\"; read never");
    program.args.push(pid_file.clone().into());
    let bench = with_program(program);
    let module = command(1);
    let mut upload = Box::pin(bench.push("a", &module));
    let mut pid = String::new();
    while pid.trim().is_empty() {
        assert!(futures::poll!(&mut upload).is_pending());
        tokio::time::sleep(Duration::from_millis(2)).await;
        pid = std::fs::read_to_string(&pid_file).unwrap_or_default();
    }
    drop(upload);
    // Its tenant pays all the same.
    let usage = bench.compiler.usage();
    assert!(usage.len() == 1 && usage[0].1.cpu_us > 0, "{usage:?}");
    // A zombie is dead too.
    let stat = format!("/proc/{}/stat", pid.trim());
    eventually("the child is gone", || std::fs::read_to_string(&stat).map_or(true, |text| text.contains(") Z "))).await;
}

/// The child also ends by itself when the server is gone: its stdin is closed then.
#[tokio::test]
async fn a_child_ends_with_its_parent() {
    let bench = Bench::new();
    let (path, digest) = bench.store(&laborious(2_000));
    let request = serde_json::json!({
        "module": path, "digest": digest, "profile": "plain", "key": compile_key(),
        "artifact": bench.folder.path().join("out"),
        "limits": {"cpu_s": 600, "memory_bytes": 4u64 << 30, "wall_ms": 600_000, "artifact_bytes": 1u64 << 30},
        "caps": {"module_bytes": 1u64 << 30, "memory_bytes": 1u64 << 30},
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_wasmill-compile"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{request}").unwrap();
    let limits = format!("/proc/{}/limits", child.id());
    eventually("it limits itself", || std::fs::read_to_string(&limits).is_ok_and(|text| text.contains(" 600 "))).await;
    drop(stdin);
    let mut status = None;
    eventually("the child ends", || {
        status = child.try_wait().unwrap();
        status.is_some()
    })
    .await;
    assert_eq!(status.unwrap().code(), Some(2));
}

fn compile_key() -> String {
    use wasmill_host::engine::{Instances, Profile, build};
    wasmill_host::compile::artifact_key(&build(Profile::Plain, Instances::OnDemand).unwrap())
}

/// A child without a request says so and does nothing.
#[test]
fn a_child_without_a_request_ends() {
    for request in ["", "compile this\n", "{}\n"] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_wasmill-compile"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty());
        assert!(String::from_utf8_lossy(&output.stderr).contains("no request to compile"));
    }
}

/// D03
#[tokio::test]
async fn compile_time_is_metered_and_bounded() {
    let bench = Bench::with(|config| {
        config.budget = CompileBudget { burst: Duration::ZERO, ms_per_s: 1 };
    });
    bench.push("greedy", &laborious(5)).await.unwrap();
    rejected(bench.push("other", &wat::parse_str("(module)").unwrap()).await);
    match bench.push("greedy", &command(1)).await {
        Err(InspectError::OverBudget { retry_ms, ms_per_s: 1 }) => assert!(retry_ms > 1_000, "{retry_ms}"),
        other => panic!("{other:?}"),
    }
    let usage = bench.compiler.usage();
    assert_eq!(usage.len(), 2);
    let (name, greedy) = &usage[0];
    assert_eq!((name, greedy.compiles, greedy.rejected), (&tenant("greedy"), 1, 0));
    assert!(greedy.cpu_us > 1_000, "{greedy:?}");
    let (name, other) = &usage[1];
    assert_eq!((name, other.compiles, other.rejected), (&tenant("other"), 1, 1));
}

fn with_program(program: CompileProgram) -> Bench {
    Bench::with(move |config| config.program = program.clone())
}
