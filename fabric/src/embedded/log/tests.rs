//! A disk that is full, and one that fails.

use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use tempfile::TempDir;

use super::*;

const RECORD_BYTES: usize = 10_000;

fn open(dir: &TempDir, pages_max: Option<u32>) -> EmbeddedLog {
    let lock = Arc::new(DirLock::acquire(dir.path()).unwrap());
    let path = dir.path().join("log.sqlite");
    let store = store::Store::open(&path).unwrap();
    if let Some(pages_max) = pages_max {
        store.limit_pages(pages_max);
    }
    EmbeddedLog::start(&path, store, Arc::default(), lock).unwrap()
}

fn record() -> Bytes {
    Bytes::from(vec![1; RECORD_BYTES])
}

/// Appends one by one until one fails.
async fn fill(log: &EmbeddedLog) -> AppendError {
    loop {
        let last = log.last_seq().await.unwrap();
        if let Err(error) = log.append(last, record()).await {
            return error;
        }
    }
}

#[tokio::test]
async fn f26_a_full_disk_writes_nothing_and_recovers() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, Some(60));
    let error = fill(&log).await;
    let last = log.last_seq().await.unwrap();
    assert!(last > LogSeq(5));
    assert!(matches!(error, AppendError::NoSpace { seq } if seq == last.next()), "{error}");

    // A group fails as a whole, and what was called behind it hears the same reason and not that
    // leadership is lost.
    let appends: Vec<_> = {
        let writer = log.writer();
        (last.0..last.0 + 5).map(|last| writer.append(LogSeq(last), record())).collect()
    };
    for (result, seq) in join_all(appends).await.into_iter().zip(last.0 + 1..) {
        assert!(matches!(result, Err(AppendError::NoSpace { seq: refused }) if refused == LogSeq(seq)), "{result:?}");
    }
    assert_eq!(log.last_seq().await.unwrap(), last);
    assert_eq!(
        log.tail(LogSeq(1)).take(last.0 as usize).filter(|read| std::future::ready(read.is_ok())).count().await,
        last.0 as usize
    );

    // Trimming makes room.
    log.trim(LogSeq(3)).await.unwrap();
    assert_eq!(log.append(last, record()).await.unwrap(), last.next());
    drop(log);
    let log = open(&dir, None);
    assert_eq!(log.last_seq().await.unwrap(), last.next());
    assert_eq!(log.append(last.next(), record()).await.unwrap(), last.next().next());
}

#[tokio::test]
async fn f29_after_a_storage_failure_nothing_is_appended_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(&dir, None);
    assert_eq!(log.append(LogSeq(0), record()).await.unwrap(), LogSeq(1));
    let breaker = rusqlite::Connection::open(dir.path().join("log.sqlite")).unwrap();
    breaker.execute_batch("ALTER TABLE record RENAME TO gone").unwrap();
    let error = log.append(LogSeq(1), record()).await.unwrap_err();
    assert!(matches!(error, AppendError::Storage { seq: LogSeq(2), .. }), "{error}");

    // Not even when it would work again: nobody knows what the failed write has left.
    breaker.execute_batch("ALTER TABLE gone RENAME TO record").unwrap();
    for last in [1, 2, 7] {
        let error = log.append(LogSeq(last), record()).await.unwrap_err();
        assert!(matches!(error, AppendError::Storage { .. }), "{error}");
    }
    assert!(log.last_seq().await.is_err());
    assert!(log.trim(LogSeq(1)).await.is_err());
}
