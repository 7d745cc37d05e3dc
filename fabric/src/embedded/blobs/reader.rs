//! A blob as a stream. Its end is held back until the digest of all of it is known to be right.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use futures::stream;
use sha2::{Digest as _, Sha256};
use tokio_util::io::StreamReader;
use wasmill_protocol::Digest;

use super::gone::BlobReading;
use super::{PIECE_BYTES, missing_or};
use crate::BlobError;
use crate::blobs::BlobReader;

/// Opens it; `reading` is held until the reader is dropped.
pub(super) fn open(path: &Path, digest: Digest, reading: BlobReading) -> Result<BlobReader, BlobError> {
    let file = File::open(path).map_err(|error| missing_or(error, digest, "open"))?;
    let pieces = Pieces { file, digest, hasher: Sha256::new(), held: None, _reading: reading };
    // A reader that is slow keeps no thread: each piece is read when it is asked for.
    let stream = stream::try_unfold(Some(pieces), |pieces| async move {
        let Some(pieces) = pieces else { return Ok(None) };
        tokio::task::spawn_blocking(move || pieces.next()).await.map_err(io::Error::other)?
    });
    Ok(Box::new(StreamReader::new(Box::pin(stream))))
}

struct Pieces {
    file: File,
    digest: Digest,
    hasher: Sha256,
    /// The piece before the one that is read next: yielded once it is known not to be the last, or
    /// to be right.
    held: Option<Bytes>,
    _reading: BlobReading,
}

impl Pieces {
    fn next(mut self) -> io::Result<Option<(Bytes, Option<Self>)>> {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            (&mut self.file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
            if piece.is_empty() {
                if Digest(self.hasher.finalize().into()) != self.digest {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, BlobError::Damaged(self.digest)));
                }
                return Ok(self.held.map(|held| (held, None)));
            }
            self.hasher.update(&piece);
            if let Some(held) = self.held.replace(piece.into()) {
                return Ok(Some((held, Some(self))));
            }
        }
    }
}
