//! The inputs of an [`Appender`](super::Appender), and its outputs.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use thiserror::Error;
use wasmill_protocol::LogSeq;

use super::AppendError;

/// The bounds of an [`Appender`](super::Appender).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Appends that are sent and not answered at any time while [`Input::Pipeline`] allows several;
    /// at least 1.
    pub in_flight_max: usize,
    /// How long the first append without an outcome may take until it is given up, with all after
    /// it.
    pub give_up_us: u64,
    /// The wait before it is sent again; doubles with each time.
    pub retry_us: u64,
    /// Where the doubling ends.
    pub retry_us_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { in_flight_max: 64, give_up_us: 10_000_000, retry_us: 50_000, retry_us_max: 1_000_000 }
    }
}

/// Tells one writer from every other one that ever was: drawn at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WriterId(pub u64);

/// Names an append of one writer. Grows with every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendNumber(pub u64);

/// Names something that was asked of the log, so that its answer is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CallId(pub u64);

/// Names an append for the log: the same for every try of it, and for no other append ever. It is
/// kept beside the record.
///
/// Written `<writer in 16 hexadecimal digits>.<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct MessageId {
    /// Whose.
    pub writer: WriterId,
    /// Which.
    pub number: AppendNumber,
}

/// A text that does not name an append.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{0}` does not name an append")]
pub struct ParseMessageIdError(String);

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}.{}", self.writer.0, self.number.0)
    }
}

impl FromStr for MessageId {
    type Err = ParseMessageIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (writer, number) = text.split_once('.')?;
            let writer = WriterId(u64::from_str_radix(writer, 16).ok()?);
            let id = Self { writer, number: AppendNumber(number.parse().ok()?) };
            // One spelling only.
            (id.to_string() == text).then_some(id)
        };
        parse().ok_or_else(|| ParseMessageIdError(text.chars().take(80).collect()))
    }
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A record is to be appended as `expected_last + 1`.
    Append {
        /// Its number, above that of every call before.
        number: AppendNumber,
        /// Where the log must end.
        expected_last: LogSeq,
        /// The bytes.
        record: Bytes,
    },
    /// The result of [`Action::Publish`].
    Published(CallId, Published),
    /// The result of [`Action::ReadBack`].
    Found(CallId, Found),
    /// Whether the log refuses an append behind any other record than [`Action::Publish::after`],
    /// so that several may be under way at once. Not until it is said; those that have been sent
    /// are not called back when it no longer holds.
    Pipeline(bool),
    /// Time has passed.
    Tick,
}

/// The log's answer to a record. A call is answered once; later answers to it are ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Published {
    /// It is durable: just now, or since an earlier try.
    Stored {
        /// As which record.
        seq: LogSeq,
    },
    /// Refused: the log ends elsewhere.
    WrongLast {
        /// Where.
        last: LogSeq,
    },
    /// Refused: the last record is not the one named by [`Action::Publish::after`].
    WrongPredecessor,
    /// Refused: no space is left.
    NoSpace,
    /// Refused: too large.
    TooLarge {
        /// The limit.
        bytes_max: usize,
    },
    /// No answer in time, or one that says nothing about the record: it may be stored, or still
    /// become so.
    NoAnswer {
        /// The failure.
        reason: String,
    },
    /// An answer after which nothing must be appended any more.
    Failed {
        /// The answer of the log.
        reason: String,
    },
}

/// The content of one sequence number of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A record, with the id that is kept beside it.
    Record(Option<MessageId>),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    Trimmed,
    /// It could not be read.
    NoAnswer {
        /// The failure.
        reason: String,
    },
}

/// The consequences of steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ready {
    /// To be asked of the log at once, in this order. Each is answered once, by
    /// [`Input::Published`] or [`Input::Found`].
    pub calls: Vec<(CallId, Action)>,
    /// Outcomes, in the order in which the appends were called.
    pub done: Vec<Done>,
}

/// Something that is asked of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Store a record.
    Publish {
        /// Its name, by which the log recognises another try of the same append.
        id: MessageId,
        /// Where the log must end, else it refuses.
        expected_last: LogSeq,
        /// Which message must be the last one, else the log refuses; `None` when the record before
        /// is known to be the right one.
        after: Option<MessageId>,
        /// The bytes.
        record: Bytes,
    },
    /// Tell what stands at a place, as whoever decides about appends knows it.
    ReadBack {
        /// Which place.
        seq: LogSeq,
    },
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Which.
    pub number: AppendNumber,
    /// As which record it is durable, or why it is not.
    pub outcome: Result<LogSeq, AppendError>,
}
