//! The data directory: who may use it, and what stays in it.

use std::env;
use std::error::Error as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use futures::StreamExt;
use wasmill_fabric::embedded::{self, OpenError};
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{LogSeq, Term};

use super::open;

/// Set for the child: the directory that it must be refused.
const CHILD_DIR: &str = "WASMILL_TEST_REFUSED_DIR";

#[test]
fn f31_a_second_process_is_refused_and_told_who_holds_it() {
    if let Some(dir) = env::var_os(CHILD_DIR) {
        let Err(error) = embedded::open(dir.as_ref()) else { panic!("two processes have the directory") };
        println!("refused: {error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path());
    let test = "embedded::directory::f31_a_second_process_is_refused_and_told_who_holds_it";
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = format!(
        "refused: cannot use data directory `{}`: process {} uses it already",
        dir.path().display(),
        std::process::id()
    );
    assert!(said.contains(&expected), "{said}");
    drop(first);
}

#[tokio::test]
async fn the_directory_is_free_when_the_last_part_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path());
    let parts = (embedded.log.clone(), embedded.membership.clone(), embedded.blobs.clone());
    drop(embedded);
    assert!(matches!(embedded::open(dir.path()), Err(OpenError::Held { .. })));
    drop((parts.0, parts.1));
    assert!(matches!(embedded::open(dir.path()), Err(OpenError::Held { .. })));
    drop(parts.2);
    open(dir.path());
}

#[test]
fn the_directory_is_for_its_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("deep/data");
    let _embedded = open(&data);
    assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let Err(error) = embedded::open(&file.path().join("data")) else { panic!("opened below a file") };
    assert_eq!(error.to_string(), format!("cannot create `{}`", file.path().join("data").display()));
    assert!(error.source().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path());
    let log = embedded.log.clone();
    for seq in 1..=20 {
        log.append(LogSeq(seq - 1), format!("record {seq}").into()).await.unwrap();
    }
    let blob = embedded.blobs.put("a blob".into()).await.unwrap();
    let term = embedded.membership.campaign("node").await.unwrap().term;
    let _registration = embedded.membership.register(HostInfo::default()).await.unwrap();
    drop((log, embedded, _registration));

    let embedded = open(dir.path());
    assert_eq!(embedded.log.last_seq().await.unwrap(), LogSeq(20));
    let records: Vec<_> = embedded.log.tail(LogSeq(19)).take(2).map(Result::unwrap).collect().await;
    assert_eq!(records, [(LogSeq(19), "record 19".into()), (LogSeq(20), "record 20".into())]);
    assert_eq!(embedded.log.append(LogSeq(20), "record 21".into()).await.unwrap(), LogSeq(21));
    assert_eq!(embedded.blobs.read(blob.digest, 100).await.unwrap(), "a blob");
    assert!(embedded.membership.campaign("node").await.unwrap().term > term);
}

#[tokio::test]
async fn a_trimmed_log_goes_on_counting_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).log;
    for last in 0..5 {
        log.append(LogSeq(last), "record".into()).await.unwrap();
    }
    log.trim(LogSeq(5)).await.unwrap();
    drop(log);
    let log = open(dir.path()).log;
    assert_eq!(log.last_seq().await.unwrap(), LogSeq(5));
    assert_eq!(log.append(LogSeq(5), "record".into()).await.unwrap(), LogSeq(6));
}

#[tokio::test]
async fn a_second_campaign_ends_the_first_leadership() {
    let dir = tempfile::tempdir().unwrap();
    let membership = open(dir.path()).membership;
    let first = membership.campaign("node").await.unwrap();
    let second = membership.campaign("node").await.unwrap();
    assert_eq!((first.term, second.term), (Term(1), Term(2)));
    assert!(*first.lost.borrow());
    assert!(!*second.lost.borrow());
}

#[test]
fn a_damaged_term_is_not_taken_for_the_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("term"), "many\n").unwrap();
    let Err(error) = embedded::open(dir.path()) else { panic!("opened") };
    let expected = format!("`{}` is damaged: `many` is not a term", dir.path().join("term").display());
    assert_eq!(error.to_string(), expected);
}

#[test]
fn a_file_of_something_else_is_not_taken_for_a_log() {
    for (bytes, expected) in
        [(&b"text, no database"[..], "cannot open the log"), (&[0; 4096][..], "cannot open the log")]
    {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("log.sqlite"), bytes).unwrap();
        let Err(error) = embedded::open(dir.path()) else { panic!("opened") };
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}
