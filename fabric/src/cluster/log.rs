//! The log on one JetStream stream: a message is a record, and its sequence is the record's.

mod answers;
mod floor;
mod stream;
mod tail;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{mpsc, oneshot};
use wasmill_fabric_core::append::WriterId;
use wasmill_protocol::{LogSeq, Timestamp};

pub(super) use self::floor::Floor;
use self::stream::StreamEnds;
pub(super) use self::stream::{LogStream, StreamOptions, open_or_create};
use self::writer::{Command, Writer};
use super::nats::Nats;
use crate::log::Broken;
use crate::{AppendError, Log, LogError, LogTail, LogWriter};

/// Appends that wait for the writer; a driver has far fewer.
const APPENDS_WAITING_MAX: usize = 1_024;
/// Room for the headers of a record below the largest message of the servers.
const HEADERS_BYTES_MAX: usize = 1_024;

/// Records in one stream.
pub(super) struct ClusterLog {
    stream: LogStream,
    floor: Arc<Floor>,
    nats: Nats,
    /// Tells the writers of this process from those of every other one.
    ids: WriterId,
    writers: AtomicU64,
}

impl ClusterLog {
    /// Nobody else may have `ids`.
    pub(super) fn new(nats: Nats, stream: LogStream, floor: Arc<Floor>, ids: WriterId) -> Self {
        Self { stream, floor, nats, ids, writers: AtomicU64::new(0) }
    }
}

/// The task that appends ends with it.
struct ClusterLogWriter {
    nats: Nats,
    floor: Arc<Floor>,
    commands: mpsc::Sender<Command>,
    /// Something was not even sent.
    broken: Broken,
}

impl LogWriter for ClusterLogWriter {
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        match self.send(expected_last, record) {
            Ok(answered) => async move {
                answered.await.unwrap_or_else(|_| Err(unreachable(expected_last, "the log's writer has stopped")))
            }
            .boxed(),
            Err(error) => future::ready(Err(self.broken.after(expected_last, error))).boxed(),
        }
    }
}

impl ClusterLogWriter {
    /// Hands a record to the task; gives where its outcome will be told.
    fn send(
        &self,
        expected_last: LogSeq,
        record: Bytes,
    ) -> Result<oneshot::Receiver<Result<LogSeq, AppendError>>, AppendError> {
        self.broken.check(expected_last)?;
        let last = self.floor.seen();
        if last > expected_last {
            // Others have appended, which the log would say too; or it has lost what they have, and
            // must not get anything in its place.
            return Err(AppendError::Conflict { expected_last, last });
        }
        let (bytes, bytes_max) = (record.len(), record_bytes_max(&self.nats));
        if bytes > bytes_max {
            return Err(AppendError::TooLarge { bytes, bytes_max });
        }
        let (answer, answered) = oneshot::channel();
        match self.commands.try_send(Command { expected_last, record, answer }) {
            Ok(()) => Ok(answered),
            Err(_) => Err(unreachable(expected_last, &format!("{APPENDS_WAITING_MAX} appends wait already"))),
        }
    }
}

fn unreachable(expected_last: LogSeq, reason: &str) -> AppendError {
    AppendError::Unreachable { seq: expected_last.next(), reason: reason.to_owned() }
}

fn record_bytes_max(nats: &Nats) -> usize {
    nats.client().max_payload().saturating_sub(HEADERS_BYTES_MAX)
}

impl Log for ClusterLog {
    fn writer(&self) -> Box<dyn LogWriter> {
        let (commands, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
        let id = WriterId(self.ids.0.wrapping_add(self.writers.fetch_add(1, Ordering::Relaxed)));
        let task = Writer::new(self.nats.clone(), self.stream.clone(), Arc::clone(&self.floor), id);
        tokio::spawn(task.run(receiver));
        let (nats, floor) = (self.nats.clone(), Arc::clone(&self.floor));
        Box::new(ClusterLogWriter { nats, floor, commands, broken: Broken::default() })
    }

    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { Ok(self.ends("read the end of").await?.last) }.boxed()
    }

    fn glance_last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { Ok(self.floor.checked_ends(&self.stream, "read the end of").await?.last) }.boxed()
    }

    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { Ok(self.ends("read the beginning of").await?.first) }.boxed()
    }

    fn tail(&self, from: LogSeq) -> LogTail {
        tail::tail(self.stream.clone(), Arc::clone(&self.floor), from)
    }

    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>> {
        async move {
            let ends = self.ends("trim").await?;
            // The server would take a number beyond the end as the new end.
            let to = to.min(ends.last);
            if to < ends.first {
                return Ok(());
            }
            self.stream.purge(to).await
        }
        .boxed()
    }

    fn record_bytes_max(&self) -> usize {
        record_bytes_max(&self.nats)
    }

    fn servers_time(&self) -> Option<BoxFuture<'_, Result<Option<Timestamp>, LogError>>> {
        Some(self.stream.servers_time().boxed())
    }
}

impl ClusterLog {
    /// Where the log begins and ends, by the server that decides about appends; never a shorter log
    /// than was ever seen.
    async fn ends(&self, action: &'static str) -> Result<StreamEnds, LogError> {
        self.floor.refresh().await;
        self.floor.checked_ends(&self.stream, action).await
    }
}
