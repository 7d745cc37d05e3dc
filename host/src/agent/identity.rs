//! The identity of the host, across restarts: its id and its incarnation, each a file in the data
//! directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;
use wasmill_protocol::message::HostInfo;
use wasmill_protocol::{HostId, Incarnation};

/// Says which host this is.
const ID: &str = "host.id";
/// The last life that has begun.
const INCARNATION: &str = "host.incarnation";
/// The last process that was this host, and where and since when it was.
const PROCESS: &str = "host.process";
/// There while another process has taken this host's id.
const REPLACED: &str = "host.replaced";
/// Lives beyond the one that is known that other processes may have had meanwhile.
const LIVES_UNSEEN: u64 = 1_000;
/// Changes with each start of the system.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Held by the process that is this host.
const LOCK: &str = "host.lock";

/// The id of a host; nobody else can be this host as long as it is held.
#[derive(Debug)]
pub(super) struct Identity {
    dir: PathBuf,
    id: HostId,
    process: u64,
    predecessor: u64,
    /// The lock ends with the file.
    _lock: File,
}

/// The data directory of a host cannot be used.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// Two processes would be the same host.
    #[error("another process is the host of data directory `{}`", dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`", path.display())]
    File {
        /// The action that was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file holds what no host has written. To guess an incarnation could repeat one.
    #[error("`{}` is damaged: `{found}` is not {expected}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The beginning of what is in it.
        found: String,
        /// The content that is expected in it.
        expected: &'static str,
    },
}

impl Identity {
    /// Reads the id in `dir`, or begins a new host named by `random` there. `process` is drawn for
    /// this process.
    pub(super) fn open(dir: &Path, random: u64, process: u64) -> Result<Self, IdentityError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let path = dir.join(LOCK);
        let lock = File::create(&path).map_err(failed("create", &path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::Held { dir: dir.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed("lock", &path)(source)),
        }

        let path = dir.join(ID);
        let id = match read(&path)? {
            Some(id) if is_host_id(&id) => id,
            Some(found) => return Err(damaged(path, &found, "the id of a host")),
            None => {
                let id = format!("host-{random:016x}");
                replace(&path, &id)?;
                id
            }
        };
        let predecessor = begin_process(dir, process)?;
        Ok(Self { dir: dir.to_owned(), id: id.as_str().into(), process, predecessor, _lock: lock })
    }

    /// Tells this process from every other one.
    pub(super) fn process(&self) -> u64 {
        self.process
    }

    /// The process that had this directory before, which has ended, because the directory is
    /// locked; 0 when that is not certain.
    pub(super) fn predecessor(&self) -> u64 {
        self.predecessor
    }

    /// Whether another process had taken the id when this directory was last used.
    pub(super) fn was_replaced(&self) -> bool {
        self.dir.join(REPLACED).exists()
    }

    /// Remembers that another process has taken the id: whoever starts here next leaves it to that
    /// one, or both would throw each other out again and again.
    pub(super) fn note_replaced(&self, by: &HostInfo) -> Result<(), IdentityError> {
        // No life of ours is to be one that another process has had: a leader takes no earlier life
        // than it has seen.
        let above = Incarnation(by.incarnation.0.saturating_add(LIVES_UNSEEN));
        if self.last_life()? < above {
            replace(&self.dir.join(INCARNATION), &above.to_string())?;
        }
        replace(
            &self.dir.join(REPLACED),
            &format!("by process {:016x}, life {} at {}", by.process, by.incarnation, by.address),
        )
    }

    /// The id is this directory's again.
    pub(super) fn note_registered(&self) -> Result<(), IdentityError> {
        let path = self.dir.join(REPLACED);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    pub(super) fn host(&self) -> &HostId {
        &self.id
    }

    /// Begins a new life: an incarnation greater than every one before, and than `above`, durable
    /// before anybody hears of it.
    pub(super) fn begin_life(&self, above: Incarnation) -> Result<Incarnation, IdentityError> {
        let next = self.last_life()?.max(above).next();
        replace(&self.dir.join(INCARNATION), &next.to_string())?;
        Ok(next)
    }

    fn last_life(&self) -> Result<Incarnation, IdentityError> {
        let path = self.dir.join(INCARNATION);
        match read(&path)? {
            Some(text) => text.parse().map(Incarnation).map_err(|_| damaged(path, &text, "a number")),
            None => Ok(Incarnation(0)),
        }
    }
}

/// Writes down that `process` has this directory, and gives the one that had it before and has
/// certainly ended: a copy of the directory is another directory, and a copied machine has been
/// started since.
fn begin_process(dir: &Path, process: u64) -> Result<u64, IdentityError> {
    let path = dir.join(PROCESS);
    let place = fs::metadata(dir).map_err(failed("look at", dir))?;
    let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
    let here = format!("{}:{} {}", place.dev(), place.ino(), boot.trim());
    let known = read(&path)?.unwrap_or_default();
    let before = known.split_once(' ').filter(|(_, there)| *there == here);
    let predecessor = before.and_then(|(before, _)| u64::from_str_radix(before, 16).ok()).unwrap_or(0);
    replace(&path, &format!("{process:016x} {here}"))?;
    Ok(predecessor)
}

/// Ids become part of bus subjects, so nothing in them may mean something there.
fn is_host_id(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path)(source)),
    }
}

