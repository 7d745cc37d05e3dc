//! The common part of the processes that serve: `up`, `control` and `host`.

pub(crate) mod certificates;
pub(crate) mod cluster;
pub(crate) mod config;
pub(crate) mod front;
pub(crate) mod hosting;
pub(crate) mod machine;
pub(crate) mod scheduling;

mod data;
mod gate;
mod private;

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use wasmill_metrics::Registry;
use wasmill_scheduler_http as http;

use data::{DataLock, identity};

use crate::data_dir::default_data_dir;
use crate::failure::{Exit, Failure};
use crate::output;
use crate::telemetry::{self, TelemetryArgs};
use cluster::ClusterArgs;
use config::Config;
use front::TlsFiles;

/// Options of every process that serves.
#[derive(Debug, clap::Args)]
pub(crate) struct ServerArgs {
    /// Where everything is kept; created if missing [default: ~/.local/share/wasmill]
    #[arg(long, value_name = "DIR", env = "WASMILL_DATA")]
    data: Option<PathBuf>,
    /// Settings in TOML; `--print-config` shows all of them with their defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where metrics and health are served without a token, for the operator's network
    /// [default: nowhere]
    #[arg(long, value_name = "ADDR")]
    metrics_listen: Option<SocketAddr>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
    #[command(flatten)]
    telemetry: TelemetryArgs,
    /// Prints the settings with their defaults and explanations, and exits
    #[arg(long)]
    print_config: bool,
}

/// The resources that a process gives its guests.
#[derive(Debug, clap::Args)]
pub(crate) struct GuestArgs {
    /// Guests that run at the same time [default: 16 per core]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Cores for guests [default: all]
    #[arg(long, value_name = "N")]
    cores: Option<u32>,
    /// Memory for guests, like 4GiB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_bytes)]
    memory: Option<u64>,
    /// A label that tasks can ask for with `require`; can be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = crate::units::parse_pair)]
    labels: Vec<(String, String)>,
}

impl GuestArgs {
    fn override_settings(&self, config: &mut Config) {
        if let Some(cores) = self.cores {
            config.cores = cores.max(1);
        }
        if let Some(slots) = self.slots {
            config.slots = slots;
        }
        if let Some(memory) = self.memory {
            config.host_memory_bytes = memory;
        }
        config.labels.extend(self.labels.iter().cloned());
    }
}

/// The identity of a process, and the locks that keep others from it.
#[derive(Debug)]
pub(crate) struct Identity {
    /// The name of the node or the host.
    pub(crate) id: String,
    /// Held for as long as the process serves.
    pub(crate) lock: Option<DataLock>,
}

impl Identity {
    /// The one that a data directory is locked for: `file` in it keeps the name.
    ///
    /// # Errors
    ///
    /// As for [`DataLock::acquire`] and [`identity`].
    pub(crate) fn of_directory(data: &Path, file: &Path, wanted: Option<&str>, prefix: &str) -> anyhow::Result<Self> {
        let lock = Some(DataLock::acquire(data)?);
        Ok(Self { id: identity(&data.join(file), wanted, prefix)?, lock })
    }
}

/// Runs a process that serves, until it has stopped. `change` overrides settings by the rest of the
/// command line.
pub(crate) fn run<F: Future<Output = anyhow::Result<()>>>(
    args: &ServerArgs,
    guests: Option<&GuestArgs>,
    change: impl FnOnce(&mut Config),
    identify: impl FnOnce(&Path) -> anyhow::Result<Identity>,
    serve: impl FnOnce(PathBuf, Config, Identity) -> F,
) -> Result<(), Failure> {
    if args.print_config {
        return output::print_bytes(config::DEFAULT_TOML.as_bytes());
    }
    let data = args.data.clone().or_else(default_data_dir);
    let data = data.ok_or_else(|| Failure::usage("neither `--data` nor `HOME` says where to keep the data"))?;
    // The compiling child works in another directory.
    let data = std::path::absolute(&data).map_err(|error| Failure::file("use the data directory", &data, &error))?;
    let unusable = |error: anyhow::Error| Failure::usage("cannot start").because(error.as_ref());
    let config = settings(args, guests, change).map_err(unusable)?;
    let opened = private::take(&data).map_err(unusable)?;
    let identity =
        identify(&data).map_err(|error| Failure::new(Exit::Server, "cannot start").because(error.as_ref()))?;
    let telemetry = telemetry::start(args.log_json, &config.telemetry, &identity.id).map_err(unusable)?;
    opened.report();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(|error| Failure::new(Exit::Server, "cannot start the I/O runtime").because(&error))?;
    let open_files = machine::raise_open_files_limit();
    tracing::debug!(open_files, "limits");
    let served = runtime.block_on(serve(data, config, identity));
    // A thread that is blocked in a system call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    telemetry.stop();
    served.map_err(|error| Failure::new(Exit::Server, "the server stopped").because(error.as_ref()))
}

