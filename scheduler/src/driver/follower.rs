//! A control node that does not lead: it folds the log as it grows, forwards what its clients ask, and waits to be elected.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wasmill_fabric::{Leadership, LogError, LogTail, Membership, Subscription};
use wasmill_protocol::LogSeq;
use wasmill_protocol::message::{Heartbeat, subjects};

use super::fold::Fold;
use super::forward::Forwarder;
use super::{DriverConfig, DriverError, Ground};
use crate::handle::{Request, Shared};

/// Requests that are taken at once.
const REQUESTS_AT_ONCE: usize = 256;
/// Heartbeats that wait at most; only the newest of each host matters.
const HEARTBEATS_WAITING_MAX: usize = 1024;
/// The wait before the log or the election is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long an elected node may take to read what is left of the log before it lets others try.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Follower<'a> {
    config: &'a DriverConfig,
    ground: &'a Ground,
    shared: &'a Arc<Shared>,
    fold: Fold,
    forwarder: Forwarder,
}

impl<'a> Follower<'a> {
    /// Follows the log from where `fold` stands.
    pub(super) fn new(config: &'a DriverConfig, ground: &'a Ground, shared: &'a Arc<Shared>, fold: Fold) -> Self {
        let forwarder = Forwarder::new(Arc::clone(&ground.bus), Arc::clone(shared));
        Self { config, ground, shared, fold, forwarder }
    }

    /// Follows until this node is elected and has read the log to its end; `None` when it is to stop.
    pub(super) async fn follow(
        mut self,
        requests: &mut mpsc::Receiver<Request>,
        published: &mut LogSeq,
        shutdown: &CancellationToken,
    ) -> Result<Option<(Fold, Leadership)>, DriverError> {
        let mut asked = Vec::new();
        let mut tail = self.ground.log.tail(self.fold.chain.last.next());
        let mut heartbeats = self.heartbeats().await;
        let campaign = campaign(Arc::clone(&self.ground.membership), self.config.node.clone());
        tokio::pin!(campaign);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                leadership = &mut campaign => {
                    if self.catch_up(&leadership, published).await? {
                        return Ok(Some((self.fold, leadership)));
                    }
                    leadership.lease.release().await;
                    campaign.set(self::campaign(Arc::clone(&self.ground.membership), self.config.node.clone()));
                    tail = self.ground.log.tail(self.fold.chain.last.next());
                }
                next = tail.next() => match next {
                    Some(Ok((seq, bytes))) => self.fold.take(seq, &bytes, self.shared, published).await?,
                    Some(Err(LogError::Unreachable { .. })) | None => tail = self.tail_later(),
                    Some(Err(error)) => return Err(error.into()),
                },
                count = requests.recv_many(&mut asked, REQUESTS_AT_ONCE) => {
                    if count == 0 { return Ok(None); }
                    asked.drain(..).for_each(|request| self.forwarder.forward(request));
                }
                heartbeat = next_heartbeat(&mut heartbeats) => match heartbeat {
                    Some(heartbeat) => self.shared.progress.heard(&heartbeat),
                    None => heartbeats = self.heartbeats().await,
                },
            }
        }
    }

    /// Reads the log to its end. Whether that could be done while the lease was held.
    async fn catch_up(&mut self, leadership: &Leadership, published: &mut LogSeq) -> Result<bool, DriverError> {
        let mut lost = leadership.lost.clone();
        let log = &*self.ground.log;
        let read = async {
            let last = log.last_seq().await?;
            self.fold.read_to(last, log, self.shared, published).await
        };
        let read = tokio::select! {
            read = tokio::time::timeout(CATCH_UP_PATIENCE, read) => read,
            _ = lost.wait_for(|lost| *lost) => return Ok(false),
        };
        match read {
            Ok(Ok(())) => Ok(true),
            Ok(Err(DriverError::Log(LogError::Unreachable { action, reason }))) => {
                tracing::warn!(%reason, "elected, but cannot {action} the log");
                tokio::time::sleep(RETRY).await;
                Ok(false)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::warn!(at = %self.fold.chain.last, "elected, but the log could not be read to its end in time");
                Ok(false)
            }
        }
    }

    /// The tail from where we are, after a while.
    fn tail_later(&self) -> LogTail {
        let (log, from) = (Arc::clone(&self.ground.log), self.fold.chain.last.next());
        stream::once(async move {
            tokio::time::sleep(RETRY).await;
            log.tail(from)
        })
        .flatten()
        .boxed()
    }

    /// Heartbeats tell how far tasks are. Without them only that is missing.
    async fn heartbeats(&self) -> Option<Subscription> {
        let heard = self.ground.bus.subscribe(subjects::HEARTBEATS, HEARTBEATS_WAITING_MAX).await;
        heard.inspect_err(|error| tracing::warn!(%error, "cannot listen to heartbeats")).ok()
    }
}

/// The next one that can be read; `None` when the subscription has ended.
async fn next_heartbeat(heartbeats: &mut Option<Subscription>) -> Option<Heartbeat> {
    let Some(subscription) = heartbeats else {
        tokio::time::sleep(RETRY).await;
        return None;
    };
    loop {
        let message = subscription.recv().await?;
        if let Ok(heartbeat) = rmp_serde::from_slice(&message.payload) {
            return Some(heartbeat);
        }
    }
}

/// Campaigns until it is won.
fn campaign(membership: Arc<dyn Membership>, node: String) -> impl Future<Output = Leadership> {
    async move {
        loop {
            match membership.campaign(&node).await {
                Ok(leadership) => return leadership,
                Err(error) => tracing::warn!(%error, "cannot take part in the election, trying again"),
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}
