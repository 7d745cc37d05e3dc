//! Remembering what was refused, so that a bad module costs one compile: in memory for the busy
//! ones, on disk for restarts.
//!
//! A refusal is the tenant's whose module was compiled, and each tenant has a bounded number: its
//! next one takes the place of its oldest, never of another tenant's.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use wasmill_protocol::module::ModuleRejection;
use wasmill_protocol::{Digest, TenantName};

use super::file::write_whole;
use crate::engine::Profile;
use crate::lru::{Lru, LruBounds};

/// How many refusals are kept in memory and on disk.
const REFUSALS_MAX: usize = 10_000;
/// How many of them are one tenant's: more than anybody mistakes, and few files when somebody means
/// it.
const REFUSALS_PER_TENANT_MAX: usize = 100;
/// How long a refusal is believed that had to do with the state of the machine.
const PASSING_LIFE: Duration = Duration::from_secs(60);
const EXTENSION: &str = "refused";

/// Which compile was refused.
type RefusedKey = (Digest, Profile);

/// A refusal as a file.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    refused: ModuleRejection,
    owner: Option<TenantName>,
}

/// The memory of refusals of one key: what another engine, or the same under other limits, refused
/// is not looked at.
#[derive(Debug)]
pub(crate) struct Refusals {
    folder: PathBuf,
    known: Mutex<RefusedModules>,
}

#[derive(Debug)]
struct RefusedModules {
    refusals: Lru<RefusedKey, ModuleRefusal>,
    /// Of each tenant, in the order in which they came. Holds exactly those of `refusals` that have
    /// an owner.
    owned: BTreeMap<TenantName, VecDeque<RefusedKey>>,
}

#[derive(Debug, Clone)]
struct ModuleRefusal {
    refused: ModuleRejection,
    owner: Option<TenantName>,
    /// `None` for those that never change.
    until: Option<Instant>,
}

impl Refusals {
    /// Reads what earlier processes refused from `folder`, which is created when it is not there.
    /// A refusal that cannot be read is forgotten.
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
                Some((which, written)) => found.push((modified, which, written)),
                None => remove(&entry.path()),
            }
        }
        found.sort_by_key(|(modified, which, _)| (*modified, *which));
        let bounds = LruBounds { entries: REFUSALS_MAX, bytes: u64::MAX };
        let known = RefusedModules { refusals: Lru::new(bounds), owned: BTreeMap::new() };
        let refusals = Self { folder: folder.to_owned(), known: Mutex::new(known) };
        for (_, which, Written { refused, owner }) in found {
            refusals.insert(which, ModuleRefusal { refused, owner, until: None });
        }
        Ok(refusals)
    }

    /// The refusal of this module, if there is one.
    pub(crate) fn find(&self, digest: Digest, profile: Profile, now: Instant) -> Option<ModuleRejection> {
        let mut known = self.known();
        let refusal = known.refusals.get((digest, profile))?;
        refusal.until.is_none_or(|until| now < until).then(|| refusal.refused.clone())
    }

    /// Remembers a refusal of `owner`'s module: for good when it is `lasting`, else for a minute.
    /// Failing to write it is not an error: then it is known until the restart.
    pub(crate) fn remember(
        &self,
        owner: Option<&TenantName>,
        which: RefusedKey,
        refused: &ModuleRejection,
        lasting: bool,
        now: Instant,
    ) {
        let until = if lasting { None } else { Some(now + PASSING_LIFE) };
        self.insert(which, ModuleRefusal { refused: refused.clone(), owner: owner.cloned(), until });
        if lasting {
            let path = self.path(which);
            let text = serde_json::to_vec(&Written { refused: refused.clone(), owner: owner.cloned() })
                .expect("a refusal has no keys that are not text");
            if let Err(error) = write_whole(&path, &text) {
                tracing::warn!(path = %path.display(), %error, "cannot remember a refused module");
            }
        }
    }

    /// Adds to memory; what has to go for it goes from the disk too.
    fn insert(&self, which: RefusedKey, refusal: ModuleRefusal) {
        let gone = self.known().insert(which, refusal);
        for oldest in gone {
            remove(&self.path(oldest));
        }
    }

    fn path(&self, (digest, profile): RefusedKey) -> PathBuf {
        self.folder.join(format!("{}-{profile}.{EXTENSION}", digest.hex()))
    }

    fn known(&self) -> MutexGuard<'_, RefusedModules> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RefusedModules {
    /// Adds one; answers which had to go for it.
    fn insert(&mut self, which: RefusedKey, refusal: ModuleRefusal) -> Vec<RefusedKey> {
        if let Some(before) = self.refusals.remove(which) {
            self.disown(which, &before);
        }
        let mut gone = Vec::new();
        if let Some(owner) = &refusal.owner {
            let own = self.owned.entry(owner.clone()).or_default();
            own.push_back(which);
            if own.len() > REFUSALS_PER_TENANT_MAX {
                gone.extend(own.pop_front());
            }
        }
        for oldest in &gone {
            self.refusals.remove(*oldest);
        }
        for (oldest, refusal) in self.refusals.insert(which, 0, refusal) {
            self.disown(oldest, &refusal);
            gone.push(oldest);
        }
        gone
    }

    fn disown(&mut self, which: RefusedKey, refusal: &ModuleRefusal) {
        let Some(owner) = &refusal.owner else { return };
        let Some(own) = self.owned.get_mut(owner) else { return };
        own.retain(|other| *other != which);
        if own.is_empty() {
            self.owned.remove(owner);
        }
    }
}

