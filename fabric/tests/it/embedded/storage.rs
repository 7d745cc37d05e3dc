//! Files that were damaged, and files that grow.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use wasmill_fabric::BlobError;
use wasmill_fabric::embedded;
use wasmill_protocol::{Digest, LogSeq};

use super::open;

fn blob_path(dir: &Path, digest: Digest) -> PathBuf {
    dir.join("blobs").join(&digest.hex()[..2]).join(digest.hex())
}

#[tokio::test]
async fn a_damaged_blob_is_never_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(dir.path()).blobs;
    let bytes = Bytes::from(vec![1; 700_000]);
    let digest = blobs.put(bytes.clone()).await.unwrap().digest;
    let path = blob_path(dir.path(), digest);

    let mut flipped = bytes.to_vec();
    flipped[699_999] ^= 1;
    for damaged in [&flipped[..], &bytes[..600_000], &[]] {
        fs::write(&path, damaged).unwrap();
        let error = blobs.read(digest, u64::MAX).await.unwrap_err();
        assert!(matches!(error, BlobError::Damaged(named) if named == digest), "{error}");
        let mut streamed = Vec::new();
        let error = blobs.open(digest).await.unwrap().read_to_end(&mut streamed).await.unwrap_err();
        assert_eq!(error.to_string(), format!("blob {digest} is damaged: its bytes have another digest"));
        assert!(streamed.len() < damaged.len().max(1));
    }

    // Storing the bytes again heals the blob.
    blobs.put(bytes.clone()).await.unwrap();
    assert!(blobs.read(digest, u64::MAX).await.unwrap() == bytes);
}

#[tokio::test]
async fn what_a_crash_left_half_written_is_removed_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let tmp = dir.path().join("blobs/tmp");
    drop(open(dir.path()));
    fs::write(tmp.join(".tmpXYZ"), "half a blob").unwrap();
    fs::write(dir.path().join("blobs/README"), "not a blob").unwrap();
    let blobs = open(dir.path()).blobs;
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    assert_eq!(blobs.list().count().await, 0);
}

#[tokio::test]
async fn a_record_missing_in_the_middle_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).log;
    for last in 0..9 {
        log.append(LogSeq(last), "record".into()).await.unwrap();
    }
    drop(log);
    damage(dir.path(), "DELETE FROM record WHERE seq = 5");
    let log = open(dir.path()).log;
    let read: Vec<_> = log.tail(LogSeq(1)).collect().await;
    assert_eq!(read.iter().filter(|read| read.is_ok()).count(), 4);
    assert_eq!(read[4].as_ref().unwrap_err().to_string(), "record 5 of the log is missing");
    assert_eq!(read.len(), 5);
    drop(log);

    damage(dir.path(), "DELETE FROM record WHERE seq = 1");
    let Err(error) = embedded::open(dir.path()) else { panic!("opened without its first record") };
    assert!(error.to_string().ends_with("is damaged: record 1 is missing"), "{error}");
}

fn damage(dir: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(dir.join("log.sqlite")).unwrap();
    assert_eq!(connection.execute(sql, []).unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_write_ahead_log_is_started_over_while_records_are_appended() {
    const RECORDS: u64 = 120;
    const WAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let embedded = open(dir.path());
    let log = embedded.log;
    let record = Bytes::from(vec![3; 1024 * 1024]);
    let mut largest = 0;
    for last in 0..RECORDS {
        log.append(LogSeq(last), record.clone()).await.unwrap();
        largest = largest.max(fs::metadata(dir.path().join("log.sqlite-wal")).unwrap().len());
    }
    assert!(largest < WAL_BYTES_MAX, "the write-ahead log grew to {largest} bytes");
    let mut tail = log.tail(LogSeq(1)).take(RECORDS as usize);
    while let Some(read) = tail.next().await {
        assert!(read.unwrap().1 == record);
    }
}
