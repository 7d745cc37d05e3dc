//! The object store. A description is only ever written on top of the one that was seen, so that a
//! blob that is being stored anew is never removed, and none is described whose chunks are gone.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_ROLLUP};
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{Context, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::object_store::{GetErrorKind, ObjectInfo, ObjectStore};
use async_nats::jetstream::stream::{Config, DiscardPolicy, LastRawMessageErrorKind, StorageType, Stream};
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use wasmill_protocol::Digest;

use super::chunks;
use super::objects::{
    chunks_subject, describe, meta_subject, stat, stored_again, stream_name, subjects, was_stored_again,
};
use super::orphans::{ORPHAN_AGE, Orphans};
use super::upload::Upload;
use crate::blobs::{BlobReader, UNNEEDED_AGAIN_AGE_MIN};
use crate::cluster::error::{ConnectError, cannot_open, chain, refusal};
use crate::cluster::nats::Nats;
use crate::{BlobError, BlobStat};

/// A chunk is this large, unless the servers take less.
const CHUNK_BYTES: usize = 256 * 1024;
/// How long the next part of a blob may take to come.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(15);
/// A stored blob must be this old before it may go for want of references: the clocks of
/// control nodes differ a little.
const ONCE_AGE_MIN: Duration = Duration::from_secs(5);
/// A blob of as many chunks is asked for chunk by chunk. A larger one is read by a consumer, which
/// is faster and stays on the servers for a while.
const CHUNKS_ASKED_FOR_MAX: usize = 16;
/// How often a description is written while others write the same one.
const TRIES: u32 = 8;

/// One bucket.
pub(in crate::cluster) struct Store {
    nats: Nats,
    pub(super) context: Context,
    stream: Stream,
    objects: ObjectStore,
    pub(super) bucket: String,
}

/// The settings that a bucket is made with.
pub(in crate::cluster) struct StoreOptions {
    /// Its name.
    pub(in crate::cluster) bucket: String,
    /// How many servers keep it.
    pub(in crate::cluster) replicas: usize,
    /// The servers, for people.
    pub(in crate::cluster) urls: Vec<String>,
}

/// A description, and where it stands.
struct Meta {
    seq: u64,
    info: ObjectInfo,
}

/// Finds the bucket, or makes it where `may_create`.
pub(in crate::cluster) async fn open_or_create(
    nats: Nats,
    context: Context,
    options: StoreOptions,
    may_create: bool,
) -> Result<Option<Store>, ConnectError> {
    let StoreOptions { bucket, replicas, urls } = options;
    let failed = |error: &dyn std::error::Error| cannot_open("open the object store of the blobs", &urls, error);
    let stream = match context.get_stream(stream_name(&bucket)).await {
        Ok(stream) => stream,
        Err(error) if refusal(&error) != Some(ErrorCode::STREAM_NOT_FOUND) => return Err(failed(&error)),
        Err(_) if !may_create => return Ok(None),
        Err(_) => match context.create_stream(config(&bucket, replicas)).await {
            Ok(stream) => stream,
            // Another control node was faster.
            Err(error) if refusal(&error) == Some(ErrorCode::STREAM_NAME_EXIST) => {
                context.get_stream(stream_name(&bucket)).await.map_err(|error| failed(&error))?
            }
            Err(error) => return Err(failed(&error)),
        },
    };
    let objects = context.get_object_store(&bucket).await.map_err(|error| failed(&error))?;
    Ok(Some(Store { nats, context, stream, objects, bucket }))
}

fn config(bucket: &str, replicas: usize) -> Config {
    Config {
        name: stream_name(bucket),
        subjects: subjects(bucket),
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        num_replicas: replicas,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        allow_rollup: true,
        // A copy that has fallen behind would not know what was just stored.
        allow_direct: false,
        ..Config::default()
    }
}

impl Store {
    pub(super) async fn stat(&self, digest: Digest) -> Result<BlobStat, BlobError> {
        let meta = self.meta(digest).await?;
        meta.and_then(|meta| stat(&meta.info)).ok_or(BlobError::Unknown(digest))
    }

    /// The bytes as they come; whoever reads them verifies them.
    pub(super) async fn open(&self, digest: Digest) -> Result<BlobReader, BlobError> {
        let meta = self.meta(digest).await?.filter(|meta| !meta.info.deleted).ok_or(BlobError::Unknown(digest))?;
        if meta.info.chunks <= CHUNKS_ASKED_FOR_MAX {
            return Ok(chunks::reader(&self.stream, digest, &self.bucket, &meta.info));
        }
        match self.objects.get(digest.hex()).await {
            Ok(object) => Ok(Box::new(object)),
            Err(error) if error.kind() == GetErrorKind::NotFound => Err(BlobError::Unknown(digest)),
            Err(error) => Err(failed(format!("open blob {digest}"), &error)),
        }
    }

    /// Stores `bytes` bytes of `source` under their digest; or makes the blob young, when it is
    /// there already and whole.
    pub(super) async fn put(
        &self,
        digest: Digest,
        bytes: u64,
        source: &mut (dyn AsyncRead + Send + Unpin),
    ) -> Result<BlobStat, BlobError> {
        let mut upload = None;
        for _ in 0..TRIES {
            let found = self.meta(digest).await?;
            let stat = BlobStat { digest, bytes, modified: SystemTime::now() };
            if let Some(meta) = &found
                && self.is_whole(meta, bytes).await?
            {
                let young = stored_again(&meta.info, stat.modified);
                if self.describe(digest, &young, meta.seq).await?.is_some() {
                    // Another upload was faster than ours.
                    self.purge_upload(upload).await?;
                    return Ok(stat);
                }
                continue;
            }
            let Some(Upload { name, chunks }) = &upload else {
                upload = Some(self.upload(digest, source).await?);
                continue;
            };
            let info = describe(&self.bucket, &stat, name, *chunks, self.chunk_bytes());
            if self.describe(digest, &info, found.as_ref().map_or(0, |meta| meta.seq)).await?.is_some() {
                if let Some(meta) = found {
                    // It was not whole.
                    self.purge_chunks(&meta.info.nuid).await?;
                }
                return Ok(stat);
            }
        }
        self.purge_upload(upload).await?;
        Err(written_all_the_time(format!("store blob {digest}")))
    }

    /// How old a blob that nothing refers to must be before it may go, when it is there.
    pub(super) async fn unneeded_age_min(&self, digest: Digest) -> Result<Option<Duration>, BlobError> {
        let meta = self.meta(digest).await?;
        let age_min = |meta: Meta| if was_stored_again(&meta.info) { UNNEEDED_AGAIN_AGE_MIN } else { ONCE_AGE_MIN };
        Ok(meta.filter(|meta| !meta.info.deleted).map(age_min))
    }

    /// Removes a blob, if it was last written before `than`; whether it was removed.
    pub(super) async fn delete_older(&self, digest: Digest, than: Option<SystemTime>) -> Result<bool, BlobError> {
        for _ in 0..TRIES {
            let Some(meta) = self.meta(digest).await? else { return Ok(false) };
            let Some(found) = stat(&meta.info) else { return Ok(false) };
            if than.is_some_and(|than| found.modified >= than) {
                return Ok(false);
            }
            let gone = ObjectInfo { deleted: true, size: 0, chunks: 0, ..meta.info.clone() };
            if let Some(seq) = self.describe(digest, &gone, meta.seq).await? {
                self.purge_chunks(&meta.info.nuid).await?;
                // The mark that it is gone has done its work: nobody can have seen the description
                // before it any more.
                let purge = self.stream.purge().filter(meta_subject(&self.bucket, digest)).sequence(seq + 1);
                purge.await.map_err(|error| failed(format!("remove blob {digest}"), &error))?;
                return Ok(true);
            }
        }
        Err(written_all_the_time(format!("remove blob {digest}")))
    }

    pub(super) async fn list(&self) -> BoxStream<'_, Result<BlobStat, BlobError>> {
        let action = || "list the blobs".to_owned();
        match self.objects.list().await {
            Ok(list) => list
                .map_err(move |error| failed(action(), &error))
                .try_filter_map(|info| std::future::ready(Ok(stat(&info))))
                .boxed(),
            Err(error) => stream::once(std::future::ready(Err(failed(action(), &error)))).boxed(),
        }
    }

    async fn meta(&self, digest: Digest) -> Result<Option<Meta>, BlobError> {
        let action = || format!("look at blob {digest}");
        let found = self.stream.get_last_raw_message_by_subject(&meta_subject(&self.bucket, digest)).await;
        match found {
            Ok(message) => match serde_json::from_slice(&message.payload) {
                Ok(info) => Ok(Some(Meta { seq: message.sequence, info })),
                Err(error) => Err(BlobError::Storage { action: action(), source: error.into() }),
            },
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed(action(), &error)),
        }
    }

    /// Whether a description is of a blob of this size, and all its chunks are there.
    async fn is_whole(&self, meta: &Meta, bytes: u64) -> Result<bool, BlobError> {
        if meta.info.deleted || meta.info.size as u64 != bytes {
            return Ok(false);
        }
        let subject = chunks_subject(&self.bucket, &meta.info.nuid);
        let counted = self.stream.info_with_subjects(&subject).await;
        let mut counted =
            counted.map_err(|error| failed(format!("count the chunks of `{}`", meta.info.name), &error))?;
        let mut chunks = 0;
        while let Some(counted) = counted.next().await {
            let (_, count) =
                counted.map_err(|error| failed(format!("count the chunks of `{}`", meta.info.name), &error))?;
            chunks += count;
        }
        Ok(chunks == meta.info.chunks)
    }

    /// Writes a description in the place of the one at `expected`, 0 for none; `None` when another
    /// one is there.
    async fn describe(&self, digest: Digest, info: &ObjectInfo, expected: u64) -> Result<Option<u64>, BlobError> {
        let action = || format!("describe blob {digest}");
        let payload = serde_json::to_vec(info);
        let payload = payload.map_err(|error| BlobError::Storage { action: action(), source: error.into() })?;
        let mut headers = HeaderMap::new();
        headers.insert(NATS_ROLLUP, "sub");
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected.to_string());
        self.connected(&action)?;
        let message = PublishMessage::build().payload(payload.into()).headers(headers);
        let answer = match self.context.send_publish(meta_subject(&self.bucket, digest), message).await {
            Ok(sent) => sent.await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(ack) => Ok(Some(ack.sequence)),
            Err(error) if is_changed(&error) => Ok(None),
            Err(error) => Err(failed(action(), &error)),
        }
    }

    /// Removes the chunks of uploads that nothing describes and that have not grown for
    /// [`ORPHAN_AGE`] since they were first seen: a process has died in the middle of them. Gives
    /// their number.
    pub(super) async fn remove_orphans(&self, seen: &mut Orphans, uptime: Duration) -> Result<usize, BlobError> {
        let failed = |error: &dyn std::error::Error| {
            failed("look for parts of blobs that were never finished".to_owned(), error)
        };
        let prefix = chunks_subject(&self.bucket, "");
        let counted = self.stream.info_with_subjects(format!("{prefix}>")).await.map_err(|error| failed(&error))?;
        let counted: Vec<_> = counted.try_collect().await.map_err(|error| failed(&error))?;
        // Read after the chunks: what is described since is seen.
        let list = self.objects.list().await.map_err(|error| failed(&error))?;
        let described: BTreeSet<_> =
            list.map_ok(|info| info.nuid).try_collect().await.map_err(|error| failed(&error))?;
        let (mut removed, mut unfinished) = (0, Orphans::new());
        for (subject, _) in counted {
            let upload = subject.strip_prefix(&prefix).unwrap_or_default();
            if upload.is_empty() || described.contains(upload) {
                continue;
            }
            // The newest of them: an upload that goes on is young.
            let newest = self.stream.get_last_raw_message_by_subject(&subject).await;
            let newest = newest.map_err(|error| failed(&error))?;
            let before = seen.remove(upload).filter(|(seq, _)| *seq == newest.sequence);
            let since = before.map_or(uptime, |(_, since)| since);
            if uptime.saturating_sub(since) >= ORPHAN_AGE {
                self.purge_chunks(upload).await?;
                removed += 1;
            } else {
                unfinished.insert(upload.to_owned(), (newest.sequence, since));
            }
        }
        *seen = unfinished;
        Ok(removed)
    }

    async fn purge_upload(&self, upload: Option<Upload>) -> Result<(), BlobError> {
        match upload {
            Some(upload) => self.purge_chunks(&upload.name).await,
            None => Ok(()),
        }
    }

    pub(super) async fn purge_chunks(&self, upload: &str) -> Result<(), BlobError> {
        let purge = self.stream.purge().filter(chunks_subject(&self.bucket, upload));
        purge.await.map(drop).map_err(|error| failed("remove chunks of a blob".to_owned(), &error))
    }

    pub(super) fn chunk_bytes(&self) -> usize {
        CHUNK_BYTES.min(self.nats.client().max_payload())
    }

    /// A message that is sent without a connection arrives when nobody expects it any more.
    pub(super) fn connected(&self, action: &dyn Fn() -> String) -> Result<(), BlobError> {
        if self.nats.is_connected() {
            return Ok(());
        }
        let source = io::Error::new(io::ErrorKind::NotConnected, "not connected to NATS");
        Err(BlobError::Storage { action: action(), source })
    }
}

