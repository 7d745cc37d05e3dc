//! A data directory that nobody else can look into: what tenants send and get is in it.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The mode bits of everybody.
const OTHERS_MAY_WRITE: u32 = 0o002;

/// Files that others could use. They are told when there is a log to tell them in.
#[derive(Debug, Default)]
pub(super) struct Opened(Vec<(PathBuf, u32, io::Result<()>)>);

impl Opened {
    /// Says it. A file that could not be changed may be meant so.
    pub(super) fn report(self) {
        for (path, mode, mended) in self.0 {
            let (path, mode) = (path.display(), format!("{mode:04o}"));
            match mended {
                Ok(()) => tracing::info!(%path, mode, "other users could use this, and cannot any more"),
                Err(error) => tracing::warn!(%path, mode, %error, "other users can use this"),
            }
        }
    }
}

/// Creates the directory if it is missing, and takes from everybody else what they may do in it and
/// with the files that are there. Files that this process makes from here on are its own, wherever
/// they are.
///
/// # Errors
///
/// Everybody may write into the directory: what is in it can be anybody's.
pub(super) fn take(data: &Path) -> anyhow::Result<Opened> {
    keep_new_files_private();
    let failed = |action: &str| format!("cannot {action} the data directory `{}`", data.display());
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(data).with_context(|| failed("create"))?;
    let found = fs::metadata(data).with_context(|| failed("use"))?;
    ensure!(found.is_dir(), "{}: it is not a directory", failed("use"));
    ensure!(
        found.permissions().mode() & OTHERS_MAY_WRITE == 0,
        "{}: everybody may write into it, and could have replaced what is there; if nobody has, `chmod 700 {}`",
        failed("use"),
        data.display()
    );
    let mut opened = Opened::default();
    opened.mend(data, &found);
    opened.mend_entries(data).with_context(|| failed("look into"))?;
    // A host beside a control node has a directory of its own in it.
    let host = data.join("host");
    if host.is_dir() {
        opened.mend_entries(&host).with_context(|| failed("look into"))?;
    }
    Ok(opened)
}

impl Opened {
    /// The files that lie in a directory, and its directories: nobody who cannot enter those
    /// reaches what is in them.
    fn mend_entries(&mut self, dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) => self.mend(&entry.path(), &found),
                // It has just been removed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes from others what they may do with a file or a directory.
    fn mend(&mut self, path: &Path, found: &Metadata) {
        let wanted = match found {
            dir if dir.is_dir() => DIR_MODE,
            file if file.is_file() => FILE_MODE,
            // The target of a link was not put there by this program.
            _ => return,
        };
        let mode = found.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            let mended = fs::set_permissions(path, Permissions::from_mode(wanted));
            self.0.push((path.to_owned(), mode, mended));
        }
    }
}

#[allow(unsafe_code, reason = "setting the mask of this process is a system call")]
fn keep_new_files_private() {
    // SAFETY: takes a number and cannot fail.
    unsafe { libc::umask(0o077) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_others_could_read_they_cannot_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("host/cache")).unwrap();
        let (log, id, blobs) = (data.join("log.sqlite"), data.join("host/host.id"), data.join("blobs"));
        fs::create_dir(&blobs).unwrap();
        for (path, before) in [(&log, 0o644), (&id, 0o664)] {
            fs::write(path, "x").unwrap();
            set(path, before);
        }
        let outside = dir.path().join("outside");
        fs::write(&outside, "x").unwrap();
        set(&outside, 0o644);
        std::os::unix::fs::symlink(&outside, data.join("link")).unwrap();
        for dir in [&data, &blobs, &data.join("host"), &data.join("host/cache")] {
            set(dir, 0o755);
        }
        assert_eq!(take(&data).unwrap().0.len(), 6);
        for path in [&data, &blobs, &data.join("host"), &data.join("host/cache")] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        assert_eq!([mode(&log), mode(&id), mode(&outside)], [0o600, 0o600, 0o644]);
        let new = data.join("new");
        fs::write(&new, "x").unwrap();
        assert_eq!(mode(&new), 0o600, "whatever mask the process was started with");
        take(&dir.path().join("missing/data")).unwrap();
        assert_eq!(mode(&dir.path().join("missing/data")), 0o700);
    }

    #[test]
    fn where_everybody_may_write_nothing_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        for bad in [0o777, 0o1777, 0o702] {
            set(dir.path(), bad);
            let error = take(dir.path()).unwrap_err().to_string();
            assert!(error.contains("everybody may write") && error.contains("chmod 700"), "{error}");
        }
        set(dir.path(), 0o770);
        take(dir.path()).unwrap();
        assert_eq!(mode(dir.path()), 0o700);
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(take(&file).is_err());
    }
}
