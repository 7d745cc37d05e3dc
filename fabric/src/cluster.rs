//! All four traits on NATS with JetStream, and etcd.
//!
//! ```text
//! stream  wasmill-CLUSTER-log                   the log, a message a record
//! bucket  wasmill-CLUSTER-blobs                 blobs, named by the digits of their digest
//! subject wasmill.CLUSTER.log                   appends; only control nodes may publish there
//! subject wasmill.CLUSTER.inbox.MEMBER.>        answers for one member
//! subject wasmill.CLUSTER.*                     everything else of the bus
//! key     /wasmill/CLUSTER/leader/LEASE         who leads, and who waits to
//! key     /wasmill/CLUSTER/hosts/HOST           a host that lives
//! key     /wasmill/CLUSTER/log                  which stream is the log, and how far it went
//! ```

mod blobs;
mod bus;
mod clock;
mod config;
mod error;
mod etcd;
mod log;
mod mark;
mod membership;
mod nats;
mod warnings;

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use wasmill_fabric_core::append::WriterId;
use wasmill_protocol::LogSeq;

pub use config::{ClusterConfig, ConfigError, ControlConfig, EtcdConfig, Name, NatsAuth, NatsConfig, TlsConfig};
pub use error::ConnectError;

use self::blobs::{Cache, ClusterBlobs, Store, StoreOptions};
use self::bus::ClusterBus;
use self::etcd::EtcdThread;
use self::etcd::mark::LogMark;
use self::log::{ClusterLog, Floor, LogStream, StreamOptions};
use self::mark::Mark;
use self::membership::ClusterMembership;
use self::nats::Nats;
use crate::remote_blobs::RemoteBlobs;
use crate::{Blobs, Bus, Log, Membership};

/// How long a record or a chunk may wait for its acknowledgement until it is sent again.
const ACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(2);
/// Acknowledgements that are waited for at any time.
const ACKNOWLEDGEMENTS_MAX: usize = 1_024;
/// How many servers keep everything, where there are as many.
const REPLICAS: usize = 3;

/// A control node's part of the cluster.
#[derive(Clone)]
pub struct Cluster {
    log: Arc<ClusterLog>,
    blobs: Arc<ClusterBlobs>,
    bus: Arc<ClusterBus>,
    membership: Arc<ClusterMembership>,
    warnings: Arc<[String]>,
}

impl Cluster {
    /// Connects to NATS and etcd, and makes the log of a cluster that has never had one.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] when trying again may help. A cluster whose log is gone is
    /// [`ConnectError::Vanished`]: nothing is ever begun anew by itself.
    pub async fn connect(config: &ClusterConfig, control: &ControlConfig) -> Result<Self, ConnectError> {
        config.check()?;
        let nats = Nats::connect(config).await?;
        let etcd = EtcdThread::start(config).await?;
        let cache = Cache::open(&control.cache_dir, control.cache_bytes_max)?;
        let Storage { stream, store, mark } = open_storage(&nats, &etcd, config, control).await?;
        let warnings = warnings::find(&nats, &stream, control).await;
        let floor = Floor::new(Mark::new(etcd.clone(), mark.stream), mark.last_seq);
        Ok(Self {
            log: Arc::new(ClusterLog::new(nats.clone(), stream, floor, WriterId(random()?))),
            blobs: Arc::new(ClusterBlobs::new(store, cache)),
            bus: Arc::new(ClusterBus::new(nats)),
            membership: Arc::new(ClusterMembership::new(etcd, random()?)),
            warnings: warnings.into(),
        })
    }

    /// The log.
    pub fn log(&self) -> Arc<dyn Log> {
        Arc::clone(&self.log) as _
    }

    /// The blobs.
    pub fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::clone(&self.blobs) as _
    }

    /// The bus.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus) as _
    }

    /// The membership.
    pub fn membership(&self) -> Arc<dyn Membership> {
        Arc::clone(&self.membership) as _
    }

    /// What is not as it should be, a sentence each: that acknowledged records can be lost, above all.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// A host's part of the cluster: without any right to touch the log, or what the blobs are kept in.
#[derive(Clone)]
pub struct HostCluster {
    bus: Arc<ClusterBus>,
    blobs: Arc<RemoteBlobs>,
    membership: Arc<ClusterMembership>,
}

