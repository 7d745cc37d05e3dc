//! The data directory of a process of a cluster: who it is, and that nobody else is it.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use anyhow::{Context, bail, ensure};

/// Keeps other processes out of a directory until it is dropped, or the process dies.
#[derive(Debug)]
pub(crate) struct DataLock {
    _file: File,
}

impl DataLock {
    /// Creates the directory if it is missing, and takes it for this process.
    ///
    /// # Errors
    ///
    /// Another process has it, and is named.
    pub(crate) fn acquire(data: &Path) -> anyhow::Result<Self> {
        create_dir(data).with_context(|| format!("cannot create `{}`", data.display()))?;
        let path = data.join("lock");
        let failed = || format!("cannot lock `{}`", path.display());
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(&path).with_context(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // It may not have written its id yet; the refusal is the same without it.
                let _ = file.read_to_string(&mut holder);
                bail!("cannot use data directory `{}`: process {} uses it already", data.display(), holder.trim());
            }
            Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
        }
        file.set_len(0).with_context(failed)?;
        writeln!(file, "{}", std::process::id()).with_context(failed)?;
        Ok(Self { _file: file })
    }
}

/// The name that a process keeps over restarts: what the file holds, else `wanted`, else a new one
/// that begins with `prefix`.
///
/// # Errors
///
/// The file cannot be used, or holds another name than the wanted one.
pub(crate) fn identity(file: &Path, wanted: Option<&str>, prefix: &str) -> anyhow::Result<String> {
    let failed = |action: &str| format!("cannot {action} `{}`", file.display());
    match fs::read_to_string(file) {
        Ok(text) => {
            let kept = text.trim().to_owned();
            ensure!(
                wanted.is_none_or(|wanted| wanted == kept),
                "`{}` says that this is `{kept}`, not `{}`: use another data directory for another one",
                file.display(),
                wanted.unwrap_or_default()
            );
            return Ok(kept);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| failed("read")),
    }
    let drawn = getrandom::u64().map_err(|error| anyhow::anyhow!("cannot draw a random number: {error}"))?;
    let name = wanted.map_or_else(|| format!("{prefix}-{drawn:016x}"), str::to_owned);
    if let Some(dir) = file.parent() {
        create_dir(dir).with_context(|| failed("create the directory of"))?;
    }
    let next = file.with_extension("next");
    let write = || {
        let mut written = File::create(&next)?;
        writeln!(written, "{name}")?;
        written.sync_all()?;
        fs::rename(&next, file)
    };
    write().with_context(|| failed("write"))?;
    Ok(name)
}

/// Creates what is missing of a directory, for nobody else to look into: what tasks return is in
/// it.
fn create_dir(dir: &Path) -> std::io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_name_is_kept_and_never_changed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("host/host.id");
        let drawn = identity(&file, None, "host").unwrap();
        assert!(drawn.starts_with("host-") && drawn.len() == 21, "{drawn}");
        assert_eq!(identity(&file, None, "host").unwrap(), drawn);
        let error = identity(&file, Some("other"), "host").unwrap_err().to_string();
        assert!(error.contains("not `other`"), "{error}");
        assert_eq!(identity(&dir.path().join("b/id"), Some("mine"), "host").unwrap(), "mine");
        assert_eq!(fs::metadata(dir.path().join("b")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn f31_a_second_process_is_refused_by_the_name_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataLock::acquire(dir.path()).unwrap();
        let error = DataLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {} uses it already", std::process::id())), "{error}");
        drop(first);
        DataLock::acquire(dir.path()).unwrap();
    }
}
