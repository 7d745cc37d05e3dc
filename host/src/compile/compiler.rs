//! The parent's side of compiling: who may, what is known already, who waits for the same, and what
//! is kept.

mod fly;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use wasmill_protocol::module::{ModuleInfo, ModuleRejection};
use wasmill_protocol::{Digest, TenantName};

use super::check::{ModuleCaps, check_size};
use super::flights::Flights;
use super::key::{artifact_key, hex};
use super::limits::RULES_VERSION;
use super::meter::{CompileBudget, CompileUsage, Meter, Payer};
use super::refused::Refusals;
use super::request::CompileLimits;
use super::sniff::{Form, SNIFF_BYTES, sniff};
use super::spawn::{CompileFault, CompileProgram};
use super::store::{ArtifactStore, FoundArtifact, Which, remove_others};
use crate::engine::{self, EngineError, Instances, Profile};
use crate::slots::{Lane, SlotLimits, Slots};
use fly::{Flown, Order};

/// Bytes of artifacts on disk, unless configured otherwise.
const DISK_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// How often an artifact is compiled for one attempt, when it is gone as soon as it is there.
const COMPILES_IN_VAIN_MAX: u32 = 3;
/// Children for small modules, beside those for all: two, so that one tenant's never hold them all.
const SMALL_SLOTS: SlotLimits =
    SlotLimits { running: 2, running_per_tenant: 1, waiting: 1_024, waiting_per_tenant: 32 };
/// How long an attempt waits at most between two looks at whether its tenant may compile.
const LOOK_MS_MAX: u64 = 1_000;
/// The least and the longest wait that a client is told before it tries again.
const RETRY_MS: std::ops::RangeInclusive<u64> = 200..=60_000;

/// How a [`Compiler`] works.
#[derive(Debug, Clone)]
pub struct CompilerConfig {
    /// Where artifacts and refusals are kept. Nobody else uses it at the same time.
    pub cache_dir: PathBuf,
    /// The program that is run for every module.
    pub program: CompileProgram,
    /// The resources that each run may use.
    pub limits: CompileLimits,
    /// How many run at the same time, and for whom.
    pub slots: SlotLimits,
    /// The same for small modules, which have children of their own: what is small never waits for
    /// what is large.
    pub small_slots: SlotLimits,
    /// The compile time of a tenant without a quota of its own.
    pub budget: CompileBudget,
    /// The caps for modules.
    pub caps: ModuleCaps,
    /// Bytes of artifacts on disk.
    pub disk_bytes_max: u64,
}

impl CompilerConfig {
    /// The defaults, for as many cores as this machine has.
    pub fn new(cache_dir: impl Into<PathBuf>, program: CompileProgram) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            cache_dir: cache_dir.into(),
            program,
            limits: CompileLimits::default(),
            slots: SlotLimits::for_cores(cores),
            small_slots: SMALL_SLOTS,
            budget: CompileBudget::default(),
            caps: ModuleCaps::default(),
            disk_bytes_max: DISK_BYTES_MAX,
        }
    }
}

/// Why there is no compiler.
#[derive(Debug, Error)]
pub enum CompilerError {
    /// The cache cannot be used.
    #[error("cannot open the cache of compiled modules in `{folder}`")]
    Cache {
        /// Where.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// This machine has no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Why an upload was not accepted.
#[derive(Debug, Clone, Error)]
pub enum InspectError {
    /// The module is refused, now and later.
    #[error("the module is refused: {}", .0.message)]
    Rejected(ModuleRejection),
    /// Too much is being compiled, by all or by this tenant.
    #[error("too many modules are being compiled; try again in {retry_ms} ms")]
    Busy {
        /// When it is worth trying again.
        retry_ms: u64,
    },
    /// The tenant has used up what compiling may cost it.
    #[error(
        "the tenant may compile for {ms_per_s} ms of each second and has compiled more; try again in {retry_ms} ms"
    )]
    OverBudget {
        /// When it is worth trying again.
        retry_ms: u64,
        /// The tenant's quota `compile_ms_per_s`, or what stands in for it.
        ms_per_s: u64,
    },
    /// A fault on our side.
    #[error("the module cannot be compiled now")]
    Fault(#[source] CompileFault),
}

/// The figures of a compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompilerStats {
    /// Children that were run since the start of this process.
    pub compiles: u64,
    /// CPU time in microseconds that they have used.
    pub compile_us: u64,
    /// Artifacts that were found on disk when they were asked for.
    pub found: u64,
    /// Requests that were answered from what had been refused before.
    pub remembered: u64,
    /// Requests that wait for a slot now.
    pub waiting: u64,
    /// Artifacts on disk.
    pub artifacts: u64,
    /// Their bytes.
    pub artifact_bytes: u64,
}

