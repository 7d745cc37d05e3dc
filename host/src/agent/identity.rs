//! Who the host is, across restarts: its id and its incarnation, each a file in the data directory.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;
use wasmill_protocol::{HostId, Incarnation};

/// Says which host this is.
const ID: &str = "host.id";
/// The last life that has begun.
const INCARNATION: &str = "host.incarnation";
/// Held by the process that is this host.
const LOCK: &str = "host.lock";

/// The id of a host; nobody else can be this host as long as it is held.
#[derive(Debug)]
pub(super) struct Identity {
    dir: PathBuf,
    id: HostId,
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
        /// What was attempted.
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
        /// What should be in it.
        expected: &'static str,
    },
}

impl Identity {
    /// Reads the id in `dir`, or begins a new host named by `random` there.
    pub(super) fn open(dir: &Path, random: u64) -> Result<Self, IdentityError> {
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
        Ok(Self { dir: dir.to_owned(), id: id.as_str().into(), _lock: lock })
    }

    pub(super) fn host(&self) -> &HostId {
        &self.id
    }

    /// Begins a new life: an incarnation greater than every one before, durable before anybody hears of it.
    pub(super) fn begin_life(&self) -> Result<Incarnation, IdentityError> {
        let path = self.dir.join(INCARNATION);
        let last = match read(&path)? {
            Some(text) => text.parse().map_err(|_| damaged(path.clone(), &text, "a number"))?,
            None => 0,
        };
        let next = Incarnation(last).next();
        replace(&path, &next.to_string())?;
        Ok(next)
    }
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
        let identity = Identity::open(dir.path(), 7).unwrap();
        assert_eq!(identity.host(), &HostId::from("host-0000000000000007"));
        assert_eq!(identity.begin_life().unwrap(), Incarnation(1));
        assert_eq!(identity.begin_life().unwrap(), Incarnation(2));
        drop(identity);
        let identity = Identity::open(dir.path(), 8).unwrap();
        assert_eq!(identity.host(), &HostId::from("host-0000000000000007"));
        assert_eq!(identity.begin_life().unwrap(), Incarnation(3));
    }

    #[test]
    fn f31_a_second_process_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path(), 1).unwrap();
        assert!(matches!(Identity::open(dir.path(), 1), Err(IdentityError::Held { .. })));
        drop(first);
        assert!(Identity::open(dir.path(), 1).is_ok());
    }

    #[test]
    fn a_damaged_file_is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(INCARNATION), "x").unwrap();
        let identity = Identity::open(dir.path(), 1).unwrap();
        assert!(matches!(identity.begin_life(), Err(IdentityError::Damaged { .. })));
        drop(identity);
        fs::write(dir.path().join(ID), "host.>\n").unwrap();
        let error = Identity::open(dir.path(), 1).unwrap_err().to_string();
        assert!(error.ends_with("is damaged: `host.>` is not the id of a host"), "{error}");
    }
}
