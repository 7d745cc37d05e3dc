//! Copies: a read model goes on where another one was.

use std::fs;
use std::time::Duration;

use wasmill_protocol::{Digest, LogSeq, TaskSpec};
use wasmill_record::event::EventBody;
use wasmill_record::snapshot::ReadModelCopy;
use wasmill_scheduler::read_model::{CopyError, TaskFilter};

use crate::support::{Blobs, Fed, blob, ended_before, id, spec, started, submitted, succeeded, tenant};

/// Twenty tasks, of which half have ended.
fn fed() -> Fed {
    let mut fed = Fed::new();
    for number in 1..=20 {
        let labels = [("number".to_owned(), number.to_string())].into();
        let key = Some(format!("key-{number}"));
        let spec = TaskSpec { labels, idempotency_key: key, input: blob(number as u8), ..spec("a") };
        fed.feed([submitted(number, spec), started(number, 1)]);
        if number % 2 == 0 {
            fed.feed([succeeded(number, 1)]);
        }
    }
    fed
}

#[tokio::test]
async fn a_copy_and_what_follows_it_are_the_whole() {
    let mut fed = fed();
    fed.model.flush().await.unwrap();
    let blobs = Blobs::new();
    let copy = fed.save(&blobs).await;
    assert_eq!(copy.seq, LogSeq(30));
    fed.feed([submitted(21, spec("b")), succeeded(1, 1)]);
    fed.feed([submitted(22, spec("a"))]);

    let elsewhere = Fed { records: fed.records.clone(), ..Fed::new() };
    elsewhere.model.apply(LogSeq(1), &fed.records[0]);
    // A reader that was there before finds what the copy brought.
    assert_eq!(elsewhere.list("a", &TaskFilter::default(), 10).await.len(), 1);
    elsewhere.model.restore(&*blobs.blobs, &copy).await.unwrap();
    assert_eq!((elsewhere.model.position(), elsewhere.model.flushed()), (LogSeq(30), LogSeq(30)));
    assert_eq!(elsewhere.list("a", &TaskFilter::default(), 10).await.len(), 20);
    elsewhere.feed_again(LogSeq(30));

    let expected = fed.everything(&["a", "b"]).await;
    assert_eq!(elsewhere.everything(&["a", "b"]).await, expected);
    let key = elsewhere.model.key(&tenant("a"), "key-3").await.unwrap();
    assert_eq!(key, (Some((id(3), Digest([3; 32]))), LogSeq(32)));
    assert!(elsewhere.model.is_referenced(Digest([3; 32])).await.unwrap());
    let again = elsewhere.reopen();
    assert_eq!(again.everything(&["a", "b"]).await, expected);
    assert_eq!(again.model.position(), LogSeq(32));
}

#[tokio::test]
async fn nothing_is_left_beside_the_file() {
    let fed = fed();
    let files = |dir: &std::path::Path| {
        let mut names: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    fed.model.flush().await.unwrap();
    let moved = fed.moved().await;
    moved.model.flush().await.unwrap();
    for fed in [fed, moved] {
        let names = files(fed.dir.path());
        assert!(names.iter().all(|name| !name.to_string_lossy().contains("sqlite.")), "{names:?}");
        // The file that a crash leaves in the middle of a copy is gone at the next start.
        let left = fed.dir.path().join("read-model.sqlite.copy");
        fs::write(&left, "half of it").unwrap();
        let fed = fed.reopen();
        assert!(!left.exists());
        drop(fed);
    }
}

#[tokio::test]
async fn a_copy_that_cannot_be_used_changes_nothing() {
    let fed = fed();
    fed.model.flush().await.unwrap();
    let blobs = Blobs::new();
    let copy = fed.save(&blobs).await;
    let elsewhere = Fed { records: fed.records.clone(), ..Fed::new() };

    let missing = ReadModelCopy { digest: Digest([9; 32]), ..copy };
    let error = elsewhere.model.restore(&*blobs.blobs, &missing).await.unwrap_err();
    assert!(matches!(error, CopyError::Blob(_)), "{error}");
    let other = ReadModelCopy { seq: LogSeq(29), ..copy };
    let error = elsewhere.model.restore(&*blobs.blobs, &other).await.unwrap_err();
    assert_eq!(error.to_string(), "the copy of the read model ends at record 30, not at 29");

    let file = blobs.file(copy.digest);
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = elsewhere.model.restore(&*blobs.blobs, &copy).await.unwrap_err();
    assert!(matches!(error, CopyError::File { action, .. } if action.contains("fetch")), "{error}");

    // Whole, but of another layout: it is not ours to use.
    let (strange, path) = (Blobs::new(), blobs.dir.path().join("strange.sqlite"));
    bytes[last] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 9_999).unwrap();
    drop(connection);
    let stat = strange.blobs.put(fs::read(&path).unwrap().into()).await.unwrap();
    let strange_copy = ReadModelCopy { digest: stat.digest, ..copy };
    let error = elsewhere.model.restore(&*strange.blobs, &strange_copy).await.unwrap_err();
    assert!(error.to_string().contains("layout 9999"), "{error}");
}

#[tokio::test]
async fn what_was_erased_does_not_come_back_from_a_copy() {
    let mut fed = fed();
    fed.feed((100..4_000).map(|number| submitted(number, spec("gone"))));
    fed.feed([EventBody::TenantRemoved { tenant: tenant("gone") }]);
    fed.feed([submitted(5_000, spec("a"))]);
    let blobs = Blobs::new();
    // Made while the tenant is there, while it is being erased, or after.
    let early = fed.save(&blobs).await;
    fed.model.flush().await.unwrap();
    let late = fed.save(&blobs).await;
    for copy in [early, late] {
        if copy.seq == LogSeq(0) {
            continue;
        }
        let elsewhere = Fed { records: fed.records.clone(), ..Fed::new() };
        elsewhere.model.restore(&*blobs.blobs, &copy).await.unwrap();
        elsewhere.feed_again(copy.seq);
        assert!(elsewhere.everything(&["gone"]).await.is_empty());
        assert_eq!(elsewhere.task("gone", 100).await, None);
        assert_eq!(elsewhere.model.specs(&[id(5_000)]).await.len(), 1);
        // Final tasks go when their retention is over, wherever they came from.
        assert_eq!(elsewhere.model.sweep(ended_before(fed.now(), Duration::ZERO)).await.unwrap(), 10);
        assert_eq!(elsewhere.list("a", &TaskFilter::default(), 100).await.len(), 11);
    }
}

#[tokio::test]
async fn a_copy_is_made_beside_those_who_write_and_read() {
    let mut fed = fed();
    let blobs = Blobs::new();
    let all = TaskFilter::default();
    for round in 0..20_u64 {
        fed.feed((0..200).map(|number| submitted(1_000 + round * 200 + number, spec("a"))));
        let (copy, rows) = tokio::join!(fed.save(&blobs), fed.list("a", &all, 1_000));
        assert_eq!(rows.len(), 220 + round as usize * 200);
        assert!(copy.seq <= fed.model.position() && copy.bytes > 0);
    }
    let moved = fed.moved().await;
    assert_eq!(moved.everything(&["a"]).await, fed.everything(&["a"]).await);
    let used = fed.model.bytes().await.unwrap();
    assert!(used > 100_000, "{used}");
}
