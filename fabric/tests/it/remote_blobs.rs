//! Blobs over the bus: the suite, once over channels and once over NATS, and what hosts may not do.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::watch;
use wasmill_fabric::blobs::BlobReader;
use wasmill_fabric::embedded;
use wasmill_fabric::remote_blobs::{RemoteBlobs, serve_blobs};
use wasmill_fabric::{BlobError, BlobStat, BlobWriter, Blobs, Bus};
use wasmill_protocol::Digest;

use crate::cluster::servers::{Pair, control, host, member};
use crate::conformance::{Fixture, blobs_conformance, within};

/// A host's blobs, for what a host may do; those of the control node for the rest.
struct Served {
    remote: Arc<dyn Blobs>,
    behind: Arc<dyn Blobs>,
}

impl Blobs for Served {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        self.remote.create()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.remote.put(bytes)
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.remote.read(digest, bytes_max)
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        self.remote.open(digest)
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.remote.stat(digest)
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        self.behind.delete(digest)
    }

    fn delete_older(&self, digest: Digest, than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        self.behind.delete_older(digest, than)
    }

    fn delete_unneeded(
        &self,
        digest: Digest,
        modified: SystemTime,
        seen: Duration,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        self.behind.delete_unneeded(digest, modified, seen)
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        self.behind.list()
    }

    fn local_path(&self, digest: Digest) -> Option<std::path::PathBuf> {
        self.remote.local_path(digest)
    }
}

/// Serves `blobs` over `bus` until the sender is dropped, and waits until that has begun.
async fn serve(bus: Arc<dyn Bus>, blobs: Arc<dyn Blobs>, node: &str) -> watch::Sender<bool> {
    let (shutdown, receiver) = watch::channel(false);
    tokio::spawn(serve_blobs(Arc::clone(&bus), blobs, node.to_owned(), receiver));
    let probe = RemoteBlobs::new(bus, "probe");
    within("a control node serves blobs", async {
        while matches!(probe.stat(Digest([0; 32])).await, Err(BlobError::Storage { .. })) {}
    })
    .await;
    shutdown
}

mod over_channels {
    use super::*;

    async fn fixture() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let embedded = embedded::open(dir.path()).unwrap();
        let serving = serve(embedded.bus.clone(), embedded.blobs.clone(), "node-1").await;
        let remote = Arc::new(RemoteBlobs::new(embedded.bus.clone(), "host-1"));
        Fixture {
            log: embedded.log,
            blobs: Arc::new(Served { remote, behind: embedded.blobs.clone() }),
            bus: embedded.bus.clone(),
            membership: embedded.membership,
            _keep: Box::new((dir, serving)),
        }
    }

    blobs_conformance!(crate::remote_blobs::over_channels::fixture);
}

mod over_nats {
    use super::*;

    async fn fixture() -> Fixture {
        let config = Pair::new().config("node-1");
        let (cluster, dir) = control(&config).await;
        let serving = serve(cluster.fabric.bus.clone(), cluster.fabric.blobs.clone(), "node-1").await;
        let host = host(&member(&config, "host-1")).await;
        Fixture {
            log: cluster.fabric.log.clone(),
            blobs: Arc::new(Served { remote: host.fabric.blobs.clone(), behind: cluster.fabric.blobs.clone() }),
            bus: host.fabric.bus.clone(),
            membership: host.fabric.membership.clone(),
            _keep: Box::new((dir, serving)),
        }
    }

    blobs_conformance!(crate::remote_blobs::over_nats::fixture);
}

#[tokio::test]
async fn hosts_may_store_and_read_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(dir.path()).unwrap();
    let _serving = serve(embedded.bus.clone(), embedded.blobs.clone(), "node-1").await;
    let remote = RemoteBlobs::new(embedded.bus.clone(), "host-1");
    let stat = remote.put(Bytes::from_static(b"a result")).await.unwrap();
    let refused = |error: BlobError| {
        let BlobError::Storage { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
    };
    refused(remote.delete(stat.digest).await.unwrap_err());
    refused(remote.delete_older(stat.digest, SystemTime::now()).await.unwrap_err());
    refused(remote.list().next().await.unwrap().unwrap_err());
    assert_eq!(embedded.blobs.stat(stat.digest).await.unwrap().bytes, 8);
}

/// A node that is asked for something is stopped in between: another one takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_begins_anew_when_its_node_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(dir.path()).unwrap();
    let first = serve(embedded.bus.clone(), embedded.blobs.clone(), "node-1").await;
    let remote = RemoteBlobs::new(embedded.bus.clone(), "host-1");
    let mut writer = remote.create().await.unwrap();
    let bytes = Bytes::from(vec![7; 3_000_000]);
    writer.write(bytes.clone()).await.unwrap();

    let _second = serve(embedded.bus.clone(), embedded.blobs.clone(), "node-2").await;
    drop(first);
    // The node that has what was written so far is gone, and with it this upload.
    let finished = within("the upload ends", writer.finish(Box::new(|_| true))).await;
    assert!(matches!(finished, Err(BlobError::Storage { .. })), "{finished:?}");
    // A host that has all the bytes sends them again.
    let stat = within("the bytes are stored", remote.put(bytes.clone())).await.unwrap();
    assert!(remote.read(stat.digest, u64::MAX).await.unwrap() == bytes);
}

/// A blob whose bytes were changed where they are kept is not handed on.
#[tokio::test]
async fn what_is_damaged_on_the_way_is_noticed_by_the_host() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(dir.path()).unwrap();
    let _serving = serve(embedded.bus.clone(), embedded.blobs.clone(), "node-1").await;
    let remote = RemoteBlobs::new(embedded.bus.clone(), "host-1");
    let stat = remote.put(Bytes::from(vec![7; 2_000_000])).await.unwrap();
    let path = embedded.blobs.local_path(stat.digest).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() = 8;
    std::fs::write(&path, bytes).unwrap();
    let read = remote.read(stat.digest, u64::MAX).await;
    assert!(matches!(read, Err(BlobError::Damaged(digest)) if digest == stat.digest), "{read:?}");
}

#[tokio::test]
async fn without_a_control_node_the_host_hears_an_error_after_a_bounded_time() {
    let dir = tempfile::tempdir().unwrap();
    let embedded = embedded::open(dir.path()).unwrap();
    let remote = RemoteBlobs::new(embedded.bus.clone(), "host-1");
    tokio::time::pause();
    let asked = tokio::time::timeout(Duration::from_secs(60), remote.stat(Digest([1; 32]))).await;
    assert!(matches!(asked, Ok(Err(BlobError::Storage { .. }))), "{asked:?}");
}
