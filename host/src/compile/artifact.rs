//! Turning an artifact on disk into something that can be instantiated.

use std::path::Path;

use wasmtime::component::Component;
use wasmtime::{Engine, Module};

use super::sniff::Form;
use crate::sandbox::{LinkError, Linkers, LoadedModule};

/// A loaded artifact.
pub(crate) enum Artifact {
    CoreModule(Module),
    Component(Component),
}

impl Artifact {
    /// Maps the artifact at `path`, which [`super::store`] has found whole or this process has just
    /// written.
    ///
    /// # Errors
    ///
    /// When it was made for another engine, or the engine's pool has no room for what the module
    /// needs.
    #[allow(unsafe_code, reason = "loading native code is unsafe by nature")]
    pub(crate) fn load(engine: &Engine, form: Form, path: &Path) -> wasmtime::Result<Self> {
        match form {
            // SAFETY: the file was written by our own child from what wasmtime made, is whole, lies
            // where only this user can write, and is only ever replaced by renaming, never written
            // to again. So for both forms.
            Form::CoreModule => unsafe { Module::deserialize_file(engine, path) }.map(Self::CoreModule),
            // SAFETY: as above.
            Form::Component => unsafe { Component::deserialize_file(engine, path) }.map(Self::Component),
        }
    }

    /// Ties it to everything that guests can import.
    ///
    /// # Errors
    ///
    /// When it imports what is not there, or as another type.
    pub(crate) fn link(&self, linkers: &Linkers) -> Result<LoadedModule, LinkError> {
        match self {
            Self::CoreModule(module) => linkers.link_module(module),
            Self::Component(component) => linkers.link_component(component),
        }
    }
}