impl HostCluster {
    /// Connects to NATS and etcd.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] when trying again may help.
    pub async fn connect(config: &ClusterConfig) -> Result<Self, ConnectError> {
        config.check()?;
        let nats = Nats::connect(config).await?;
        let etcd = EtcdThread::start(config).await?;
        let bus = Arc::new(ClusterBus::new(nats));
        let blobs = Arc::new(RemoteBlobs::new(Arc::clone(&bus) as _, config.member.as_str()));
        let membership = Arc::new(ClusterMembership::new(etcd, random()?));
        Ok(Self { bus, blobs, membership })
    }

    /// The bus.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::clone(&self.bus) as _
    }

    /// The blobs, as control nodes serve them with [`serve_blobs`](crate::remote_blobs::serve_blobs).
    pub fn blobs(&self) -> Arc<dyn Blobs> {
        Arc::clone(&self.blobs) as _
    }

    /// The membership, in which a host can make itself known and nothing else.
    pub fn membership(&self) -> Arc<dyn Membership> {
        Arc::clone(&self.membership) as _
    }
}

/// Where records and blobs are kept.
struct Storage {
    stream: LogStream,
    store: Store,
    mark: LogMark,
}

/// Finds log and blobs, or makes them when etcd has never heard of a log of this cluster. The mark in etcd comes last, so that whatever is missing
/// when it stands has been there.
async fn open_storage(
    nats: &Nats,
    etcd: &EtcdThread,
    config: &ClusterConfig,
    control: &ControlConfig,
) -> Result<Storage, ConnectError> {
    let unreachable = |reason| ConnectError::Unreachable {
        action: "read which log is the cluster's",
        urls: config.etcd.urls.clone(),
        reason,
    };
    let vanished = |what, found: String| ConnectError::Vanished { what, cluster: config.cluster.to_string(), found };
    let mark = etcd.log_mark().await.map_err(unreachable)?;
    let (is_new, replicas) = (mark.is_none(), control.replicas.unwrap_or_else(|| replicas(nats, config)));
    let context = context(nats);

    let options = StoreOptions { bucket: format!("wasmill-{}-blobs", config.cluster), replicas };
    let store = blobs::open_or_create(nats.clone(), context.clone(), options, is_new).await?;
    let store = store.ok_or_else(|| vanished("blobs", "there is no such bucket".to_owned()))?;

    let options = StreamOptions {
        name: format!("wasmill-{}-log", config.cluster),
        subject: nats.subject("log"),
        replicas,
        bytes_max: control.log_bytes_max,
        id: format!("{:016x}", random()?),
    };
    let stream = log::open_or_create(context, options, is_new).await?;
    let stream = stream.ok_or_else(|| vanished("log", "there is no such stream".to_owned()))?;

    let ours = LogMark { stream: stream.id().to_owned(), last_seq: LogSeq(0) };
    let mark = etcd.raise_log_mark(ours).await.map_err(unreachable)?;
    if mark.stream != stream.id() {
        return Err(vanished("log", format!("stream `{}` stands in the place of `{}`", stream.id(), mark.stream)));
    }
    Ok(Storage { stream, store, mark })
}

fn context(nats: &Nats) -> Context {
    ContextBuilder::new()
        .timeout(ACKNOWLEDGED_TIMEOUT)
        .max_ack_inflight(ACKNOWLEDGEMENTS_MAX)
        .backpressure_on_inflight(true)
        .build(nats.client().clone())
}

/// As many as there are servers, up to [`REPLICAS`]; but never two, which cannot outvote each other.
fn replicas(nats: &Nats, config: &ClusterConfig) -> usize {
    let info = nats.client().server_info();
    let known = info.connect_urls.len().max(config.nats.urls.len());
    if info.cluster.is_some() && known >= REPLICAS { REPLICAS } else { 1 }
}

fn random() -> Result<u64, ConnectError> {
    let mut bytes = [0; 8];
    let drawn = getrandom::fill(&mut bytes);
    drawn.map_err(|error| ConnectError::System { action: "draw a random number", source: error.into() })?;
    Ok(u64::from_le_bytes(bytes))
}
