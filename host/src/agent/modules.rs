//! Modules as files: where the fabric has them, or copies of our own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::OnceCell;
use wasmill_fabric::{BlobError, Blobs};
use wasmill_protocol::Digest;

use super::IdentityError;

/// How many answers of [`Blobs::local_path`] are remembered, so that not every attempt asks the
/// file system.
const PATHS_MAX: usize = 4096;

/// How a copy is named, after the hexadecimal digits of its digest.
const SUFFIX: &str = "wasm";

/// Finds the file of a module.
pub(super) struct ModuleFiles {
    blobs: Arc<dyn Blobs>,
    dir: PathBuf,
    module_bytes_max: u64,
    copies_bytes_max: u64,
    known: Mutex<ModuleCopies>,
}

#[derive(Default)]
struct ModuleCopies {
    /// Files of the fabric.
    local: BTreeMap<Digest, PathBuf>,
    /// Files of ours.
    copies: BTreeMap<Digest, ModuleCopy>,
    /// Counts the uses, to tell which copy was not used for longest.
    uses: u64,
}

/// A copy, made or being made.
struct ModuleCopy {
    /// Set when it is made, with its size. Shared with those who wait for it, so that it is fetched
    /// once for all of them.
    bytes: Arc<OnceCell<u64>>,
    used: u64,
}

