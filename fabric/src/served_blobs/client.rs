//! The side of a host.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};
use tokio_util::io::StreamReader;
use wasmill_protocol::message::blobs::{self as words, BlobAnswer, BlobRequest};
use wasmill_protocol::{Digest, HostId};

use super::{encode, piece_bytes, server};
use crate::blobs::BlobReader;
use crate::{BlobError, BlobStat, BlobWriter, Blobs, Bus};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often something is asked; every request may be asked twice.
const TRIES_MAX: u32 = 4;
/// The wait before the second try; doubles with each.
const RETRY: Duration = Duration::from_millis(100);

/// Blobs as a host sees them: it reads and stores, and neither lists nor removes.
#[derive(Clone)]
pub struct ServedBlobs {
    bus: Arc<dyn Bus>,
    host: HostId,
    piece_bytes: usize,
}

impl ServedBlobs {
    /// Asks as this host.
    pub fn new(bus: Arc<dyn Bus>, host: HostId) -> Self {
        let piece_bytes = piece_bytes(bus.payload_bytes_max());
        Self { bus, host, piece_bytes }
    }

    /// Asks until there is an answer, for a bounded time.
    async fn ask(&self, subject: &str, request: &BlobRequest, action: &str) -> Result<BlobAnswer, BlobError> {
        let (payload, mut tries, mut wait) = (encode(request), 1, RETRY);
        let unreachable = |reason| BlobError::Unreachable { action: action.to_owned(), reason };
        loop {
            let reason = match self.bus.request(subject, payload.clone(), REQUEST_TIMEOUT).await {
                Ok(answer) => match rmp_serde::from_slice(&answer) {
                    Ok(BlobAnswer::Busy) => "too many uploads are under way".to_owned(),
                    Ok(answer) => return Ok(answer),
                    Err(error) => return Err(unreachable(format!("the answer is not readable: {error}"))),
                },
                Err(error) => error.to_string(),
            };
            if tries >= TRIES_MAX {
                return Err(unreachable(reason));
            }
            tokio::time::sleep(wait).await;
            (tries, wait) = (tries + 1, wait * 2);
        }
    }

    async fn ask_any(&self, request: &BlobRequest, action: &str) -> Result<BlobAnswer, BlobError> {
        self.ask(&words::any(&self.host), request, action).await
    }

    /// The size of a blob, and the bytes from `offset` on that one message carries.
    async fn piece(&self, digest: Digest, offset: u64) -> Result<(u64, Bytes), BlobError> {
        let request = BlobRequest::Read { digest, offset, bytes_max: self.piece_bytes as u64 };
        let action = format!("read blob {digest}");
        match self.ask_any(&request, &action).await? {
            BlobAnswer::Piece { bytes, data } => Ok((bytes, data)),
            answer => Err(refused(answer, action, Some(digest))),
        }
    }

    async fn read_all(&self, digest: Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        let (bytes, first) = self.piece(digest, 0).await?;
        if bytes > bytes_max {
            return Err(BlobError::TooLarge { digest, bytes, bytes_max });
        }
        let mut read = BytesMut::from(first);
        while (read.len() as u64) < bytes {
            let (_, data) = self.piece(digest, read.len() as u64).await?;
            if data.is_empty() {
                break;
            }
            read.extend_from_slice(&data);
        }
        let read = read.freeze();
        if Digest(Sha256::digest(&read).into()) == digest { Ok(read) } else { Err(BlobError::Damaged(digest)) }
    }

    async fn put_small(&self, data: Bytes) -> Result<BlobStat, BlobError> {
        let digest = Digest(Sha256::digest(&data).into());
        let action = format!("store blob {digest}");
        let answer = self.ask_any(&BlobRequest::Put { data }, &action).await?;
        stored(answer, action, digest)
    }

    /// An upload goes to one node and begins anew on another one when that dies.
    async fn put_large(&self, data: Bytes) -> Result<BlobStat, BlobError> {
        let mut tries = 1;
        loop {
            let mut writer = Upload::begin(self.clone()).await?;
            let written = writer.write(data.clone()).await;
            let stored = match written {
                Ok(()) => Box::new(writer).finish(Box::new(|_| true)).await,
                Err(error) => Err(error),
            };
            match stored {
                Err(BlobError::Unreachable { .. }) if tries < TRIES_MAX => tries += 1,
                stored => return stored,
            }
        }
    }
}

impl Blobs for ServedBlobs {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        async move { Ok(Box::new(Upload::begin(self.clone()).await?) as Box<dyn BlobWriter>) }.boxed()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        if bytes.len() <= self.piece_bytes { self.put_small(bytes).boxed() } else { self.put_large(bytes).boxed() }
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.read_all(digest, bytes_max).boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        async move {
            let (bytes, first) = self.piece(digest, 0).await?;
            let pieces =
                Pieces { blobs: self.clone(), digest, bytes, read: 0, next: Some(first), hasher: Sha256::new() };
            let stream = stream::try_unfold(pieces, Pieces::next);
            Ok(Box::new(StreamReader::new(Box::pin(stream))) as BlobReader)
        }
        .boxed()
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        async move {
            let action = format!("look at blob {digest}");
            let answer = self.ask_any(&BlobRequest::Stat { digest }, &action).await?;
            stored(answer, action, digest)
        }
        .boxed()
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        future::ready(Err(forbidden(format!("remove blob {digest}")))).boxed()
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        stream::iter([Err(forbidden("list the blobs".to_owned()))]).boxed()
    }

    fn local_path(&self, _digest: Digest) -> Option<PathBuf> {
        None
    }
}

