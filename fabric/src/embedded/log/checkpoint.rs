//! Moves the write-ahead log into the database beside the writer, so that no commit waits for it.
//!
//! The write-ahead log starts over, in the same blocks of the file, once all of it was moved.
//! Overwriting blocks is a third cheaper to sync than appending to a file. A writer that never
//! pauses is always ahead of a checkpoint that runs beside it, so the rest, by then a few pages, is
//! moved by the writer itself between two commits.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::store::{self, Store, StoreError};

/// A checkpoint is due after this many bytes of records.
const DUE_BYTES: usize = 8 * 1024 * 1024;
/// After this many the writer stops to do it: the thread beside it cannot keep up.
const OVERDUE_BYTES: usize = 16 * DUE_BYTES;
/// A commit writes at least a page.
const COMMIT_BYTES_MIN: usize = 4096;

/// Decides when checkpoints are made.
pub(super) struct Checkpoints {
    bytes: usize,
    running: bool,
    // Both ends are dropped before the thread is joined.
    wanted: Option<SyncSender<()>>,
    done: Receiver<rusqlite::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(path: &Path) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let connection = store::checkpointer(path)?;
        let (wanted, wants) = sync_channel::<()>(1);
        let (finished, done) = sync_channel(1);
        let thread = thread::Builder::new().name("log-checkpoint".to_owned()).spawn(move || {
            while wants.recv().is_ok() {
                let result = store::checkpoint(&connection);
                if finished.send(result).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { bytes: 0, running: false, wanted: Some(wanted), done, thread: Some(thread) })
    }

    /// Called by the writer after each commit.
    pub(super) fn committed(&mut self, bytes: usize, store: &Store) -> Result<(), StoreError> {
        self.bytes += bytes.max(COMMIT_BYTES_MIN);
        if self.running
            && let Ok(result) = self.done.try_recv()
        {
            self.running = false;
            // Pages that are not moved stay in the write-ahead log, durable as it is; a full disk
            // is no reason to stop.
            if let Err(error) = result {
                tracing::warn!(%error, "the log's checkpoint failed; it is tried again");
            }
            return self.finish(store);
        }
        if self.bytes >= OVERDUE_BYTES {
            return self.finish(store);
        }
        if self.bytes >= DUE_BYTES
            && !self.running
            && let Some(wanted) = &self.wanted
        {
            match wanted.try_send(()) {
                Ok(()) => self.running = true,
                Err(TrySendError::Full(()) | TrySendError::Disconnected(())) => {}
            }
        }
        Ok(())
    }

    fn finish(&mut self, store: &Store) -> Result<(), StoreError> {
        self.bytes = 0;
        match store.checkpoint() {
            Err(StoreError::NoSpace) => {
                tracing::warn!("no space is left for the log's checkpoint; it is tried again");
                Ok(())
            }
            result => result,
        }
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        self.wanted = None;
        // At most one result is under way, and the channel holds one: the thread cannot wait for
        // us.
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