fn read(path: &Path) -> Option<(RefusedKey, Written)> {
    let name = path.file_name()?.to_str()?.strip_suffix(EXTENSION)?.strip_suffix('.')?;
    let (hex, profile) = name.split_once('-')?;
    let which = (format!("sha256:{hex}").parse().ok()?, profile.parse().ok()?);
    let written: Written = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (!written.refused.code.is_empty()).then_some((which, written))
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

    fn plain(number: u32) -> RefusedKey {
        (digest(number), Profile::Plain)
    }

    fn tenant(name: &str) -> TenantName {
        name.parse().unwrap()
    }

    #[test]
    fn a_tenant_has_a_share_and_takes_nothing_of_others() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let refusals = Refusals::open(folder.path()).unwrap();
        let (greedy, other) = (tenant("greedy"), tenant("other"));
        refusals.remember(Some(&other), plain(0), &rejection("other"), true, now);
        let count = u32::try_from(REFUSALS_PER_TENANT_MAX).unwrap() + 20;
        for number in 1..=count {
            refusals.remember(Some(&greedy), plain(number), &rejection("bad"), true, now);
            // The same again takes no further place.
            refusals.remember(Some(&greedy), plain(number), &rejection("bad"), true, now);
        }
        let check = |refusals: &Refusals| {
            let known = |number: u32| refusals.find(digest(number), Profile::Plain, now).is_some();
            assert!(known(0) && !known(20) && known(21) && known(count));
            assert_eq!(refusals.known().owned[&greedy].len(), REFUSALS_PER_TENANT_MAX);
        };
        check(&refusals);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), REFUSALS_PER_TENANT_MAX + 1);
        check(&Refusals::open(folder.path()).unwrap());
    }

    #[test]
    fn refusals_survive_a_restart_and_passing_ones_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let refusals = Refusals::open(folder.path()).unwrap();
        refusals.remember(Some(&tenant("a")), plain(1), &rejection("bad"), true, now);
        refusals.remember(None, plain(2), &rejection("killed"), false, now);
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
        refusals.remember(None, plain(0), &rejection("first"), true, now);
        for number in 1..=u32::try_from(REFUSALS_MAX).unwrap() {
            refusals.insert(plain(number), ModuleRefusal { refused: rejection("later"), owner: None, until: None });
        }
        refusals.remember(None, plain(u32::MAX), &rejection("last"), true, now);
        assert_eq!(refusals.find(digest(0), Profile::Plain, now), None);
        assert_eq!(refusals.known().refusals.keys().count(), REFUSALS_MAX);
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
