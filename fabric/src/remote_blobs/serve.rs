//! The control node's side.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use wasmill_protocol::Digest;

use super::messages::{ANY, Answer, Ask, Failure, at, decode, encode};
use super::uploads::{UPLOAD_IDLE, Uploads};
use super::{PIECE_BYTES, piece_bytes};
use crate::{BlobError, Blobs, Bus, Message, Subscription};

/// Requests that wait to be looked at.
const REQUESTS_WAITING_MAX: usize = 256;
/// Requests that are being answered.
const REQUESTS_AT_ONCE_MAX: usize = 64;
/// The wait after a subscription has ended or could not be made.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

/// Serves blobs to hosts as control node `node`, until `shutdown` becomes true or its sender is
/// gone.
pub async fn serve_blobs(bus: Arc<dyn Bus>, blobs: Arc<dyn Blobs>, node: String, mut shutdown: watch::Receiver<bool>) {
    let server = Arc::new(Server { piece_bytes: piece_bytes(&*bus), blobs, node, uploads: Uploads::default() });
    let (mut any, mut ours) = (None, None);
    let mut answering = JoinSet::new();
    let permits = Arc::new(Semaphore::new(REQUESTS_AT_ONCE_MAX));
    let mut sweep = tokio::time::interval(UPLOAD_IDLE / 4);
    loop {
        let node = at(&server.node, "*");
        let message = tokio::select! {
            message = next(&mut any, || bus.subscribe_shared(ANY, REQUESTS_WAITING_MAX)) => message,
            message = next(&mut ours, || bus.subscribe(&node, REQUESTS_WAITING_MAX)) => message,
            Some(answered) = answering.join_next(), if !answering.is_empty() => {
                if let Err(error) = answered {
                    tracing::error!("answering a request for a blob has failed: {error}");
                }
                continue;
            }
            _ = sweep.tick() => {
                server.uploads.forget_idle();
                continue;
            }
            _ = shutdown.wait_for(|asked| *asked) => return,
        };
        let permit = Arc::clone(&permits).acquire_owned().await;
        let server = Arc::clone(&server);
        answering.spawn(async move {
            server.answer(message).await;
            drop(permit);
        });
    }
}

/// The next message; subscribes first where there is no subscription, and again where it has ended.
async fn next<F>(subscription: &mut Option<Subscription>, subscribe: impl Fn() -> F) -> Message
where
    F: Future<Output = Result<Subscription, crate::BusError>>,
{
    loop {
        if let Some(open) = subscription {
            match open.recv().await {
                Some(message) => return message,
                None => {
                    *subscription = None;
                    // The cause of its end may end the next one as well.
                    tokio::time::sleep(SUBSCRIBE_AGAIN).await;
                }
            }
        }
        match subscribe().await {
            Ok(subscribed) => *subscription = Some(subscribed),
            Err(error) => {
                tracing::warn!("cannot serve blobs at the moment: {error}");
                tokio::time::sleep(SUBSCRIBE_AGAIN).await;
            }
        }
    }
}

struct Server {
    blobs: Arc<dyn Blobs>,
    node: String,
    uploads: Uploads,
    piece_bytes: usize,
}

impl Server {
    async fn answer(&self, message: Message) {
        let Some(responder) = message.responder else { return };
        let host = message.subject.rsplit('.').next().unwrap_or_default();
        let answer = match decode::<Ask>(&message.content.into_bytes()) {
            Ok(ask) => self.carry_out(host, ask).await.unwrap_or_else(Answer::Failed),
            Err(error) => Answer::Failed(Failure::Other { reason: format!("cannot decode the request: {error}") }),
        };
        responder.respond(encode(&answer).into());
    }

    async fn carry_out(&self, host: &str, ask: Ask) -> Result<Answer, Failure> {
        match ask {
            Ask::Stat { digest } => Ok(self.blobs.stat(digest).await?.into()),
            Ask::Read { digest, offset, bytes } => {
                let bytes = usize::try_from(bytes).unwrap_or(PIECE_BYTES).min(self.piece_bytes);
                let (total, data) = self.read(digest, offset, bytes).await?;
                Ok(Answer::Piece { total, data })
            }
            Ask::Put { data } => Ok(self.blobs.put(data).await?.into()),
            Ask::Begin => {
                let writer = self.blobs.create().await?;
                let upload = self.uploads.begin(host, writer)?;
                Ok(Answer::Begun { node: self.node.clone(), upload })
            }
            Ask::Write { upload, offset, data } => {
                self.uploads.write(host, upload, offset, data).await?;
                Ok(Answer::Done)
            }
            Ask::Finish { upload, digest } => Ok(self.uploads.finish(host, upload, digest).await?.into()),
            Ask::Abandon { upload } => {
                self.uploads.abandon(host, upload);
                Ok(Answer::Done)
            }
        }
    }

    /// Some bytes of a blob, out of a file.
    async fn read(&self, digest: Digest, offset: u64, bytes: usize) -> Result<(u64, Bytes), BlobError> {
        if self.blobs.local_path(digest).is_none() {
            // Brings it here as a file, where blobs are kept as such.
            drop(self.blobs.open(digest).await?);
        }
        let Some(path) = self.blobs.local_path(digest) else {
            let all = self.blobs.read(digest, u64::MAX).await?;
            let begin = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            return Ok((all.len() as u64, all.slice(begin..all.len().min(begin + bytes))));
        };
        let read = move || -> std::io::Result<(u64, Bytes)> {
            let file = std::fs::File::open(path)?;
            let total = file.metadata()?.len();
            let rest = usize::try_from(total.saturating_sub(offset)).unwrap_or(usize::MAX);
            let mut data = vec![0; bytes.min(rest)];
            file.read_exact_at(&mut data, offset)?;
            Ok((total, data.into()))
        };
        let failed = |source| BlobError::Storage { action: format!("read blob {digest}"), source };
        let read = tokio::task::spawn_blocking(read).await;
        read.map_err(|error| failed(std::io::Error::other(error)))?.map_err(failed)
    }
}
