//! The host of this process: the agent, and the sandbox behind it.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use wasmill_fabric::HostFabric;
use wasmill_host::agent::{Agent, AgentConfig, AgentError, SandboxEnds};
use wasmill_host::compile::{CompileProgram, Compiler, CompilerConfig, ModuleCache, ModuleCacheConfig, SlotLimits};
use wasmill_host::engine::{Engines, Instances};
use wasmill_host::metrics::{Metrics, watch_compiler};
use wasmill_host::sandbox::{Sandbox, SandboxConfig};
use wasmill_metrics::Registry;
use wasmill_protocol::message::HostInfo;

use super::config::Config;
use super::{ended, report};

/// How long the host may take to register in one process.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(30);
/// The time beyond the grace when stopping: the sandbox ends within ticks, the leader
/// within one append.
const STOP_SLACK: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct Hosting {
    stop: watch::Sender<bool>,
    running: Option<JoinHandle<Result<(), AgentError>>>,
    registered: Option<oneshot::Receiver<HostInfo>>,
    grace: Duration,
}

impl Hosting {
    /// Starts the host that `data` is the directory of. `address` is for people.
    pub(crate) fn start(
        fabric: HostFabric,
        data: &Path,
        address: &str,
        config: &Config,
        compiler: Arc<Compiler>,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let engines = Arc::new(Engines::new(Instances::Pooled { guests_max: config.slots }));
        let cache_config = ModuleCacheConfig { bytes_max: config.cache_memory_bytes, ..ModuleCacheConfig::default() };
        let artifacts = Arc::new(ModuleCache::new(compiler, Arc::clone(&engines), cache_config));
        let (ready, registered) = oneshot::channel();
        let agent = AgentConfig {
            data: data.to_owned(),
            address: address.to_owned(),
            slots: config.slots,
            cores: config.cores,
            memory_bytes: config.host_memory_bytes,
            labels: config.labels.clone(),
            caps: config.caps.clone(),
            known: config.known_results,
            drain_grace_ms: config.shutdown_grace_ms,
            metrics: metrics.clone(),
            ready: Some(ready),
        };
        let sandbox = SandboxConfig { engines, threads: config.cores as usize, guests_max: config.slots as usize };
        let (to, from) = Sandbox::start(sandbox, Arc::<ModuleCache>::clone(&artifacts))?;
        let ends = SandboxEnds { to, from, readiness: artifacts };
        let stop = watch::Sender::new(false);
        let HostFabric { membership, bus, blobs } = fabric;
        let running = Agent::run(agent, membership, bus, blobs, ends, stop.subscribe());
        Ok(Self {
            stop,
            running: Some(tokio::spawn(running)),
            registered: Some(registered),
            grace: Duration::from_millis(config.shutdown_grace_ms),
        })
    }

    /// Waits until the host is registered, in one process for a bounded time only.
    pub(crate) async fn registered(&mut self, patience: StartWait) -> anyhow::Result<HostInfo> {
        let registered = self.registered.take().context("the host was waited for before")?;
        let timeout = match patience {
            StartWait::Bounded => tokio::time::sleep(REGISTER_TIMEOUT),
            StartWait::Endless => tokio::time::sleep(Duration::MAX / 4),
        };
        let host = tokio::select! {
            host = registered => host.ok(),
            ended = self.failed() => return ended.context("the host did not start").map(|()| HostInfo::default()),
            () = timeout => None,
        };
        let host = host.context("the host did not register")?;
        tracing::info!(host = %host.id, memory_bytes = host.memory_bytes, "host ready");
        Ok(host)
    }

    /// Ends when the host has ended, which it should not: always with an error.
    pub(crate) fn failed(&mut self) -> impl Future<Output = anyhow::Result<()>> {
        let running = &mut self.running;
        async move {
            ended(running).await?.context("the host failed")?;
            Err(anyhow!("the host ended by itself"))
        }
    }

    /// Drains the host: what runs is finished within the grace, or handed back.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(running) = self.running.take() {
            report("host", tokio::time::timeout(self.grace + STOP_SLACK, running).await);
        }
    }
}

/// For how long to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StartWait {
    /// The leader is in the same process: it comes soon or not at all.
    Bounded,
    /// Servers may come later than we do.
    Endless,
}

/// The compiler of this process, with its artifacts in `cache`. It counts in `registry`.
pub(crate) fn open_compiler(cache: &Path, config: &Config, registry: &Registry) -> anyhow::Result<Arc<Compiler>> {
    let mut compiler = CompilerConfig::new(cache, CompileProgram::this_one(["compile"]));
    compiler.limits.cpu_s = config.compile_cpu_s;
    compiler.limits.memory_bytes = config.compile_memory_bytes;
    compiler.slots = SlotLimits::of(config.compile_slots as usize);
    compiler.caps.module_bytes = config.caps.module_bytes;
    compiler.caps.memory_bytes = config.caps.memory_bytes;
    compiler.disk_bytes_max = config.cache_disk_bytes;
    let compiler = Arc::new(Compiler::open(compiler)?);
    watch_compiler(registry, &compiler);
    Ok(compiler)
}
