//! Whether a leader is there: asked over the way that requests of clients take, what costs it
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wasmill_fabric::{Bus, BusError};
use wasmill_protocol::Term;
use wasmill_protocol::message::control::{self, ControlAnswer, ControlCall, ControlRequest};
use wasmill_scheduler_node::following::Presence;
use wasmill_scheduler_node::watch;

use crate::driver::dispatch::encode;

/// Asks whether a leader is there.
#[derive(Clone)]
pub(in crate::driver) struct PresenceAsker {
    bus: Arc<dyn Bus>,
    /// Its own, so that what clients have asked for can be counted.
    asker: u64,
    asked: Arc<AtomicU64>,
}

impl PresenceAsker {
    /// Asks over this bus. `asker` is what this process asks for its clients with.
    pub(in crate::driver) fn new(bus: Arc<dyn Bus>, asker: u64) -> Self {
        Self { bus, asker: asker ^ 1, asked: Arc::default() }
    }

    /// Whether the leader of a term is there. What it is asked costs it nothing.
    pub(in crate::driver) async fn presence(&self, term: Term) -> Presence {
        let timeout = Duration::from_micros(watch::LEADER.answer_us);
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let call = ControlCall { asker: self.asker, number, request: ControlRequest::Explain(Vec::new()) };
        let answer = self.bus.request(&control::commands(term), encode(&call), timeout).await;
        match answer.as_deref().map(rmp_serde::from_slice) {
            Ok(Ok(ControlAnswer::LeadershipLost)) | Err(BusError::NoSubscriber(_)) => Presence::Gone,
            // With more to do than it takes in, it is there all the same.
            Ok(_) | Err(BusError::Full(_)) => Presence::Leads,
            Err(_) => Presence::Silent,
        }
    }
}
