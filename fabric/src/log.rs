//! The log: numbered records with one writer.

use std::sync::OnceLock;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{self, BoxFuture};
use futures::stream::BoxStream;
use thiserror::Error;
pub use wasmill_fabric_core::append::AppendError;
use wasmill_protocol::{LogSeq, Timestamp};

/// Durable, numbered records. Each append names the sequence number that it expects to be the last:
/// that is the fence against a stale leader.
pub trait Log: Send + Sync {
    /// Begins to append, after the log was read to its end: once for each leadership.
    fn writer(&self) -> Box<dyn LogWriter>;

    /// Appends one record by itself, as [`LogWriter::append`] does. Nothing orders it among others.
    ///
    /// # Errors
    ///
    /// As for [`LogWriter::append`].
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>> {
        let writer = self.writer();
        let appended = writer.append(expected_last, record);
        async move {
            let outcome = appended.await;
            drop(writer);
            outcome
        }
        .boxed()
    }

    /// The sequence number of the last durable record; 0 for an empty log.
    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>>;

    /// As [`Log::last_seq`], without asking what other processes have seen of the log: cheap enough
    /// to be asked for every look-up.
    fn glance_last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>> {
        self.last_seq()
    }

    /// The sequence number of the first record that was not trimmed away; one more than the last
    /// when there is none.
    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>>;

    /// Every durable record from `from` on in order, without gaps, then those that are appended
    /// later, for ever.
    fn tail(&self, from: LogSeq) -> LogTail;

    /// Removes the records up to and including `to`. The numbering goes on.
    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>>;

    /// The largest record in bytes that [`Log::append`] takes.
    fn record_bytes_max(&self) -> usize;

    /// Whether there is room for more than a record or two, asked after an append that found none:
    /// a full disk has room for a small record now and then. Always, where nobody can tell.
    fn has_room(&self) -> BoxFuture<'_, bool> {
        future::ready(true).boxed()
    }

    /// The time of the servers that keep the log; `None` when they are too old to tell.
    ///
    /// No future where this process keeps the log itself: then nobody else knows the time, and
    /// nobody else can lead.
    ///
    /// # Errors
    ///
    /// While they cannot be asked.
    fn servers_time(&self) -> Option<BoxFuture<'_, Result<Option<Timestamp>, LogError>>> {
        None
    }
}

/// The appends of one leadership. When it is dropped, what was sent may still become durable, and
/// nothing is sent any more.
pub trait LogWriter: Send + Sync {
    /// Appends one record as `expected_last + 1`. The future ends once the record is durable.
    ///
    /// The call itself fixes the order: appends take effect in the order of the calls, whenever
    /// their futures are polled, and several may be in flight. When one fails, all that are called
    /// after it fail too, whether the caller has heard of the failure yet or not: they would follow
    /// a record that it does not know.
    ///
    /// # Errors
    ///
    /// [`AppendError::Conflict`] when somebody else has appended: leadership is lost. Nothing was
    /// written.
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>>;
}

/// Why a [`LogWriter`] takes nothing any more; for those who write one.
#[derive(Debug, Default)]
pub struct Broken(OnceLock<(AppendError, LogSeq)>);

impl Broken {
    /// An append has failed; the first that does is remembered. Gives the error back.
    pub fn after(&self, expected_last: LogSeq, error: AppendError) -> AppendError {
        self.0.get_or_init(|| (error.clone(), expected_last));
        error
    }

    /// Whether an append may be tried.
    ///
    /// # Errors
    ///
    /// The error of an append that is called after one that has failed.
    pub fn check(&self, expected_last: LogSeq) -> Result<(), AppendError> {
        self.0.get().map_or(Ok(()), |(error, end)| Err(error.of_successor(expected_last, *end)))
    }
}

/// The records that [`Log::tail`] yields. Ends after an error.
pub type LogTail = BoxStream<'static, Result<(LogSeq, Bytes), LogError>>;

/// The log cannot be read or trimmed.
#[derive(Debug, Clone, Error)]
pub enum LogError {
    /// Records are missing in the middle, or were trimmed away before they were read.
    #[error("record {seq} of the log is missing")]
    Missing {
        /// Which record.
        seq: LogSeq,
    },
    /// The storage failed.
    #[error("cannot {action} the log: {reason}")]
    Storage {
        /// The action that was attempted.
        action: &'static str,
        /// The error of the storage.
        reason: String,
    },
    /// The storage is not reachable now; trying again helps.
    #[error("cannot {action} the log at the moment: {reason}")]
    Unreachable {
        /// The action that was attempted.
        action: &'static str,
        /// The failure.
        reason: String,
    },
}
