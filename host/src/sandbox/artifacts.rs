//! Where the sandbox gets compiled modules from.

use std::path::Path;
use std::sync::Arc;

use futures::future::BoxFuture;
use thiserror::Error;
use wasmill_protocol::Digest;
use wasmtime::component::{self, ComponentExportIndex};
use wasmtime_wasi::p2::bindings::CommandPre;

use super::guest::{Guest, Stdio};
use super::linker::LinkError;
use crate::engine::Profile;

/// Gives compiled modules to the sandbox: from memory, from disk, or by compiling first.
pub trait Artifacts: Send + Sync + 'static {
    /// The module if it is in memory, without waiting: asked before every attempt.
    fn cached(&self, module: Digest, profile: Profile) -> Option<Arc<LoadedModule>>;

    /// The modules that [`Artifacts::cached`] knows: what a host announces. None, where nothing is
    /// kept.
    fn cached_modules(&self) -> Vec<Digest> {
        Vec::new()
    }

    /// The module, compiled and loaded if it must be. Can take as long as compiling does, and may
    /// be dropped at any time.
    fn load<'a>(
        &'a self,
        module: Digest,
        module_path: &'a Path,
        profile: Profile,
    ) -> BoxFuture<'a, Result<Arc<LoadedModule>, LoadError>>;
}

/// Why there is no module to run.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// The module's own fault: it does not compile or link. Ends the attempt as `module_invalid`.
    #[error("{0}")]
    Invalid(String),
    /// Ours: no disk, no memory, a lost file. Ends the attempt as `host_fault`.
    #[error("{0}")]
    Fault(String),
}

impl From<LinkError> for LoadError {
    fn from(error: LinkError) -> Self {
        Self::Invalid(error.0)
    }
}

/// A module that is compiled, loaded and tied to its imports: an instance is one call away. Cheap
/// to share, belongs to the engine of one profile.
pub struct LoadedModule {
    pub(super) entry: Entry,
}

/// How it is run.
pub(super) enum Entry {
    Task { pre: component::InstancePre<Guest>, run: ComponentExportIndex },
    CommandComponent(CommandPre<Guest>),
    CommandModule(wasmtime::InstancePre<Guest>),
}

/// The export by which a core module is run.
pub(super) const START_EXPORT: &str = "_start";

impl LoadedModule {
    /// A WASI 0.1 command.
    ///
    /// # Errors
    ///
    /// When it exports no function `_start` without parameters and results.
    pub fn command_module(pre: wasmtime::InstancePre<Guest>) -> Result<Self, LinkError> {
        let start = pre.module().get_export(START_EXPORT);
        let function = start.as_ref().and_then(|start| start.func());
        match function {
            Some(function) if function.params().len() == 0 && function.results().len() == 0 => {
                Ok(Self { entry: Entry::CommandModule(pre) })
            }
            Some(function) => Err(LinkError(format!(
                "the export `_start` is {function}, not a function without parameters and results"
            ))),
            None => Err(LinkError("there is no exported function `_start`".to_owned())),
        }
    }

    /// The engine that it was compiled for.
    pub fn engine(&self) -> &wasmtime::Engine {
        match &self.entry {
            Entry::Task { pre, .. } => pre.engine(),
            Entry::CommandComponent(pre) => pre.engine(),
            Entry::CommandModule(pre) => pre.module().engine(),
        }
    }

    pub(super) fn stdio(&self) -> Stdio {
        match &self.entry {
            Entry::Task { .. } => Stdio::Captured,
            Entry::CommandComponent(_) | Entry::CommandModule(_) => Stdio::Payload,
        }
    }
}

impl std::fmt::Debug for LoadedModule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match &self.entry {
            Entry::Task { .. } => "task",
            Entry::CommandComponent(_) => "command component",
            Entry::CommandModule(_) => "command module",
        };
        f.debug_tuple("LoadedModule").field(&kind).finish()
    }
}
