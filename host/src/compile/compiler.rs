//! The parent's side of compiling: who may, what is known already, who waits for the same, and what is kept.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use thiserror::Error;
use tracing::Instrument;
use wasmill_protocol::module::{ModuleInfo, ModuleRejection};
use wasmill_protocol::{Digest, TenantName};

use super::check::{ModuleCaps, check_size};
use super::flights::Flights;
use super::key::{artifact_key, hex};
use super::limits::RULES_VERSION;
use super::meter::{CompileBudget, CompileUsage, Meter};
use super::refused::Refusals;
use super::request::{CompileLimits, ReplyResult, Request};
use super::slots::{Lane, SlotLimits, Slots};
use super::sniff::{Form, SNIFF_BYTES, sniff};
use super::spawn::{self, CompileFault, CompileProgram, Death};
use super::store::{ArtifactStore, Found, Stamp, Which, remove_others};
use crate::engine::{self, EngineError, Instances, Profile};
use crate::trace;

/// Bytes of artifacts on disk, unless configured otherwise.
const DISK_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;
/// How often an artifact is compiled for one attempt, when it is gone as soon as it is there.
const COMPILES_IN_VAIN_MAX: u32 = 3;
/// What a client is told to wait at least and at most before it tries again.
const RETRY_MS: std::ops::RangeInclusive<u64> = 200..=60_000;

/// How a [`Compiler`] works.
#[derive(Debug, Clone)]
pub struct CompilerConfig {
    /// Where artifacts and refusals are kept. Nobody else uses it at the same time.
    pub cache_dir: PathBuf,
    /// What is run for every module.
    pub program: CompileProgram,
    /// What each run may use.
    pub limits: CompileLimits,
    /// How many run at the same time, and for whom.
    pub slots: SlotLimits,
    /// What one tenant's uploads may cost.
    pub budget: CompileBudget,
    /// What modules may ask for.
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
    /// A fault on our side.
    #[error("the module cannot be compiled now")]
    Fault(#[source] CompileFault),
}

/// What a compiler is doing and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompilerStats {
    /// Children that were run since the start of this process.
    pub compiles: u64,
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
    meter: Mutex<Meter>,
    /// Compiles that are going on.
    flights: Flights<Which, Result<ModuleInfo, InspectError>>,
    compiles: AtomicU64,
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
            meter: Mutex::new(Meter::new(config.budget)),
            flights: Flights::new(),
            compiles: AtomicU64::new(0),
            remembered: AtomicU64::new(0),
            compile_ms: AtomicU64::new(*RETRY_MS.start()),
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Says what an uploaded module is, or why it is refused; its plain artifact is then in the cache.
    ///
    /// To be asked once for each tenant that uploads the module: a good module is compiled again for another tenant, so
    /// that nobody learns from the time it takes what others have. Only refusals are remembered. The module lies at `path`
    /// and stays there until the answer. Dropping the future ends the work when nobody else waits for the same module.
    ///
    /// # Errors
    ///
    /// See [`InspectError`].
    pub async fn inspect(
        &self,
        tenant: &TenantName,
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
        let admitted = self.shared.meter().admit(tenant, now);
        if let Err(wait) = admitted {
            return Err(InspectError::Busy { retry_ms: clamp_retry(wait.as_millis()) });
        }
        self.shared.compile((digest, Profile::Plain), path, Lane::Tenant(tenant.clone())).await
    }

