//! The object store itself.

use std::error::Error;
use std::time::SystemTime;

use async_nats::jetstream::object_store::{ObjectInfo, ObjectMetadata, ObjectStore};
use async_nats::jetstream::stream::{
    self, DeleteMessageErrorKind, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream,
};
use async_nats::jetstream::{Context, ErrorCode};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::io::AsyncRead;
use wasmill_protocol::Digest;

use crate::blobs::BlobReader;
use crate::{BlobError, BlobStat};

/// A bucket.
pub(super) struct Store {
    bucket: String,
    objects: ObjectStore,
    stream: Stream,
    chunk_bytes: usize,
}

impl Store {
    /// Opens the bucket, and creates it if there is none.
    ///
    /// It is created as the library would, but that replicas do not answer reads: they may be behind, and then a blob that was just
    /// stored would be unknown.
    pub(super) async fn open(
        context: Context,
        bucket: &str,
        replicas: usize,
        chunk_bytes: usize,
    ) -> Result<Self, BlobError> {
        let failed = |error: &dyn Error| failed(format!("open the object store `{bucket}`"), error);
        let stream = context
            .get_or_create_stream(stream::Config {
                name: format!("OBJ_{bucket}"),
                subjects: vec![format!("$O.{bucket}.C.>"), format!("$O.{bucket}.M.>")],
                storage: StorageType::File,
                num_replicas: replicas,
                discard: DiscardPolicy::New,
                allow_rollup: true,
                allow_direct: false,
                ..stream::Config::default()
            })
            .await
            .map_err(|error| failed(&error))?;
        let objects = context.get_object_store(bucket).await.map_err(|error| failed(&error))?;
        Ok(Self { bucket: bucket.to_owned(), objects, stream, chunk_bytes })
    }

    /// What is known of a blob.
    pub(super) async fn stat(&self, digest: Digest) -> Result<BlobStat, BlobError> {
        let (_, info) = self.info(digest).await?;
        stat(&info).ok_or(BlobError::Unknown(digest))
    }

    /// Its bytes; the caller verifies them.
    pub(super) async fn object(&self, digest: Digest) -> Result<BlobReader, BlobError> {
        self.info(digest).await?;
        let object = self.objects.get(digest.hex()).await;
        Ok(Box::new(object.map_err(|error| failed(format!("open blob {digest}"), &error))?))
    }

    /// Stores bytes that have this digest. Durable once the future has ended; visible as a whole or not at all.
    pub(super) async fn put(
        &self,
        digest: Digest,
        bytes: &mut (impl AsyncRead + Unpin),
    ) -> Result<BlobStat, BlobError> {
        let meta =
            ObjectMetadata { name: digest.hex(), chunk_size: Some(self.chunk_bytes), ..ObjectMetadata::default() };
        let put = self.objects.put(meta, bytes).await;
        let info = put.map_err(|error| failed(format!("store blob {digest}"), &error))?;
        stat(&info).ok_or(BlobError::Damaged(digest))
    }

    /// Removes a blob, if it was last written before `than`; whether there was one.
    ///
    /// What is removed is the very message that was looked at: when the blob is stored anew at the same time, that message has
    /// been replaced, and nothing is removed.
    pub(super) async fn delete(&self, digest: Digest, than: Option<SystemTime>) -> Result<bool, BlobError> {
        let action = || format!("remove blob {digest}");
        let (seq, info) = match self.info(digest).await {
            Err(BlobError::Unknown(_)) => return Ok(false),
            found => found?,
        };
        let young = |than| stat(&info).is_none_or(|stat| stat.modified >= than);
        if than.is_some_and(young) {
            return Ok(false);
        }
        match self.stream.delete_message(seq).await {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => match error.kind() {
                DeleteMessageErrorKind::JetStream(error) if error.error_code() != ErrorCode::INSUFFICIENT_RESOURCES => {
                    return Ok(false);
                }
                _ => return Err(failed(action(), &error)),
            },
        }
        let chunks = format!("$O.{}.C.{}", self.bucket, info.nuid);
        let purged = self.stream.purge().filter(chunks).await;
        purged.map_err(|error| failed(action(), &error))?;
        Ok(true)
    }

    /// Every blob. Objects whose names are no digests are somebody else's and are passed over.
    pub(super) async fn list(&self) -> Result<BoxStream<'_, Result<BlobStat, BlobError>>, BlobError> {
        let list = self.objects.list().await.map_err(|error| failed("list the blobs".to_owned(), &error))?;
        Ok(list
            .filter_map(async |info| match info {
                Ok(info) => stat(&info).map(Ok),
                Err(error) => Some(Err(failed("list the blobs".to_owned(), &error))),
            })
            .boxed())
    }

    /// What the newest message about a blob says, and the place of that message in the stream.
    async fn info(&self, digest: Digest) -> Result<(u64, ObjectInfo), BlobError> {
        let action = || format!("look at blob {digest}");
        let subject = format!("$O.{}.M.{}", self.bucket, URL_SAFE.encode(digest.hex()));
        let message = match self.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => message,
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                return Err(BlobError::Unknown(digest));
            }
            Err(error) => return Err(failed(action(), &error)),
        };
        let info: ObjectInfo = serde_json::from_slice(&message.payload).map_err(|error| failed(action(), &error))?;
        if info.deleted { Err(BlobError::Unknown(digest)) } else { Ok((message.sequence, info)) }
    }
}

fn stat(info: &ObjectInfo) -> Option<BlobStat> {
    let digest = format!("sha256:{}", info.name).parse().ok()?;
    let modified = info.modified.map(SystemTime::from)?;
    Some(BlobStat { digest, bytes: info.size as u64, modified })
}

/// The library wraps what the server said in several layers, and only the text goes through all of them.
fn failed(action: String, error: &dyn Error) -> BlobError {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason.push_str(": ");
        reason.push_str(&error.to_string());
        source = error.source();
    }
    let full = ["insufficient resources", "insufficient storage", "maximum bytes exceeded", "no space left"];
    if full.iter().any(|text| reason.contains(text)) {
        BlobError::NoSpace { action }
    } else {
        BlobError::Unreachable { action, reason }
    }
}
