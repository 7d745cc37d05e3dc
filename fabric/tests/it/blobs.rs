//! The promises of every [`Blobs`](wasmill_fabric::Blobs).

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt;
use wasmill_fabric::{BlobError, BlobStat};
use wasmill_protocol::Digest;

use crate::conformance::Fixture;

/// Around the sizes at which an implementation may cut.
const SIZES: [usize; 7] = [0, 1, 4_095, 131_072, 262_144, 262_145, 1_500_000];

/// Bytes that do not repeat soon.
fn content(bytes: usize) -> Bytes {
    let mut state = bytes as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect::<Vec<_>>().into()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}

async fn listed(fixture: &Fixture) -> BTreeSet<(Digest, u64)> {
    fixture.blobs.list().map(|stat| stat.unwrap()).map(|stat| (stat.digest, stat.bytes)).collect().await
}

async fn read_streaming(fixture: &Fixture, digest: Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    fixture.blobs.open(digest).await.unwrap().read_to_end(&mut bytes).await.unwrap();
    bytes
}

pub(crate) async fn bytes_are_read_back_by_digest(fixture: &Fixture) {
    for bytes in SIZES.map(content) {
        let before = SystemTime::now() - Duration::from_secs(2);
        let stat = fixture.blobs.put(bytes.clone()).await.unwrap();
        assert_eq!((stat.digest, stat.bytes), (digest(&bytes), bytes.len() as u64));
        assert!(stat.modified > before);
        assert_eq!(fixture.blobs.stat(stat.digest).await.unwrap(), stat);
        assert!(fixture.blobs.read(stat.digest, stat.bytes).await.unwrap() == bytes);
        assert!(read_streaming(fixture, stat.digest).await == bytes);
        if let Some(path) = fixture.blobs.local_path(stat.digest) {
            assert!(fs::read(path).unwrap() == bytes);
        }
    }
}

