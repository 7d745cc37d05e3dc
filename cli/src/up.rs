//! `wasmill up`: control node and host in one process, on one data directory.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::embedded;
use wasmill_host::metrics::Metrics;

use crate::data_dir::{ADMIN_TOKEN_FILE, SERVER_ADDR_FILE};
use crate::failure::Failure;
use crate::server::config::Config;
use crate::server::front::{Front, FrontArgs};
use crate::server::hosting::{Hosting, StartWait, open_compiler};
use crate::server::scheduling::{HttpStop, Scheduling};
use crate::server::{self, GuestArgs, Identity, ServerArgs};

/// Runs everything in one process: HTTP, the scheduler and a host
#[derive(Debug, clap::Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    front: FrontArgs,
    #[command(flatten)]
    guests: GuestArgs,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(args: &UpArgs) -> Result<(), Failure> {
    let change = |config: &mut Config| args.front.override_settings(config);
    // The embedded fabric locks the directory by itself.
    let identify = |_: &Path| Ok(Identity { id: "local".to_owned(), lock: None });
    server::run(&args.server, Some(&args.guests), change, identify, serve)
}

async fn serve(data: PathBuf, config: Config, identity: Identity) -> anyhow::Result<()> {
    let stop_asked = server::stop_signal()?;
    let fabric =
        embedded::open(&data).with_context(|| format!("cannot use the data directory `{}`", data.display()))?;
    let host_fabric = fabric.of_host();
    let mut scheduling = Scheduling::open(&identity.id, fabric, &data, &config)?;
    let registry = scheduling.handle().shared().metrics.registry().clone();
    server::watch_process(&registry, &config, None);
    let compiler = open_compiler(&data.join("cache"), &config, &registry)?;
    // Bound only now: a second process on this data directory has been refused already.
    let front = Front::open(&config)?;
    let url = front.url.clone();
    scheduling.start(&config, StartWait::Bounded, |standing| standing.leading).await?;
    let metrics = Metrics::new(&registry);
    let mut hosting = Hosting::start(host_fabric, &data.join("host"), "local", &config, compiler.clone(), &metrics)?;
    hosting.registered(StartWait::Bounded).await?;
    wasmill_scheduler_http::bootstrap_admin(scheduling.handle(), &data.join(ADMIN_TOKEN_FILE)).await?;
    server::write_line(&data.join(SERVER_ADDR_FILE), &url)?;

    let (http_leaving, http_stop) = (CancellationToken::new(), CancellationToken::new());
    let stopping = HttpStop { leaving: http_leaving.clone(), stop: http_stop.clone() };
    let http = scheduling.serve_http(front, &config, "standalone", compiler, stopping)?;
    server::announce(&format!("listening on {url}"));
    let ended = tokio::select! {
        () = stop_asked.cancelled() => Ok(()),
        ended = scheduling.failed() => ended,
        ended = hosting.failed() => ended,
    };
    if ended.is_ok() {
        tracing::info!("stopping: running attempts are finished or handed back");
        stop_asked.announce(&http_leaving, &config).await;
    }
    // The host first: the leader must still be there to record what it hands back. Meanwhile
    // results can be fetched and tasks cancelled.
    hosting.stop().await;
    http_stop.cancel();
    scheduling.stop().await;
    let _ = std::fs::remove_file(data.join(SERVER_ADDR_FILE));
    http.await??;
    ended
}
