//! Attempts whose module must be compiled or loaded first: they give their place back and wait
//! apart.

use wasmill_protocol::message::{Assignment, Report};
use wasmill_protocol::{AttemptId, Outcome, OutcomeKind, Payload, Usage};

use super::{HeldAttempt, HostCore, RunningAttempt};
use crate::admission::WaitingAttempt;
use crate::bounds::UNREADY_MS_MAX;
use crate::io::Ended;

impl HostCore {
    pub(super) fn handle_unready(&mut self, mut assignment: Assignment) {
        let id = assignment.id;
        if let Some(place) = self.abandoned.remove(&id) {
            self.give_up.push(id);
            return self.admission.release(&place);
        }
        let Some(HeldAttempt::Running(running)) = self.held.get(&id) else { return self.give_up.push(id) };
        let &RunningAttempt { ref place, taken: (taken_at, queue_us), compile_us, .. } = running;
        self.admission.release(place);
        self.counters.unready += 1;
        if self.is_draining() || self.unready.is_full() {
            self.give_up.push(id);
            self.counters.returned += 1;
            return self.end(Report::Returned { id });
        }
        assignment.queue_us = queue_us;
        self.held.insert(id, HeldAttempt::Unready);
        if self.unready.insert(self.now, WaitingAttempt { assignment, taken_at, compile_us }) {
            self.pulse.ask();
        }
    }

    pub(super) fn handle_readied(&mut self, id: AttemptId, compile_us: u64) {
        let Some(mut waiting) = self.take_unready(id) else { return };
        waiting.compile_us += compile_us;
        self.held.insert(id, HeldAttempt::Waiting);
        self.admission.push_again(waiting);
    }

    /// It will not be ready: the shell says why.
    pub(super) fn handle_never_ready(&mut self, ended: Ended) {
        let Ended { id, outcome, mut usage, output, captured } = ended;
        let Some(used) = self.leave_unready(id) else { return };
        usage.queue_us = used.queue_us;
        usage.compile_us += used.compile_us;
        self.counters.ended += 1;
        self.end(Report::Ended { id, outcome, usage, output, captured });
    }

    /// Ends what has been unready for too long.
    pub(super) fn end_overdue(&mut self) {
        while let Some(id) = self.unready.overdue(self.now) {
            self.give_up.push(id);
            let message = format!(
                "its module was not compiled within {} s, the longest that an attempt waits for that: the tenant has more to compile than its \
                 quota compile_ms_per_s or this host allows",
                UNREADY_MS_MAX / 1000
            );
            let outcome = Outcome::new(OutcomeKind::DeadlineExceeded, message).into();
            let (output, captured) = (Payload::Empty, Payload::Empty);
            self.handle_never_ready(Ended { id, outcome, usage: Usage::default(), output, captured });
        }
    }

    /// Takes an attempt out of the unready ones. Returns what it has used, or nothing if it is not
    /// among them.
    pub(super) fn leave_unready(&mut self, id: AttemptId) -> Option<Usage> {
        let waiting = self.take_unready(id)?;
        Some(Usage { queue_us: waiting.queue_us(self.now), compile_us: waiting.compile_us, ..Usage::default() })
    }

    /// Lets go of all that are unready, and says which they were.
    pub(super) fn give_up_unready(&mut self) -> Vec<AttemptId> {
        let unready = self.unready.remove_all();
        self.give_up.extend(&unready);
        unready
    }

    fn take_unready(&mut self, id: AttemptId) -> Option<WaitingAttempt> {
        let (waiting, hungry) = self.unready.remove(id)?;
        if hungry {
            // The leader may send more of its tenant's.
            self.pulse.ask();
        }
        Some(waiting)
    }
}
