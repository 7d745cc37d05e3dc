//! Membership on etcd.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use wasmill_protocol::message::HostInfo;

use super::error::chain;
use super::etcd::{Claim, EtcdThread, Living, Registered};
use crate::hosts::differences;
use crate::{HostEvent, HostRegistration, Leadership, Lease, Membership, MembershipError};

/// How long giving something back may take; then it ends by itself, with its lease.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Leases, an election and keys; everything happens on the thread for leases.
pub(super) struct ClusterMembership {
    etcd: EtcdThread,
    /// The seed that waits after failures are drawn with.
    seed: u64,
    living: watch::Receiver<Living>,
    /// Begins to follow the hosts, once.
    following: std::sync::Mutex<Option<watch::Sender<Living>>>,
}

impl ClusterMembership {
    pub(super) fn new(etcd: EtcdThread, seed: u64) -> Self {
        let (sender, living) = watch::channel(None);
        Self { etcd, seed, living, following: std::sync::Mutex::new(Some(sender)) }
    }
}

impl ClusterMembership {
    async fn register_as(&self, host: HostInfo, claim: Claim) -> Result<HostRegistration, MembershipError> {
        let Registered { lost, replaced_by, leave } = self.etcd.register(host, claim).await?;
        let lease = Box::new(HeldLease { end: leave, _etcd: self.etcd.clone() });
        Ok(HostRegistration { lost, replaced_by, lease })
    }
}

impl Membership for ClusterMembership {
    fn campaign(&self, node: &str) -> BoxFuture<'_, Result<Leadership, MembershipError>> {
        let node = node.to_owned();
        async move {
            let elected = self.etcd.campaign(node, self.seed).await;
            let elected = elected.map_err(|error| MembershipError::Unreachable {
                action: "stand for election",
                reason: chain(&error),
            })?;
            let lease = Box::new(HeldLease { end: elected.resign, _etcd: self.etcd.clone() });
            Ok(Leadership { term: elected.term, lost: elected.lost, lease })
        }
        .boxed()
    }

    fn register(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        self.register_as(host, Claim::First).boxed()
    }

    fn register_if_free(&self, host: HostInfo) -> BoxFuture<'_, Result<HostRegistration, MembershipError>> {
        self.register_as(host, Claim::IfFree).boxed()
    }

    fn hosts(&self) -> BoxStream<'static, HostEvent> {
        let begin = self.following.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let (etcd, living) = (self.etcd.clone(), self.living.clone());
        if let Some(sender) = begin {
            let etcd = etcd.clone();
            tokio::spawn(async move { etcd.follow_hosts(sender).await });
        }
        stream::unfold(HostFollower { living, known: None, _etcd: etcd }, |mut follower| async move {
            let events = follower.next().await?;
            Some((stream::iter(events), follower))
        })
        .flatten()
        .boxed()
    }
}

/// Tells what changed by comparing with what it told last: however slow its reader is, it keeps no
/// queue and loses nothing but lives that came and went in between.
struct HostFollower {
    living: watch::Receiver<Living>,
    known: Living,
    /// Keeps the thread.
    _etcd: EtcdThread,
}

impl HostFollower {
    async fn next(&mut self) -> Option<Vec<HostEvent>> {
        loop {
            let living = self.living.borrow_and_update().clone();
            if let Some(now) = &living {
                let events = match &self.known {
                    Some(known) => differences(known, now),
                    None => now.values().cloned().map(HostEvent::Joined).collect(),
                };
                self.known = living;
                if !events.is_empty() {
                    return Some(events);
                }
            }
            // The thread has ended, which nothing but a panic of it can bring about.
            self.living.changed().await.ok()?;
        }
    }
}

/// A seat or a registration.
struct HeldLease {
    end: oneshot::Sender<oneshot::Sender<()>>,
    /// Keeps the thread.
    _etcd: EtcdThread,
}

impl Lease for HeldLease {
    fn release(self: Box<Self>) -> BoxFuture<'static, ()> {
        async move {
            let (answer, answered) = oneshot::channel();
            if self.end.send(answer).is_ok() {
                // Later it ends by itself.
                let _ = timeout(RELEASE_TIMEOUT, answered).await;
            }
        }
        .boxed()
    }
}