/// A blob being read. Its last piece is held back until the digest of all is known to be right.
struct Pieces {
    blobs: ServedBlobs,
    digest: Digest,
    bytes: u64,
    read: u64,
    next: Option<Bytes>,
    hasher: Sha256,
}

impl Pieces {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let Some(piece) = self.next.take() else { return Ok(None) };
        self.read += piece.len() as u64;
        self.hasher.update(&piece);
        if self.read < self.bytes && !piece.is_empty() {
            let (_, next) = self.blobs.piece(self.digest, self.read).await.map_err(io::Error::other)?;
            self.next = Some(next);
        } else if Digest(self.hasher.finalize_reset().into()) != self.digest {
            return Err(io::Error::new(io::ErrorKind::InvalidData, BlobError::Damaged(self.digest)));
        }
        Ok(Some((piece, self)))
    }
}

/// A blob being written, on one node.
struct Upload {
    blobs: ServedBlobs,
    subject: String,
    number: u64,
    /// What was sent.
    sent: u64,
    /// What gathers to a piece.
    buffer: BytesMut,
    hasher: Sha256,
}

impl Upload {
    async fn begin(blobs: ServedBlobs) -> Result<Self, BlobError> {
        let action = "begin to store a blob".to_owned();
        match blobs.ask_any(&BlobRequest::Begin, &action).await? {
            BlobAnswer::Begun { node, upload } => {
                let subject = words::at(&node, &blobs.host);
                let (buffer, hasher) = (BytesMut::new(), Sha256::new());
                Ok(Self { blobs, subject, number: upload, sent: 0, buffer, hasher })
            }
            answer => Err(refused(answer, action, None)),
        }
    }

    /// Sends what has gathered, in whole pieces, and the rest too when it is the end.
    async fn send(&mut self, end: End) -> Result<(), BlobError> {
        let piece_bytes = self.blobs.piece_bytes;
        while self.buffer.len() >= piece_bytes || (end == End::Reached && !self.buffer.is_empty()) {
            let data = self.buffer.split_to(piece_bytes.min(self.buffer.len())).freeze();
            let bytes = data.len() as u64;
            let request = BlobRequest::Write { upload: self.number, offset: self.sent, data };
            let action = format!("write bytes {} and later of a blob", self.sent);
            match self.blobs.ask(&self.subject, &request, &action).await? {
                BlobAnswer::Written => self.sent += bytes,
                answer => return Err(refused(answer, action, None)),
            }
        }
        Ok(())
    }
}

/// Whether more bytes come.
#[derive(PartialEq, Eq)]
enum End {
    Ahead,
    Reached,
}

impl BlobWriter for Upload {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.hasher.update(&chunk);
        self.buffer.extend_from_slice(&chunk);
        self.send(End::Ahead).boxed()
    }

    fn finish(
        mut self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>> {
        async move {
            self.send(End::Reached).await?;
            let digest = Digest(self.hasher.finalize_reset().into());
            let stat = BlobStat { digest, bytes: self.sent, modified: std::time::SystemTime::now() };
            if !keep(&stat) {
                // The node drops what nobody finishes.
                return Err(BlobError::Unwanted(digest));
            }
            let action = format!("store blob {digest}");
            let request = BlobRequest::Finish { upload: self.number, digest };
            stored(self.blobs.ask(&self.subject, &request, &action).await?, action, digest)
        }
        .boxed()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }
}

fn stored(answer: BlobAnswer, action: String, digest: Digest) -> Result<BlobStat, BlobError> {
    match answer {
        BlobAnswer::Stat { digest: found, bytes, modified } if found == digest => {
            Ok(BlobStat { digest, bytes, modified: server::modified(modified) })
        }
        BlobAnswer::Stat { .. } => Err(BlobError::Damaged(digest)),
        answer => Err(refused(answer, action, Some(digest))),
    }
}

fn refused(answer: BlobAnswer, action: String, digest: Option<Digest>) -> BlobError {
    let reason = match (answer, digest) {
        (BlobAnswer::Unknown, Some(digest)) => return BlobError::Unknown(digest),
        (BlobAnswer::Damaged, Some(digest)) => return BlobError::Damaged(digest),
        (BlobAnswer::NoSpace, _) => return BlobError::NoSpace { action },
        (BlobAnswer::Failed { reason }, _) => reason,
        (BlobAnswer::UploadUnknown, _) => "the control node does not know the upload any more".to_owned(),
        (BlobAnswer::TooLarge { bytes_max }, _) => {
            let source = io::Error::other(format!("a blob has at most {bytes_max} bytes"));
            return BlobError::Storage { action, source };
        }
        (answer, _) => {
            return BlobError::Storage { action, source: io::Error::other(format!("unexpected answer {answer:?}")) };
        }
    };
    BlobError::Unreachable { action, reason }
}

fn forbidden(action: String) -> BlobError {
    let source = io::Error::new(io::ErrorKind::PermissionDenied, "only control nodes may");
    BlobError::Storage { action, source }
}
