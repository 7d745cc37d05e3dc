//! Which descriptors of WASI 0.1 are open: there are three at the start, and no way to get more.

use wasmtime::{Caller, Linker};

use super::{Called, ERRNO_BADF, MODULE, Refused, errno, memory};
use crate::sandbox::guest::Guest;

const DESCRIPTORS: usize = 3;

const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
const FDSTAT_BYTES: usize = 24;

/// The stream of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

/// The open descriptors of a guest.
#[derive(Debug, Clone, Copy)]
pub(in crate::sandbox) struct Descriptors([Option<Stream>; DESCRIPTORS]);

impl Default for Descriptors {
    fn default() -> Self {
        Self([Some(Stream::Stdin), Some(Stream::Stdout), Some(Stream::Stderr)])
    }
}

impl Descriptors {
    /// The stream of an open descriptor.
    pub(super) fn get(&self, fd: u32) -> Option<Stream> {
        self.0.get(fd as usize).copied().flatten()
    }

    fn close(&mut self, fd: u32) -> Called {
        self.get(fd).ok_or(Refused::Errno(ERRNO_BADF))?;
        self.0[fd as usize] = None;
        Ok(())
    }

    /// `to` is what `from` was, which is closed. Both must be open.
    fn renumber(&mut self, from: u32, to: u32) -> Called {
        let (Some(stream), Some(_)) = (self.get(from), self.get(to)) else { return Err(Refused::Errno(ERRNO_BADF)) };
        self.0[from as usize] = None;
        self.0[to as usize] = Some(stream);
        Ok(())
    }
}

/// Defines the functions that change descriptors, and the one by which programs look whether they
/// are open.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(MODULE, "fd_close", |mut caller: Caller<'_, Guest>, fd: i32| {
        errno(caller.data_mut().descriptors.close(fd as u32))
    })?;
    linker.func_wrap(MODULE, "fd_renumber", |mut caller: Caller<'_, Guest>, from: i32, to: i32| {
        errno(caller.data_mut().descriptors.renumber(from as u32, to as u32))
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Caller<'_, Guest>, fd: i32, out: i32| {
        errno(fdstat_get(&mut caller, fd as u32, out as u32))
    })?;
    Ok(())
}

/// Writes an `fdstat` in the layout of `wasi_snapshot_preview1.witx`: a stream of no known type,
/// without flags.
fn fdstat_get(caller: &mut Caller<'_, Guest>, fd: u32, out: u32) -> Called {
    let rights = match caller.data().descriptors.get(fd) {
        Some(Stream::Stdin) => RIGHT_READ,
        Some(Stream::Stdout | Stream::Stderr) => RIGHT_WRITE,
        None => return Err(Refused::Errno(ERRNO_BADF)),
    };
    let mut fdstat = [0; FDSTAT_BYTES];
    fdstat[8..16].copy_from_slice(&rights.to_le_bytes());
    fdstat[16..24].copy_from_slice(&rights.to_le_bytes());
    let memory = memory(caller).map_err(Refused::Trap)?;
    memory.write(&mut *caller, out as usize, &fdstat).map_err(|_| wasmtime::Trap::MemoryOutOfBounds.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_closed_and_moved_and_never_made() {
        let mut descriptors = Descriptors::default();
        assert_eq!(
            [0, 1, 2, 3].map(|fd| descriptors.get(fd)),
            [Some(Stream::Stdin), Some(Stream::Stdout), Some(Stream::Stderr), None]
        );
        assert!(descriptors.renumber(1, 3).is_err() && descriptors.renumber(3, 1).is_err());
        assert!(descriptors.renumber(2, 1).is_ok());
        assert_eq!([1, 2].map(|fd| descriptors.get(fd)), [Some(Stream::Stderr), None]);
        assert!(descriptors.close(2).is_err() && descriptors.close(0).is_ok() && descriptors.close(0).is_err());
    }

    #[test]
    fn a_descriptor_that_is_renumbered_to_itself_stays_open() {
        let mut descriptors = Descriptors::default();
        assert!(descriptors.renumber(1, 1).is_ok());
        assert_eq!(descriptors.get(1), Some(Stream::Stdout));
    }
}
