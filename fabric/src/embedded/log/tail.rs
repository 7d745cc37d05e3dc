//! Reading the log from a record on, for ever.

use std::collections::VecDeque;
use std::path::PathBuf;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rusqlite::Connection;
use tokio::sync::watch;
use wasmill_protocol::LogSeq;

use super::{LogState, store};
use crate::{LogError, LogTail};

/// Records that are read at once.
const BATCH_RECORDS_MAX: usize = 256;
/// Once a batch has this many bytes no further record is added to it.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// See [`crate::Log::tail`].
pub(super) fn tail(path: PathBuf, state: watch::Receiver<LogState>, from: LogSeq) -> LogTail {
    let tail = Tail { path, state, next: from.max(LogSeq(1)), batch: VecDeque::new(), connection: None };
    stream::unfold(Some(tail), |tail| async move {
        let mut tail = tail?;
        match tail.read_next().await {
            Ok(Some(record)) => Some((Ok(record), Some(tail))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
    .boxed()
}

struct Tail {
    path: PathBuf,
    state: watch::Receiver<LogState>,
    next: LogSeq,
    batch: VecDeque<(LogSeq, Bytes)>,
    connection: Option<Connection>,
}

impl Tail {
    /// The next record, as soon as there is one; `None` when the log was closed.
    async fn read_next(&mut self) -> Result<Option<(LogSeq, Bytes)>, LogError> {
        if self.batch.is_empty() {
            let next = self.next;
            let Ok(last) = self.state.wait_for(|state| state.last >= next).await.map(|state| state.last) else {
                return Ok(None);
            };
            self.read_batch(last).await?;
        }
        match self.batch.pop_front() {
            Some((seq, record)) if seq == self.next => {
                self.next = seq.next();
                Ok(Some((seq, record)))
            }
            _ => Err(LogError::Missing { seq: self.next }),
        }
    }

    async fn read_batch(&mut self, last: LogSeq) -> Result<(), LogError> {
        let failed = |reason| LogError::Storage { action: "read", reason };
        let (path, next, connection) = (self.path.clone(), self.next, self.connection.take());
        let read = move || -> rusqlite::Result<_> {
            let connection = match connection {
                Some(connection) => connection,
                None => store::reader(&path)?,
            };
            let batch = store::read(&connection, next, last, BATCH_RECORDS_MAX, BATCH_BYTES_MAX)?;
            Ok((connection, batch))
        };
        let (connection, batch) = tokio::task::spawn_blocking(read)
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        self.connection = Some(connection);
        self.batch = batch.into();
        Ok(())
    }
}
