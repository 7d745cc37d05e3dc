//! Loaded modules in memory, and the way there: what the sandbox asks for modules.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures::future::BoxFuture;
use tracing::Instrument;
use wasmill_protocol::module::ModuleInfo;
use wasmill_protocol::{Digest, TenantName};

use super::artifact::Artifact;
use super::compiler::{Compiler, InspectError};
use super::flights::Flights;
use super::meter::Payer;
use super::reject::rejection;
use super::spawn::CompileFault;
use super::store::{FoundArtifact, Which};
use crate::agent::{Made, Readiness, Wanted};
use crate::engine::{Engines, Profile};
use crate::error_chain::chain;
use crate::lru::{Lru, LruBounds};
use crate::sandbox::{Artifacts, Linkers, LoadError, LoadedModule};

/// How much is kept loaded.
#[derive(Debug, Clone, Copy)]
pub struct ModuleCacheConfig {
    /// Modules and profiles.
    pub modules_max: usize,
    /// Sum of the sizes of their artifacts. They are mapped files: what is not used does not take
    /// memory.
    pub bytes_max: u64,
}

impl Default for ModuleCacheConfig {
    fn default() -> Self {
        Self { modules_max: 1_000, bytes_max: 1024 * 1024 * 1024 }
    }
}

/// Modules that are ready to run: from memory, from disk, or compiled first.
#[derive(Debug, Clone)]
pub struct ModuleCache {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    compiler: Arc<Compiler>,
    engines: Arc<Engines>,
    linkers: [OnceLock<Linkers>; Profile::ALL.len()],
    loaded: Mutex<Lru<Which, Arc<LoadedModule>>>,
    /// Each tenant's own: nobody waits for what somebody else's budget allows.
    loading: Flights<(Which, Option<TenantName>), Result<Arc<LoadedModule>, LoadError>>,
}

impl ModuleCache {
    /// An empty cache over what `compiler` has on disk, for instances of `engines`.
    pub fn new(compiler: Arc<Compiler>, engines: Arc<Engines>, config: ModuleCacheConfig) -> Self {
        let bounds = LruBounds { entries: config.modules_max, bytes: config.bytes_max };
        let shared = Inner {
            compiler,
            engines,
            linkers: Default::default(),
            loaded: Mutex::new(Lru::new(bounds)),
            loading: Flights::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// [`Compiler::inspect`], after which the module is loaded too: its first task starts at once,
    /// and what does not fit the pool of instances is refused here and not by its first task.
    ///
    /// # Errors
    ///
    /// See [`InspectError`].
    pub async fn inspect(
        &self,
        payer: &Payer,
        path: &Path,
        digest: Digest,
        bytes: u64,
    ) -> Result<ModuleInfo, InspectError> {
        let info = self.shared.compiler.inspect(payer, path, digest, bytes).await?;
        let which = (digest, Profile::Plain);
        let loading = self.shared.load(which, path, Some(payer.clone()), Arc::default());
        loading.await.map_err(|error| match error {
            LoadError::Invalid(message) => InspectError::Rejected(rejection(message)),
            LoadError::Fault(message) => InspectError::Fault(CompileFault::Said(message)),
        })?;
        Ok(info)
    }

    /// The modules in memory: what a host announces.
    pub fn modules(&self) -> Vec<Digest> {
        let mut modules: Vec<Digest> = self.shared.loaded().keys().map(|(digest, _)| digest).collect();
        modules.dedup();
        modules
    }
}

impl Artifacts for ModuleCache {
    fn cached(&self, module: Digest, profile: Profile) -> Option<Arc<LoadedModule>> {
        self.shared.cached((module, profile))
    }

    fn cached_modules(&self) -> Vec<Digest> {
        self.modules()
    }

    fn load<'a>(
        &'a self,
        module: Digest,
        module_path: &'a Path,
        profile: Profile,
    ) -> BoxFuture<'a, Result<Arc<LoadedModule>, LoadError>> {
        Box::pin(self.shared.load((module, profile), module_path, None, Arc::default()))
    }
}

impl Readiness for ModuleCache {
    fn is_ready(&self, module: Digest, profile: Profile) -> bool {
        self.shared.loaded().get((module, profile)).is_some()
    }

