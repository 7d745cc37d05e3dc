//! Files of the cache: private, and whole or not there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The extension of unfinished files.
pub(crate) const UNFINISHED: &str = "part";

/// A name in the same folder that no other unfinished file of this process has.
pub(crate) fn unfinished_path(path: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    path.with_extension(format!("{}-{number}.{UNFINISHED}", std::process::id()))
}

/// Writes a small file so that nobody ever sees a part of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished_path(path);
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&unfinished, path));
    if written.is_err() {
        // It may not even have been created; the error worth reporting is the first.
        let _ = fs::remove_file(&unfinished);
    }
    written
}

/// Creates a folder that only this user can enter, or checks one that is there.
///
/// # Errors
///
/// When it belongs to another user, or others may write into it: code is loaded from it.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let stat = fs::metadata(path)?;
    if !stat.is_dir() {
        return Err(io::Error::new(io::ErrorKind::NotADirectory, "it is not a folder"));
    }
    check_owner(&stat)?;
    if stat.permissions().mode() & 0o777 != 0o700 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Checks that only this user can have written a file or a folder.
pub(crate) fn check_owner(stat: &fs::Metadata) -> io::Result<()> {
    let refused = |text: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    let owner = stat.uid();
    let user = user_id();
    if owner != user {
        return refused(format!("it belongs to user {owner} and not to user {user} who runs this process"));
    }
    if stat.is_file() && stat.permissions().mode() & 0o022 != 0 {
        return refused("other users may write to it".to_owned());
    }
    Ok(())
}

#[allow(unsafe_code, reason = "asking who we are is a system call")]
fn user_id() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_become_private() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("a/b");
        private_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        private_folder(&folder).unwrap();
        assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn files_that_others_may_write_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        write_whole(&path, b"hello").unwrap();
        assert!(check_owner(&fs::metadata(&path).unwrap()).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(check_owner(&fs::metadata(&path).unwrap()).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
