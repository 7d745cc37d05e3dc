//! Blobs in a JetStream object store, behind a bounded cache of files.
//!
//! A blob's object is named by the hexadecimal digits of its digest. What is stored never changes, so whatever the cache holds is right, and
//! the store is asked only for what it does not hold. The stream is read through its leader and never from a replica that may be behind.

mod cache;
mod store;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use wasmill_protocol::Digest;

use self::cache::Cache;
use self::store::Store;
use crate::blobs::BlobReader;
use crate::embedded::OpenError;
use crate::{BlobError, BlobStat, BlobWriter, Blobs};

/// A blob that was stored this recently is not stored again when the same bytes come; older ones are, so that they are young
/// again. Well below the age at which unused blobs are swept.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// How often a blob is fetched anew when the cache has dropped it before it was read.
const FETCHES_MAX: usize = 3;

/// See the module.
#[derive(Clone)]
pub(super) struct ObjectStoreBlobs {
    store: Arc<Store>,
    cache: Arc<Cache>,
}

/// The blobs of a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenBlobsError {
    /// The cache cannot.
    #[error("cannot use the cache of blobs")]
    Cache(#[from] OpenError),
    /// The store cannot.
    #[error("cannot use the object store of the cluster")]
    Store(#[from] BlobError),
}

impl ObjectStoreBlobs {
    /// Opens the bucket, and creates it if there is none.
    ///
    /// `chunk_bytes` must be below what a NATS message carries.
    pub(super) async fn open(
        context: async_nats::jetstream::Context,
        bucket: &str,
        replicas: usize,
        chunk_bytes: usize,
        cache_dir: &Path,
    ) -> Result<Self, OpenBlobsError> {
        let cache = Arc::new(Cache::open(cache_dir)?);
        let store = Arc::new(Store::open(context, bucket, replicas, chunk_bytes).await?);
        Ok(Self { store, cache })
    }

    /// Fetches a blob into the cache when that is why it could not be read there.
    async fn mend(&self, digest: Digest, error: BlobError) -> Result<(), BlobError> {
        match error {
            BlobError::Unknown(_) => {}
            BlobError::Damaged(_) => self.cache.files().delete(digest).await?,
            error => return Err(error),
        }
        self.cache.fetch(digest, &self.store).await
    }
}

impl Blobs for ObjectStoreBlobs {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        async move {
            let file = self.cache.files().create().await?;
            Ok(Box::new(writer::Writer::new(file, self.clone())) as Box<dyn BlobWriter>)
        }
        .boxed()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        async move {
            let cached = self.cache.put(bytes).await?;
            self.upload(cached).await
        }
        .boxed()
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        async move {
            if self.cache.files().stat(digest).await.is_err() {
                // A blob that is too large is not fetched at all.
                let stat = self.store.stat(digest).await?;
                if stat.bytes > bytes_max {
                    return Err(BlobError::TooLarge { digest, bytes: stat.bytes, bytes_max });
                }
            }
            for _ in 0..FETCHES_MAX {
                match self.cache.files().read(digest, bytes_max).await {
                    Ok(bytes) => return Ok(bytes),
                    Err(error) => self.mend(digest, error).await?,
                }
            }
            self.cache.files().read(digest, bytes_max).await
        }
        .boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        async move {
            for _ in 0..FETCHES_MAX {
                match self.cache.files().open(digest).await {
                    Ok(reader) => return Ok(reader),
                    Err(error) => self.mend(digest, error).await?,
                }
            }
            self.cache.files().open(digest).await
        }
        .boxed()
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.store.stat(digest).boxed()
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        async move {
            self.cache.files().delete(digest).await?;
            self.store.delete(digest, None).await.map(drop)
        }
        .boxed()
    }

    fn delete_older(&self, digest: Digest, than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        async move {
            let deleted = self.store.delete(digest, Some(than)).await?;
            if deleted {
                self.cache.files().delete(digest).await?;
            }
            Ok(deleted)
        }
        .boxed()
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        stream::once(self.store.list())
            .flat_map(|listed| match listed {
                Ok(blobs) => blobs,
                Err(error) => stream::iter([Err(error)]).boxed(),
            })
            .boxed()
    }

    fn local_path(&self, digest: Digest) -> Option<PathBuf> {
        self.cache.files().local_path(digest)
    }
}

impl ObjectStoreBlobs {
    /// Stores what the cache holds, unless the store has it and it is young.
    async fn upload(&self, cached: BlobStat) -> Result<BlobStat, BlobError> {
        let digest = cached.digest;
        let _alone = self.cache.alone(digest).await;
        match self.store.stat(digest).await {
            Ok(stat) if stat.modified.elapsed().is_ok_and(|age| age < FRESH) => return Ok(stat),
            Ok(_) | Err(BlobError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let mut bytes = self.cache.files().open(digest).await?;
        self.store.put(digest, &mut bytes).await
    }
}
