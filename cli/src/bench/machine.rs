//! The machine of the figures.

use std::path::Path;

use serde::Serialize;

/// Enough to judge a figure by.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    version: &'static str,
    build: &'static str,
    cpu: String,
    cores: usize,
    kernel: String,
}

/// This machine, as far as it says.
pub(super) fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    Machine {
        version: env!("CARGO_PKG_VERSION"),
        build: if cfg!(debug_assertions) { "debug" } else { "release" },
        cpu: model.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned()),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
    }
}

impl Machine {
    /// For people.
    pub(super) fn line(&self) -> String {
        let Self { version, build, cpu, cores, kernel } = self;
        let warning = if *build == "debug" { "\nThis is a debug build: its figures say nothing." } else { "" };
        format!("wasmill {version} ({build}), {cores} cores of {cpu}, Linux {kernel}{warning}")
    }
}

/// The type of the file system that holds `path`, such as `ext4`; `None` when the system does not
/// say.
pub(super) fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    // The last of the longest mount points that hold the path is the one that is seen.
    let holding = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        path.starts_with(point).then_some((point.len(), kind))
    });
    holding.max_by_key(|(length, _)| *length).map(|(_, kind)| kind.to_owned())
}

/// A figure of `/proc/PID/status` in bytes, such as `VmRSS`; `None` when the process is gone.
pub(super) fn memory_bytes(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_file_system() {
        assert!(memory_bytes(std::process::id(), "VmRSS").is_some_and(|bytes| bytes > 4096));
        assert_eq!(memory_bytes(std::process::id(), "VmNothing"), None);
        assert_eq!(file_system(Path::new("/proc/self")).as_deref(), Some("proc"));
    }
}
