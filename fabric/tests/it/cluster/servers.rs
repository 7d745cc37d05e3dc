//! One NATS and one etcd of each age for all tests of the process; each test has a cluster of its
//! own on them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;
use wasmill_fabric::cluster::{Cluster, ClusterConfig, ControlConfig, EtcdConfig, HostCluster, Name, NatsConfig};
use wasmill_fabric_testing::{EtcdOptions, EtcdServer, EtcdVersion, NatsOptions, NatsServer, NatsVersion, Proxy};

use crate::conformance::Fixture;

/// Servers that are shared by all tests, so nobody may stop them.
pub(crate) struct Pair {
    pub(crate) nats: NatsServer,
    pub(crate) etcd: EtcdServer,
}

impl Pair {
    pub(crate) fn old() -> &'static Self {
        static PAIR: OnceLock<Pair> = OnceLock::new();
        PAIR.get_or_init(|| Self::start(NatsVersion::V2_9, EtcdVersion::V3_4))
    }

    pub(crate) fn new() -> &'static Self {
        static PAIR: OnceLock<Pair> = OnceLock::new();
        PAIR.get_or_init(|| Self::start(NatsVersion::V2_15, EtcdVersion::V3_5))
    }

    fn start(nats: NatsVersion, etcd: EtcdVersion) -> Self {
        Self { nats: NatsServer::start(&NatsOptions::new(nats)), etcd: EtcdServer::start(&EtcdOptions::new(etcd)) }
    }

    /// A cluster that nobody else uses.
    pub(crate) fn config(&self, member: &str) -> ClusterConfig {
        config(vec![self.nats.url()], vec![self.etcd.url()], member)
    }
}

/// A cluster of a new name on these servers.
pub(crate) fn config(nats: Vec<String>, etcd: Vec<String>, member: &str) -> ClusterConfig {
    ClusterConfig {
        cluster: fresh_name(),
        member: name(member),
        nats: NatsConfig { urls: nats, ..NatsConfig::default() },
        etcd: EtcdConfig { urls: etcd, ..EtcdConfig::default() },
        lease_ms: 5_000,
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// The same cluster for somebody else.
pub(crate) fn member(config: &ClusterConfig, member: &str) -> ClusterConfig {
    ClusterConfig { member: name(member), ..config.clone() }
}

/// A control node, and the directory of its copies.
pub(crate) async fn control(config: &ClusterConfig) -> (Cluster, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::connect(config, &ControlConfig::new(dir.path().join("blobs"))).await;
    (cluster.unwrap_or_else(|error| panic!("{error:?}")), dir)
}

/// A host.
pub(crate) async fn host(config: &ClusterConfig) -> HostCluster {
    HostCluster::connect(config).await.unwrap_or_else(|error| panic!("{error:?}"))
}

pub(crate) async fn fresh(pair: &'static Pair) -> Fixture {
    let (cluster, dir) = control(&pair.config("node-1")).await;
    Fixture {
        log: cluster.fabric.log,
        blobs: cluster.fabric.blobs,
        bus: cluster.fabric.bus,
        membership: cluster.fabric.membership,
        _keep: Box::new(dir),
    }
}

/// The name of a cluster that nobody else uses.
pub(crate) fn fresh_name() -> Name {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    name(&format!("test-{}", CLUSTERS.fetch_add(1, Ordering::Relaxed)))
}

/// The same, but for a wire to NATS that can be cut.
pub(crate) fn behind(config: &ClusterConfig, proxy: &Proxy) -> ClusterConfig {
    let nats = NatsConfig { urls: vec![format!("nats://{}", proxy.address())], ..config.nats.clone() };
    ClusterConfig { nats, ..config.clone() }
}

/// The same, but for a wire to etcd that can be cut.
pub(crate) fn etcd_behind(config: &ClusterConfig, proxy: &Proxy) -> ClusterConfig {
    let etcd = EtcdConfig { urls: vec![format!("http://{}", proxy.address())], ..config.etcd.clone() };
    ClusterConfig { etcd, ..config.clone() }
}
