//! Reading and writing of WASI 0.1.
//!
//! wasmtime-wasi's look at the first buffer that is not empty, which WASI allows, and which loses
//! the rest of a text for programs that do not look at how much was taken; and they answer a read
//! into no buffer as an interrupted one. Streams are in memory here, so that all buffers are read
//! into and written from, as POSIX programs expect of files.

use wasmtime::{Caller, Linker, Memory, Trap};

use super::descriptors::Stream;
use super::{Called, ERRNO_BADF, ERRNO_SPIPE, MODULE, Refused, errno, memory};
use crate::sandbox::guest::Guest;
use crate::sandbox::output::{CHUNK_BYTES_MAX, Target, YIELD_BYTES};

/// Bytes of an `iovec`: address and length.
const BUFFER_BYTES: usize = 8;

/// Where the buffers of a call are, and where the number of bytes goes that were moved.
#[derive(Debug, Clone, Copy)]
struct Buffers {
    start: usize,
    count: u32,
    moved: usize,
}

impl Buffers {
    fn new(start: i32, count: i32, moved: i32) -> Self {
        Self { start: start as u32 as usize, count: count as u32, moved: moved as u32 as usize }
    }
}

/// Defines the functions.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        MODULE,
        "fd_read",
        |mut caller: Caller<'_, Guest>, (fd, start, count, moved): (i32, i32, i32, i32)| {
            let buffers = Buffers::new(start, count, moved);
            Box::new(async move { errno(read(&mut caller, fd as u32, buffers).await) })
        },
    )?;
    linker.func_wrap_async(
        MODULE,
        "fd_write",
        |mut caller: Caller<'_, Guest>, (fd, start, count, moved): (i32, i32, i32, i32)| {
            let buffers = Buffers::new(start, count, moved);
            Box::new(async move { errno(write(&mut caller, fd as u32, buffers).await) })
        },
    )?;
    // Streams have no positions.
    linker.func_wrap(MODULE, "fd_pread", |caller: Caller<'_, Guest>, fd: i32, _: i32, _: i32, _: i64, _: i32| {
        match stream(&caller, fd as u32) {
            Some(Stream::Stdin) => i32::from(ERRNO_SPIPE),
            _ => i32::from(ERRNO_BADF),
        }
    })?;
    linker.func_wrap(MODULE, "fd_pwrite", |caller: Caller<'_, Guest>, fd: i32, _: i32, _: i32, _: i64, _: i32| {
        match stream(&caller, fd as u32) {
            Some(Stream::Stdout | Stream::Stderr) => i32::from(ERRNO_SPIPE),
            _ => i32::from(ERRNO_BADF),
        }
    })?;
    Ok(())
}

fn stream(caller: &Caller<'_, Guest>, fd: u32) -> Option<Stream> {
    caller.data().descriptors.get(fd)
}

/// Fills the buffers in order with what there is of stdin.
async fn read(caller: &mut Caller<'_, Guest>, fd: u32, buffers: Buffers) -> Called {
    if stream(caller, fd) != Some(Stream::Stdin) {
        return Err(Refused::Errno(ERRNO_BADF));
    }
    let mut walk = Walk::begin(caller, buffers)?;
    while let Some((start, length)) = walk.next(caller).await? {
        let bytes = caller.data().stdin.take(length);
        walk.memory.write(&mut *caller, start, &bytes).map_err(|_| Trap::MemoryOutOfBounds)?;
        walk.moved += bytes.len() as u32;
        if bytes.len() < length {
            break;
        }
    }
    walk.end(caller)
}

/// Writes all buffers in order.
async fn write(caller: &mut Caller<'_, Guest>, fd: u32, buffers: Buffers) -> Called {
    let target = match stream(caller, fd) {
        Some(Stream::Stdout) => Target::Result,
        Some(Stream::Stderr) => Target::Captured,
        Some(Stream::Stdin) | None => return Err(Refused::Errno(ERRNO_BADF)),
    };
    let mut walk = Walk::begin(caller, buffers)?;
    while let Some((start, length)) = walk.next(caller).await? {
        let (memory, guest) = walk.memory.data_and_store_mut(&mut *caller);
        let bytes = memory.get(start..start + length).ok_or(Trap::MemoryOutOfBounds)?;
        guest.output.write(target, bytes, &guest.control).map_err(|stopped| Refused::Trap(stopped.into()))?;
        walk.moved += length as u32;
    }
    walk.end(caller)
}

/// Goes through the buffers of a call in pieces that are quickly moved, and lets others run in
/// between: buffers may overlap, so that a call can move more than there is memory.
struct Walk {
    memory: Memory,
    buffers: Buffers,
    /// The rest of the buffer that was begun.
    rest: (usize, u32),
    /// Bytes moved so far.
    moved: u32,
    unyielded: usize,
}

impl Walk {
    /// Checks all that can be checked before anything is moved.
    fn begin(caller: &mut Caller<'_, Guest>, buffers: Buffers) -> Result<Self, Refused> {
        let memory = memory(caller).map_err(Refused::Trap)?;
        let size = memory.data_size(&*caller);
        if buffers.start + buffers.count as usize * BUFFER_BYTES > size || buffers.moved + size_of::<u32>() > size {
            return Err(Trap::MemoryOutOfBounds.into());
        }
        Ok(Self { memory, buffers, rest: (0, 0), moved: 0, unyielded: 0 })
    }

    /// The next piece: its address and its length. `None` after the last, or when more could not be
    /// counted.
    async fn next(&mut self, caller: &mut Caller<'_, Guest>) -> Result<Option<(usize, usize)>, Refused> {
        while self.rest.1 == 0 {
            if self.buffers.count == 0 {
                return Ok(None);
            }
            self.rest = self.buffer(caller)?;
            self.buffers.start += BUFFER_BYTES;
            self.buffers.count -= 1;
            self.spend(BUFFER_BYTES).await;
        }
        let (start, length) = self.rest;
        let piece = length.min(CHUNK_BYTES_MAX as u32).min(u32::MAX - self.moved);
        if piece == 0 {
            return Ok(None);
        }
        self.rest = (start + piece as usize, length - piece);
        self.spend(piece as usize).await;
        Ok(Some((start, piece as usize)))
    }

    /// The buffer at the head of the list, all of whose bytes lie in memory.
    fn buffer(&self, caller: &Caller<'_, Guest>) -> Result<(usize, u32), Refused> {
        let data = self.memory.data(caller);
        let number = |at: usize| {
            let bytes = data.get(at..at + size_of::<u32>()).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_le_bytes).ok_or(Trap::MemoryOutOfBounds)
        };
        let (start, length) = (number(self.buffers.start)? as usize, number(self.buffers.start + size_of::<u32>())?);
        if length > 0 && start + length as usize > data.len() {
            return Err(Trap::MemoryOutOfBounds.into());
        }
        Ok((start, length))
    }

    async fn spend(&mut self, bytes: usize) {
        self.unyielded += bytes;
        if self.unyielded >= YIELD_BYTES {
            self.unyielded = 0;
            tokio::task::yield_now().await;
        }
    }

    /// Says how much was moved.
    fn end(self, caller: &mut Caller<'_, Guest>) -> Called {
        let moved = self.moved.to_le_bytes();
        self.memory.write(caller, self.buffers.moved, &moved).map_err(|_| Trap::MemoryOutOfBounds.into())
    }
}
