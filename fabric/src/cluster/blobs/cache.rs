//! Files of blobs that are at hand on this machine.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedMutexGuard;
use wasmill_protocol::Digest;

use super::store::Store;
use crate::embedded::OpenError;
use crate::embedded::blobs::EmbeddedBlobs;
use crate::embedded::lock::DirLock;
use crate::{BlobError, BlobStat, Blobs};

/// What the cache may hold.
const CACHE_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
/// Once this much was added, it is looked whether the cache holds too much.
const PRUNE_EVERY_BYTES: u64 = 256 * 1024 * 1024;
/// Pieces in which a blob is fetched.
const PIECE_BYTES: usize = 256 * 1024;

/// A directory of blobs. The oldest files go when it holds too much.
pub(super) struct Cache {
    files: EmbeddedBlobs,
    added_bytes: AtomicU64,
    /// Who fetches or stores which blob: once for all who want it.
    flights: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Cache {
    /// Opens a directory that no other process uses.
    pub(super) fn open(dir: &Path) -> Result<Self, OpenError> {
        std::fs::create_dir_all(dir).map_err(|source| OpenError::Directory {
            action: "create",
            path: dir.to_owned(),
            source,
        })?;
        let lock = Arc::new(DirLock::acquire(dir)?);
        let files = EmbeddedBlobs::open(&dir.join("blobs"), lock)?;
        // A cache that was left full is looked at with the first blob.
        Ok(Self { files, added_bytes: AtomicU64::new(PRUNE_EVERY_BYTES), flights: Mutex::default() })
    }

    pub(super) fn files(&self) -> &dyn Blobs {
        &self.files
    }

    /// Adds bytes that are at hand.
    pub(super) async fn put(&self, bytes: Bytes) -> Result<BlobStat, BlobError> {
        let stat = self.files.put(bytes).await?;
        self.added(stat.bytes).await;
        Ok(stat)
    }

    /// Waits until nobody else in this process fetches or stores this blob.
    pub(super) async fn alone(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody is on any more.
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            Arc::clone(flights.entry(digest).or_default())
        };
        flight.lock_owned().await
    }

    /// Fetches a blob from the store, unless it is here by now.
    pub(super) async fn fetch(&self, digest: Digest, store: &Store) -> Result<(), BlobError> {
        let _alone = self.alone(digest).await;
        if self.files.stat(digest).await.is_ok() {
            return Ok(());
        }
        let mut object = store.object(digest).await?;
        let mut file = self.files.create().await?;
        loop {
            let mut piece = BytesMut::with_capacity(PIECE_BYTES);
            let count = object.read_buf(&mut piece).await.map_err(|error| BlobError::Unreachable {
                action: format!("fetch blob {digest}"),
                reason: error.to_string(),
            })?;
            if count == 0 {
                break;
            }
            file.write(piece.freeze()).await?;
        }
        match file.finish(Box::new(move |stat| stat.digest == digest)).await {
            Ok(stat) => {
                self.added(stat.bytes).await;
                Ok(())
            }
            Err(BlobError::Unwanted(_)) => Err(BlobError::Damaged(digest)),
            Err(error) => Err(error),
        }
    }

    /// Something was added: makes room from time to time.
    pub(super) async fn added(&self, bytes: u64) {
        if self.added_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < PRUNE_EVERY_BYTES {
            return;
        }
        self.added_bytes.store(0, Ordering::Relaxed);
        if let Err(error) = self.prune(CACHE_BYTES_MAX).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "the cache of blobs cannot be made smaller");
        }
    }

    /// Removes the oldest files until at most `bytes_max` are left.
    async fn prune(&self, bytes_max: u64) -> Result<(), BlobError> {
        let mut stats: Vec<BlobStat> = Vec::new();
        let mut list = self.files.list();
        while let Some(stat) = list.next().await {
            stats.push(stat?);
        }
        let mut bytes: u64 = stats.iter().map(|stat| stat.bytes).sum();
        stats.sort_by_key(|stat| stat.modified);
        for stat in stats {
            if bytes <= bytes_max {
                break;
            }
            self.files.delete(stat.digest).await?;
            bytes -= stat.bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_go_when_there_is_too_much() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(dir.path()).unwrap();
        let mut stats = Vec::new();
        for number in 0..4_u8 {
            stats.push(cache.put(vec![number; 1_000].into()).await.unwrap());
        }
        stats.sort_by_key(|stat| stat.modified);
        cache.prune(2_500).await.unwrap();
        for (stat, stays) in stats.iter().zip([false, false, true, true]) {
            assert_eq!(cache.files().stat(stat.digest).await.is_ok(), stays, "{stat:?}");
        }
    }
}
