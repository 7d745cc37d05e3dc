//! The side of a control node.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::io::AsyncReadExt;
use tokio::sync::{Semaphore, watch};
use wasmill_protocol::message::blobs::{self as words, BlobAnswer, BlobRequest};
use wasmill_protocol::{Digest, Timestamp};

use super::uploads::Uploads;
use super::{encode, piece_bytes};
use crate::{BlobError, BlobStat, Blobs, Bus, BusError, Message, Subscription};

/// Requests that wait at most; hosts ask again.
const REQUESTS_WAITING_MAX: usize = 1024;
/// Requests that are answered at the same time.
const REQUESTS_AT_ONCE_MAX: usize = 64;
/// How often uploads that nobody goes on with are looked for.
const IDLE_CHECK: Duration = Duration::from_secs(10);

/// What a control node serves blobs with.
#[derive(Debug, Clone)]
pub struct ServeBlobsConfig {
    /// The node, as it is named in subjects: letters, digits, `-` and `_`.
    pub node: String,
    /// The largest blob that a host may store, in bytes.
    pub blob_bytes_max: u64,
}

/// Serves hosts until `shutdown` becomes true.
///
/// # Errors
///
/// The bus does not take the subscriptions.
pub async fn serve_blobs(
    config: ServeBlobsConfig,
    bus: Arc<dyn Bus>,
    blobs: Arc<dyn Blobs>,
    mut shutdown: watch::Receiver<bool>,
) -> Result<(), BusError> {
    let own = words::all_at(&config.node);
    let (mut any, mut at) = listen(&*bus, &own).await?;
    let piece_bytes = piece_bytes(bus.payload_bytes_max());
    let server = Arc::new(Server { config, blobs, uploads: Uploads::default(), piece_bytes });
    let room = Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX));
    let mut idle = tokio::time::interval(IDLE_CHECK);
    loop {
        let message = tokio::select! {
            message = any.recv() => message,
            message = at.recv() => message,
            _ = idle.tick() => {
                server.uploads.drop_idle();
                continue;
            }
            _ = shutdown.wait_for(|stop| *stop) => return Ok(()),
        };
        let Some(message) = message else {
            // The bus has ended a subscription because we were too slow: hosts ask again.
            (any, at) = listen(&*bus, &own).await?;
            continue;
        };
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { unreachable!("nobody closes the semaphore") };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            server.answer(message).await;
            drop(permit);
        });
    }
}

async fn listen(bus: &dyn Bus, own: &str) -> Result<(Subscription, Subscription), BusError> {
    let any = bus.subscribe_shared(words::ANY, REQUESTS_WAITING_MAX).await?;
    Ok((any, bus.subscribe(own, REQUESTS_WAITING_MAX).await?))
}

struct Server {
    config: ServeBlobsConfig,
    blobs: Arc<dyn Blobs>,
    uploads: Uploads,
    piece_bytes: usize,
}

impl Server {
    async fn answer(&self, message: Message) {
        let Some(responder) = message.responder else { return };
        // The bus lets a host send to subjects that end in its own id only.
        let host = message.subject.rsplit('.').next().unwrap_or_default();
        let answer = match rmp_serde::from_slice(&message.payload) {
            Ok(request) => self.decide(host, request).await.unwrap_or_else(failure),
            Err(error) => BlobAnswer::Failed { reason: format!("the request is not readable: {error}") },
        };
        responder.respond(encode(&answer));
    }

    async fn decide(&self, host: &str, request: BlobRequest) -> Result<BlobAnswer, BlobError> {
        let bytes_max = self.config.blob_bytes_max;
        match request {
            BlobRequest::Stat { digest } => Ok(stat(&self.blobs.stat(digest).await?)),
            BlobRequest::Read { digest, offset, bytes_max } => {
                let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(self.piece_bytes);
                let (bytes, data) = self.piece(digest, offset, bytes_max).await?;
                Ok(BlobAnswer::Piece { bytes, data })
            }
            BlobRequest::Put { data } if data.len() as u64 > bytes_max => Ok(BlobAnswer::TooLarge { bytes_max }),
            BlobRequest::Put { data } => Ok(stat(&self.blobs.put(data).await?)),
            BlobRequest::Begin => Ok(match self.uploads.begin(host, &*self.blobs).await? {
                Some(upload) => BlobAnswer::Begun { node: self.config.node.clone(), upload },
                None => BlobAnswer::Busy,
            }),
            BlobRequest::Write { upload, offset, data } => {
                self.uploads.write(host, upload, offset, data, bytes_max).await
            }
            BlobRequest::Finish { upload, digest } => self.uploads.finish(host, upload, digest).await,
        }
    }

    /// The size of a blob, and some of its bytes. Opening it brings it into a file of this machine where the store has such files, and further
    /// pieces are read from that.
    async fn piece(&self, digest: Digest, offset: u64, bytes_max: usize) -> Result<(u64, Bytes), BlobError> {
        let mut reader = match self.blobs.local_path(digest) {
            Some(path) => return file_piece(path, digest, offset, bytes_max).await,
            None => self.blobs.open(digest).await?,
        };
        if let Some(path) = self.blobs.local_path(digest) {
            return file_piece(path, digest, offset, bytes_max).await;
        }
        let bytes = self.blobs.stat(digest).await?.bytes;
        let failed = |source| BlobError::Storage { action: format!("read blob {digest}"), source };
        let mut before = (&mut reader).take(offset);
        tokio::io::copy(&mut before, &mut tokio::io::sink()).await.map_err(failed)?;
        let mut piece = Vec::new();
        reader.take(bytes_max as u64).read_to_end(&mut piece).await.map_err(failed)?;
        Ok((bytes, piece.into()))
    }
}

async fn file_piece(path: PathBuf, digest: Digest, offset: u64, bytes_max: usize) -> Result<(u64, Bytes), BlobError> {
    let read = move || -> io::Result<(u64, Bytes)> {
        let mut file = File::open(path)?;
        let bytes = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset))?;
        let mut piece = Vec::new();
        file.take(bytes_max as u64).read_to_end(&mut piece)?;
        Ok((bytes, piece.into()))
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(io::Error::other).and_then(|read| read);
    read.map_err(|source| BlobError::Storage { action: format!("read blob {digest}"), source })
}

pub(super) fn stat(stat: &BlobStat) -> BlobAnswer {
    let modified_us = stat.modified.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let modified = Timestamp(u64::try_from(modified_us).unwrap_or(u64::MAX));
    BlobAnswer::Stat { digest: stat.digest, bytes: stat.bytes, modified }
}

/// When a blob was last written, as it travels.
pub(super) fn modified(at: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(at.0)
}

fn failure(error: BlobError) -> BlobAnswer {
    match error {
        BlobError::Unknown(_) => BlobAnswer::Unknown,
        BlobError::Damaged(_) => BlobAnswer::Damaged,
        BlobError::NoSpace { .. } => BlobAnswer::NoSpace,
        BlobError::TooLarge { bytes_max, .. } => BlobAnswer::TooLarge { bytes_max },
        error => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a host's request about a blob has failed");
            BlobAnswer::Failed { reason: error.to_string() }
        }
    }
}
