//! Copies of the file as blobs: for whoever has no file of its own that the log leads on from.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use thiserror::Error;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use wasmill_fabric::{BlobError, BlobStat, Blobs};
use wasmill_protocol::LogSeq;
use wasmill_record::snapshot::ReadModelCopy;

use super::flush::Replacement;
use super::readers::Kind;
use super::{ReadModel, store};

/// The file that a copy is made in, and the one that a copy is fetched into, beside the read
/// model's own.
const SUFFIXES: [&str; 2] = [".copy", ".fetched"];
/// The bytes that are read at once on the way to the blob.
const PIECE_BYTES: usize = 1024 * 1024;

/// A copy that cannot be made, or not be used.
#[derive(Debug, Error)]
pub enum CopyError {
    /// SQLite has failed.
    #[error("cannot copy the read model")]
    Sqlite(#[from] rusqlite::Error),
    /// A file beside the read model's cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// The action that was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The copy's blob cannot be used.
    #[error("cannot use the copy of the read model")]
    Blob(#[from] BlobError),
    /// Another version has written the copy.
    #[error(
        "the copy of the read model has layout {found}, this program knows {known}: start the version that wrote it"
    )]
    Layout {
        /// The layout that was found.
        found: i64,
        /// The layout that is known.
        known: i64,
    },
    /// The copy is not what the log says of it.
    #[error("the copy of the read model ends at record {found}, not at {expected}")]
    Position {
        /// Where it ends.
        found: LogSeq,
        /// Where the log says that it ends.
        expected: LogSeq,
    },
    /// The thread that has the file has ended, with an error of its own.
    #[error("cannot copy the read model: nobody has its file any more")]
    Gone,
}

impl ReadModel {
    /// Stores a consistent copy of the file, as it is now, as a blob. Answers up to which record it
    /// holds the log.
    ///
    /// Takes seconds for each gigabyte, and the room of another file meanwhile; nobody waits for
    /// it.
    ///
    /// # Errors
    ///
    /// When it cannot be made or stored; nothing is left of it then.
    pub async fn save(&self, blobs: &dyn Blobs) -> Result<(LogSeq, BlobStat), CopyError> {
        let [path, _] = beside(self.readers.path());
        let (from, to) = (self.readers.path().to_owned(), path.clone());
        let copied = tokio::task::spawn_blocking(move || {
            store::remove(&to).map_err(failed("clear", &to))?;
            Ok(store::copy(&from, &to)?)
        });
        let saved = match copied.await.map_err(|_| CopyError::Gone)? {
            Ok(seq) => upload(&path, blobs).await.map(|stat| (seq, stat)),
            Err(error) => Err(error),
        };
        // Cleared at the next start, too.
        let _ = store::remove(&path);
        saved
    }

    /// Goes on with a copy that [`ReadModel::save`] has stored, here or elsewhere. Nothing must be
    /// applied meanwhile; readers wait.
    ///
    /// # Errors
    ///
    /// When the copy cannot be used. Before the file was replaced that changes nothing.
    ///
    /// # Panics
    ///
    /// When the copy holds nothing that is not here already.
    pub async fn restore(&self, blobs: &dyn Blobs, copy: &ReadModelCopy) -> Result<(), CopyError> {
        let [_, with] = beside(self.readers.path());
        store::remove(&with).map_err(failed("clear", &with))?;
        let fetched = self.fetch(blobs, copy, &with).await;
        let _ = store::remove(&with);
        fetched
    }

    async fn fetch(&self, blobs: &dyn Blobs, copy: &ReadModelCopy, with: &Path) -> Result<(), CopyError> {
        let mut from = blobs.open(copy.digest).await?;
        let mut file = File::create(with).await.map_err(failed("create", with))?;
        tokio::io::copy(&mut from, &mut file).await.map_err(failed("fetch the copy of the read model into", with))?;
        file.flush().await.map_err(failed("write", with))?;
        file.sync_all().await.map_err(failed("sync", with))?;
        drop(file);
        let (file, expected) = (with.to_owned(), copy.seq);
        let checked = tokio::task::spawn_blocking(move || store::check(&file, expected));
        checked.await.map_err(|_| CopyError::Gone)??;
        let _paused = self.readers.pause().await;
        let (answer, answered) = oneshot::channel();
        let path = self.readers.path().to_owned();
        self.pipeline.replace(Replacement { path, with: with.to_owned(), position: copy.seq, answer });
        answered.await.map_err(|_| CopyError::Gone)?
    }

    /// Bytes of the file that are in use: about what a copy takes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub async fn bytes(&self) -> Result<u64, super::ReadError> {
        self.readers.read(Kind::LookUp, None, "measure the file", store::bytes).await
    }
}

/// Removes what was left when the process died in the middle of a copy.
pub(super) fn clear(path: &Path) -> io::Result<()> {
    beside(path).iter().try_for_each(|file| store::remove(file))
}

fn beside(path: &Path) -> [PathBuf; 2] {
    SUFFIXES.map(|suffix| store::with_suffix(path, suffix))
}

async fn upload(path: &Path, blobs: &dyn Blobs) -> Result<BlobStat, CopyError> {
    let mut file = File::open(path).await.map_err(failed("open", path))?;
    let mut writer = blobs.create().await?;
    loop {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        if (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece).await.map_err(failed("read", path))? == 0 {
            return Ok(writer.finish(Box::new(|_| true)).await?);
        }
        writer.write(Bytes::from(piece)).await?;
    }
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> CopyError {
    move |source| CopyError::File { action, path: path.to_owned(), source }
}
