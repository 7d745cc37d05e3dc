//! Which hosts live, as etcd says. While etcd does not answer, what it said last holds.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{EventType, GetOptions, ResponseHeader, WatchOptions};
use tokio::sync::watch;
use wasmill_protocol::HostId;
use wasmill_protocol::message::HostInfo;

use super::error::{EtcdError, WatchError};
use super::register::decode;
use super::{Etcd, EtcdThread};
use crate::Reminder;
use crate::cluster::error::chain;

/// The wait before the second try to watch; doubles with each.
const RETRY: Duration = Duration::from_millis(100);
/// Where the doubling ends.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// The hosts that live; `None` until etcd has answered for the first time.
pub(in crate::cluster) type Living = Option<Arc<BTreeMap<HostId, HostInfo>>>;

impl EtcdThread {
    /// Follows the hosts until nobody reads any more.
    pub(in crate::cluster) async fn follow_hosts(&self, living: watch::Sender<Living>) {
        self.begin(move |etcd| async move {
            tokio::select! {
                () = follow(etcd, &living) => {}
                () = living.closed() => {}
            }
        })
        .await;
    }
}

/// Lists the hosts, watches them, and lists them anew whenever the watch ends: because the
/// connection was lost, etcd was restarted, or what we have not seen yet was compacted.
async fn follow(etcd: Rc<Etcd>, living: &watch::Sender<Living>) {
    let (mut failures, mut reminder) = (0, Reminder::default());
    loop {
        let Err(error) = list_and_watch(&etcd, living, &mut failures).await;
        let reason = chain(&error);
        if failures == 0 {
            reminder.is_over();
        }
        // A watch that ends once is nothing: it is begun anew.
        if failures > 0 && reminder.is_due(Instant::now(), &reason) {
            tracing::warn!("the hosts cannot be watched, trying again until it succeeds: {reason}");
        } else {
            tracing::debug!(failures, "the watch of the hosts has ended: {reason}");
        }
        tokio::time::sleep(RETRY.saturating_mul(1 << failures.min(16)).min(RETRY_MAX)).await;
        failures = failures.saturating_add(1);
    }
}

async fn list_and_watch(
    etcd: &Etcd,
    living: &watch::Sender<Living>,
    failures: &mut u32,
) -> Result<std::convert::Infallible, WatchError> {
    let prefix = etcd.hosts_prefix();
    let listed = etcd.asking.kv_client().get(prefix.clone(), Some(GetOptions::new().with_prefix())).await;
    let listed = listed.map_err(|error| etcd.failed(&prefix, error))?;
    let mut hosts: BTreeMap<HostId, HostInfo> =
        listed.kvs().iter().filter_map(decode).map(|info| (info.id.clone(), info)).collect();
    living.send_replace(Some(Arc::new(hosts.clone())));
    *failures = 0;

    let next = listed.header().map_or(0, ResponseHeader::revision) + 1;
    let options = WatchOptions::new().with_prefix().with_start_revision(next);
    let watch = etcd.waiting.watch_client().watch(prefix.clone(), Some(options)).await;
    let mut watch = watch.map_err(EtcdError::from)?;
    while let Some(changes) = watch.message().await.map_err(EtcdError::from)? {
        if let Some(revision) = super::began_before(&changes, next) {
            return Err(WatchError::Behind { revision, listed: next - 1 });
        }
        if changes.canceled() {
            return Err(WatchError::Compacted { revision: changes.compact_revision() });
        }
        for event in changes.events() {
            let Some(kv) = event.kv() else { continue };
            match (event.event_type(), decode_put(event)) {
                (EventType::Put, Some(info)) => drop(hosts.insert(info.id.clone(), info)),
                // A host that cannot be read any more is nobody.
                _ => {
                    let id = String::from_utf8_lossy(&kv.key()[prefix.len().min(kv.key().len())..]);
                    hosts.remove(&HostId::from(&*id));
                }
            }
        }
        if !changes.events().is_empty() {
            living.send_replace(Some(Arc::new(hosts.clone())));
        }
    }
    Err(WatchError::Ended)
}

fn decode_put(event: &etcd_client::Event) -> Option<HostInfo> {
    match event.event_type() {
        EventType::Put => decode(event.kv()?),
        EventType::Delete => None,
    }
}
