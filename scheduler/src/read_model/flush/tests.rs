//! A file that cannot be written for a while.

use std::thread;

use wasmill_protocol::{TaskSpec, Timestamp};
use wasmill_record::event::{Event, EventBody};

use super::*;
use crate::read_model::store;

fn record(task: u128) -> Arc<Record> {
    let body = EventBody::TaskSubmitted {
        task: TaskId(uuid::Uuid::from_u128(task)),
        spec: Arc::new(TaskSpec::default()),
        fingerprint: None,
        edges: Vec::new(),
    };
    Arc::new(Record { events: vec![Event { at: Timestamp(1), body }], ..Record::default() })
}

#[tokio::test]
async fn f26_what_cannot_be_written_is_kept_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("read-model.sqlite");
    let (connection, position) = store::open_writer(&path).unwrap();
    let pipeline = Arc::new(Pipeline::new(position, Vec::new()));
    let worker = Arc::clone(&pipeline);
    let sink = Sink::new(connection).unwrap();
    let worker = thread::spawn(move || worker.run(sink));

    let breaker = rusqlite::Connection::open(&path).unwrap();
    breaker.execute_batch("ALTER TABLE task RENAME TO away").unwrap();
    pipeline.apply(LogSeq(1), &record(1));
    let failure = loop {
        match pipeline.flush(Duration::from_millis(20)).await {
            Err((LogSeq(1), Some(failure))) => break failure,
            Err((LogSeq(1), None)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(failure.contains("no such table"), "{failure}");
    pipeline.apply(LogSeq(2), &record(2));
    assert_eq!(pipeline.flushed(), LogSeq(0));
    assert_eq!(pipeline.events(None, TaskId(uuid::Uuid::from_u128(1))).found.len(), 1, "readers see it all the same");

    breaker.execute_batch("ALTER TABLE away RENAME TO task").unwrap();
    // Nobody waits for what has just failed.
    while pipeline.flush(Duration::from_secs(30)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(pipeline.flushed(), LogSeq(2));
    let rows: i64 = breaker.query_row("SELECT count(*) FROM task", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 2);
    pipeline.stop();
    worker.join().unwrap();
}

#[tokio::test]
async fn f36_too_much_pending_is_told_until_it_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (connection, position) = store::open_writer(&dir.path().join("read-model.sqlite")).unwrap();
    let pipeline = Arc::new(Pipeline::new(position, Vec::new()));
    // Nobody writes yet. An event about a task that nobody knows is as large as any other.
    let event = Event { at: Timestamp(1), body: EventBody::TaskQueued { task: TaskId::default() } };
    let large = Arc::new(Record { events: vec![event; 10_000], ..Record::default() });
    let mut seq = LogSeq(0);
    while !pipeline.lagging() {
        seq = seq.next();
        pipeline.apply(seq, &large);
        assert!(seq < LogSeq(1_000), "it never lags");
    }
    let worker = Arc::clone(&pipeline);
    let sink = Sink::new(connection).unwrap();
    let worker = thread::spawn(move || worker.run(sink));
    pipeline.caught_up().await;
    assert!(!pipeline.lagging());
    pipeline.stop();
    worker.join().unwrap();
    assert_eq!(pipeline.flushed(), seq);
}
