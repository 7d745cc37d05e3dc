//! Sending the chunks of a blob. Until something describes them they are nothing.

use std::io;

use async_nats::jetstream::context::PublishError;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::io::{AsyncRead, AsyncReadExt};
use wasmill_protocol::Digest;

use super::objects::chunks_subject;
use super::store::{Store, failed};
use crate::BlobError;

/// Chunks that are sent and not acknowledged.
const CHUNKS_IN_FLIGHT_MAX: usize = 8;

/// Chunks that are stored.
pub(super) struct Upload {
    /// Names no other upload.
    pub(super) name: String,
    /// How many.
    pub(super) chunks: usize,
}

impl Store {
    /// Sends the chunks of a new upload.
    pub(super) async fn upload(
        &self,
        digest: Digest,
        source: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<Upload, BlobError> {
        let name = draw_name(digest)?;
        let subject = chunks_subject(&self.bucket, &name);
        match self.send_chunks(digest, &subject, source).await {
            Ok(chunks) => Ok(Upload { name, chunks }),
            Err(error) => {
                // Nothing describes them; the error that is told is the first one.
                let _ = self.purge_chunks(&name).await;
                Err(error)
            }
        }
    }

    async fn send_chunks(
        &self,
        digest: Digest,
        subject: &str,
        source: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<usize, BlobError> {
        let action = || format!("store blob {digest}");
        let mut in_flight = FuturesOrdered::new();
        let mut chunks = 0;
        loop {
            let chunk = next_chunk(source, self.chunk_bytes()).await;
            let chunk = chunk.map_err(|source| BlobError::Storage { action: action(), source })?;
            if chunk.is_empty() {
                break;
            }
            if in_flight.len() >= CHUNKS_IN_FLIGHT_MAX {
                acknowledged(in_flight.next().await, &action)?;
            }
            self.connected(&action)?;
            let sent = self.context.publish(subject.to_owned(), chunk).await;
            in_flight.push_back(sent.map_err(|error| failed(action(), &error))?.into_future());
            chunks += 1;
        }
        while let Some(answer) = in_flight.next().await {
            acknowledged(Some(answer), &action)?;
        }
        Ok(chunks)
    }
}

fn draw_name(digest: Digest) -> Result<String, BlobError> {
    let mut name = [0; 16];
    let drawn = getrandom::fill(&mut name);
    drawn.map_err(|error| BlobError::Storage { action: format!("name blob {digest}"), source: error.into() })?;
    Ok(format!("{:032x}", u128::from_le_bytes(name)))
}

/// The next `bytes` bytes, fewer at the end.
async fn next_chunk(source: &mut (dyn AsyncRead + Send + Unpin), bytes: usize) -> io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(bytes);
    while chunk.len() < bytes {
        let mut rest = (&mut *source).take((bytes - chunk.len()) as u64);
        if rest.read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

fn acknowledged<T>(answer: Option<Result<T, PublishError>>, action: &dyn Fn() -> String) -> Result<(), BlobError> {
    match answer {
        Some(Err(error)) => Err(failed(action(), &error)),
        Some(Ok(_)) | None => Ok(()),
    }
}
