//! Limits that a process sets for itself and cannot lift again.
#![allow(unsafe_code, reason = "setting limits is a system call")]

use std::fs;
use std::io;
use std::io::Read;

use super::request::CompileLimits;

/// Files that the child has open at the same time: stdio, the module, the artifact, and what
/// loading it needs.
const OPEN_FILES_MAX: u64 = 32;
/// The child gives way to everything that serves requests, and uses what is left.
const NICENESS: i32 = 10;
/// How long the kernel lets a process that ignores the signal for too much CPU time go on before it
/// kills it.
const CPU_GRACE_S: u64 = 2;

/// Sets the limits of the compiling child for the calling process, for good.
///
/// The limit for memory counts from here on: what the process has mapped already (the program, its
/// libraries) does not count. Exceeding it fails an allocation, which ends the process; exceeding
/// the CPU time or the size of a file is a signal.
///
/// # Errors
///
/// When a limit cannot be set, or the process has more already.
pub(crate) fn confine(limits: &CompileLimits) -> io::Result<()> {
    let mapped = mapped_bytes()?;
    limit(libc::RLIMIT_CORE, 0, 0)?;
    limit(libc::RLIMIT_NOFILE, OPEN_FILES_MAX, OPEN_FILES_MAX)?;
    limit(libc::RLIMIT_FSIZE, limits.artifact_bytes, limits.artifact_bytes)?;
    limit(libc::RLIMIT_CPU, limits.cpu_s, limits.cpu_s.saturating_add(CPU_GRACE_S))?;
    let memory = mapped.saturating_add(limits.memory_bytes);
    limit(libc::RLIMIT_AS, memory, memory)?;
    // SAFETY: no memory is passed. To run at the usual priority instead is no reason to fail.
    unsafe { libc::nice(NICENESS) };
    // SAFETY: no memory is passed. From here on no program that is started gains rights by a file's
    // mode.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn limit(resource: libc::__rlimit_resource_t, soft: u64, hard: u64) -> io::Result<()> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `now` lives and is of the type that the call writes.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The operator may have set a lower limit, which cannot be raised and is as good.
    let limits = libc::rlimit { rlim_cur: soft.min(now.rlim_max), rlim_max: hard.min(now.rlim_max) };
    // SAFETY: `limits` lives and is of the type that the call reads.
    if unsafe { libc::setrlimit(resource, &raw const limits) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Address space that the calling process uses.
fn mapped_bytes() -> io::Result<u64> {
    let mut text = String::new();
    fs::File::open("/proc/self/statm")?.read_to_string(&mut text)?;
    let pages: u64 = text
        .split_whitespace()
        .next()
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| io::Error::other("`/proc/self/statm` does not begin with a number"))?;
    // SAFETY: no memory is passed.
    let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page_bytes).unwrap_or(4096))
}

/// CPU time that the calling process has used, in microseconds.
pub(crate) fn cpu_us() -> u64 {
    // SAFETY: an all-zero `rusage` is a valid value of that type.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` lives and is of the type that the call writes.
    if unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) } != 0 {
        return 0;
    }
    let micros = |time: libc::timeval| u64::try_from(time.tv_sec * 1_000_000 + time.tv_usec).unwrap_or(0);
    micros(usage.ru_utime) + micros(usage.ru_stime)
}
