//! The connections of a process, kept while it is tried again to become part of its cluster: what
//! works is not begun anew because something else does not.

use std::time::{Duration, Instant};

use super::config::{ClusterConfig, ControlConfig};
use super::error::ConnectError;
use super::etcd::EtcdThread;
use super::nats::Nats;
use super::{Cluster, HostCluster};

/// For how long nobody may answer for JetStream: servers that are only being started have to find
/// each other.
const JETSTREAM_PATIENCE: Duration = Duration::from_secs(10);

/// The connections so far.
pub struct Link {
    config: ClusterConfig,
    nats: Option<Nats>,
    etcd: Option<EtcdThread>,
    /// Since when nobody has answered for JetStream.
    without_jetstream: Option<Instant>,
}

impl Link {
    /// Nothing is connected yet.
    ///
    /// # Errors
    ///
    /// When the configuration makes no sense.
    pub fn new(config: &ClusterConfig) -> Result<Self, ConnectError> {
        config.check()?;
        Ok(Self { config: config.clone(), nats: None, etcd: None, without_jetstream: None })
    }

    /// A control node's part of the cluster.
    ///
    /// # Errors
    ///
    /// As for [`Cluster::connect`].
    pub async fn control_node(&mut self, control: &ControlConfig) -> Result<Cluster, ConnectError> {
        let (nats, etcd) = self.connected().await?;
        // A large future, which is nobody else's stack.
        let opened = Box::pin(Cluster::open(nats, etcd, &self.config, control)).await;
        let Err(error @ ConnectError::NoJetStream { .. }) = opened else {
            self.without_jetstream = None;
            return opened;
        };
        let since = *self.without_jetstream.get_or_insert_with(Instant::now);
        if since.elapsed() >= JETSTREAM_PATIENCE {
            return Err(error);
        }
        let urls = self.config.nats.urls.clone();
        Err(ConnectError::Unreachable { action: "use JetStream", urls, reason: error.to_string() })
    }

    /// A host's part of the cluster.
    ///
    /// # Errors
    ///
    /// As for [`HostCluster::connect`].
    pub async fn host(&mut self) -> Result<HostCluster, ConnectError> {
        let (nats, etcd) = self.connected().await?;
        HostCluster::open(nats, etcd, &self.config)
    }

    async fn connected(&mut self) -> Result<(Nats, EtcdThread), ConnectError> {
        let nats = match &self.nats {
            Some(nats) => nats.clone(),
            None => self.nats.insert(Nats::connect(&self.config).await?).clone(),
        };
        let etcd = match &self.etcd {
            Some(etcd) => etcd.clone(),
            None => self.etcd.insert(EtcdThread::start(&self.config).await?).clone(),
        };
        Ok((nats, etcd))
    }
}
