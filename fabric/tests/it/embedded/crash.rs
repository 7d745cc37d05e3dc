//! F27: a crash in mid-append. The test runs itself as a child process, kills it, and looks at what
//! is left.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use wasmill_protocol::LogSeq;

use super::open;

/// Set for the child: its data directory.
const CHILD_DIR: &str = "WASMILL_TEST_APPEND_TO";
/// How often the child is killed.
const CRASHES: u64 = 6;
/// Appends that the child keeps in flight.
const IN_FLIGHT: usize = 24;

/// Every record differs, and most span several pages of the file.
fn record(seq: u64) -> Bytes {
    format!("{seq} ").repeat((seq * 37 % 4_001) as usize + 1).into()
}

#[test]
fn f27_everything_acknowledged_is_there_after_a_kill() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if let Some(dir) = env::var_os(CHILD_DIR) {
        runtime.block_on(append_for_ever(Path::new(&dir)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for crash in 1..=CRASHES {
        // Another moment each time, so that not every crash meets the same point of a commit or
        // checkpoint.
        acknowledged = run_and_kill(dir.path(), acknowledged + crash * crash * 29);
        let last = runtime.block_on(check(dir.path(), acknowledged));
        assert!(last <= acknowledged + 2 * IN_FLIGHT as u64, "{last} of {acknowledged}");
        acknowledged = last;
    }
}

/// Kills a child as soon as it has acknowledged record `enough`; the last record that it has
/// acknowledged by then.
fn run_and_kill(dir: &Path, enough: u64) -> u64 {
    let mut child = spawn_child(dir);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut acknowledged = 0;
    let mut killed = false;
    // Its last lines before its death are still in the pipe.
    while let Some(Ok(line)) = lines.next() {
        let Some(seq) = line.split("acknowledged ").nth(1) else { continue };
        // The last line may be cut off.
        acknowledged = seq.strip_suffix('.').map_or(acknowledged, |seq| seq.parse().unwrap());
        if acknowledged >= enough && !killed {
            child.kill().unwrap();
            killed = true;
        }
    }
    assert!(killed, "the child ended by itself: {:?}", child.wait());
    child.wait().unwrap();
    acknowledged
}

fn spawn_child(dir: &Path) -> Child {
    let test = "embedded::crash::f27_everything_acknowledged_is_there_after_a_kill";
    Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

async fn append_for_ever(dir: &Path) {
    let log = open(dir).log;
    let writer = log.writer();
    let mut last = log.last_seq().await.unwrap();
    let mut in_flight = FuturesOrdered::new();
    loop {
        while in_flight.len() < IN_FLIGHT {
            in_flight.push_back(writer.append(last, record(last.0 + 1)));
            last = last.next();
        }
        let seq = in_flight.next().await.unwrap().unwrap();
        writeln!(std::io::stdout().lock(), "acknowledged {seq}.").unwrap();
    }
}

/// Reads the whole log; its last record.
async fn check(dir: &Path, acknowledged: u64) -> u64 {
    let embedded = open(dir);
    let last = embedded.log.last_seq().await.unwrap();
    assert!(last.0 >= acknowledged, "record {acknowledged} was acknowledged, the log ends at {last}");
    let mut tail = embedded.log.tail(LogSeq(1)).take(last.0 as usize);
    let mut expected = 0;
    while let Some(read) = tail.next().await {
        expected += 1;
        let (seq, bytes) = read.unwrap();
        assert_eq!(seq.0, expected);
        assert!(bytes == record(expected), "record {expected} has other bytes");
    }
    assert_eq!(expected, last.0);
    last.0
}