pub(crate) async fn chunks_make_the_same_blob_as_one_piece(fixture: &Fixture) {
    for (bytes, chunk_bytes) in [(0, 1), (10, 3), (300_000, 1_000), (600_000, 262_144), (1_000_000, 999_999)] {
        let bytes = content(bytes);
        let mut writer = fixture.blobs.create().await.unwrap();
        for chunk in bytes.chunks(chunk_bytes) {
            writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
        let stat = writer.finish(Box::new(|_| true)).await.unwrap();
        assert_eq!((stat.digest, stat.bytes), (digest(&bytes), bytes.len() as u64));
        assert!(fixture.blobs.read(stat.digest, u64::MAX).await.unwrap() == bytes);
    }
}

pub(crate) async fn an_unknown_digest_is_unknown(fixture: &Fixture) {
    let nothing = Digest([9; 32]);
    assert!(matches!(fixture.blobs.stat(nothing).await, Err(BlobError::Unknown(digest)) if digest == nothing));
    assert!(matches!(fixture.blobs.read(nothing, 10).await, Err(BlobError::Unknown(digest)) if digest == nothing));
    assert!(matches!(fixture.blobs.open(nothing).await, Err(BlobError::Unknown(digest)) if digest == nothing));
    assert_eq!(fixture.blobs.local_path(nothing), None);
}

pub(crate) async fn a_blob_over_the_readers_limit_is_not_read(fixture: &Fixture) {
    let stat = fixture.blobs.put(content(1_000)).await.unwrap();
    let error = fixture.blobs.read(stat.digest, 999).await.unwrap_err();
    assert!(matches!(error, BlobError::TooLarge { bytes: 1_000, bytes_max: 999, .. }), "{error}");
    assert!(fixture.blobs.read(stat.digest, 1_000).await.is_ok());
}

pub(crate) async fn what_is_not_kept_is_not_visible(fixture: &Fixture) {
    let bytes = content(5_000);
    let mut writer = fixture.blobs.create().await.unwrap();
    writer.write(bytes.clone()).await.unwrap();
    let expected = digest(&bytes);
    let keep = move |stat: &wasmill_fabric::BlobStat| {
        assert_eq!((stat.digest, stat.bytes), (expected, 5_000));
        false
    };
    assert!(matches!(writer.finish(Box::new(keep)).await, Err(BlobError::Unwanted(digest)) if digest == expected));
    assert!(matches!(fixture.blobs.stat(expected).await, Err(BlobError::Unknown(_))));
    assert_eq!(listed(fixture).await, BTreeSet::new());
}

pub(crate) async fn a_dropped_writer_leaves_nothing(fixture: &Fixture) {
    let mut writer = fixture.blobs.create().await.unwrap();
    writer.write(content(700_000)).await.unwrap();
    let path = writer.local_path().map(std::path::Path::to_owned);
    drop(writer);
    assert_eq!(listed(fixture).await, BTreeSet::new());
    assert!(path.is_none_or(|path| !path.exists()));
}

pub(crate) async fn storing_twice_is_fine_and_deleting_twice_too(fixture: &Fixture) {
    let bytes = content(4_000);
    let first = fixture.blobs.put(bytes.clone()).await.unwrap();
    let second = fixture.blobs.put(bytes.clone()).await.unwrap();
    assert_eq!(first.digest, second.digest);
    assert_eq!(listed(fixture).await, BTreeSet::from([(first.digest, 4_000)]));
    fixture.blobs.delete(first.digest).await.unwrap();
    fixture.blobs.delete(first.digest).await.unwrap();
    assert!(matches!(fixture.blobs.read(first.digest, 4_000).await, Err(BlobError::Unknown(_))));
    assert_eq!(listed(fixture).await, BTreeSet::new());
}

pub(crate) async fn a_young_blob_survives_the_sweep(fixture: &Fixture) {
    let stat = fixture.blobs.put(content(50)).await.unwrap();
    assert!(!fixture.blobs.delete_older(stat.digest, stat.modified).await.unwrap());
    assert!(fixture.blobs.stat(stat.digest).await.is_ok());
    assert!(fixture.blobs.delete_older(stat.digest, stat.modified + Duration::from_secs(1)).await.unwrap());
    assert!(!fixture.blobs.delete_older(stat.digest, stat.modified + Duration::from_secs(1)).await.unwrap());
    assert!(matches!(fixture.blobs.stat(stat.digest).await, Err(BlobError::Unknown(_))));
}

pub(crate) async fn b39_what_is_not_needed_goes_at_once_unless_it_was_stored_again(fixture: &Fixture) {
    let seconds = |seconds| Duration::from_secs(seconds);
    let once = fixture.blobs.put(content(60)).await.unwrap();
    let delete =
        async |blob: &BlobStat, seen| fixture.blobs.delete_unneeded(blob.digest, blob.modified, seen).await.unwrap();
    assert!(!delete(&once, seconds(0)).await);
    // It was written once more since somebody saw it.
    let before = BlobStat { modified: once.modified - seconds(3_600), ..once.clone() };
    assert!(!delete(&before, seconds(3_600)).await);
    assert!(delete(&once, seconds(10)).await);
    assert!(!delete(&once, seconds(10)).await);
    // The record of one of the two may be on its way.
    fixture.blobs.put(content(70)).await.unwrap();
    let again = fixture.blobs.put(content(70)).await.unwrap();
    assert!(!delete(&again, seconds(50)).await);
    assert!(fixture.blobs.stat(again.digest).await.is_ok());
    assert!(delete(&again, seconds(70)).await);
    assert!(matches!(fixture.blobs.stat(again.digest).await, Err(BlobError::Unknown(_))));
}

pub(crate) async fn every_blob_is_listed(fixture: &Fixture) {
    let mut expected = BTreeSet::new();
    for bytes in 0..40 {
        let stat = fixture.blobs.put(content(bytes)).await.unwrap();
        expected.insert((stat.digest, bytes as u64));
    }
    assert_eq!(listed(fixture).await, expected);
}

pub(crate) async fn two_writers_of_the_same_bytes_both_succeed(fixture: &Fixture) {
    let bytes = content(300_000);
    let mut writers = [fixture.blobs.create().await.unwrap(), fixture.blobs.create().await.unwrap()];
    for chunk in bytes.chunks(70_000) {
        for writer in &mut writers {
            writer.write(Bytes::copy_from_slice(chunk)).await.unwrap();
        }
    }
    let [first, second] = writers.map(|writer| writer.finish(Box::new(|_| true)));
    let (first, second) = futures::future::join(first, second).await;
    assert_eq!(first.unwrap().digest, digest(&bytes));
    assert_eq!(second.unwrap().digest, digest(&bytes));
    assert!(read_streaming(fixture, digest(&bytes)).await == bytes);
}

pub(crate) async fn a_blob_being_written_can_be_inspected(fixture: &Fixture) {
    let bytes = content(400_000);
    let mut writer = fixture.blobs.create().await.unwrap();
    let mut written = 0;
    for chunk in [100, 1_000, 262_144].map(|end| bytes.slice(written_end(&mut written, end))) {
        writer.write(chunk).await.unwrap();
    }
    if let Some(path) = writer.local_path() {
        assert!(fs::read(path).unwrap() == bytes[..written]);
    }
    writer.write(bytes.slice(written..)).await.unwrap();
    assert_eq!(writer.finish(Box::new(|_| true)).await.unwrap().digest, digest(&bytes));
}

/// The next `bytes` bytes after those that were written.
fn written_end(written: &mut usize, bytes: usize) -> std::ops::Range<usize> {
    let from = *written;
    *written += bytes;
    from..*written
}
