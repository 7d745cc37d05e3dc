//! A blob of unknown digest: a file first, and when its name is known, an object.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;

use super::Parts;
use crate::{BlobError, BlobStat, BlobWriter};

/// See [`BlobWriter`].
pub(super) struct StoreWriter {
    parts: Arc<Parts>,
    file: Box<dyn BlobWriter>,
}

impl StoreWriter {
    pub(super) fn new(parts: Arc<Parts>, file: Box<dyn BlobWriter>) -> Self {
        Self { parts, file }
    }
}

impl BlobWriter for StoreWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.file.write(chunk)
    }

    fn finish(
        self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>> {
        async move {
            let Self { parts, file } = *self;
            let copied = file.finish(keep).await?;
            let stored = async {
                let mut source = parts.cache.read_from(copied.digest).await?;
                parts.store.put(copied.digest, copied.bytes, &mut source).await
            };
            match stored.await {
                Ok(stat) => {
                    parts.cache.added(copied).await?;
                    Ok(stat)
                }
                Err(error) => {
                    // A copy of nothing; the error that is told is the first one.
                    let _ = parts.cache.forget(copied.digest).await;
                    Err(error)
                }
            }
        }
        .boxed()
    }

    fn local_path(&self) -> Option<&Path> {
        self.file.local_path()
    }
}
