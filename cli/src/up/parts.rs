//! The parts of the process, and the order in which they start and stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::embedded::Embedded;
use wasmill_host::agent::{Agent, AgentConfig, AgentError};
use wasmill_host::compile::{CompileProgram, Compiler, CompilerConfig, ModuleCache, ModuleCacheConfig, SlotLimits};
use wasmill_host::engine::{Engines, Instances};
use wasmill_host::sandbox::{Sandbox, SandboxConfig};
use wasmill_scheduler::Handle;
use wasmill_scheduler::driver::{Driver, DriverConfig, DriverError, Ground};
use wasmill_scheduler::http::{self, HttpConfig, Tls};
use wasmill_scheduler::read_model::ReadModel;
use wasmill_scheduler::sweep;
use wasmill_scheduler_core::CoreConfig;

use super::config::Config;
use super::gate::CompilerGate;

/// Everything that runs. Stopped by [`Parts::stop`], host first: the leader must still be there to record what it hands back.
pub(crate) struct Parts {
    fabric: Embedded,
    handle: Handle,
    read_model: Arc<ReadModel>,
    compiler: Arc<Compiler>,
    artifacts: Arc<ModuleCache>,
    engines: Arc<Engines>,
    data: std::path::PathBuf,
    driver: Option<Driver>,
    driver_stop: CancellationToken,
    host_stop: watch::Sender<bool>,
    leading: Option<JoinHandle<Result<(), DriverError>>>,
    hosting: Option<JoinHandle<Result<(), AgentError>>>,
    grace: Duration,
}

/// How long the first leadership may take: it replays the log.
const LEAD_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the host may take to register.
const HOST_TIMEOUT: Duration = Duration::from_secs(30);
/// What is waited for beyond the grace when stopping: the sandbox ends within ticks, the log within one append.
const STOP_SLACK: Duration = Duration::from_secs(10);

