//! Artifacts on disk: bounded, private, whole or not there.
//!
//! `FOLDER/KEY/DIGEST-PROFILE.cwasm`, the native code, and beside it `.json`, the [`Stamp`] that
//! says what it must be. KEY is [`super::artifact_key`], so what another version of the compiler
//! left is never found; such folders are removed when the cache is opened.
//!
//! Loading an artifact means to trust its bytes like our own program. They come from our own child
//! only, and lie in folders that nobody else may enter. Against what a disk or a power cut does to
//! them, their SHA-256 is compared the first time that a process uses them; the child that wrote
//! them in the life of this process has just computed it, so then it is not computed again.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use wasmill_protocol::Digest;

use super::file::{check_owner, private_folder, unfinished_path, write_whole};
use super::request::ArtifactStamp;
use super::sniff::Form;
use crate::engine::Profile;
use crate::lru::{Lru, LruBounds};

/// Which artifact.
pub(crate) type Which = (Digest, Profile);

const ARTIFACT_EXTENSION: &str = "cwasm";
const STAMP_EXTENSION: &str = "json";
/// Artifacts on disk, however small they are: as many files as a folder takes without trouble.
const ARTIFACTS_MAX: usize = 100_000;

/// The stamp beside an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub(crate) artifact: ArtifactStamp,
    pub(crate) form: Form,
}

/// An artifact that was found and is whole.
#[derive(Debug)]
pub(crate) struct FoundArtifact {
    /// Held open: the artifact can be loaded through it also when its name is gone.
    pub(crate) file: fs::File,
    pub(crate) form: Form,
    pub(crate) bytes: u64,
}

/// The artifacts on disk.
#[derive(Debug)]
pub(crate) struct ArtifactStore {
    folders: [PathBuf; Profile::ALL.len()],
    index: Mutex<Lru<Which, Indexed>>,
}

#[derive(Debug, Clone)]
struct Indexed {
    stamp: Stamp,
    /// Whether this process knows that the bytes are those of the stamp.
    verified: bool,
}

impl ArtifactStore {
    /// Opens the store in `folder`, creates it when it is not there, and takes stock of what is in
    /// it. `keys` are those of the profiles, in their order.
    ///
    /// # Errors
    ///
    /// When the folder cannot be created, read or made private.
    pub(crate) fn open(folder: &Path, keys: &[String; Profile::ALL.len()], bytes_max: u64) -> io::Result<Self> {
        private_folder(folder)?;
        let folders = keys.each_ref().map(|key| folder.join(key));
        let mut found = Vec::new();
        for path in &folders {
            private_folder(path)?;
            take_stock(path, &mut found)?;
        }
        let store =
            Self { folders, index: Mutex::new(Lru::new(LruBounds { entries: ARTIFACTS_MAX, bytes: bytes_max })) };
        found.sort_by_key(|(used, which, _)| (*used, *which));
        for (_, which, stamp) in found {
            store.insert(which, Indexed { stamp, verified: false });
        }
        Ok(store)
    }

    /// Where a child may write an artifact.
    pub(crate) fn unfinished(&self, which: Which) -> PathBuf {
        unfinished_path(&self.artifact_path(which))
    }

    /// Takes over what a child wrote at `unfinished`; others go when the disk bound is reached.
    pub(crate) fn keep(&self, which: Which, unfinished: &Path, stamp: Stamp) -> io::Result<()> {
        let text = serde_json::to_vec(&stamp).expect("a stamp has no keys that are not text");
        // The stamp first: an artifact without one is never looked at.
        write_whole(&self.stamp_path(which), &text)?;
        fs::rename(unfinished, self.artifact_path(which))?;
        self.insert(which, Indexed { stamp, verified: true });
        Ok(())
    }

    /// Whether there is an artifact; it may still turn out damaged.
    pub(crate) fn has(&self, which: Which) -> bool {
        self.index().get(which).is_some()
    }

