//! Blobs that hosts are writing: each belongs to the host that has begun it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use wasmill_protocol::Digest;

use super::messages::Failure;
use crate::{BlobStat, BlobWriter};

/// An upload that nobody has touched for this long is dropped.
pub(super) const UPLOAD_IDLE: Duration = Duration::from_secs(60);
/// Uploads of all hosts together.
const UPLOADS_MAX: usize = 256;
/// Uploads of one host.
const UPLOADS_OF_HOST_MAX: usize = 32;
/// Bytes of one upload: several times what a result, a checkpoint or a module may have by default.
const UPLOAD_BYTES_MAX: u64 = 1024 * 1024 * 1024;

/// All that were begun and not finished, and those that were finished a moment ago.
#[derive(Default)]
pub(super) struct Uploads {
    known: Mutex<OpenUploads>,
}

#[derive(Default)]
struct OpenUploads {
    last: u64,
    entries: BTreeMap<(String, u64), UploadEntry>,
}

struct UploadEntry {
    touched: Instant,
    upload: Arc<tokio::sync::Mutex<Upload>>,
}

enum Upload {
    Writing {
        writer: Box<dyn BlobWriter>,
        written: u64,
    },
    /// A host that has not heard the answer asks again.
    Finished(BlobStat),
    Failed,
}

impl Uploads {
    pub(super) fn begin(&self, host: &str, writer: Box<dyn BlobWriter>) -> Result<u64, Failure> {
        let mut known = self.known();
        let of_host = known.entries.keys().filter(|(of, _)| of == host).count();
        if known.entries.len() >= UPLOADS_MAX || of_host >= UPLOADS_OF_HOST_MAX {
            return Err(Failure::Busy);
        }
        known.last += 1;
        let (id, upload) = (known.last, Upload::Writing { writer, written: 0 });
        let entry = UploadEntry { touched: Instant::now(), upload: Arc::new(tokio::sync::Mutex::new(upload)) };
        known.entries.insert((host.to_owned(), id), entry);
        Ok(id)
    }

    pub(super) async fn write(&self, host: &str, id: u64, offset: u64, data: Bytes) -> Result<(), Failure> {
        let upload = self.find(host, id)?;
        let mut upload = upload.lock().await;
        let Upload::Writing { writer, written } = &mut *upload else { return Err(Failure::NoUpload) };
        let bytes = data.len() as u64;
        // The same again: its answer was lost.
        if offset + bytes <= *written {
            return Ok(());
        }
        if offset != *written {
            return Err(Failure::Other { reason: format!("bytes from {offset} on come after {written} bytes") });
        }
        if *written + bytes > UPLOAD_BYTES_MAX {
            return Err(Failure::TooLarge { bytes: *written + bytes, bytes_max: UPLOAD_BYTES_MAX });
        }
        match writer.write(data).await {
            Ok(()) => *written += bytes,
            Err(error) => {
                *upload = Upload::Failed;
                return Err(error.into());
            }
        }
        Ok(())
    }

    pub(super) async fn finish(&self, host: &str, id: u64, digest: Digest) -> Result<BlobStat, Failure> {
        let upload = self.find(host, id)?;
        let mut upload = upload.lock().await;
        match std::mem::replace(&mut *upload, Upload::Failed) {
            Upload::Writing { writer, .. } => {
                let stat = writer.finish(Box::new(move |stat| stat.digest == digest)).await?;
                *upload = Upload::Finished(stat.clone());
                Ok(stat)
            }
            Upload::Finished(stat) => {
                *upload = Upload::Finished(stat.clone());
                Ok(stat)
            }
            Upload::Failed => Err(Failure::NoUpload),
        }
    }

    pub(super) fn abandon(&self, host: &str, id: u64) {
        self.known().entries.remove(&(host.to_owned(), id));
    }

    pub(super) fn forget_idle(&self) {
        // One that is being written right now is held by whoever writes it.
        self.known()
            .entries
            .retain(|_, entry| entry.touched.elapsed() < UPLOAD_IDLE || Arc::strong_count(&entry.upload) > 1);
    }

    fn find(&self, host: &str, id: u64) -> Result<Arc<tokio::sync::Mutex<Upload>>, Failure> {
        let mut known = self.known();
        let entry = known.entries.get_mut(&(host.to_owned(), id)).ok_or(Failure::NoUpload)?;
        entry.touched = Instant::now();
        Ok(Arc::clone(&entry.upload))
    }

    fn known(&self) -> MutexGuard<'_, OpenUploads> {
        // Nothing panics while it holds this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