/// Replaces a file so that after a crash there is the old text or the new one, never half of one.
fn replace(path: &Path, text: &str) -> Result<(), IdentityError> {
    let temporary = path.with_extension("tmp");
    let mut file = File::create(&temporary).map_err(failed("create", &temporary))?;
    file.write_all(format!("{text}\n").as_bytes()).map_err(failed("write", &temporary))?;
    file.sync_all().map_err(failed("make durable", &temporary))?;
    fs::rename(&temporary, path).map_err(failed("replace", path))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("make durable", dir))
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::File { action, path: path.to_owned(), source }
}

fn damaged(path: PathBuf, found: &str, expected: &'static str) -> IdentityError {
    IdentityError::Damaged { path, found: found.chars().take(40).collect(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_and_the_incarnation_grows() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path(), 7, 70).unwrap();
        assert_eq!(identity.host(), &HostId::from("host-0000000000000007"));
        assert_eq!(identity.begin_life(Incarnation(0)).unwrap(), Incarnation(1));
        assert_eq!(identity.begin_life(Incarnation(0)).unwrap(), Incarnation(2));
        drop(identity);
        let identity = Identity::open(dir.path(), 8, 80).unwrap();
        assert_eq!(identity.host(), &HostId::from("host-0000000000000007"));
        assert_eq!(identity.begin_life(Incarnation(0)).unwrap(), Incarnation(3));
    }

    #[test]
    fn f31_a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), 1, 10).unwrap();
        assert!(matches!(Identity::open(dir.path(), 1, 10), Err(IdentityError::Held { .. })));
        drop(first);
        assert!(Identity::open(dir.path(), 1, 10).is_ok());
    }

    #[test]
    fn a_damaged_file_is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(INCARNATION), "x").unwrap();
        let identity = Identity::open(dir.path(), 1, 10).unwrap();
        assert!(matches!(identity.begin_life(Incarnation(0)), Err(IdentityError::Damaged { .. })));
        drop(identity);
        fs::write(dir.path().join(ID), "host.>\n").unwrap();
        let error = Identity::open(dir.path(), 1, 10).unwrap_err().to_string();
        assert!(error.ends_with("is damaged: `host.>` is not the id of a host"), "{error}");
    }
    #[test]
    fn f53_a_copied_directory_has_no_predecessor_and_remembers_its_life() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), 1, 70).unwrap();
        assert_eq!((first.predecessor(), first.begin_life(Incarnation(0)).unwrap()), (0, Incarnation(1)));
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        let second = Identity::open(copy.path(), 1, 71).unwrap();
        assert_eq!((second.host(), second.predecessor()), (first.host(), 0), "the first one lives");
        assert_eq!(second.begin_life(Incarnation(9)).unwrap(), Incarnation(10), "later than what is registered");
        drop(first);
        assert_eq!(Identity::open(dir.path(), 1, 72).unwrap().predecessor(), 70, "it held the lock");
    }

    #[test]
    fn f53_who_was_replaced_remembers_it_until_the_id_is_its_own_again() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::open(dir.path(), 1, 70).unwrap();
        assert!(!identity.was_replaced());
        identity.note_registered().unwrap();
        identity
            .note_replaced(&HostInfo {
                incarnation: Incarnation(9),
                process: 71,
                address: "b".to_owned(),
                ..HostInfo::default()
            })
            .unwrap();
        drop(identity);
        let identity = Identity::open(dir.path(), 1, 72).unwrap();
        assert!(identity.was_replaced());
        assert_eq!(identity.begin_life(Incarnation(0)).unwrap(), Incarnation(1_010), "others have had 9 at least");
        identity.note_registered().unwrap();
        assert!(!identity.was_replaced());
    }
}