/// Compiles modules in children, and keeps what comes out.
#[derive(Debug)]
pub struct Compiler {
    shared: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: CompilerConfig,
    keys: [String; Profile::ALL.len()],
    store: ArtifactStore,
    refusals: Refusals,
    slots: Arc<Slots>,
    small_slots: Arc<Slots>,
    meter: Mutex<Meter>,
    /// The callers that wait or compile, of each tenant.
    waits: Flights<(Which, Lane), Result<ModuleInfo, InspectError>>,
    /// Compiles that are going on.
    flights: Flights<Which, Flown>,
    compiles: AtomicU64,
    compile_us: AtomicU64,
    found: AtomicU64,
    remembered: AtomicU64,
    /// A moving average of how long one compile takes, in milliseconds.
    compile_ms: AtomicU64,
}

impl Compiler {
    /// Opens the cache and gets ready.
    ///
    /// # Errors
    ///
    /// When the cache cannot be used or no engine can be built.
    pub fn open(config: CompilerConfig) -> Result<Self, CompilerError> {
        let mut keys: [String; Profile::ALL.len()] = Default::default();
        for profile in Profile::ALL {
            keys[profile as usize] = artifact_key(&engine::build(profile, Instances::OnDemand)?);
        }
        let folder = &config.cache_dir;
        let (store, refusals) = open_cache(&config, &keys)
            .map_err(|source| CompilerError::Cache { folder: folder.display().to_string(), source })?;
        let shared = Inner {
            keys,
            store,
            refusals,
            slots: Slots::new(config.slots),
            small_slots: Slots::new(config.small_slots),
            meter: Mutex::new(Meter::new(config.budget)),
            waits: Flights::new(),
            flights: Flights::new(),
            compiles: AtomicU64::new(0),
            compile_us: AtomicU64::new(0),
            found: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            compile_ms: AtomicU64::new(*RETRY_MS.start()),
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Says what an uploaded module is, or why it is refused; its plain artifact is then in the
    /// cache.
    ///
    /// To be asked once for each tenant that uploads the module: a good module is compiled again
    /// for another tenant, so that nobody learns from the time it takes what others have. Only
    /// refusals are remembered. The module lies at `path` and stays there until the answer.
    /// Dropping the future ends the work when nobody else waits for the same module.
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
        check_size(bytes, &self.shared.config.caps).map_err(InspectError::Rejected)?;
        let now = Instant::now();
        if let Some(refused) = self.shared.refusal((digest, Profile::Plain), now) {
            return Err(InspectError::Rejected(refused));
        }
        sniff_file(path)?;
        self.shared.admit(payer, now)?;
        let (which, path) = ((digest, Profile::Plain), path.to_owned());
        self.shared.compile(Order { which, path, payer: Some(payer.clone()), spent_us: Arc::default() }).await
    }

    /// The artifact of a module for a profile, compiled when there is none: at the cost of `payer`,
    /// whose other modules it waits for, and until its budget allows it. Waits as long as it takes:
    /// the caller bounds it. The compile time of this call is added to `spent_us`.
    ///
    /// # Errors
    ///
    /// [`InspectError`], but neither `Busy` nor `OverBudget`.
    pub(crate) async fn artifact(
        &self,
        which: Which,
        path: &Path,
        payer: Option<Payer>,
        spent_us: Arc<AtomicU64>,
    ) -> Result<FoundArtifact, InspectError> {
        let mut compiled = 0;
        let order = Order { which, path: path.to_owned(), payer, spent_us };
        loop {
            if let Some(found) = self.shared.find(which).await {
                self.shared.found.fetch_add(u64::from(compiled == 0), Ordering::Relaxed);
                return Ok(found);
            }
            if let Some(refused) = self.shared.refusal(which, Instant::now()) {
                return Err(InspectError::Rejected(refused));
            }
            if compiled == COMPILES_IN_VAIN_MAX {
                return Err(InspectError::Fault(CompileFault::Cache {
                    action: format!("keep the `{}` artifact of {}", which.1, which.0),
                    reason: "it was gone each time before it could be loaded".to_owned(),
                }));
            }
            let result = match order.payer.as_ref().map_or(Ok(()), |payer| self.shared.admit(payer, Instant::now())) {
                Ok(()) => self.shared.compile(order.clone()).await,
                Err(error) => Err(error),
            };
            match result {
                Ok(_) => compiled += 1,
                // The obstacle may go earlier: a quota that was raised, or somebody else who
                // has compiled the same.
                Err(InspectError::Busy { retry_ms } | InspectError::OverBudget { retry_ms, .. }) => {
                    tokio::time::sleep(Duration::from_millis(retry_ms.min(LOOK_MS_MAX))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses from now on a module that compiled and links but cannot be loaded here.
    pub(crate) fn refuse(&self, which: Which, refused: &ModuleRejection) {
        self.shared.refusals.remember(None, which, refused, true, Instant::now());
        self.shared.store.remove(which);
    }

    /// The compile time of tenants' modules, by name.
    pub fn usage(&self) -> Vec<(TenantName, CompileUsage)> {
        self.shared.meter().usage()
    }

    /// The present figures.
    pub fn stats(&self) -> CompilerStats {
        let shared = &self.shared;
        CompilerStats {
            compiles: shared.compiles.load(Ordering::Relaxed),
            compile_us: shared.compile_us.load(Ordering::Relaxed),
            found: shared.found.load(Ordering::Relaxed),
            remembered: shared.remembered.load(Ordering::Relaxed),
            waiting: (shared.slots.waiting() + shared.small_slots.waiting()) as u64,
            artifacts: shared.store.len() as u64,
            artifact_bytes: shared.store.bytes(),
        }
    }
}

impl Inner {
    fn refusal(&self, (digest, profile): Which, now: Instant) -> Option<ModuleRejection> {
        let refused = self.refusals.find(digest, profile, now)?;
        self.remembered.fetch_add(1, Ordering::Relaxed);
        Some(refused)
    }

    /// Whether the payer's budget allows to compile now.
    fn admit(&self, payer: &Payer, now: Instant) -> Result<(), InspectError> {
        let meter = self.meter();
        meter.admit(payer, now).map_err(|wait| InspectError::OverBudget {
            retry_ms: clamp_retry(wait.as_millis()),
            ms_per_s: meter.ms_per_s(payer),
        })
    }

    /// Looks for an artifact on a thread that may wait for the disk.
    async fn find(self: &Arc<Self>, which: Which) -> Option<FoundArtifact> {
        if !self.store.has(which) {
            return None;
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.store.find(which)).await.ok().flatten()
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open_cache(config: &CompilerConfig, keys: &[String; Profile::ALL.len()]) -> io::Result<(ArtifactStore, Refusals)> {
    let folder = &config.cache_dir;
    let store = ArtifactStore::open(folder, keys, config.disk_bytes_max)?;
    let refusals_key = refusals_key(config, keys);
    remove_others(folder, keys.iter().chain([&refusals_key]))?;
    Ok((store, Refusals::open(&folder.join(refusals_key))?))
}

/// The key of everything that refusals depend on: the compiler, our rules, and the limits and caps
/// that they were made under.
fn refusals_key(config: &CompilerConfig, keys: &[String]) -> String {
    let rules = serde_json::to_vec(&(RULES_VERSION, env!("CARGO_PKG_VERSION"), keys, config.limits, config.caps));
    hex(&Sha256::digest(rules.expect("plain values have a JSON form"))[..16])
}

/// Refuses what is no WebAssembly, before anything is paid for it.
fn sniff_file(path: &Path) -> Result<Form, InspectError> {
    let mut beginning = Vec::with_capacity(SNIFF_BYTES);
    let read = fs::File::open(path).and_then(|file| file.take(SNIFF_BYTES as u64).read_to_end(&mut beginning));
    if let Err(error) = read {
        return Err(InspectError::Fault(CompileFault::Cache {
            action: format!("read the module at `{}`", path.display()),
            reason: error.to_string(),
        }));
    }
    sniff(&beginning).map_err(InspectError::Rejected)
}

fn clamp_retry(ms: u128) -> u64 {
    u64::try_from(ms).unwrap_or(u64::MAX).clamp(*RETRY_MS.start(), *RETRY_MS.end())
}
