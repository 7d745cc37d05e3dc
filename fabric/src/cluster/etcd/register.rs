//! A host's key, under a lease. A later life of a host is never replaced by an earlier one, and
//! whose key it is tells the process in it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, EventType, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, WatchOptions};
use tokio::sync::{oneshot, watch};
use wasmill_fabric_core::candidacy::{Config, LeaseId};
use wasmill_fabric_core::lease::{Lease, LeaseInput};
use wasmill_protocol::HostId;
use wasmill_protocol::message::HostInfo;

use super::keep_alive::{KeepAliveOutcome, KeepAlives};
use super::{Etcd, EtcdError, EtcdThread, ttl_us};
use crate::cluster::clock::{now_us, until_us};
use crate::cluster::error::chain;
use crate::{MembershipError, ReplacedBy};

/// How often a registration is tried while others change the same key.
const TRIES: u32 = 5;
/// The wait before a lost watch is begun anew.
const WATCH_AGAIN: Duration = Duration::from_millis(500);

/// A host that is known.
pub(in crate::cluster) struct Registered {
    /// Becomes true when it is known no longer.
    pub(in crate::cluster) lost: watch::Receiver<bool>,
    /// By whom, when another life has its key.
    pub(in crate::cluster) replaced_by: ReplacedBy,
    /// Dropped or used to leave; the answer comes when others can know.
    pub(in crate::cluster) leave: oneshot::Sender<oneshot::Sender<()>>,
}

/// The way to treat another process that has the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cluster) enum Claim {
    /// A later life takes its place.
    First,
    /// It keeps it.
    IfFree,
}

impl EtcdThread {
    /// Makes a host known.
    pub(in crate::cluster) async fn register(
        &self,
        host: HostInfo,
        claim: Claim,
    ) -> Result<Registered, MembershipError> {
        let (answer, answered) = oneshot::channel();
        self.begin(move |etcd| async move {
            let key = format!("{}{}", etcd.hosts_prefix(), host.id);
            let registration = match etcd.register(&key, "the host", &host, claim).await {
                Ok(registration) => registration,
                Err(error) => return drop(answer.send(Err(error))),
            };
            let (lost, receiver) = watch::channel(false);
            let (leave, leaving) = oneshot::channel();
            let replaced_by = ReplacedBy::default();
            // When nobody waits any more, `leave` is dropped with it, and that leaves.
            drop(answer.send(Ok(Registered { lost: receiver, replaced_by: Arc::clone(&replaced_by), leave })));
            registration.hold(lost, &replaced_by, leaving).await;
        })
        .await;
        answered.await.unwrap_or_else(|_| Err(failed(&EtcdError::ThreadEnded)))
    }
}

fn failed(error: &EtcdError) -> MembershipError {
    unreachable(chain(error))
}

fn unreachable(reason: String) -> MembershipError {
    MembershipError::Unreachable { action: "register the host", reason }
}

/// Why a key is not ours any more.
struct Replaced {
    reason: &'static str,
    by: Option<HostInfo>,
}

impl Replaced {
    const GONE: Self = Self { reason: "the registration is gone", by: None };

    fn by(key: &KeyValue) -> Self {
        Self { reason: "another life of the host is registered", by: decode(key) }
    }
}

pub(super) struct Registration {
    etcd: Rc<Etcd>,
    what: &'static str,
    key: String,
    id: LeaseId,
    lease: Lease,
    /// When the key was written.
    revision: i64,
}

impl Etcd {
    pub(super) fn hosts_prefix(&self) -> String {
        format!("{}/hosts/", self.prefix)
    }

    /// Writes who lives under a key, with a lease. `what` is for people.
    pub(super) async fn register(
        self: Rc<Self>,
        key: &str,
        what: &'static str,
        host: &HostInfo,
        claim: Claim,
    ) -> Result<Registration, MembershipError> {
        let asked_at_us = now_us();
        let (id, granted_us) = self.grant().await.map_err(|error| failed(&error))?;
        match self.put_host(key, host, id, claim).await {
            Ok(revision) => {
                let margin_us = Config::for_leases(ttl_us(self.ttl_s), 0).margin_us;
                let lease = Lease::new(asked_at_us, granted_us, margin_us);
                Ok(Registration { etcd: self, what, key: key.to_owned(), id, lease, revision })
            }
            Err(error) => {
                self.revoke(id).await;
                Err(error)
            }
        }
    }

