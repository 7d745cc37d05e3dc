//! How hosts read and write blobs: they have no right to the store itself and ask a control node.
//!
//! Requests go to [`any`], except those about an upload, which go to [`at`] the node that began it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::ids::{Digest, HostId};
use crate::time::Timestamp;

/// What a host asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobRequest {
    /// What is known of a blob. Answered with [`BlobAnswer::Stat`].
    Stat {
        /// Which blob.
        digest: Digest,
    },
    /// Some of its bytes. Answered with [`BlobAnswer::Piece`].
    Read {
        /// Which blob.
        digest: Digest,
        /// Where the piece begins.
        offset: u64,
        /// How long it is at most; it is shorter only at the end of the blob.
        bytes_max: u64,
    },
    /// Stores a blob that fits into this message. Answered with [`BlobAnswer::Stat`].
    Put {
        /// All of it.
        data: Bytes,
    },
    /// Begins an upload. Answered with [`BlobAnswer::Begun`].
    Begin,
    /// Appends to an upload. Answered with [`BlobAnswer::Written`]; the same piece twice is fine.
    Write {
        /// Which upload.
        upload: u64,
        /// How many bytes were written before.
        offset: u64,
        /// The piece.
        data: Bytes,
    },
    /// Ends an upload. Answered with [`BlobAnswer::Stat`] when it is durable; twice is fine.
    Finish {
        /// Which upload.
        upload: u64,
        /// What the bytes must have.
        digest: Digest,
    },
}

/// What a control node answers to [`BlobRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlobAnswer {
    /// What is known.
    Stat {
        /// Which blob.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// When it was last written.
        modified: Timestamp,
    },
    /// Some bytes.
    Piece {
        /// The size of the whole blob.
        bytes: u64,
        /// The piece.
        data: Bytes,
    },
    /// An upload has begun.
    Begun {
        /// The node where it goes on.
        node: String,
        /// Its number there.
        upload: u64,
    },
    /// The piece was taken.
    Written,
    /// There is no such blob.
    Unknown,
    /// The bytes do not have the digest that they should.
    Damaged,
    /// More bytes than a blob may have.
    TooLarge {
        /// The limit.
        bytes_max: u64,
    },
    /// The store is full.
    NoSpace,
    /// The upload is not known here: the node was started anew, or it took too long.
    UploadUnknown,
    /// Too many uploads are under way.
    Busy,
    /// The store failed.
    Failed {
        /// What it said.
        reason: String,
    },
}

/// Where a host asks whichever control node hears it.
pub fn any(host: &HostId) -> String {
    format!("blobs.any.{host}")
}

/// Where a host goes on with an upload.
pub fn at(node: &str, host: &HostId) -> String {
    format!("blobs.at-{node}.{host}")
}

/// What [`any`] is for every host.
pub const ANY: &str = "blobs.any.*";

/// What [`at`] is for every host.
pub fn all_at(node: &str) -> String {
    format!("blobs.at-{node}.*")
}
