//! Messages to hosts that gather until the next [`Core::take_ready`].

use wasmill_protocol::message::StopCause;
use wasmill_protocol::{AttemptId, Incarnation};

use super::Core;
use crate::io::MessageOut;

/// Assignments in one message: with payloads of a usual size it stays far below what a bus carries.
const ASSIGN_PER_MESSAGE_MAX: usize = 256;
/// Attempts to stop in one message. Each is written twice, once for hosts that know no causes.
const STOP_PER_MESSAGE_MAX: usize = 2_048;

/// Messages by host.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// By the host's slot.
    outgoing: Vec<Outgoing>,
    /// Hosts for which something has gathered, each once.
    addressed: Vec<u32>,
}

#[derive(Debug, Default)]
struct Outgoing {
    is_addressed: bool,
    incarnation: Incarnation,
    greet: bool,
    /// Some of `assign` was sent before, so it may have ended meanwhile.
    assigns_again: bool,
    assign: Vec<(AttemptId, u64)>,
    stop: Vec<(AttemptId, StopCause)>,
}

impl Outbox {
    /// A message even if there is nothing to say: it tells the host who leads.
    pub(super) fn greet(&mut self, host: u32, incarnation: Incarnation) {
        self.outgoing(host, incarnation).greet = true;
    }

    /// An attempt that has just been placed.
    pub(crate) fn assign(&mut self, host: u32, incarnation: Incarnation, id: AttemptId, queue_us: u64) {
        self.outgoing(host, incarnation).assign.push((id, queue_us));
    }

    /// An attempt that was sent before.
    pub(super) fn assign_again(&mut self, host: u32, incarnation: Incarnation, id: AttemptId, queue_us: u64) {
        let outgoing = self.outgoing(host, incarnation);
        outgoing.assigns_again = true;
        outgoing.assign.push((id, queue_us));
    }

    pub(super) fn stop(&mut self, host: u32, incarnation: Incarnation, id: AttemptId, cause: StopCause) {
        self.outgoing(host, incarnation).stop.push((id, cause));
    }

    fn outgoing(&mut self, host: u32, incarnation: Incarnation) -> &mut Outgoing {
        let index = host as usize;
        if self.outgoing.len() <= index {
            self.outgoing.resize_with(index + 1, Outgoing::default);
        }
        let outgoing = &mut self.outgoing[index];
        if !outgoing.is_addressed {
            self.addressed.push(host);
        }
        if !outgoing.is_addressed || outgoing.incarnation != incarnation {
            // The gathered messages were for a life that is over.
            *outgoing = Outgoing { is_addressed: true, incarnation, ..Outgoing::default() };
        }
        outgoing
    }
}

impl Core {
    /// Makes messages of what gathered, in the order of the hosts' ids.
    pub(super) fn flush(&mut self) {
        let term = self.state.term();
        let mut addressed = std::mem::take(&mut self.outbox.addressed);
        addressed.sort_unstable_by_key(|&slot| self.hosts.at(slot).map(|host| &host.info.id));
        for slot in addressed {
            let outgoing = std::mem::take(&mut self.outbox.outgoing[slot as usize]);
            let Outgoing { incarnation, mut greet, assigns_again, mut assign, stop, .. } = outgoing;
            let Some(known) = self.hosts.at(slot).filter(|known| known.incarnation() == incarnation) else {
                continue;
            };
            if assigns_again {
                // An attempt that has ended since it gathered must not be started once more.
                assign.retain(|(id, _)| known.flights.contains_key(id));
            }
            let host = known.info.id.clone();
            let (mut assign, mut stop) = (Batches(assign), Batches(stop));
            while std::mem::take(&mut greet) || !assign.0.is_empty() || !stop.0.is_empty() {
                let (assign, stop) = (assign.take(ASSIGN_PER_MESSAGE_MAX), stop.take(STOP_PER_MESSAGE_MAX));
                self.ready.messages.push(MessageOut { host: host.clone(), incarnation, term, assign, stop });
            }
        }
    }
}

/// The items that are left to be sent.
struct Batches<T>(Vec<T>);

impl<T> Batches<T> {
    /// The first of it, up to `most`.
    fn take(&mut self, most: usize) -> Vec<T> {
        let left = self.0.split_off(most.min(self.0.len()));
        std::mem::replace(&mut self.0, left)
    }
}
