//! Uploads that are under way on one control node.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use wasmill_protocol::Digest;
use wasmill_protocol::message::blobs::BlobAnswer;

use crate::{BlobError, BlobStat, BlobWriter, Blobs};

/// Uploads of all hosts together.
const UPLOADS_MAX: usize = 256;
/// An upload that nobody has gone on with for this long is dropped.
const IDLE: Duration = Duration::from_secs(60);

/// Uploads by number.
#[derive(Default)]
pub(super) struct Uploads {
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    last: u64,
    uploads: BTreeMap<u64, (Upload, Instant)>,
}

enum Upload {
    /// Waits for its next piece.
    Idle { host: String, writer: Box<dyn BlobWriter>, bytes: u64 },
    /// Somebody writes or finishes it.
    Busy { host: String },
    /// It has become a blob; kept for those who ask again.
    Done { host: String, stat: BlobStat },
}

impl Uploads {
    /// Begins an upload for a host; `None` when too many are under way.
    pub(super) async fn begin(&self, host: &str, blobs: &dyn Blobs) -> Result<Option<u64>, BlobError> {
        if self.open().uploads.len() >= UPLOADS_MAX {
            return Ok(None);
        }
        let writer = blobs.create().await?;
        let mut open = self.open();
        open.last += 1;
        let number = open.last;
        let upload = Upload::Idle { host: host.to_owned(), writer, bytes: 0 };
        open.uploads.insert(number, (upload, Instant::now()));
        Ok(Some(number))
    }

    /// Appends a piece that begins at `offset`, unless it was appended before.
    pub(super) async fn write(
        &self,
        host: &str,
        number: u64,
        offset: u64,
        data: Bytes,
        bytes_max: u64,
    ) -> Result<BlobAnswer, BlobError> {
        let Some((mut writer, bytes)) = self.take(host, number) else { return Ok(BlobAnswer::UploadUnknown) };
        let end = offset + data.len() as u64;
        if end > bytes_max {
            self.remove(number);
            return Ok(BlobAnswer::TooLarge { bytes_max });
        }
        if offset != bytes {
            // Asked twice: the first time was enough. A gap cannot come from a host that waits for its answers.
            let answer = if end == bytes { BlobAnswer::Written } else { BlobAnswer::UploadUnknown };
            self.put(host, number, writer, bytes);
            return Ok(answer);
        }
        if let Err(error) = writer.write(data).await {
            self.remove(number);
            return Err(error);
        }
        self.put(host, number, writer, end);
        Ok(BlobAnswer::Written)
    }

    /// Makes an upload a blob, if its bytes have this digest.
    pub(super) async fn finish(&self, host: &str, number: u64, digest: Digest) -> Result<BlobAnswer, BlobError> {
        if let Some((Upload::Done { host: owner, stat }, _)) = self.open().uploads.get(&number)
            && owner == host
            && stat.digest == digest
        {
            return Ok(super::server::stat(stat));
        }
        let Some((writer, _)) = self.take(host, number) else { return Ok(BlobAnswer::UploadUnknown) };
        match writer.finish(Box::new(move |stat| stat.digest == digest)).await {
            Ok(stat) => {
                let answer = super::server::stat(&stat);
                let done = Upload::Done { host: host.to_owned(), stat };
                self.open().uploads.insert(number, (done, Instant::now()));
                Ok(answer)
            }
            Err(error) => {
                self.remove(number);
                if matches!(error, BlobError::Unwanted(_)) { Ok(BlobAnswer::Damaged) } else { Err(error) }
            }
        }
    }

    /// Drops what nobody goes on with.
    pub(super) fn drop_idle(&self) {
        self.open()
            .uploads
            .retain(|_, (upload, touched)| matches!(upload, Upload::Busy { .. }) || touched.elapsed() < IDLE);
    }

    /// Takes the writer of a host's upload, unless somebody else has it.
    fn take(&self, host: &str, number: u64) -> Option<(Box<dyn BlobWriter>, u64)> {
        let mut open = self.open();
        let (upload, touched) = open.uploads.get_mut(&number)?;
        if !matches!(upload, Upload::Idle { host: owner, .. } if owner == host) {
            return None;
        }
        *touched = Instant::now();
        match std::mem::replace(upload, Upload::Busy { host: host.to_owned() }) {
            Upload::Idle { writer, bytes, .. } => Some((writer, bytes)),
            Upload::Busy { .. } | Upload::Done { .. } => unreachable!("it was looked at under the same lock"),
        }
    }

    fn put(&self, host: &str, number: u64, writer: Box<dyn BlobWriter>, bytes: u64) {
        let upload = Upload::Idle { host: host.to_owned(), writer, bytes };
        self.open().uploads.insert(number, (upload, Instant::now()));
    }

    fn remove(&self, number: u64) {
        self.open().uploads.remove(&number);
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        // Nothing panics while it holds this lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