    /// Finds an artifact and makes sure that it is whole: the first time at the cost of reading it.
    /// One that is damaged is removed.
    pub(crate) fn find(&self, which: Which) -> Option<FoundArtifact> {
        let indexed = self.index().get(which).cloned()?;
        match self.open_whole(which, &indexed) {
            Ok(file) => {
                if let Some(indexed) = self.index().get(which) {
                    indexed.verified = true;
                }
                // Only the order in which artifacts go after a restart depends on it.
                let _ = file.set_modified(SystemTime::now());
                Some(FoundArtifact { file, form: indexed.stamp.form, bytes: indexed.stamp.artifact.bytes })
            }
            Err(error) => {
                let path = self.artifact_path(which);
                tracing::warn!(path = %path.display(), %error, "an artifact is damaged and will be compiled again");
                self.remove(which);
                None
            }
        }
    }

    /// Forgets an artifact and deletes it.
    pub(crate) fn remove(&self, which: Which) {
        self.index().remove(which);
        self.delete(which);
    }

    /// Bytes of all artifacts.
    pub(crate) fn bytes(&self) -> u64 {
        self.index().bytes()
    }

    /// How many artifacts there are.
    pub(crate) fn len(&self) -> usize {
        self.index().keys().count()
    }

    fn open_whole(&self, which: Which, indexed: &Indexed) -> io::Result<fs::File> {
        let damaged = |text| Err(io::Error::new(io::ErrorKind::InvalidData, text));
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(self.artifact_path(which))?;
        let stat = file.metadata()?;
        check_owner(&stat)?;
        if stat.len() != indexed.stamp.artifact.bytes {
            return damaged("its size is not that of its stamp");
        }
        if !indexed.verified {
            let mut sha256 = Sha256::new();
            io::copy(&mut &file, &mut HashWriter(&mut sha256))?;
            if Digest(sha256.finalize().into()) != indexed.stamp.artifact.sha256 {
                return damaged("its SHA-256 is not that of its stamp");
            }
        }
        Ok(file)
    }

    fn insert(&self, which: Which, indexed: Indexed) {
        let bytes = indexed.stamp.artifact.bytes;
        let gone = self.index().insert(which, bytes, indexed);
        for (oldest, _) in gone {
            self.delete(oldest);
        }
    }

    /// Deletes the files. A process that has the artifact mapped keeps it.
    fn delete(&self, which: Which) {
        for path in [self.artifact_path(which), self.stamp_path(which)] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(path = %path.display(), %error, "cannot remove a file of the cache");
                }
                _ => {}
            }
        }
    }

    fn artifact_path(&self, (digest, profile): Which) -> PathBuf {
        self.folders[profile as usize].join(format!("{}-{profile}.{ARTIFACT_EXTENSION}", digest.hex()))
    }

    fn stamp_path(&self, which: Which) -> PathBuf {
        self.artifact_path(which).with_extension(STAMP_EXTENSION)
    }

    fn index(&self) -> MutexGuard<'_, Lru<Which, Indexed>> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Removes the folders of other versions, which look like keys and are none of ours.
pub(crate) fn remove_others<'a>(folder: &Path, keys: impl Iterator<Item = &'a String> + Clone) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_key = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_key && !keys.clone().any(|key| key == name) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Finds the artifacts of one folder that have a stamp, and when each was last used; deletes
/// everything else.
fn take_stock(folder: &Path, found: &mut Vec<(SystemTime, Which, Stamp)>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_stamp = path.extension().is_some_and(|extension| extension == STAMP_EXTENSION);
        if is_stamp && path.with_extension(ARTIFACT_EXTENSION).exists() {
            continue;
        }
        match stock(&path) {
            Some(artifact) => found.push(artifact),
            // Unfinished, or one of the two without the other.
            None => fs::remove_file(&path)?,
        }
    }
    Ok(())
}

fn stock(path: &Path) -> Option<(SystemTime, Which, Stamp)> {
    let name = path.file_name()?.to_str()?.strip_suffix(ARTIFACT_EXTENSION)?.strip_suffix('.')?;
    let (hex, profile) = name.split_once('-')?;
    let which = (format!("sha256:{hex}").parse().ok()?, profile.parse().ok()?);
    let stamp = serde_json::from_slice(&fs::read(path.with_extension(STAMP_EXTENSION)).ok()?).ok()?;
    Some((fs::metadata(path).ok()?.modified().ok()?, which, stamp))
}
