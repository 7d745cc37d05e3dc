//! One attempt, run again in a sandbox of its own: what `wasmill replay` does on the machine of
//! whoever looks for a fault.
//!
//! The module is compiled by the same child and run by the same sandbox as on a host. Nothing is
//! kept afterwards.

use std::path::Path;
use std::sync::Arc;

use thiserror::Error;
use wasmill_protocol::limits::Caps;

use crate::channel::{Ended, FromSandbox, GuestRun, ToSandbox};
use crate::compile::{
    CompileProgram, Compiler, CompilerConfig, CompilerError, ModuleCache, ModuleCacheConfig, ModuleCaps, SlotLimits,
};
use crate::engine::{Engines, Instances};
use crate::sandbox::{Sandbox, SandboxConfig, SandboxError};

/// Seconds of CPU time for compiling the module, which a server somewhere has accepted: more than
/// servers give, because this machine may be slower, and nobody else waits.
const COMPILE_CPU_S: u64 = 300;
/// Milliseconds for the same on the clock.
const COMPILE_WALL_MS: u64 = 600_000;
/// Bytes of memory for the same.
const COMPILE_MEMORY_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Why an attempt could not be run again.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// No compiler.
    #[error("cannot prepare the compiler")]
    Compiler(#[from] CompilerError),
    /// No sandbox.
    #[error("cannot start a sandbox")]
    Sandbox(#[from] SandboxError),
    /// The sandbox has ended by itself.
    #[error("the sandbox has ended before the attempt did")]
    SandboxGone,
}

/// Runs an attempt to its end. `cache_dir` is an empty directory for what is compiled, `program`
/// compiles, and `caps` are those of the server that ran it first. Dropping the future stops the
/// guest.
///
/// # Errors
///
/// When there is no compiler or no sandbox on this machine; whatever the guest does is an end and
/// no error.
pub async fn replay(
    work: GuestRun,
    cache_dir: &Path,
    program: CompileProgram,
    caps: &Caps,
) -> Result<Ended, ReplayError> {
    let mut compiler = CompilerConfig::new(cache_dir, program);
    compiler.limits.cpu_s = COMPILE_CPU_S;
    compiler.limits.wall_ms = COMPILE_WALL_MS;
    compiler.limits.memory_bytes = COMPILE_MEMORY_BYTES;
    compiler.slots = SlotLimits::of(1);
    compiler.caps = ModuleCaps { module_bytes: caps.module_bytes, memory_bytes: caps.memory_bytes };
    let compiler = Arc::new(Compiler::open(compiler)?);
    // A pool as on a host: what does not fit into one there does not here.
    let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: 1 }));
    let modules = ModuleCache::new(compiler, Arc::clone(&engines), ModuleCacheConfig::default());
    let config = SandboxConfig { engines, threads: 1, guests_max: 1 };
    let (to, mut from) = Sandbox::start(config, Arc::new(modules))?;
    to.send(ToSandbox::Start(Box::new(work))).await.map_err(|_| ReplayError::SandboxGone)?;
    loop {
        match from.recv().await {
            Some(FromSandbox::Ended(ended)) => return Ok(*ended),
            // Nothing is kept here; the guest need not know.
            Some(FromSandbox::Checkpoint { id, .. }) => {
                to.send(ToSandbox::CheckpointTaken(id)).await.map_err(|_| ReplayError::SandboxGone)?;
            }
            Some(FromSandbox::Progress(..) | FromSandbox::Load { .. }) => {}
            None => return Err(ReplayError::SandboxGone),
        }
    }
}
