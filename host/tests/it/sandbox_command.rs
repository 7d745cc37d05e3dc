//! Commands of WASI 0.1 and 0.2: stdin, stdout, stderr, arguments, environment, exit codes, and
//! nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use wasmill_host::channel::Ended;
use wasmill_protocol::OutcomeKind;
use wasmill_protocol::limits::MIB;

use crate::sandbox_support::{TestSandbox, assert_kind, command};

/// Copies stdin to stdout, 4 KiB at a time.
const CAT: &str = r#"(loop $again
    (i32.store (i32.const 0) (i32.const 1024))
    (i32.store (i32.const 4) (i32.const 4096))
    (if (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)) (then unreachable))
    (if (i32.load (i32.const 8))
        (then
            (call $write (i32.const 1) (i32.const 1024) (i32.load (i32.const 8)))
            (br $again))))"#;

#[tokio::test]
async fn stdin_is_the_payload_and_stdout_the_result() {
    let mut sandbox = TestSandbox::start();
    for input in [Bytes::new(), Bytes::from("hello"), Bytes::from(vec![b'z'; MIB as usize - 1])] {
        let mut work = sandbox.work(&command("", CAT));
        work.input = input.clone();
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::Succeeded);
        assert_eq!(ended.output, input);
        assert_eq!(ended.captured, "");
        assert_eq!(ended.outcome.exit_code, Some(0));
    }
}

const TWO_STREAMS: &str = r#"
    (call $write (i32.const 1) (i32.const 100) (i32.const 3))
    (call $write (i32.const 2) (i32.const 110) (i32.const 4))
    (call $write (i32.const 1) (i32.const 100) (i32.const 3))"#;
const TWO_STREAMS_DATA: &str = r#"(data (i32.const 100) "out") (data (i32.const 110) "err\n")"#;

#[tokio::test]
async fn stdout_of_a_command_that_ends_by_itself_is_its_result_and_stderr_is_captured() {
    let mut sandbox = TestSandbox::start();
    let both = |ended: &Ended| (ended.output.clone(), ended.captured.clone());
    let result = (Bytes::from("outout"), Bytes::from("err\n"));
    for end in ["", "(call $exit (i32.const 0))", "(call $exit (i32.const 3))", "(call $exit (i32.const -1))"] {
        let work = sandbox.work(&command(TWO_STREAMS_DATA, &format!("{TWO_STREAMS} {end}")));
        assert_eq!(both(&sandbox.run(work).await), result, "{end}");
    }
    // A stopped command has no result: how much it had written says nothing.
    let work = sandbox.work(&command(TWO_STREAMS_DATA, &format!("{TWO_STREAMS} unreachable")));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Trapped);
    assert_eq!(both(&ended), (Bytes::new(), Bytes::from("outerr\nout")));
}

#[tokio::test]
async fn exit_codes_that_the_task_names_are_success() {
    let mut sandbox = TestSandbox::start();
    for (ok, code, kind) in [
        (&[0][..], 0, OutcomeKind::Succeeded),
        (&[0], 10, OutcomeKind::Errored),
        (&[0, 10, 20], 10, OutcomeKind::Succeeded),
        (&[0, 10, 20], 20, OutcomeKind::Succeeded),
        (&[0, 10, 20], 11, OutcomeKind::Errored),
        (&[10], 0, OutcomeKind::Errored),
        (&[255], 255, OutcomeKind::Succeeded),
        (&[255], -1, OutcomeKind::Errored),
        (&[0], 256, OutcomeKind::Errored),
    ] {
        let mut work =
            sandbox.work(&command(TWO_STREAMS_DATA, &format!("{TWO_STREAMS} (call $exit (i32.const {code}))")));
        work.ok_exit = ok.into();
        let ended = sandbox.run(work).await;
        assert_kind(&ended, kind);
        assert_eq!((ended.outcome.exit_code, &ended.output[..]), (Some(code), &b"outout"[..]), "{ok:?} {code}");
        let message = if kind == OutcomeKind::Succeeded { String::new() } else { format!("exited with code {code}") };
        assert_eq!(ended.outcome.message, message);
    }
}

