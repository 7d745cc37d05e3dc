//! `wasmill up`: control node and host in one process, on one data directory.

mod config;
mod gate;
mod machine;
mod parts;

use std::future::Future;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use wasmill_scheduler::http::Tls;

use crate::data_dir::{ADMIN_TOKEN_FILE, SERVER_ADDR_FILE, default_data_dir};
use crate::failure::{Exit, Failure};
use config::{Config, TlsFiles};
use parts::Parts;

/// Runs everything in one process: HTTP, the scheduler and a host
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    /// Where everything is kept; created if missing [default: ~/.local/share/wasmill]
    #[arg(long, value_name = "DIR", env = "WASMILL_DATA")]
    data: Option<PathBuf>,
    /// Where HTTP is served; port 0 takes a free one [default: 127.0.0.1:7700]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Certificate in PEM, with those that lead to its authority: serves HTTPS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Settings in TOML; `--print-config` shows all of them with their defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Guests that run at the same time [default: 16 per core]
    #[arg(long, value_name = "N")]
    slots: Option<u32>,
    /// Cores for guests [default: all]
    #[arg(long, value_name = "N")]
    cores: Option<u32>,
    /// Memory for guests, like 4GiB [default: three quarters of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_bytes)]
    memory: Option<u64>,
    /// What tasks can ask for with `require`; can be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = crate::units::parse_pair)]
    labels: Vec<(String, String)>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
    /// Prints the settings with their defaults and explanations, and exits
    #[arg(long)]
    print_config: bool,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: UpArgs) -> Result<(), Failure> {
    if args.print_config {
        print!("{}", config::DEFAULT_TOML);
        return Ok(());
    }
    let data = args.data.clone().or_else(default_data_dir);
    let data = data.ok_or_else(|| Failure::usage("neither `--data` nor `HOME` says where to keep the data"))?;
    // The compiling child works in another directory.
    let data = std::path::absolute(&data).map_err(|error| Failure::file("use the data directory", &data, &error))?;
    let config = settings(&args).map_err(|error| Failure::usage("cannot start").because(error.as_ref()))?;
    start_log(args.log_json);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("control")
        .build()
        .map_err(|error| Failure::new(Exit::Server, "cannot start the I/O runtime").because(&error))?;
    let served = runtime.block_on(serve(&data, config));
    // What is still blocked in a system call must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served.map_err(|error| Failure::new(Exit::Server, "the server stopped").because(error.as_ref()))
}

fn settings(args: &UpArgs) -> anyhow::Result<Config> {
    let mut config = Config::load(args.config.as_deref(), machine::detect())?;
    if let Some(listen) = args.listen {
        config.listen = listen;
    }
    if let (Some(cert), Some(key)) = (&args.tls_cert, &args.tls_key) {
        config.tls = Some(TlsFiles { cert: cert.clone(), key: key.clone() });
    }
    if let Some(cores) = args.cores {
        config.cores = cores.max(1);
    }
    if let Some(slots) = args.slots {
        config.slots = slots;
    }
    if let Some(memory) = args.memory {
        config.host_memory_bytes = memory;
    }
    config.labels.extend(args.labels.iter().cloned());
    config.check()?;
    Ok(config)
}

fn start_log(json: bool) {
    let filter = EnvFilter::try_from_env("WASMILL_LOG").unwrap_or_else(|_| EnvFilter::new("warn,wasmill=info"));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    if json { log.json().init() } else { log.with_target(false).init() }
}

async fn serve(data: &Path, config: Config) -> anyhow::Result<()> {
    let open_files = machine::raise_open_files_limit();
    tracing::debug!(open_files, "limits");
    let tls = config.tls.as_ref().map(|files| Tls::load(&files.cert, &files.key)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let stop_asked = stop_signal()?;
    let mut parts = Parts::open(data, &config).await?;
    // Bound only now: a second process on this data directory has been refused already.
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen))?;
    let address = listener.local_addr()?;
    parts.lead_and_host(&config).await?;
    let url = format!("{scheme}://{address}");
    let token_file = data.join(ADMIN_TOKEN_FILE);
    wasmill_scheduler::http::bootstrap_admin(parts.handle(), &token_file).await?;
    write_line(&data.join(SERVER_ADDR_FILE), &url)?;

    let http_stop = CancellationToken::new();
    let http = parts.serve_http(listener, tls, &config, http_stop.clone());
    announce(&url)?;
    let ended = tokio::select! {
        () = stop_asked => Ok(()),
        ended = parts.failed() => ended,
    };
    if ended.is_ok() {
        tracing::info!("stopping: running attempts are finished or handed back");
    }
    http_stop.cancel();
    parts.stop().await;
    let _ = std::fs::remove_file(data.join(SERVER_ADDR_FILE));
    http.await??;
    ended
}

/// The one line on stdout that scripts wait for.
fn announce(url: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {url}")?;
    out.flush()?;
    Ok(())
}

fn write_line(path: &Path, line: &str) -> anyhow::Result<()> {
    std::fs::write(path, format!("{line}\n")).with_context(|| format!("cannot write `{}`", path.display()))
}

/// Ends with the first SIGTERM or SIGINT; a second one ends the process at once.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = CancellationToken::new();
    let answer = asked.clone();
    tokio::spawn(async move {
        for patience in 0..2 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if patience > 0 {
                std::process::exit(130);
            }
            asked.cancel();
        }
    });
    Ok(async move { answer.cancelled().await })
}
