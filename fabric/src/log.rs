//! The log: numbered records with one writer.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use thiserror::Error;
pub use wasmill_fabric_core::append::AppendError;
use wasmill_protocol::LogSeq;

/// Durable, numbered records. Whoever appends says which sequence number it expects to be the last: that is the fence against a
/// stale leader.
pub trait Log: Send + Sync {
    /// Appends one record as `expected_last + 1`. The future ends once the record is durable.
    ///
    /// The call itself fixes the order: appends take effect in the order of the calls, whenever their futures are
    /// polled, and several may be in flight. When one fails, all that were called after it fail too. A future that is dropped before it
    /// ends leaves open whether the record is appended.
    ///
    /// # Errors
    ///
    /// [`AppendError::Conflict`] when somebody else has appended: leadership is lost. Nothing was written.
    fn append(&self, expected_last: LogSeq, record: Bytes) -> BoxFuture<'static, Result<LogSeq, AppendError>>;

    /// The sequence number of the last durable record; 0 for an empty log.
    fn last_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>>;

    /// The sequence number of the first record that was not trimmed away; one more than the last when there is none.
    fn first_seq(&self) -> BoxFuture<'_, Result<LogSeq, LogError>>;

    /// Every durable record from `from` on in order, without gaps, then those that are appended later, for ever.
    fn tail(&self, from: LogSeq) -> LogTail;

    /// Removes the records up to and including `to`. The numbering goes on.
    fn trim(&self, to: LogSeq) -> BoxFuture<'_, Result<(), LogError>>;

    /// The largest record in bytes that [`Log::append`] takes.
    fn record_bytes_max(&self) -> usize;
}

/// What [`Log::tail`] yields. Ends after an error.
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
        /// What was attempted.
        action: &'static str,
        /// What the storage said.
        reason: String,
    },
    /// The storage is not reachable now; trying again helps.
    #[error("cannot {action} the log at the moment: {reason}")]
    Unreachable {
        /// What was attempted.
        action: &'static str,
        /// What went wrong.
        reason: String,
    },
}