#[tokio::test]
async fn b21_exit_codes_are_in_the_outcome() {
    let mut sandbox = TestSandbox::start();
    for code in [0, 1, 3, 125, 126, 255, 256, -1, i32::MAX] {
        let work = sandbox.work(&command("", &format!("(call $exit (i32.const {code})) unreachable")));
        let ended = sandbox.run(work).await;
        if code == 0 {
            assert_kind(&ended, OutcomeKind::Succeeded);
        } else {
            assert_kind(&ended, OutcomeKind::Errored);
            assert_eq!(ended.outcome.exit_code, Some(code));
            assert_eq!(ended.outcome.message, format!("exited with code {code}"));
        }
    }
}

#[tokio::test]
async fn arguments_and_environment_are_the_tasks_and_nothing_of_the_hosts() {
    let mut sandbox = TestSandbox::start();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func $print (param $address i32) (param $length i32)
            (i32.store (i32.const 0) (local.get $address))
            (i32.store (i32.const 4) (local.get $length))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
        (func (export "_start")
            (drop (call $args_sizes (i32.const 16) (i32.const 20)))
            (drop (call $args (i32.const 1024) (i32.const 4096)))
            (call $print (i32.const 4096) (i32.load (i32.const 20)))
            (drop (call $environ_sizes (i32.const 16) (i32.const 20)))
            (drop (call $environ (i32.const 1024) (i32.const 4096)))
            (call $print (i32.const 4096) (i32.load (i32.const 20)))))"#;
    let mut work = sandbox.work(wat);
    work.args = Arc::new(["-n".to_owned(), "ä b".to_owned()]);
    work.env = Arc::new(BTreeMap::from([("KEY".to_owned(), "value".to_owned())]));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.output, "module\0-n\0ä b\0KEY=value\0");

    let work = sandbox.work(wat);
    assert_eq!(sandbox.run(work).await.output, "module\0");

    let mut work = sandbox.work(wat);
    (work.program, work.args) = ("größe".into(), Arc::new(["a".to_owned()]));
    assert_eq!(sandbox.run(work).await.output, "größe\0a\0");
}

