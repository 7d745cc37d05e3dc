//! `wasmill host`: a host of a cluster.

use std::path::PathBuf;

use wasmill_fabric::cluster::HostCluster;

use crate::failure::Failure;
use crate::server::cluster::{ClusterArgs, connect};
use crate::server::config::Config;
use crate::server::hosting::{HostGround, Hosting, Patience, open_compiler};
use crate::server::{self, DataLock, GuestArgs, ServerArgs};

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
    server::run(&args.server, Some(&args.guests), |_| {}, |data, config| serve(args, data, config))
}

async fn serve(args: &HostArgs, data: PathBuf, config: Config) -> anyhow::Result<()> {
    let stop_asked = server::stop_signal()?;
    let _lock = DataLock::acquire(&data)?;
    let host_dir = data.join("host");
    let id = server::identity(&host_dir.join("host.id"), args.id.as_deref(), "host")?;
    let member = args.cluster.config(&id)?;
    let Some(cluster) = connect(&stop_asked, || HostCluster::connect(&member)).await? else { return Ok(()) };
    let compiler = open_compiler(&data.join("cache"), &config)?;
    let ground = HostGround { membership: cluster.membership(), bus: cluster.bus(), blobs: cluster.blobs() };
    let address = args.address.clone().unwrap_or_else(machine_name);
    let mut hosting = Hosting::start(ground, &host_dir, &address, &config, compiler)?;
    let registered = tokio::select! {
        registered = hosting.registered(Patience::Endless) => Some(registered?),
        () = stop_asked.cancelled() => None,
    };
    if let Some(host) = registered {
        server::announce(&format!("host {} ready", host.id))?;
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

fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}
