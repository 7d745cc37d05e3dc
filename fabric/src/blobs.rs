//! Blobs: bytes named by their SHA-256.

use std::io;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use thiserror::Error;
use tokio::io::AsyncRead;
use wasmill_protocol::Digest;

/// For how long [`Blobs::delete_unneeded`] leaves what was stored once.
pub const UNNEEDED_ONCE_AGE_MIN: Duration = Duration::from_secs(1);
/// For how long it leaves what was stored again and again: far more than from the store to the
/// record that refers to it.
pub const UNNEEDED_AGAIN_AGE_MIN: Duration = Duration::from_secs(60);

/// Bytes named by their digest, durable once written, verified when read.
pub trait Blobs: Send + Sync {
    /// Begins a new blob of unknown digest.
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>>;

    /// Stores bytes that are at hand. Storing the same bytes twice is fine.
    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>>;

    /// All bytes of a blob, verified.
    ///
    /// # Errors
    ///
    /// [`BlobError::TooLarge`] before reading if the blob has more than `bytes_max`;
    /// [`BlobError::Damaged`] when the bytes do not have the digest that names them.
    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>>;

    /// The bytes of a blob as a stream. The last chunk is yielded only after the digest of all was
    /// verified.
    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>>;

    /// The facts about a blob that are known without reading it.
    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>>;

    /// Removes a blob; one that is not there is fine.
    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Removes a blob that was last written before `than`; whether it was removed. Unlike a `stat`
    /// and a `delete` in a row this never removes a blob that is being stored anew at the same
    /// time, where the implementation can tell.
    fn delete_older(&self, digest: Digest, than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        Box::pin(async move {
            match self.stat(digest).await {
                Ok(stat) if stat.modified < than => self.delete(digest).await.map(|()| true),
                Ok(_) | Err(BlobError::Unknown(_)) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    /// Removes a blob that nothing refers to, if nobody can be about to refer to it; whether it was
    /// removed. Bytes that were stored once are those of whoever has let go of them, and go after
    /// [`UNNEEDED_ONCE_AGE_MIN`]; of bytes that were stored again and again one reference may be on
    /// its way, and they go after [`UNNEEDED_AGAIN_AGE_MIN`].
    ///
    /// The caller has made sure that nothing refers to it that is known, and has seen it for `seen`
    /// as it was last written at `modified`. It counts that by a clock that nobody sets: by the
    /// wall clock a blob may look as old as you like.
    fn delete_unneeded(
        &self,
        digest: Digest,
        modified: SystemTime,
        seen: Duration,
    ) -> BoxFuture<'_, Result<bool, BlobError>> {
        if seen < UNNEEDED_AGAIN_AGE_MIN {
            return Box::pin(std::future::ready(Ok(false)));
        }
        self.delete_older(digest, just_after(modified))
    }

    /// All blobs, in no order: what the sweep of unused ones walks over.
    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>>;

    /// Where the bytes of a blob lie as a file on this machine, when they do: lets a compiler map
    /// it instead of copying.
    fn local_path(&self, digest: Digest) -> Option<std::path::PathBuf>;
}

/// A blob that was last written at `modified` is older than this; one that is stored anew later is
/// not. Times that came over the bus are of microseconds.
pub(crate) fn just_after(modified: SystemTime) -> SystemTime {
    modified + Duration::from_micros(1)
}

/// A blob being read.
pub type BlobReader = Box<dyn AsyncRead + Send + Unpin>;

/// A blob being written. Dropping it leaves nothing behind.
pub trait BlobWriter: Send {
    /// Appends a chunk.
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>>;

    /// Makes the blob durable and visible.
    ///
    /// `keep` is called with the digest when it is known; when it says no, nothing becomes visible
    /// and the answer is [`BlobError::Unwanted`].
    fn finish(
        self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>>;

    /// The file that holds what was written so far, complete with all chunks whose `write` has
    /// ended, when there is one.
    fn local_path(&self) -> Option<&std::path::Path>;
}

/// The facts about a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobStat {
    /// Its name.
    pub digest: Digest,
    /// Its size.
    pub bytes: u64,
    /// When it was last written: young blobs are not swept, their record may be on its way.
    pub modified: SystemTime,
}

/// A blob cannot be written or read.
#[derive(Debug, Error)]
pub enum BlobError {
    /// There is none.
    #[error("there is no blob {0}")]
    Unknown(Digest),
    /// The bytes are not those that were stored.
    #[error("blob {0} is damaged: its bytes have another digest")]
    Damaged(Digest),
    /// More bytes than the reader takes.
    #[error("blob {digest} has {bytes} bytes, over the limit of {bytes_max}")]
    TooLarge {
        /// Which.
        digest: Digest,
        /// Its size.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// `keep` said no.
    #[error("blob {0} was not kept")]
    Unwanted(Digest),
    /// The disk is full.
    #[error("cannot {action}: no space is left")]
    NoSpace {
        /// The action that was attempted.
        action: String,
    },
    /// The storage failed.
    #[error("cannot {action}")]
    Storage {
        /// The action that was attempted.
        action: String,
        /// Why.
        source: io::Error,
    },
}
