//! The log on one JetStream stream: a message is a record, and its sequence is the record's.

mod answers;
mod floor;
mod stream;
mod tail;
mod writer;

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use tokio::sync::{mpsc, oneshot};
use wasmill_fabric_core::append::WriterId;
use wasmill_protocol::LogSeq;

pub(super) use self::floor::Floor;
use self::stream::StreamEnds;
pub(super) use self::stream::{LogStream, StreamOptions, open_or_create};
use self::writer::{Command, Writer};
use super::nats::Nats;
use crate::{AppendError, Log, LogError, LogTail};

/// Appends that wait for the writer; a driver has far fewer.
const APPENDS_WAITING_MAX: usize = 1_024;
/// Room for the headers of a record below the largest message of the servers.
const HEADERS_BYTES_MAX: usize = 1_024;

/// Records in one stream.
pub(super) struct ClusterLog {
    stream: LogStream,
    floor: Arc<Floor>,
    nats: Nats,
    writer: mpsc::Sender<Command>,
}

impl ClusterLog {
    /// Starts the task that appends.
    pub(super) fn start(nats: Nats, stream: LogStream, floor: Arc<Floor>, writer: WriterId) -> Self {
        let (commands, receiver) = mpsc::channel(APPENDS_WAITING_MAX);
        let task = Writer::new(nats.clone(), stream.clone(), Arc::clone(&floor), writer);
        tokio::spawn(task.run(receiver));
        Self { stream, floor, nats, writer: commands }
    }
}

impl Log for ClusterLog {
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        let (seq, bytes_max) = (expected_last.next(), self.record_bytes_max());
        if record.len() > bytes_max {
            return future::ready(Err(AppendError::TooLarge { bytes: record.len(), bytes_max })).boxed();
        }
        let unreachable = move |reason: &str| Err(AppendError::Unreachable { seq, reason: reason.to_owned() });
        let (answer, answered) = oneshot::channel();
        if self.writer.try_send(Command { expected_last, record, answer }).is_err() {
            let reason = format!("{APPENDS_WAITING_MAX} appends wait already");
            return future::ready(unreachable(&reason)).boxed();
        }
        async move { answered.await.unwrap_or_else(|_| unreachable("the log's writer has stopped")) }.boxed()
    }

    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        async { Ok(self.ends("read the end of").await?.last) }.boxed()
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
        self.nats.client().max_payload().saturating_sub(HEADERS_BYTES_MAX)
    }
}

impl ClusterLog {
    /// Where the log begins and ends, by the server that decides about appends; never a shorter log than was ever seen.
    async fn ends(&self, action: &'static str) -> Result<StreamEnds, LogError> {
        self.floor.refresh().await;
        self.floor.checked_ends(&self.stream, action).await
    }
}
