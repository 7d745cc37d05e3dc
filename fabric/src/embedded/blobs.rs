//! Blobs as files, named by their digest.

mod gone;
mod reader;
mod writer;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use wasmill_protocol::Digest;

use self::gone::BlobReading;
use super::disk::Disk;
use super::lock::DirLock;
use super::{OpenError, files};
use crate::blobs::{BlobReader, UNNEEDED_AGAIN_AGE_MIN, UNNEEDED_ONCE_AGE_MIN, just_after};
use crate::{BlobError, BlobStat, BlobWriter, Blobs};

/// Files are read and written in pieces of this size, each on a thread that may block.
const PIECE_BYTES: usize = 256 * 1024;
/// The size from which a blob that is at hand as a whole is stored on a thread of its own.
const LARGE_BYTES: usize = 1024 * 1024;
/// How much lower than the rest such a thread is in priority (`nice`): as guests are.
const BACKGROUND_NICENESS: i32 = 5;
/// The directory of blobs that are being written.
const TMP: &str = "tmp";
/// Directories of blobs: one for each value of the first byte of a digest.
const SHARDS: u16 = 256;

/// Blobs below one directory.
pub(crate) struct FileBlobs {
    files: Arc<Files>,
}

/// Where blobs lie. Everything here blocks.
struct Files {
    dir: PathBuf,
    /// Held while a blob appears and while one is looked at and removed: a sweep must not remove
    /// what has just been stored anew.
    sweep: Mutex<StoredAgain>,
    uses: gone::Uses,
    disk: Arc<Disk>,
    _lock: Option<Arc<DirLock>>,
}

impl FileBlobs {
    /// Blobs in a data directory.
    pub(super) fn open_locked(dir: &Path, disk: Arc<Disk>, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Directory { action: "prepare", path: dir.join(TMP), source };
        Self::prepare(dir, disk, Some(lock)).map_err(failed)
    }

    /// Blobs in a directory that nobody else uses.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        Self::prepare(dir, Arc::default(), None)
    }

    fn prepare(dir: &Path, disk: Arc<Disk>, lock: Option<Arc<DirLock>>) -> io::Result<Self> {
        let tmp = dir.join(TMP);
        // Files that a crash left half written.
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        files::create_dir_private(&tmp)?;
        Ok(Self {
            files: Arc::new(Files {
                dir: dir.to_owned(),
                sweep: Mutex::default(),
                uses: gone::Uses::default(),
                disk,
                _lock: lock,
            }),
        })
    }

    /// Runs `work` on a thread that may block.
    fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Files) -> Result<T, BlobError> + Send + 'static,
    ) -> BoxFuture<'static, Result<T, BlobError>> {
        let files = Arc::clone(&self.files);
        blocking(move || work(&files)).boxed()
    }
}

