//! One process per data directory.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::OpenError;

/// Keeps other processes out of a data directory until it is dropped. The kernel releases it when
/// the process dies, however it dies.
#[derive(Debug)]
pub(crate) struct DirLock {
    file: File,
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // Closing would do, but for a child process that was forked and has not yet closed what it
        // inherited.
        let _ = self.file.unlock();
    }
}

impl DirLock {
    /// Takes the lock without waiting.
    pub(crate) fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let failed = |action| {
            let path = path.clone();
            move |source| OpenError::Directory { action, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                // The holder may not have written its id yet; the refusal is the same without it.
                let _ = file.read_to_string(&mut text);
                return Err(OpenError::Held { dir: dir.to_owned(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
        }
        file.set_len(0).map_err(failed("write"))?;
        writeln!(file, "{}", std::process::id()).map_err(failed("write"))?;
        Ok(Self { file })
    }
}
