//! Messages between hosts and control nodes about blobs, as MessagePack with named fields.

use std::io;
use std::time::SystemTime;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use wasmill_protocol::{Digest, Timestamp};

use crate::{BlobError, BlobStat};

/// Requests that any control node can answer.
pub(super) const ANY: &str = "blobs.any.*";

/// Where a host asks any control node.
pub(super) fn any(host: &str) -> String {
    format!("blobs.any.{host}")
}

/// Where a host asks one control node; `*` for all hosts.
pub(super) fn at(node: &str, host: &str) -> String {
    format!("blobs.at.{node}.{host}")
}

/// From a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Ask {
    /// The facts about a blob.
    Stat {
        #[serde(default)]
        digest: Digest,
    },
    /// Up to `bytes` bytes from `offset` on.
    Read {
        #[serde(default)]
        digest: Digest,
        #[serde(default)]
        offset: u64,
        #[serde(default)]
        bytes: u64,
    },
    /// Store these bytes.
    Put {
        #[serde(default)]
        data: Bytes,
    },
    /// Begin a blob; everything else about it goes to the node that answers.
    Begin,
    /// The bytes of a blob that was begun, from `offset` on. The same again is fine.
    Write {
        #[serde(default)]
        upload: u64,
        #[serde(default)]
        offset: u64,
        #[serde(default)]
        data: Bytes,
    },
    /// The blob is whole, and has this digest. The same again is fine.
    Finish {
        #[serde(default)]
        upload: u64,
        #[serde(default)]
        digest: Digest,
    },
    /// The blob is not wanted.
    Abandon {
        #[serde(default)]
        upload: u64,
    },
}

/// From a control node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The facts about the blob, which is there.
    Stat {
        #[serde(default)]
        digest: Digest,
        #[serde(default)]
        bytes: u64,
        #[serde(default)]
        modified: Timestamp,
    },
    /// Some bytes of a blob, which has `total` in all.
    Piece {
        #[serde(default)]
        total: u64,
        #[serde(default)]
        data: Bytes,
    },
    /// A blob was begun here.
    Begun {
        #[serde(default)]
        node: String,
        #[serde(default)]
        upload: u64,
    },
    /// Done.
    Done,
    /// It was not done.
    Failed(Failure),
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Failure {
    /// There is no such blob.
    Unknown,
    /// Its bytes have another digest.
    Damaged,
    /// More than is taken.
    TooLarge {
        #[serde(default)]
        bytes: u64,
        #[serde(default)]
        bytes_max: u64,
    },
    /// The disk is full.
    NoSpace,
    /// There is no such upload here, or no more.
    NoUpload,
    /// Too much at once: later.
    Busy,
    /// Something else.
    Other {
        #[serde(default)]
        reason: String,
    },
}

impl From<BlobStat> for Answer {
    fn from(stat: BlobStat) -> Self {
        let since = stat.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified = Timestamp(u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
        Self::Stat { digest: stat.digest, bytes: stat.bytes, modified }
    }
}

impl Answer {
    /// The facts about a blob, if the answer has any.
    pub(super) fn stat(self, action: &str) -> Result<BlobStat, BlobError> {
        match self {
            Self::Stat { digest, bytes, modified } => {
                let modified = SystemTime::UNIX_EPOCH + std::time::Duration::from_micros(modified.0);
                Ok(BlobStat { digest, bytes, modified })
            }
            other => Err(other.unexpected(action)),
        }
    }

    /// An answer to something else.
    pub(super) fn unexpected(self, action: &str) -> BlobError {
        let source = io::Error::other(format!("a control node answers with {self:?}"));
        BlobError::Storage { action: action.to_owned(), source }
    }
}

impl From<BlobError> for Failure {
    fn from(error: BlobError) -> Self {
        match error {
            BlobError::Unknown(_) => Self::Unknown,
            BlobError::Damaged(_) => Self::Damaged,
            BlobError::TooLarge { bytes, bytes_max, .. } => Self::TooLarge { bytes, bytes_max },
            BlobError::NoSpace { .. } => Self::NoSpace,
            BlobError::Unwanted(_) => Self::Damaged,
            BlobError::Storage { action, source } => Self::Other { reason: format!("cannot {action}: {source}") },
        }
    }
}

impl Failure {
    /// As whoever has asked for it hears it.
    pub(super) fn into_error(self, digest: Digest, action: &str) -> BlobError {
        let storage = |kind, reason: String| {
            let source = io::Error::new(kind, reason);
            BlobError::Storage { action: action.to_owned(), source }
        };
        match self {
            Self::Unknown => BlobError::Unknown(digest),
            Self::Damaged => BlobError::Damaged(digest),
            Self::TooLarge { bytes, bytes_max } => BlobError::TooLarge { digest, bytes, bytes_max },
            Self::NoSpace => BlobError::NoSpace { action: action.to_owned() },
            Self::NoUpload => storage(io::ErrorKind::NotFound, "the control node knows nothing of it".to_owned()),
            Self::Busy => storage(io::ErrorKind::ResourceBusy, "the control node is busy".to_owned()),
            Self::Other { reason } => storage(io::ErrorKind::Other, reason),
        }
    }
}

/// To bytes.
pub(super) fn encode<T: Serialize>(message: &T) -> Bytes {
    match rmp_serde::to_vec_named(message) {
        Ok(bytes) => bytes.into(),
        Err(error) => unreachable!("these messages can be encoded: {error}"),
    }
}

/// From bytes.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, rmp_serde::decode::Error> {
    rmp_serde::from_slice(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_their_encoding() {
        let (digest, data) = (Digest([3; 32]), Bytes::from_static(b"abc"));
        for ask in [
            Ask::Stat { digest },
            Ask::Read { digest, offset: 1, bytes: 2 },
            Ask::Put { data: data.clone() },
            Ask::Begin,
            Ask::Write { upload: 1, offset: 2, data },
            Ask::Finish { upload: 1, digest },
            Ask::Abandon { upload: 1 },
        ] {
            assert_eq!(decode::<Ask>(&encode(&ask)).unwrap(), ask);
        }
        for answer in [Answer::Done, Answer::Failed(Failure::TooLarge { bytes: 1, bytes_max: 2 })] {
            assert_eq!(decode::<Answer>(&encode(&answer)).unwrap(), answer);
        }
    }

    #[test]
    fn bytes_travel_as_bytes() {
        let data = Bytes::from(vec![200; 100_000]);
        assert!(encode(&Ask::Put { data }).len() < 100_100);
    }

    /// A field that a newer version adds is ignored by an older one, and one that it leaves out has
    /// a default.
    #[test]
    fn fields_come_and_go() {
        #[derive(Serialize)]
        enum Newer {
            Read { digest: Digest, urgent: bool },
        }
        let newer = encode(&Newer::Read { digest: Digest([3; 32]), urgent: true });
        assert_eq!(decode::<Ask>(&newer).unwrap(), Ask::Read { digest: Digest([3; 32]), offset: 0, bytes: 0 });
    }
}