    /// Writes the key unless a later life of the host is there, or one that keeps it; gives the
    /// revision.
    async fn put_host(&self, key: &str, host: &HostInfo, lease: LeaseId, claim: Claim) -> Result<i64, MembershipError> {
        let value = serde_json::to_vec(host).unwrap_or_else(|error| unreachable!("a host can be encoded: {error}"));
        let failed = |error: etcd_client::Error| failed(&self.failed(key, error));
        let mut kv = self.asking.kv_client();
        for _ in 0..TRIES {
            let found = kv.get(key, None).await.map_err(failed)?;
            let found = found.kvs().first();
            if let Some(there) = found.and_then(decode) {
                may_replace(there, host, claim)?;
            }
            let unchanged = Compare::mod_revision(key, CompareOp::Equal, found.map_or(0, KeyValue::mod_revision));
            let put = TxnOp::put(key, value.clone(), Some(PutOptions::new().with_lease(lease.0)));
            let txn = kv.txn(Txn::new().when([unchanged]).and_then([put])).await.map_err(failed)?;
            if txn.succeeded() {
                return Ok(txn.header().map_or(0, ResponseHeader::revision));
            }
        }
        Err(unreachable(format!("somebody else writes `{key}` all the time")))
    }

    /// Ends when the key is not the one that was written with this lease.
    async fn until_replaced(&self, key: &str, lease: LeaseId, mut revision: i64) -> Replaced {
        loop {
            if let Ok(replaced) = self.watch_own(key, lease, revision).await {
                return replaced;
            }
            tokio::time::sleep(WATCH_AGAIN).await;
            if let Ok(found) = self.asking.kv_client().get(key, None).await {
                match found.kvs().first() {
                    Some(found) if found.lease() == lease.0 => {}
                    Some(found) => return Replaced::by(found),
                    None => return Replaced::GONE,
                }
                revision = found.header().map_or(revision, ResponseHeader::revision);
            }
        }
    }

    /// Why the key was replaced; an error when the watch has ended.
    async fn watch_own(&self, key: &str, lease: LeaseId, revision: i64) -> Result<Replaced, etcd_client::Error> {
        let options = WatchOptions::new().with_start_revision(revision + 1);
        let mut watch = self.waiting.watch_client().watch(key, Some(options)).await?;
        while let Some(changes) = watch.message().await? {
            if changes.canceled() || super::began_before(&changes, revision + 1).is_some() {
                break;
            }
            for event in changes.events() {
                match (event.event_type(), event.kv()) {
                    (EventType::Delete, _) => return Ok(Replaced::GONE),
                    (EventType::Put, Some(put)) if put.lease() != lease.0 => return Ok(Replaced::by(put)),
                    (EventType::Put, _) => {}
                }
            }
        }
        Err(etcd_client::Error::WatchError("the watch has ended".to_owned()))
    }
}

impl Registration {
    /// Keeps the lease alive until it is lost or given back.
    pub(super) async fn hold(
        mut self,
        lost: watch::Sender<bool>,
        replaced_by: &ReplacedBy,
        mut leaving: oneshot::Receiver<oneshot::Sender<()>>,
    ) {
        let mut keep_alives = KeepAlives::default();
        let etcd = Rc::clone(&self.etcd);
        let key = self.key.clone();
        let mut replaced = std::pin::pin!(etcd.until_replaced(&key, self.id, self.revision));
        let mut input = LeaseInput::Tick;
        let reason = loop {
            self.lease.step(now_us(), input);
            let ready = self.lease.take_ready();
            if let Some(reason) = ready.lost {
                break reason.to_string();
            }
            if let Some(keep_alive) = ready.keep_alive {
                keep_alives.send(&self.etcd, self.id, keep_alive);
            }
            input = tokio::select! {
                KeepAliveOutcome { number, ttl_us } = keep_alives.outcome() => match ttl_us {
                    Some(ttl_us) => LeaseInput::KeptAlive { number, ttl_us },
                    None => LeaseInput::Failed(number),
                },
                () = until_us(self.lease.next_timeout_us()) => LeaseInput::Tick,
                Replaced { reason, by } = &mut replaced => {
                    if let Some(by) = by {
                        let _ = replaced_by.set(by);
                        self.etcd.revoke(self.id).await;
                    }
                    break reason.to_owned();
                }
                told = &mut leaving => {
                    self.etcd.revoke(self.id).await;
                    if let Ok(told) = told {
                        // The caller may have given up.
                        let _ = told.send(());
                    }
                    return;
                }
            };
        };
        tracing::warn!(key = self.key, "{} is not registered any more: {reason}", self.what);
        lost.send_replace(true);
    }
}

/// Whether a life that is registered can be replaced.
fn may_replace(there: HostInfo, host: &HostInfo, claim: Claim) -> Result<(), MembershipError> {
    let is_another = there.process != 0 && host.process != 0 && there.process != host.process;
    if is_another && (claim == Claim::IfFree || there.incarnation >= host.incarnation) {
        return Err(MembershipError::Taken { by: Box::new(there) });
    }
    if there.incarnation > host.incarnation {
        return Err(unreachable(format!("a later life of host `{}` is registered, {}", host.id, there.incarnation)));
    }
    Ok(())
}

/// The host that a key names. A key that cannot be read names no host.
pub(super) fn decode(kv: &KeyValue) -> Option<HostInfo> {
    match serde_json::from_slice::<HostInfo>(kv.value()) {
        Ok(info) if info.id != HostId::default() => Some(info),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!("cannot read the host `{}`: {error}", String::from_utf8_lossy(kv.key()));
            None
        }
    }
}
