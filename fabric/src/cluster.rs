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
//! key     /wasmill/CLUSTER/nodes/NODE           a control node that lives
//! key     /wasmill/CLUSTER/log                  which stream is the log, and how far it went
//! ```

mod blobs;
mod bus;
mod clock;
mod config;
mod error;
mod etcd;
mod link;
mod log;
mod mark;
mod membership;
mod metrics;
mod nats;
mod warnings;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::context::{Context, ContextBuilder};
use wasmill_fabric_core::append::WriterId;
use wasmill_metrics::Registry;
use wasmill_protocol::LogSeq;

pub use config::{ClusterConfig, ConfigError, ControlConfig, EtcdConfig, Name, NatsAuth, NatsConfig, TlsConfig};
pub use error::ConnectError;
pub use link::Link;

use self::blobs::{Cache, ClusterBlobs, Store, StoreOptions};
use self::bus::ClusterBus;
use self::etcd::mark::LogMark;
use self::etcd::{EtcdThread, HeldName};
use self::log::{ClusterLog, Floor, LogStream, StreamOptions};
use self::mark::LogEndMark;
use self::membership::ClusterMembership;
use self::nats::Nats;
use crate::remote_blobs::RemoteBlobs;
use crate::{Bus, Fabric, HostFabric};

/// How long a record or a chunk may wait for its acknowledgement until it is sent again.
const ACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(2);
/// Acknowledgements that are waited for at any time.
const ACKNOWLEDGEMENTS_MAX: usize = 1_024;
/// How often what has been there is looked for before it is gone.
const LOOKS: u32 = 4;
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How many servers keep everything, where there are as many.
const REPLICAS: usize = 3;

/// A control node's part of the cluster.
#[derive(Clone)]
pub struct Cluster {
    /// The fabric that it stands on.
    pub fabric: Fabric,
    nats: Nats,
    etcd: EtcdThread,
    warnings: Arc<[String]>,
    /// The news of a cluster that was made just now.
    news: Option<Arc<str>>,
    name: Arc<HeldName>,
}

impl Cluster {
    /// Connects to NATS and etcd, and makes the log of a cluster that has never had one.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] when trying again may help. A cluster whose log is gone is
    /// [`ConnectError::Vanished`]: nothing is ever begun anew by itself.
    pub async fn connect(config: &ClusterConfig, control: &ControlConfig) -> Result<Self, ConnectError> {
        Link::new(config)?.control_node(control).await
    }

    async fn open(
        nats: Nats,
        etcd: EtcdThread,
        config: &ClusterConfig,
        control: &ControlConfig,
    ) -> Result<Self, ConnectError> {
        let cache = Cache::open(&control.cache_dir, control.cache_bytes_max)?;
        let Storage { stream, store, mark, is_new } = open_storage(&nats, &etcd, config, control).await?;
        let warnings = warnings::find(&nats, &stream, control).await;
        let news = is_new.then(|| warnings::of_new_cluster(config).into());
        let name = HeldName::begin(&etcd, config, random()?).await;
        let floor = Floor::new(LogEndMark::new(etcd.clone(), mark.stream), mark.last_seq);
        let fabric = Fabric {
            log: Arc::new(ClusterLog::new(nats.clone(), stream, floor, WriterId(random()?))),
            blobs: Arc::new(ClusterBlobs::new(store, cache)),
            bus: Arc::new(ClusterBus::new(nats.clone())),
            membership: Arc::new(ClusterMembership::new(etcd.clone(), random()?)),
        };
        Ok(Self { fabric, nats, etcd, warnings: warnings.into(), news, name: Arc::new(name) })
    }

    /// Ends when another control node has the name of this one and keeps it: then this one is to
    /// end. A process that has died keeps its name for its lease.
    pub fn name_taken(&self) -> impl Future<Output = ConnectError> + use<> {
        self.name.taken()
    }

    /// Shows how NATS and etcd answer this process.
    pub fn watch(&self, registry: &Registry) {
        self.nats.watch(registry);
        self.etcd.watch(registry);
    }

    /// Warnings, a sentence each: that acknowledged records can be lost, above
    /// all.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Said once of a cluster that this node has just made: it may not be the one that was meant.
    pub fn news(&self) -> Option<&str> {
        self.news.as_deref()
    }
}

/// A host's part of the cluster: without any right to touch the log, or what the blobs are kept in.
#[derive(Clone)]
pub struct HostCluster {
    /// The fabric that it stands on.
    pub fabric: HostFabric,
    nats: Nats,
    etcd: EtcdThread,
}

