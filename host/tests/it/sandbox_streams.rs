//! Reads and writes of commands: into and from several buffers, into none, and beyond the bounds.

use bytes::Bytes;
use wasmill_host::channel::Ended;
use wasmill_protocol::limits::MIB;
use wasmill_protocol::{OutcomeKind, TrapCode};

use crate::sandbox_support::{TestSandbox, assert_kind, command};

/// Puts a list of buffers at `at`: pairs of address and length.
fn buffers(at: u32, list: &[(u32, u32)]) -> String {
    let store = |at: u32, value: u32| format!("(i32.store (i32.const {at}) (i32.const {value}))");
    let both = |(n, (start, length)): (usize, &(u32, u32))| {
        let at = at + 8 * n as u32;
        store(at, *start) + &store(at + 4, *length)
    };
    list.iter().enumerate().map(both).collect()
}

/// A call of `function`, and what it came to: its code at 900 and the number of bytes at 904.
fn call(function: &str, fd: u32, at: u32, count: u32) -> String {
    format!(
        "(i32.store (i32.const 900) (call ${function} (i32.const {fd}) (i32.const {at}) (i32.const {count}) (i32.const 904)))"
    )
}

async fn run(body: &str, input: &'static [u8]) -> Ended {
    let mut sandbox = TestSandbox::start();
    let data = r#"(data (i32.const 256) "hello") (data (i32.const 300) " world\n") (data (i32.const 320) "!")"#;
    let mut work = sandbox.work(&command(data, body));
    work.input = Bytes::from_static(input);
    sandbox.run(work).await
}

/// Code and number of the last call.
const REPORT: &str = "(call $write (i32.const 1) (i32.const 900) (i32.const 8))";

fn reported(output: &[u8]) -> (u32, u32) {
    let number = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    (number(&output[..4]), number(&output[4..8]))
}

#[tokio::test]
async fn all_buffers_of_a_write_are_written() {
    let list = buffers(0, &[(256, 5), (4096, 0), (300, 7), (256, 5), (320, 1)]);
    let written = format!("{list} {}", call("fd_write", 1, 0, 5));
    let ended = run(&format!("{written} {REPORT}"), b"").await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert_eq!(ended.output[..18], *b"hello world\nhello!");
    assert_eq!(reported(&ended.output[18..]), (0, 18));

    let ended = run(&format!("{list} {}", call("fd_write", 2, 0, 5)), b"").await;
    assert_eq!((&ended.output[..], &ended.captured[..]), (&b""[..], &b"hello world\nhello!"[..]));
}

#[tokio::test]
async fn one_large_buffer_is_written_whole() {
    let body = format!(
        "(drop (memory.grow (i32.const 4))) {} {} {REPORT}",
        buffers(0, &[(65_536, 150_000)]),
        call("fd_write", 1, 0, 1)
    );
    let ended = run(&body, b"").await;
    assert_eq!(reported(&ended.output[150_000..]), (0, 150_000));
}

#[tokio::test]
async fn nothing_to_write_is_written() {
    for (list, count) in [(buffers(0, &[(256, 0), (0, 0)]), 2), (String::new(), 0)] {
        let ended = run(&format!("{list} {} {REPORT}", call("fd_write", 1, 0, count)), b"").await;
        assert_eq!(reported(&ended.output), (0, 0));
    }
}

#[tokio::test]
async fn all_buffers_of_a_read_are_filled_as_far_as_there_is_input() {
    let list = buffers(0, &[(400, 2), (4096, 0), (402, 3), (405, 10)]);
    let twice =
        format!("{list} {0} (i32.store (i32.const 420) (i32.load (i32.const 904))) {0}", call("fd_read", 0, 0, 4));
    let body = format!("{twice} (call $write (i32.const 1) (i32.const 400) (i32.const 24)) {REPORT}");
    let ended = run(&body, b"abcdefgh").await;
    assert_eq!(ended.output[..8], *b"abcdefgh");
    assert_eq!(ended.output[20..24], 8_u32.to_le_bytes());
    assert_eq!(reported(&ended.output[24..]), (0, 0), "the end");
}

