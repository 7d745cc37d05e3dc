//! Copies of blobs as files, as many as fit: the ones that were not used for longest go first.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout;
use wasmill_protocol::Digest;

use super::store::{READ_TIMEOUT, read_failed};
use crate::blobs::BlobReader;
use crate::cluster::ConnectError;
use crate::embedded::FileBlobs;
use crate::{BlobError, BlobStat, BlobWriter, Blobs};

/// A copy is written in pieces of this size.
const PIECE_BYTES: usize = 256 * 1024;

/// Files of one process; they do not outlive it.
pub(in crate::cluster) struct Cache {
    files: FileBlobs,
    bytes_max: u64,
    known: Mutex<BlobCopies>,
    /// Blobs of which a copy is being made.
    making: Mutex<BTreeMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

/// The copies that there are.
#[derive(Debug, Default)]
struct BlobCopies {
    copies: BTreeMap<Digest, BlobCopy>,
    bytes: u64,
    /// Grows with every use.
    uses: u64,
}

#[derive(Debug, Clone, Copy)]
struct BlobCopy {
    bytes: u64,
    used: u64,
}

impl Cache {
    /// Empties the directory: what another process has left there is not known to be right.
    pub(in crate::cluster) fn open(dir: &Path, bytes_max: u64) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Cache { path: dir.to_owned(), source };
        match fs::remove_dir_all(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let files = FileBlobs::open(dir).map_err(failed)?;
        Ok(Self { files, bytes_max, known: Mutex::default(), making: Mutex::default() })
    }

    /// Whether there is a copy. Its use is noted.
    pub(super) fn has(&self, digest: Digest) -> bool {
        self.known().touch(digest)
    }

    /// Where the copy is.
    pub(super) fn path(&self, digest: Digest) -> Option<PathBuf> {
        if self.has(digest) { self.files.local_path(digest) } else { None }
    }

    /// Waits until nobody else makes a copy of this blob.
    pub(super) async fn alone_with(&self, digest: Digest) -> OwnedMutexGuard<()> {
        let lock = {
            let mut making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
            // Locks that nobody holds or waits for are done.
            making.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(making.entry(digest).or_default())
        };
        lock.lock_owned().await
    }

    pub(super) async fn create(&self) -> Result<Box<dyn BlobWriter>, BlobError> {
        self.files.create().await
    }

    pub(super) async fn read_from(&self, digest: Digest) -> Result<BlobReader, BlobError> {
        self.files.open(digest).await
    }

    pub(super) async fn read(&self, digest: Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        self.files.read(digest, bytes_max).await
    }

    /// Makes a copy of what `source` gives, which must be what `stat` says.
    pub(super) async fn fill(&self, stat: BlobStat, mut source: BlobReader) -> Result<(), BlobError> {
        let digest = stat.digest;
        let mut file = self.files.create().await?;
        loop {
            let mut piece = bytes::BytesMut::with_capacity(PIECE_BYTES);
            let read = timeout(READ_TIMEOUT, source.read_buf(&mut piece)).await;
            let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            let read = read.map_err(|source| read_failed(digest, source))?;
            if read == 0 {
                break;
            }
            file.write(piece.freeze()).await?;
        }
        match file.finish(Box::new(move |written| written.digest == digest)).await {
            Ok(written) => self.added(written).await,
            Err(BlobError::Unwanted(_)) => Err(BlobError::Damaged(digest)),
            Err(error) => Err(error),
        }
    }

    /// A copy has come in by [`Cache::create`]; others go to make room.
    pub(super) async fn added(&self, stat: BlobStat) -> Result<(), BlobError> {
        let evicted = self.known().add(stat.digest, stat.bytes, self.bytes_max);
        for digest in evicted {
            self.files.delete(digest).await?;
        }
        Ok(())
    }

    /// Removes a copy, if there is one.
    pub(super) async fn forget(&self, digest: Digest) -> Result<(), BlobError> {
        self.known().remove(digest);
        self.files.delete(digest).await
    }

    fn known(&self) -> MutexGuard<'_, BlobCopies> {
        // Nothing panics while it holds this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobCopies {
    fn touch(&mut self, digest: Digest) -> bool {
        self.uses += 1;
        match self.copies.get_mut(&digest) {
            Some(copied) => {
                copied.used = self.uses;
                true
            }
            None => false,
        }
    }

    /// Adds a copy; gives those that must go. The one that was added stays, however large it is.
    fn add(&mut self, digest: Digest, bytes: u64, bytes_max: u64) -> Vec<Digest> {
        self.remove(digest);
        self.uses += 1;
        self.copies.insert(digest, BlobCopy { bytes, used: self.uses });
        self.bytes += bytes;
        let mut evicted = Vec::new();
        while self.bytes > bytes_max {
            let others = self.copies.iter().filter(|(other, _)| **other != digest);
            let Some(oldest) = others.min_by_key(|(_, copied)| copied.used).map(|(digest, _)| *digest) else { break };
            self.remove(oldest);
            evicted.push(oldest);
        }
        evicted
    }

    fn remove(&mut self, digest: Digest) {
        if let Some(copied) = self.copies.remove(&digest) {
            self.bytes -= copied.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_that_were_not_used_for_longest_go() {
        let digest = |number| Digest([number; 32]);
        let mut known = BlobCopies::default();
        for number in 1..=3 {
            assert_eq!(known.add(digest(number), 30, 100), []);
        }
        assert!(known.touch(digest(1)) && !known.touch(digest(9)));
        assert_eq!(known.add(digest(4), 30, 100), [digest(2)]);
        // The same again takes no more room.
        assert_eq!(known.add(digest(4), 30, 100), []);
        assert_eq!(known.add(digest(5), 500, 100), [digest(3), digest(1), digest(4)]);
        assert_eq!(known.bytes, 500);
    }
}
