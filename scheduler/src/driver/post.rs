//! Carries messages to hosts, to each in its order.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use wasmill_fabric::Bus;
use wasmill_protocol::HostId;
use wasmill_scheduler_node::Post;
use wasmill_scheduler_node::post::{Action, WAITING_MAX};

use super::dispatch::{Attached, Dispatch, DispatchResult};
use crate::handle::Shared;

/// A queue for each host.
pub(super) struct Posts {
    carrier: Carrier,
    by_host: BTreeMap<HostId, mpsc::Sender<Dispatch>>,
}

/// What carries messages.
#[derive(Clone)]
struct Carrier {
    bus: Arc<dyn Bus>,
    shared: Arc<Shared>,
    results: mpsc::Sender<DispatchResult>,
}

impl Posts {
    /// Nothing waits. What hosts did not take is told to `results`.
    pub(super) fn new(bus: Arc<dyn Bus>, shared: Arc<Shared>, results: mpsc::Sender<DispatchResult>) -> Self {
        Self { carrier: Carrier { bus, shared, results }, by_host: BTreeMap::new() }
    }

    /// Sends a message after those before it to the same host.
    pub(super) fn send(&mut self, dispatch: Dispatch) {
        let host = dispatch.host();
        if !self.by_host.contains_key(host) {
            let (sender, waiting) = mpsc::channel(WAITING_MAX);
            tokio::spawn(carry(self.carrier.clone(), waiting));
            self.by_host.insert(host.clone(), sender);
        }
        if self.by_host[host].try_send(dispatch).is_err() {
            tracing::debug!("a host's queue of messages is full: the message is sent again later");
        }
    }

    /// The host is gone: what is on its way is finished, and nothing is kept for it.
    pub(super) fn forget(&mut self, host: &HostId) {
        self.by_host.remove(host);
    }
}

/// Carries the messages to one host until nobody sends any more.
async fn carry(carrier: Carrier, mut waiting: mpsc::Receiver<Dispatch>) {
    let mut post = Post::default();
    let mut sent: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut attaching: Option<BoxFuture<'static, Attached>> = None;
    let mut attached = None;
    let mut open = true;
    loop {
        for action in post.take_ready() {
            match action {
                Action::Attach(next) => {
                    let shared = Arc::clone(&carrier.shared);
                    attaching = Some(async move { Dispatch::attach(next, &shared).await }.boxed());
                }
                Action::SendAttached => sent.extend(attached.take().map(|message| carrier.send(message))),
                Action::Send(stops) => sent.push(carrier.send(stops.without_payloads())),
            }
        }
        if !open && post.is_idle() {
            return;
        }
        tokio::select! {
            biased;
            message = next_of(&mut attaching), if attaching.is_some() => {
                (attaching, attached) = (None, Some(message));
                post.attached();
            }
            Some(()) = sent.next(), if !sent.is_empty() => post.answered(),
            next = waiting.recv(), if open && post.waits() < WAITING_MAX => match next {
                None => open = false,
                Some(next) => {
                    post.decided(next);
                }
            },
        }
    }
}

async fn next_of(attaching: &mut Option<BoxFuture<'static, Attached>>) -> Attached {
    match attaching {
        Some(attaching) => attaching.await,
        None => std::future::pending().await,
    }
}

impl Carrier {
    /// Sends a message, in as many pieces as the bus needs. All have left in their order when this returns; what it returns ends when all of them are
    /// acknowledged or given up.
    fn send(&self, attached: Attached) -> BoxFuture<'static, ()> {
        let mut unanswered = Vec::new();
        for piece in attached.send(&*self.bus, self.results.clone()) {
            let mut piece = piece.boxed();
            // The first poll hands it to the bus.
            if (&mut piece).now_or_never().is_none() {
                unanswered.push(piece);
            }
        }
        join_all(unanswered).map(drop).boxed()
    }
}

#[cfg(test)]
mod tests;
