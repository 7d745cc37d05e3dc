//! `wasmill control`: a control node of a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::cluster::{ControlConfig, Link};
use wasmill_fabric::remote_blobs::serve_blobs;
use wasmill_fabric::{Fabric, Reminder};
use wasmill_scheduler::handle::Standing;
use wasmill_scheduler_http::{adopt_admin, bootstrap_first_admin};

use crate::data_dir::{ADMIN_TOKEN_FILE, SERVER_ADDR_FILE};
use crate::failure::Failure;
use crate::server::cluster::{ClusterArgs, connect};
use crate::server::config::Config;
use crate::server::front::{Front, FrontArgs};
use crate::server::hosting::{StartWait, open_compiler};
use crate::server::scheduling::{HttpStop, Scheduling};
use crate::server::{self, Identity, ServerArgs};

/// The wait before the admin token is tried again when nobody leads.
const ADMIN_TOKEN_RETRY: Duration = Duration::from_millis(500);

/// Runs a control node of a cluster: HTTP and the scheduler, which one of them leads
#[derive(Debug, clap::Args)]
pub(crate) struct ControlArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    front: FrontArgs,
    /// Name of this node, kept in the data directory [default: a random one]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// A file with the admin token, the same on every node; without it the first node of a new
    /// cluster makes one in its data directory
    #[arg(long, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
    /// Monitoring ports of the NATS servers, like 10.0.0.1:8222: it is checked that they sync
    /// before they acknowledge
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    nats_monitor: Vec<String>,
    /// How many NATS servers keep the log and the blobs of a new cluster
    /// [default: 3 where there are as many, else 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=5))]
    replicas: Option<u8>,
    /// How large the log of a new cluster may become, like 100GiB [default: what the servers allow]
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_bytes)]
    log_size: Option<u64>,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &ControlArgs) -> Result<(), Failure> {
    let change = |config: &mut Config| args.front.override_settings(config);
    let identify = |data: &Path| Identity::of_directory(data, Path::new("node.id"), args.id.as_deref(), "control");
    server::run(&args.server, None, change, identify, |data, config, identity| serve(args, data, config, identity))
}

async fn serve(args: &ControlArgs, data: PathBuf, config: Config, identity: Identity) -> anyhow::Result<()> {
    let stop_asked = server::stop_signal()?;
    let Identity { id: node, lock: _lock } = identity;
    let front = Front::open(&config)?;
    let url = front.url.clone();
    let (member, control) = (args.cluster.config(&node)?, control_config(args, &data));
    let mut link = Link::new(&member)?;
    let Some(cluster) = connect(&stop_asked, async || link.control_node(&control).await).await? else { return Ok(()) };
    cluster.warnings().iter().map(String::as_str).chain(cluster.news()).for_each(|warning| tracing::warn!("{warning}"));

    let Fabric { blobs, bus, .. } = cluster.fabric.clone();
    let mut scheduling = Scheduling::open(&node, cluster.fabric.clone(), &data, &config)?;
    let registry = scheduling.handle().shared().metrics.registry();
    server::watch_process(registry, &config, Some(&args.cluster));
    cluster.watch(registry);
    let compiler = open_compiler(&data.join("cache"), &config, registry)?;
    let (blobs_stop, blobs_stopped) = watch::channel(false);
    tokio::spawn(serve_blobs(bus, blobs, node, blobs_stopped));
    let ready = |standing: &Standing| standing.leader.is_some() && standing.caught_up;
    tokio::select! {
        started = scheduling.start(&config, StartWait::Endless, ready) => started?,
        taken = cluster.name_taken() => return Err(taken.into()),
        () = stop_asked.cancelled() => {}
    }
    if !stop_asked.is_cancelled() {
        tokio::select! {
            made = admin_token(args, &scheduling, &data) => made?,
            () = stop_asked.cancelled() => {}
        }
        server::write_line(&data.join(SERVER_ADDR_FILE), &url)?;
    }

    let (http_leaving, http_stop) = (CancellationToken::new(), CancellationToken::new());
    let stopping = HttpStop { leaving: http_leaving.clone(), stop: http_stop.clone() };
    let http = scheduling.serve_http(front, &config, "cluster", compiler, stopping)?;
    if !stop_asked.is_cancelled() {
        server::announce(&format!("listening on {url}"));
    }
    let ended = tokio::select! {
        () = stop_asked.cancelled() => Ok(()),
        ended = scheduling.failed() => ended,
        taken = cluster.name_taken() => Err(taken.into()),
    };
    if ended.is_ok() {
        tracing::info!("stopping: this node is not ready any more");
        stop_asked.announce(&http_leaving, &config).await;
    }
    http_stop.cancel();
    blobs_stop.send_replace(true);
    scheduling.stop().await;
    let _ = std::fs::remove_file(data.join(SERVER_ADDR_FILE));
    http.await??;
    ended
}

fn control_config(args: &ControlArgs, data: &Path) -> ControlConfig {
    ControlConfig {
        replicas: args.replicas.map(usize::from),
        log_bytes_max: args.log_size,
        nats_monitors: args.nats_monitor.clone(),
        ..ControlConfig::new(data.join("blobs"))
    }
}

/// Makes the token that is given valid, or makes one when the cluster has none; as soon as somebody
/// leads who takes it.
async fn admin_token(args: &ControlArgs, scheduling: &Scheduling, data: &Path) -> anyhow::Result<()> {
    let mut reminder = Reminder::default();
    loop {
        let made = match &args.admin_token_file {
            Some(file) => adopt_admin(scheduling.handle(), file).await,
            None => bootstrap_first_admin(scheduling.handle(), &data.join(ADMIN_TOKEN_FILE)).await,
        };
        match made {
            Ok(()) => return Ok(()),
            Err(error) if error.is_passing() => {
                if reminder.is_due(Instant::now(), &error.to_string()) {
                    tracing::warn!(%error, "trying again until it can");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(ADMIN_TOKEN_RETRY).await;
    }
}
