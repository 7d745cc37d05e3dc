//! Reading a blob piece by piece. Its end is held back until the digest of all of it is known to be
//! right.

use std::io;

use bytes::Bytes;
use futures::stream;
use sha2::{Digest as _, Sha256};
use tokio_util::io::StreamReader;
use wasmill_protocol::Digest;

use super::client::RemoteBlobs;
use crate::BlobError;
use crate::blobs::BlobReader;

/// The rest of a blob that is being read.
pub(super) struct Pieces {
    blobs: RemoteBlobs,
    digest: Digest,
    total: u64,
    offset: u64,
    hasher: Sha256,
    done: bool,
}

impl Pieces {
    pub(super) fn new(blobs: RemoteBlobs, digest: Digest) -> Self {
        Self { blobs, digest, total: 0, offset: 0, hasher: Sha256::new(), done: false }
    }

    /// How many bytes there are in all; known after the first piece.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The next piece. The last one comes only when all of them together have the right digest.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        if self.done {
            return Ok(None);
        }
        let (total, piece) = self.blobs.piece(self.digest, self.offset).await?;
        let is_first = self.offset == 0;
        if !is_first && total != self.total {
            return Err(BlobError::Damaged(self.digest));
        }
        self.total = total;
        self.offset += piece.len() as u64;
        self.hasher.update(&piece);
        if self.offset >= self.total {
            self.done = true;
            if Digest(self.hasher.clone().finalize().into()) != self.digest {
                return Err(BlobError::Damaged(self.digest));
            }
        } else if piece.is_empty() {
            // It would go on for ever.
            return Err(BlobError::Damaged(self.digest));
        }
        Ok(Some(piece))
    }
}

/// A blob as a stream. Whether it is there is known before it begins.
pub(super) async fn reader(blobs: RemoteBlobs, digest: Digest) -> Result<BlobReader, BlobError> {
    let mut pieces = Pieces::new(blobs, digest);
    let first = pieces.next().await?;
    let stream = stream::try_unfold((first, pieces), |(piece, mut pieces)| async move {
        let piece = match piece {
            Some(piece) => Some(piece),
            None => pieces.next().await.map_err(as_io)?,
        };
        Ok::<_, io::Error>(piece.map(|piece| (piece, (None, pieces))))
    });
    Ok(Box::new(StreamReader::new(Box::pin(stream))))
}

fn as_io(error: BlobError) -> io::Error {
    let kind = match &error {
        BlobError::Damaged(_) => io::ErrorKind::InvalidData,
        BlobError::Unknown(_) => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, error)
}
