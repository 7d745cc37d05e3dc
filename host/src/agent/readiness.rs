//! Which modules the sandbox can start at once, and how others become so.

use std::fmt;
use std::path::PathBuf;

use futures::future::BoxFuture;
use wasmill_protocol::Digest;

use crate::compile::Payer;
use crate::engine::Profile;
use crate::sandbox::LoadError;

/// Compiled modules, as the agent sees them: an attempt goes to the sandbox when its module is
/// ready there.
pub trait Readiness: fmt::Debug + Send + Sync + 'static {
    /// Whether an attempt with this module starts without waiting for anything: asked before every
    /// attempt.
    fn is_ready(&self, module: Digest, profile: Profile) -> bool;

    /// Compiles or loads a module. Can take very long, and may be dropped at any time.
    fn make_ready(&self, wanted: Wanted) -> BoxFuture<'static, Made>;
}

/// A module that an attempt needs.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which.
    pub module: Digest,
    /// How it is to be compiled.
    pub profile: Profile,
    /// Where its bytes are.
    pub path: PathBuf,
    /// Whose budget it takes.
    pub payer: Payer,
}

/// The result of [`Wanted`].
#[derive(Debug)]
pub struct Made {
    /// CPU time in microseconds that was used for this call. 0 when somebody else was compiling the
    /// same already.
    pub compile_us: u64,
    /// Whether it is ready now.
    pub result: Result<(), LoadError>,
}
