//! The scheduler of this process: the driver, what it publishes, and HTTP.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Fabric, REMIND_AFTER};
use wasmill_host::compile::Compiler;
use wasmill_scheduler::driver::{Driver, DriverConfig, DriverError};
use wasmill_scheduler::handle::Standing;
use wasmill_scheduler::read_model::ReadModel;
use wasmill_scheduler::{Handle, sweep};
use wasmill_scheduler_core::CoreConfig;
use wasmill_scheduler_http::{self as http, HttpConfig, Listeners};

use super::config::Config;
use super::front::Front;
use super::gate::CompilerGate;
use super::hosting::StartWait;
use super::{ended, report};

/// How long it may take until requests can be served: the log is replayed.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// The time for stopping: the log ends within one append.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How HTTP is asked to end.
pub(crate) struct HttpStop {
    /// It is not ready any more, and serves.
    pub(crate) leaving: CancellationToken,
    /// It ends.
    pub(crate) stop: CancellationToken,
}

/// See the module.
pub(crate) struct Scheduling {
    handle: Handle,
    read_model: Arc<ReadModel>,
    driver: Option<Driver>,
    stop: CancellationToken,
    running: Option<JoinHandle<Result<(), DriverError>>>,
}

impl Scheduling {
    /// Opens the read model in `data`; starts nothing.
    pub(crate) fn open(node: &str, fabric: Fabric, data: &Path, config: &Config) -> anyhow::Result<Self> {
        let read_model = Arc::new(ReadModel::open(data)?);
        let seed = getrandom::u64().map_err(|error| anyhow!("cannot draw a random seed: {error}"))?;
        let config = DriverConfig {
            node: node.to_owned(),
            core: CoreConfig::default(),
            snapshots: config.snapshots.clone(),
            seed,
        };
        let (driver, handle) = Driver::new(config, fabric, Arc::clone(&read_model));
        Ok(Self { handle, read_model, driver: Some(driver), stop: CancellationToken::new(), running: None })
    }

    /// The way to the driver.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts the driver, and waits until it stands as `ready` says. The missing server of a
    /// cluster is named every minute.
    pub(crate) async fn start(
        &mut self,
        config: &Config,
        patience: StartWait,
        ready: fn(&Standing) -> bool,
    ) -> anyhow::Result<()> {
        let driver = self.driver.take().context("the driver was started before")?;
        let mut standing = self.handle.shared().standing.subscribe();
        self.running = Some(tokio::spawn(driver.run(self.stop.clone())));
        let timeout = tokio::time::sleep(match patience {
            StartWait::Bounded => READY_TIMEOUT,
            StartWait::Endless => Duration::MAX / 4,
        });
        let seen = standing.clone();
        let is_ready = tokio::select! {
            is_ready = standing.wait_for(ready) => is_ready.is_ok(),
            ended = self.failed() => return ended.context("the scheduler did not start"),
            () = remind(seen) => false,
            () = timeout => false,
        };
        anyhow::ensure!(is_ready, "the scheduler did not start in {} s", READY_TIMEOUT.as_secs());
        tokio::spawn(sweep::run(self.handle.clone(), Duration::from_secs(config.retention_s), self.stop.clone()));
        Ok(())
    }

    /// Serves HTTP until it is stopped.
    pub(crate) fn serve_http(
        &self,
        front: Front,
        config: &Config,
        mode: &str,
        compiler: Arc<Compiler>,
        stopping: HttpStop,
    ) -> anyhow::Result<JoinHandle<std::io::Result<()>>> {
        let http_config = HttpConfig {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            mode: mode.to_owned(),
            caps: config.caps.clone(),
            tls: front.tls,
            connections_per_address: config.connections_per_address,
            leaving: stopping.leaving,
            ..HttpConfig::default()
        };
        let gate = Arc::new(CompilerGate(compiler));
        let listeners = Listeners { http: front.listener, metrics: super::metrics_listener(config)? };
        let serving = http::serve(listeners, http_config, self.handle.clone(), gate, stopping.stop.cancelled_owned());
        Ok(tokio::spawn(serving))
    }

    /// Ends when the driver has ended, which it should not: always with an error.
    pub(crate) fn failed(&mut self) -> impl Future<Output = anyhow::Result<()>> {
        let running = &mut self.running;
        async move {
            ended(running).await?.context("the scheduler failed")?;
            Err(anyhow!("the scheduler ended by itself"))
        }
    }

    /// Ends the driver, then writes the read model down.
    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        if let Some(running) = self.running.take() {
            report("scheduler", tokio::time::timeout(STOP_TIMEOUT, running).await);
        }
        if let Err(error) = self.read_model.flush().await {
            tracing::warn!(%error, "the read model was not written to its end; it is caught up at the next start");
        }
    }
}

/// Says every minute what a start waits for, and never ends.
async fn remind(standing: watch::Receiver<Standing>) {
    loop {
        tokio::time::sleep(REMIND_AFTER).await;
        let (leader, caught_up, log_silent) = {
            let standing = standing.borrow();
            (standing.leader.clone(), standing.caught_up, standing.log_silent)
        };
        tracing::warn!(
            leader,
            caught_up,
            log_silent,
            "not ready yet: waiting until somebody leads and the log is read"
        );
    }
}
