//! Messages of the leader, and its acknowledgements.

use wasmill_protocol::message::{Assignment, HostAck, Report, StopCause, ToHost};
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind, Payload, Term, Usage};

use super::{HeldAttempt, HostCore};
use crate::admission::WaitingAttempt;
use crate::bounds::{OUTBOX_BYTES_MAX, PREFETCH_MAX};
use crate::io::{BatchNumber, ReplyTo, StopReason};

impl HostCore {
    pub(super) fn handle_message(&mut self, reply_to: ReplyTo, message: ToHost) {
        let ack = self.answer(message);
        self.acks.push((reply_to, ack));
    }

    fn answer(&mut self, message: ToHost) -> HostAck {
        if message.term < self.term {
            self.counters.stale += 1;
            return HostAck { term_seen: Some(self.term), refused: Vec::new() };
        }
        self.hear_term(message.term);
        if message.incarnation != self.incarnation || !self.leased {
            let refused: Vec<AttemptId> = message.assign.iter().map(|assignment| assignment.id).collect();
            self.counters.refused += refused.len() as u64;
            return HostAck { term_seen: None, refused };
        }
        let refused = message.assign.into_iter().filter_map(|assignment| self.assign(assignment)).collect();
        for (id, cause) in message.stop {
            self.stop(id, cause);
        }
        HostAck { term_seen: None, refused }
    }

    /// Somebody leads in this term. A new leader is told what the one before was told and has not
    /// answered, for that may have taken it along; and of our credit it knows nothing yet.
    fn hear_term(&mut self, term: Term) {
        if term > self.term {
            self.term = term;
            self.outbox.resend_all(self.now);
            self.pulse.announce();
            self.warm.tell_again();
        }
    }

    /// Takes an attempt, unless it is known or cannot be taken; then its id comes back.
    fn assign(&mut self, assignment: Assignment) -> Option<AttemptId> {
        let id = assignment.id;
        if let Some(held) = self.held.get(&id) {
            self.counters.duplicates += 1;
            if matches!(held, HeldAttempt::Ended) {
                // The leader has not heard of the end, and it is there.
                self.outbox.resend_failed(self.now);
            }
            return None;
        }
        if self.recent.contains(id) {
            self.counters.duplicates += 1;
            return None;
        }
        let in_hand = self.admission.running() + self.admission.waiting();
        let full = in_hand >= self.config.slots as usize + PREFETCH_MAX as usize;
        let too_large = !self.admission.fits_at_all(assignment.spec.limits.memory_bytes);
        if self.is_draining() || full || too_large || self.outbox.bytes() > OUTBOX_BYTES_MAX {
            self.counters.refused += 1;
            return Some(id);
        }
        self.counters.taken += 1;
        self.held.insert(id, HeldAttempt::Waiting);
        self.admission.push(WaitingAttempt { assignment, taken_at: self.now, compile_us: 0 });
        if let Some(cause) = self.stopped_early.find(id) {
            // The order to stop it has overtaken it.
            self.stop(id, cause);
        }
        None
    }

    /// The leader has asked for an attempt to stop.
    fn stop(&mut self, id: AttemptId, cause: StopCause) {
        match self.held.get_mut(&id) {
            Some(HeldAttempt::Waiting) => {
                let Some(waiting) = self.admission.remove(id) else { return };
                let usage = Usage { queue_us: waiting.queue_us(self.now), ..Usage::default() };
                self.end_unstarted(id, cause, usage);
            }
            Some(HeldAttempt::Unready) => {
                self.give_up.push(id);
                if let Some(usage) = self.leave_unready(id) {
                    self.end_unstarted(id, cause, usage);
                }
            }
            Some(HeldAttempt::Running(running)) => {
                let reason = StopReason::Asked(cause);
                if running.stop.is_none() {
                    self.stops.push((id, reason));
                }
                if running.stop.is_none_or(StopReason::hands_back) {
                    running.stop = Some(reason);
                }
            }
            // The leader learns it from the report.
            Some(HeldAttempt::Ended) => {}
            // It was here, or will come: names of attempts are never used again, so to remember it
            // for too long is harmless.
            None if self.recent.contains(id) => {}
            None => self.stopped_early.insert(id, cause),
        }
    }

    /// Ends an attempt, or hands it back, that was stopped before its guest started.
    fn end_unstarted(&mut self, id: AttemptId, cause: StopCause, usage: Usage) {
        if cause.hands_back() {
            self.counters.returned += 1;
            return self.end(Report::Returned { id });
        }
        let message = match cause {
            StopCause::Cancelled => "cancelled before it started",
            other => other.message(),
        };
        let outcome = Outcome::new(OutcomeKind::Cancelled, message).into();
        let (output, captured) = (Payload::Empty, Payload::Empty);
        self.counters.ended += 1;
        self.end(Report::Ended { id, outcome, usage, output, captured });
    }

    /// An attempt is over: from here on there is only its report.
    pub(super) fn end(&mut self, report: Report) {
        self.held.insert(report.id(), HeldAttempt::Ended);
        self.outbox.push_end(report);
    }

    pub(super) fn handle_request_failed(&mut self, number: BatchNumber) {
        self.counters.batches_failed += 1;
        self.outbox.failed(self.now, number);
    }

    pub(super) fn handle_acknowledged(&mut self, number: BatchNumber, term: Term) {
        if term < self.term {
            self.counters.stale += 1;
            return self.handle_request_failed(number);
        }
        self.acknowledge(number);
        self.hear_term(term);
    }

    fn acknowledge(&mut self, number: BatchNumber) {
        let Some(message) = self.outbox.acknowledged(number) else { return };
        for report in &message.reports {
            match report {
                Report::Ended { id, .. } | Report::Returned { id } => {
                    self.held.remove(id);
                    self.recent.insert(*id, ());
                }
                Report::Checkpoint { .. } => {}
            }
        }
        // The leader is there again: what failed while it was away need not wait any longer.
        self.outbox.resend_failed(self.now);
    }
}
