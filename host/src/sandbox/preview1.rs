//! The functions of WASI 0.1 that wasmtime-wasi's do not fit here; they replace its own.
//!
//! There are no files and no sockets, so that few things are left to wait for: a clock, and streams
//! that are always ready.

mod descriptors;
mod poll;
mod streams;

use wasmtime::{Caller, Extern, Linker, Memory, Trap};
use wasmtime_wasi::I32Exit;

use super::guest::Guest;
use super::random;

pub(super) use descriptors::Descriptors;

const MODULE: &str = "wasi_snapshot_preview1";

const ERRNO_BADF: u16 = 8;
const ERRNO_FAULT: u16 = 21;
const ERRNO_INVAL: u16 = 28;
const ERRNO_SPIPE: u16 = 70;

/// Why a call of the guest's does not do what it was asked for.
#[derive(Debug)]
enum Refused {
    /// The guest gets the code.
    Errno(u16),
    /// The guest is stopped, as the interface demands for pointers out of bounds.
    Trap(wasmtime::Error),
}

type Called = Result<(), Refused>;

/// Defines the functions; shadowing must be allowed.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    // wasmtime-wasi's traps on codes over 125.
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> { Err(I32Exit(code).into()) })?;
    // wasmtime-wasi's copies the path before it looks at the descriptor. No descriptor is a
    // directory here.
    linker.func_wrap(
        MODULE,
        "path_open",
        |_fd: i32, _: i32, _path: i32, _: i32, _: i32, _: i64, _: i64, _: i32, _out: i32| i32::from(ERRNO_BADF),
    )?;
    // wasmtime-wasi's traps on more than a few bytes, or copies all of them at once.
    linker.func_wrap_async(MODULE, "random_get", |mut caller: Caller<'_, Guest>, (start, length): (i32, i32)| {
        Box::new(async move {
            let memory = memory(&mut caller)?;
            random::write(&mut caller, &memory, start as u32, length as u32).await?;
            Ok(0_i32)
        })
    })?;
    descriptors::add_to_linker(linker)?;
    streams::add_to_linker(linker)?;
    poll::add_to_linker(linker)
}

/// The result of the guest's call: 0, a code, or a trap.
fn errno(called: Called) -> wasmtime::Result<i32> {
    match called {
        Ok(()) => Ok(0),
        Err(Refused::Errno(code)) => Ok(i32::from(code)),
        Err(Refused::Trap(error)) => Err(error),
    }
}

/// The memory that the guest's pointers point into.
fn memory(caller: &mut Caller<'_, Guest>) -> wasmtime::Result<Memory> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory),
        _ => Err(wasmtime::format_err!("the module exports no memory named `memory`")),
    }
}

impl From<Trap> for Refused {
    fn from(trap: Trap) -> Self {
        Self::Trap(trap.into())
    }
}
