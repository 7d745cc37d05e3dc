//! The place in the log that something holds, and what the next record must name.

use sha2::{Digest as _, Sha256};
use wasmill_protocol::{Digest, LogSeq};

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Chain {
    /// The last record.
    pub last: LogSeq,
    /// The hash that the next record must name.
    pub hash: Digest,
    /// Bytes of all records so far.
    pub log_bytes: u64,
}

impl Chain {
    /// One record later: `bytes` is that record, encoded.
    #[must_use]
    pub fn then(self, bytes: &[u8]) -> Self {
        Self { last: self.last.next(), hash: hash(bytes), log_bytes: self.log_bytes + bytes.len() as u64 }
    }
}

/// What the record after the encoded record `bytes` must name: its SHA-256.
pub fn hash(bytes: &[u8]) -> Digest {
    Digest(Sha256::digest(bytes).into())
}
