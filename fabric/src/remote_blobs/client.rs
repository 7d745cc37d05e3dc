//! The host's side.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use futures::future::{self, BoxFuture};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;

use super::messages::{Answer, Ask, Failure, any, at, decode, encode};
use super::read::{Pieces, reader};
use super::write::RemoteWriter;
use super::{ANSWER_TIMEOUT, piece_bytes};
use crate::blobs::BlobReader;
use crate::{BlobError, BlobStat, BlobWriter, Blobs, Bus, BusError};

/// How often something is asked before it is given up.
const TRIES: u32 = 6;
/// The wait before the second try; doubles with each.
const RETRY: Duration = Duration::from_millis(100);

/// Blobs that control nodes keep.
#[derive(Clone)]
pub struct RemoteBlobs {
    bus: Arc<dyn Bus>,
    host: Arc<str>,
}

impl RemoteBlobs {
    /// Asks over `bus` in the name of `host`.
    pub fn new(bus: Arc<dyn Bus>, host: &str) -> Self {
        Self { bus, host: Arc::from(host) }
    }

    pub(super) fn piece_bytes(&self) -> usize {
        piece_bytes(&*self.bus)
    }

    /// Asks any control node, or the one named, until one answers.
    pub(super) async fn ask(
        &self,
        node: Option<&str>,
        ask: &Ask,
        action: &str,
    ) -> Result<Result<Answer, Failure>, BlobError> {
        let subject = node.map_or_else(|| any(&self.host), |node| at(node, &self.host));
        let request = encode(ask);
        let mut trouble = String::new();
        for tries in 0..TRIES {
            if tries > 0 {
                tokio::time::sleep(RETRY * (1 << tries)).await;
            }
            match self.bus.request(&subject, request.clone(), ANSWER_TIMEOUT).await {
                Ok(answer) => match decode(&answer) {
                    Ok(Answer::Failed(Failure::Busy)) => "the control node is busy".clone_into(&mut trouble),
                    Ok(Answer::Failed(failure)) => return Ok(Err(failure)),
                    Ok(answer) => return Ok(Ok(answer)),
                    Err(error) => return Err(failed(action, format!("cannot decode the answer: {error}"))),
                },
                Err(error @ BusError::TooLarge { .. }) => return Err(failed(action, error.to_string())),
                // The one node that has it is gone, and what it had with it.
                Err(BusError::NoSubscriber(_)) if node.is_some() => return Ok(Err(Failure::NoUpload)),
                Err(error) => trouble = error.to_string(),
            }
        }
        Err(failed(action, trouble))
    }

    pub(super) async fn piece(&self, digest: Digest, offset: u64) -> Result<(u64, Bytes), BlobError> {
        let action = format!("read blob {digest}");
        let ask = Ask::Read { digest, offset, bytes: self.piece_bytes() as u64 };
        match self.ask(None, &ask, &action).await? {
            Ok(Answer::Piece { total, data }) => Ok((total, data)),
            Ok(other) => Err(other.unexpected(&action)),
            Err(failure) => Err(failure.into_error(digest, &action)),
        }
    }

    async fn put_whole(&self, bytes: Bytes) -> Result<BlobStat, BlobError> {
        let digest = Digest(Sha256::digest(&bytes).into());
        let action = format!("store blob {digest}");
        if bytes.len() <= self.piece_bytes() {
            let stored = self.ask(None, &Ask::Put { data: bytes }, &action).await?;
            let stat = stored.map_err(|failure| failure.into_error(digest, &action))?.stat(&action)?;
            return if stat.digest == digest { Ok(stat) } else { Err(BlobError::Damaged(digest)) };
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let mut writer = Box::new(RemoteWriter::new(self.clone()));
            let written = match writer.send(bytes.clone()).await {
                Ok(()) => writer.finish(Box::new(|_| true)).await,
                Err(error) => Err(error),
            };
            match written {
                // The node that took it is gone: another one takes all of it.
                Err(BlobError::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound && tries < TRIES => {
                }
                written => return written,
            }
        }
    }

    async fn read_whole(&self, digest: Digest, bytes_max: u64) -> Result<Bytes, BlobError> {
        let mut pieces = Pieces::new(self.clone(), digest);
        let mut all = BytesMut::new();
        while let Some(piece) = pieces.next().await? {
            if pieces.total() > bytes_max {
                return Err(BlobError::TooLarge { digest, bytes: pieces.total(), bytes_max });
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

impl Blobs for RemoteBlobs {
    fn create(&self) -> BoxFuture<'_, Result<Box<dyn BlobWriter>, BlobError>> {
        let writer: Box<dyn BlobWriter> = Box::new(RemoteWriter::new(self.clone()));
        future::ready(Ok(writer)).boxed()
    }

    fn put(&self, bytes: Bytes) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        self.put_whole(bytes).boxed()
    }

    fn read(&self, digest: Digest, bytes_max: u64) -> BoxFuture<'_, Result<Bytes, BlobError>> {
        self.read_whole(digest, bytes_max).boxed()
    }

    fn open(&self, digest: Digest) -> BoxFuture<'_, Result<BlobReader, BlobError>> {
        reader(self.clone(), digest).boxed()
    }

    fn stat(&self, digest: Digest) -> BoxFuture<'_, Result<BlobStat, BlobError>> {
        async move {
            let action = format!("look at blob {digest}");
            let answer = self.ask(None, &Ask::Stat { digest }, &action).await?;
            answer.map_err(|failure| failure.into_error(digest, &action))?.stat(&action)
        }
        .boxed()
    }

    fn delete(&self, digest: Digest) -> BoxFuture<'_, Result<(), BlobError>> {
        future::ready(Err(forbidden(format!("remove blob {digest}")))).boxed()
    }

    fn delete_older(&self, digest: Digest, _than: SystemTime) -> BoxFuture<'_, Result<bool, BlobError>> {
        future::ready(Err(forbidden(format!("remove blob {digest}")))).boxed()
    }

    fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        stream::once(future::ready(Err(forbidden("list the blobs".to_owned())))).boxed()
    }

    fn local_path(&self, _digest: Digest) -> Option<PathBuf> {
        None
    }
}

pub(super) fn failed(action: &str, reason: String) -> BlobError {
    BlobError::Storage { action: action.to_owned(), source: io::Error::other(reason) }
}

fn forbidden(action: String) -> BlobError {
    let source = io::Error::new(io::ErrorKind::PermissionDenied, "hosts may store and read blobs, and nothing else");
    BlobError::Storage { action, source }
}