    /// The artifact of a module for a profile, compiled when there is none. Waits as long as it takes: the caller bounds it.
    ///
    /// # Errors
    ///
    /// [`InspectError`], but never `Busy`.
    pub(crate) async fn artifact(&self, which: Which, path: &Path) -> Result<Found, InspectError> {
        let mut compiled = 0;
        loop {
            if let Some(found) = self.shared.find(which).await {
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
            match self.shared.compile(which, path, Lane::Host).await {
                Ok(_) => compiled += 1,
                Err(InspectError::Busy { retry_ms }) => tokio::time::sleep(Duration::from_millis(retry_ms)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Refuses from now on a module that compiled and links but cannot be loaded here.
    pub(crate) fn refuse(&self, which: Which, refused: &ModuleRejection) {
        self.shared.refusals.remember(which.0, which.1, refused, true, Instant::now());
        self.shared.store.remove(which);
    }

    /// What tenants' uploads have cost, by name.
    pub fn usage(&self) -> Vec<(TenantName, CompileUsage)> {
        self.shared.meter().usage()
    }

    /// What is going on.
    pub fn stats(&self) -> CompilerStats {
        let shared = &self.shared;
        CompilerStats {
            compiles: shared.compiles.load(Ordering::Relaxed),
            remembered: shared.remembered.load(Ordering::Relaxed),
            waiting: shared.slots.waiting() as u64,
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

    /// Looks for an artifact on a thread that may wait for the disk.
    async fn find(self: &Arc<Self>, which: Which) -> Option<Found> {
        if !self.store.has(which) {
            return None;
        }
        let shared = Arc::clone(self);
        tokio::task::spawn_blocking(move || shared.store.find(which)).await.ok().flatten()
    }

    /// Joins the compile of the same module that is going on, or starts one.
    async fn compile(self: &Arc<Self>, which: Which, path: &Path, lane: Lane) -> Result<ModuleInfo, InspectError> {
        let flight = self.flights.join(which, || {
            let (shared, path) = (Arc::clone(self), path.to_owned());
            let span = trace::compile(which.0, which.1);
            async move { shared.fly(which, &path, lane).await }.instrument(span)
        });
        flight.await
    }

    /// One compile from the waiting line to the cache.
    async fn fly(&self, which: Which, path: &Path, lane: Lane) -> Result<ModuleInfo, InspectError> {
        let asked = Instant::now();
        let Ok(permit) = self.slots.acquire(lane.clone()).await else {
            return Err(InspectError::Busy { retry_ms: self.retry_ms() });
        };
        let began = Instant::now();
        trace::compile_begins(began - asked);
        let unfinished = Unfinished(self.store.unfinished(which));
        let ended = spawn::run(&self.config.program, &self.request(which, path, &unfinished.0)).await;
        drop(permit);
        self.compiles.fetch_add(1, Ordering::Relaxed);
        self.learn_duration(began.elapsed());
        let now = Instant::now();
        let result = self.land(which, &unfinished.0, ended.result, now);
        trace::compile_ended(result.is_ok());
        if let Lane::Tenant(tenant) = &lane {
            self.meter().charge(tenant, ended.cpu_us, matches!(result, Err(InspectError::Rejected(_))), now);
        }
        result
    }

    fn request(&self, (digest, profile): Which, path: &Path, artifact: &Path) -> Request {
        Request {
            module: path.to_owned(),
            digest,
            profile: profile.as_str().to_owned(),
            key: self.keys[profile as usize].clone(),
            artifact: artifact.to_owned(),
            limits: self.config.limits,
            caps: self.config.caps,
        }
    }

    /// Keeps what a child made, or remembers that it made nothing.
    fn land(
        &self,
        which: Which,
        unfinished: &Path,
        result: Result<ReplyResult, Death>,
        now: Instant,
    ) -> Result<ModuleInfo, InspectError> {
        let (refused, lasting) = match result {
            Ok(ReplyResult::Compiled { info, artifact, form }) => {
                self.store.keep(which, unfinished, Stamp { artifact, form }).map_err(|error| {
                    InspectError::Fault(CompileFault::Cache {
                        action: format!("keep the artifact of {}", which.0),
                        reason: error.to_string(),
                    })
                })?;
                return Ok(info);
            }
            Ok(ReplyResult::Rejected(refused)) => (refused, true),
            Ok(ReplyResult::Failed(text)) => return Err(InspectError::Fault(CompileFault::Said(text))),
            Err(Death::Module { refused, lasting }) => (refused, lasting),
            Err(Death::Fault(fault)) => return Err(InspectError::Fault(fault)),
        };
        self.refusals.remember(which.0, which.1, &refused, lasting, now);
        Err(InspectError::Rejected(refused))
    }

    /// When a slot should be free for somebody who is not even in the line.
    fn retry_ms(&self) -> u64 {
        let rounds = self.slots.waiting() / self.config.slots.running.max(1) + 1;
        clamp_retry(u128::from(self.compile_ms.load(Ordering::Relaxed)) * rounds as u128)
    }

    fn learn_duration(&self, took: Duration) {
        let before = self.compile_ms.load(Ordering::Relaxed);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.compile_ms.store((before.saturating_mul(7).saturating_add(took_ms)) / 8, Ordering::Relaxed);
    }

    fn meter(&self) -> MutexGuard<'_, Meter> {
        self.meter.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The file that a child writes; removed unless it was moved to its place.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Mostly it is not there: moved, or never written.
        let _ = fs::remove_file(&self.0);
    }
}

fn open_cache(config: &CompilerConfig, keys: &[String; Profile::ALL.len()]) -> io::Result<(ArtifactStore, Refusals)> {
    let folder = &config.cache_dir;
    let store = ArtifactStore::open(folder, keys, config.disk_bytes_max)?;
    let refusals_key = refusals_key(config, keys);
    remove_others(folder, keys.iter().chain([&refusals_key]))?;
    Ok((store, Refusals::open(&folder.join(refusals_key))?))
}

/// What refusals depend on: the compiler, our rules, and the limits and caps that they were made under.
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