/// A module is not available as a file.
#[derive(Debug, Error)]
pub(super) enum ModuleError {
    /// The fabric does not have it.
    #[error("cannot fetch module {digest}")]
    Fetch {
        /// Which.
        digest: Digest,
        /// Why not.
        source: BlobError,
    },
    /// The copy cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl ModuleFiles {
    /// Takes over the copies in `dir` that an earlier life has made; each was complete and durable
    /// before it got its name.
    pub(super) fn open(
        blobs: Arc<dyn Blobs>,
        dir: PathBuf,
        module_bytes_max: u64,
        copies_bytes_max: u64,
    ) -> Result<Self, IdentityError> {
        let failed = |action| {
            let path = dir.clone();
            move |source| IdentityError::File { action, path, source }
        };
        let mut known = ModuleCopies::default();
        fs::create_dir_all(&dir).map_err(failed("create"))?;
        for entry in fs::read_dir(&dir).map_err(failed("list"))? {
            let path = entry.map_err(failed("list"))?.path();
            match (digest_of(&path), path.metadata()) {
                (Some(digest), Ok(metadata)) => {
                    let bytes = Arc::new(OnceCell::from(metadata.len()));
                    known.copies.insert(digest, ModuleCopy { bytes, used: 0 });
                }
                _ => remove(&path),
            }
        }
        Ok(Self { blobs, dir, module_bytes_max, copies_bytes_max, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, ModuleCopies> {
        // Nothing panics while it holds this lock, and the maps are whole between any two
        // operations.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn copy_path(&self, digest: Digest) -> PathBuf {
        self.dir.join(digest.hex()).with_extension(SUFFIX)
    }

    /// Where the module is, if it is here already.
    pub(super) fn path(&self, digest: Digest) -> Option<PathBuf> {
        let known = &mut *self.known();
        if let Some(path) = known.local.get(&digest) {
            return Some(path.clone());
        }
        if let Some(copied) = known.copies.get_mut(&digest)
            && copied.bytes.initialized()
        {
            known.uses += 1;
            copied.used = known.uses;
            return Some(self.copy_path(digest));
        }
        let path = self.blobs.local_path(digest)?;
        if known.local.len() >= PATHS_MAX {
            known.local.clear();
        }
        known.local.insert(digest, path.clone());
        Some(path)
    }

    /// Where the module is, after it was fetched if need be.
    pub(super) async fn fetch(&self, digest: Digest) -> Result<PathBuf, ModuleError> {
        if let Some(path) = self.path(digest) {
            return Ok(path);
        }
        let bytes = {
            let known = &mut *self.known();
            known.uses += 1;
            let copied = known.copies.entry(digest).or_insert_with(|| ModuleCopy { bytes: Arc::default(), used: 0 });
            copied.used = known.uses;
            Arc::clone(&copied.bytes)
        };
        let made = bytes.get_or_try_init(|| self.copy(digest)).await.map(|_| self.copy_path(digest));
        self.forget_old();
        made
    }

    async fn copy(&self, digest: Digest) -> Result<u64, ModuleError> {
        let fetched = self.blobs.read(digest, self.module_bytes_max).await;
        let module = fetched.map_err(|source| ModuleError::Fetch { digest, source })?;
        let path = self.copy_path(digest);
        let written = tokio::task::spawn_blocking(move || {
            let temporary = path.with_extension("tmp");
            let write = || {
                let mut file = File::create(&temporary)?;
                file.write_all(&module)?;
                file.sync_all()?;
                fs::rename(&temporary, &path)
            };
            write().map(|()| module.len() as u64).map_err(|source| ModuleError::Write { path: path.clone(), source })
        });
        match written.await {
            Ok(written) => written,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn forget_old(&self) {
        let forgotten = self.known().forget_old(self.copies_bytes_max);
        for digest in forgotten {
            remove(&self.copy_path(digest));
        }
    }
}

impl ModuleCopies {
    /// Forgets the copies that were not used for longest until the rest is within its bound, and
    /// those that could not be made. Returns those whose files are to be removed.
    fn forget_old(&mut self, bytes_max: u64) -> Vec<Digest> {
        self.copies.retain(|_, copied| copied.bytes.initialized() || Arc::strong_count(&copied.bytes) > 1);
        let size = |copied: &ModuleCopy| copied.bytes.get().copied().unwrap_or(0);
        let mut total: u64 = self.copies.values().map(size).sum();
        let mut forgotten = Vec::new();
        while total > bytes_max {
            let made = self.copies.iter().filter(|(_, copied)| copied.bytes.initialized());
            let oldest = made.min_by_key(|(_, copied)| copied.used).map(|(digest, copied)| (*digest, size(copied)));
            let Some((digest, bytes)) = oldest else { break };
            self.copies.remove(&digest);
            total -= bytes;
            forgotten.push(digest);
        }
        forgotten
    }
}

fn digest_of(path: &Path) -> Option<Digest> {
    let stem = path.file_stem()?.to_str()?;
    (path.extension()? == SUFFIX).then(|| Digest::from_str(&format!("sha256:{stem}")).ok()).flatten()
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!("cannot remove `{}`: {error}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copies_that_were_not_used_for_longest_are_forgotten() {
        let mut known = ModuleCopies::default();
        for (number, bytes, used) in [(1, 40, 5), (2, 40, 3), (3, 40, 4)] {
            let bytes = Arc::new(OnceCell::from(bytes));
            known.copies.insert(Digest([number; 32]), ModuleCopy { bytes, used });
        }
        // One that nobody waits for any more could not be made; one that somebody waits for is on
        // its way.
        known.copies.insert(Digest([4; 32]), ModuleCopy { bytes: Arc::default(), used: 1 });
        let awaited = Arc::<OnceCell<u64>>::default();
        known.copies.insert(Digest([5; 32]), ModuleCopy { bytes: Arc::clone(&awaited), used: 0 });
        assert_eq!(known.forget_old(120), []);
        assert_eq!(known.forget_old(119), [Digest([2; 32])]);
        assert_eq!(known.forget_old(0), [Digest([3; 32]), Digest([1; 32])]);
        assert_eq!(known.copies.keys().collect::<Vec<_>>(), [&Digest([5; 32])]);
    }

    #[test]
    fn only_complete_copies_are_taken_over() {
        let digest = Digest([0xab; 32]);
        for (name, expected) in [
            (format!("{}.wasm", digest.hex()), Some(digest)),
            (format!("{}.tmp", digest.hex()), None),
            ("x.wasm".to_owned(), None),
            (digest.hex(), None),
        ] {
            assert_eq!(digest_of(Path::new(&name)), expected, "{name}");
        }
    }
}
