//! `wasmill host`: a host of a cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use wasmill_fabric::cluster::Link;

use futures::FutureExt;
use futures::future::BoxFuture;
use wasmill_host::metrics::Metrics;
use wasmill_metrics::{Page, Registry, Source};

use crate::failure::Failure;
use crate::server::cluster::{ClusterArgs, connect};
use crate::server::config::Config;
use crate::server::hosting::{Hosting, StartWait, open_compiler};
use crate::server::{self, GuestArgs, Identity, ServerArgs};

/// Runs a host of a cluster: attempts, in sandboxes
#[derive(Debug, clap::Args)]
pub(crate) struct HostArgs {
    #[command(flatten)]
    server: ServerArgs,
    /// Name of this host, kept in the data directory [default: a random one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Where this host can be reached, for people [default: the name of the machine]
    #[arg(long, value_name = "TEXT")]
    address: Option<String>,
    #[command(flatten)]
    guests: GuestArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs attempts until SIGTERM or SIGINT, and then finishes them or hands them back.
pub(crate) fn run(args: &HostArgs) -> Result<(), Failure> {
    let identify = |data: &Path| Identity::of_directory(data, Path::new("host/host.id"), args.id.as_deref(), "host");
    let serve = |data, config, identity| serve(args, data, config, identity);
    server::run(&args.server, Some(&args.guests), |_| {}, identify, serve)
}

async fn serve(args: &HostArgs, data: PathBuf, config: Config, identity: Identity) -> anyhow::Result<()> {
    let stop_asked = server::stop_signal()?;
    let Identity { id, lock: _lock } = identity;
    let host_dir = data.join("host");
    let member = args.cluster.config(&id)?;
    let mut link = Link::new(&member)?;
    let Some(cluster) = connect(&stop_asked, async || link.host().await).await? else { return Ok(()) };
    let registry = wasmill_metrics::registry(env!("CARGO_PKG_VERSION"));
    server::watch_process(&registry, &config, Some(&args.cluster));
    cluster.watch(&registry);
    let compiler = open_compiler(&data.join("cache"), &config, &registry)?;
    let address = args.address.clone().unwrap_or_else(server::machine::name);
    let metrics = Metrics::new(&registry);
    let mut hosting = Hosting::start(cluster.fabric, &host_dir, &address, &config, compiler, &metrics)?;
    if let Some(listener) = server::metrics_listener(&config)? {
        tokio::spawn(wasmill_metrics::serve(listener, Arc::new(HostPage { registry, metrics })));
    }
    let registered = tokio::select! {
        registered = hosting.registered(StartWait::Endless) => Some(registered?),
        () = stop_asked.cancelled() => None,
    };
    if let Some(host) = registered {
        server::announce(&format!("host {} ready", host.id));
    }
    let ended = tokio::select! {
        () = stop_asked.cancelled() => Ok(()),
        ended = hosting.failed() => ended,
    };
    if ended.is_ok() {
        tracing::info!("stopping: running attempts are finished or handed back");
    }
    hosting.stop().await;
    ended
}

/// The page of a host for its operator.
struct HostPage {
    registry: Registry,
    metrics: Metrics,
}

impl Source for HostPage {
    fn page(&self) -> BoxFuture<'_, Page> {
        std::future::ready(Page::of(&self.registry)).boxed()
    }

    fn ready(&self) -> Result<(), String> {
        if self.metrics.is_registered() { Ok(()) } else { Err("the host is not registered".to_owned()) }
    }
}
