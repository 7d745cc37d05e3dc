//! Writing a blob piece by piece, to one control node.

use std::path::Path;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;

use super::client::RemoteBlobs;
use super::messages::{Answer, Ask};
use crate::{BlobError, BlobStat, BlobWriter};

/// See [`BlobWriter`]. A node is asked when the first piece is full.
pub(super) struct RemoteWriter {
    blobs: RemoteBlobs,
    /// The node and the upload's number there.
    upload: Option<(String, u64)>,
    /// Less than a piece.
    buffer: BytesMut,
    sent: u64,
    hasher: Sha256,
}

impl RemoteWriter {
    pub(super) fn new(blobs: RemoteBlobs) -> Self {
        Self { blobs, upload: None, buffer: BytesMut::new(), sent: 0, hasher: Sha256::new() }
    }

    pub(super) async fn send(&mut self, mut chunk: Bytes) -> Result<(), BlobError> {
        self.hasher.update(&chunk);
        let piece_bytes = self.blobs.piece_bytes();
        while self.buffer.len() + chunk.len() > piece_bytes {
            let rest = chunk.split_to(piece_bytes - self.buffer.len());
            self.buffer.extend_from_slice(&rest);
            let piece = self.buffer.split().freeze();
            self.send_piece(piece).await?;
        }
        self.buffer.extend_from_slice(&chunk);
        Ok(())
    }

    async fn send_piece(&mut self, data: Bytes) -> Result<(), BlobError> {
        let action = format!("write bytes {} and later of a blob", self.sent);
        let (node, upload) = match &self.upload {
            Some(upload) => upload.clone(),
            None => match self.ask(None, &Ask::Begin, &action).await? {
                Answer::Begun { node, upload } => self.upload.insert((node, upload)).clone(),
                other => return Err(other.unexpected(&action)),
            },
        };
        let bytes = data.len() as u64;
        match self.ask(Some(&node), &Ask::Write { upload, offset: self.sent, data }, &action).await? {
            Answer::Done => self.sent += bytes,
            other => return Err(other.unexpected(&action)),
        }
        Ok(())
    }

    async fn ask(&self, node: Option<&str>, ask: &Ask, action: &str) -> Result<Answer, BlobError> {
        let answer = self.blobs.ask(node, ask, action).await?;
        answer.map_err(|failure| failure.into_error(Digest(self.hasher.clone().finalize().into()), action))
    }

    async fn store(mut self, keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>) -> Result<BlobStat, BlobError> {
        let digest = Digest(self.hasher.clone().finalize().into());
        let bytes = self.sent + self.buffer.len() as u64;
        if !keep(&BlobStat { digest, bytes, modified: SystemTime::now() }) {
            return Err(BlobError::Unwanted(digest));
        }
        let action = format!("store blob {digest}");
        let rest = self.buffer.split().freeze();
        let Some((node, upload)) = self.upload.clone() else {
            return self.ask(None, &Ask::Put { data: rest }, &action).await?.stat(&action);
        };
        if !rest.is_empty() {
            self.send_piece(rest).await?;
        }
        let stat = self.ask(Some(&node), &Ask::Finish { upload, digest }, &action).await?.stat(&action)?;
        // There is nothing left to abandon.
        self.upload = None;
        Ok(stat)
    }
}

impl BlobWriter for RemoteWriter {
    fn write(&mut self, chunk: Bytes) -> BoxFuture<'_, Result<(), BlobError>> {
        self.send(chunk).boxed()
    }

    fn finish(
        self: Box<Self>,
        keep: Box<dyn FnOnce(&BlobStat) -> bool + Send>,
    ) -> BoxFuture<'static, Result<BlobStat, BlobError>> {
        self.store(keep).boxed()
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        let Some((node, upload)) = self.upload.take() else { return };
        // The node drops what nobody touches, so this only makes it sooner.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let blobs = self.blobs.clone();
            runtime
                .spawn(async move { drop(blobs.ask(Some(&node), &Ask::Abandon { upload }, "abandon a blob").await) });
        }
    }
}
