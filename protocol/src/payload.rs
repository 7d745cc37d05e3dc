//! Bytes that belong to a task: its payload, its result, its checkpoint, its captured output.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::Digest;

/// Bytes, either carried along or named by their digest.
///
/// Up to [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX) they are inline; the caller of the
/// HTTP interface never sees which.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Payload {
    /// No bytes at all.
    #[default]
    Empty,
    /// The bytes themselves.
    Inline(Bytes),
    /// The bytes are a blob.
    Blob {
        /// Names the blob.
        digest: Digest,
        /// How many bytes it has.
        bytes: u64,
    },
}

impl Payload {
    /// How many bytes there are.
    pub fn byte_count(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { bytes, .. } => *bytes,
        }
    }

    /// Inline bytes, or nothing for no bytes. The caller has checked that they fit inline.
    pub fn inline(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::Empty } else { Self::Inline(bytes) }
    }

    /// The blob that is referred to, if any: what the sweep of unused blobs asks.
    pub fn blob(&self) -> Option<Digest> {
        match self {
            Self::Blob { digest, .. } => Some(*digest),
            Self::Empty | Self::Inline(_) => None,
        }
    }
}