fn settings(args: &ServerArgs, guests: Option<&GuestArgs>, change: impl FnOnce(&mut Config)) -> anyhow::Result<Config> {
    let mut config = Config::load(args.config.as_deref(), machine::detect())?;
    if let Some(guests) = guests {
        guests.override_settings(&mut config);
    }
    change(&mut config);
    config.metrics_listen = args.metrics_listen.or(config.metrics_listen);
    config.telemetry.override_with(&args.telemetry)?;
    config.check()?;
    Ok(config)
}

/// Metrics of the process as a whole, beside those of its parts: traces, and when its certificates
/// end.
pub(crate) fn watch_process(registry: &Registry, config: &Config, cluster: Option<&ClusterArgs>) {
    telemetry::watch(registry);
    let [nats, etcd] = cluster.map_or([None, None], ClusterArgs::certificates);
    let https = config.tls.as_ref().map(TlsFiles::cert);
    certificates::watch(registry, &[("https", https), ("nats", nats), ("etcd", etcd)]);
}

/// Listens for whoever asks for metrics, when an address is set.
pub(crate) fn metrics_listener(config: &Config) -> anyhow::Result<Option<TcpListener>> {
    let Some(address) = config.metrics_listen else { return Ok(None) };
    let listener = http::listen(address).with_context(|| format!("cannot listen on {address} for metrics"))?;
    tracing::info!("metrics and health on http://{}", listener.local_addr()?);
    Ok(Some(listener))
}

/// The one line on stdout that scripts wait for. When nobody reads it, there is still something to
/// serve.
pub(crate) fn announce(line: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::debug!(%error, "nobody reads stdout");
    }
}

/// Writes a file of one line.
pub(crate) fn write_line(path: &Path, line: &str) -> anyhow::Result<()> {
    std::fs::write(path, format!("{line}\n")).with_context(|| format!("cannot write `{}`", path.display()))
}

/// The wish of somebody that this process stops.
#[derive(Debug)]
pub(crate) struct StopSignal {
    asked: CancellationToken,
    /// By SIGINT: somebody sits before it and waits.
    interrupted: CancellationToken,
}

impl std::ops::Deref for StopSignal {
    type Target = CancellationToken;

    fn deref(&self) -> &CancellationToken {
        &self.asked
    }
}

impl StopSignal {
    /// Says that this process is not ready any more, and leaves those who ask the time to hear of
    /// it while everything is still served. Nobody sends requests to a server that runs in a
    /// terminal by what it says there.
    pub(crate) async fn announce(&self, leaving: &CancellationToken, config: &Config) {
        leaving.cancel();
        if !self.interrupted.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(config.drain_ms)).await;
        }
    }
}

/// Ends with the first SIGTERM or SIGINT; a second one ends the process at once.
pub(crate) fn stop_signal() -> anyhow::Result<StopSignal> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (asked, interrupted) = (CancellationToken::new(), CancellationToken::new());
    let answer = StopSignal { asked: asked.clone(), interrupted: interrupted.clone() };
    tokio::spawn(async move {
        for patience in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => interrupted.cancel(),
            }
            if patience > 0 {
                std::process::exit(130);
            }
            asked.cancel();
        }
    });
    Ok(answer)
}

/// The result of a part; never, for one that is not running.
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

fn report<E: std::fmt::Display>(part: &str, ended: Result<Result<Result<(), E>, JoinError>, Elapsed>) {
    match ended {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => tracing::error!(part, %error, "ended with an error"),
        Ok(Err(error)) => tracing::error!(part, %error, "panicked"),
        Err(_) => tracing::error!(part, "did not stop in time"),
    }
}