impl Blobs for FileBlobs {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        let files = Arc::clone(&self.files);
        blocking(move || Ok(Box::new(writer::FileWriter::create(files)?) as Box<dyn BlobWriter>)).boxed()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        let files = Arc::clone(&self.files);
        if bytes.len() >= LARGE_BYTES {
            return in_the_background(move || writer::put(files, bytes)).boxed();
        }
        blocking(move || writer::put(files, bytes)).boxed()
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        let reading = BlobReading::begin(Arc::clone(&self.files), digest);
        self.blocking(move |files| {
            let _reading = reading;
            let stat = files.stat(digest)?;
            if stat.bytes > bytes_max {
                return Err(BlobError::TooLarge { digest, bytes: stat.bytes, bytes_max });
            }
            let bytes = fs::read(files.path(digest)).map_err(|error| missing_or(error, digest, "read"))?;
            if Digest(Sha256::digest(&bytes).into()) != digest {
                return Err(BlobError::Damaged(digest));
            }
            Ok(bytes.into())
        })
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        let reading = BlobReading::begin(Arc::clone(&self.files), digest);
        self.blocking(move |files| reader::open(&files.path(digest), digest, reading))
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.blocking(move |files| files.stat(digest))
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        self.blocking(move |files| files.delete(digest, ()))
    }

    fn delete_older(&self, digest: Digest, than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        self.blocking(move |files| {
            let held = files.sweep.lock().unwrap_or_else(PoisonError::into_inner);
            match files.stat(digest) {
                Ok(stat) if stat.modified < than => files.delete(digest, held).map(|()| true),
                Ok(_) | Err(BlobError::Unknown(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn delete_unneeded(
        &self,
        digest: Digest,
        modified: SystemTime,
        seen: Duration,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        self.blocking(move |files| {
            let mut held = files.sweep.lock().unwrap_or_else(PoisonError::into_inner);
            let age_min = if held.contains(digest) { UNNEEDED_AGAIN_AGE_MIN } else { UNNEEDED_ONCE_AGE_MIN };
            match files.stat(digest) {
                Ok(stat) if stat.modified < just_after(modified) && seen >= age_min => {
                    held.forget(digest);
                    files.delete(digest, held).map(|()| true)
                }
                Ok(_) | Err(BlobError::Unknown(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        stream::iter(0..SHARDS)
            .then(move |shard| {
                self.blocking(move |files| files.list(&format!("{shard:02x}")))
                    .map(|shard| shard.unwrap_or_else(|error| vec![Err(error)]))
            })
            .flat_map(stream::iter)
            .boxed()
    }

    fn local_path(&self, digest: Digest) -> Option<PathBuf> {
        self.files.lend(digest)
    }
}

/// Blobs that were stored while they were there already: for as long as the record of one of these
/// times may be on its way. A blob of an earlier process has no record on its way.
#[derive(Default)]
struct StoredAgain {
    last: HashMap<Digest, Instant>,
}

/// More than this many are gone through for those that are over.
const STORED_AGAIN_MAX: usize = 16 * 1024;

impl StoredAgain {
    fn note(&mut self, digest: Digest) {
        if self.last.len() >= STORED_AGAIN_MAX {
            self.last.retain(|_, last| last.elapsed() <= UNNEEDED_AGAIN_AGE_MIN);
        }
        self.last.insert(digest, Instant::now());
    }

    fn contains(&self, digest: Digest) -> bool {
        self.last.contains_key(&digest)
    }

    fn forget(&mut self, digest: Digest) {
        self.last.remove(&digest);
    }
}

impl Files {
    fn path(&self, digest: Digest) -> PathBuf {
        let hex = digest.hex();
        self.dir.join(&hex[..2]).join(hex)
    }

    fn stat(&self, digest: Digest) -> Result<BlobStat, BlobError> {
        let read = || fs::metadata(self.path(digest)).and_then(|metadata| Ok((metadata.len(), metadata.modified()?)));
        let (bytes, modified) = read().map_err(|error| missing_or(error, digest, "look at"))?;
        Ok(BlobStat { digest, bytes, modified })
    }

    /// Removes a blob; a lock that is `held` is given up as soon as the blob is out of sight.
    fn delete<T>(&self, digest: Digest, held: T) -> Result<(), BlobError> {
        let gone = self.take_away(digest).map_err(|error| failed(format!("remove blob {digest}"), error))?;
        drop(held);
        self.give_back(gone);
        Ok(())
    }

    fn list(&self, shard: &str) -> Result<Vec<Result<BlobStat, BlobError>>, BlobError> {
        let dir = self.dir.join(shard);
        let failed = |error| failed(format!("list `{}`", dir.display()), error);
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut stats = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let Some(Ok(digest)) = name.to_str().map(|hex| format!("sha256:{hex}").parse()) else { continue };
            match self.stat(digest) {
                // Removed since the directory was read.
                Err(BlobError::Unknown(_)) => {}
                stat => stats.push(stat),
            }
        }
        Ok(stats)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(failed("use a thread for blobs".to_owned(), io::Error::other(error))),
    }
}

/// Runs what takes long on a thread of its own, at a lower priority than everything else: hashing
/// and copying tens of megabytes is nobody's business but of whoever waits for it. Threads that are
/// used again cannot get their priority back.
async fn in_the_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    let refused = |error| failed("use a thread for a large blob".to_owned(), error);
    let (answer, answered) = oneshot::channel();
    let work = move || {
        // On Linux a priority belongs to a thread. Without it the work is done all the same.
        let _ = rustix::process::nice(BACKGROUND_NICENESS);
        // The caller may have given up.
        let _ = answer.send(work());
    };
    thread::Builder::new().name("large blob".to_owned()).spawn(work).map_err(refused)?;
    answered.await.unwrap_or_else(|_| Err(refused(io::Error::other("it has ended"))))
}

fn failed(action: String, source: io::Error) -> BlobError {
    if source.kind() == io::ErrorKind::StorageFull {
        BlobError::NoSpace { action }
    } else {
        BlobError::Storage { action, source }
    }
}

fn missing_or(error: io::Error, digest: Digest, verb: &str) -> BlobError {
    if error.kind() == io::ErrorKind::NotFound {
        BlobError::Unknown(digest)
    } else {
        failed(format!("{verb} blob {digest}"), error)
    }
}
