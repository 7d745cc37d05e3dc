//! A blob being written: a temporary file that is renamed once its bytes are durable.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use wasmill_protocol::Digest;

use super::{Files, PIECE_BYTES, TMP, blocking, failed};
use crate::embedded::disk::Disk;
use crate::embedded::files::{create_dir_private, sync_parent};
use crate::{BlobError, BlobStat, BlobWriter};

/// The bytes of a large blob that are written before they are synced: the log, whose syncs wait for
/// what the file system and the disk have gathered, waits for no more than this.
const UNSYNCED_BYTES_MAX: usize = 256 * 1024;

/// Stores bytes that are at hand.
pub(super) fn put(files: Arc<Files>, bytes: Bytes) -> Result<BlobStat, BlobError> {
    let mut temporary = Temporary::create(&files)?;
    temporary.write(&bytes)?;
    temporary.keep(&files, |_| true)
}

/// See [`BlobWriter`].
pub(super) struct FileWriter {
    files: Arc<Files>,
    path: PathBuf,
    /// Shared with the thread that writes: when the future of a write is dropped, that thread
    /// finishes its piece.
    state: Arc<Mutex<State>>,
}

struct State {
    /// `None` once a write has failed: the file has a hole where its bytes should be.
    temporary: Option<Temporary>,
    /// Small chunks gather here: a thread for each would cost more than the write.
    buffer: Vec<u8>,
}

impl FileWriter {
    pub(super) fn create(files: Arc<Files>) -> Result<Self, BlobError> {
        let temporary = Temporary::create(&files)?;
        let path = temporary.file.path().to_owned();
        let state = Arc::new(Mutex::new(State { temporary: Some(temporary), buffer: Vec::new() }));
        Ok(Self { files, path, state })
    }
}

impl BlobWriter for FileWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        let mut state = lock(&self.state);
        if state.buffer.len() + chunk.len() < PIECE_BYTES {
            state.buffer.extend_from_slice(&chunk);
            return future::ready(Ok(())).boxed();
        }
        drop(state);
        let state = Arc::clone(&self.state);
        blocking(move || lock(&state).write(&chunk)).boxed()
    }

    fn finish(
        self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>> {
        blocking(move || {
            let mut state = lock(&self.state);
            state.write(&[])?;
            let temporary = state.temporary.take().ok_or_else(incomplete)?;
            temporary.keep(&self.files, keep)
        })
        .boxed()
    }

    fn local_path(&self) -> Option<&Path> {
        // The buffer is at most one piece: it goes into the page cache, which is quick enough
        // for any thread.
        lock(&self.state).flush().ok()?;
        Some(&self.path)
    }
}

impl State {
    /// Writes what is buffered, then `chunk`.
    fn write(&mut self, chunk: &[u8]) -> Result<(), BlobError> {
        self.flush()?;
        self.with_temporary(|temporary| temporary.write(chunk))
    }

    /// Writes what is buffered, without waiting for the disk.
    fn flush(&mut self) -> Result<(), BlobError> {
        let buffer = std::mem::take(&mut self.buffer);
        self.with_temporary(|temporary| temporary.append(&buffer))
    }

    fn with_temporary(&mut self, write: impl FnOnce(&mut Temporary) -> Result<(), BlobError>) -> Result<(), BlobError> {
        let result = write(self.temporary.as_mut().ok_or_else(incomplete)?);
        if result.is_err() {
            self.temporary = None;
        }
        result
    }
}

/// A file that vanishes unless it is kept.
struct Temporary {
    file: NamedTempFile,
    hasher: Sha256,
    bytes: u64,
    /// Written bytes that were not synced yet.
    unsynced: usize,
    disk: Arc<Disk>,
    /// See [`Disk::sync_piece`].
    commits_seen: u64,
}

impl Temporary {
    fn create(files: &Files) -> Result<Self, BlobError> {
        let file = NamedTempFile::new_in(files.dir.join(TMP))
            .map_err(|error| failed("create a temporary file for a blob".to_owned(), error))?;
        Ok(Self::new(file, Arc::clone(&files.disk)))
    }

    fn new(file: NamedTempFile, disk: Arc<Disk>) -> Self {
        let commits_seen = disk.commits_begun();
        Self { file, hasher: Sha256::new(), bytes: 0, unsynced: 0, disk, commits_seen }
    }

    /// Writes bytes in pieces, each of which is on the disk before the next.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        bytes.chunks(UNSYNCED_BYTES_MAX).try_for_each(|piece| {
            if self.unsynced + piece.len() > UNSYNCED_BYTES_MAX {
                self.disk
                    .sync_piece(self.file.as_file(), &mut self.commits_seen)
                    .map_err(|error| self.failed(error))?;
                self.unsynced = 0;
            }
            self.append(piece)
        })
    }

    /// Writes bytes into the page cache.
    fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.file.as_file_mut().write_all(bytes).map_err(|error| self.failed(error))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.unsynced += bytes.len();
        Ok(())
    }

    fn failed(&self, error: io::Error) -> BlobError {
        failed(format!("write bytes {} and later of a blob", self.bytes), error)
    }

    /// Makes the blob durable, then visible, then durably visible.
    fn keep(self, files: &Files, keep: impl FnOnce(&BlobStat) -> bool) -> Result<BlobStat, BlobError> {
        let digest = Digest(self.hasher.finalize().into());
        let mut stat = BlobStat { digest, bytes: self.bytes, modified: SystemTime::now() };
        if !keep(&stat) {
            return Err(BlobError::Unwanted(digest));
        }
        let file = persist(files, self.file, digest).map_err(|error| failed(format!("store blob {digest}"), error))?;
        if let Ok(modified) = file.metadata().and_then(|metadata| metadata.modified()) {
            stat.modified = modified;
        }
        Ok(stat)
    }
}

/// A blob that is there already is replaced by the same bytes: it becomes young, and whole if it
/// was damaged.
fn persist(files: &Files, temporary: NamedTempFile, digest: Digest) -> io::Result<File> {
    let path = files.path(digest);
    temporary.as_file().sync_all()?;
    if let Some(shard) = path.parent() {
        create_dir_private(shard)?;
    }
    let (file, gone) = {
        let mut held = files.sweep.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() {
            held.note(digest);
        }
        files.put_in_place(temporary, digest)?
    };
    sync_parent(&path)?;
    files.give_back(gone);
    Ok(file)
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing panics while it holds this lock.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn incomplete() -> BlobError {
    failed("finish a blob".to_owned(), io::Error::other("an earlier write of it has failed"))
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn f26_a_full_disk_is_told_and_leaves_nothing() {
        let path = NamedTempFile::new().unwrap().into_temp_path();
        let left = path.to_path_buf();
        // Writing to this device fails as writing to a full disk does.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = NamedTempFile::from_parts(full, path);
        let temporary = Some(Temporary::new(file, Arc::default()));
        let mut state = State { temporary, buffer: b"buffered".to_vec() };
        assert!(left.exists());
        let error = state.write(b"more").unwrap_err();
        assert_eq!(error.to_string(), "cannot write bytes 0 and later of a blob: no space is left");
        assert!(!left.exists());
        assert!(matches!(state.write(b"again"), Err(BlobError::Storage { .. })));
    }
}