#[tokio::test]
async fn there_is_no_file_system() {
    let mut sandbox = TestSandbox::start();
    let wat = r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "path_unlink_file" (func $unlink (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 64) "/etc/passwd")
        (func (export "_start")
            (i32.store8 (i32.const 100) (call $prestat (i32.const 3) (i32.const 200)))
            (i32.store8 (i32.const 101) (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 11) (i32.const 0)
                (i64.const 2) (i64.const 2) (i32.const 0) (i32.const 200)))
            (i32.store8 (i32.const 102) (call $unlink (i32.const 3) (i32.const 64) (i32.const 11)))
            (i32.store (i32.const 0) (i32.const 100))
            (i32.store (i32.const 4) (i32.const 3))
            (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;
    let work = sandbox.work(wat);
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    const BADF: u8 = 8;
    assert_eq!(ended.output[..], [BADF; 3]);
}

#[tokio::test]
async fn a_module_without_start_or_with_unknown_imports_is_refused() {
    let mut sandbox = TestSandbox::start();
    for (wat, message) in [
        (r#"(module)"#, "there is no exported function `_start`"),
        (r#"(module (func (export "_start") (param i32)))"#, "not a function without parameters"),
        (r#"(module (import "env" "print" (func)) (func (export "_start")))"#, "unknown import: `env::print`"),
        (
            r#"(module (import "wasi_unstable" "proc_exit" (func (param i32))) (func (export "_start")))"#,
            "unknown import",
        ),
        (
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func)) (func (export "_start")))"#,
            "incompatible import type",
        ),
        (r#"(component (import "wasi:http/types@0.2.0" (instance (export "f" (func)))))"#, "wasi:http/types"),
        (r#"(component)"#, "wasi:cli/run"),
    ] {
        let work = sandbox.work(wat);
        let ended = sandbox.run(work).await;
        assert_kind(&ended, OutcomeKind::ModuleInvalid);
        assert!(ended.outcome.message.contains(message), "{wat}: {}", ended.outcome.message);
    }
}

/// A command component that writes `text` to stdout, sleeps for `sleep_ns` and gives `result` (0 is
/// success).
pub(crate) fn command_component(text: &str, sleep_ns: u64, result: u32) -> String {
    let length = text.len();
    format!(
        r#"(component
            (import "wasi:io/error@0.2.0" (instance $error (export "error" (type (sub resource)))))
            (alias export $error "error" (type $error-type))
            (import "wasi:io/poll@0.2.0" (instance $poll
                (export "pollable" (type $pollable (sub resource)))
                (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
            (alias export $poll "pollable" (type $pollable))
            (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
                (alias outer 1 $pollable (type $p))
                (export "pollable" (type $pollable (eq $p)))
                (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))
            (import "wasi:io/streams@0.2.0" (instance $streams
                (alias outer 1 $error-type (type $e))
                (export "error" (type $error (eq $e)))
                (export "output-stream" (type $output-stream (sub resource)))
                (type $stream-error-type (variant (case "last-operation-failed" (own $error)) (case "closed")))
                (export "stream-error" (type $stream-error (eq $stream-error-type)))
                (export "[method]output-stream.blocking-write-and-flush"
                    (func (param "self" (borrow $output-stream)) (param "contents" (list u8))
                        (result (result (error $stream-error)))))))
            (alias export $streams "output-stream" (type $output-stream))
            (import "wasi:cli/stdout@0.2.0" (instance $stdout
                (alias outer 1 $output-stream (type $o))
                (export "output-stream" (type $output-stream (eq $o)))
                (export "get-stdout" (func (result (own $output-stream))))))
            (core module $libc-module (memory (export "memory") 1) (data (i32.const 64) "{text}"))
            (core instance $libc (instantiate $libc-module))
            (core func $get-stdout (canon lower (func $stdout "get-stdout")))
            (core func $write (canon lower (func $streams "[method]output-stream.blocking-write-and-flush")
                (memory (core memory $libc "memory"))))
            (core func $subscribe (canon lower (func $clock "subscribe-duration")))
            (core func $block (canon lower (func $poll "[method]pollable.block")))
            (core module $main-module
                (import "" "get-stdout" (func $get-stdout (result i32)))
                (import "" "write" (func $write (param i32 i32 i32 i32)))
                (import "" "subscribe" (func $subscribe (param i64) (result i32)))
                (import "" "block" (func $block (param i32)))
                (func (export "run") (result i32)
                    (call $write (call $get-stdout) (i32.const 64) (i32.const {length}) (i32.const 0))
                    (call $block (call $subscribe (i64.const {sleep_ns})))
                    (i32.const {result})))
            (core instance $main (instantiate $main-module (with "" (instance
                (export "get-stdout" (func $get-stdout))
                (export "write" (func $write))
                (export "subscribe" (func $subscribe))
                (export "block" (func $block))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $run-instance (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#
    )
}

#[tokio::test]
async fn a_command_component_runs_and_its_result_is_its_exit_code() {
    let mut sandbox = TestSandbox::start();
    let work = sandbox.work(&command_component("hello from 0.2", 1_000_000, 0));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.output, "hello from 0.2");

    let work = sandbox.work(&command_component("half", 0, 1));
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Errored);
    assert_eq!((ended.outcome.exit_code, &ended.output[..]), (Some(1), &b"half"[..]));

    let mut work = sandbox.work(&command_component("half", 0, 1));
    work.ok_exit = Arc::new([1]);
    assert_kind(&sandbox.run(work).await, OutcomeKind::Succeeded);
}

#[tokio::test]
async fn the_network_is_refused() {
    let mut sandbox = TestSandbox::start();
    // `access-denied` is case 1 of the error code, after the tag of the result.
    let work = sandbox.work(
        r#"(component
            (import "wasi:sockets/network@0.2.0" (instance $network
                (type $code-type (enum "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
                    "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit" "address-not-bindable"
                    "address-in-use" "remote-unreachable" "connection-refused" "connection-reset" "connection-aborted"
                    "datagram-too-large" "name-unresolvable" "temporary-resolver-failure" "permanent-resolver-failure"))
                (export "error-code" (type $code (eq $code-type)))
                (type $family-type (enum "ipv4" "ipv6"))
                (export "ip-address-family" (type $family (eq $family-type)))))
            (alias export $network "error-code" (type $code))
            (alias export $network "ip-address-family" (type $family))
            (import "wasi:sockets/tcp@0.2.0" (instance $tcp (export "tcp-socket" (type (sub resource)))))
            (alias export $tcp "tcp-socket" (type $socket))
            (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
                (alias outer 1 $code (type $c))
                (export "error-code" (type $code (eq $c)))
                (alias outer 1 $family (type $f))
                (export "ip-address-family" (type $family (eq $f)))
                (alias outer 1 $socket (type $s))
                (export "tcp-socket" (type $socket (eq $s)))
                (export "create-tcp-socket"
                    (func (param "address-family" $family) (result (result (own $socket) (error $code)))))))
            (core module $libc-module (memory (export "memory") 1))
            (core instance $libc (instantiate $libc-module))
            (core func $create (canon lower (func $create "create-tcp-socket") (memory (core memory $libc "memory"))))
            (core module $main-module
                (import "" "create" (func $create (param i32 i32)))
                (import "" "memory" (memory 1))
                (func (export "run") (result i32)
                    (call $create (i32.const 0) (i32.const 0))
                    (if (i32.ne (i32.load8_u (i32.const 0)) (i32.const 1)) (then unreachable))
                    (i32.ne (i32.load8_u (i32.const 4)) (i32.const 1))))
            (core instance $main (instantiate $main-module (with "" (instance
                (export "create" (func $create))
                (export "memory" (memory $libc "memory"))))))
            (func $run (result (result)) (canon lift (core func $main "run")))
            (instance $run-instance (export "run" (func $run)))
            (export "wasi:cli/run@0.2.0" (instance $run-instance)))"#,
    );
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
}

#[tokio::test]
async fn polling_gives_an_event_for_what_is_ready() {
    let mut sandbox = TestSandbox::start();
    // A clock far away, stdin, stdout and a descriptor that is not there: three events, at once.
    let body = r#"
        (i64.store (i32.const 1000) (i64.const 1)) (i32.store8 (i32.const 1008) (i32.const 0))
        (i32.store (i32.const 1016) (i32.const 1)) (i64.store (i32.const 1024) (i64.const 0x7fffffffffffffff))
        (i64.store (i32.const 1048) (i64.const 2)) (i32.store8 (i32.const 1056) (i32.const 1))
        (i32.store (i32.const 1064) (i32.const 0))
        (i64.store (i32.const 1096) (i64.const 3)) (i32.store8 (i32.const 1104) (i32.const 2))
        (i32.store (i32.const 1112) (i32.const 1))
        (i64.store (i32.const 1144) (i64.const 4)) (i32.store8 (i32.const 1152) (i32.const 1))
        (i32.store (i32.const 1160) (i32.const 9))
        (if (call $poll_oneoff (i32.const 1000) (i32.const 2000) (i32.const 4) (i32.const 1996)) (then unreachable))
        (call $write (i32.const 1) (i32.const 1996) (i32.const 100))"#;
    let mut work = sandbox.work(&command("", body));
    work.input = Bytes::from("12345");
    let ended = sandbox.run(work).await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.output[..4], 3u32.to_le_bytes());
    let events: Vec<_> =
        ended.output[4..].chunks_exact(32).map(|event| (event[0], event[8], event[10], event[16])).collect();
    assert_eq!(events, [(2, 0, 1, 5), (3, 0, 2, 0), (4, 8, 1, 0)]);
}

#[tokio::test]
async fn polling_nothing_or_outside_of_memory_is_an_error_of_the_guest() {
    let mut sandbox = TestSandbox::start();
    for (arguments, errno) in [
        ("(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)", 28),
        ("(i32.const 0) (i32.const 0) (i32.const -1) (i32.const 0)", 28),
        ("(i32.const -1) (i32.const 0) (i32.const 1) (i32.const 0)", 21),
        ("(i32.const 0) (i32.const -1) (i32.const 1) (i32.const 0)", 21),
        ("(i32.const 0) (i32.const 0) (i32.const 1) (i32.const -1)", 21),
    ] {
        let work = sandbox.work(&command("", &format!("(call $exit (call $poll_oneoff {arguments}))")));
        let ended = sandbox.run(work).await;
        assert_eq!(ended.outcome.exit_code, Some(errno), "{arguments}: {ended:?}");
    }
}
