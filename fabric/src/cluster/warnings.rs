//! Warnings about the servers, as far as they tell their settings.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::REPLICAS;
use super::config::{ClusterConfig, ControlConfig};
use super::error::chain;
use super::log::LogStream;
use super::nats::Nats;

/// How long a monitoring port may take.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(3);
/// How much a monitoring port may answer.
const MONITOR_BYTES_MAX: u64 = 1024 * 1024;

/// Sentences for whoever operates the cluster.
pub(super) async fn find(nats: &Nats, stream: &LogStream, control: &ControlConfig) -> Vec<String> {
    let mut found = Vec::new();
    let info = nats.client().server_info();
    if !nats.client().is_server_compatible(2, 10, 0) {
        found.push(format!(
            "NATS {} acknowledges records up to two minutes before they are on its disk, and cannot be told otherwise: use 2.10 or later",
            info.version
        ));
    }
    let (replicas, servers) = (stream.info().config.num_replicas, info.connect_urls.len());
    if !nats.client().is_server_compatible(2, 10, 0) && replicas > 1 {
        found.push(format!(
            "{replicas} NATS servers of version {} may take no records after one has taken over from another, until that happens once more: use 2.10 or later",
            info.version
        ));
    }
    if info.cluster.is_some() && servers >= REPLICAS && replicas < REPLICAS {
        found.push(format!(
            "the log is kept by {replicas} of {servers} NATS servers: {REPLICAS} survive the loss of one"
        ));
    }
    if stream.is_async() {
        found.push(
            "the log's stream has `persist_mode: async`, which acknowledges records before they are on the disk"
                .to_owned(),
        );
    }
    for monitor in &control.nats_monitors {
        match is_synced(monitor).await {
            Ok(true) => {}
            Ok(false) => found.push(format!(
                "NATS at {monitor} acknowledges records before they are on its disk: set `sync_interval: always` in its `jetstream` section"
            )),
            Err(error) => found.push(format!(
                "cannot tell whether NATS at {monitor} syncs before it acknowledges: {}",
                chain(&error)
            )),
        }
    }
    found
}

/// A cluster that nobody has heard of is one too many when its name is a mistake.
pub(super) fn of_new_cluster(config: &ClusterConfig) -> String {
    let cluster = &config.cluster;
    format!(
        "cluster `{cluster}` is new and empty: stream `wasmill-{cluster}-log` on NATS and the keys below `/wasmill/{cluster}/` in etcd were made just now; if it was to be there already, check `--cluster`, `--nats` and `--etcd`"
    )
}

/// The part of `/jsz` that matters here.
#[derive(Deserialize)]
struct Jsz {
    #[serde(default)]
    config: JszConfig,
}

#[derive(Deserialize, Default)]
struct JszConfig {
    #[serde(default)]
    sync_always: bool,
}

/// A monitoring port could not be asked.
#[derive(Debug, Error)]
enum MonitorError {
    /// The port is silent.
    #[error("no answer in {timeout:?}")]
    NoAnswer {
        /// How long the question has waited.
        timeout: Duration,
    },
    /// The connection has failed.
    #[error(transparent)]
    Connection(#[from] std::io::Error),
    /// Something else listens there.
    #[error("not an answer of a monitoring port")]
    NoHttp,
    /// Something else listens there.
    #[error("not an answer of a monitoring port")]
    NoJson(#[from] serde_json::Error),
}

async fn is_synced(monitor: &str) -> Result<bool, MonitorError> {
    let asking = async {
        let mut stream = TcpStream::connect(monitor).await?;
        stream.write_all(format!("GET /jsz HTTP/1.0\r\nHost: {monitor}\r\n\r\n").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(MONITOR_BYTES_MAX).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer =
        timeout(MONITOR_TIMEOUT, asking).await.map_err(|_| MonitorError::NoAnswer { timeout: MONITOR_TIMEOUT })??;
    let answer = String::from_utf8_lossy(&answer);
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).ok_or(MonitorError::NoHttp)?;
    let jsz: Jsz = serde_json::from_str(body)?;
    Ok(jsz.config.sync_always)
}