impl HostCluster {
    /// Connects to NATS and etcd.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`] when trying again may help.
    pub async fn connect(config: &ClusterConfig) -> Result<Self, ConnectError> {
        Link::new(config)?.host().await
    }

    fn open(nats: Nats, etcd: EtcdThread, config: &ClusterConfig) -> Result<Self, ConnectError> {
        let bus: Arc<dyn Bus> = Arc::new(ClusterBus::new(nats.clone()));
        let blobs = Arc::new(RemoteBlobs::new(Arc::clone(&bus), config.member.as_str()));
        let membership = Arc::new(ClusterMembership::new(etcd.clone(), random()?));
        Ok(Self { fabric: HostFabric { blobs, bus, membership }, nats, etcd })
    }

    /// Shows how NATS and etcd answer this process.
    pub fn watch(&self, registry: &Registry) {
        self.nats.watch(registry);
        self.etcd.watch(registry);
    }
}

/// Where records and blobs are kept.
struct Storage {
    stream: LogStream,
    store: Store,
    mark: LogMark,
    /// Nothing had ever been there.
    is_new: bool,
}

/// Finds log and blobs, or makes them when etcd has never heard of a log of this cluster. The mark
/// in etcd comes last, so that whatever is missing when it stands has been there.
async fn open_storage(
    nats: &Nats,
    etcd: &EtcdThread,
    config: &ClusterConfig,
    control: &ControlConfig,
) -> Result<Storage, ConnectError> {
    let unreachable = |error: &etcd::MarkError| ConnectError::Unreachable {
        action: "read which log is the cluster's",
        urls: config.etcd.urls.clone(),
        reason: error::chain(error),
    };
    let vanished = |what, found: String| ConnectError::Vanished { what, cluster: config.cluster.to_string(), found };
    let mark = etcd.log_mark().await.map_err(|error| unreachable(&error))?;
    let (is_new, replicas) = (mark.is_none(), control.replicas.unwrap_or_else(|| replicas(nats, config)));
    let context = context(nats);

    let urls = &config.nats.urls;
    let store = looked_for(|| {
        let bucket = format!("wasmill-{}-blobs", config.cluster);
        let options = StoreOptions { bucket, replicas, urls: urls.clone() };
        blobs::open_or_create(nats.clone(), context.clone(), options, is_new)
    });
    let store = store.await?.ok_or_else(|| vanished("blobs", "there is no such bucket".to_owned()))?;

    let id = format!("{:016x}", random()?);
    let stream = looked_for(|| {
        let options = StreamOptions {
            name: format!("wasmill-{}-log", config.cluster),
            subject: nats.subject("log"),
            replicas,
            bytes_max: control.log_bytes_max,
            id: id.clone(),
            urls: urls.clone(),
        };
        log::open_or_create(context.clone(), options, is_new)
    });
    let stream = stream.await?.ok_or_else(|| vanished("log", "there is no such stream".to_owned()))?;

    let ours = LogMark { stream: stream.id().to_owned(), last_seq: LogSeq(0) };
    let mark = etcd.raise_log_mark(ours).await.map_err(|error| unreachable(&error))?;
    if mark.stream != stream.id() {
        return Err(vanished("log", format!("stream `{}` stands in the place of `{}`", stream.id(), mark.stream)));
    }
    // Of several nodes that have begun together, one has made it.
    let is_new = is_new && stream.id() == id;
    Ok(Storage { stream, store, mark, is_new })
}

/// A stream that has been there is looked for again before it is said to be gone: servers that have
/// only just started may not know yet.
async fn looked_for<T, F>(find: impl Fn() -> F) -> Result<Option<T>, ConnectError>
where
    F: Future<Output = Result<Option<T>, ConnectError>>,
{
    for _ in 1..LOOKS {
        if let Some(found) = find().await? {
            return Ok(Some(found));
        }
        tokio::time::sleep(LOOK).await;
    }
    find().await
}

fn context(nats: &Nats) -> Context {
    ContextBuilder::new()
        .timeout(ACKNOWLEDGED_TIMEOUT)
        .max_ack_inflight(ACKNOWLEDGEMENTS_MAX)
        .backpressure_on_inflight(true)
        .build(nats.client().clone())
}

/// As many as there are servers, up to [`REPLICAS`]; but never two, which cannot outvote each
/// other.
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
