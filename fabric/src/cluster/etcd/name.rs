//! The name of a control node: two that have the same one cannot be told apart, by operators nor by
//! each other.

use std::fs;
use std::future::Future;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use wasmill_protocol::HostId;
use wasmill_protocol::message::HostInfo;

use super::register::Claim;
use super::{Etcd, EtcdThread};
use crate::cluster::config::ClusterConfig;
use crate::cluster::error::ConnectError;
use crate::{MembershipError, ReplacedBy};

/// Between two tries to have the name.
const RETRY: Duration = Duration::from_secs(1);
/// Beyond two leases: how long a name may be somebody else's that has died with it.
const SLACK: Duration = Duration::from_secs(2);

/// The name, held or wanted until this is dropped.
pub(in crate::cluster) struct HeldName {
    cluster: String,
    node: String,
    /// The machine of the other node that has the name for good.
    other: watch::Receiver<Option<String>>,
    /// Gives the name back.
    _leave: oneshot::Sender<()>,
}

impl HeldName {
    /// Begins to hold the name of a control node. `process` tells this process from others.
    pub(in crate::cluster) async fn begin(etcd: &EtcdThread, config: &ClusterConfig, process: u64) -> Self {
        let (cluster, node) = (config.cluster.to_string(), config.member.to_string());
        let (taken, other) = watch::channel(None);
        let (leave, left) = oneshot::channel();
        let address = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
        let info = HostInfo { id: HostId::from(node.as_str()), address, process, ..HostInfo::default() };
        etcd.begin(move |etcd| hold(etcd, info, taken, left)).await;
        Self { cluster, node, other, _leave: leave }
    }

    /// Ends when another control node has the name for good.
    pub(in crate::cluster) fn taken(&self) -> impl Future<Output = ConnectError> + use<> {
        let (mut other, cluster, node) = (self.other.clone(), self.cluster.clone(), self.node.clone());
        async move {
            match other.wait_for(Option::is_some).await {
                Ok(address) => ConnectError::NameTaken { cluster, node, address: address.clone().unwrap_or_default() },
                // The thread for leases has ended, which others notice.
                Err(_) => std::future::pending().await,
            }
        }
    }
}

async fn hold(etcd: Rc<Etcd>, info: HostInfo, taken: watch::Sender<Option<String>>, mut left: oneshot::Receiver<()>) {
    let key = format!("{}/nodes/{}", etcd.prefix, info.id);
    let patience = Duration::from_secs(u64::try_from(etcd.ttl_s).unwrap_or(0)) * 2 + SLACK;
    let mut others_since = None;
    loop {
        match Rc::clone(&etcd).register(&key, "the name of this node", &info, Claim::IfFree).await {
            Ok(registration) => {
                others_since = None;
                let (lost, _) = watch::channel(false);
                let (leave, leaving) = oneshot::channel();
                let replaced_by = ReplacedBy::default();
                tokio::select! {
                    () = registration.hold(lost, &replaced_by, leaving) => {}
                    // In order: nobody else has to wait for the lease.
                    _ = &mut left => return drop(leave),
                }
            }
            Err(MembershipError::Taken { by }) => {
                let since = *others_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= patience {
                    taken.send_replace(Some(by.address));
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "cannot hold the name of this node"),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = &mut left => return,
        }
    }
}
