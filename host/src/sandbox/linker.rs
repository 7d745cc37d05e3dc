//! The imports of guests, and how a compiled module is tied to them: at upload and before every
//! first run by the same code.

use thiserror::Error;
use wasmtime::component::{self, Component, types::ComponentItem};
use wasmtime::{Engine, Module};
use wasmtime_wasi::p2::bindings::CommandPre;
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::{WasiView, p1, p2};

use super::artifacts::{Entry, LoadedModule};
use super::clock::{MonotonicClock, MonotonicClockView};
use super::guest::Guest;
use super::{preview1, random, task};

/// Everything that guests of one engine can import. Building one costs about a millisecond: keep it
/// beside the engine.
pub struct Linkers {
    engine: Engine,
    core: wasmtime::Linker<Guest>,
    component: component::Linker<Guest>,
}

impl std::fmt::Debug for Linkers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Linkers").finish_non_exhaustive()
    }
}

/// Why a module that compiles cannot run here. For the user, who can mend it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct LinkError(pub(super) String);

impl Linkers {
    /// All of `wasi:cli` 0.2 with nothing granted, WASI 0.1, and the interface of tasks.
    ///
    /// # Errors
    ///
    /// None that a user can cause: definitions that contradict each other.
    pub fn new(engine: &Engine) -> wasmtime::Result<Self> {
        Ok(Self { engine: engine.clone(), core: core_linker(engine)?, component: component_linker(engine)? })
    }

    /// The imports of core modules, for tests that add one of their own.
    pub fn core(&self) -> wasmtime::Linker<Guest> {
        self.core.clone()
    }

    /// Ties a core module to its imports.
    ///
    /// # Errors
    ///
    /// When it imports what is not there, or as another type, or has no entry point, or is too
    /// large for the pool.
    pub fn link_module(&self, module: &Module) -> Result<LoadedModule, LinkError> {
        let pre = self.core.instantiate_pre(module).map_err(refused)?;
        LoadedModule::command_module(pre)
    }

    /// Ties a component to its imports and finds out how it is run.
    ///
    /// # Errors
    ///
    /// When it imports what is not there, or as another type, or has no entry point of the right
    /// type, or is too large for the pool.
    pub fn link_component(&self, component: &Component) -> Result<LoadedModule, LinkError> {
        let pre = self.component.instantiate_pre(component).map_err(refused)?;
        let entry = match component.get_export(None, task::RUN_EXPORT) {
            Some((ComponentItem::ComponentFunc(run), index)) => {
                run.typecheck::<task::RunParameters<'_>, task::RunResults>(&pre.instance_type()).map_err(|error| {
                    LinkError(format!("the export `run` is not of the type that world `task` has: {error:#}"))
                })?;
                Entry::Task { pre, run: index }
            }
            _ => Entry::CommandComponent(CommandPre::new(pre).map_err(refused)?),
        };
        Ok(LoadedModule { entry })
    }

    /// The engine that these belong to.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

fn refused(error: wasmtime::Error) -> LinkError {
    LinkError(format!("{error:#}"))
}

fn core_linker(engine: &Engine) -> wasmtime::Result<wasmtime::Linker<Guest>> {
    let mut linker = wasmtime::Linker::new(engine);
    p1::add_to_linker_async(&mut linker, Guest::p1)?;
    linker.allow_shadowing(true);
    preview1::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    Ok(linker)
}

fn component_linker(engine: &Engine) -> wasmtime::Result<component::Linker<Guest>> {
    let mut linker = component::Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    linker.allow_shadowing(true);
    monotonic_clock::add_to_linker::<Guest, MonotonicClock>(&mut linker, |guest| {
        let clock = guest.clock.clone();
        MonotonicClockView { clock, table: guest.ctx().table }
    })?;
    random::add_to_linker(&mut linker)?;
    linker.allow_shadowing(false);
    task::add_to_linker(&mut linker)?;
    Ok(linker)
}
