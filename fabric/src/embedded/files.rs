//! Files and directories that are there after a power loss.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Creates a directory that only its owner can look into, and its parents. One that exists is left
/// as it is.
pub(super) fn create_dir_private(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    sync_parent(dir)
}

/// Makes the entries of the directory that holds `path` durable: a file that was created or
/// renamed, not its bytes.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => return Ok(()),
    };
    File::open(parent)?.sync_all()
}

/// Writes that many bytes to a file beside others, and removes it.
pub(super) fn has_room(path: &Path, bytes: usize) -> io::Result<()> {
    let written = File::create(path).and_then(|mut file| {
        file.write_all(&vec![0; bytes])?;
        file.sync_all()
    });
    let removed = fs::remove_file(path);
    written.and(removed)
}

/// The size of a file that is replaced as a whole.
const REPLACED_BYTES: usize = 32;

/// A line of text that is replaced as a whole, also while the disk is full: what is written next
/// already has its place beside it.
pub(super) struct Line {
    path: PathBuf,
    next: PathBuf,
}

impl Line {
    /// Makes room for the next line. On a full disk that is missing until there is space.
    pub(super) fn open(path: &Path) -> Self {
        let line = Self { path: path.to_owned(), next: path.with_extension("next") };
        if let Err(error) = line.make_room() {
            tracing::warn!(path = %line.next.display(), %error, "cannot make room for what is written next");
        }
        line
    }

    /// Its content.
    pub(super) fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.path)?.trim().to_owned())
    }

    /// Says something else, of up to 31 bytes: after a crash it says either the old or the new.
    pub(super) fn replace(&self, text: &str) -> io::Result<()> {
        let padded = format!("{text:<width$}\n", width = REPLACED_BYTES - 1);
        // Written over what is there: that takes no space.
        let mut file = File::options().write(true).create(true).truncate(false).open(&self.next)?;
        file.write_all(padded.as_bytes())?;
        file.set_len(padded.len() as u64)?;
        file.sync_all()?;
        if !self.path.exists() || exchange(&self.next, &self.path).is_err() {
            fs::rename(&self.next, &self.path)?;
            sync_parent(&self.path)?;
            // The room for the next one went with it. Without any it is tried again then.
            let _ = self.make_room();
            return Ok(());
        }
        sync_parent(&self.path)
    }

    fn make_room(&self) -> io::Result<()> {
        let file = File::options().write(true).create(true).truncate(false).open(&self.next)?;
        if file.metadata()?.len() < REPLACED_BYTES as u64 {
            (&file).write_all(&[b'\n'; REPLACED_BYTES])?;
            file.sync_all()?;
            sync_parent(&self.next)?;
        }
        Ok(())
    }
}

/// Gives each of two files the name of the other, at once.
fn exchange(left: &Path, right: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, left, CWD, right, RenameFlags::EXCHANGE)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn f26_a_line_is_replaced_without_a_new_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("term");
        let line = Line::open(&path);
        assert_eq!(line.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        line.replace("1").unwrap();
        let files = || {
            let inode = |path: &Path| (fs::metadata(path).unwrap().ino(), fs::metadata(path).unwrap().blocks());
            std::collections::BTreeSet::from([inode(&path), inode(&path.with_extension("next"))])
        };
        let before = files();
        for text in ["2", "18446744073709551615", "3"] {
            line.replace(text).unwrap();
            assert_eq!(line.read().unwrap(), text);
            assert_eq!(files(), before, "the two files have changed their names and nothing else");
        }
        // A file of an earlier version is read, and replaced.
        fs::write(&path, "12\n").unwrap();
        let line = Line::open(&path);
        assert_eq!(line.read().unwrap(), "12");
        line.replace("13").unwrap();
        assert_eq!(Line::open(&path).read().unwrap(), "13");
    }
}
