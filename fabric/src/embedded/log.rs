//! The log as an SQLite table: one row a record, one transaction for all records that wait.

mod checkpoint;
mod store;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{oneshot, watch};
use wasmill_protocol::LogSeq;

use self::writer::{Caller, Command, Writer};
use super::disk::Disk;
use super::lock::DirLock;
use super::{OpenError, files};
use crate::log::Broken;
use crate::{AppendError, Log, LogError, LogTail, LogWriter};

/// The largest record in bytes.
const RECORD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Room that a log which has found none wants before it goes on.
const ROOM_BYTES: usize = 1024 * 1024;

/// Records in one file, written by one thread.
pub(super) struct EmbeddedLog {
    path: PathBuf,
    thread: Arc<Thread>,
    state: watch::Receiver<LogState>,
}

/// The thread that writes, for all who append.
struct Thread {
    writer: Writer,
    // Declared last, so dropped last: the directory is free only when the writer has stopped.
    _lock: Arc<DirLock>,
}

/// Appends of one leadership.
struct EmbeddedLogWriter {
    thread: Arc<Thread>,
    broken: Arc<Broken>,
}

/// The writer's news for readers.
#[derive(Debug, Clone, Default)]
struct LogState {
    /// The first record that was not trimmed away.
    first: LogSeq,
    /// The last durable record.
    last: LogSeq,
    /// Why nothing can be appended any more, if so.
    poisoned: Option<Arc<str>>,
}

impl EmbeddedLog {
    pub(super) fn open(path: &Path, disk: Arc<Disk>, lock: Arc<DirLock>) -> Result<Self, OpenError> {
        let failed = |source| OpenError::Log { path: path.to_owned(), source };
        let store = store::Store::open(path).map_err(|error| match error {
            store::StoreOpenError::Sqlite(source) => failed(source.into()),
            store::StoreOpenError::Damaged(found) => OpenError::Damaged { path: path.to_owned(), found },
        })?;
        Self::start(path, store, disk, lock).map_err(failed)
    }

    fn start(
        path: &Path,
        store: store::Store,
        disk: Arc<Disk>,
        lock: Arc<DirLock>,
    ) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (state_sender, state) =
            watch::channel(LogState { first: store.first(), last: store.last(), poisoned: None });
        let writer = Writer::start(path, store, disk, state_sender)?;
        Ok(Self { path: path.to_owned(), thread: Arc::new(Thread { writer, _lock: lock }), state })
    }
}

impl EmbeddedLog {
    /// The last news of the writer, unless it has failed.
    fn healthy(&self, action: &'static str) -> Result<LogState, LogError> {
        let state = self.state.borrow().clone();
        match &state.poisoned {
            None => Ok(state),
            Some(reason) => Err(LogError::Storage { action, reason: reason.to_string() }),
        }
    }
}

impl LogWriter for EmbeddedLogWriter {
    /// Blocks the caller while [`writer::COMMANDS_WAITING_MAX`] appends are in flight; a driver
    /// keeps far fewer.
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        let seq = expected_last.next();
        if record.len() > RECORD_BYTES_MAX {
            let error = AppendError::TooLarge { bytes: record.len(), bytes_max: RECORD_BYTES_MAX };
            return future::ready(Err(self.broken.after(expected_last, error))).boxed();
        }
        let (answer, answered) = oneshot::channel();
        let caller = Caller { broken: Arc::clone(&self.broken), answer };
        self.thread.writer.send(Command::Append { expected_last, record, caller });
        async move {
            answered.await.unwrap_or_else(|_| {
                Err(AppendError::Storage { seq, reason: "the log's writer has stopped".to_owned() })
            })
        }
        .boxed()
    }
}

impl Log for EmbeddedLog {
    fn writer(&self) -> Box<dyn LogWriter> {
        Box::new(EmbeddedLogWriter { thread: Arc::clone(&self.thread), broken: Arc::default() })
    }

    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        future::ready(self.healthy("read the end of").map(|state| state.last)).boxed()
    }

    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        future::ready(self.healthy("read the beginning of").map(|state| state.first)).boxed()
    }

    fn tail(&self, from: LogSeq) -> LogTail {
        tail::tail(self.path.clone(), self.state.clone(), from)
    }

    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>> {
        let (answer, answered) = oneshot::channel();
        self.thread.writer.send(Command::Trim { to, answer });
        async move {
            answered.await.unwrap_or_else(|_| {
                Err(LogError::Storage { action: "trim", reason: "the log's writer has stopped".to_owned() })
            })
        }
        .boxed()
    }

    fn record_bytes_max(&self) -> usize {
        RECORD_BYTES_MAX
    }

    fn has_room(&self) -> BoxFuture<'_, bool> {
        let path = self.path.with_extension("room");
        let tried = tokio::task::spawn_blocking(move || files::has_room(&path, ROOM_BYTES));
        async move {
            match tried.await {
                Ok(Ok(())) => true,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "there is no room for the log");
                    false
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        .boxed()
    }
}