impl Parts {
    /// Opens everything that is on the disk; starts nothing.
    pub(crate) async fn open(data: &Path, config: &Config) -> anyhow::Result<Self> {
        let fabric =
            Embedded::open(data).with_context(|| format!("cannot use the data directory `{}`", data.display()))?;
        let ground =
            Ground { log: fabric.log(), blobs: fabric.blobs(), bus: fabric.bus(), membership: fabric.membership() };
        let read_model = Arc::new(ReadModel::open(data)?);
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).map_err(|error| anyhow!("cannot draw a random seed: {error}"))?;
        let driver_config =
            DriverConfig { node: "local".to_owned(), core: CoreConfig::default(), seed: u64::from_le_bytes(seed) };
        let (driver, handle) = Driver::new(driver_config, ground, Arc::clone(&read_model));
        let compiler = Arc::new(Compiler::open(compiler_config(&data.join("cache"), config))?);
        let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: config.slots }));
        let cache_config = ModuleCacheConfig { bytes_max: config.cache_memory_bytes, ..ModuleCacheConfig::default() };
        let artifacts = Arc::new(ModuleCache::new(Arc::clone(&compiler), Arc::clone(&engines), cache_config));
        Ok(Self {
            fabric,
            handle,
            read_model,
            compiler,
            artifacts,
            engines,
            data: data.to_owned(),
            driver: Some(driver),
            driver_stop: CancellationToken::new(),
            host_stop: watch::Sender::new(false),
            leading: None,
            hosting: None,
            grace: Duration::from_millis(config.shutdown_grace_ms),
        })
    }

    /// The way to the driver.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Replays the log, begins to lead, and starts the host.
    pub(crate) async fn lead_and_host(&mut self, config: &Config) -> anyhow::Result<()> {
        let driver = self.driver.take().context("the driver was started before")?;
        let mut standing = self.handle.shared().standing.subscribe();
        self.leading = Some(tokio::spawn(driver.run(self.driver_stop.clone())));
        let led = tokio::select! {
            led = standing.wait_for(|standing| standing.leading) => led.is_ok(),
            ended = self.failed() => return ended.context("the scheduler did not start"),
            () = tokio::time::sleep(LEAD_TIMEOUT) => false,
        };
        anyhow::ensure!(led, "the scheduler did not start in {} s", LEAD_TIMEOUT.as_secs());
        tokio::spawn(sweep::run(
            self.handle.clone(),
            Duration::from_secs(config.retention_s),
            self.driver_stop.clone(),
        ));
        let registered = self.start_host(config)?;
        let host = tokio::select! {
            host = registered => host.ok(),
            ended = self.failed() => return ended.context("the host did not start"),
            () = tokio::time::sleep(HOST_TIMEOUT) => None,
        };
        let host = host.context("the host did not register")?;
        tracing::info!(host = %host.id, slots = config.slots, memory_bytes = config.host_memory_bytes, "host ready");
        Ok(())
    }

    fn start_host(
        &mut self,
        config: &Config,
    ) -> anyhow::Result<oneshot::Receiver<wasmill_protocol::message::HostInfo>> {
        let (ready, registered) = oneshot::channel();
        let agent = AgentConfig {
            data: self.data.join("host"),
            address: "local".to_owned(),
            slots: config.slots,
            cores: config.cores,
            memory_bytes: config.host_memory_bytes,
            labels: config.labels.clone(),
            caps: config.caps.clone(),
            known: config.known_results,
            drain_grace_ms: config.shutdown_grace_ms,
            ready: Some(ready),
        };
        let sandbox = SandboxConfig {
            engines: Arc::clone(&self.engines),
            threads: config.cores as usize,
            guests_max: config.slots as usize,
        };
        let (to_sandbox, from_sandbox) = Sandbox::start(sandbox, self.artifacts.clone())?;
        let (membership, bus, blobs) = (self.fabric.membership(), self.fabric.bus(), self.fabric.blobs());
        let running = Agent::run(agent, membership, bus, blobs, to_sandbox, from_sandbox, self.host_stop.subscribe());
        self.hosting = Some(tokio::spawn(running));
        Ok(registered)
    }

    /// Serves HTTP until `stop`.
    pub(crate) fn serve_http(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        config: &Config,
        stop: CancellationToken,
    ) -> JoinHandle<std::io::Result<()>> {
        let http_config = HttpConfig {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            caps: config.caps.clone(),
            tls,
            ..HttpConfig::default()
        };
        let gate = Arc::new(CompilerGate(Arc::clone(&self.compiler)));
        let handle = self.handle.clone();
        tokio::spawn(http::serve(listener, http_config, handle, gate, stop.cancelled_owned()))
    }

    /// Ends when a part has ended that should not have: always with an error.
    pub(crate) async fn failed(&mut self) -> anyhow::Result<()> {
        tokio::select! {
            ended = ended(&mut self.leading) => {
                ended?.context("the scheduler failed")?;
                Err(anyhow!("the scheduler ended by itself"))
            }
            ended = ended(&mut self.hosting) => {
                ended?.context("the host failed")?;
                Err(anyhow!("the host ended by itself"))
            }
        }
    }

    /// Drains the host, then ends the scheduler, then writes the read model down.
    pub(crate) async fn stop(&mut self) {
        self.host_stop.send_replace(true);
        if let Some(hosting) = self.hosting.take() {
            report("host", tokio::time::timeout(self.grace + STOP_SLACK, hosting).await);
        }
        self.driver_stop.cancel();
        if let Some(leading) = self.leading.take() {
            report("scheduler", tokio::time::timeout(STOP_SLACK, leading).await);
        }
        if let Err(error) = self.read_model.flush().await {
            tracing::warn!(%error, "the read model was not written to its end; it is caught up at the next start");
        }
    }
}

/// What a part ended with; never, for one that is not running.
async fn ended<E: std::error::Error + Send + Sync + 'static>(
    part: &mut Option<JoinHandle<Result<(), E>>>,
) -> anyhow::Result<anyhow::Result<()>> {
    match part {
        Some(running) => {
            let ended = running.await.context("a part of the process panicked")?;
            *part = None;
            Ok(ended.map_err(anyhow::Error::from))
        }
        None => std::future::pending().await,
    }
}

fn report<E: std::fmt::Display>(
    part: &str,
    ended: Result<Result<Result<(), E>, tokio::task::JoinError>, tokio::time::error::Elapsed>,
) {
    match ended {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(part, %error, "ended with an error"),
        Ok(Err(error)) => tracing::error!(part, %error, "panicked"),
        Err(_) => tracing::error!(part, "did not stop in time"),
    }
}

fn compiler_config(cache: &Path, config: &Config) -> CompilerConfig {
    let mut compiler = CompilerConfig::new(cache, CompileProgram::this_one(["compile"]));
    compiler.limits.cpu_s = config.compile_cpu_s;
    compiler.limits.memory_bytes = config.compile_memory_bytes;
    compiler.slots = SlotLimits::of(config.compile_slots as usize);
    compiler.caps.module_bytes = config.caps.module_bytes;
    compiler.caps.memory_bytes = config.caps.memory_bytes;
    compiler.disk_bytes_max = config.cache_disk_bytes;
    compiler
}
