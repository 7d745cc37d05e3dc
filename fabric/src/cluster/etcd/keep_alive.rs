//! Keepalives of one lease: at most one is under way.

use std::time::Instant;

use etcd_client::{Client, Error, LeaseKeepAliveStream, LeaseKeeper};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use wasmill_fabric_core::candidacy::LeaseId;
use wasmill_fabric_core::lease::{KeepAlive, KeepAliveNumber};

use super::error::{EtcdError, KeepAliveError};
use super::{Etcd, ttl_us};
use crate::cluster::error::chain;

type Channel = (LeaseKeeper, LeaseKeepAliveStream);

/// The stream, and the keepalive under way on it.
#[derive(Default)]
pub(super) struct KeepAlives {
    channel: Option<Channel>,
    pending: Option<LocalBoxFuture<'static, (KeepAliveOutcome, Option<Channel>)>>,
}

/// The outcome of a keepalive.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepAliveOutcome {
    /// Which.
    pub(super) number: KeepAliveNumber,
    /// How long the lease lives from then on, 0 when it is gone; `None` when nothing is known.
    pub(super) ttl_us: Option<u64>,
}

impl KeepAlives {
    /// Sends one. One that is under way is given up, and its stream with it.
    pub(super) fn send(&mut self, etcd: &Etcd, lease: LeaseId, keep_alive: KeepAlive) {
        if self.pending.is_some() {
            etcd.metrics.keep_alives_failed.inc();
        }
        let channel = if keep_alive.reopen { None } else { self.channel.take() };
        let (client, metrics, number) = (etcd.waiting.clone(), etcd.metrics.clone(), keep_alive.number);
        let once = async move {
            let asked_at = Instant::now();
            match once(client, lease, channel).await {
                Ok((ttl_us, channel)) => {
                    metrics.keep_alive_seconds.observe(asked_at.elapsed().as_secs_f64());
                    (KeepAliveOutcome { number, ttl_us: Some(ttl_us) }, channel)
                }
                Err(error) => {
                    metrics.keep_alives_failed.inc();
                    tracing::debug!("cannot keep lease {:x} alive: {}", lease.0, chain(&error));
                    (KeepAliveOutcome { number, ttl_us: None }, None)
                }
            }
        };
        self.pending = Some(once.boxed_local());
    }

    /// The outcome of the one under way; never, without one.
    pub(super) async fn outcome(&mut self) -> KeepAliveOutcome {
        match &mut self.pending {
            Some(pending) => {
                let (kept, channel) = pending.await;
                (self.pending, self.channel) = (None, channel);
                kept
            }
            None => std::future::pending().await,
        }
    }
}

async fn once(
    client: Client,
    lease: LeaseId,
    channel: Option<Channel>,
) -> Result<(u64, Option<Channel>), KeepAliveError> {
    let (mut keeper, mut stream) = match channel {
        Some(channel) => channel,
        None => match client.lease_client().keep_alive(lease.0).await {
            Ok(channel) => channel,
            // The client has swallowed the answer, which was that there is no such lease.
            Err(Error::LeaseKeepAliveError(reason)) if reason == "lease not found" => return Ok((0, None)),
            Err(error) => return Err(EtcdError::from(error).into()),
        },
    };
    keeper.keep_alive().await.map_err(EtcdError::from)?;
    match stream.message().await {
        Ok(Some(answer)) => Ok((ttl_us(answer.ttl()), Some((keeper, stream)))),
        Ok(None) => Err(KeepAliveError::Ended),
        Err(error) => Err(EtcdError::from(error).into()),
    }
}
