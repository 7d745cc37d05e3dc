//! Stops, crashes, and files that cannot be used.

use std::fs;

use wasmill_protocol::LogSeq;
use wasmill_scheduler::read_model::{ReadModel, TaskFilter};

use crate::support::{Fed, spec, started, submitted, succeeded};

#[tokio::test]
async fn a_stop_in_good_order_loses_nothing() {
    let mut fed = Fed::new();
    for number in 1..=100 {
        fed.feed([submitted(number, spec("a"))]);
    }
    assert_eq!(fed.model.position(), LogSeq(100));
    let fed = fed.reopen();
    assert_eq!((fed.model.position(), fed.model.flushed()), (LogSeq(100), LogSeq(100)));
    assert_eq!(fed.list("a", &TaskFilter::default(), 30).await.len(), 100);
}

#[tokio::test]
async fn a_crash_before_the_flush_is_made_good_from_the_log() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a")), submitted(2, spec("a"))]);
    fed.model.flush().await.unwrap();
    fed.feed([started(1, 1), submitted(3, spec("a"))]);
    fed.feed([succeeded(1, 1)]);
    let crashed = fed.crash();
    assert_eq!(crashed.model.position(), LogSeq(3));
    let expected = fed.everything(&["a"]).await;
    assert_eq!(expected.len(), 3);
    assert_eq!(crashed.everything(&["a"]).await, expected);
    assert_eq!(fed.rebuild().everything(&["a"]).await, expected);
}

#[tokio::test]
async fn records_that_are_fed_again_change_nothing() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a"))]);
    fed.feed([started(1, 1), succeeded(1, 1)]);
    let expected = fed.everything(&["a"]).await;
    let fed = fed.reopen();
    for (record, seq) in fed.records.iter().zip(1..) {
        fed.model.apply(LogSeq(seq), record);
    }
    assert_eq!(fed.everything(&["a"]).await, expected);
    assert_eq!(fed.model.position(), LogSeq(2));
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_filled_again() {
    let mut fed = Fed::new();
    fed.feed([submitted(1, spec("a"))]);
    let expected = fed.everything(&["a"]).await;
    let path = fed.dir.path().join("read-model.sqlite");
    let Fed { model, dir, records } = fed;
    drop(model);

    let layout = rusqlite::Connection::open(&path).unwrap();
    layout.pragma_update(None, "user_version", 9_999).unwrap();
    drop(layout);
    let model = ReadModel::open(dir.path()).unwrap();
    assert_eq!(model.flushed(), LogSeq(0));
    drop(model);
    let aside = rusqlite::Connection::open(path.with_file_name("read-model.sqlite.layout-9999")).unwrap();
    let kept: i64 = aside.query_row("SELECT count(*) FROM task", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 1, "who knows the layout can still read it");

    fs::write(&path, "this is no database, but it is longer than a header would be, to be sure of it ".repeat(9))
        .unwrap();
    let model = ReadModel::open(dir.path()).unwrap();
    assert_eq!(model.flushed(), LogSeq(0));
    model.apply(LogSeq(1), &records[0]);
    assert_eq!(Fed { model, dir, records }.everything(&["a"]).await, expected);
}

#[test]
fn a_directory_that_does_not_exist_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Err(error) = ReadModel::open(&dir.path().join("nowhere")) else { panic!("opened") };
    assert!(error.to_string().starts_with("cannot open the read model `"), "{error}");
}
