//! The cost of the sandbox over bare wasmtime: one no-op after the other on one thread.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use thiserror::Error;
use wasmill_protocol::module::ModuleKind;
use wasmill_protocol::{AttemptId, Digest, Limits, OutcomeKind, TaskSpec, TenantName};
use wasmtime::component::{Component, Linker};
use wasmtime::{Engine, Store};

use crate::channel::GuestRun;
use crate::compile::cut_long_instructions;
use crate::engine::{EngineError, Engines, Instances, Profile};
use crate::sandbox::{Artifacts, LinkError, Linkers, LoadError, LoadedModule, Sandbox, SandboxConfig, SandboxError};

/// Runs that come before the ones that count.
const WARM_UP: u32 = 1_000;
/// Slots of the pool: one is used, the others are what a host has.
const GUESTS_MAX: u32 = 32;

/// Microseconds for one run, each the median over batches of a thousand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NoopCost {
    /// Through the whole sandbox: limits, WASI, capture, usage.
    pub sandbox_us: f64,
    /// A store, an instance and a call in the same engine, with nothing linked and nothing limited.
    pub bare_us: f64,
}

/// The measurement could not be made.
#[derive(Debug, Error)]
pub enum BenchError {
    /// No engine.
    #[error("cannot build an engine")]
    Engine(#[from] EngineError),
    /// The component is not one.
    #[error("cannot prepare the component: {0}")]
    Component(String),
    /// It does not link.
    #[error("cannot link the component")]
    Link(#[from] LinkError),
    /// No sandbox.
    #[error("cannot start a sandbox")]
    Sandbox(#[from] SandboxError),
    /// It is not a no-op.
    #[error("the component ended as {0:?}")]
    Outcome(OutcomeKind),
}

/// Measures a task component that does nothing, for about `time` each way.
///
/// # Errors
///
/// See [`BenchError`].
pub async fn noop_cost(component: &[u8], time: Duration) -> Result<NoopCost, BenchError> {
    let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: GUESTS_MAX }));
    let engine = engines.get(Profile::Plain)?.clone();
    let failed = |error: wasmtime::Error| BenchError::Component(format!("{error:#}"));
    let component = cut_long_instructions(component, Profile::Plain.cutting())
        .map_err(|refused| BenchError::Component(refused.message))?;
    let component = Component::from_binary(&engine, &component).map_err(failed)?;
    let loaded = Linkers::new(&engine).map_err(failed)?.link_component(&component)?;
    let sandbox_us = in_sandbox(engines, Arc::new(loaded), time).await?;
    let bare_us = bare(&engine, &component, time).await.map_err(failed)?;
    Ok(NoopCost { sandbox_us, bare_us })
}

async fn in_sandbox(engines: Arc<Engines>, module: Arc<LoadedModule>, time: Duration) -> Result<f64, BenchError> {
    let config = SandboxConfig { engines, threads: 1, guests_max: GUESTS_MAX as usize };
    let mut batches = Batches::new(time);
    let mut wrong = None;
    Sandbox::run_repeatedly(config, Arc::new(OneModule(module)), &work(), |ended| {
        if ended.outcome.kind != OutcomeKind::Succeeded {
            wrong = Some(ended.outcome.kind);
            return false;
        }
        batches.goes_on()
    })
    .await?;
    wrong.map_or_else(|| Ok(batches.median_us()), |kind| Err(BenchError::Outcome(kind)))
}

/// Everything that wasmtime itself needs for one run, and nothing else.
async fn bare(engine: &Engine, component: &Component, time: Duration) -> wasmtime::Result<f64> {
    type Payload = (Vec<u8>,);
    type Answer = (Result<Vec<u8>, Failure>,);
    let linker: Linker<()> = Linker::new(engine);
    let pre = linker.instantiate_pre(component)?;
    let mut batches = Batches::new(time);
    loop {
        let mut store = Store::new(engine, ());
        store.set_epoch_deadline(1_000_000);
        let instance = pre.instantiate_async(&mut store).await?;
        let run = instance.get_typed_func::<Payload, Answer>(&mut store, "run")?;
        let (_answer,) = run.call_async(&mut store, (Vec::new(),)).await?;
        drop(store);
        if !batches.goes_on() {
            return Ok(batches.median_us());
        }
    }
}

/// The failure of the task world, for the bare call.
#[derive(Debug, wasmtime::component::ComponentType, wasmtime::component::Lift)]
#[component(variant)]
#[allow(dead_code, reason = "a no-op never fails")]
enum Failure {
    #[component(name = "reject")]
    Reject(String),
    #[component(name = "retry")]
    Retry(String),
}

/// Counts runs and times them by the thousand.
struct Batches {
    time: Duration,
    begun: Instant,
    batch_begun: Instant,
    runs: u32,
    batch_us: Vec<f64>,
}

impl Batches {
    fn new(time: Duration) -> Self {
        let now = Instant::now();
        Self { time, begun: now, batch_begun: now, runs: 0, batch_us: Vec::new() }
    }

    /// One more run is over; whether another is wanted.
    fn goes_on(&mut self) -> bool {
        const BATCH: u32 = 1_000;
        self.runs += 1;
        if self.runs.is_multiple_of(BATCH) {
            let now = Instant::now();
            if self.runs > WARM_UP {
                self.batch_us.push((now - self.batch_begun).as_secs_f64() * 1e6 / f64::from(BATCH));
            }
            self.batch_begun = now;
            return self.batch_us.is_empty() || now - self.begun < self.time;
        }
        true
    }

    fn median_us(mut self) -> f64 {
        self.batch_us.sort_by(f64::total_cmp);
        self.batch_us.get(self.batch_us.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// The one module that is measured.
struct OneModule(Arc<LoadedModule>);

impl Artifacts for OneModule {
    fn cached(&self, _module: Digest, _profile: Profile) -> Option<Arc<LoadedModule>> {
        Some(Arc::clone(&self.0))
    }

    fn load<'a>(
        &'a self,
        _module: Digest,
        _module_path: &'a Path,
        _profile: Profile,
    ) -> BoxFuture<'a, Result<Arc<LoadedModule>, LoadError>> {
        futures::future::ready(Ok(Arc::clone(&self.0))).boxed()
    }
}

fn work() -> GuestRun {
    GuestRun {
        id: AttemptId::default(),
        tenant: TenantName::default(),
        module: Digest::default(),
        module_path: Path::new("").to_owned(),
        kind: ModuleKind::Task,
        input: Bytes::new(),
        program: TaskSpec::PROGRAM_DEFAULT.into(),
        args: Arc::new([]),
        env: Arc::default(),
        ok_exit: TaskSpec::OK_EXIT_DEFAULT.into(),
        limits: Limits::default(),
        captured_bytes_max: 0,
        checkpoint_bytes_max: 0,
        attempts_max: 1,
        seed: None,
        checkpoint: None,
        trace: None,
    }
}
