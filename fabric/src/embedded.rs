//! All four traits inside one process, on one data directory.
//!
//! ```text
//! DIR/lock          held by the process that uses the directory; its text is that process's id
//! DIR/log.sqlite    the log, with its -wal and -shm
//! DIR/blobs/ab/…    blobs, by the first two digits of their digest
//! DIR/blobs/tmp/    blobs being written
//! DIR/term          the last term, with room for the next one beside it in `term.next`
//! ```

pub(crate) mod blobs;
mod bus;
mod disk;
mod files;
pub(crate) mod lock;
mod log;
mod membership;

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

pub(crate) use self::blobs::FileBlobs;
use crate::Fabric;

/// Opens the data directory, creating it (mode 0700) if there is none. Blocks for a few
/// milliseconds.
///
/// The directory stays locked until everything that this hands out is dropped.
///
/// # Errors
///
/// [`OpenError::Held`] when another process uses the directory; otherwise when it cannot be used.
pub fn open(dir: &Path) -> Result<Fabric, OpenError> {
    files::create_dir_private(dir).map_err(|source| OpenError::Directory {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    let lock = Arc::new(lock::DirLock::acquire(dir)?);
    let disk = Arc::new(disk::Disk::default());
    Ok(Fabric {
        log: Arc::new(log::EmbeddedLog::open(&dir.join("log.sqlite"), Arc::clone(&disk), Arc::clone(&lock))?),
        blobs: Arc::new(FileBlobs::open_locked(&dir.join("blobs"), disk, Arc::clone(&lock))?),
        bus: Arc::new(bus::EmbeddedBus::default()),
        membership: Arc::new(membership::EmbeddedMembership::open(&dir.join("term"), lock)?),
    })
}

/// A data directory cannot be used.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("cannot use data directory `{}`: {} uses it already", dir.display(), holder(*pid))]
    Held {
        /// The directory.
        dir: PathBuf,
        /// The process, when it has said so.
        pid: Option<u32>,
    },
    /// A file or directory in it cannot be used.
    #[error("cannot {action} `{}`", path.display())]
    Directory {
        /// The action that was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The log cannot be opened.
    #[error("cannot open the log `{}`", path.display())]
    Log {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A file holds what this program has not written.
    #[error("`{}` is damaged: {found}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The version that was found in it, and the one that was expected.
        found: String,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}
