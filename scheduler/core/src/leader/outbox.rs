//! Messages to hosts that gather until the next [`Core::take_ready`].

use std::collections::BTreeMap;

use wasmill_protocol::message::StopCause;
use wasmill_protocol::{AttemptId, HostId, Incarnation};

use super::Core;
use crate::io::MessageOut;

/// Assignments in one message: with payloads of a usual size it stays far below what a bus carries.
const ASSIGN_PER_MESSAGE_MAX: usize = 256;
/// Attempts to stop in one message. Each is written twice, once for hosts that know no causes.
const STOP_PER_MESSAGE_MAX: usize = 2_048;

/// Messages by host.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    by_host: BTreeMap<HostId, Outgoing>,
}

#[derive(Debug)]
struct Outgoing {
    incarnation: Incarnation,
    greet: bool,
    assign: Vec<(AttemptId, u64)>,
    stop: Vec<(AttemptId, StopCause)>,
}

impl Outgoing {
    fn new(incarnation: Incarnation) -> Self {
        Self { incarnation, greet: false, assign: Vec::new(), stop: Vec::new() }
    }
}

impl Outbox {
    /// A message even if there is nothing to say: it tells the host who leads.
    pub(super) fn greet(&mut self, host: &HostId, incarnation: Incarnation) {
        self.outgoing(host, incarnation).greet = true;
    }

    pub(super) fn assign(&mut self, host: &HostId, incarnation: Incarnation, id: AttemptId, queue_us: u64) {
        self.outgoing(host, incarnation).assign.push((id, queue_us));
    }

    pub(crate) fn assign_all(&mut self, host: &HostId, incarnation: Incarnation, attempts: &[(AttemptId, u64)]) {
        self.outgoing(host, incarnation).assign.extend_from_slice(attempts);
    }

    pub(super) fn stop(&mut self, host: &HostId, incarnation: Incarnation, id: AttemptId, cause: StopCause) {
        self.outgoing(host, incarnation).stop.push((id, cause));
    }

    fn outgoing(&mut self, host: &HostId, incarnation: Incarnation) -> &mut Outgoing {
        if !self.by_host.contains_key(host) {
            self.by_host.insert(host.clone(), Outgoing::new(incarnation));
        }
        let outgoing = self.by_host.get_mut(host).expect("it was inserted if it was not there");
        if outgoing.incarnation != incarnation {
            // What gathered was for a life that is over.
            *outgoing = Outgoing::new(incarnation);
        }
        outgoing
    }
}

impl Core {
    /// Makes messages of what gathered.
    pub(super) fn flush(&mut self) {
        let term = self.state.term();
        for (host, outgoing) in std::mem::take(&mut self.outbox.by_host) {
            let Outgoing { incarnation, mut greet, mut assign, stop } = outgoing;
            let Some(known) = self.hosts.get(&host).filter(|known| known.incarnation() == incarnation) else {
                continue;
            };
            // An attempt that has ended since it gathered must not be started once more.
            assign.retain(|(id, _)| known.flights.contains_key(id));
            let (mut assign, mut stop) = (assign.into_iter().peekable(), stop.into_iter().peekable());
            while std::mem::take(&mut greet) || assign.peek().is_some() || stop.peek().is_some() {
                self.ready.messages.push(MessageOut {
                    host: host.clone(),
                    incarnation,
                    term,
                    assign: assign.by_ref().take(ASSIGN_PER_MESSAGE_MAX).collect(),
                    stop: stop.by_ref().take(STOP_PER_MESSAGE_MAX).collect(),
                });
            }
        }
    }
}
