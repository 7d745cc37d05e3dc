//! Reading a blob chunk by chunk, each by a request of its own: nothing of the reader stays on the
//! servers.

use std::io;
use std::time::Duration;

use async_nats::jetstream::object_store::ObjectInfo;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use bytes::Bytes;
use futures::stream;
use tokio::time::Instant;
use tokio_util::io::StreamReader;
use wasmill_protocol::Digest;

use super::objects::chunks_subject;
use super::store::READ_TIMEOUT;
use crate::blobs::BlobReader;
use crate::cluster::error::chain;

/// The wait before a chunk is asked for again that was not answered.
const RETRY: Duration = Duration::from_millis(200);

/// The chunks that are left to read.
struct Chunks {
    stream: Stream,
    digest: Digest,
    subject: String,
    /// The next one is at this place or later.
    from: u64,
    left: usize,
}

/// The chunks of a blob one after the other.
pub(super) fn reader(stream: &Stream, digest: Digest, bucket: &str, info: &ObjectInfo) -> BlobReader {
    let subject = chunks_subject(bucket, &info.nuid);
    let chunks = Chunks { stream: stream.clone(), digest, subject, from: 1, left: info.chunks };
    let chunks = stream::try_unfold(chunks, |mut chunks| async move {
        if chunks.left == 0 {
            return Ok(None);
        }
        let chunk = chunks.next().await?;
        Ok::<_, io::Error>(Some((chunk, chunks)))
    });
    Box::new(StreamReader::new(Box::pin(chunks)))
}

impl Chunks {
    /// The next one. A server that does not answer is asked again: another one may take its place.
    async fn next(&mut self) -> io::Result<Bytes> {
        let deadline = Instant::now() + READ_TIMEOUT;
        loop {
            let reason = match self.stream.get_first_raw_message_by_subject(&self.subject, self.from).await {
                Ok(message) => {
                    self.from = message.sequence + 1;
                    self.left -= 1;
                    return Ok(message.payload);
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {
                    let missing = format!("{} chunks of blob {} are not there", self.left, self.digest);
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, missing));
                }
                Err(error) => chain(&error),
            };
            if Instant::now() + RETRY >= deadline {
                return Err(io::Error::other(reason));
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
