//! Requests of the parent to the compiling child, and its replies: a line of JSON each, on
//! stdin and stdout.
//!
//! Both ends are always the same build: the child checks the key of the artifacts that the parent
//! expects.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use wasmill_protocol::Digest;
use wasmill_protocol::module::{ModuleInfo, ModuleRejection};

use super::check::ModuleCaps;
use super::sniff::Form;

/// The resources that one child may use. The child sets these limits for itself before it reads the
/// first byte of the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CompileLimits {
    /// Seconds of CPU time.
    pub cpu_s: u64,
    /// Bytes of memory for the work itself; address space that a process has without doing anything
    /// is not counted.
    pub memory_bytes: u64,
    /// Milliseconds from start to end, for a child that hangs without using CPU time, or that a
    /// loaded machine starves.
    pub wall_ms: u64,
    /// Bytes of one artifact.
    pub artifact_bytes: u64,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { cpu_s: 30, memory_bytes: 1024 * 1024 * 1024, wall_ms: 180_000, artifact_bytes: 1024 * 1024 * 1024 }
    }
}

/// One module to check and compile.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Where its bytes are.
    pub(crate) module: PathBuf,
    /// The digest that it must have: a file that was damaged must not become the artifact of the
    /// module that it was.
    pub(crate) digest: Digest,
    /// The name of a [`crate::engine::Profile`].
    pub(crate) profile: String,
    /// The key that this profile's artifacts have in the parent.
    pub(crate) key: String,
    /// Where the artifact goes; a file that does not exist yet.
    pub(crate) artifact: PathBuf,
    /// The resources that may be used.
    pub(crate) limits: CompileLimits,
    /// The caps for the module.
    pub(crate) caps: ModuleCaps,
}

/// How it went.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// CPU time that the child used, in microseconds.
    pub(crate) cpu_us: u64,
    /// The result.
    pub(crate) result: ReplyResult,
}

/// The result of a child that could say it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ReplyResult {
    /// The artifact is written, and links.
    Compiled {
        /// The facts about the module.
        info: ModuleInfo,
        /// Which form the artifact has.
        form: Form,
        /// The artifact that was written.
        artifact: ArtifactStamp,
    },
    /// The module is refused; there is no artifact.
    Rejected(ModuleRejection),
    /// It is not the module's fault.
    Failed(String),
}

/// Tells an artifact that is whole from one that is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct ArtifactStamp {
    /// Its size.
    pub(crate) bytes: u64,
    /// The SHA-256 of its bytes.
    pub(crate) sha256: Digest,
}
