//! Remembering what was refused, so that a bad module costs one compile: in memory for the busy ones, on disk for restarts.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use wasmill_protocol::Digest;
use wasmill_protocol::module::ModuleRejection;

use super::file::write_whole;
use crate::engine::Profile;
use crate::lru::{Lru, LruBounds};

/// How many refusals are kept in memory and on disk.
const REFUSALS_MAX: usize = 10_000;
/// How long a refusal is believed that had to do with the state of the machine.
const PASSING_LIFE: Duration = Duration::from_secs(60);
const EXTENSION: &str = "refused";

/// Which compile was refused.
type Which = (Digest, Profile);

/// The memory of refusals of one key: what another engine, or the same under other limits, refused is not looked at.
#[derive(Debug)]
pub(crate) struct Refusals {
    folder: PathBuf,
    known: Mutex<Lru<Which, Refusal>>,
}

#[derive(Debug, Clone)]
struct Refusal {
    refused: ModuleRejection,
    /// `None` for those that never change.
    until: Option<Instant>,
}

impl Refusals {
    /// Reads what earlier processes refused from `folder`, which is created when it is not there. What cannot be read is forgotten.
    ///
    /// # Errors
    ///
    /// When the folder cannot be created or listed.
    pub(crate) fn open(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let modified = entry.metadata().and_then(|stat| stat.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            match read(&entry.path()) {
                Some((which, refused)) => found.push((modified, which, refused)),
                None => remove(&entry.path()),
            }
        }
        found.sort_by_key(|(modified, which, _)| (*modified, *which));
        let bounds = LruBounds { entries: REFUSALS_MAX, bytes: u64::MAX };
        let refusals = Self { folder: folder.to_owned(), known: Mutex::new(Lru::new(bounds)) };
        for (_, which, refused) in found {
            refusals.insert(which, Refusal { refused, until: None });
        }
        Ok(refusals)
    }

    /// What was said about this module, if it was refused.
    pub(crate) fn find(&self, digest: Digest, profile: Profile, now: Instant) -> Option<ModuleRejection> {
        let mut known = self.known();
        let refusal = known.get((digest, profile))?;
        refusal.until.is_none_or(|until| now < until).then(|| refusal.refused.clone())
    }

    /// Remembers a refusal: for good when it is `lasting`, else for a minute. Failing to write it is not an error: then it is known
    /// until the restart.
    pub(crate) fn remember(
        &self,
        digest: Digest,
        profile: Profile,
        refused: &ModuleRejection,
        lasting: bool,
        now: Instant,
    ) {
        let until = if lasting { None } else { Some(now + PASSING_LIFE) };
        self.insert((digest, profile), Refusal { refused: refused.clone(), until });
        if lasting {
            let path = self.path((digest, profile));
            let text = serde_json::to_vec(refused).expect("a refusal has no keys that are not text");
            if let Err(error) = write_whole(&path, &text) {
                tracing::warn!(path = %path.display(), %error, "cannot remember a refused module");
            }
        }
    }

    /// Adds to memory; what has to go for it goes from the disk too.
    fn insert(&self, which: Which, refusal: Refusal) {
        let gone = self.known().insert(which, 0, refusal);
        for (oldest, _) in gone {
            remove(&self.path(oldest));
        }
    }

    fn path(&self, (digest, profile): Which) -> PathBuf {
        self.folder.join(format!("{}-{profile}.{EXTENSION}", digest.hex()))
    }

    fn known(&self) -> MutexGuard<'_, Lru<Which, Refusal>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(path: &Path) -> Option<(Which, ModuleRejection)> {
    let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let (hex, profile) = name.split_once('-')?;
    let which = (format!("sha256:{hex}").parse().ok()?, profile.parse().ok()?);
    let refused: ModuleRejection = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (!refused.code.is_empty()).then_some((which, refused))
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file of the cache");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::super::reject::rejection;
    use super::*;

    fn digest(number: u32) -> Digest {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        Digest(bytes)
    }

    #[test]
    fn refusals_survive_a_restart_and_passing_ones_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let refusals = Refusals::open(folder.path()).unwrap();
        refusals.remember(digest(1), Profile::Plain, &rejection("bad"), true, now);
        refusals.remember(digest(2), Profile::Plain, &rejection("killed"), false, now);
        assert_eq!(refusals.find(digest(1), Profile::Plain, now), Some(rejection("bad")));
        assert_eq!(refusals.find(digest(1), Profile::Metered, now), None);
        assert_eq!(refusals.find(digest(2), Profile::Plain, now), Some(rejection("killed")));
        assert_eq!(refusals.find(digest(2), Profile::Plain, now + PASSING_LIFE), None);

        let again = Refusals::open(folder.path()).unwrap();
        assert_eq!(again.find(digest(1), Profile::Plain, now), Some(rejection("bad")));
        assert_eq!(again.find(digest(2), Profile::Plain, now), None);
    }

    #[test]
    fn the_oldest_go_from_memory_and_disk() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let refusals = Refusals::open(folder.path()).unwrap();
        refusals.remember(digest(0), Profile::Plain, &rejection("first"), true, now);
        for number in 1..=u32::try_from(REFUSALS_MAX).unwrap() {
            refusals.insert((digest(number), Profile::Plain), Refusal { refused: rejection("later"), until: None });
        }
        refusals.remember(digest(u32::MAX), Profile::Plain, &rejection("last"), true, now);
        assert_eq!(refusals.find(digest(0), Profile::Plain, now), None);
        assert_eq!(refusals.known().keys().count(), REFUSALS_MAX);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(refusals.find(digest(u32::MAX), Profile::Plain, now), Some(rejection("last")));
    }

    #[test]
    fn a_damaged_file_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}-plain.refused", digest(3).hex()));
        fs::write(&path, b"{\"code\": \"module_inv").unwrap();
        fs::write(folder.path().join("notes.txt"), b"hello").unwrap();
        let refusals = Refusals::open(folder.path()).unwrap();
        assert_eq!(refusals.find(digest(3), Profile::Plain, Instant::now()), None);
        assert!(!path.exists());
    }
}