    fn make_ready(&self, wanted: Wanted) -> BoxFuture<'static, Made> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move {
            let Wanted { module, profile, path, payer } = wanted;
            let spent_us = Arc::<AtomicU64>::default();
            let loaded = shared.load((module, profile), &path, Some(payer), Arc::clone(&spent_us)).await;
            Made { compile_us: spent_us.load(Ordering::Relaxed), result: loaded.map(drop) }
        })
    }
}

impl Inner {
    fn cached(&self, which: Which) -> Option<Arc<LoadedModule>> {
        self.loaded().get(which).map(|module| Arc::clone(module))
    }

    /// The compile time of this call is added to `spent_us`.
    async fn load(
        self: &Arc<Self>,
        which: Which,
        path: &Path,
        payer: Option<Payer>,
        spent_us: Arc<AtomicU64>,
    ) -> Result<Arc<LoadedModule>, LoadError> {
        if let Some(module) = self.cached(which) {
            return Ok(module);
        }
        let key = (which, payer.as_ref().map(|payer| payer.tenant.clone()));
        let loading = self.loading.join(key, || {
            let (shared, path) = (Arc::clone(self), path.to_owned());
            // Any caller may poll it: it is the first one's.
            async move { shared.load_anew(which, path, payer, spent_us).await }.in_current_span()
        });
        loading.await
    }

    async fn load_anew(
        self: Arc<Self>,
        which: Which,
        path: PathBuf,
        payer: Option<Payer>,
        spent_us: Arc<AtomicU64>,
    ) -> Result<Arc<LoadedModule>, LoadError> {
        let found = self.compiler.artifact(which, &path, payer, spent_us).await.map_err(|error| match error {
            InspectError::Rejected(refused) => LoadError::Invalid(refused.message),
            other => LoadError::Fault(chain(&other)),
        })?;
        let bytes = found.bytes;
        let shared = Arc::clone(&self);
        let module = tokio::task::spawn_blocking(move || shared.map(which, &found))
            .await
            .map_err(|error| LoadError::Fault(format!("loading module {} failed: {error}", which.0)))??;
        let gone = self.loaded().insert(which, bytes, Arc::clone(&module));
        // Outside of the lock: unmapping takes time.
        drop(gone);
        Ok(module)
    }

    /// Maps an artifact and links it. Takes milliseconds.
    fn map(&self, which: Which, found: &FoundArtifact) -> Result<Arc<LoadedModule>, LoadError> {
        let engine = self.engines.get(which.1).map_err(|error| LoadError::Fault(chain(&error)))?;
        let fault = |error: &wasmtime::Error| LoadError::Fault(format!("cannot load module {}: {error:#}", which.0));
        // The file that was verified, and not another one that has its name by now.
        let path = format!("/proc/self/fd/{}", found.file.as_raw_fd());
        let artifact = match Artifact::load(engine, found.form, Path::new(&path)) {
            Ok(artifact) => artifact,
            // No memory or no descriptor: ours, and another time it may work.
            Err(error) if error.chain().any(|cause| cause.is::<std::io::Error>()) => return Err(fault(&error)),
            // The artifact is whole and of this engine, so it is the module that asks for more than
            // a slot of the pool has.
            Err(error) => {
                let refused = rejection(format!("the module does not fit into the sandbox: {error:#}"));
                self.compiler.refuse(which, &refused);
                return Err(LoadError::Invalid(refused.message));
            }
        };
        let linkers = self.linkers(engine, which.1).map_err(|error| fault(&error))?;
        Ok(Arc::new(artifact.link(linkers)?))
    }

    fn linkers(&self, engine: &wasmtime::Engine, profile: Profile) -> wasmtime::Result<&Linkers> {
        let slot = &self.linkers[profile as usize];
        if let Some(linkers) = slot.get() {
            return Ok(linkers);
        }
        let linkers = Linkers::new(engine)?;
        Ok(slot.get_or_init(|| linkers))
    }

    fn loaded(&self) -> MutexGuard<'_, Lru<Which, Arc<LoadedModule>>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