/// All bytes of a source that is known to be of this size.
pub(super) async fn read_all(mut source: BlobReader, stat: BlobStat) -> Result<Bytes, BlobError> {
    let mut bytes = Vec::with_capacity(usize::try_from(stat.bytes).unwrap_or(0));
    let read = timeout(READ_TIMEOUT, source.read_to_end(&mut bytes)).await;
    match read {
        Ok(Ok(_)) => Ok(bytes.into()),
        Ok(Err(error)) => Err(read_failed(stat.digest, error)),
        Err(_) => Err(read_failed(stat.digest, io::ErrorKind::TimedOut.into())),
    }
}

/// The error of a failed read of a blob.
pub(super) fn read_failed(digest: Digest, source: io::Error) -> BlobError {
    match source.kind() {
        io::ErrorKind::InvalidData => BlobError::Damaged(digest),
        _ => BlobError::Storage { action: format!("read blob {digest}"), source },
    }
}

/// Whether something else was written since we looked. The second code is for a write that is not
/// finished.
fn is_changed(error: &PublishError) -> bool {
    error.kind() == PublishErrorKind::WrongLastSequence || refusal(error) == Some(ErrorCode(10_164))
}

fn written_all_the_time(action: String) -> BlobError {
    BlobError::Storage { action, source: io::Error::other("others write it all the time") }
}

pub(super) fn failed(action: String, error: &dyn std::error::Error) -> BlobError {
    match refusal(error) {
        Some(
            ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED,
        ) => BlobError::NoSpace { action },
        _ => BlobError::Storage { action, source: io::Error::other(chain(error)) },
    }
}
