//! A blob being written: first a file of the cache, then an object.

use std::path::Path;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::ObjectStoreBlobs;
use crate::{BlobError, BlobStat, BlobWriter};

/// See [`BlobWriter`].
pub(super) struct Writer {
    file: Box<dyn BlobWriter>,
    blobs: ObjectStoreBlobs,
}

impl Writer {
    pub(super) fn new(file: Box<dyn BlobWriter>, blobs: ObjectStoreBlobs) -> Self {
        Self { file, blobs }
    }
}

impl BlobWriter for Writer {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.file.write(chunk)
    }

    fn finish(
        self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>> {
        let Self { file, blobs } = *self;
        async move {
            let cached = file.finish(keep).await?;
            blobs.cache.added(cached.bytes).await;
            blobs.upload(cached).await
        }
        .boxed()
    }

    fn local_path(&self) -> Option<&Path> {
        self.file.local_path()
    }
}
