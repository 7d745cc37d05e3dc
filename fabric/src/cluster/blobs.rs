//! Blobs in a JetStream object store, with copies of what was read as files.
//!
//! The store is the truth: what it does not have is not there. The copies make a blob that many
//! hosts ask for travel once, and give it a path that can be mapped.

mod cache;
mod chunks;
mod objects;
mod orphans;
mod store;
mod upload;
mod writer;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;

pub(super) use self::cache::Cache;
pub(super) use self::store::{Store, StoreOptions, open_or_create};
use crate::blobs::{BlobReader, just_after};
use crate::{BlobError, BlobStat, BlobWriter, Blobs};

/// Up to this size a blob is read without making a copy of it.
const COPIED_BYTES_MIN: u64 = 256 * 1024;
/// How often a copy is made anew when it is evicted before it is opened.
const TRIES: u32 = 3;

/// Blobs of a control node.
pub(super) struct ClusterBlobs {
    parts: Arc<Parts>,
}

/// The parts that writers need too.
struct Parts {
    store: Store,
    cache: Cache,
}

impl ClusterBlobs {
    pub(super) fn new(store: Store, cache: Cache) -> Self {
        let parts = Arc::new(Parts { store, cache });
        tokio::spawn(orphans::remove_now_and_then(Arc::downgrade(&parts)));
        Self { parts }
    }
}

impl Parts {
    /// Makes sure that there is a copy, and opens it.
    async fn open_copy(&self, digest: Digest) -> Result<BlobReader, BlobError> {
        for _ in 0..TRIES {
            let _alone = self.cache.alone_with(digest).await;
            if !self.cache.has(digest) {
                let stat = self.store.stat(digest).await?;
                self.cache.fill(stat, self.store.open(digest).await?).await?;
            }
            match self.cache.read_from(digest).await {
                Err(BlobError::Unknown(_)) => self.cache.forget(digest).await?,
                opened => return opened,
            }
        }
        Err(BlobError::Storage {
            action: format!("keep a copy of blob {digest}"),
            source: std::io::Error::other("it is evicted at once: the cache is too small"),
        })
    }

    async fn read(&self, digest: Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        if !self.cache.has(digest) {
            let stat = self.store.stat(digest).await?;
            if stat.bytes > bytes_max {
                return Err(BlobError::TooLarge { digest, bytes: stat.bytes, bytes_max });
            }
            if stat.bytes < COPIED_BYTES_MIN {
                let bytes = store::read_all(self.store.open(digest).await?, stat).await?;
                return if digest_of(&bytes) == digest { Ok(bytes) } else { Err(BlobError::Damaged(digest)) };
            }
            drop(self.open_copy(digest).await?);
        }
        match self.cache.read(digest, bytes_max).await {
            // Evicted since.
            Err(BlobError::Unknown(_)) => {
                self.cache.forget(digest).await?;
                let stat = self.store.stat(digest).await?;
                store::read_all(self.open_copy(digest).await?, stat).await
            }
            // The copy, not the blob: the next one to read it makes another.
            Err(BlobError::Damaged(_)) => {
                self.cache.forget(digest).await?;
                Err(BlobError::Damaged(digest))
            }
            read => read,
        }
    }

    async fn put(&self, bytes: Bytes) -> Result<BlobStat, BlobError> {
        self.store.put(digest_of(&bytes), bytes.len() as u64, &mut &bytes[..]).await
    }
}

impl Blobs for ClusterBlobs {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        async {
            let file = self.parts.cache.create().await?;
            Ok(Box::new(writer::StoreWriter::new(Arc::clone(&self.parts), file)) as Box<dyn BlobWriter>)
        }
        .boxed()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.parts.put(bytes).boxed()
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.parts.read(digest, bytes_max).boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        self.parts.open_copy(digest).boxed()
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.parts.store.stat(digest).boxed()
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            self.parts.store.delete_older(digest, None).await?;
            self.parts.cache.forget(digest).await
        }
        .boxed()
    }

    fn delete_older(&self, digest: Digest, than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        async move {
            let deleted = self.parts.store.delete_older(digest, Some(than)).await?;
            if deleted {
                self.parts.cache.forget(digest).await?;
            }
            Ok(deleted)
        }
        .boxed()
    }

    fn delete_unneeded(
        &self,
        digest: Digest,
        modified: SystemTime,
        seen: Duration,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        async move {
            match self.parts.store.unneeded_age_min(digest).await? {
                Some(age_min) if seen >= age_min => self.delete_older(digest, just_after(modified)).await,
                _ => Ok(false),
            }
        }
        .boxed()
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        self.parts.store.list().flatten_stream().boxed()
    }

    fn local_path(&self, digest: Digest) -> Option<std::path::PathBuf> {
        self.parts.cache.path(digest)
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
