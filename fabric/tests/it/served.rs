//! Blobs that control nodes serve to hosts, over the bus inside one process.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use wasmill_fabric::embedded::Embedded;
use wasmill_fabric::served_blobs::{ServeBlobsConfig, ServedBlobs, serve_blobs};
use wasmill_fabric::{BlobError, Blobs, Bus};
use wasmill_protocol::message::blobs::{self as words, BlobAnswer, BlobRequest};
use wasmill_protocol::{Digest, HostId};

use crate::conformance::{Fixture, cases};

const BLOB_BYTES_MAX: u64 = 2_000_000;

async fn fixture() -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(&dir.path().join("data")).unwrap();
    let (stop, stopped) = watch::channel(false);
    for node in ["node-1", "node-2"] {
        let config = ServeBlobsConfig { node: node.to_owned(), blob_bytes_max: BLOB_BYTES_MAX };
        tokio::spawn(serve_blobs(config, embedded.bus(), embedded.blobs(), stopped.clone()));
    }
    Fixture {
        log: embedded.log(),
        blobs: Arc::new(ServedBlobs::new(embedded.bus(), HostId::from("host-1"))),
        bus: embedded.bus(),
        membership: embedded.membership(),
        _keep: Box::new((dir, stop)),
    }
}

cases!(crate::served::fixture, blobs: [
    bytes_are_read_back_by_digest,
    chunks_make_the_same_blob_as_one_piece,
    an_unknown_digest_is_unknown,
    a_blob_over_the_readers_limit_is_not_read,
    two_writers_of_the_same_bytes_both_succeed,
    a_blob_being_written_can_be_inspected,
]);

async fn ask(bus: &dyn Bus, subject: &str, request: &BlobRequest) -> BlobAnswer {
    let payload = Bytes::from(rmp_serde::to_vec_named(request).unwrap());
    loop {
        // The servers may not listen yet.
        match bus.request(subject, payload.clone(), Duration::from_secs(30)).await {
            Ok(answer) => return rmp_serde::from_slice(&answer).unwrap(),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn pieces_and_ends_may_come_twice_and_belong_to_one_host() {
    let fixture = fixture().await;
    let (bus, host, other) = (&*fixture.bus, HostId::from("host-1"), HostId::from("host-2"));
    let BlobAnswer::Begun { node, upload } = ask(bus, &words::any(&host), &BlobRequest::Begin).await else {
        panic!("an upload begins")
    };
    let at = words::at(&node, &host);
    let write = |offset, data: &'static [u8]| BlobRequest::Write { upload, offset, data: data.into() };
    assert_eq!(ask(bus, &at, &write(0, b"abc")).await, BlobAnswer::Written);
    assert_eq!(ask(bus, &at, &write(0, b"abc")).await, BlobAnswer::Written);
    assert_eq!(ask(bus, &at, &write(7, b"later")).await, BlobAnswer::UploadUnknown);
    assert_eq!(ask(bus, &words::at(&node, &other), &write(3, b"not ours")).await, BlobAnswer::UploadUnknown);
    assert_eq!(ask(bus, &at, &write(3, b"def")).await, BlobAnswer::Written);

    let digest = fixture.blobs.put("abcdef".into()).await.unwrap().digest;
    let finish = BlobRequest::Finish { upload, digest };
    assert_eq!(ask(bus, &words::at(&node, &other), &finish).await, BlobAnswer::UploadUnknown);
    let first = ask(bus, &at, &finish).await;
    assert!(matches!(first, BlobAnswer::Stat { bytes: 6, .. }), "{first:?}");
    assert_eq!(ask(bus, &at, &finish).await, first);
}

#[tokio::test]
async fn bytes_with_another_digest_are_not_stored() {
    let fixture = fixture().await;
    let (bus, host) = (&*fixture.bus, HostId::from("host-1"));
    let BlobAnswer::Begun { node, upload } = ask(bus, &words::any(&host), &BlobRequest::Begin).await else {
        panic!("an upload begins")
    };
    let at = words::at(&node, &host);
    let write = BlobRequest::Write { upload, offset: 0, data: "abc".into() };
    assert_eq!(ask(bus, &at, &write).await, BlobAnswer::Written);
    let wrong = BlobRequest::Finish { upload, digest: Digest([1; 32]) };
    assert_eq!(ask(bus, &at, &wrong).await, BlobAnswer::Damaged);
}

#[tokio::test]
async fn a_blob_over_the_limit_is_refused() {
    let fixture = fixture().await;
    let over = vec![7; usize::try_from(BLOB_BYTES_MAX).unwrap() + 1];
    let error = fixture.blobs.put(over.into()).await.unwrap_err();
    let BlobError::Storage { source, .. } = &error else { panic!("{error}") };
    assert_eq!(source.to_string(), format!("a blob has at most {BLOB_BYTES_MAX} bytes"));
}

#[tokio::test]
async fn hosts_neither_list_nor_remove() {
    let fixture = fixture().await;
    let stat = fixture.blobs.put("abc".into()).await.unwrap();
    assert!(fixture.blobs.delete(stat.digest).await.is_err());
    assert!(fixture.blobs.delete_older(stat.digest, stat.modified + Duration::from_secs(9)).await.is_err());
    let listed: Vec<_> = futures::StreamExt::collect(fixture.blobs.list()).await;
    assert!(matches!(&listed[..], [Err(BlobError::Storage { .. })]), "{listed:?}");
    assert_eq!(fixture.blobs.stat(stat.digest).await.unwrap(), stat);
}
