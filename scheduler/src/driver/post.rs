//! Messages to hosts: to each they leave in the order in which they were decided.
//!
//! An assignment may have to wait until its payload is read. What is decided for the same host meanwhile waits behind it, but for cancels: a cancel leaves at
//! once, because what it is for may run, and a host remembers the cancel of an attempt that has not come yet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use wasmill_fabric::Bus;
use wasmill_protocol::HostId;

use super::dispatch::{Attached, Dispatch, DispatchResult};
use crate::handle::Shared;

/// Messages to one host that wait at most, those that wait for a payload included. The core sends again what finds no room.
const POST_WAITING_MAX: usize = 512;
/// Messages to one host that are sent and not acknowledged at most.
const POST_UNANSWERED_MAX: usize = 512;

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
            let (sender, waiting) = mpsc::channel(POST_WAITING_MAX);
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
    let mut sent: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
    let mut attaching: Option<BoxFuture<'static, Attached>> = None;
    let mut behind: VecDeque<Dispatch> = VecDeque::new();
    let mut open = true;
    loop {
        if attaching.is_none() {
            let shared = Arc::clone(&carrier.shared);
            attaching = behind.pop_front().map(|next| async move { next.attach(&shared).await }.boxed());
        }
        if !open && attaching.is_none() && sent.is_empty() {
            return;
        }
        let has_room = sent.len() < POST_UNANSWERED_MAX;
        tokio::select! {
            biased;
            attached = next_of(&mut attaching), if has_room && attaching.is_some() => {
                attaching = None;
                carrier.send(attached, &mut sent);
            }
            Some(()) = sent.next(), if !sent.is_empty() => {}
            next = waiting.recv(), if open && behind.len() < POST_WAITING_MAX => match next {
                None => open = false,
                Some(mut next) => {
                    if attaching.is_some() && let Some(cancels) = next.take_cancels() {
                        carrier.send(cancels, &mut sent);
                    }
                    behind.push_back(next);
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
    /// Sends a message, in as many pieces as the bus needs. Each has left before the next does; the acknowledgements are awaited together.
    fn send(&self, attached: Attached, sent: &mut FuturesUnordered<BoxFuture<'static, ()>>) {
        for piece in attached.send(&*self.bus, self.results.clone()) {
            let mut piece = piece.boxed();
            // The first poll hands it to the bus.
            if (&mut piece).now_or_never().is_none() {
                sent.push(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests;
