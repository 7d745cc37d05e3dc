//! The resources of this machine.

use std::path::Path;

use super::config::Machine;

/// Cores and memory, as far as control groups let this process use them.
pub(crate) fn detect() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    let total = meminfo_bytes(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default());
    let memory_bytes = total.unwrap_or(MEMORY_UNKNOWN_BYTES).min(cgroup_limit_bytes().unwrap_or(u64::MAX));
    Machine { cores, memory_bytes }
}

/// The memory that is assumed where `/proc` does not tell.
const MEMORY_UNKNOWN_BYTES: u64 = 2 << 30;

fn meminfo_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The limit of this process's control group (version 2), when there is one.
fn cgroup_limit_bytes() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limit = std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(group).join("memory.max")).ok()?;
    limit.trim().parse().ok()
}

/// Raises the limit of open files to what the system allows; every connection and every blob being
/// read takes one. Answers how many there may be.
pub(crate) fn raise_open_files_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get a pointer to a live `rlimit`.
    #[allow(unsafe_code, reason = "the standard library has no call for resource limits")]
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
            libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        }
    }
    limit.rlim_cur
}

/// The name of the machine.
pub(crate) fn name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_read() {
        assert_eq!(meminfo_bytes("MemTotal:       24601234 kB\nMemFree: 1 kB\n"), Some(24_601_234 * 1024));
        assert_eq!(meminfo_bytes(""), None);
        assert!(detect().memory_bytes > 0);
    }
}