#[tokio::test]
async fn a_read_into_nothing_succeeds_whether_there_is_input_or_not() {
    for input in [&b"abc"[..], b""] {
        for (list, count) in [(buffers(0, &[(400, 0)]), 1), (buffers(0, &[(400, 0), (9, 0)]), 2), (String::new(), 0)] {
            let ended = run(&format!("{list} {} {REPORT}", call("fd_read", 0, 0, count)), input).await;
            assert_eq!(reported(&ended.output), (0, 0), "{input:?}");
        }
    }
}

#[tokio::test]
async fn a_descriptor_is_what_the_guest_has_made_of_it() {
    const BADF: u32 = 8;
    const SPIPE: u32 = 70;
    let items = r#"
        (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_renumber" (func $renumber (param i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pread" (func $pread (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_pwrite" (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $stat (param i32 i32) (result i32)))"#;
    let list = buffers(0, &[(256, 5)]);
    for (calls, code) in [
        ("(call $fd_write (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 904))", BADF),
        ("(call $fd_read (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 904))", BADF),
        ("(call $fd_write (i32.const 3) (i32.const 0) (i32.const 1) (i32.const 904))", BADF),
        ("(call $pread (i32.const 0) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 904))", SPIPE),
        ("(call $pwrite (i32.const 2) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 904))", SPIPE),
        ("(call $pwrite (i32.const 0) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 904))", BADF),
        (
            "(drop (call $close (i32.const 0))) (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 904))",
            BADF,
        ),
        ("(drop (call $close (i32.const 0))) (call $stat (i32.const 0) (i32.const 904))", BADF),
        ("(call $stat (i32.const 0) (i32.const 904))", 0),
        // stdout is what stderr was.
        (
            "(drop (call $renumber (i32.const 2) (i32.const 1)))
             (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 904))",
            0,
        ),
    ] {
        let mut sandbox = TestSandbox::start();
        let text = command("(data (i32.const 256) \"hello\")", &format!("{list} (call $exit {})", folded(calls)));
        // Imports come before everything else.
        let work = sandbox.work(&text.replacen("(memory", &format!("{items}\n(memory"), 1));
        let ended = sandbox.run(work).await;
        assert_eq!(ended.outcome.exit_code, Some(code as i32), "{calls}: {ended:?}");
        assert_eq!(ended.captured, if calls.contains("$renumber") { "hello" } else { "" }, "{calls}");
    }
}

/// Several instructions as one that gives what the last does.
fn folded(calls: &str) -> String {
    format!("(block (result i32) {calls})")
}

#[tokio::test]
async fn buffers_that_are_not_in_memory_are_traps() {
    for (list, at, count) in [
        (buffers(0, &[(65_536, 1)]), 0_u32, 1_u32),
        (buffers(0, &[(65_535, 2)]), 0, 1),
        (buffers(0, &[(u32::MAX, u32::MAX)]), 0, 1),
        (String::new(), 65_533, 1),
        (String::new(), 0, u32::MAX),
    ] {
        for (function, fd) in [("fd_write", 1), ("fd_read", 0)] {
            let ended = run(&format!("{list} {}", call(function, fd, at, count)), b"input").await;
            assert_kind(&ended, OutcomeKind::Trapped);
            assert_eq!(ended.outcome.trap, Some(TrapCode::MemoryOutOfBounds), "{function} {list}");
            assert_eq!(ended.outcome.backtrace, ["main"]);
        }
    }
}

#[tokio::test]
async fn b11_many_buffers_on_the_same_bytes_are_more_than_there_is_memory_and_still_bounded() {
    // 4,000 buffers of 60,000 bytes: 240 MB by one call, of which the result may have 1 MiB.
    let fill = "(local $n i32) (loop $next
        (i32.store (local.get $n) (i32.const 0)) (i32.store offset=4 (local.get $n) (i32.const 60000))
        (br_if $next (i32.lt_u (local.tee $n (i32.add (local.get $n) (i32.const 8))) (i32.const 32000))))";
    let ended = run(&format!("{fill} {}", call("fd_write", 1, 0, 4000).replace("904", "33000")), b"").await;
    assert_kind(&ended, OutcomeKind::OutputTooLarge);
    let ended = run(&format!("{fill} {}", call("fd_write", 2, 0, 4000).replace("904", "33000")), b"").await;
    assert_kind(&ended, OutcomeKind::Succeeded);
    assert!(ended.captured.len() < MIB as usize);
}
