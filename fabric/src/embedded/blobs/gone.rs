//! Removing large blobs: a piece at a time, because the file system gives back the blocks of a file
//! in one go, and commits of the log wait for that meanwhile: 14 to 17 ms for 60 MiB, 6 ms in
//! pieces.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::NamedTempFile;
use wasmill_protocol::Digest;

use super::{Files, TMP};

/// The bytes that are given back in one step.
const STEP_BYTES: u64 = 4 * 1024 * 1024;
/// Between two steps, while the log is written.
const STEP_PAUSE: Duration = Duration::from_millis(10);

/// Blobs whose file somebody may have open: these are removed as a whole, so that who reads one
/// reads it to its end.
#[derive(Debug, Default)]
pub(super) struct Uses {
    known: Mutex<BlobUses>,
}

#[derive(Debug, Default)]
struct BlobUses {
    readers: BTreeMap<Digest, usize>,
    /// Large ones whose path was handed out, for good: it is remembered where it was handed to.
    lent: BTreeSet<Digest>,
}

impl BlobUses {
    fn is_used(&self, digest: Digest) -> bool {
        self.readers.contains_key(&digest) || self.lent.contains(&digest)
    }
}

/// Somebody reads a blob, until this is dropped.
pub(super) struct BlobReading {
    files: Arc<Files>,
    digest: Digest,
}

impl Uses {
    fn known(&self) -> MutexGuard<'_, BlobUses> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlobReading {
    /// To be made before the file is opened.
    pub(super) fn begin(files: Arc<Files>, digest: Digest) -> Self {
        *files.uses.known().readers.entry(digest).or_default() += 1;
        Self { files, digest }
    }
}

impl Drop for BlobReading {
    fn drop(&mut self) {
        let mut known = self.files.uses.known();
        if let Some(readers) = known.readers.get_mut(&self.digest) {
            *readers -= 1;
            if *readers == 0 {
                known.readers.remove(&self.digest);
            }
        }
    }
}

/// A blob that is not there any more, but for its blocks.
#[must_use = "its blocks are to be given back"]
pub(super) struct Gone(Option<PathBuf>);

impl Files {
    /// The path of a blob, if there is one. From then on it goes as a whole.
    pub(super) fn lend(&self, digest: Digest) -> Option<PathBuf> {
        let path = self.path(digest);
        let mut known = self.uses.known();
        let metadata = fs::metadata(&path).ok()?;
        if metadata.len() > STEP_BYTES {
            known.lent.insert(digest);
        }
        metadata.is_file().then_some(path)
    }

    /// Makes a written blob visible, in the place of one that is there already.
    pub(super) fn put_in_place(&self, written: NamedTempFile, digest: Digest) -> io::Result<(File, Gone)> {
        let (path, gone) = (self.path(digest), self.gone_path(digest));
        // Held until it is visible: who begins to read after that finds the new one.
        let known = self.uses.known();
        let is_large = fs::metadata(&path).is_ok_and(|metadata| metadata.len() > STEP_BYTES);
        let is_kept = is_large && !known.is_used(digest) && fs::hard_link(&path, &gone).is_ok();
        match written.persist(&path) {
            Ok(file) => Ok((file, Gone(is_kept.then_some(gone)))),
            Err(error) => {
                if is_kept {
                    fs::remove_file(&gone)?;
                }
                Err(error.error)
            }
        }
    }

    fn gone_path(&self, digest: Digest) -> PathBuf {
        self.dir.join(TMP).join(format!("{}.gone", digest.hex()))
    }

    /// Takes a blob away; there may be none. To [give it back](Self::give_back) can take long.
    pub(super) fn take_away(&self, digest: Digest) -> io::Result<Gone> {
        let path = self.path(digest);
        let known = self.uses.known();
        let is_used = known.is_used(digest);
        let removed = match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > STEP_BYTES && !is_used => {
                let gone = self.gone_path(digest);
                fs::rename(&path, &gone).map(|()| Some(gone))
            }
            Ok(_) => fs::remove_file(&path).map(|()| None),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Gone(None)),
            result => result.map(Gone),
        }
    }

    /// Gives the blocks back. The rest goes at the next start, after a failure.
    pub(super) fn give_back(&self, Gone(path): Gone) {
        let Some(path) = path else { return };
        let shrink = || -> io::Result<()> {
            let file = File::options().write(true).open(&path)?;
            let mut commits_seen = self.disk.commits_begun();
            let mut bytes = file.metadata()?.len();
            while bytes > STEP_BYTES {
                bytes -= STEP_BYTES;
                file.set_len(bytes)?;
                if self.disk.is_written(&mut commits_seen) {
                    std::thread::sleep(STEP_PAUSE);
                }
            }
            fs::remove_file(&path)
        };
        if let Err(error) = shrink() {
            tracing::debug!(path = %path.display(), %error, "a blob that was removed still has its blocks");
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;
    use crate::Blobs;
    use crate::embedded::FileBlobs;

    fn files_in(dir: &std::path::Path) -> usize {
        fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn what_is_large_goes_whole_for_whoever_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let blobs = FileBlobs::open(dir.path()).unwrap();
        let bytes = bytes::Bytes::from((0..3 * STEP_BYTES + 7).map(|byte| byte as u8).collect::<Vec<_>>());
        let digest = blobs.put(bytes.clone()).await.unwrap().digest;
        let mut reader = blobs.open(digest).await.unwrap();
        let mut first = [0; 10];
        reader.read_exact(&mut first).await.unwrap();
        blobs.delete(digest).await.unwrap();
        assert!(blobs.stat(digest).await.is_err());
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest).await.unwrap();
        assert_eq!((&first[..], &rest[..]), (&bytes[..10], &bytes[10..]));
        drop(reader);

        let path = dir.path().join(&digest.hex()[..2]).join(digest.hex());
        blobs.put(bytes.clone()).await.unwrap();
        let replaced = File::open(&path).unwrap();
        blobs.put(bytes.clone()).await.unwrap();
        assert!(replaced.metadata().unwrap().len() <= STEP_BYTES, "it was given back in steps");
        assert_eq!(blobs.read(digest, u64::MAX).await.unwrap(), bytes);
        let unused = File::open(&path).unwrap();
        blobs.delete(digest).await.unwrap();
        assert!(blobs.stat(digest).await.is_err() && !path.exists());
        assert!(unused.metadata().unwrap().len() <= STEP_BYTES, "it was given back in steps");

        for _ in 0..2 {
            blobs.put(bytes.clone()).await.unwrap();
            assert_eq!(blobs.local_path(digest), Some(path.clone()));
            let lent = File::open(&path).unwrap();
            blobs.put(bytes.clone()).await.unwrap();
            let lent_again = File::open(&path).unwrap();
            blobs.delete(digest).await.unwrap();
            let lengths = [lent, lent_again].map(|file| file.metadata().unwrap().len());
            assert_eq!(lengths, [bytes.len() as u64; 2]);
        }
        assert_eq!(files_in(&dir.path().join(TMP)), 0);
        blobs.delete(digest).await.unwrap();
    }
}
