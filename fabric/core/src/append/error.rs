//! How an append ends when it does not succeed.

use thiserror::Error;
use wasmill_protocol::LogSeq;

/// A record that was not appended.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// The log ends elsewhere than the writer thinks.
    #[error("cannot append record {}: the log ends at {last}, not at {expected_last}", expected_last.next())]
    Conflict {
        /// The sequence that the writer expected.
        expected_last: LogSeq,
        /// Where the log ends.
        last: LogSeq,
    },
    /// Refused before anything was written.
    #[error("cannot append a record of {bytes} bytes: the limit is {bytes_max}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The disk is full. Nothing was written; a later append may succeed.
    #[error("cannot append record {seq}: no space is left")]
    NoSpace {
        /// Which record.
        seq: LogSeq,
    },
    /// The storage failed. The process must stop: after a failed fsync nothing is known about what
    /// is durable.
    #[error("cannot append record {seq}: {reason}")]
    Storage {
        /// Which record.
        seq: LogSeq,
        /// The error of the storage.
        reason: String,
    },
    /// The storage did not answer within a bounded time. Whether the record was written is not
    /// known: leadership ends, and the next one reads the log to its end.
    #[error("the outcome of appending record {seq} is unknown: {reason}")]
    Unreachable {
        /// Which record.
        seq: LogSeq,
        /// The last failure.
        reason: String,
    },
}

impl AppendError {
    /// The error of an append after the failed one. `end` is where the log ended for the failed
    /// one.
    pub fn of_successor(&self, expected_last: LogSeq, end: LogSeq) -> Self {
        let seq = expected_last.next();
        match self {
            Self::Conflict { last, .. } => Self::Conflict { expected_last, last: *last },
            Self::TooLarge { .. } => Self::Conflict { expected_last, last: end },
            Self::NoSpace { .. } => Self::NoSpace { seq },
            Self::Storage { reason, .. } => Self::Storage { seq, reason: reason.clone() },
            Self::Unreachable { reason, .. } => Self::Unreachable { seq, reason: reason.clone() },
        }
    }
}
